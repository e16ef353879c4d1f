// The configuration of an adapter: every field of PEFT's LoraConfig with PEFT's name and default,
// and the check that this library supports the values set.
#pragma once

#include <lora/adapters/config_values.hpp>
#include <lora/core/error.hpp>
#include <lora/core/half.hpp>
#include <lora/core/on_use.hpp>
#include <lora/core/printable.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora {

/// Computes s = alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA (Kalajdzievski 2023).
/// Requires r >= 1.
template <class = void>
double scaling(double alpha, Index r, bool use_rslora) {
  return alpha / (use_rslora ? std::sqrt(static_cast<double>(r)) : static_cast<double>(r));
}

/// How this library treats a field of the configuration.
enum class FieldSupport {
  supported,  // means what it means in PEFT
  refused,    // validate() throws unless it has its default
  inert       // kept, but affects no computation, in PEFT too or only through a refused field
};
struct ConfigField {
  std::string_view name;
  FieldSupport support;
  std::string_view standard;  // the default, as JSON
};

/// Every field of LoRAConfig in order of declaration, for documentation and tests. Constant.
template <class = void>
std::span<const ConfigField> lora_config_fields();

/// PEFT's LoraConfig (src/peft/tuners/lora/config.py) with PeftConfig, of version 0.21.2. A plain
/// value: set the fields, then validate(). A field that this library does not interpret holds its
/// JSON text, or std::nullopt for null.
template <class Tag = void>
struct BasicLoRAConfig {
  using String = OnUse<std::string, Tag>;

  String peft_type = "LORA";
  std::optional<String> task_type;
  std::optional<String> base_model_name_or_path, revision;
  bool inference_mode = false;         // freezes the adapter; PEFT writes true to every file
  std::optional<String> auto_mapping;  // JSON
  std::optional<String> peft_version;

  Index r = 8;
  // A list: names, or ends of names after a dot. A string: a regular expression, or "all-linear".
  OnUse<NameSelection, Tag> target_modules;
  OnUse<NameSelection, Tag> exclude_modules;  // the same syntax; overrides target_modules
  double lora_alpha = 8;
  double lora_dropout = 0;      // probability of dropping an element of the adapter's input
  bool fan_in_fan_out = false;  // the base weight is stored (D, O), as in GPT-2's Conv1D
  String bias = "none";         // "none", "all", "lora_only": which biases of the base are trained
  bool use_rslora = false;
  std::optional<std::vector<String>> modules_to_save;  // trained and saved as a whole
  OnUse<InitSelection, Tag> init_lora_weights = true;
  OnUse<LayerSelection, Tag> layers_to_transform;
  OnUse<NameSelection, Tag> layers_pattern;  // regular expressions for the name of the layer list
  std::vector<std::pair<String, Index>> rank_pattern;  // the first matching key wins
  std::vector<std::pair<String, double>> alpha_pattern;
  std::optional<String> megatron_config;  // JSON
  std::optional<String> megatron_core = "megatron.core";
  std::optional<String> trainable_token_indices;  // JSON
  std::optional<String> loftq_config;             // JSON; null and {} are the default
  std::optional<String> eva_config, corda_config, lora_ga_config;  // JSON
  bool use_dora = false;  // trains a length for each output; see DoRA
  std::optional<String> velora_config, kasa_config, monteclora_config;      // JSON
  std::optional<String> alora_invocation_tokens, arrow_config, use_bdlora;  // JSON
  bool use_qalora = false;
  Index qalora_group_size = 16;
  std::optional<String> layer_replication;  // JSON
  std::optional<String> runtime_config;     // JSON; never written to files
  bool lora_bias = false;                   // a bias on B
  std::optional<std::vector<String>> target_parameters;
  bool ensure_weight_tying = false;

  /// Checks that every field is in range and supported, in O(n log n) for lists of n elements.
  /// Throws: ConfigError that names the field and the value.
  void validate() const;

  /// Returns modules_to_save plus the heads that PEFT adds for the task: "classifier" and "score"
  /// for SEQ_CLS and TOKEN_CLS, "qa_outputs" for QUESTION_ANS. Each name occurs once.
  /// Source: PEFT's peft_model.py.
  std::vector<String> effective_modules_to_save() const;

 private:
  void validate_refused() const;
  void validate_numbers() const;
  void validate_names() const;
  void validate_layers() const;
  void validate_initialisation() const;
};
using LoRAConfig = BasicLoRAConfig<>;

