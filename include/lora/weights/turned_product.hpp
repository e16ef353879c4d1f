// Computes dx = dy W from the panels packed for x Wᵀ. It forms dxᵀ = Wᵀ dyᵀ, so only dy and dx are
// transposed, never W, which is far larger.
#pragma once

#include <lora/core/aligned_array.hpp>
#include <lora/kernels/dispatch.hpp>
#include <lora/weights/pieces.hpp>

#include <algorithm>
#include <atomic>
#include <span>

namespace lora::detail {

/// Panels of W for a range of columns of dx. All have the same width: 48 outputs, or for the last
/// panel of W those that remain, rounded up to a multiple of 16. The first panel has W(o, d) at
/// values[d·width + o]; panels are `stride` apart.
template <class S>
struct PanelBlock {
  const S* values;
  Index stride;
};

/// A thread's workspace for the product. The sizes were chosen by measuring 96 to 384 outputs at a
/// time, 96 to 384 columns and 4 to 11 blocks of tokens.
template <class S>
struct TurnedMemory {
  static constexpr Index wide = kernels::slab_columns;
  static constexpr Index most_panels = 4, deep = most_panels * wide;  ///< outputs at a time
  static constexpr Index tall = 192;                                  ///< columns of dx
  static constexpr Index blocks = 6;                                  ///< blocks of `wide` tokens

  SlabMemory<S, deep> dy[blocks];  ///< dyᵀ, block by block
  SlabMemory<S, tall> dx[blocks];  ///< dxᵀ
  alignas(64) S w[tall * deep];    ///< W as S, when it is stored as another type
  SlabMemory<S> term;

  /// Returns workspaces for `count` threads. The calling thread keeps them until it ends, so
  /// further calls with the same count do not allocate.
  /// Throws: std::bad_alloc.
  static TurnedMemory* of_this_thread(Index count) {
    thread_local AlignedArray<TurnedMemory> kept;
    if (kept.size() < count) {
      kept = {};
      kept = AlignedArray<TurnedMemory>(count);
    }
    return kept.data();
  }
};

/// Cuts dx (T, D) into one-thread pieces of whole column registers and whole token blocks, sized so
/// that the busiest thread has as little work as possible.
template <class S>
struct TurnedPieces {
  using Memory = TurnedMemory<S>;
  Index cols = 0, col_pieces = 0, tokens = 0, token_pieces = 0;

  TurnedPieces(Index D, Index T, Index threads) {
    constexpr Index group = kernels::slab_group, wide = Memory::wide;
    // The cost of transposing dy and of reading W, expressed in additional columns and tokens.
    constexpr double columns_for_dy = 12, tokens_for_w = 8;
    const auto pieces = [](Index n, Index size) { return (n + size - 1) / size; };
    double least = 0;
    for (Index t = wide * Memory::blocks; t > 0; t -= wide) {
      for (Index c = Memory::tall; c > 0; c -= group) {
        const Index across = pieces(D, c), along = pieces(T, t);
        const double turns = static_cast<double>(pieces(across * along, threads));
        const double time = turns * (static_cast<double>(std::min(t, T)) + tokens_for_w) *
                            (static_cast<double>(std::min(c, D)) + columns_for_dy);
        if (least > 0 && time >= least) continue;
        least = time;
        cols = c, col_pieces = across, tokens = t, token_pieces = along;
      }
    }
  }
  Index count() const { return col_pieces * token_pieces; }
  /// Pieces of the same columns are consecutive, so that the threads read the same part of W.
  Index first_col(Index piece) const { return piece / token_pieces * cols; }
  Index first_token(Index piece) const { return piece % token_pieces * tokens; }
};

/// One piece of dx, which a thread computes as dxᵀ in its workspace. dx and dy are the piece's
/// views; dx has at most as many tokens and columns as the workspace holds.
template <class S>
class TurnedPiece {
  using Memory = TurnedMemory<S>;
  static constexpr Index wide = Memory::wide, group = kernels::slab_group;

 public:
  TurnedPiece(const kernels::ProductKernels<S>& with, const View<S>& dy, const MutableView<S>& dx,
              Memory& memory)
      : with_(with), dy_(dy), dx_(dx), memory_(memory) {}

  Index blocks() const { return (dx_.rows + wide - 1) / wide; }

  /// Loads dx into dxᵀ.
  void load() {
    for (Index j = 0; j < blocks(); ++j)
      with_.transpose(dx_.cols, tokens(j), place(j), dx_.row_stride, memory_.dx[j].values);
  }
  void clear() {
    for (Index j = 0; j < blocks(); ++j) std::fill_n(memory_.dx[j].values, dx_.cols * wide, S(0));
  }
  /// Stores dxᵀ to dx.
  void store() {
    for (Index j = 0; j < blocks(); ++j)
      with_.transpose_out(tokens(j), dx_.cols, memory_.dx[j].values, wide, place(j),
                          dx_.row_stride);
  }

