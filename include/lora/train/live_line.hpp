// A run as one line that a person watches.
#pragma once

#include <lora/core/printable.hpp>
#include <lora/train/callback.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <ostream>
#include <string>
#include <utility>

namespace LORA_NAMESPACE {

/// How a line follows the one before it.
enum class LineMode {
  rewrite,  ///< takes its place, for a terminal
  append,   ///< stands below it, for a file
};

/// Writes a line a log entry to a stream that the caller owns:
///   step 40/120  epoch 1.00  loss 2.3105  norm 0.53  lr 1.9e-04  1234 tok/s  left 0:42  eval
/// 2.2811 and, while an evaluation runs, how far it is. A stream that fails is left alone.
/// `seconds`: the clock; empty is the steady one.
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
      evaluation_ = "  eval " + number(entry["eval_loss"], "%.4f");
    } else {
      training_ = "  loss " + number(entry["loss"], "%.4f") + "  norm " +
                  number(entry["grad_norm"], "%.2g") + "  lr " +
                  number(entry["learning_rate"], "%.1e") + "  " +
                  number(entry["tokens_per_second"], "%.0f") + " tok/s";
    }
    const TrainerState& state = event.state;
    const auto done = static_cast<double>(state.global_step - first_step_);
    const auto left = static_cast<double>(state.max_steps - state.global_step);
    char place[96];
    std::snprintf(place, sizeof place, "step %td/%td  epoch %.2f", state.global_step,
                  state.max_steps, state.epoch);
    std::string line =
        place + training_ + "  left " + duration_text((now() - began_) / done * left);
    line += evaluation_;
    if (state.non_finite_steps > 0) line += "  skipped " + std::to_string(state.non_finite_steps);
    show(line);
  }
  void on_train_end(const TrainerEvent&) override {
    if (mode_ == LineMode::rewrite && width_ > 0) out_ << '\n' << std::flush;
    width_ = 0;
  }

 private:
  static std::string number(const Json& value, const char* format) {
    if (!value.is_number()) return "?";
    char text[48];
    std::snprintf(text, sizeof text, format, value.get<double>());
    return text;
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
    // Blanks over what a longer line has left.
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

}  // namespace LORA_NAMESPACE
