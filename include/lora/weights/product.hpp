// The matrix product of the library: C (+)= A B over strided views, shared between threads.
#pragma once

#include <lora/core/error.hpp>
#include <lora/core/parallel.hpp>
#include <lora/kernels/gemm.hpp>

#include <algorithm>

namespace LORA_NAMESPACE {

namespace detail {
/// The shape of a view, as expect_shape asks for it.
struct Extent {
  Index row_count, col_count;
  Index rows() const { return row_count; }
  Index cols() const { return col_count; }
};
}  // namespace detail

/// C = A B, or C += A B; A (m, k), B (k, n), C (m, n). With k = 0 the product is zero.
/// Each element is summed in an order that depends on k alone, so splitting rows into batches or using another number of
/// threads gives the same bits. C must not overlap A or B. Skinny products of both kinds (n or m = rank) are served well:
/// B is read where it stands if its rows are contiguous, and packed block by block if not.
/// Throws ShapeError. Allocates nothing once the workers run. Source: GotoBLAS's blocking.
template <class S>
void product(const View<S>& a, const View<S>& b, const MutableView<S>& c,
             Accumulate accumulate = Accumulate::no) {
  expect_shape("product", "B", detail::Extent{b.rows, b.cols}, a.cols, -1);
  expect_shape("product", "C", detail::Extent{c.rows, c.cols}, a.rows, b.cols);
  const Index m = c.rows, n = c.cols, k = a.cols;
  if (m == 0 || n == 0) return;
  const bool add = accumulate == Accumulate::yes;
  if (k == 0) {
    for (Index i = 0; i < m && !add; ++i) std::fill_n(c.data + i * c.row_stride, n, S(0));
    return;
  }
  const Index wide = kernels::gemm_columns;
  const Index tall =
      n > wide ? 512 : 64;  // packing a block of B is paid for by the rows that use it
  const Index column_tiles = (n + wide - 1) / wide, row_tiles = (m + tall - 1) / tall;
  const bool small = m * n * k < 40000;
  parallel_for(column_tiles * row_tiles, small ? column_tiles * row_tiles : 1,
               [&](Index begin, Index end) {
                 for (Index tile = begin; tile < end; ++tile) {
                   const Index i = tile % row_tiles * tall, j = tile / row_tiles * wide;
                   kernels::gemm_tile<S>(std::min(tall, m - i), std::min(wide, n - j), k,
                                         a.data + i * a.row_stride, a.row_stride, a.col_stride,
                                         b.data + j * b.col_stride, b.row_stride, b.col_stride,
                                         c.data + i * c.row_stride + j, c.row_stride, add);
                 }
               });
}

}  // namespace LORA_NAMESPACE
