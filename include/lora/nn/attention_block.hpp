// Attention of one block of queries, forward and backward, and the arguments of attention.
#pragma once

#include <lora/nn/attention_rows.hpp>
#include <lora/nn/rows.hpp>
#include <lora/weights/product.hpp>

#include <array>
#include <atomic>
#include <cmath>
#include <span>
#include <vector>

namespace lora {

/// The heads and the visible keys. Query head h uses key and value head h / (H / KV).
struct AttentionShape {
  Index heads = 1, kv_heads = 1, head_dim = 1;
  Index window = 0;  ///< number of keys that a query sees, itself the last; 0: all up to itself

  Index group() const { return heads / kv_heads; }
  double scale() const { return 1 / std::sqrt(static_cast<double>(head_dim)); }
  /// Returns the first key that the query at `position` sees.
  Index first_key(Index position) const {
    return window == 0 ? 0 : std::max<Index>(0, position - window + 1);
  }
};

/// One sequence: q (n, H·K) holds the queries of its last n positions, k and v (past + n, KV·K) the
/// keys and values of all positions, y (n, H·K) receives the result, and lse (n, H) what backward
/// needs (empty: not kept). The caller owns all of them.
template <class S>
struct AttentionSequence {
  View<S> q, k, v;
  MutableView<S> y, lse;
};
/// One sequence for backward, where past is 0: y and lse are those of forward, dy = dL/dy.
template <class S>
struct AttentionGradient {
  View<S> q, k, v, y, lse, dy;
  MutableView<S> dq, dk, dv;
};

/// The workspace of attention, reused from call to call: for each thread a few rows of scores, as
/// long as the longest sequence. Only one call may use it at a time.
template <class S>
struct AttentionWorkspace {
  struct Block {
    Index sequence, first, count;  ///< queries of one sequence
  };
  std::vector<Block> blocks;
  std::vector<Matrix<S>> of_thread;
  Matrix<S> partial;                ///< partial sums of dk and dv, added up at the end
  std::vector<Index> partial_rows;  ///< first row of each sequence in `partial`
};

namespace detail {

/// The most queries of one head in a block, and the most rows of a product when the heads of a
/// group are stacked: enough to amortise packing the keys, few enough to compute little that
/// causality masks.
inline constexpr Index query_rows = 64, stacked_rows = 128;

inline Index block_queries(const AttentionShape& shape) {
  return std::clamp<Index>(stacked_rows / shape.group(), 1, query_rows);
}

/// A block of queries of one group of heads. The rows of the heads are stacked: head 0, then head 1
/// ….
struct AttentionBlock {
  AttentionShape shape;
  Index kv_head, first, count, past;

  Index rows() const { return count * shape.group(); }
  Index position(Index row) const { return past + first + row % count; }
  Index begin() const { return shape.first_key(past + first); }
  Index end() const { return past + first + count; }
  Index keys() const { return end() - begin(); }
  Index query(Index row) const { return first + row % count; }
  Index head(Index row) const { return kv_head * shape.group() + row / count; }
  /// The keys that a row sees, counted from begin().
  Index seen_from(Index row) const { return shape.first_key(position(row)) - begin(); }
  Index seen_to(Index row) const { return position(row) + 1 - begin(); }

