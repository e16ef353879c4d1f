// Row sums and sums of matrices, the building blocks of norms, attention and residual connections.
#pragma once

#include <lora/core/error.hpp>
#include <lora/core/overlap.hpp>
#include <lora/core/parallel.hpp>
#include <lora/core/scalar.hpp>
#include <lora/core/types.hpp>

#include <algorithm>

namespace lora {

/// Calls fn(first row, past the last) for ranges of rows that hold enough elements to be worth
/// waking a thread. The result of a row must not depend on its range.
template <class Fn>
void for_row_shares(Index rows, Index cols, Fn&& fn) {
  parallel_for(rows, std::max<Index>(1, 16384 / std::max<Index>(cols, 1)), fn);
}

/// Returns Σ f(i) for i < n in an order that depends only on n: sixteen parallel sums, which are
/// then added in double for float. Calls f once for each i.
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

/// Computes out[i] = f(i) for i < n. Computes sixteen values before it stores any of them, so that
/// the compiler uses registers whatever f reads. f(i) may read out[i] but no other element of out.
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

/// Returns Σ x_i y_i, without conjugation, in the order of sum_over().
template <class S>
WideOf<S> dot_product(Index n, const S* x, const S* y) {
  return sum_over<S>(n, [=](Index i) { return x[i] * y[i]; });
}

/// Computes y += x; both are (T, D). x may be y itself.
/// Throws: ShapeError; Error when x overlaps a part of y.
/// Allocates: nothing.
/// Threads: shares rows between the workers.
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

/// Computes y_j += Σ_t f(t, j) for j < n, summed in the order of the rows t = 0 … rows - 1. Threads
/// share the columns.
/// Allocates: nothing.
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
