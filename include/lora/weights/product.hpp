// The library's matrix product: C (+)= A B over strided views, computed on all threads.
#pragma once

#include <lora/core/error.hpp>
#include <lora/core/parallel.hpp>
#include <lora/kernels/dispatch.hpp>
#include <lora/weights/slab.hpp>

#include <algorithm>

namespace lora {

namespace detail {
/// The shape of a view, in the form that expect_shape reads.
struct Extent {
  Index row_count, col_count;
  Index rows() const { return row_count; }
  Index cols() const { return col_count; }
};

/// The most rows of A and C in one piece of work. They are few enough for A's rows to stay in the
/// second-level cache while all of B streams past, and many enough to amortise packing a slab of B.
inline constexpr Index piece_rows = 128;

/// Returns piece_rows, or fewer (a multiple of the tile height) when there would be less than one
/// piece per thread: a narrow result such as x Aᵀ has only rows to share.
inline Index rows_of_a_piece(Index rows, Index column_pieces) {
  const Index tile = 8, threads = num_threads();
  const Index shared = (rows * column_pieces + threads - 1) / threads;
  return std::clamp((shared + tile - 1) / tile * tile, tile, piece_rows);
}
}  // namespace detail

/// Computes C = A B, or C += A B; A is (m, k), B is (k, n), C is (m, n). With k = 0 the product is
/// zero.
/// Each element is one chain of k multiply-adds in ascending order, starting from zero or from C.
/// Splitting rows into batches, k into several calls or the work between threads gives the same
/// bits; another instruction set may not. C must not overlap A or B. B may have any strides: each
/// slab is read in place, copied or transposed.
/// Throws: ShapeError.
/// Allocates: nothing once the workers run.
/// Source: blocking as in GotoBLAS.
template <class S>
void product(const View<S>& a, const View<S>& b, const MutableView<S>& c,
             Accumulate accumulate = Accumulate::no) {
  expect_shape("product", "B", detail::Extent{b.rows, b.cols}, a.cols, -1);
  expect_shape("product", "C", detail::Extent{c.rows, c.cols}, a.rows, b.cols);
  const Index m = c.rows, n = c.cols;
  const bool add = accumulate == Accumulate::yes;
  if (m == 0 || n == 0 || (a.cols == 0 && add)) return;
  const Index wide = kernels::slab_columns, column_pieces = (n + wide - 1) / wide;
  const Index tall = detail::rows_of_a_piece(m, column_pieces);
  const Index row_pieces = (m + tall - 1) / tall;
  const bool small =
      static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(a.cols) < 40000;
  const auto with = kernels::product_kernels<S>();
  parallel_for(column_pieces * row_pieces, small ? column_pieces * row_pieces : 1,
               [&](Index begin, Index end) {
                 detail::SlabMemory<S> memory;
                 for (Index piece = begin; piece < end; ++piece) {
                   const Index i = piece / column_pieces * tall, j = piece % column_pieces * wide;
                   const Index rows = std::min(tall, m - i), cols = std::min(wide, n - j);
                   detail::multiply_columns(with, a.middle_rows(i, rows), b.middle_cols(j, cols),
                                            c.middle_rows(i, rows).middle_cols(j, cols), add,
                                            memory);
                 }
               });
}

}  // namespace lora
