// The softmax of one row of attention scores, forward and backward.
#pragma once

#include <lora/core/scalar.hpp>
#include <lora/core/types.hpp>
#include <lora/kernels/dispatch.hpp>
#include <lora/nn/rows.hpp>

#include <algorithm>
#include <cmath>
#include <type_traits>

namespace lora::detail {

template <class S>
struct SoftmaxRow {
  S sum, lse;
};

/// Replaces x[from … to - 1] by exp(x − max) and the rest of the n elements by 0; from < to.
/// Returns the sum of the exponentials and log Σ exp(x).
template <class S>
SoftmaxRow<S> softmax_numerators(S* x, Index n, Index from, Index to) {
  using std::exp;
  using std::log;
  using Wide = WideOf<S>;
  std::fill(x, x + from, S(0));
  std::fill(x + to, x + n, S(0));
  S most = x[from];
  Wide sum = 0;
  if constexpr (std::is_same_v<S, float>) {
    const auto with = kernels::softmax_kernels();
    most = with.largest(to - from, x + from);
    sum = with.exponentials(to - from, x + from, most, x + from);
  } else {
    for (Index j = from; j < to; ++j) most = real_part(x[j]) > real_part(most) ? x[j] : most;
    for (Index j = from; j < to; ++j) sum += static_cast<Wide>(x[j] = exp(x[j] - most));
  }
  return {static_cast<S>(sum), static_cast<S>(static_cast<Wide>(most) + log(sum))};
}

/// Replaces x[from … to - 1] by p = exp(x − lse) and dp by p (dp − level); sets the rest of both to
/// 0.
template <class S>
void softmax_backward(S* x, Index n, Index from, Index to, S lse, S level, S* dp) {
  using std::exp;
  for (S* row : {x, dp}) {
    std::fill(row, row + from, S(0));
    std::fill(row + to, row + n, S(0));
  }
  if constexpr (std::is_same_v<S, float>) {
    kernels::softmax_kernels().exponentials(to - from, x + from, lse, x + from);
  } else {
    for (Index j = from; j < to; ++j) x[j] = exp(x[j] - lse);
  }
  map_row(to - from, dp + from,
          [=, p = x + from, d = dp + from](Index j) { return p[j] * (d[j] - level); });
}

}  // namespace lora::detail
