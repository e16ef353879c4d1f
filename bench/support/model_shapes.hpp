// The shapes of the models in whole-model benchmarks.
#pragma once

#include <lora/models/causal_lm.hpp>

#include <algorithm>
#include <string>

namespace bench {

/// Returns the configuration of "llama_134M", "gpt2_124M" or "qwen_494M" (Qwen2.5-0.5B) for so many
/// positions, at most 1024 for GPT-2.
inline lora::CausalLMConfig model_shape(const std::string& name, lora::Index positions) {
  if (name == "gpt2_124M") {
    return lora::GPT2Config{.vocab_size = 50257,
                            .n_positions = std::min<lora::Index>(positions, 1024),
                            .n_embd = 768,
                            .n_layer = 12,
                            .n_head = 12};
  }
  lora::LlamaConfig c;
  c.max_position_embeddings = positions;
  c.head_dim = 64;
  if (name == "llama_134M") {
    c.vocab_size = 32000, c.hidden_size = 768, c.intermediate_size = 2048;
    c.num_hidden_layers = 12, c.num_attention_heads = c.num_key_value_heads = 12;
  } else {  // qwen_494M
    c.model_type = "qwen2";
    c.vocab_size = 151936, c.hidden_size = 896, c.intermediate_size = 4864;
    c.num_hidden_layers = 24, c.num_attention_heads = 14, c.num_key_value_heads = 2;
    c.tie_word_embeddings = true, c.qkv_bias = true;
  }
  return c;
}

}  // namespace bench
