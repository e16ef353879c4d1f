// The training loop, for any model with a loss.
#pragma once

#include <lora/io/folder_lock.hpp>
#include <lora/optim/clip_grad.hpp>
#include <lora/train/callback.hpp>
#include <lora/train/checkpoint_folders.hpp>
#include <lora/train/gradient_tree.hpp>
#include <lora/train/run_log.hpp>
#include <lora/train/trainer_options.hpp>
#include <lora/train/training_checkpoint.hpp>
#include <lora/train/training_needs.hpp>
#include <lora/train/training_task.hpp>

#include <chrono>
#include <cmath>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace lora {

/// Trains a model: batches, accumulation, clipping, AdamW, schedule, evaluation, log, checkpoints.
///
///   TrainingArguments arguments;
///   arguments.output_dir = "run";
///   arguments.learning_rate = 2e-4;
///   using Example = TokenizedExample;
///   Trainer trainer(model, arguments, language_model_task<decltype(model), Example>(), examples);
///   const TrainOutput result = trainer.train(trainer.last_checkpoint());
///
/// A step's loss and gradient (see GradientTree) are the sums over the counted labels of all its
/// micro-batches, divided by their number, however the examples are distributed. The order of the
/// data, the dropout masks and the learning rate depend only on seed and step. So one seed gives
/// the same bytes for any number of threads, and a run that continues from its last checkpoint ends
/// with the bytes of an uninterrupted one. A step without a counted label, or with a non-finite
/// loss or gradient, is skipped and counted; values and optimiser stay unchanged. Differences from
/// transformers' Trainer: the division above does not need num_items_in_batch; an evaluation's loss
/// is the mean over all its labels, not of its batches; "learning_rate" is that of the step.
/// Threads: not safe to share.
template <class Model, class Example>
class Trainer {
 public:
  using S = typename Model::Scalar;
  using Task = TrainingTask<Model, Example>;

  /// Keeps a reference to the model.
  /// Throws: ConfigError for arguments out of range, a task without a loss, or an evaluation
  ///   without examples.
  Trainer(Model& model, TrainingArguments arguments, Task task, std::vector<Example> train,
          std::vector<Example> eval = {}, TrainerOptions<Model> options = {})
      : model_(model),
        arguments_((arguments.validate(), std::move(arguments))),
        task_(std::move(task)),
        train_(std::move(train)),
        eval_(std::move(eval)),
        options_(std::move(options)),
        plan_(arguments_, lengths()) {
    if (!task_.loss) throw ConfigError("Trainer: the task has no loss");
    if (arguments_.eval_strategy != IntervalStrategy::no && eval_.empty())
      throw ConfigError("Trainer: eval_strategy asks for evaluations, but there are no examples");
    training_schedule(arguments_, plan_);  // to check the arguments
    training_optimizer<S>(arguments_, options_.groups);
  }

  void add_callback(std::shared_ptr<TrainerCallback> callback) {
    callbacks_.push_back(std::move(callback));
  }
  const TrainerState& state() const { return state_; }
  const RunPlan& plan() const { return plan_; }

  /// See TrainingNeeds.
  TrainingNeeds needs() {
    TrainingNeeds needs = training_needs(model_, plan_, static_cast<Index>(train_.size()));
    const Index evaluated =
        most_evaluated_rows<Model, Example>(task_, eval_, arguments_.per_device_eval_batch_size);
    needs.activations = most_activations(model_, task_, plan_.most_tokens(), evaluated);
    return needs;
  }

  /// Returns the checkpoint of output_dir with the most steps, or an empty path.
  std::filesystem::path last_checkpoint() const {
    if (arguments_.output_dir.empty()) return {};
    const std::vector<Index> steps = checkpoint_steps(arguments_.output_dir);
    return steps.empty() ? std::filesystem::path() : path_of(steps.back());
  }

  /// Runs to the end, from the beginning or, unless the path is empty, from a checkpoint. Removes
  /// later checkpoints of output_dir.
  /// Throws: ConfigError (output_dir has checkpoints of another run; the checkpoint has another
  ///   model, data or order; too little memory; nothing is trained), IoError (such as another run
  ///   that writes to output_dir), FormatError, and what task and callbacks throw. Model and
  ///   optimiser are then as after the last step, and the checkpoints unchanged.
  TrainOutput train(const std::filesystem::path& resume_from_checkpoint = {});