  template <class S>
  View<S> keys_of(const View<S>& k) const {
    return k.middle_rows(begin(), keys()).middle_cols(kv_head * shape.head_dim, shape.head_dim);
  }
  template <class S>
  MutableView<S> keys_of(const MutableView<S>& k) const {
    return k.middle_rows(begin(), keys()).middle_cols(kv_head * shape.head_dim, shape.head_dim);
  }
  template <class S>
  const S* row_of(const View<S>& m, Index row) const {
    return m.data + query(row) * m.row_stride + head(row) * shape.head_dim;
  }
  template <class S>
  S* row_of(const MutableView<S>& m, Index row) const {
    return m.data + query(row) * m.row_stride + head(row) * shape.head_dim;
  }
  /// Copies the block's rows of m (n, H·K), times factor, to `to` (rows, K).
  template <class S>
  void gather(const View<S>& m, RealOf<S> factor, const MutableView<S>& to) const {
    for (Index row = 0; row < rows(); ++row) {
      const S* from = row_of(m, row);
      S* out = to.data + row * to.row_stride;
      map_row(shape.head_dim, out, [=](Index i) { return factor * from[i]; });
    }
  }
};

/// Hands out pieces of a thread's workspace.
template <class S>
struct AttentionMemory {
  S* next;
  MutableView<S> take(Index rows, Index cols) {
    const MutableView<S> m(next, rows, cols, (cols + 15) / 16 * 16);
    next += rows * m.row_stride;
    return m;
  }
  static Index needed(Index rows, Index cols) { return rows * ((cols + 15) / 16 * 16); }
};

template <class S>
View<S> as_view(const MutableView<S>& m) {
  return {m.data, m.rows, m.cols, m.row_stride, 1};
}

/// Calls fn(unit, memory) for each unit, from the last to the first, on several threads. Each
/// thread has a workspace of `size` elements.
template <class S, class Fn>
void for_attention_units(AttentionWorkspace<S>& workspace, Index units, Index size, Fn&& fn) {
  const Index threads = std::min<Index>(num_threads(), units);
  if (static_cast<Index>(workspace.of_thread.size()) < threads)
    workspace.of_thread.resize(static_cast<std::size_t>(threads));
  for (Index i = 0; i < threads; ++i) {
    Matrix<S>& memory = workspace.of_thread[static_cast<std::size_t>(i)];
    if (memory.size() < size) set_size(memory, 1, size);
  }
  std::atomic<Index> left{units};
  parallel_for(threads, 1, [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      for (Index unit; (unit = left.fetch_sub(1) - 1) >= 0;)
        fn(unit, AttentionMemory<S>{workspace.of_thread[static_cast<std::size_t>(i)].data()});
    }
  });
}

/// Computes y and lse of one block: p = softmax(scale q kᵀ) over the keys that each row sees, y = p
/// v.
template <class S>
void attend(const AttentionBlock& block, const AttentionSequence<S>& sequence,
            AttentionMemory<S> memory) {
  const Index rows = block.rows(), K = block.shape.head_dim;
  const auto q = memory.take(rows, K), p = memory.take(rows, block.keys());
  block.gather(sequence.q, static_cast<RealOf<S>>(block.shape.scale()), q);
  product(as_view(q), block.keys_of(sequence.k).transposed(), p);
  std::array<S, stacked_rows> factor;
  for (Index row = 0; row < rows; ++row) {
    const Index from = block.seen_from(row), to = block.seen_to(row);
    const auto [sum, lse] = softmax_numerators(p.data + row * p.row_stride, p.cols, from, to);
    factor[static_cast<std::size_t>(row)] = S(1) / sum;
    if (sequence.lse.data != nullptr)
      sequence.lse.data[block.query(row) * sequence.lse.row_stride + block.head(row)] = lse;
  }
  product(as_view(p), block.keys_of(sequence.v), q);
  for (Index row = 0; row < rows; ++row) {
    const S* from = q.data + row * q.row_stride;
    S* y = block.row_of(sequence.y, row);
    map_row(K, y, [=, f = factor[static_cast<std::size_t>(row)]](Index i) { return f * from[i]; });
  }
}

/// Computes dq of one block and adds its part of dk and dv. With p = exp(scale q kᵀ − lse):
///   dv += pᵀ dy,  dp = dy vᵀ,  ds = p ⊙ (dp − Σ dy y),  dq = scale ds k,  dk += dsᵀ (scale q).
template <class S>
void attend_backward(const AttentionBlock& block, const AttentionGradient<S>& sequence,
                     const MutableView<S>& dk, const MutableView<S>& dv,
                     AttentionMemory<S> memory) {
  const Index rows = block.rows(), K = block.shape.head_dim, keys = block.keys();
  const auto scale = static_cast<RealOf<S>>(block.shape.scale());
  const auto q = memory.take(rows, K), dy = memory.take(rows, K), p = memory.take(rows, keys),
             ds = memory.take(rows, keys);
  block.gather(sequence.q, scale, q);
  block.gather(sequence.dy, RealOf<S>(1), dy);
  product(as_view(q), block.keys_of(sequence.k).transposed(), p);
  product(as_view(dy), block.keys_of(sequence.v).transposed(), ds);
  for (Index row = 0; row < rows; ++row) {
    const S lse = sequence.lse.data[block.query(row) * sequence.lse.row_stride + block.head(row)];
    const auto level = static_cast<S>(
        dot_product(K, dy.data + row * dy.row_stride, block.row_of(sequence.y, row)));
    softmax_backward(p.data + row * p.row_stride, keys, block.seen_from(row), block.seen_to(row),
                     lse, level, ds.data + row * ds.row_stride);
  }
  product(as_view(p).transposed(), as_view(dy), block.keys_of(dv), Accumulate::yes);
  product(as_view(ds).transposed(), as_view(q), block.keys_of(dk), Accumulate::yes);
  product(as_view(ds), block.keys_of(sequence.k), q);
  for (Index row = 0; row < rows; ++row) {
    const S* from = q.data + row * q.row_stride;
    S* to = block.row_of(sequence.dq, row);
    map_row(K, to, [=](Index i) { return scale * from[i]; });
  }
}

}  // namespace detail

}  // namespace lora
