// dx = dy W from panels of W in which y = x Wᵀ finds its outputs side by side: dxᵀ = Wᵀ dyᵀ, for
// which it is dy that is transposed, and dxᵀ, both far smaller than W.
#pragma once

#include <lora/core/aligned_array.hpp>
#include <lora/weights/pieces.hpp>

#include <algorithm>
#include <atomic>
#include <span>

namespace LORA_NAMESPACE::detail {

/// Panels of W for some columns of dx: W(o, d) of the first at values[d·width + o], each `stride`
/// after the one before.
template <class S>
struct PanelBlock {
  const S* values;
  Index stride;
};

/// What a thread needs for the product. The sizes are measured: 96 to 384 outputs at a time, 96 to
/// 384 columns, 4 to 11 blocks of tokens.
template <class S>
struct TurnedMemory {
  static constexpr Index wide = kernels::slab_columns;
  static constexpr Index most_panels = 4, deep = most_panels * wide;  ///< outputs at a time
  static constexpr Index tall = 192;                                  ///< columns of dx
  static constexpr Index blocks = 6;                                  ///< of `wide` tokens

  SlabMemory<S, deep> dy[blocks];  ///< dyᵀ, block by block
  SlabMemory<S, tall> dx[blocks];  ///< dxᵀ
  alignas(64) S w[tall * deep];    ///< W, when it is not stored as S
  SlabMemory<S> term;

  /// For `count` threads; the calling one keeps it until it ends. Throws std::bad_alloc.
  static TurnedMemory* of_this_thread(Index count) {
    thread_local AlignedArray<TurnedMemory> kept;
    if (kept.size() < count) {
      kept = {};
      kept = AlignedArray<TurnedMemory>(count);
    }
    return kept.data();
  }
};

/// How dx (T, D) is cut into pieces that one thread makes: of whole registers of columns and whole
/// blocks of tokens, as alike as can be, and of as many columns that threads have equal shares.
template <class S>
struct TurnedPieces {
  using Memory = TurnedMemory<S>;
  Index cols, col_pieces, tokens, token_pieces;