  /// Evaluates the mean loss over all evaluation examples ("eval_loss"), its exponential
  /// ("eval_perplexity"), options.compute_metrics and the time taken. Non-finite numbers are null.
  /// Throws: ConfigError without examples.
  Json evaluate();

 private:
  using Clock = std::chrono::steady_clock;

  std::vector<Index> lengths() const {
    std::vector<Index> all;
    for (const Example& example : train_) all.push_back(task_.length_of(example));
    return all;
  }
  std::filesystem::path path_of(Index step) const {
    return checkpoint_path(arguments_.output_dir, step);
  }
  bool saves() const { return !arguments_.output_dir.empty(); }

  template <class Fn>
  void notify(Fn&& fn) {
    const TrainerEvent event{arguments_, state_, control_};
    for (const auto& callback : callbacks_) fn(*callback, event);
  }
  Json run_arguments() const {
    Json json = arguments_json(arguments_);
    json["data"] = std::to_string(plan_.fingerprint());
    if (!options_.facts.empty()) json["facts"] = options_.facts;
    return json;
  }

  void start(const std::filesystem::path& resume, AdamW<S>& optimizer, TrainOutput& output);
  void restore(const std::filesystem::path& resume, AdamW<S>& optimizer, TrainOutput& output);
  void take_step(AdamW<S>& optimizer, const LRSchedule& schedule);
  void after_step(AdamW<S>& optimizer);
  void log_step();
  void run_evaluation();
  void save(AdamW<S>& optimizer);
  StopReason why_stop(bool& stop) const;

  Model& model_;
  TrainingArguments arguments_;
  Task task_;
  std::vector<Example> train_, eval_;
  TrainerOptions<Model> options_;
  RunPlan plan_;
  std::vector<std::shared_ptr<TrainerCallback>> callbacks_;
  TrainerState state_;
  TrainerControl control_;
  GradientTree<S> gradients_;
  Index saved_step_ = -1;
  RunLog log_;
};

template <class Model, class Example>
TrainOutput Trainer<Model, Example>::train(const std::filesystem::path& resume) {
  TrainOutput output;
  AdamW<S> optimizer = training_optimizer<S>(arguments_, options_.groups);
  const LRSchedule schedule = training_schedule(arguments_, plan_);
  // Everything that can be rejected is rejected before anything changes.
  task_.release_memory();  // held memory is not free and would be counted twice
  gradients_ = {};
  needs().check();
  std::optional<FolderLock> lock;
  if (saves()) {
    lock.emplace(arguments_.output_dir);
    detail::check_checkpoint_folder(arguments_, resume);
  }
  start(resume, optimizer, output);
  notify([](TrainerCallback& callback, const TrainerEvent& e) { callback.on_train_begin(e); });
  if (saves()) {
    const bool goes_on = detail::resumes_in(arguments_.output_dir, resume);
    detail::remove_later_checkpoints(arguments_.output_dir, goes_on ? state_.global_step : -1);
  }
  bool stop = control_.should_training_stop;
  if (stop) output.reason = StopReason::callback;
  while (state_.global_step < plan_.max_steps() && !stop) {
    take_step(optimizer, schedule);
    after_step(optimizer);
    output.reason = why_stop(stop);
  }
  if (saves() && state_.global_step > 0 && saved_step_ != state_.global_step &&
      (arguments_.save_strategy != IntervalStrategy::no ||
       (stop && output.reason != StopReason::callback)))
    save(optimizer);
  output.global_step = state_.global_step;
  output.training_loss =
      state_.loss_steps > 0 ? state_.loss_sum / static_cast<double>(state_.loss_steps) : 0;
  output.last_checkpoint = last_checkpoint();
  if (saves() && state_.best_metric && detail::file_exists(path_of(state_.best_global_step)))
    output.best_checkpoint = path_of(state_.best_global_step);
  if (arguments_.load_best_model_at_end && !output.best_checkpoint.empty()) {
    restore_training<Model, S>(read_training_checkpoint<S>(output.best_checkpoint), model_, nullptr,
                               output.best_checkpoint.string());
  }
  notify([](TrainerCallback& callback, const TrainerEvent& e) { callback.on_train_end(e); });
  return output;
}