namespace detail {

/// A member that this library does not interpret, held as JSON text.
template <class Text>
struct JsonText {
  Text& text;
};

/// Calls visit(ConfigField, member) for every field of LoRAConfig. Validation, JSON, documentation
/// and tests all use this list.
template <class Config, class Visit>
void visit_lora_config(Config& c, Visit&& visit) {
  using enum FieldSupport;
  const auto json = [](auto& text) {
    return JsonText<std::remove_reference_t<decltype(text)>>{text};
  };
  visit(ConfigField{"peft_type", supported, "\"LORA\""}, c.peft_type);
  visit(ConfigField{"task_type", supported, "null"}, c.task_type);
  visit(ConfigField{"base_model_name_or_path", inert, "null"}, c.base_model_name_or_path);
  visit(ConfigField{"revision", inert, "null"}, c.revision);
  visit(ConfigField{"inference_mode", supported, "false"}, c.inference_mode);
  visit(ConfigField{"auto_mapping", inert, "null"}, json(c.auto_mapping));
  visit(ConfigField{"peft_version", inert, "null"}, c.peft_version);
  visit(ConfigField{"r", supported, "8"}, c.r);
  visit(ConfigField{"target_modules", supported, "null"}, c.target_modules);
  visit(ConfigField{"exclude_modules", supported, "null"}, c.exclude_modules);
  visit(ConfigField{"lora_alpha", supported, "8"}, c.lora_alpha);
  visit(ConfigField{"lora_dropout", supported, "0.0"}, c.lora_dropout);
  visit(ConfigField{"fan_in_fan_out", supported, "false"}, c.fan_in_fan_out);
  visit(ConfigField{"bias", supported, "\"none\""}, c.bias);
  visit(ConfigField{"use_rslora", supported, "false"}, c.use_rslora);
  visit(ConfigField{"modules_to_save", supported, "null"}, c.modules_to_save);
  visit(ConfigField{"init_lora_weights", supported, "true"}, c.init_lora_weights);
  visit(ConfigField{"layers_to_transform", supported, "null"}, c.layers_to_transform);
  visit(ConfigField{"layers_pattern", supported, "null"}, c.layers_pattern);
  visit(ConfigField{"rank_pattern", supported, "{}"}, c.rank_pattern);
  visit(ConfigField{"alpha_pattern", supported, "{}"}, c.alpha_pattern);
  visit(ConfigField{"megatron_config", refused, "null"}, json(c.megatron_config));
  visit(ConfigField{"megatron_core", inert, "\"megatron.core\""}, c.megatron_core);
  visit(ConfigField{"trainable_token_indices", refused, "null"}, json(c.trainable_token_indices));
  visit(ConfigField{"loftq_config", refused, "{}"}, json(c.loftq_config));
  visit(ConfigField{"eva_config", refused, "null"}, json(c.eva_config));
  visit(ConfigField{"corda_config", refused, "null"}, json(c.corda_config));
  visit(ConfigField{"lora_ga_config", refused, "null"}, json(c.lora_ga_config));
  visit(ConfigField{"use_dora", supported, "false"}, c.use_dora);
  visit(ConfigField{"velora_config", refused, "null"}, json(c.velora_config));
  visit(ConfigField{"kasa_config", refused, "null"}, json(c.kasa_config));
  visit(ConfigField{"monteclora_config", refused, "null"}, json(c.monteclora_config));
  visit(ConfigField{"alora_invocation_tokens", refused, "null"}, json(c.alora_invocation_tokens));
  visit(ConfigField{"arrow_config", refused, "null"}, json(c.arrow_config));
  visit(ConfigField{"use_bdlora", refused, "null"}, json(c.use_bdlora));
  visit(ConfigField{"use_qalora", refused, "false"}, c.use_qalora);
  visit(ConfigField{"qalora_group_size", inert, "16"}, c.qalora_group_size);
  visit(ConfigField{"layer_replication", refused, "null"}, json(c.layer_replication));
  visit(ConfigField{"runtime_config", refused, "{\"ephemeral_gpu_offload\": false}"},
        json(c.runtime_config));
  visit(ConfigField{"lora_bias", supported, "false"}, c.lora_bias);
  visit(ConfigField{"target_parameters", refused, "null"}, c.target_parameters);
  visit(ConfigField{"ensure_weight_tying", refused, "false"}, c.ensure_weight_tying);
}

template <class = void>
std::string without_spaces(std::string_view json) {
  std::string bare(json);
  std::erase_if(bare, [](char c) { return c == ' ' || c == '\n' || c == '\t'; });
  return bare;
}

template <class = void>
[[noreturn]] void bad_field(std::string_view field, const std::string& value,
                            const std::string& expected) {
  throw ConfigError("LoRAConfig: " + std::string(field) + " = " + value +
                    " is not valid; expected " + expected);
}

}  // namespace detail

