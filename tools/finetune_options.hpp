// Parses the options of finetune and data. One list of settings serves the command line and the
// JSON file.
#pragma once

#include "support/command_line.hpp"
#include "support/utf8.hpp"

#include <lora/io/peft/peft_config.hpp>
#include <lora/text/data/instruction_data.hpp>
#include <lora/text/data/tokenized_example.hpp>
#include <lora/train/training_arguments.hpp>
#include <lora/weights/packed_weight.hpp>

#include <array>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace tools {

using lora::Index;
using lora::Json;

enum class TaskPreset { chat, classify, summarize, code };

inline std::span<const char* const> names_of(lora::Precision) {
  static constexpr const char* names[] = {"float32", "bfloat16"};
  return names;
}
inline std::span<const char* const> names_of(lora::Orientations) {
  static const char* const names[] = {"one", "both"};
  return names;
}
inline std::span<const char* const> names_of(TaskPreset) {
  static constexpr const char* names[] = {"chat", "classify", "summarize", "code"};
  return names;
}
inline std::span<const char* const> names_of(lora::LossOn) {
  static constexpr const char* names[] = {"answers", "last_answer", "everything"};
  return names;
}
inline std::span<const char* const> names_of(lora::BadRecord) {
  static constexpr const char* names[] = {"stop", "skip"};
  return names;
}

/// All options of a run of finetune.
struct FinetuneOptions {
  std::string model, output = "results/finetune", ids, init_adapter, log;
  std::vector<std::string> data, eval_data;
  TaskPreset task = TaskPreset::chat;
  lora::Precision dtype = lora::Precision::float32;
  lora::Orientations orientations = lora::Orientations::one;
  std::string chat_template, system;
  Index max_length = 1024;
  bool packing = false;
  lora::LossOn loss_on = lora::LossOn::answers;
  double validation_share = 0.1;
  lora::BadRecord bad_record = lora::BadRecord::stop;
  std::map<std::string, std::string> fields;
  bool gradient_checkpointing = false, layer_metrics = false, merge = false, quiet = false;
  Index samples = 3, max_new_tokens = 64, threads = 0;
  std::string resume_from_checkpoint;
  std::optional<Index> early_stopping_patience;

  lora::TrainingArguments training;
  Json adapter = Json::object();  ///< fields of LoraConfig
};

