// The configuration of a causal language model of any architecture.
#pragma once

#include <lora/models/gpt2_config.hpp>
#include <lora/models/llama_config.hpp>

#include <variant>

namespace lora {

/// The configuration of a model. The active alternative is the architecture.
using CausalLMConfig = std::variant<LlamaConfig, GPT2Config>;

}  // namespace lora