template <class Tag>
std::span<const ConfigField> lora_config_fields() {
  static const std::vector<ConfigField> fields = [] {
    std::vector<ConfigField> all;
    BasicLoRAConfig<Tag> config;
    detail::visit_lora_config(config,
                              [&](const ConfigField& field, auto&&) { all.push_back(field); });
    return all;
  }();
  return fields;
}

template <class Tag>
void BasicLoRAConfig<Tag>::validate() const {
  validate_refused();
  validate_numbers();
  validate_names();
  validate_layers();
  validate_initialisation();
}

template <class Tag>
auto BasicLoRAConfig<Tag>::effective_modules_to_save() const -> std::vector<String> {
  std::vector<String> names;
  std::set<String> seen;
  const auto add = [&](const String& name) {
    if (seen.insert(name).second) names.push_back(name);
  };
  for (const String& name : modules_to_save.value_or(std::vector<String>{})) add(name);
  if (task_type == "SEQ_CLS" || task_type == "TOKEN_CLS") add("classifier"), add("score");
  if (task_type == "QUESTION_ANS") add("qa_outputs");
  return names;
}

template <class Tag>
void BasicLoRAConfig<Tag>::validate_refused() const {
  const auto refuse = [](const ConfigField& field, std::string_view value) {
    throw ConfigError("LoRAConfig: " + std::string(field.name) + " = " + printable(value, 80) +
                      " is not supported; leave it at its default, " + std::string(field.standard));
  };
  detail::visit_lora_config(
      *this, [&]<class Member>(const ConfigField& field, const Member& member) {
        if (field.support != FieldSupport::refused) return;
        if constexpr (std::is_same_v<Member, bool>) {
          if (member) refuse(field, "true");
        } else if constexpr (requires { member.text; }) {
          if (!member.text) return;
          const String value = detail::without_spaces(*member.text);
          if (value != "null" && value != detail::without_spaces(field.standard))
            refuse(field, *member.text);
        } else if constexpr (std::is_same_v<Member, std::optional<std::vector<String>>>) {
          if (member && !member->empty())
            refuse(field, "[" + in_quotes(member->front()) + ", ...]");
        }
      });
  if (peft_type != "LORA")
    refuse({"peft_type", FieldSupport::refused, "\"LORA\""}, in_quotes(peft_type));
}

template <class Tag>
void BasicLoRAConfig<Tag>::validate_numbers() const {
  using detail::bad_field;
  constexpr Index most = 1 << 20;  // keeps products with layer sizes far from overflow
  if (r < 1 || r > most)
    bad_field("r", std::to_string(r), "a rank from 1 to " + std::to_string(most));
  const char* in_float32 = "a number that is finite in float32";
  if (!fits_float32(lora_alpha)) bad_field("lora_alpha", number_text(lora_alpha), in_float32);
  if (use_dora && lora_bias)
    bad_field("lora_bias", "true with use_dora = true", "one of the two to be false");
  if (!(lora_dropout >= 0 && lora_dropout < 1)) {
    bad_field("lora_dropout", number_text(lora_dropout), "a probability in [0, 1)");
  }
  const auto key_check = [](const char* field, const auto& entries) {
    std::vector<OnUse<std::string_view, Tag>> keys;
    for (const auto& [key, value] : entries) {
      if (key.empty()) bad_field(field, "an empty key", "a module name or regular expression");
      keys.push_back(key);
    }
    std::sort(keys.begin(), keys.end());
    const auto twice = std::adjacent_find(keys.begin(), keys.end());
    if (twice != keys.end()) bad_field(field, in_quotes(*twice) + " twice", "each key once");
  };
  key_check("rank_pattern", rank_pattern);
  key_check("alpha_pattern", alpha_pattern);
  for (const auto& [key, rank] : rank_pattern) {
    if (rank < 1 || rank > most) {
      bad_field("rank_pattern[" + in_quotes(key) + "]", std::to_string(rank),
                "a rank from 1 to " + std::to_string(most));
    }
  }
  for (const auto& [key, alpha] : alpha_pattern) {
    if (!fits_float32(alpha))
      bad_field("alpha_pattern[" + in_quotes(key) + "]", number_text(alpha), in_float32);
  }
}