namespace detail {

/// Calls fn(name, field, help) for every setting outside TrainingArguments and LoraConfig.
template <class Options, class Fn>
void for_each_setting(Options& o, Fn&& fn) {
  fn("model", o.model, "folder of the model, as transformers saves it");
  fn("data", o.data, "JSON, JSON Lines or text files to learn from");
  fn("eval_data", o.eval_data, "files to evaluate on, instead of a share of the data");
  fn("output", o.output, "folder for adapter, checkpoints, log and curves");
  fn("task", o.task, "preset of rank, targets, learning rate and length");
  fn("dtype", o.dtype, "type of the frozen weights in memory");
  fn("orientations", o.orientations,
     "packed copies of a frozen weight; both: a few per cent faster, for twice the memory");
  fn("template", o.chat_template, "chat template by name; otherwise the tokenizer's own");
  fn("system", o.system, "system message for conversations that have none");
  fn("max_length", o.max_length,
     "tokens per example; longer ones are cut; 0: as many as the model has positions");
  fn("packing", o.packing, "fill rows of max_length with several examples, kept apart");
  fn("loss_on", o.loss_on, "which text the loss counts");
  fn("validation_share", o.validation_share, "share of the data held out for evaluation");
  fn("bad_record", o.bad_record, "what to do about a record that cannot be read");
  fn("fields", o.fields, "names of the fields in the data: instruction=question,output=answer");
  fn("ids", o.ids, "safetensors with input_ids and labels, instead of --data");
  fn("init_adapter", o.init_adapter, "adapter to start from, with its configuration");
  fn("gradient_checkpointing", o.gradient_checkpointing, "less memory for 1.3 times the time");
  fn("layer_metrics", o.layer_metrics, "log each layer's gradient norm and |sBA| / |W|");
  fn("early_stopping_patience", o.early_stopping_patience, "evaluations without improvement");
  fn("resume_from_checkpoint", o.resume_from_checkpoint, "\"last\" or a checkpoint's folder");
  fn("merge", o.merge, "save the merged model as well");
  fn("samples", o.samples, "answers shown before and after");
  fn("max_new_tokens", o.max_new_tokens, "maximum tokens of such an answer");
  fn("log", o.log,
     "JSON Lines file, one line per step unless --logging-steps is given [OUTPUT/log.jsonl]");
  fn("threads", o.threads, "0: the library's choice; at most 1024");
  fn("quiet", o.quiet, "no progress");
}

template <class T>
void setting_from_json(const std::string& where, const char* name, const Json& json, T& value) {
  const auto refuse = [&](const char* expected) {
    throw lora::ConfigError(where + ": " + name + " is " + lora::printable(json.dump(), 60) +
                            ", expected " + expected);
  };
  if constexpr (std::is_same_v<T, std::vector<std::string>>) {
    if (json.is_string()) {
      value = {json.get<std::string>()};
      return;
    }
    value.clear();
    if (!json.is_array()) refuse("a string or a list of strings");
    for (const Json& one : json) {
      if (!one.is_string()) refuse("a string or a list of strings");
      value.push_back(one.get<std::string>());
    }
  } else if constexpr (std::is_same_v<T, std::map<std::string, std::string>>) {
    if (!json.is_object()) refuse("an object of strings");
    for (const auto& [key, one] : json.items()) {
      if (!one.is_string()) refuse("an object of strings");
      value[key] = one.template get<std::string>();
    }
  } else if constexpr (std::is_enum_v<T>) {
    const auto names = names_of(value);
    std::string known;
    for (std::size_t i = 0; i < names.size(); ++i) {
      if (json == names[i]) {
        value = static_cast<T>(i);
        return;
      }
      known += (i == 0 ? "one of " : ", ") + std::string(names[i]);
    }
    refuse(known.c_str());
  } else if constexpr (std::is_same_v<T, std::optional<Index>>) {
    if (json.is_null()) return value.reset();
    setting_from_json(where, name, json, value.emplace());
  } else if constexpr (std::is_same_v<T, std::string>) {
    if (!json.is_string()) refuse("a string");
    value = json.get<std::string>();
  } else if constexpr (std::is_same_v<T, bool>) {
    if (!json.is_boolean()) refuse("true or false");
    value = json.get<bool>();
  } else if constexpr (std::is_same_v<T, Index>) {
    if (!json.is_number_integer()) refuse("a whole number");
    value = json.get<Index>();
  } else {
    static_assert(std::is_same_v<T, double>);
    if (!json.is_number()) refuse("a number");
    value = json.get<double>();
  }
}

/// Splits "a,b,c" or "a=x,b=y" at the commas.
inline std::vector<std::string> comma_parts(const std::string& text) {
  std::vector<std::string> parts(1);
  for (const char ch : text) {
    if (ch == ',') {
      parts.emplace_back();
    } else {
      parts.back() += ch;
    }
  }
  return parts;
}

/// Converts the words of a command line to JSON. A word stays text if text is expected; otherwise
/// it becomes a number, true, false, null, an object or a list if it parses as one.
inline Json json_of_word(const std::string& word) {
  Json json = Json::parse(word, nullptr, false);
  return json.is_discarded() ? Json(word) : json;
}
template <class T>
Json json_of_words(const std::vector<std::string>& words, const T&) {
  if constexpr (std::is_same_v<T, std::vector<std::string>>) {
    return Json(words);
  } else if constexpr (std::is_same_v<T, std::map<std::string, std::string>>) {
    Json object = Json::object();
    for (const std::string& part : comma_parts(words.back())) {
      const std::size_t at = part.find('=');
      if (at == part.npos) throw lora::ConfigError(lora::in_quotes(part) + " is not name=column");
      object[part.substr(0, at)] = part.substr(at + 1);
    }
    return object;
  } else if constexpr (std::is_same_v<T, std::string> || std::is_enum_v<T>) {
    return Json(words.back());
  } else {
    return words.back().empty() ? Json(true) : json_of_word(words.back());
  }
}

/// Converts a field of LoraConfig from a command line. Lists are written a,b,c; a single plain name
/// becomes a list if names are expected.
inline Json json_of_lora_word(const std::string& field, const std::string& word) {
  if (word.empty()) return true;
  const bool plain = word.find_first_of("(){}[]*+?|\\^$") == std::string::npos;
  const bool names = field == "target_modules" || field == "exclude_modules" ||
                     field == "modules_to_save" || field == "layers_pattern";
  if (plain && word.find(',') != word.npos) {
    Json list = Json::array();
    for (const std::string& part : comma_parts(word))
      list.push_back(names ? Json(part) : json_of_word(part));
    return list;
  }
  if (names && plain && word != "all-linear" && word != "null") return Json{word};
  return json_of_word(word);
}

struct Preset {
  Index r;
  double lora_alpha;
  const char* target_modules;
  double learning_rate, num_train_epochs;
  Index max_length;
};
/// Presets from common practice: low learning rates and more modules for free text, fewer modules
/// and more epochs for short answers.
inline Preset preset_of(TaskPreset task) {
  switch (task) {
    case TaskPreset::classify:
      return {8, 16, "default", 3e-4, 5, 512};
    case TaskPreset::summarize:
      return {16, 32, "all-linear", 2e-4, 3, 2048};
    case TaskPreset::code:
      return {32, 64, "all-linear", 1e-4, 3, 2048};
    case TaskPreset::chat:
      break;
  }
  return {16, 32, "all-linear", 2e-4, 3, 1024};
}

/// Returns " [1024]", or an empty string if the default is not informative.
template <class T>
std::string default_text(const T& value) {
  if constexpr (std::is_enum_v<T>) {
    return std::string(" [") + names_of(value)[static_cast<std::size_t>(value)] + "]";
  } else if constexpr (std::is_same_v<T, std::string>) {
    return value.empty() ? "" : " [" + value + "]";
  } else if constexpr (std::is_same_v<T, Index> || std::is_same_v<T, double>) {
    return " [" + lora::number_text(static_cast<double>(value)) + "]";
  } else if constexpr (std::is_same_v<T, bool>) {
    return value ? " [true]" : " [false]";
  } else if constexpr (std::is_same_v<T, std::optional<Index>>) {
    return " [not set]";
  } else {
    return "";
  }
}

}  // namespace detail