  TurnedPieces(Index D, Index T, Index threads) {
    const auto pieces = [](Index n, Index most) { return (n + most - 1) / most; };
    token_pieces = pieces(T, Memory::blocks * Memory::wide);
    tokens = pieces(pieces(T, token_pieces), Memory::wide) * Memory::wide;
    token_pieces = pieces(T, tokens);
    const Index shares = token_pieces % threads == 0 ? 1 : threads;
    const Index wanted = pieces(pieces(D, Memory::tall), shares) * shares;
    cols = pieces(pieces(D, wanted), kernels::slab_group) * kernels::slab_group;
    col_pieces = pieces(D, cols);
  }
  Index count() const { return col_pieces * token_pieces; }
  /// The pieces of the same columns follow each other, so that threads read the same W.
  Index first_col(Index piece) const { return piece / token_pieces * cols; }
  Index first_token(Index piece) const { return piece % token_pieces * tokens; }
};

/// dx (+)= dy W + Σ terms; dy (T, O), dx (T, D), rows of dy contiguous. panels(p, count, d, cols, to)
/// gives panels p … of W as S for columns d … of dx, made in `to` if need be, and
/// ahead(p, count, d, cols) says where they are read from. Each element is one chain over o, then
/// the terms' ranks, as in product(). Allocates the thread's memory the first time.
template <class S, class PanelsFn, class AheadFn>
void multiply_turned(const View<S>& dy, const MutableView<S>& dx, std::span<const LowRank<S>> terms,
                     bool add, PanelsFn&& panels, AheadFn&& ahead) {
  using Memory = TurnedMemory<S>;
  constexpr Index wide = Memory::wide, deep = Memory::deep, group = kernels::slab_group;
  const Index O = dy.cols, D = dx.cols, T = dx.rows;
  if (D == 0 || T == 0) return;
  const auto with = product_kernels<S>();
  const Index threads = num_threads();
  const TurnedPieces<S> pieces(D, T, threads);

  const auto make_piece = [&](Index piece, Memory& memory) {
    const Index d = pieces.first_col(piece), cols = std::min(pieces.cols, D - d);
    const Index t = pieces.first_token(piece), tokens = std::min(pieces.tokens, T - t);
    const View<S> a = dy.middle_rows(t, tokens);
    const MutableView<S> c = dx.middle_rows(t, tokens).middle_cols(d, cols);
    const Index blocks = (tokens + wide - 1) / wide;
    const auto used = [&](Index j) { return std::min(wide, tokens - j * wide); };
    const auto whole = [&](Index j) { return (used(j) + group - 1) / group * group; };

    bool started = add;
    for (Index j = 0; j < blocks && add; ++j)
      with.transpose(cols, used(j), c.data + j * wide * c.row_stride, c.row_stride,
                     memory.dx[j].values);
    // The part of the panels after `o` that is asked for while block j of tokens is made; after the
    // last ones those of the piece that the thread comes to next, if all are as fast.
    const auto asked = [&](Index o, Index j) -> kernels::Ahead {
      const Index next = o < O ? piece : piece + threads;
      if (next >= pieces.count()) return {};
      const Index p = o < O ? o / wide : 0, from = pieces.first_col(next);
      const Index all = std::min(Memory::most_panels, (O + wide - 1) / wide - p);
      const Index first = all * j / blocks, last = all * (j + 1) / blocks;
      if (first == last) return {};
      return ahead(p + first, last - first, from, std::min(pieces.cols, D - from));
    };
    for (Index o = 0; o < O; o += deep, started = true) {
      const Index depth = std::min(deep, O - o), p = o / wide, full = depth / wide;
      const Index rest = depth % wide, rest_width = (rest + group - 1) / group * group;
      const PanelBlock<S> w = panels(p, full, d, cols, memory.w);
      const PanelBlock<S> last =
          rest == 0 ? w : panels(p + full, 1, d, cols, memory.w + full * wide * cols);
      for (Index j = 0; j < blocks; ++j)
        with.transpose(depth, used(j), a.data + j * wide * a.row_stride + o, a.row_stride,
                       memory.dy[j].values);
      for (Index j = 0; j < blocks; ++j) {
        const S* dy_t = memory.dy[j].values;
        S* dx_t = memory.dx[j].values;
        if (full > 0) {
          with.panels(
              {cols, whole(j), full, w.values, w.stride, dy_t, dx_t, started, asked(o + deep, j)});
        }
        if (rest > 0) {
          with.multiply({cols,
                         whole(j),
                         {rest, last.values, rest_width, 1, dy_t + full * wide * wide, wide},
                         dx_t,
                         wide,
                         started || full > 0});
        }
      }
    }
    const LowRank<S>* fused = O == 0 ? nullptr : Pieces<S>::fused_term(terms, t, tokens);
    for (Index j = 0; j < blocks; ++j) {
      S* dx_t = memory.dx[j].values;
      if (!started) std::fill_n(dx_t, cols * wide, S(0));
      if (fused != nullptr) {
        const View<S> left = fused->left.middle_rows(t - fused->first_row + j * wide, used(j));
        const View<S> right = fused->right.middle_cols(d, cols).transposed();
        const Slab<S> left_t = slab_of(with, left.transposed(), cols, memory.term);
        with.multiply({cols,
                       whole(j),
                       {right.cols, right.data, right.row_stride, right.col_stride, left_t.data,
                        left_t.stride},
                       dx_t,
                       wide,
                       true});
      }
      with.transpose_out(used(j), cols, dx_t, wide, c.data + j * wide * c.row_stride, c.row_stride);
    }
    for (Index j = 0; j < cols; j += wide) {
      const Index n = std::min(wide, cols - j);
      Pieces<S>::add_terms(with, terms, fused, t, d + j, c.middle_cols(j, n), memory.term);
    }
  };

  const Index slots = std::min(threads, pieces.count());
  Memory* memories = Memory::of_this_thread(slots);
  std::atomic<Index> next{0};
  parallel_for(slots, 1, [&](Index begin, Index end) {
    for (Index slot = begin; slot < end; ++slot) {
      for (Index piece; (piece = next.fetch_add(1)) < pieces.count();)
        make_piece(piece, memories[slot]);
    }
  });
}

}  // namespace LORA_NAMESPACE::detail
