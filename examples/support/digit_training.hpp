// Trains a digit network: lora::Trainer with its own task.
#pragma once

#include "digit_network.hpp"

#include <lora/train/live_line.hpp>
#include <lora/train/trainer.hpp>

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace examples {

struct TrainingPlan {
  std::string name = {};  ///< what is trained, for messages
  Index steps = 0;
  Index batch_size = 64;
  /// The peak: linear warmup over a tenth of the steps, then cosine decay.
  double learning_rate = 1e-3;
  double max_norm = 1.0;   ///< gradients are clipped to this norm
  std::uint64_t seed = 0;  ///< of the order of images and of dropout
  Index record_every = 1;
  bool quiet = false;  ///< no live line on standard error
};

/// The state after a step: the mean loss since the previous record, and the gradient norm before
/// clipping. NaN before the first step.
struct StepState {
  Index step = 0;
  double loss = std::nan(""), gradient_norm = std::nan(""), learning_rate = 0;
};

/// Makes the task of a Trainer. An example is the number of an image in `set`, which must outlive
/// the task. `Model` is a network or a LoRAModel around one.
template <class Model>
lora::TrainingTask<Model, Index> digit_task(const DigitSet& set) {
  struct Memory {
    lora::Matrix<float> images, logits, dlogits;
    std::vector<std::int64_t> labels;
    Network::Tape tape;
  };
  lora::TrainingTask<Model, Index> task;
  task.loss = [&set, memory = std::make_shared<Memory>()](
                  Model& model, std::span<const Index* const> batch,
                  const lora::BatchRequest& request) -> lora::BatchLoss {
    auto& [images, logits, dlogits, labels, tape] = *memory;
    const auto rows = static_cast<Index>(batch.size());
    images.resize(rows, set.images.cols());
    labels.clear();
    for (Index i = 0; i < rows; ++i) {
      const Index n = *batch[static_cast<std::size_t>(i)];
      images.row(i) = set.images.row(n);
      labels.push_back(set.labels[static_cast<std::size_t>(n)]);
    }
    Network& network = [&]() -> Network& {
      if constexpr (requires { model.base(); }) {
        return model.base();
      } else {
        return model;
      }
    }();
    logits.resize(rows, network.out_features());
    dlogits.resize(rows, network.out_features());
    network.forward(images, logits, &tape, request.pass);
    const auto result =
        lora::cross_entropy<float>(logits, labels, dlogits, {.num_items = request.num_items});
    if (request.gradient) network.backward(images, dlogits, tape);
    return {static_cast<double>(result.loss), result.counted};
  };
  return task;
}

/// Calls `watch` with the state of a run: before the first step, at each line of the log, and after
/// the last step. Records how long the steps took.
class StepWatcher : public lora::TrainerCallback {
 public:
  StepWatcher(std::function<void(const StepState&)> watch, Index batch_size)
      : watch_(std::move(watch)), batch_size_(static_cast<double>(batch_size)) {}

  void on_train_begin(const lora::TrainerEvent&) override { watch_({}); }
  void on_step_end(const lora::TrainerEvent& event) override {
    if (event.state.global_step == event.state.max_steps) event.control.should_log = true;
  }
  void on_log(const lora::TrainerEvent& event, const lora::Json& entry) override {
    const auto number = [&](const char* name) {
      return entry[name].is_number() ? entry[name].get<double>() : std::nan("");
    };
    const double speed = number("tokens_per_second");  // images are this model's tokens
    if (speed > 0) milliseconds_.push_back(1000 * batch_size_ / speed);
    watch_({event.state.global_step, number("loss"), number("grad_norm"), number("learning_rate")});
  }

  /// Returns the median time per step over the lines of the log; 0 without lines.
  double milliseconds() {
    if (milliseconds_.empty()) return 0;
    const auto middle =
        milliseconds_.begin() + static_cast<std::ptrdiff_t>(milliseconds_.size() / 2);
    std::nth_element(milliseconds_.begin(), middle, milliseconds_.end());
    return *middle;
  }

 private:
  std::function<void(const StepState&)> watch_;
  double batch_size_;
  std::vector<double> milliseconds_;
};

/// Trains the trainable tensors of `model` with AdamW on cross entropy. Every epoch uses all images
/// in a new order, except a last incomplete batch. Calls `watch` with the state before the first
/// step, after every record_every-th and after the last. Returns the median time per step in
/// milliseconds, without the time in `watch`.
/// Throws: lora::Error if loss or gradient is not finite.
template <class Model>
double train(Model& model, const DigitSet& set, const TrainingPlan& plan,
             const std::function<void(const StepState&)>& watch) {
  lora::TrainingArguments arguments;
  arguments.per_device_train_batch_size = std::min(plan.batch_size, set.size());
  arguments.dataloader_drop_last = true;
  arguments.max_steps = plan.steps;
  arguments.learning_rate = plan.learning_rate;
  arguments.lr_scheduler_type = "cosine";
  arguments.warmup_steps = plan.steps / 10;
  arguments.weight_decay = 0.01;
  arguments.max_grad_norm = plan.max_norm;
  arguments.logging_steps = plan.record_every;
  arguments.max_non_finite_steps = 1;
  arguments.seed = plan.seed;
  std::vector<Index> numbers(static_cast<std::size_t>(set.size()));
  std::iota(numbers.begin(), numbers.end(), Index{0});
  lora::Trainer<Model, Index> trainer(model, arguments, digit_task<Model>(set), numbers);
  const auto watcher = std::make_shared<StepWatcher>(watch, arguments.per_device_train_batch_size);
  trainer.add_callback(watcher);
  if (!plan.quiet) {
    trainer.add_callback(std::make_shared<lora::LiveLine>(
        std::cerr, isatty(STDERR_FILENO) != 0 ? lora::LineMode::rewrite : lora::LineMode::append));
  }
  const lora::TrainOutput output = trainer.train();
  if (output.reason == lora::StopReason::non_finite) {
    throw lora::Error(plan.name + ": at step " + std::to_string(output.global_step) +
                      " loss or gradient is no longer finite; a lower learning rate may help");
  }
  return watcher->milliseconds();
}

}  // namespace examples