/// Options by name, from a command line or a file.
class FinetuneSettings {
 public:
  /// Defines the options in `only` on `app`, or all if it is empty. A file may have all options.
  explicit FinetuneSettings(CLI::App& app, std::set<std::string> only = {})
      : only_(std::move(only)) {
    app.get_formatter()->column_width(40);
    app.add_option("--config", config_, "JSON file with options of finetune by name")
        ->option_text("FILE");
    FinetuneOptions defaults;
    apply_preset(defaults);
    // options() uses the same value if none is given.
    defaults.training.per_device_eval_batch_size = defaults.training.per_device_train_batch_size;
    detail::for_each_setting(defaults, [&](const char* name, auto& field, const char* words) {
      using T = std::remove_reference_t<decltype(field)>;
      std::string text = words;
      if constexpr (std::is_enum_v<T>) {
        std::string names;
        for (const char* one : names_of(field))
          names += (names.empty() ? ": " : ", ") + std::string(one);
        text += names;
      }
      text += detail::default_text(field);
      constexpr bool several = std::is_same_v<T, std::vector<std::string>>;
      add(app, "Run", name, text, several);
      to_json_[name] = [](const Words& given) { return detail::json_of_words(given, T{}); };
    });
    const Json training = lora::arguments_json(defaults.training);
    for (const auto& [name, value] : training.items()) {
      if (to_json_.count(name) != 0 || name == "output_dir") continue;
      training_names_.insert(name);
      add(app, "Training, as transformers' TrainingArguments", name, default_of(value), false);
      to_json_[name] = [text = value.is_string()](const Words& given) {
        return text ? Json(given.back()) : detail::json_of_words(given, 0);
      };
    }
    const Json standard = lora::peft_config_fields(lora::LoRAConfig());
    for (const lora::ConfigField& field : lora::lora_config_fields()) {
      const std::string name(field.name);
      if (to_json_.count(name) != 0) continue;
      const Json& all = defaults.adapter.contains(name) ? defaults.adapter : standard;
      add(app, "Adapter, as PEFT's LoraConfig", name,
          all.contains(name) ? default_of(all.at(name)) : "", false);
      to_json_[name] = [name](const Words& given) {
        return detail::json_of_lora_word(name, given.back());
      };
      lora_names_.insert(name);
    }
  }

