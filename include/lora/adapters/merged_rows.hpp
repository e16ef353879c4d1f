// Adds low-rank changes to rows of a stored weight.
#pragma once

#include <lora/layers/merging.hpp>

#include <cstdint>
#include <span>
#include <vector>

namespace lora {

/// Returns the part of a change for rows first … first + count - 1 of a weight stored in `layout`,
/// in O(1).
template <class S>
LowRankDelta<S> rows_of_change(const LowRankDelta<S>& change, Layout layout, Index first,
                               Index count) {
  if (layout == Layout::out_in)
    return {change.scale, change.left.middle_rows(first, count), change.right};
  return {change.scale, change.left, change.right.middle_cols(first, count)};
}

/// Computes to = c ∘ from + Σ scale · left · right for row-major `from` and `to` of (rows, cols),
/// which may be the same. The changes are already cut to these rows. They are summed in S, and the
/// sum is added and rounded once. `c` has one factor per output of these rows; empty: all 1. Runs
/// on all threads. Does not check shapes or finiteness.
/// Allocates: nothing.
template <class S>
void merge_rows(std::span<const LowRankDelta<S>> changes, Layout layout, Index rows, Index cols,
                const S* from, S* to, std::span<const S> c = {}) {
  detail::scale_and_add_changes<S>({c, Side::outputs}, changes, rows, cols,
                                   layout == Layout::in_out, from, to);
}
/// Does the same for values stored as bfloat16.
inline void merge_rows(std::span<const LowRankDelta<float>> changes, Layout layout, Index rows,
                       Index cols, const std::uint16_t* from, std::uint16_t* to,
                       std::span<const float> c = {}) {
  using kernels::BF16;
  static_assert(sizeof(BF16) == sizeof(std::uint16_t) && alignof(BF16) == alignof(std::uint16_t));
  detail::scale_and_add_changes<float>(
      {c, Side::outputs}, changes, rows, cols, layout == Layout::in_out,
      reinterpret_cast<const BF16*>(from), reinterpret_cast<BF16*>(to));
}

}  // namespace lora
