// What the keys of PEFT's files begin with.
#pragma once

#include <lora/core/namespace.hpp>

#include <optional>
#include <string>
#include <string_view>

namespace LORA_NAMESPACE {

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
  for (const std::string_view end : {".lora_A.weight", ".lora_B.weight", ".lora_B.bias",
                                     ".lora_embedding_A", ".lora_embedding_B"}) {
    if (key.ends_with(end)) return std::nullopt;
  }
  struct Form {
    std::string_view part, end;
  };
  for (const Form& form :
       {Form{".lora_A.", ".weight"}, Form{".lora_B.", ".weight"}, Form{".lora_B.", ".bias"},
        Form{".lora_embedding_A.", ""}, Form{".lora_embedding_B.", ""}}) {
    if (!key.ends_with(form.end)) continue;
    const std::string_view head = key.substr(0, key.size() - form.end.size());
    const std::size_t dot = head.rfind('.');
    if (dot == head.npos || dot + 1 == head.size()) continue;
    if (!head.substr(0, dot + 1).ends_with(form.part)) continue;
    return NamedPeftKey{std::string(head.substr(dot + 1)),
                        std::string(head.substr(0, dot)) + std::string(form.end)};
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

}  // namespace LORA_NAMESPACE
