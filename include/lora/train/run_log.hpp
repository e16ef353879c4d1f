// Adds the steps of a run to its counters and formats the lines of its log.
#pragma once

#include <lora/core/types.hpp>
#include <lora/io/json.hpp>
#include <lora/train/trainer_state.hpp>

#include <chrono>
#include <cmath>

namespace lora {

/// The results of one step.
struct StepRecord {
  double loss = 0;       ///< mean over the labels that are not ignored
  double grad_norm = 0;  ///< before clipping; NaN if the loss is not finite
  double learning_rate = 0;
  Index labels = 0;  ///< labels that are not ignored
  Index tokens = 0;  ///< tokens of the training data
  double seconds = 0;

  bool finite() const { return std::isfinite(loss) && std::isfinite(grad_norm); }
  /// Whether the step changed the values and the optimiser; if not, both are as before.
  bool taken() const { return finite() && labels > 0; }
};

namespace detail {

/// Returns x, or null if it is not finite, because JSON has no such numbers.
inline Json finite_or_null(double x) { return std::isfinite(x) ? Json(x) : Json(); }

inline double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace detail

/// The part of a log that checkpoints do not keep: the speed, and the numbers of the last step. A
/// plain value.
class RunLog {
 public:
  /// Adds a step to the counters of the state, except global_step and epoch.
  void add(const StepRecord& step, TrainerState& state) {
    if (step.taken()) {
      state.loss_sum += step.loss;
      state.unlogged_loss_sum += step.loss;
      ++state.loss_steps;
      ++state.unlogged_loss_steps;
    }
    state.non_finite_in_row = step.finite() ? 0 : state.non_finite_in_row + 1;
    state.non_finite_steps += step.finite() ? 0 : 1;
    state.num_input_tokens_seen += step.tokens;
    tokens_ += step.tokens;
    seconds_ += step.seconds;
    last_ = step;
  }

  /// Returns the line for the steps since the last one, and appends it to the state's history.
  Json next_line(TrainerState& state) {
    Json line;
    line["step"] = state.global_step;
    line["epoch"] = state.epoch;
    line["loss"] = nullptr;
    if (state.unlogged_loss_steps > 0)
      line["loss"] = state.unlogged_loss_sum / static_cast<double>(state.unlogged_loss_steps);
    line["grad_norm"] = detail::finite_or_null(last_.grad_norm);
    line["learning_rate"] = last_.learning_rate;
    line["tokens_per_second"] = detail::finite_or_null(static_cast<double>(tokens_) / seconds_);
    if (state.non_finite_steps > 0) line["non_finite_steps"] = state.non_finite_steps;
    state.unlogged_loss_sum = 0;
    state.unlogged_loss_steps = 0;
    tokens_ = 0;
    seconds_ = 0;
    state.log_history.push_back(line);
    return line;
  }

 private:
  StepRecord last_;
  Index tokens_ = 0;  ///< counted since the last line, as are seconds_
  double seconds_ = 0;
};

}  // namespace lora
