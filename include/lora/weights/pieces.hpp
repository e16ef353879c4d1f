// The result of a product cut into pieces that one thread makes, and the low-rank terms added to
// them.
#pragma once

#include <lora/core/parallel.hpp>
#include <lora/weights/low_rank.hpp>
#include <lora/weights/product.hpp>
#include <lora/weights/slab.hpp>

#include <algorithm>
#include <span>

namespace lora::detail {

/// Pieces of at most piece_rows rows and slab_columns columns.
template <class S>
struct Pieces {
  static constexpr Index wide = kernels::slab_columns;
  /// What one thread needs: a slab of W, and one of a low-rank term that is added with it. Less
  /// than 100 KiB, since some systems give a thread a stack of 128.
  static constexpr Index most_fused = 128;
  struct Memory {
    SlabMemory<S> slab;
    SlabMemory<S, most_fused> term;
  };
  static_assert(sizeof(Memory) < 100 * 1024, "it lies on the stack of a thread");

  /// fn(first row, rows, block of columns, memory) for each piece of a (rows, columns) result.
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

  /// The term that is added while tiles of rows i … are in registers: the first, if all these rows
  /// have it; null: there is none, or of no rank.
  static const LowRank<S>* fused_term(std::span<const LowRank<S>> terms, Index i, Index rows) {
    if (terms.empty()) return nullptr;
    const LowRank<S>& first = terms.front();
    const bool whole = first.first_row <= i && first.first_row + first.left.rows >= i + rows;
    return whole && first.right.rows > 0 && first.right.rows <= most_fused ? &first : nullptr;
  }
  /// The fused term's part for rows i … and columns j … of the result.
  static kernels::Terms<S> terms_of(const kernels::ProductKernels<S>& with, const LowRank<S>& term,
                                    Index i, Index rows, Index j, Index cols,
                                    SlabMemory<S, most_fused>& memory) {
    const View<S> left = term.left.middle_rows(i - term.first_row, rows);
    const View<S> right = term.right.middle_cols(j, cols);
    const Slab<S> slab = slab_of(with, right, rows, memory);
    return {right.rows, left.data, left.row_stride, left.col_stride, slab.data, slab.stride};
  }

  /// Adds the terms but `done` to c, which is there already.
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
};

}  // namespace lora::detail
