// What a trainer is given beside its arguments, and what it gives back.
#pragma once

#include <lora/io/file.hpp>
#include <lora/io/json.hpp>
#include <lora/optim/adamw.hpp>
#include <lora/train/run_plan.hpp>

#include <atomic>
#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace lora {

/// What is given to a Trainer beside its arguments.
template <class Model>
struct TrainerOptions {
  /// Not empty: instead of the two groups that TrainingArguments means, or LoRA+'s.
  std::vector<ParameterGroup> groups = {};
  /// Set it, from a signal's handler if you like, and the run ends after the step with a
  /// checkpoint.
  const std::atomic<bool>* stop = nullptr;
  /// Further metrics of an evaluation, by their name without "eval_".
  std::function<Json(Model&)> compute_metrics = {};
  /// An object of whatever else makes a run another (the model, the adapter, a digest of the data):
  /// a checkpoint with other facts is refused.
  Json facts = Json::object();
};

enum class StopReason { finished, callback, requested, non_finite };

struct TrainOutput {
  Index global_step = 0;
  double training_loss = 0;  ///< mean of the steps that were not skipped
  StopReason reason = StopReason::finished;
  std::filesystem::path last_checkpoint, best_checkpoint;  ///< empty: there is none
  std::vector<std::string> warnings;
};

/// The schedule that the arguments mean for a run of this plan. Throws ConfigError.
inline LRSchedule training_schedule(const TrainingArguments& arguments, const RunPlan& plan) {
  ScheduleOptions options = arguments.lr_scheduler_kwargs;
  options.num_warmup_steps = plan.warmup_steps(arguments);
  options.num_training_steps = plan.max_steps();
  if (arguments.learning_rate > 0) options.base_lr = arguments.learning_rate;
  return LRSchedule(arguments.lr_scheduler_type, options);
}

/// The optimiser that the arguments mean: with `groups`, else with LoRA+'s, else with no decay of
/// vectors. Throws ConfigError.
template <class S>
AdamW<S> training_optimizer(const TrainingArguments& arguments,
                            const std::vector<ParameterGroup>& groups = {}) {
  AdamWOptions options;
  options.lr = arguments.learning_rate;
  options.betas = {arguments.adam_beta1, arguments.adam_beta2};
  options.eps = arguments.adam_epsilon;
  options.weight_decay = arguments.weight_decay;
  if (!groups.empty()) return AdamW<S>(options, groups);
  if (!arguments.loraplus_lr_ratio) return AdamW<S>(options, {no_decay()});
  LoRAPlusOptions plus;
  plus.loraplus_weight_decay = arguments.weight_decay;
  return AdamW<S>(options, loraplus_groups(options.lr, *arguments.loraplus_lr_ratio, plus));
}

}  // namespace lora
