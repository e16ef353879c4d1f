// The sizes and options of Llama, Mistral, Qwen2 and Qwen3.
#pragma once

#include <lora/core/check.hpp>
#include <lora/nn/activations.hpp>
#include <lora/nn/rotary.hpp>

#include <string>
#include <string_view>

namespace lora {

/// The configuration of Llama and its relatives, with the names of transformers. io translates the
/// config.json of other dialects. The sizes must be set.
struct LlamaConfig {
  std::string model_type = "llama";  ///< llama, mistral, qwen2 or qwen3
  Index vocab_size = 0, hidden_size = 0, intermediate_size = 0, num_hidden_layers = 0;
  Index num_attention_heads = 0, num_key_value_heads = 0, head_dim = 0;
  Index max_position_embeddings = 0;
  double rms_norm_eps = 1e-6, rope_theta = 10000;
  RopeScaling rope_scaling;
  Activation hidden_act = Activation::silu;
  bool qkv_bias = false, o_bias = false, mlp_bias = false;
  bool qk_norm = false;  ///< an RMSNorm over each head of q and k before the rotation
  bool tie_word_embeddings = false;
  Index sliding_window = 0;       ///< keys that a query sees, itself included; 0: all
  Index first_sliding_layer = 0;  ///< layers from this one on use the window

  Rope rope() const { return {head_dim, rope_theta, rope_scaling, max_position_embeddings}; }
  bool operator==(const LlamaConfig&) const = default;
};

/// Checks sizes of at least 1, heads that divide, an even head size, finite numbers, and a scaling
/// that can be computed.
/// Throws: ConfigError that names the field.
inline void check_config(const LlamaConfig& c) {
  const detail::OptionCheck check{"LlamaConfig"};
  if (c.model_type != "llama" && c.model_type != "mistral" && c.model_type != "qwen2" &&
      c.model_type != "qwen3")
    check.refuse("model_type", in_quotes(c.model_type), "llama, mistral, qwen2 or qwen3");
  check.at_least("vocab_size", c.vocab_size, 1);
  check.at_least("hidden_size", c.hidden_size, 1);
  check.at_least("intermediate_size", c.intermediate_size, 1);
  check.at_least("num_hidden_layers", c.num_hidden_layers, 0);
  check.at_least("num_attention_heads", c.num_attention_heads, 1);
  check.at_least("num_key_value_heads", c.num_key_value_heads, 1);
  check.at_least("head_dim", c.head_dim, 1);
  check.at_least("max_position_embeddings", c.max_position_embeddings, 1);
  check.at_least("sliding_window", c.sliding_window, 0);
  check.at_least("first_sliding_layer", c.first_sliding_layer, 0);
  if (c.num_attention_heads % c.num_key_value_heads != 0)
    check.refuse("num_attention_heads", std::to_string(c.num_attention_heads),
                 "a multiple of num_key_value_heads, " + std::to_string(c.num_key_value_heads));
  if (c.head_dim % 2 != 0) check.refuse("head_dim", std::to_string(c.head_dim), "an even number");
  check.not_negative("rms_norm_eps", c.rms_norm_eps);
  check.positive("rope_theta", c.rope_theta);
  const RopeScaling& s = c.rope_scaling;
  if (s.type == RopeScaling::Type::none) return;
  check.positive("rope_scaling.factor", s.factor);
  if (s.type == RopeScaling::Type::dynamic && c.head_dim == 2)
    check.refuse("head_dim", "2", "more than 2 with a rope_scaling that is dynamic");
  if (s.type == RopeScaling::Type::yarn) {
    check.positive("rope_scaling.beta_fast", s.beta_fast);
    check.positive("rope_scaling.beta_slow", s.beta_slow);
    check.positive("rope_scaling.attention_factor", rope_attention_factor(s));
    check.at_least("rope_scaling.original_max_position_embeddings",
                   s.original_max_position_embeddings, 1);
    if (c.rope_theta <= 1)
      check.refuse("rope_theta", number_text(c.rope_theta), "more than 1 with yarn");
  }
  if (s.type != RopeScaling::Type::llama3) return;
  check.positive("rope_scaling.low_freq_factor", s.low_freq_factor);
  check.positive("rope_scaling.high_freq_factor", s.high_freq_factor);
  check.at_least("rope_scaling.original_max_position_embeddings",
                 s.original_max_position_embeddings, 1);
  if (s.high_freq_factor <= s.low_freq_factor)
    check.refuse("rope_scaling.high_freq_factor", number_text(s.high_freq_factor),
                 "more than low_freq_factor, " + number_text(s.low_freq_factor));
}

/// Returns the class name of a model's norms in transformers: "LlamaRMSNorm".
inline const char* rms_norm_type(std::string_view model_type) {
  if (model_type == "mistral") return "MistralRMSNorm";
  if (model_type == "qwen2") return "Qwen2RMSNorm";
  return model_type == "qwen3" ? "Qwen3RMSNorm" : "LlamaRMSNorm";
}

}  // namespace lora
