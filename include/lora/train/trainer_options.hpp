// The options of a trainer besides its arguments, and its result.
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

/// The options of a Trainer besides its arguments.
template <class Model>
struct TrainerOptions {
  /// If not empty, replaces the two groups of TrainingArguments or those of LoRA+.
  std::vector<ParameterGroup> groups = {};
  /// Set it, for instance from a signal handler, to end the run with a checkpoint after the current
  /// step.
  const std::atomic<bool>* stop = nullptr;
  /// Computes additional metrics of an evaluation, by name without "eval_".
  std::function<Json(Model&)> compute_metrics = {};
  /// An object of further facts that identify a run (the model, the adapter, a digest of the data).
  /// A checkpoint with other facts is rejected.
  Json facts = Json::object();
};

enum class StopReason { finished, callback, requested, non_finite };

struct TrainOutput {
  Index global_step = 0;
  double training_loss = 0;  ///< mean of the steps that were not skipped
  StopReason reason = StopReason::finished;
  std::filesystem::path last_checkpoint, best_checkpoint;  ///< empty: none
  std::vector<std::string> warnings;
};

/// Creates the schedule that the arguments describe for a run of this plan.
/// Throws: ConfigError.
inline LRSchedule training_schedule(const TrainingArguments& arguments, const RunPlan& plan) {
  ScheduleOptions options = arguments.lr_scheduler_kwargs;
  options.num_warmup_steps = plan.warmup_steps(arguments);
  options.num_training_steps = plan.max_steps();
  if (arguments.learning_rate > 0) options.base_lr = arguments.learning_rate;
  return LRSchedule(arguments.lr_scheduler_type, options);
}

/// Creates the optimiser that the arguments describe: with `groups`, else with the groups of LoRA+,
/// else with no decay of vectors.
/// Throws: ConfigError.
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