template <class Model, class Example>
void Trainer<Model, Example>::start(const std::filesystem::path& resume, AdamW<S>& optimizer,
                                    TrainOutput& output) {
  state_ = {};
  control_ = {};
  saved_step_ = -1;
  log_ = {};
  if (!resume.empty()) restore(resume, optimizer, output);
  state_.max_steps = plan_.max_steps();
}

template <class Model, class Example>
void Trainer<Model, Example>::restore(const std::filesystem::path& resume, AdamW<S>& optimizer,
                                      TrainOutput& output) {
  const TrainingCheckpoint<S> checkpoint = read_training_checkpoint<S>(resume);
  output.warnings = check_same_run(checkpoint.arguments, run_arguments(), resume.string());
  restore_training(checkpoint, model_, &optimizer, resume.string());
  state_ = checkpoint.state;
  saved_step_ = state_.global_step;
  for (const auto& callback : callbacks_) {
    const std::string name = callback->name();
    if (!name.empty() && state_.callbacks.contains(name))
      callback->load_state(state_.callbacks[name]);
  }
}

template <class Model, class Example>
void Trainer<Model, Example>::take_step(AdamW<S>& optimizer, const LRSchedule& schedule) {
  const Clock::time_point began = Clock::now();
  const auto batches = plan_.micro_batches(state_.global_step);
  BatchRequest request;
  for (const auto& batch : batches) {
    for (const Index i : batch)
      request.num_items += task_.counted_in(train_[static_cast<std::size_t>(i)]);
  }
  request.pass.training = true;
  request.pass.seed = mix64(stream_key(arguments_.seed, "dropout") +
                            static_cast<std::uint64_t>(state_.global_step));
  StepRecord step{.labels = request.num_items};
  std::vector<const Example*> examples;
  gradients_.sum(model_, static_cast<Index>(batches.size()), [&](Index micro_batch) {
    examples.clear();
    Index rows = 0;
    for (const Index i : batches[static_cast<std::size_t>(micro_batch)]) {
      examples.push_back(&train_[static_cast<std::size_t>(i)]);
      rows += task_.length_of(*examples.back());
    }
    if (request.num_items > 0 && std::isfinite(step.loss))
      step.loss += task_.loss(model_, examples, request).loss;
    // The masks of one large batch, however it is split.
    request.pass.first_row += rows;
  });
  optimizer.set_lr_factor(schedule.factor(state_.global_step));
  step.learning_rate = optimizer.lr();
  step.grad_norm = std::nan("");
  if (std::isfinite(step.loss)) {
    notify([](TrainerCallback& callback, const TrainerEvent& e) {
      callback.on_pre_optimizer_step(e);
    });
    step.grad_norm = arguments_.max_grad_norm > 0 ? clip_grad_norm(model_, arguments_.max_grad_norm)
                                                  : lora::grad_norm(model_);
  }
  if (step.taken()) optimizer.step(model_);
  ++state_.global_step;
  state_.epoch = plan_.epoch(state_.global_step);
  step.tokens = request.pass.first_row;
  step.seconds = detail::seconds_since(began);
  log_.add(step, state_);
}

template <class Model, class Example>
void Trainer<Model, Example>::after_step(AdamW<S>& optimizer) {
  const Index step = state_.global_step;
  const auto due = [&](IntervalStrategy strategy, Index steps) {
    return strategy == IntervalStrategy::steps   ? step % steps == 0
           : strategy == IntervalStrategy::epoch ? plan_.ends_epoch(step)
                                                 : false;
  };
  const TrainingArguments& a = arguments_;
  notify([](TrainerCallback& callback, const TrainerEvent& e) { callback.on_step_end(e); });
  if (control_.should_log || (step == 1 && a.logging_first_step) ||
      due(a.logging_strategy, a.logging_steps))
    log_step();
  if (!eval_.empty() &&
      (control_.should_evaluate || due(a.eval_strategy, a.eval_steps.value_or(a.logging_steps))))
    run_evaluation();
  if (saves() && (control_.should_save || due(a.save_strategy, a.save_steps))) save(optimizer);
  control_.should_log = control_.should_evaluate = control_.should_save = false;
}

