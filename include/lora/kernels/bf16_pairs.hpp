// Prepares both operands of a product for instructions that multiply pairs of bfloat16.
#pragma once

#include <lora/kernels/merge.hpp>
#include <lora/kernels/tiles.hpp>

namespace lora::kernels {

/// Depth of a slab of W, in pairs. A slab and 128 rows of the other operand take 66 KiB. For
/// dx = dy W the depth holds four panels of 48 outputs.
inline constexpr Size pair_depth = 96;

/// Rounds pairs to nearest even: to(m, q) = (a(m, 2q), a(m, 2q + 1)) for m < rows and 2q < depth,
/// with a(m, k) at a[m·a_row + k]. With an odd depth the second term of the last pair is 0.
template <int Bytes>
LORA_ALWAYS_INLINE void round_to_pairs(Size rows, Size depth, const float* a, Size a_row,
                                       BF16Pair* to, Size to_row) {
  using Reg = Register<float, Bytes>;
  for (Size m = 0; m < rows; ++m) {
    const float* from = a + m * a_row;
    BF16* out = reinterpret_cast<BF16*>(to + m * to_row);
    Size k = 0;
    for (; k + Reg::lanes <= depth; k += Reg::lanes) {
      typename Reg::type v;
      Reg::load(v, from + k);
      store_rounded<Bytes>(out + k, v);
    }
    if (k == depth) continue;
    float part[Reg::lanes] = {};
    BF16 rounded[Reg::lanes];
    for (Size j = k; j < depth; ++j) part[j - k] = from[j];
    typename Reg::type v;
    Reg::load(v, part);
    store_rounded<Bytes>(rounded, v);
    for (Size j = k; j < depth + depth % 2; ++j) out[j] = rounded[j - k];
  }
}

/// Pairs rows: slab(q, j) = (panel(2q, j), panel(2q + 1, j)) for 2q < depth and j < width, a
/// multiple of slab_group. Rows of both are `width` long. With an odd depth the second term of the
/// last row is 0.
template <int Bytes>
LORA_ALWAYS_INLINE void pair_rows(Size depth, Size width, const BF16* panel, BF16Pair* slab) {
  using Whole = typename BF16Lanes<Bytes>::Whole;
  typedef Whole Unaligned __attribute__((aligned(4), may_alias));
  constexpr Size lanes = Bytes / 4;
  for (Size k = 0; k < depth; k += 2, panel += 2 * width, slab += width) {
    for (Size j = 0; j < width; j += lanes) {
      Whole pair, second;
      Widening<Bytes>::load(pair, panel + j);
      if (k + 1 < depth) {
        Widening<Bytes>::load(second, panel + width + j);
        pair |= second << 16;
      }
      *reinterpret_cast<Unaligned*>(slab + j) = pair;
    }
  }
}

/// Transposes pairs: slab(q, j) = (b(j, 2q), b(j, 2q + 1)) for 2q < width, a multiple of
/// slab_group, and j < cols. Rows of b are `width` long, those of slab slab_columns. Columns from
/// cols to the next multiple of slab_group become zero.
template <int Bytes>
LORA_ALWAYS_INLINE void transpose_pairs(Size width, Size cols, const BF16* b, BF16Pair* slab) {
  const float* from = reinterpret_cast<const float*>(b);
  float* to = reinterpret_cast<float*>(slab);
  const Size pairs = width / 2, squares = pairs / 16 * 16;
  transpose_block<float, Bytes>(squares, cols, from, pairs, to);
  transpose_block<float, 32>(pairs - squares, cols, from + squares, pairs,
                             to + squares * slab_columns);
}

/// An instruction set's kernels for products of pairs, null where it has none.
struct PairKernels {
  void (*multiply)(const BlockProduct<float, BF16Pair>&) = nullptr;
  void (*round)(Size rows, Size depth, const float* a, Size a_row, BF16Pair* to, Size to_row);
  void (*pair_rows)(Size depth, Size width, const BF16* panel, BF16Pair* slab);
  void (*transpose)(Size width, Size cols, const BF16* b, BF16Pair* slab);
};

}  // namespace lora::kernels
