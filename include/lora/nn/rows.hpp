// Sums over a row and sums of matrices: what norms, attention and residual connections are made of.
#pragma once

#include <lora/core/error.hpp>
#include <lora/core/overlap.hpp>
#include <lora/core/parallel.hpp>
#include <lora/core/scalar.hpp>
#include <lora/core/types.hpp>

#include <algorithm>

namespace lora {

/// Calls fn(first row, past the last) for shares of rows of so many elements that a thread is worth
/// waking. What is computed in a row does not depend on its share.
template <class Fn>
void for_row_shares(Index rows, Index cols, Fn&& fn) {
  parallel_for(rows, std::max<Index>(1, 16384 / std::max<Index>(cols, 1)), fn);
}

/// Σ f(i) for i < n, in an order that depends on n alone: sixteen sums side by side, which are then
/// added in double for float. f is called once for each i.
template <class S, class F>
WideOf<S> sum_over(Index n, F&& f) {
  constexpr Index lanes = 16;
  S part[lanes] = {};
  Index i = 0;
  for (; i + lanes <= n; i += lanes) {
    for (Index k = 0; k < lanes; ++k) part[k] += f(i + k);
  }
  WideOf<S> sum = 0;
  for (Index k = 0; k < lanes; ++k) sum += static_cast<WideOf<S>>(part[k]);
  for (; i < n; ++i) sum += static_cast<WideOf<S>>(f(i));
  return sum;
}

/// out[i] = f(i) for i < n. Sixteen values are made before any of them is stored, so that a
/// compiler uses its registers whatever f reads; f(i) may read out[i], no other element of it.
template <class S, class F>
void map_row(Index n, S* out, F&& f) {
  constexpr Index lanes = 16;
  Index i = 0;
  for (; i + lanes <= n; i += lanes) {
    S value[lanes];
    for (Index k = 0; k < lanes; ++k) value[k] = f(i + k);
    for (Index k = 0; k < lanes; ++k) out[i + k] = value[k];
  }
  for (; i < n; ++i) out[i] = f(i);
}

/// Σ x_i y_i, without conjugation, in sum_over's order.
template <class S>
WideOf<S> dot_product(Index n, const S* x, const S* y) {
  return sum_over<S>(n, [=](Index i) { return x[i] * y[i]; });
}

/// y += x, both (T, D), rows shared between threads; x may be y itself. Throws ShapeError, and Error
/// when x overlaps a part of y. Allocates nothing.
template <class S>
void add_rows(In<S> x, Out<S> y) {
  expect_shape("add_rows", "x", x, y.rows(), y.cols());
  expect_same_or_apart<S>("add_rows", "y", y, "x", x);
  for_row_shares(y.rows(), y.cols(), [&](Index begin, Index end) {
    for (Index t = begin; t < end; ++t) {
      const S* from = x.data() + t * x.outerStride();
      S* to = y.data() + t * y.outerStride();
      map_row(y.cols(), to, [=](Index i) { return to[i] + from[i]; });
    }
  });
}

/// y_j += Σ_t f(t, j) for j < n, one column of rows t = 0 … rows - 1 after the other: the order of
/// the sum is that of the rows. Columns are shared between threads. Allocates nothing.
template <class S, class F>
void add_column_sums(Index rows, Index n, S* y, F&& f) {
  parallel_for(n, std::max<Index>(16, 16384 / std::max<Index>(rows, 1)),
               [&](Index begin, Index end) {
                 for (Index t = 0; t < rows; ++t) {
                   for (Index j = begin; j < end; ++j) y[j] += f(t, j);
                 }
               });
}

}  // namespace lora