template <class Model, class Example>
void Trainer<Model, Example>::log_step() {
  const Json entry = log_.next_line(state_);
  notify([&](TrainerCallback& callback, const TrainerEvent& e) { callback.on_log(e, entry); });
}

template <class Model, class Example>
Json Trainer<Model, Example>::evaluate() {
  if (eval_.empty()) throw ConfigError("Trainer::evaluate: there are no examples to evaluate on");
  const Clock::time_point began = Clock::now();
  task_.release_memory();  // else training's memory would stay allocated
  const Evaluation found = evaluate_task<Model, Example>(
      model_, task_, eval_, arguments_.per_device_eval_batch_size, [&](Index done, Index total) {
        notify([&](TrainerCallback& callback, const TrainerEvent& e) {
          callback.on_evaluation_step(e, done, total);
        });
      });
  task_.release_memory();
  Json metrics;
  metrics["step"] = state_.global_step;
  metrics["epoch"] = state_.epoch;
  metrics["eval_loss"] = detail::finite_or_null(found.loss);
  metrics["eval_perplexity"] = detail::finite_or_null(std::exp(found.loss));
  if (options_.compute_metrics) {
    const Json further = options_.compute_metrics(model_);
    for (const auto& [name, value] : further.items()) metrics[detail::metric_key(name)] = value;
  }
  metrics["eval_runtime"] = detail::seconds_since(began);
  metrics["eval_tokens_per_second"] =
      detail::finite_or_null(static_cast<double>(found.tokens) / detail::seconds_since(began));
  return metrics;
}

template <class Model, class Example>
void Trainer<Model, Example>::run_evaluation() {
  const Json metrics = evaluate();
  state_.log_history.push_back(metrics);
  const std::string key = detail::metric_key(arguments_.metric_for_best_model);
  if (!metrics.contains(key) && arguments_.load_best_model_at_end)
    throw ConfigError("Trainer: metric_for_best_model is " +
                      in_quotes(arguments_.metric_for_best_model) +
                      ", which no evaluation has found");
  if (metrics.contains(key) && metrics[key].is_number()) {
    const double metric = metrics[key].template get<double>();
    const bool greater = detail::greater_is_better(arguments_);
    if (!state_.best_metric || detail::is_better(metric, *state_.best_metric, greater)) {
      state_.best_metric = metric;
      state_.best_global_step = state_.global_step;
    }
  }
  notify([&](TrainerCallback& callback, const TrainerEvent& e) {
    callback.on_log(e, metrics);
    callback.on_evaluate(e, metrics);
  });
}

template <class Model, class Example>
void Trainer<Model, Example>::save(AdamW<S>& optimizer) {
  for (const auto& callback : callbacks_) {
    if (!callback->name().empty()) state_.callbacks[callback->name()] = callback->state();
  }
  const std::filesystem::path path = path_of(state_.global_step);
  try {
    write_training_checkpoint(path, model_, optimizer.state(), state_, run_arguments());
  } catch (const IoError& error) {
    const std::filesystem::path last = last_checkpoint();
    throw IoError(
        std::string(error.what()) + "; the run ends after step " +
        std::to_string(state_.global_step) +
        (last.empty() ? ", before its first checkpoint" : " and can go on from " + last.string()));
  }
  saved_step_ = state_.global_step;
  if (arguments_.save_total_limit) {
    const Index best = arguments_.load_best_model_at_end ? state_.best_global_step : -1;
    limit_checkpoints(arguments_.output_dir, *arguments_.save_total_limit, best);
  }
  notify([&](TrainerCallback& callback, const TrainerEvent& e) { callback.on_save(e, path); });
}

template <class Model, class Example>
StopReason Trainer<Model, Example>::why_stop(bool& stop) const {
  stop = true;
  if (state_.non_finite_in_row >= arguments_.max_non_finite_steps) return StopReason::non_finite;
  if (control_.should_training_stop) return StopReason::callback;
  if (options_.stop != nullptr && options_.stop->load()) {
    // The last step ends the run anyway.
    if (state_.global_step < plan_.max_steps()) return StopReason::requested;
  }
  stop = false;
  return StopReason::finished;
}

}  // namespace lora
