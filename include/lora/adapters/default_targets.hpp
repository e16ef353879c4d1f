// The layers that an adapter targets by default, for each model type.
#pragma once

#include <lora/core/error.hpp>
#include <lora/core/printable.hpp>

#include <algorithm>
#include <array>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace lora {

struct DefaultTargets {
  std::string_view model_type;            // `model_type` of a HuggingFace config.json
  std::array<std::string_view, 4> names;  // unused elements are empty
};

namespace detail {
template <class>
inline constexpr auto default_targets_table = std::to_array<DefaultTargets>({
    {"RefinedWeb", {"query_key_value"}},
    {"RefinedWebModel", {"query_key_value"}},
    {"bart", {"q_proj", "v_proj"}},
    {"bert", {"query", "value"}},
    {"blip-2", {"q", "v", "q_proj", "v_proj"}},
    {"bloom", {"query_key_value"}},
    {"btlm", {"c_proj", "c_attn"}},
    {"chatglm", {"query_key_value"}},
    {"codegen", {"qkv_proj"}},
    {"deberta", {"in_proj"}},
    {"deberta-v2", {"query_proj", "value_proj"}},
    {"electra", {"query", "value"}},
    {"falcon", {"query_key_value"}},
    {"gemma", {"q_proj", "v_proj"}},
    {"gemma2", {"q_proj", "v_proj"}},
    {"gemma3_text", {"q_proj", "v_proj"}},
    {"gpt2", {"c_attn"}},
    {"gpt_bigcode", {"c_attn"}},
    {"gpt_neo", {"q_proj", "v_proj"}},
    {"gpt_neox", {"query_key_value"}},
    {"gptj", {"q_proj", "v_proj"}},
    {"layoutlm", {"query", "value"}},
    {"llama", {"q_proj", "v_proj"}},
    {"llama4", {"q_proj", "v_proj"}},
    {"mistral", {"q_proj", "v_proj"}},
    {"mixtral", {"q_proj", "v_proj"}},
    {"mpt", {"Wqkv"}},
    {"mt5", {"q", "v"}},
    {"nemotron_h", {"q_proj", "k_proj", "v_proj", "o_proj"}},
    {"opt", {"q_proj", "v_proj"}},
    {"phi", {"q_proj", "v_proj", "fc1", "fc2"}},
    {"qwen2", {"q_proj", "v_proj"}},
    {"qwen3", {"q_proj", "v_proj"}},
    {"roberta", {"query", "value"}},
    {"stablelm", {"q_proj", "v_proj"}},
    {"t5", {"q", "v"}},
    {"xlm-roberta", {"query", "value"}},
});
}  // namespace detail

/// The model types with defaults, in byte order. Constant.
template <class Tag = void>
std::span<const DefaultTargets> known_default_targets() {
  return detail::default_targets_table<Tag>;
}

/// Returns the target_modules that a null LoRAConfig::target_modules stands for.
/// Throws: ConfigError for an unknown type; it lists the known ones.
/// Source: the mapping from model_type in PEFT's utils/constants.py.
template <class = void>
std::vector<std::string> default_target_modules(std::string_view model_type) {
  for (const DefaultTargets& entry : known_default_targets()) {
    if (entry.model_type != model_type) continue;
    const auto end = std::find(entry.names.begin(), entry.names.end(), std::string_view{});
    return {entry.names.begin(), end};
  }
  std::string known;
  for (const DefaultTargets& entry : known_default_targets()) {
    known += (known.empty() ? "" : ", ") + std::string(entry.model_type);
  }
  throw ConfigError("LoRAConfig: target_modules = null, and model type " + in_quotes(model_type) +
                    " has no default targets; set target_modules (known types: " + known + ")");
}

namespace detail {

/// Returns the modules that target_modules = "all-linear" stands for: every Linear and Conv1D
/// except the output layer or, for a classifier without an output layer, except its head. `modules`
/// are ModuleInfos.
/// Throws: ConfigError if there are none.
template <class Modules>
std::vector<std::string> all_linear_modules(const Modules& modules, bool classifies) {
  std::string_view head;
  const auto is_output = [](const auto& m) { return m.is_output; };
  if (classifies && std::none_of(modules.begin(), modules.end(), is_output)) {
    for (const char* name : {"classifier", "score"}) {
      const auto named = [&](const auto& m) { return m.name == name; };
      if (std::any_of(modules.begin(), modules.end(), named)) head = name;
    }
  }
  std::vector<std::string> names;
  for (const auto& m : modules) {
    const bool linear = m.type == "Linear" || m.type == "Conv1D";
    if (linear && !m.is_output && !m.name.empty() && m.name != head) names.push_back(m.name);
  }
  if (names.empty()) {
    throw ConfigError("LoRAConfig: target_modules = \"all-linear\" matches nothing: none of the " +
                      std::to_string(modules.size()) +
                      " modules is a Linear or Conv1D other than the output layer");
  }
  return names;
}

}  // namespace detail

}  // namespace lora
