// The configuration of a causal language model of any architecture.
#pragma once

#include <lora/models/gpt2_config.hpp>
#include <lora/models/llama_config.hpp>

#include <variant>

namespace lora {

/// A model's configuration; which of the alternatives says the architecture.
using CausalLMConfig = std::variant<LlamaConfig, GPT2Config>;

}  // namespace lora