template <class Tag>
void BasicLoRAConfig<Tag>::validate_names() const {
  using detail::bad_field;
  const auto no_empty_name = [](const char* field, const std::vector<String>& names) {
    if (std::find(names.begin(), names.end(), "") != names.end())
      bad_field(field, "a list with an empty string", "module names");
  };
  const auto selection = [&](const char* field, const NameSelection& names) {
    if (names.list()) no_empty_name(field, *names.list());
  };
  if (target_modules.pattern() && target_modules.pattern()->empty()) {
    bad_field("target_modules", "\"\"", "a list of names, a regular expression or \"all-linear\"");
  }
  if (target_modules.list() && target_modules.list()->empty()) {
    bad_field("target_modules", "[]",
              "at least one name (null takes the defaults of the model's type)");
  }
  selection("target_modules", target_modules);
  selection("exclude_modules", exclude_modules);
  selection("layers_pattern", layers_pattern);
  if (modules_to_save) no_empty_name("modules_to_save", *modules_to_save);
  if (bias != "none" && bias != "all" && bias != "lora_only") {
    bad_field("bias", in_quotes(bias), "\"none\", \"all\" or \"lora_only\"");
  }
  constexpr std::string_view tasks[] = {"SEQ_CLS",   "SEQ_2_SEQ_LM", "CAUSAL_LM",
                                        "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION"};
  if (task_type && std::find(std::begin(tasks), std::end(tasks), *task_type) == std::end(tasks)) {
    bad_field(
        "task_type", in_quotes(*task_type),
        "null, SEQ_CLS, SEQ_2_SEQ_LM, CAUSAL_LM, TOKEN_CLS, QUESTION_ANS or FEATURE_EXTRACTION");
  }
}

template <class Tag>
void BasicLoRAConfig<Tag>::validate_layers() const {
  using detail::bad_field;
  for (const Index layer : layers_to_transform.indices()) {
    if (layer < 0) bad_field("layers_to_transform", std::to_string(layer), "layer indices from 0");
  }
  const bool pattern_given = (layers_pattern.pattern() && !layers_pattern.pattern()->empty()) ||
                             (layers_pattern.list() && !layers_pattern.list()->empty());
  if (target_modules.pattern() && !layers_to_transform.is_null()) {
    bad_field("layers_to_transform",
              "a value with the string target_modules = " + in_quotes(*target_modules.pattern()),
              "null, or target_modules as a list");
  }
  if (target_modules.pattern() && !layers_pattern.is_null()) {
    bad_field("layers_pattern",
              "a value with the string target_modules = " + in_quotes(*target_modules.pattern()),
              "null, or target_modules as a list");
  }
  if (pattern_given && layers_to_transform.indices().empty()) {
    bad_field("layers_pattern", "a value without layers_to_transform",
              "layers_to_transform to be set too");
  }
}

template <class Tag>
void BasicLoRAConfig<Tag>::validate_initialisation() const {
  const String* name = init_lora_weights.name();
  if (name == nullptr) return;
  const bool orthogonal = *name == "orthogonal";
  if (*name != "gaussian" && !orthogonal) {
    throw ConfigError(
        "LoRAConfig: init_lora_weights = " + in_quotes(*name) +
        " is not supported; supported are true, false, \"gaussian\" and \"orthogonal\"");
  }
  if (lora_bias) {
    detail::bad_field("lora_bias", "true with init_lora_weights = " + in_quotes(*name),
                      "init_lora_weights true or false");
  }
  if (!orthogonal) return;
  const auto even = [](const String& field, Index rank) {
    if (rank % 2 != 0)
      detail::bad_field(field, std::to_string(rank),
                        "an even rank for init_lora_weights = \"orthogonal\"");
  };
  even("r", r);
  for (const auto& [key, rank] : rank_pattern) even("rank_pattern[" + in_quotes(key) + "]", rank);
}

}  // namespace lora
