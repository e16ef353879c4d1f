// Callbacks, which observe and steer a training run.
#pragma once

#include <lora/train/trainer_state.hpp>
#include <lora/train/training_arguments.hpp>

#include <cmath>
#include <filesystem>
#include <string>
#include <utility>

namespace lora {

/// What a callback may request. The loop acts on it after the step and clears it.
struct TrainerControl {
  bool should_log = false, should_evaluate = false, should_save = false;
  bool should_training_stop = false;  ///< is not cleared
};

/// The argument of every callback.
struct TrainerEvent {
  const TrainingArguments& arguments;
  const TrainerState& state;
  TrainerControl& control;
};

/// The base class of callbacks. They are called at the events of a run, in the order in which they
/// were added. An exception of a callback ends the run and passes through Trainer::train.
/// Source: TrainerCallback of transformers.
class TrainerCallback {
 public:
  TrainerCallback() = default;
  TrainerCallback(const TrainerCallback&) = delete;
  TrainerCallback& operator=(const TrainerCallback&) = delete;
  virtual ~TrainerCallback() = default;

  /// Is also called when a run is resumed, with the restored state.
  virtual void on_train_begin(const TrainerEvent&) {}
  /// Is called when the gradients of the step are complete, before they are clipped and used.
  virtual void on_pre_optimizer_step(const TrainerEvent&) {}
  virtual void on_step_end(const TrainerEvent&) {}
  /// Is called after every batch of an evaluation, to show progress: `done` of `total` batches.
  virtual void on_evaluation_step(const TrainerEvent&, Index /*done*/, Index /*total*/) {}
  /// Is called with an entry of the log: "loss" and others, or "eval_loss" of an evaluation.
  virtual void on_log(const TrainerEvent&, const Json& /*entry*/) {}
  virtual void on_evaluate(const TrainerEvent&, const Json& /*metrics*/) {}
  virtual void on_save(const TrainerEvent&, const std::filesystem::path& /*checkpoint*/) {}
  virtual void on_train_end(const TrainerEvent&) {}

  /// Returns the name under which state() is kept, or "" to keep nothing.
  virtual std::string name() const { return {}; }
  /// Returns what a checkpoint must keep so that a resumed run continues like an uninterrupted one.
  virtual Json state() const { return nullptr; }
  /// Restores state().
  /// Throws: FormatError for an invalid value.
  virtual void load_state(const Json&) {}
};

namespace detail {

/// Whether `metric` is better than `best` by more than `threshold`.
inline bool is_better(double metric, double best, bool greater, double threshold = 0) {
  return (greater ? metric - best : best - metric) > threshold;
}
/// "loss" and "eval_loss" are the same metric.
inline std::string metric_key(const std::string& name) {
  return name.starts_with("eval_") ? name : "eval_" + name;
}
inline bool greater_is_better(const TrainingArguments& arguments) {
  return arguments.greater_is_better.value_or(!arguments.metric_for_best_model.ends_with("loss"));
}

}  // namespace detail

/// Ends the run when metric_for_best_model has not improved by more than `threshold` for `patience`
/// evaluations in a row.
/// Source: EarlyStoppingCallback of transformers, which needs load_best_model_at_end; this class
///   does not.
class EarlyStoppingCallback : public TrainerCallback {
 public:
  /// Throws: ConfigError unless patience ≥ 1 and threshold ≥ 0.
  explicit EarlyStoppingCallback(Index early_stopping_patience = 1,
                                 double early_stopping_threshold = 0)
      : patience_(early_stopping_patience), threshold_(early_stopping_threshold) {
    if (patience_ < 1)
      throw ConfigError("EarlyStoppingCallback: early_stopping_patience is " +
                        std::to_string(patience_) + ", expected at least 1");
    if (!(threshold_ >= 0 && std::isfinite(threshold_)))
      throw ConfigError("EarlyStoppingCallback: early_stopping_threshold is " +
                        number_text(threshold_) + ", expected a finite number >= 0");
  }

  /// Throws: ConfigError if there is no evaluation.
  void on_train_begin(const TrainerEvent& event) override {
    if (event.state.global_step == 0) {
      waited_ = 0;
      best_.reset();
    }
    // A run that this callback has ended does not continue when it is resumed.
    if (waited_ >= patience_) event.control.should_training_stop = true;
    if (event.arguments.eval_strategy != IntervalStrategy::no) return;
    throw ConfigError(
        "EarlyStoppingCallback: eval_strategy is no, expected steps or epoch: it stops by what "
        "evaluations find");
  }
  /// Throws: ConfigError if the evaluation has no such metric.
  void on_evaluate(const TrainerEvent& event, const Json& metrics) override {
    const std::string key = detail::metric_key(event.arguments.metric_for_best_model);
    if (!metrics.contains(key))
      throw ConfigError("EarlyStoppingCallback: the evaluation has no " + in_quotes(key));
    // A non-finite loss is null in the log and never counts as better.
    const bool finite = metrics[key].is_number();
    const double metric = finite ? metrics[key].get<double>() : 0;
    const bool greater = detail::greater_is_better(event.arguments);
    if (finite && (!best_ || detail::is_better(metric, *best_, greater, threshold_))) {
      best_ = metric;
      waited_ = 0;
    } else if (++waited_ >= patience_) {
      event.control.should_training_stop = true;
    }
  }

  std::string name() const override { return "EarlyStoppingCallback"; }
  Json state() const override {
    Json json;
    json["waited"] = waited_;
    json["best"] = nullptr;
    if (best_) json["best"] = *best_;
    return json;
  }
  void load_state(const Json& json) override {
    if (!json.is_object() || !json.contains("waited") || !json["waited"].is_number_integer() ||
        json["waited"].get<std::uint64_t>() > std::uint64_t{1} << 53 || !json.contains("best") ||
        !(json["best"].is_number() || json["best"].is_null()))
      throw FormatError("EarlyStoppingCallback: the state is " + printable(json.dump(), 80) +
                        ", expected waited, 0 to 2^53, and best");
    waited_ = json["waited"].get<Index>();
    best_.reset();
    if (json["best"].is_number()) best_ = json["best"].get<double>();
  }

 private:
  Index patience_;
  double threshold_;
  std::optional<double> best_;
  Index waited_ = 0;
};

}  // namespace lora
