// What the steps of a run add to its counters, and the lines of its log.
#pragma once

#include <lora/core/types.hpp>
#include <lora/io/json.hpp>
#include <lora/train/trainer_state.hpp>

#include <chrono>
#include <cmath>

namespace lora {

/// What one step did.
struct StepRecord {
  double loss = 0;       ///< a mean over the labels that count
  double grad_norm = 0;  ///< before clipping; NaN where the loss is not finite
  double learning_rate = 0;
  Index labels = 0;  ///< that count
  Index tokens = 0;  ///< of the training data
  double seconds = 0;

  bool finite() const { return std::isfinite(loss) && std::isfinite(grad_norm); }
  /// Whether values and optimiser took it: otherwise they are as before.
  bool taken() const { return finite() && labels > 0; }
};

namespace detail {

/// JSON has no number that is not finite.
inline Json finite_or_null(double x) { return std::isfinite(x) ? Json(x) : Json(); }

inline double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace detail

/// The part of a log that no checkpoint keeps: speed, and the last step's numbers. A plain value.
class RunLog {
 public:
  /// Adds a step to the counters of the state, all but global_step and epoch.
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

  /// The line of the steps since the last one, which it adds to the state's history.
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
  Index tokens_ = 0;  ///< since the last line, as are the seconds
  double seconds_ = 0;
};

}  // namespace lora
