// What may look at a training run and steer it.
#pragma once

#include <lora/train/trainer_state.hpp>
#include <lora/train/training_arguments.hpp>

#include <cmath>
#include <filesystem>
#include <string>
#include <utility>

namespace lora {

/// What a callback may ask for; the loop does it after the step and clears it.
struct TrainerControl {
  bool should_log = false, should_evaluate = false, should_save = false;
  bool should_training_stop = false;  ///< stays
};

/// What a callback is given.
struct TrainerEvent {
  const TrainingArguments& arguments;
  const TrainerState& state;
  TrainerControl& control;
};

/// Base of what is called at the events of a run, in the order in which the callbacks were added.
/// What one throws ends the run and passes through Trainer::train. Source: transformers'
/// TrainerCallback.
class TrainerCallback {
 public:
  TrainerCallback() = default;
  TrainerCallback(const TrainerCallback&) = delete;
  TrainerCallback& operator=(const TrainerCallback&) = delete;
  virtual ~TrainerCallback() = default;

  /// Also when a run is resumed, with the state that it goes on from.
  virtual void on_train_begin(const TrainerEvent&) {}
  /// The gradients of the step are complete, and neither clipped nor used.
  virtual void on_pre_optimizer_step(const TrainerEvent&) {}
  virtual void on_step_end(const TrainerEvent&) {}
  /// After every part of an evaluation, for those who show progress: `done` of `total` batches.
  virtual void on_evaluation_step(const TrainerEvent&, Index /*done*/, Index /*total*/) {}
  /// A line of the log: "loss" and its like, or an evaluation's "eval_loss".
  virtual void on_log(const TrainerEvent&, const Json& /*entry*/) {}
  virtual void on_evaluate(const TrainerEvent&, const Json& /*metrics*/) {}
  virtual void on_save(const TrainerEvent&, const std::filesystem::path& /*checkpoint*/) {}
  virtual void on_train_end(const TrainerEvent&) {}

  /// Under which name state() is kept; empty: nothing is.
  virtual std::string name() const { return {}; }
  /// What a checkpoint must keep so that a resumed run goes on as an uninterrupted one.
  virtual Json state() const { return nullptr; }
  /// Takes state() back. Throws FormatError when it is not.
  virtual void load_state(const Json&) {}
};

namespace detail {

/// Whether `metric` is better than `best` by more than `threshold`.
inline bool is_better(double metric, double best, bool greater, double threshold = 0) {
  return (greater ? metric - best : best - metric) > threshold;
}
/// "loss" and "eval_loss" are one metric.
inline std::string metric_key(const std::string& name) {
  return name.starts_with("eval_") ? name : "eval_" + name;
}
inline bool greater_is_better(const TrainingArguments& arguments) {
  return arguments.greater_is_better.value_or(!arguments.metric_for_best_model.ends_with("loss"));
}

}  // namespace detail

/// Ends the run when metric_for_best_model has not become better by more than `threshold` in so
/// many evaluations in a row. Source: transformers' EarlyStoppingCallback, which needs
/// load_best_model_at_end; this does not.
class EarlyStoppingCallback : public TrainerCallback {
 public:
  /// Throws ConfigError unless patience ≥ 1 and threshold ≥ 0.
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

  /// Throws ConfigError when there is no evaluation, or none with that metric.
  void on_train_begin(const TrainerEvent& event) override {
    if (event.state.global_step == 0) {
      waited_ = 0;
      best_.reset();
    }
    // A run that it has ended does not go on when it is resumed.
    if (waited_ >= patience_) event.control.should_training_stop = true;
    if (event.arguments.eval_strategy != IntervalStrategy::no) return;
    throw ConfigError(
        "EarlyStoppingCallback: eval_strategy is no, expected steps or epoch: it stops by what "
        "evaluations find");
  }
  void on_evaluate(const TrainerEvent& event, const Json& metrics) override {
    const std::string key = detail::metric_key(event.arguments.metric_for_best_model);
    if (!metrics.contains(key))
      throw ConfigError("EarlyStoppingCallback: the evaluation has no " + in_quotes(key));
    // A loss that is not finite is null in the log, and no better than any.
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
