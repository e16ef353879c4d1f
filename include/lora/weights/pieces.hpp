// Cuts the result of a product into pieces for the threads and adds low-rank terms to them.
#pragma once

#include <lora/core/parallel.hpp>
#include <lora/weights/low_rank.hpp>
#include <lora/weights/product.hpp>
#include <lora/weights/slab.hpp>

#include <algorithm>
#include <span>

namespace lora::detail {

/// Pieces of at most piece_rows rows and slab_columns columns, each computed by one thread.
template <class S>
struct Pieces {
  static constexpr Index wide = kernels::slab_columns;
  /// The largest rank of a fused term. Memory is a thread's workspace: a slab of W and a slab of
  /// the term fused with it. It stays below 100 KiB because some systems give a thread a stack of
  /// 128 KiB.
  static constexpr Index most_fused = 128;
  struct Memory {
    SlabMemory<S> slab;
    SlabMemory<S, most_fused> term;
  };
  static_assert(sizeof(Memory) < 100 * 1024, "it lies on the stack of a thread");

  /// Calls fn(first row, rows, block of columns, memory) for each piece of a (rows, columns)
  /// result.
  template <class Fn>
  static void for_each(Index columns, Index rows, Fn&& fn) {
    const Index blocks = (columns + wide - 1) / wide, tall = piece_rows;
    const Index row_pieces = (rows + tall - 1) / tall;
    parallel_for(blocks * row_pieces, 1, [&](Index begin, Index end) {
      Memory memory;
      for (Index piece = begin; piece < end; ++piece) {
        const Index i = piece / blocks * tall;
        fn(i, std::min(tall, rows - i), piece % blocks, memory);
      }
    });
  }

  /// Returns the term to add while tiles of the rows from i on are in registers: the first one, if
  /// it covers all these rows, or null if it does not or its rank is 0 or above most_fused.
  static const LowRank<S>* fused_term(std::span<const LowRank<S>> terms, Index i, Index rows) {
    if (terms.empty()) return nullptr;
    const LowRank<S>& first = terms.front();
    const bool whole = first.first_row <= i && first.first_row + first.left.rows >= i + rows;
    return whole && first.right.rows > 0 && first.right.rows <= most_fused ? &first : nullptr;
  }
  /// The part of the fused term for rows i … and columns j … of the result.
  static kernels::Terms<S> terms_of(const kernels::ProductKernels<S>& with, const LowRank<S>& term,
                                    Index i, Index rows, Index j, Index cols,
                                    SlabMemory<S, most_fused>& memory) {
    const View<S> left = term.left.middle_rows(i - term.first_row, rows);
    const View<S> right = term.right.middle_cols(j, cols);
    const Slab<S> slab = slab_of(with, right, rows, memory);
    return {right.rows, left.data, left.row_stride, left.col_stride, slab.data, slab.stride};
  }

  /// Adds all terms except `done` to c, which holds the product already.
  static void add_terms(const kernels::ProductKernels<S>& with, std::span<const LowRank<S>> terms,
                        const LowRank<S>* done, Index i, Index j, const MutableView<S>& c,
                        SlabMemory<S>& memory) {
    for (const LowRank<S>& term : terms) {
      const Index first = std::max(i, term.first_row);
      const Index last = std::min(i + c.rows, term.first_row + term.left.rows);
      if (&term == done || first >= last) continue;
      multiply_columns(with, term.left.middle_rows(first - term.first_row, last - first),
                       term.right.middle_cols(j, c.cols), c.middle_rows(first - i, last - first),
                       true, memory);
    }
  }

  /// Computes c (+)= a W' + Σ terms for the piece of the result at row i and column j.
  /// weight_slab(k, depth) returns the rows from k on of W' as the kernels read them. ahead(k)
  /// returns the memory to prefetch for them; at k = a.cols, that of the next piece. A term that
  /// covers all rows of the piece is added while its tiles are in registers.
  template <class Fn, class AheadFn>
  static void multiply(const kernels::ProductKernels<S>& with, const View<S>& a,
                       std::span<const LowRank<S>> terms, Index i, Index j, const MutableView<S>& c,
                       bool add, Memory& memory, Fn&& weight_slab, AheadFn&& ahead) {
    const LowRank<S>* fused = a.cols == 0 ? nullptr : fused_term(terms, i, c.rows);
    for (Index k = 0; k < a.cols; k += kernels::slab_depth<S>, add = true) {
      const Index depth = std::min(kernels::slab_depth<S>, a.cols - k);
      const auto slab = weight_slab(k, depth);
      using B = std::remove_cvref_t<decltype(*slab.data)>;
      kernels::BlockProduct<S, B> block = {
          c.rows, c.cols,       {depth, a.data + k, a.row_stride, 1, slab.data, slab.stride},
          c.data, c.row_stride, add};
      block.ahead = ahead(k + depth);
      if (fused != nullptr && k + depth == a.cols)
        block.more = terms_of(with, *fused, i, c.rows, j, c.cols, memory.term);
      if constexpr (std::is_same_v<B, S>) {
        with.multiply(block);
      } else {
        kernels::bf16_kernels<S>().multiply(block);
      }
    }
    if (!add) {
      for (Index row = 0; row < c.rows; ++row)
        std::fill_n(c.data + row * c.row_stride, c.cols, S(0));
    }
    add_terms(with, terms, fused, i, j, c, memory.slab);
  }
};

}  // namespace lora::detail