  /// Transposes outputs o … o + depth - 1 of dy into the workspace, where the next two functions
  /// read them.
  void take(Index o, Index depth) {
    for (Index j = 0; j < blocks(); ++j)
      with_.transpose(depth, tokens(j), dy_.data + j * wide * dy_.row_stride + o, dy_.row_stride,
                      memory_.dy[j].values);
  }
  /// Adds the terms of `count` whole panels to block j of the tokens of dxᵀ, or sets it to them.
  void add_panels(Index j, Index count, const PanelBlock<S>& w, bool add,
                  const kernels::Ahead& ahead) {
    with_.panels({dx_.cols, whole(j), count, w.values, w.stride, memory_.dy[j].values,
                  memory_.dx[j].values, add, ahead});
  }
  /// Does the same for the `used` outputs of the last panel, which follow `before` panels in dyᵀ.
  void add_rest(Index j, Index before, Index used, const PanelBlock<S>& w, bool add,
                const kernels::Ahead& ahead) {
    const S* dy_t = memory_.dy[j].values + before * wide * wide;
    add_terms(j, {used, w.values, round_up(used), 1, dy_t, wide}, add, ahead);
  }
  /// Adds (left · right)ᵀ to dxᵀ; left is (T, R), right is (R, D).
  void add_term(const View<S>& left, const View<S>& right) {
    for (Index j = 0; j < blocks(); ++j) {
      const View<S> left_t = left.middle_rows(j * wide, tokens(j)).transposed();
      const Slab<S> slab = slab_of(with_, left_t, dx_.cols, memory_.term);
      add_terms(
          j, {right.rows, right.data, right.col_stride, right.row_stride, slab.data, slab.stride},
          true);
    }
  }

 private:
  static Index round_up(Index n) { return (n + group - 1) / group * group; }
  Index tokens(Index j) const { return std::min(wide, dx_.rows - j * wide); }
  /// The tokens of block j, padded with zeros.
  Index whole(Index j) const { return round_up(tokens(j)); }
  S* place(Index j) const { return dx_.data + j * wide * dx_.row_stride; }
  void add_terms(Index j, const kernels::Terms<S>& terms, bool add,
                 const kernels::Ahead& ahead = {}) {
    with_.multiply({dx_.cols, whole(j), terms, memory_.dx[j].values, wide, add, {}, ahead});
  }

  const kernels::ProductKernels<S>& with_;
  View<S> dy_;
  MutableView<S> dx_;
  Memory& memory_;
};

/// Computes dx (+)= dy W + Σ terms; dy is (T, O) with contiguous rows, dx is (T, D). panels(p,
/// count, d, cols, to) returns `count` panels of W from p on as S for the columns from d on of dx,
/// and may build them in `to`. ahead(p, count, d, cols) returns the memory that they are read from.
/// Each element is one chain over o, then over the ranks of the terms, as in product().
/// Throws: std::bad_alloc before anything is written.
/// Allocates: TurnedMemory for num_threads(), if the calling thread does not have it yet.
/// Threads: several may call it at once.
template <class S, class PanelsFn, class AheadFn>
void multiply_turned(const View<S>& dy, const MutableView<S>& dx, std::span<const LowRank<S>> terms,
                     bool add, PanelsFn&& panels, AheadFn&& ahead) {
  using Memory = TurnedMemory<S>;
  constexpr Index wide = Memory::wide, deep = Memory::deep;
  const Index O = dy.cols, D = dx.cols, T = dx.rows;
  if (D == 0 || T == 0) return;
  const auto with = kernels::product_kernels<S>();
  const Index threads = num_threads();
  const TurnedPieces<S> pieces(D, T, threads);

  const auto make = [&](Index i, Memory& memory) {
    const Index d = pieces.first_col(i), cols = std::min(pieces.cols, D - d);
    const Index t = pieces.first_token(i), tokens = std::min(pieces.tokens, T - t);
    const MutableView<S> c = dx.middle_rows(t, tokens).middle_cols(d, cols);
    TurnedPiece<S> piece(with, dy.middle_rows(t, tokens), c, memory);
    if (add) piece.load();
    if (O == 0 && !add) piece.clear();

    // What to prefetch while block j of the tokens is computed: its share of the panels from `o`
    // on. After the last panels, prefetch for the piece that this thread takes next if all threads
    // are equally fast.
    const auto asked = [&](Index o, Index j) -> kernels::Ahead {
      const Index next = o < O ? i : i + threads;
      if (next >= pieces.count()) return {};
      const Index p = o < O ? o / wide : 0, from = pieces.first_col(next);
      const Index all = std::min(Memory::most_panels, (O + wide - 1) / wide - p);
      const Index first = all * j / piece.blocks(), last = all * (j + 1) / piece.blocks();
      if (first == last) return {};
      return ahead(p + first, last - first, from, std::min(pieces.cols, D - from));
    };
    for (Index o = 0; o < O; o += deep) {
      const Index depth = std::min(deep, O - o), whole = depth / wide, rest = depth % wide;
      const bool started = add || o > 0;
      piece.take(o, depth);
      if (whole > 0) {
        const PanelBlock<S> w = panels(o / wide, whole, d, cols, memory.w);
        for (Index j = 0; j < piece.blocks(); ++j)
          piece.add_panels(j, whole, w, started, asked(o + deep, j));
      }
      if (rest > 0) {
        const PanelBlock<S> w = panels(o / wide + whole, 1, d, cols, memory.w);
        for (Index j = 0; j < piece.blocks(); ++j)
          piece.add_rest(j, whole, rest, w, started || whole > 0,
                         whole > 0 ? kernels::Ahead{} : asked(o + deep, j));
      }
    }
    const LowRank<S>* fused = Pieces<S>::fused_term(terms, t, tokens);
    if (fused != nullptr) {
      piece.add_term(fused->left.middle_rows(t - fused->first_row, tokens),
                     fused->right.middle_cols(d, cols));
    }
    piece.store();
    for (Index j = 0; j < cols; j += wide) {
      const Index n = std::min(wide, cols - j);
      Pieces<S>::add_terms(with, terms, fused, t, d + j, c.middle_cols(j, n), memory.term);
    }
  };

  Memory* memories = Memory::of_this_thread(threads);
  std::atomic<Index> next{0};
  parallel_for(std::min(threads, pieces.count()), 1, [&](Index begin, Index end) {
    for (Index slot = begin; slot < end; ++slot) {
      for (Index i; (i = next.fetch_add(1)) < pieces.count();) make(i, memories[slot]);
    }
  });
}

}  // namespace lora::detail
