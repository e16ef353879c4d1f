// Rows of a stored weight with low-rank changes added, from memory to memory.
#pragma once

#include <lora/layers/merging.hpp>

#include <cstdint>
#include <span>
#include <vector>

namespace lora {

/// The part of a change that concerns rows first … first + count - 1 of a stored weight;
/// `layout` is that of the weight. O(1).
template <class S>
LowRankDelta<S> rows_of_change(const LowRankDelta<S>& change, Layout layout, Index first,
                               Index count) {
  if (layout == Layout::out_in)
    return {change.scale, change.left.middle_rows(first, count), change.right};
  return {change.scale, change.left, change.right.middle_cols(first, count)};
}

/// to = c ∘ from + Σ scale · left · right for row-major `from` and `to` of (rows, cols), which may
/// be the same: the changes, already cut to these rows, are summed in S, added and rounded once. `c`
/// has a factor for each output of these rows, none: 1. On all threads. Does not check shapes or
/// finiteness. Allocates: nothing.
template <class S>
void merge_rows(std::span<const LowRankDelta<S>> changes, Layout layout, Index rows, Index cols,
                const S* from, S* to, std::span<const S> c = {}) {
  detail::scale_and_add_changes<S>({c, Side::outputs}, changes, rows, cols,
                                   layout == Layout::in_out, from, to);
}
/// The same for values that are stored as bfloat16.
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
