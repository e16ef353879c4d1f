// The sizes and options of GPT-2.
#pragma once

#include <lora/core/check.hpp>
#include <lora/nn/activations.hpp>

#include <string>
#include <tuple>

namespace lora {

/// The configuration of GPT-2, with the names of transformers. The sizes must be set; an n_inner of
/// 0 stands for 4 n_embd. Dropout between layers (attn_pdrop, embd_pdrop, resid_pdrop) is not
/// applied; an adapter's dropout is.
struct GPT2Config {
  Index vocab_size = 0, n_positions = 0, n_embd = 0, n_layer = 0, n_head = 0, n_inner = 0;
  double layer_norm_epsilon = 1e-5;
  Activation activation_function = Activation::gelu_tanh;
  bool tie_word_embeddings = true;

  Index inner() const { return n_inner == 0 ? 4 * n_embd : n_inner; }
  /// Whether both describe the same model: an n_inner of 0 equals the value it stands for.
  bool operator==(const GPT2Config& other) const {
    const auto values = [](const GPT2Config& c) {
      return std::tuple(c.vocab_size, c.n_positions, c.n_embd, c.n_layer, c.n_head, c.inner(),
                        c.layer_norm_epsilon, c.activation_function, c.tie_word_embeddings);
    };
    return values(*this) == values(other);
  }
};

/// Checks that sizes are at least 1 and that the heads divide n_embd.
/// Throws: ConfigError that names the field.
inline void check_config(const GPT2Config& c) {
  const detail::OptionCheck check{"GPT2Config"};
  check.at_least("vocab_size", c.vocab_size, 1);
  check.at_least("n_positions", c.n_positions, 1);
  check.at_least("n_embd", c.n_embd, 1);
  check.at_least("n_layer", c.n_layer, 0);
  check.at_least("n_head", c.n_head, 1);
  check.at_least("n_inner", c.n_inner, 0);
  if (c.n_embd % c.n_head != 0)
    check.refuse("n_embd", std::to_string(c.n_embd),
                 "a multiple of n_head, " + std::to_string(c.n_head));
  check.not_negative("layer_norm_epsilon", c.layer_norm_epsilon);
}

}  // namespace lora
