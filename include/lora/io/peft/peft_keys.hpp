// What the keys of PEFT's files begin with, and which of them are copies of the base's weights.
#pragma once

#include <lora/adapters/config.hpp>
#include <lora/core/printable.hpp>

#include <optional>
#include <string>
#include <string_view>

namespace lora {

/// PeftModel and LoraModel, which stand around the base, put this before the base's own names.
inline constexpr std::string_view peft_prefix = "base_model.model.";

/// The key as a model without PEFT has it; one that lacks the prefix stays.
constexpr std::string_view without_peft_prefix(std::string_view key) {
  return key.starts_with(peft_prefix) ? key.substr(peft_prefix.size()) : key;
}

/// A key that still holds the name of its adapter, as a model's state_dict has it, taken apart.
struct NamedPeftKey {
  std::string adapter;  ///< "default" of "q_proj.lora_A.default.weight"
  std::string key;      ///< "q_proj.lora_A.weight", which PEFT's files have
};

/// Nothing for a key that PEFT's files have. Names of adapters have no dot. Source: PEFT's
/// _remove_adapter_name_from_state_dict_key and ModulesToSaveWrapper.adapter_state_dict_load_map.
inline std::optional<NamedPeftKey> named_peft_key(std::string_view key) {
  for (const std::string_view end :
       {".lora_A.weight", ".lora_B.weight", ".lora_B.bias", ".lora_embedding_A",
        ".lora_embedding_B", ".lora_magnitude_vector"}) {
    if (key.ends_with(end)) return std::nullopt;
  }
  struct Form {
    std::string_view part, end, end_in_file;
  };
  for (const Form& form :
       {Form{".lora_A.", ".weight", ".weight"}, Form{".lora_B.", ".weight", ".weight"},
        Form{".lora_B.", ".bias", ".bias"}, Form{".lora_embedding_A.", "", ""},
        Form{".lora_embedding_B.", "", ""}, Form{".lora_magnitude_vector.", ".weight", ""}}) {
    if (!key.ends_with(form.end)) continue;
    const std::string_view head = key.substr(0, key.size() - form.end.size());
    const std::size_t dot = head.rfind('.');
    if (dot == head.npos || dot + 1 == head.size()) continue;
    if (!head.substr(0, dot + 1).ends_with(form.part)) continue;
    return NamedPeftKey{std::string(head.substr(dot + 1)),
                        std::string(head.substr(0, dot)) + std::string(form.end_in_file)};
  }
  // A module that is trained whole, or one within it: its key is the base's own.
  constexpr std::string_view saved = ".modules_to_save.";
  const std::size_t at = key.find(saved);
  const std::size_t name = at == key.npos ? key.npos : at + saved.size();
  const std::size_t dot = name == key.npos ? key.npos : key.find('.', name);
  if (dot != key.npos && dot > name && dot + 1 < key.size()) {
    return NamedPeftKey{std::string(key.substr(name, dot - name)),
                        std::string(key.substr(0, at)) + std::string(key.substr(dot))};
  }
  return std::nullopt;
}

/// The module of the base whose weight `key` holds a copy of, as PEFT writes them of embeddings and
/// heads (save_embedding_layers); empty for a tensor that is the adapter's own, such as a weight
/// that modules_to_save names: by the end of its path or of a container's, with no dot before it.
inline std::string copied_module(const LoRAConfig& config, const std::string& key) {
  constexpr std::string_view weight = ".weight", own = ".base_layer";
  std::string module(without_peft_prefix(key));
  if (!module.ends_with(weight)) return {};
  module.resize(module.size() - weight.size());
  if (module.ends_with(own)) return module.substr(0, module.size() - own.size());
  for (const std::string& saved : config.effective_modules_to_save()) {
    for (std::size_t end = module.size(); end != 0 && end != module.npos;
         end = module.rfind('.', end - 1)) {
      if (std::string_view(module).substr(0, end).ends_with(saved)) return {};
    }
  }
  return module;
}

namespace detail {

/// Whether PEFT finds the copy under this key: ".base_layer" stands in it where the module is
/// adapted, and only there. It passes over a copy under the other name in silence.
inline bool is_where_peft_looks(const std::string& key, bool adapted) {
  return key.ends_with(".base_layer.weight") == adapted;
}

/// What is said of a copy that is not the base's weight: one that PEFT passes over, and one that
/// takes its place.
inline std::string misplaced_copy(bool adapted) {
  return std::string(
             "is a weight of the base, and not that of this one, under a name that PEFT "
             "passes over: the module is ") +
         (adapted ? "adapted, expected \".base_layer.weight\""
                  : "not adapted, expected \".weight\"") +
         "; load the base that the adapter was trained on, and remove this tensor";
}
inline std::string other_copy(const std::string& key, const std::string& module) {
  return printable(key) + " is not the base's weight of " + in_quotes(module) +
         ": the adapter's takes its place, as in PEFT";
}

}  // namespace detail

}  // namespace lora
