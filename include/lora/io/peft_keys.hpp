// What the keys of PEFT's files begin with.
#pragma once

#include <lora/core/namespace.hpp>

#include <string_view>

namespace LORA_NAMESPACE {

/// PeftModel and LoraModel, which stand around the base, put this before the base's own names.
inline constexpr std::string_view peft_prefix = "base_model.model.";

/// The key as a model without PEFT has it; one that lacks the prefix stays.
constexpr std::string_view without_peft_prefix(std::string_view key) {
  return key.starts_with(peft_prefix) ? key.substr(peft_prefix.size()) : key;
}

}  // namespace LORA_NAMESPACE
