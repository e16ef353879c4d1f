// The options of a training run, with the names and defaults of transformers.
#pragma once

#include <lora/core/check.hpp>
#include <lora/core/code_points.hpp>
#include <lora/core/error.hpp>
#include <lora/core/printable.hpp>
#include <lora/io/json_fields.hpp>
#include <lora/optim/schedule.hpp>

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <type_traits>

namespace lora {

/// When something happens during training.
enum class IntervalStrategy { no, steps, epoch };

/// The order of a pass over the data. group_by_length: random, but examples of similar length share
/// a batch.
enum class TrainSampling { random, sequential, group_by_length };

/// The TrainingArguments of transformers, as far as they apply here. A plain value: set the fields;
/// Trainer calls validate(). Some defaults suit large data: a learning rate of 5e-5 is low for
/// LoRA, where 1e-4 to 3e-4 is usual.
struct TrainingArguments {
  std::string output_dir;  ///< the folder of the checkpoints; empty: writes none
  bool overwrite_output_dir = false;

  Index per_device_train_batch_size = 8;  ///< examples in one forward and backward pass
  Index per_device_eval_batch_size = 8;
  Index gradient_accumulation_steps = 1;  ///< passes in one step
  double num_train_epochs = 3;
  Index max_steps = -1;  ///< above 0: overrides num_train_epochs
  bool dataloader_drop_last = false;
  TrainSampling train_sampling_strategy = TrainSampling::random;

  double learning_rate = 5e-5;
  double weight_decay = 0;  ///< not for biases and the weights of norms
  double adam_beta1 = 0.9, adam_beta2 = 0.999, adam_epsilon = 1e-8;
  double max_grad_norm = 1;  ///< 0: no clipping
  std::string lr_scheduler_type = "linear";
  ScheduleOptions lr_scheduler_kwargs;      ///< except what other fields determine
  double warmup_ratio = 0;                  ///< share of all steps
  Index warmup_steps = 0;                   ///< above 0: overrides warmup_ratio
  std::optional<double> loraplus_lr_ratio;  ///< set: LoRA+ with this ratio of B's rate to A's

  IntervalStrategy logging_strategy = IntervalStrategy::steps;
  Index logging_steps = 500;
  bool logging_first_step = false;
  IntervalStrategy eval_strategy = IntervalStrategy::no;
  std::optional<Index> eval_steps;  ///< unset: logging_steps
  IntervalStrategy save_strategy = IntervalStrategy::steps;
  Index save_steps = 500;
  std::optional<Index> save_total_limit;
  bool load_best_model_at_end = false;
  std::string metric_for_best_model = "loss";  ///< an evaluation metric, with or without "eval_"
  std::optional<bool> greater_is_better;       ///< unset: true unless the name ends in "loss"

  std::uint64_t seed = 42;
  std::optional<std::uint64_t> data_seed;  ///< seed of the order of the data; unset: seed
  /// This many steps in a row with a non-finite loss or gradient end the run. Not an option of
  /// transformers.
  Index max_non_finite_steps = 10;

