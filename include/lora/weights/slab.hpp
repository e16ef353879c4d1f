// Packs a block of B for the kernels of a product.
#pragma once

#include <lora/core/types.hpp>
#include <lora/kernels/panel_tiles.hpp>

#include <algorithm>

namespace lora {

namespace detail {

/// Memory for a slab of `Depth` rows, on the stack of its thread.
template <class S, Index Depth = kernels::slab_depth<S>>
struct SlabMemory {
  alignas(64) S values[static_cast<std::size_t>(Depth * kernels::slab_columns)];
};

/// A block of B in the form that the kernels read.
template <class S>
struct Slab {
  const S* data;
  Index stride;
};

/// Returns b, a block of at most Depth x slab_columns, as a slab. Reads it in place if its rows are
/// contiguous and either few rows of A will use it or it is narrow; otherwise packs it into
/// `memory`. Rows far apart would share cache sets and evict each other between two tiles.
template <class S, Index Depth>
Slab<S> slab_of(const kernels::ProductKernels<S>& with, const View<S>& b, Index rows_of_a,
                SlabMemory<S, Depth>& memory) {
  constexpr Index width = kernels::slab_columns, group = kernels::slab_group;
  if (b.col_stride == 1 && b.cols % group == 0 &&
      (rows_of_a <= 2 * kernels::few_rows || b.row_stride <= 2 * width)) {
    return {b.data, b.row_stride};
  }
  S* to = memory.values;
  if (b.row_stride == 1) {
    with.transpose(b.rows, b.cols, b.data, b.col_stride, to);
    return {to, width};
  }
  if (b.col_stride == 1) {
    with.copy(b.rows, b.cols, b.data, b.row_stride, to);
    return {to, width};
  }
  const Index whole = (b.cols + group - 1) / group * group;
  for (Index k = 0; k < b.rows; ++k) {
    const S* from = b.data + k * b.row_stride;
    for (Index j = 0; j < b.cols; ++j) to[k * width + j] = from[j * b.col_stride];
    std::fill(to + k * width + b.cols, to + k * width + whole, S(0));
  }
  return {to, width};
}

/// Computes C (+)= A B for a block of C of at most slab_columns columns, one slab of B at a time.
/// With k = 0 and without `add` the block becomes zero.
template <class S>
void multiply_columns(const kernels::ProductKernels<S>& with, const View<S>& a, const View<S>& b,
                      const MutableView<S>& c, bool add, SlabMemory<S>& memory) {
  constexpr Index deep = kernels::slab_depth<S>;
  if (a.cols == 0 && !add) {
    for (Index i = 0; i < c.rows; ++i) std::fill_n(c.data + i * c.row_stride, c.cols, S(0));
  }
  Index k = 0;
  if (c.rows <= kernels::few_rows && a.col_stride == 1 && b.row_stride == 1 &&
      c.cols % kernels::few_columns<S> == 0) {
    k = a.cols / kernels::slab_group * kernels::slab_group;
    with.few(
        {c.rows, c.cols, k, a.data, a.row_stride, b.data, b.col_stride, c.data, c.row_stride, add});
    add = true;
  }
  for (; k < a.cols; k += deep, add = true) {
    const Index depth = std::min(deep, a.cols - k);
    const Slab<S> slab = slab_of(with, b.middle_rows(k, depth), c.rows, memory);
    with.multiply(
        {c.rows,
         c.cols,
         {depth, a.data + k * a.col_stride, a.row_stride, a.col_stride, slab.data, slab.stride},
         c.data,
         c.row_stride,
         add});
  }
}

}  // namespace detail

}  // namespace lora
