// Attention within the sequences of a batch, with or without cached tokens.
#pragma once

#include <lora/models/kv_cache.hpp>
#include <lora/models/token_batch.hpp>
#include <lora/nn/attention.hpp>
#include <lora/nn/rotary.hpp>

#include <span>
#include <vector>

namespace lora {

/// What every layer needs to know about a batch. Computed once per pass and reused from step to
/// step.
template <class S>
struct BatchContext {
  Index rows = 0;              ///< T
  std::vector<Index> lengths;  ///< lengths of the sequences, all > 0
  std::vector<Index> past;     ///< tokens of each that its cache holds; empty: no caches
  std::span<KVCache<S>* const> caches = {};  ///< one per sequence, or none
  RotaryTable<S> rotation;

  /// Begins a pass over `batch`.
  /// Throws: ShapeError for invalid lengths, and with caches unless there is one per sequence and
  ///   every sequence has a token.
  void begin(const char* where, const TokenBatch& batch, std::span<KVCache<S>* const> all = {}) {
    list_lengths(where, batch, lengths);
    if (!all.empty() && all.size() != lengths.size()) {
      throw ShapeError(std::string(where) + ": there are " + std::to_string(all.size()) +
                       " caches, expected one for each of " + std::to_string(lengths.size()) +
                       " sequences, each of at least one token");
    }
    caches = all;
    past.clear();
    for (const KVCache<S>* cache : caches) past.push_back(cache->length());
    rows = batch.rows();
  }
  /// The number of positions of sequence n with this batch.
  Index end_of(std::size_t n) const { return lengths[n] + (past.empty() ? 0 : past[n]); }
};

/// The arguments of attention and its workspace.
template <class S>
struct AttentionScratch {
  std::vector<AttentionSequence<S>> sequences;
  std::vector<AttentionGradient<S>> gradients;
  AttentionWorkspace<S> workspace;
};

/// Computes y (T, H·K), the attention of q (T, H·K) over k and v (T, KV·K), in each sequence
/// separately; lse is (T, H) or empty. With caches, appends k and v to those of `layer` first and
/// attends to all that they hold.
/// Throws: as attention_forward.
/// Allocates: as attention_forward; when a cache is full.
template <class S>
void self_attention(const AttentionShape& shape, Index layer, const BatchContext<S>& context,
                    const View<S>& q, const View<S>& k, const View<S>& v, const MutableView<S>& y,
                    const MutableView<S>& lse, AttentionScratch<S>& scratch) {
  scratch.sequences.clear();
  Index first = 0;
  for (std::size_t n = 0; n < context.lengths.size(); first += context.lengths[n++]) {
    const Index count = context.lengths[n];
    AttentionSequence<S> one{q.middle_rows(first, count), k.middle_rows(first, count),
                             v.middle_rows(first, count), y.middle_rows(first, count),
                             lse.middle_rows(first, count)};
    if (!context.caches.empty()) {
      KVCache<S>& cache = *context.caches[n];
      cache.append(layer, one.k, one.v);
      one.k = cache.keys(layer, context.end_of(n));
      one.v = cache.values(layer, context.end_of(n));
    }
    scratch.sequences.push_back(one);
  }
  attention_forward<S>(shape, scratch.sequences, scratch.workspace);
}

/// Computes dq, dk and dv from dy and from the y and lse of forward, and overwrites what they held.
template <class S>
void self_attention_backward(const AttentionShape& shape, const BatchContext<S>& context,
                             const AttentionGradient<S>& all, AttentionScratch<S>& scratch) {
  scratch.gradients.clear();
  Index t = 0;
  for (std::size_t n = 0; n < context.lengths.size(); t += context.lengths[n++]) {
    const Index count = context.lengths[n];
    scratch.gradients.push_back(
        {all.q.middle_rows(t, count), all.k.middle_rows(t, count), all.v.middle_rows(t, count),
         all.y.middle_rows(t, count), all.lse.middle_rows(t, count), all.dy.middle_rows(t, count),
         all.dq.middle_rows(t, count), all.dk.middle_rows(t, count), all.dv.middle_rows(t, count)});
  }
  attention_backward<S>(shape, scratch.gradients, scratch.workspace);
}

}  // namespace lora