  /// Combines the preset, the file and the command line; later ones override earlier ones.
  /// Throws: what the parts throw.
  FinetuneOptions options() const {
    Json all = Json::object();
    if (!config_.empty()) {
      const auto bytes = lora::read_file(config_, std::uint64_t{1} << 24);
      all = lora::parse_json(lora::as_text(bytes), config_);
      if (!all.is_object()) throw lora::ConfigError(config_ + ": expected an object");
    }
    const std::string where = config_.empty() ? "command line" : config_ + " or command line";
    for (const auto& [name, words] : given_) {
      if (!read_only_paths.contains(name)) expect_utf8(name, *words);
      if (!words->empty()) all[name] = to_json_.at(name)(*words);
    }
    FinetuneOptions options;
    const auto take = [&](const char* name, auto& field) {
      if (all.contains(name)) detail::setting_from_json(where, name, all[name], field);
    };
    take("task", options.task);
    apply_preset(options);
    detail::for_each_setting(
        options, [&](const char* name, auto& field, const char*) { take(name, field); });
    Json training = Json::object();
    for (const auto& [name, value] : all.items()) {
      if (lora_names_.count(name) != 0) {
        options.adapter[name] = value;
      } else if (to_json_.count(name) == 0) {
        throw lora::ConfigError(where + ": " + lora::in_quotes(name) + " is not an option");
      }
    }
    for (const std::string& name : training_names_) {
      if (all.contains(name)) training[name] = all[name];
    }
    set_from_json(options.training, training, where);
    if (!options.log.empty() && !all.contains("logging_steps")) options.training.logging_steps = 1;
    if (!all.contains("per_device_eval_batch_size"))
      options.training.per_device_eval_batch_size = options.training.per_device_train_batch_size;
    check_pairs(all, options);
    return options;
  }

  /// Returns the options, and checks that they are complete for a run.
  FinetuneOptions finetune_options() const {
    FinetuneOptions all = options();
    if (all.model.empty()) throw lora::ConfigError("--model is missing: the folder of a model");
    if (all.data.empty() == all.ids.empty())
      throw lora::ConfigError("expected either --data or --ids: what to learn from");
    return all;
  }

 private:
  using Words = std::vector<std::string>;

