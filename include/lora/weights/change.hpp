// Sums low-rank deltas block by block, so that merging reads and writes the weight once.
#pragma once

#include <lora/core/half.hpp>
#include <lora/core/parallel.hpp>
#include <lora/kernels/dispatch.hpp>
#include <lora/weights/low_rank.hpp>
#include <lora/weights/slab.hpp>

#include <algorithm>
#include <span>
#include <type_traits>

namespace lora::detail {

/// A block of Σ scale · left · right that starts at row i and column j of the weight. Element (a,
/// b) of the block is data[a · slab_columns + b].
template <class S>
struct Change {
  Index i, j, rows, cols;
  const S* data;
};

/// The order in which a weight is stored: row by row, or in panels of slab_columns columns that are
/// each stored row by row.
enum class BlockOrder { rows, panels };

/// Calls fn(change) for blocks of at most 64 x 48 that cover a (rows, cols) weight, in storage
/// order. Threads share the blocks.
/// `transposed` says that the weight is stored (in, out) while the deltas are (out, in). Each
/// product is summed from zero and scaled; the deltas are then added in their order.
/// Allocates: nothing.
template <class S, class Fn>
void for_changes(std::span<const LowRankDelta<S>> deltas, Index rows, Index cols, bool transposed,
                 BlockOrder order, Fn&& fn) {
  constexpr Index wide = kernels::slab_columns, tallest = 64 * 4 / static_cast<Index>(sizeof(S));
  const bool by_rows = order == BlockOrder::rows;
  // With so few rows per block, the next block continues each row where this one stopped.
  const Index tall = by_rows ? 2 * kernels::few_rows : tallest;
  const auto with = kernels::product_kernels<S>();
  const auto merge = kernels::merge_kernels<S, S>();
  const Index stripes = (rows + tall - 1) / tall, panels = (cols + wide - 1) / wide;
  const Index outer = by_rows ? stripes : panels, inner = by_rows ? panels : stripes;
  parallel_for(outer, 1, [&](Index begin, Index end) {
    SlabMemory<S> memory;
    SlabMemory<S, tallest> product, sum;
    static_assert(sizeof(memory) + sizeof(product) + sizeof(sum) < 100 * 1024, "a thread's stack");
    for (Index block = begin * inner; block < end * inner; ++block) {
      const Index i = (by_rows ? block / inner : block % inner) * tall,
                  j = (by_rows ? block % inner : block / inner) * wide;
      const Index height = std::min(tall, rows - i), width = std::min(wide, cols - j);
      if (deltas.empty()) std::fill_n(sum.values, height * wide, S(0));
      bool add = false;
      for (const LowRankDelta<S>& delta : deltas) {
        const View<S> left = transposed ? delta.right.transposed() : delta.left;
        const View<S> right = transposed ? delta.left.transposed() : delta.right;
        multiply_columns(with, left.middle_rows(i, height), right.middle_cols(j, width),
                         MutableView<S>(product.values, height, width, wide), false, memory);
        for (Index a = 0; a < height; ++a)
          merge.scale(width, delta.scale, product.values + a * wide, sum.values + a * wide, add);
        add = true;
      }
      fn(Change<S>{i, j, height, width, sum.values});
    }
  });
}

/// Computes to = from + Σ scale · left · right. `from` and `to` are row-major (rows, cols) and may
/// be the same array. The deltas are summed in S; the sum is added and rounded once. `transposed`
/// is as in for_changes().
/// Allocates: nothing.
template <class S, class Stored>
void add_changes(std::span<const LowRankDelta<S>> deltas, Index rows, Index cols, bool transposed,
                 const Stored* from, Stored* to) {
  const auto with = kernels::merge_kernels<S, Stored>();
  for_changes(deltas, rows, cols, transposed, BlockOrder::rows, [&](const Change<S>& change) {
    const Index at = change.i * cols + change.j;
    with.add({change.rows, change.cols, from + at, cols}, change.data, kernels::slab_columns,
             to + at, cols);
  });
}

/// Computes to = scale ∘ from + change for a block that for_changes passes. `factors` has one
/// number per row of the block if `by_row`, else one per column. from and to are row-major with
/// rows `stride` apart.
template <class S, class Stored>
void add_scaled(const Change<S>& change, const S* factors, bool by_row, const Stored* from,
                Stored* to, Index stride) {
  for (Index a = 0; a < change.rows; ++a) {
    const S* added = change.data + a * kernels::slab_columns;
    for (Index b = 0; b < change.cols; ++b) {
      const Index at = a * stride + b;
      const S value = factors[by_row ? a : b] * kernels::to_scalar<S>(from[at]) + added[b];
      if constexpr (std::is_same_v<Stored, kernels::BF16>) {
        to[at] = {float_to_bf16(value)};
      } else {
        to[at] = value;
      }
    }
  }
}

/// Scales `from` and adds the changes, rounding once. `scale` belongs to the (out, in) weight,
/// whose outputs are the columns if it is `transposed`.
template <class S, class Stored>
void scale_and_add_changes(const SideScale<S>& scale, std::span<const LowRankDelta<S>> deltas,
                           Index rows, Index cols, bool transposed, const Stored* from,
                           Stored* to) {
  if (scale.factors.empty()) return add_changes(deltas, rows, cols, transposed, from, to);
  const bool by_row = (scale.side == Side::outputs) != transposed;
  for_changes(deltas, rows, cols, transposed, BlockOrder::rows, [&](const Change<S>& change) {
    const Index at = change.i * cols + change.j;
    add_scaled(change, scale.factors.data() + (by_row ? change.i : change.j), by_row, from + at,
               to + at, cols);
  });
}

}  // namespace lora::detail
