// Estimates the memory that a step of a language model takes in addition to its weights.
#pragma once

#include <lora/models/causal_lm.hpp>

#include <algorithm>
#include <cstdint>
#include <variant>

namespace lora {

namespace detail {

/// Floats per token: what a block keeps for its backward, and what all blocks share, with and
/// without a backward.
struct BlockFloats {
  Index kept, shared, shared_forward;
  Index width, layers;
  AttentionShape attention;
};
inline BlockFloats block_floats(const LlamaConfig& c) {
  const Index D = c.hidden_size, F = c.intermediate_size, H = c.num_attention_heads;
  const Index q = H * c.head_dim, k = c.num_key_value_heads * c.head_dim;
  const Index norms = c.qk_norm ? H + c.num_key_value_heads : 0;
  // q, k, v, the attended and its log-sums, the sum in the middle, gate, up, statistics of norms.
  return {2 * q + 2 * k + H + D + 2 * F + 2 + norms,
          2 * D + 2 * F + 2 * q + 2 * k + (c.qk_norm ? 2 * q + 2 * k : 0),
          D + F + (c.qk_norm ? q + k : 0),
          D,
          c.num_hidden_layers,
          {H, c.num_key_value_heads, c.head_dim, 0}};
}
inline BlockFloats block_floats(const GPT2Config& c) {
  const Index D = c.n_embd, F = c.inner();
  return {3 * D + D + c.n_head + D + F + 4,     2 * D + 2 * F + D + 3 * D, D + F, D, c.n_layer,
          {c.n_head, c.n_head, D / c.n_head, 0}};
}

}  // namespace detail

/// Estimates the bytes that CausalLM::loss allocates in its tape for one sequence of T tokens that
/// all count: each block's input and what it keeps (Keep::inputs, gradient checkpointing: the
/// inputs and one block; Keep::nothing, without gradients: two inputs and one block), what the
/// blocks share, the workspace of attention, hidden states, a chunk of logits, and the low-rank
/// products of the adapters. From a few hundred tokens on, it is within 5 % of what is allocated.
template <class S>
std::uint64_t activation_bytes(CausalLM<S>& model, Index T, Keep keep = Keep::everything) {
  const detail::BlockFloats block =
      std::visit([](const auto& config) { return detail::block_floats(config); }, model.config());
  const bool backward = keep != Keep::nothing;
  const Index D = block.width,
              blocks = keep == Keep::everything ? block.layers : std::min<Index>(1, block.layers);
  // norms: what DoRA needs for n, however many tokens there are; known: what it keeps of n outside
  // training.
  Index low_rank = 0, norms = 0, known = 0;
  for_each_adapter_layer(model, [&](const NamePath&, auto& layer) {
    for (const auto& adapter : layer.adapters().all()) {
      const Index R = adapter.A.value.rows(), O = layer.base_map().outputs();
      low_rank += (backward ? 2 : 1) * R;
      if (!adapter.scales_output()) continue;
      low_rank += O;
      norms += 2 * (R + 1) * O;
      if (!backward) known += adapter.A.size() + adapter.B.size() + O;
    }
  });
  norms = blocks * (norms / std::max<Index>(1, block.layers)) + known;
  // Inputs of the blocks and of the last norm, its result, their gradients, and the rows of the
  // head.
  const Index stack =
      !backward ? 2 * D + 2 * D : (block.layers + 1) * D + 5 * D + (keep == Keep::inputs ? D : 0);
  const Index shared = backward ? block.shared : block.shared_forward;
  const Index token =
      blocks * (block.kept + low_rank / std::max<Index>(1, block.layers)) + shared + stack;
  const Index logits = logit_rows(model.vocab_size()) * model.vocab_size();
  const Index attention =
      backward ? attention_workspace_size<S>(block.attention, T, num_threads())
               : attention_forward_workspace_size<S>(block.attention, T, num_threads());
  return static_cast<std::uint64_t>(T * token + norms + logits + attention) * sizeof(S);
}

}  // namespace lora