  /// Refuses options that would have no effect.
  void check_pairs(const Json& all, const FinetuneOptions& options) const {
    const auto refuse = [&](const std::string& name, const char* because) {
      if (all.contains(name)) throw lora::ConfigError(name + " has no effect: " + because);
    };
    if (!options.ids.empty()) {
      for (const char* name :
           {"per_device_train_batch_size", "train_sampling_strategy", "eval_data",
            "validation_share", "packing", "max_length", "template", "system"})
        refuse(name, "the file of --ids determines the micro-batches and their order");
    }
    if (!options.init_adapter.empty()) {
      for (const std::string& name : lora_names_)
        refuse(name, "--init-adapter brings its own configuration");
    }
    const Json type = all.contains("peft_type") ? all["peft_type"] : Json("LORA");
    if (type != "LORA")
      throw lora::ConfigError("peft_type is " + type.dump() + ", expected \"LORA\"");
    if (!(options.validation_share >= 0 && options.validation_share < 1))
      throw lora::ConfigError("validation_share is " + lora::number_text(options.validation_share) +
                              ", expected at least 0 and below 1");
    const auto at_least = [](const char* name, Index value, Index least) {
      if (value < least)
        throw lora::ConfigError(std::string(name) + " is " + std::to_string(value) +
                                ", expected at least " + std::to_string(least));
    };
    at_least("max_length", options.max_length, 0);
    at_least("samples", options.samples, 0);
    at_least("max_new_tokens", options.max_new_tokens, 1);
    if (options.threads < 0 || options.threads > lora::most_threads)
      throw lora::ConfigError("threads is " + std::to_string(options.threads) + ", expected 0 to " +
                              std::to_string(lora::most_threads));
    at_least("early_stopping_patience", options.early_stopping_patience.value_or(1), 1);
    if (options.packing && options.max_length < 2)
      throw lora::ConfigError("packing needs a max_length: how long a row is");
  }

  /// Throws unless the words are UTF-8. All options except read_only_paths end up in a JSON file,
  /// which holds only UTF-8. Failing now is better than at the first checkpoint.
  static void expect_utf8(const std::string& name, const Words& words) {
    for (const std::string& word : words) {
      if (is_utf8(word)) continue;
      throw lora::ConfigError("command line: " + name + " is " + lora::in_quotes(word) +
                              ", which is not UTF-8; adapter_config.json and trainer_state.json "
                              "cannot hold it");
    }
  }
  static inline const std::set<std::string> read_only_paths = {
      "data", "eval_data", "ids", "init_adapter", "log", "resume_from_checkpoint"};

  static void apply_preset(FinetuneOptions& options) {
    const detail::Preset preset = detail::preset_of(options.task);
    options.adapter["r"] = preset.r;
    options.adapter["lora_alpha"] = preset.lora_alpha;
    options.adapter["lora_dropout"] = 0.05;
    if (preset.target_modules != std::string("default"))
      options.adapter["target_modules"] = preset.target_modules;
    options.training.learning_rate = preset.learning_rate;
    options.training.num_train_epochs = preset.num_train_epochs;
    options.training.lr_scheduler_type = "cosine";
    options.training.warmup_ratio = 0.03;
    options.training.per_device_train_batch_size = 4;
    options.training.gradient_accumulation_steps = 4;
    options.training.logging_steps = 10;
    options.max_length = preset.max_length;
  }

  static std::string default_of(const Json& value) {
    if (value.is_null()) return "[not set]";
    return "[" + (value.is_string() ? value.get<std::string>() : value.dump()) + "]";
  }

  /// Adds --learning-rate for learning_rate. A value may be omitted and is then true.
  void add(CLI::App& app, const char* group, const std::string& name, const std::string& words,
           bool several) {
    if (!only_.empty() && only_.count(name) == 0) return;
    std::string dashed = name;
    std::replace(dashed.begin(), dashed.end(), '_', '-');
    auto& given = given_.emplace_back(name, std::make_shared<Words>()).second;
    CLI::Option* option = app.add_option("--" + dashed, *given, words);
    option->group(group)->type_name("")->option_text(" ");
    if (several) {
      option->expected(1, 1 << 16);
    } else {
      option->expected(0, 1)->allow_extra_args(false)->multi_option_policy(
          CLI::MultiOptionPolicy::TakeLast);
    }
  }

  std::set<std::string> only_;
  std::string config_;
  std::vector<std::pair<std::string, std::shared_ptr<Words>>> given_;
  std::map<std::string, std::function<Json(const Words&)>> to_json_;
  std::set<std::string> training_names_, lora_names_;
};

}  // namespace tools