  /// Checks all fields.
  /// Throws: ConfigError that names the field and the value.
  void validate() const;
};

namespace detail {

/// Calls fn(name, field) for every option.
template <class Arguments, class Fn>
void for_each_argument(Arguments& a, Fn&& fn) {
  fn("output_dir", a.output_dir);
  fn("overwrite_output_dir", a.overwrite_output_dir);
  fn("per_device_train_batch_size", a.per_device_train_batch_size);
  fn("per_device_eval_batch_size", a.per_device_eval_batch_size);
  fn("gradient_accumulation_steps", a.gradient_accumulation_steps);
  fn("num_train_epochs", a.num_train_epochs);
  fn("max_steps", a.max_steps);
  fn("dataloader_drop_last", a.dataloader_drop_last);
  fn("train_sampling_strategy", a.train_sampling_strategy);
  fn("learning_rate", a.learning_rate);
  fn("weight_decay", a.weight_decay);
  fn("adam_beta1", a.adam_beta1);
  fn("adam_beta2", a.adam_beta2);
  fn("adam_epsilon", a.adam_epsilon);
  fn("max_grad_norm", a.max_grad_norm);
  fn("lr_scheduler_type", a.lr_scheduler_type);
  fn("lr_scheduler_kwargs", a.lr_scheduler_kwargs);
  fn("warmup_ratio", a.warmup_ratio);
  fn("warmup_steps", a.warmup_steps);
  fn("loraplus_lr_ratio", a.loraplus_lr_ratio);
  fn("logging_strategy", a.logging_strategy);
  fn("logging_steps", a.logging_steps);
  fn("logging_first_step", a.logging_first_step);
  fn("eval_strategy", a.eval_strategy);
  fn("eval_steps", a.eval_steps);
  fn("save_strategy", a.save_strategy);
  fn("save_steps", a.save_steps);
  fn("save_total_limit", a.save_total_limit);
  fn("load_best_model_at_end", a.load_best_model_at_end);
  fn("metric_for_best_model", a.metric_for_best_model);
  fn("greater_is_better", a.greater_is_better);
  fn("seed", a.seed);
  fn("data_seed", a.data_seed);
  fn("max_non_finite_steps", a.max_non_finite_steps);
}

/// Calls fn(name, field) for every schedule option that no other option determines.
template <class Options, class Fn>
void for_each_schedule_option(Options& o, Fn&& fn) {
  fn("num_cycles", o.num_cycles);
  fn("lr_end", o.lr_end);
  fn("power", o.power);
  fn("timescale", o.timescale);
  fn("min_lr", o.min_lr);
  fn("min_lr_rate", o.min_lr_rate);
  fn("warmup_lr_rate", o.warmup_lr_rate);
  fn("num_stable_steps", o.num_stable_steps);
  fn("num_decay_steps", o.num_decay_steps);
  fn("warmup_type", o.warmup_type);
  fn("decay_type", o.decay_type);
  fn("min_lr_ratio", o.min_lr_ratio);
}

/// Returns the names of the enumerators in order.
inline std::span<const char* const> names_of(IntervalStrategy) {
  static constexpr const char* names[] = {"no", "steps", "epoch"};
  return names;
}
inline std::span<const char* const> names_of(TrainSampling) {
  static constexpr const char* names[] = {"random", "sequential", "group_by_length"};
  return names;
}

template <class T>
struct IsOptional : std::false_type {};
template <class T>
struct IsOptional<std::optional<T>> : std::true_type {};

template <class T>
Json argument_to_json(const T& value) {
  if constexpr (IsOptional<T>::value) {
    return value ? argument_to_json(*value) : Json();
  } else if constexpr (std::is_enum_v<T>) {
    return names_of(value)[static_cast<std::size_t>(value)];
  } else if constexpr (std::is_same_v<T, ScheduleOptions>) {
    Json object = Json::object();
    for_each_schedule_option(value, [&](const char* name, const auto& field) {
      if (field) object[name] = *field;
    });
    return object;
  } else {
    return value;
  }
}

template <class T>
void read_argument(const JsonField& field, T& value) {
  if constexpr (IsOptional<T>::value) {
    value.reset();
    if (field.value().is_null()) return;
    value.emplace();
    read_argument(field, *value);
  } else if constexpr (std::is_enum_v<T>) {
    std::string known;
    const auto names = names_of(value);
    for (std::size_t i = 0; i < names.size(); ++i) {
      if (field.value() == names[i]) {
        value = static_cast<T>(i);
        return;
      }
      known += (i == 0 ? "" : ", ") + std::string(names[i]);
    }
    field.fault("one of " + known);
  } else if constexpr (std::is_same_v<T, ScheduleOptions>) {
    const JsonFields options(field.object(), field.path());
    for_each_schedule_option(value, [&](const char* name, auto& option) {
      if (options.json().contains(name)) read_argument(options.field(name), option);
    });
    options.for_each_other([&](const std::string&) { field.fault("options of schedules"); });
  } else if constexpr (std::is_same_v<T, bool>) {
    value = field.flag();
  } else if constexpr (std::is_same_v<T, std::string>) {
    value = field.text();
  } else if constexpr (std::is_integral_v<T>) {
    using Limits = std::numeric_limits<T>;
    if (!field.holds_integer<T>(Limits::min(), Limits::max()))
      field.fault(std::is_signed_v<T> ? "a whole number" : "a whole number from 0 on");
    value = field.value().get<T>();
  } else {
    value = field.number();
  }
}

/// Sets `value` from a field. Throws: ConfigError, because options are the program's, wherever they
/// are written.
template <class T>
void argument_from_json(const std::string& where, const char* name, const Json& json, T& value) {
  try {
    const std::string prefix = where + ": ";
    read_argument(JsonField(prefix, name, &json), value);
  } catch (const FormatError& error) {
    throw ConfigError(error.what());
  }
}

}  // namespace detail

/// Converts all options to JSON. Throws nothing.
inline Json arguments_json(const TrainingArguments& arguments) {
  Json json = Json::object();
  detail::for_each_argument(arguments, [&](const char* name, const auto& field) {
    json[name] = detail::argument_to_json(field);
  });
  return json;
}

/// Sets the options that `json`, an object, names; the others stay. Messages begin with `where`.
/// Throws: ConfigError for an unknown name or a value of the wrong type. Nothing is set then.
inline void set_from_json(TrainingArguments& arguments, const Json& json,
                          const std::string& where) {
  if (!json.is_object())
    throw ConfigError(where + ": is " + json.type_name() + ", expected an object");
  TrainingArguments changed = arguments;
  std::set<std::string> known;
  detail::for_each_argument(changed, [&](const char* name, auto& field) {
    known.insert(name);
    const auto found = json.find(name);
    if (found != json.end()) detail::argument_from_json(where, name, *found, field);
  });
  for (const auto& [name, value] : json.items()) {
    if (known.count(name) == 0)
      throw ConfigError(where + ": " + in_quotes(name) + " is not an option of training");
  }
  arguments = changed;
}

inline void TrainingArguments::validate() const {
  const detail::OptionCheck check{"TrainingArguments"};
  detail::for_each_argument(*this, [&](const char* name, const auto& field) {
    if constexpr (std::is_same_v<std::decay_t<decltype(field)>, std::string>) {
      if (!detail::is_utf8(field))
        check.refuse(name, in_quotes(field), "UTF-8: trainer_state.json is to hold it");
    }
  });
  check.at_least("per_device_train_batch_size", per_device_train_batch_size, 1);
  check.at_least("per_device_eval_batch_size", per_device_eval_batch_size, 1);
  check.at_least("gradient_accumulation_steps", gradient_accumulation_steps, 1);
  check.at_least("logging_steps", logging_steps, 1);
  check.at_least("eval_steps", eval_steps.value_or(1), 1);
  check.at_least("save_steps", save_steps, 1);
  check.at_least("save_total_limit", save_total_limit.value_or(1), 1);
  check.at_least("warmup_steps", warmup_steps, 0);
  check.at_least("max_non_finite_steps", max_non_finite_steps, 1);
  if (max_steps <= 0) check.within("num_train_epochs", num_train_epochs, 0, 1e6);
  check.not_negative("learning_rate", learning_rate);
  check.not_negative("weight_decay", weight_decay);
  check.not_negative("max_grad_norm", max_grad_norm);
  check.within("warmup_ratio", warmup_ratio, 0, 1);
  if (loraplus_lr_ratio) check.positive("loraplus_lr_ratio", *loraplus_lr_ratio);
  if (!load_best_model_at_end) return;
  if (eval_strategy == IntervalStrategy::no || save_strategy != eval_strategy ||
      output_dir.empty()) {
    check.refuse("load_best_model_at_end", "true",
                 "an output_dir, and an eval_strategy that is also the save_strategy");
  }
  if (save_strategy == IntervalStrategy::steps &&
      save_steps % eval_steps.value_or(logging_steps) != 0)
    check.refuse("save_steps", std::to_string(save_steps),
                 "a multiple of eval_steps, for load_best_model_at_end");
}

}  // namespace lora
