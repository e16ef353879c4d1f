// Parses the keys of PEFT's files, and recognises those that are copies of the base's weights.
#pragma once

#include <lora/adapters/config.hpp>
#include <lora/core/printable.hpp>

#include <optional>
#include <string>
#include <string_view>

namespace lora {

/// The prefix that PeftModel and LoraModel, which wrap the base, add to its names.
inline constexpr std::string_view peft_prefix = "base_model.model.";

/// Removes PEFT's prefix from a key, if it has it.
constexpr std::string_view without_peft_prefix(std::string_view key) {
  return key.starts_with(peft_prefix) ? key.substr(peft_prefix.size()) : key;
}

/// The parts of a key that contains the name of its adapter, as in a model's state_dict.
struct NamedPeftKey {
  std::string adapter;  ///< "default" in "q_proj.lora_A.default.weight"
  std::string key;      ///< "q_proj.lora_A.weight", the key in PEFT's files
};

/// Parses a key of a state_dict. Returns nothing for a key in the form of PEFT's files. Adapter
/// names have no dot.
/// Source: PEFT's _remove_adapter_name_from_state_dict_key and
///   ModulesToSaveWrapper.adapter_state_dict_load_map.
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
  // A module that is trained as a whole, or one inside it: the key is that of the base.
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

/// Returns the base module whose weight `key` is a copy of. PEFT writes such copies for embeddings
/// and heads (save_embedding_layers). Returns an empty string for the adapter's own tensors, such
/// as the weights of modules_to_save, whose names match the end of a path, or of a container's
/// path, without a dot before it.
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

/// Whether PEFT finds the copy under this key, which must contain ".base_layer" if the module is
/// adapted, and only then. PEFT silently ignores a copy under the other name.
inline bool is_where_peft_looks(const std::string& key, bool adapted) {
  return key.ends_with(".base_layer.weight") == adapted;
}

/// Messages about a copy that differs from the base's weight: one that PEFT ignores, and one that
/// replaces the weight.
inline std::string misplaced_copy(bool adapted) {
  return std::string(
             "is a base weight that differs from this model's, under a name that PEFT ignores: "
             "the module is ") +
         (adapted ? "adapted, expected \".base_layer.weight\""
                  : "not adapted, expected \".weight\"") +
         "; load the base that the adapter was trained on, and remove this tensor";
}
inline std::string other_copy(const std::string& key, const std::string& module) {
  return printable(key) + " is not the base's weight of " + in_quotes(module) +
         ": the adapter's copy replaces it, as in PEFT";
}

}  // namespace detail

}  // namespace lora
