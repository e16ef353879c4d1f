// Causal attention with grouped heads and sliding windows, in blocks of queries.
#pragma once

#include <lora/nn/attention_block.hpp>

#include <span>
#include <string>
#include <utility>

namespace lora {

namespace detail {

/// Lists the blocks of all sequences and returns the largest number of keys that one of them sees.
template <class S, class Sequence>
Index list_blocks(const char* where, const AttentionShape& shape,
                  std::span<const Sequence> sequences, AttentionWorkspace<S>& workspace) {
  if (shape.heads < 1 || shape.kv_heads < 1 || shape.head_dim < 1 || shape.window < 0 ||
      shape.heads % shape.kv_heads != 0 || shape.group() > stacked_rows) {
    throw ConfigError(std::string(where) + ": " + std::to_string(shape.heads) + " heads of " +
                      std::to_string(shape.head_dim) + " over " + std::to_string(shape.kv_heads) +
                      " key heads with a window of " + std::to_string(shape.window) +
                      ", expected a multiple of the key heads, at most " +
                      std::to_string(stacked_rows) + " times as many");
  }
  workspace.blocks.clear();
  Index most = 0;
  const Index step = block_queries(shape), wide = shape.heads * shape.head_dim,
              narrow = shape.kv_heads * shape.head_dim;
  for (std::size_t n = 0; n < sequences.size(); ++n) {
    const Sequence& one = sequences[n];
    const Index count = one.q.rows, past = one.k.rows - count;
    expect_shape(where, "q", Extent{one.q.rows, one.q.cols}, count, wide);
    expect_shape(where, "y", Extent{one.y.rows, one.y.cols}, count, wide);
    if (past < 0 || one.k.cols != narrow) {
      check_shape(false, where, "k", one.k.rows, one.k.cols,
                  "at least " + shape_text(count, narrow));
    }
    expect_shape(where, "v", Extent{one.v.rows, one.v.cols}, one.k.rows, narrow);
    for (Index first = 0; first < count; first += step) {
      const Index queries = std::min(step, count - first);
      workspace.blocks.push_back({static_cast<Index>(n), first, queries});
      most = std::max(most, past + first + queries - shape.first_key(past + first));
    }
  }
  return most;
}

/// The number of stripes of a group of heads. Blocks of queries of one group add to the same dk and
/// dv, so they run one after the other. With few groups, blocks 0, n, 2n …, blocks 1, n + 1 … and
/// so on get sums of their own, to give work to more threads. The number depends only on the shape.
inline Index backward_stripes(const AttentionShape& shape) {
  return std::clamp<Index>(8 / shape.kv_heads, 1, 8);
}
/// The number of stripes with blocks in a sequence of T tokens.
inline Index used_stripes(const AttentionShape& shape, Index T) {
  const Index step = block_queries(shape);
  return std::min(backward_stripes(shape), (T + step - 1) / step);
}
/// The rows of partial sums of such a sequence: one row of dk and dv per token for every stripe but
/// the first.
inline Index partial_rows(const AttentionShape& shape, Index T) {
  return std::max<Index>(0, used_stripes(shape, T) - 1) * T;
}
inline Index partial_cols(const AttentionShape& shape) {
  return 2 * shape.kv_heads * shape.head_dim;
}

/// Workspace elements per thread of forward, where a block sees at most `most` keys.
template <class S>
Index forward_memory(const AttentionShape& shape, Index most) {
  using Memory = AttentionMemory<S>;
  const Index rows = block_queries(shape) * shape.group();
  return Memory::needed(rows, shape.head_dim) + Memory::needed(rows, most);
}
/// Workspace elements per thread of backward.
template <class S>
Index backward_memory(const AttentionShape& shape, Index most) {
  return 2 * forward_memory<S>(shape, most);
}

/// Determines where the partial sums of each sequence begin, and makes room for them.
template <class S>
void prepare_partial(const AttentionShape& shape, std::span<const AttentionGradient<S>> sequences,
                     AttentionWorkspace<S>& workspace) {
  workspace.partial_rows.clear();
  Index rows = 0;
  for (const AttentionGradient<S>& one : sequences) {
    workspace.partial_rows.push_back(rows);
    rows += partial_rows(shape, one.q.rows);
  }
  const Index cols = partial_cols(shape);
  if (workspace.partial.rows() < rows || workspace.partial.cols() != cols)
    set_size(workspace.partial, rows, cols);
}

/// The dk and dv that a stripe adds to.
template <class S>
struct KeySums {
  MutableView<S> dk, dv;
};
template <class S>
KeySums<S> sums_of(AttentionWorkspace<S>& workspace, const AttentionGradient<S>& one, std::size_t n,
                   Index stripe) {
  if (stripe == 0) return {one.dk, one.dv};
  const Index first = workspace.partial_rows[n] + (stripe - 1) * one.q.rows, cols = one.dk.cols;
  const auto both = MutableView<S>(workspace.partial).middle_rows(first, one.q.rows);
  return {both.middle_cols(0, cols), both.middle_cols(cols, cols)};
}

/// Computes the blocks of one stripe.
template <class S>
void backward_stripe(const AttentionShape& shape, const AttentionGradient<S>& one, Index kv_head,
                     Index stripe, const KeySums<S>& sums, AttentionMemory<S> memory) {
  const Index step = block_queries(shape), K = shape.head_dim,
              used = used_stripes(shape, one.q.rows);
  if (stripe >= used) return;
  for (const auto* sum : {&sums.dk, &sums.dv}) {
    for (Index t = 0; t < sum->rows; ++t)
      std::fill_n(sum->data + t * sum->row_stride + kv_head * K, K, S(0));
  }
  for (Index first = stripe * step; first < one.q.rows; first += used * step) {
    const Index queries = std::min(step, one.q.rows - first);
    attend_backward({shape, kv_head, first, queries, 0}, one, sums.dk, sums.dv, memory);
  }
}

/// Adds the sums of a stripe to those of the first stripe.
template <class S>
void add_partial(AttentionWorkspace<S>& workspace, const AttentionGradient<S>& one, std::size_t n,
                 Index stripe) {
  const KeySums<S> from = sums_of(workspace, one, n, stripe);
  for_row_shares(one.q.rows, 2 * one.dk.cols, [&](Index begin, Index end) {
    for (Index t = begin; t < end; ++t) {
      for (const auto& [part, whole] : {std::pair(from.dk, one.dk), std::pair(from.dv, one.dv)}) {
        const S* x = part.data + t * part.row_stride;
        S* y = whole.data + t * whole.row_stride;
        map_row(whole.cols, y, [=](Index i) { return y[i] + x[i]; });
      }
    }
  });
}

}  // namespace detail

/// Computes causal attention of independent sequences. For query head h at position i,
///   y_ih = Σ_j p_j v_jg,  p = softmax_j(q_ih · k_jg / √K),  g = h / (H/KV),
/// over the keys j ≤ i and, with a window, j > i − window. AttentionSequence gives the shapes. The
/// bits of a sequence depend only on that sequence. y must not overlap anything that is read.
/// Throws: ShapeError, ConfigError.
/// Allocates: O(longest sequence) for each thread, when sequences grow.
/// Threads: shares blocks of queries and groups of heads between the workers.
/// Source: Vaswani et al., 2017; online softmax of Dao et al., "FlashAttention", 2022.
template <class S>
void attention_forward(const AttentionShape& shape, std::span<const AttentionSequence<S>> sequences,
                       AttentionWorkspace<S>& workspace) {
  using Memory = detail::AttentionMemory<S>;
  const Index most = detail::list_blocks("attention_forward", shape, sequences, workspace);
  const auto blocks = static_cast<Index>(workspace.blocks.size());
  detail::for_attention_units<S>(
      workspace, blocks * shape.kv_heads, detail::forward_memory<S>(shape, most),
      [&](Index unit, Memory memory) {
        const auto& at = workspace.blocks[static_cast<std::size_t>(unit % blocks)];
        const auto& one = sequences[static_cast<std::size_t>(at.sequence)];
        detail::attend({shape, unit / blocks, at.first, at.count, one.k.rows - one.q.rows}, one,
                       memory);
      });
}

/// Returns the workspace elements of forward for one sequence of T tokens on `threads` threads.
template <class S>
Index attention_forward_workspace_size(const AttentionShape& shape, Index T, Index threads) {
  const Index step = detail::block_queries(shape), units = shape.kv_heads * ((T + step - 1) / step);
  return std::min(threads, units) * detail::forward_memory<S>(shape, T);
}

/// Returns the workspace elements of forward and backward.
template <class S>
Index attention_workspace_size(const AttentionShape& shape, Index T, Index threads) {
  const Index units = shape.kv_heads * detail::backward_stripes(shape);
  return std::min(threads, units) * detail::backward_memory<S>(shape, T) +
         detail::partial_rows(shape, T) * detail::partial_cols(shape);
}

/// Computes the gradients dq, dk and dv of attention_forward from its y and lse, and overwrites
/// what they held. Recomputes the probabilities. The order in which a sequence's queries are summed
/// depends only on its length and the shape.
/// Throws: as attention_forward.
/// Allocates: as attention_forward.
template <class S>
void attention_backward(const AttentionShape& shape,
                        std::span<const AttentionGradient<S>> sequences,
                        AttentionWorkspace<S>& workspace) {
  const Index most = detail::list_blocks("attention_backward", shape, sequences, workspace);
  for (const AttentionGradient<S>& one : sequences) {
    const auto expect = [](const char* name, const auto& m, Index rows, Index cols) {
      expect_shape("attention_backward", name, detail::Extent{m.rows, m.cols}, rows, cols);
    };
    const Index n = one.q.rows, narrow = one.k.cols;
    expect("k", one.k, n, narrow);
    expect("lse", one.lse, n, shape.heads);
    expect("dy", one.dy, n, one.q.cols);
    expect("dq", one.dq, n, one.q.cols);
    expect("dk", one.dk, n, narrow);
    expect("dv", one.dv, n, narrow);
  }
  const auto count = static_cast<Index>(sequences.size());
  const Index stripes = detail::backward_stripes(shape);
  detail::prepare_partial(shape, sequences, workspace);
  detail::for_attention_units<S>(
      workspace, count * shape.kv_heads * stripes, detail::backward_memory<S>(shape, most),
      [&](Index unit, detail::AttentionMemory<S> memory) {
        const auto n = static_cast<std::size_t>(unit / (shape.kv_heads * stripes));
        const Index kv_head = unit / stripes % shape.kv_heads, stripe = unit % stripes;
        detail::backward_stripe(shape, sequences[n], kv_head, stripe,
                                detail::sums_of(workspace, sequences[n], n, stripe), memory);
      });
  for (std::size_t n = 0; n < sequences.size(); ++n) {
    for (Index stripe = 1; stripe < detail::used_stripes(shape, sequences[n].q.rows); ++stripe)
      detail::add_partial(workspace, sequences[n], n, stripe);
  }
}

}  // namespace lora
