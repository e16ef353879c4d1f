// Shows a run as one line for people to watch.
#pragma once

#include <lora/core/printable.hpp>
#include <lora/train/callback.hpp>

#include <algorithm>
#include <chrono>
#include <functional>
#include <optional>
#include <ostream>
#include <string>
#include <utility>

namespace lora {

/// How a line follows the previous one.
enum class LineMode {
  rewrite,  ///< replaces it, for a terminal
  append,   ///< appends it, for a file
};

/// Writes one line per log entry to a stream that the caller owns:
///   step 40/120  epoch 1.00  loss 2.3105  norm 0.53  lr 1.9e-04  1234 tok/s  left 0:42
/// An evaluation adds "  eval 2.2811" to its own line. With `rewrite`, the lines after it keep that
/// and a running evaluation shows its progress. Ignores errors of the stream. `seconds` is the
/// clock; empty stands for the steady clock.
class LiveLine : public TrainerCallback {
 public:
  explicit LiveLine(std::ostream& out, LineMode mode = LineMode::append,
                    std::function<double()> seconds = {})
      : out_(out), mode_(mode), seconds_(std::move(seconds)) {}

  void on_train_begin(const TrainerEvent& event) override {
    began_ = now();
    first_step_ = event.state.global_step;
    evaluation_.clear();
  }
  void on_evaluation_step(const TrainerEvent&, Index done, Index total) override {
    if (mode_ == LineMode::rewrite)
      show("evaluation " + std::to_string(done) + "/" + std::to_string(total));
  }
  void on_log(const TrainerEvent& event, const Json& entry) override {
    if (entry.contains("eval_loss")) {
      evaluation_ = "  eval " + fixed(entry["eval_loss"], 4);
    } else {
      const auto norm = number(entry["grad_norm"]), rate = number(entry["learning_rate"]);
      training_ = "  loss " + fixed(entry["loss"], 4) + "  norm " +
                  (norm ? number_text(*norm, 2) : "?") + "  lr " +
                  (rate ? scientific_text(*rate, 1) : "?") + "  " +
                  fixed(entry["tokens_per_second"], 0) + " tok/s";
    }
    const TrainerState& state = event.state;
    const auto done = static_cast<double>(state.global_step - first_step_);
    const auto left = static_cast<double>(state.max_steps - state.global_step);
    std::string line("step ");
    line += std::to_string(state.global_step) + "/" + std::to_string(state.max_steps) + "  epoch " +
            fixed_text(state.epoch, 2) + training_ + "  left " +
            duration_text((now() - began_) / done * left);
    line += evaluation_;
    if (state.non_finite_steps > 0) line += "  skipped " + std::to_string(state.non_finite_steps);
    show(line);
    if (mode_ == LineMode::append) evaluation_.clear();  // it stands above the next line
  }
  void on_train_end(const TrainerEvent&) override {
    if (mode_ == LineMode::rewrite && width_ > 0) out_ << '\n' << std::flush;
    width_ = 0;
  }

 private:
  static std::optional<double> number(const Json& value) {
    if (!value.is_number()) return std::nullopt;
    return value.get<double>();
  }
  static std::string fixed(const Json& value, int decimals) {
    const std::optional<double> x = number(value);
    return x ? fixed_text(*x, decimals) : "?";
  }
  double now() const {
    if (seconds_) return seconds_();
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }
  void show(const std::string& line) {
    if (mode_ == LineMode::append) {
      out_ << line << '\n' << std::flush;
      return;
    }
    // Blanks cover the rest of a longer line.
    out_ << '\r' << line << std::string(width_ > line.size() ? width_ - line.size() : 0, ' ')
         << std::flush;
    width_ = line.size();
  }

  std::ostream& out_;
  LineMode mode_;
  std::function<double()> seconds_;
  double began_ = 0;
  Index first_step_ = 0;
  std::string training_, evaluation_;
  std::size_t width_ = 0;
};

}  // namespace lora
