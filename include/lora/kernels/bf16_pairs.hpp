// Preparing both operands of a product for an instruction that multiplies pairs of bfloat16.
#pragma once

#include <lora/kernels/merge.hpp>
#include <lora/kernels/tiles.hpp>

namespace lora::kernels {

/// Depth of a slab of W, in pairs: with 128 rows of the other operand 66 KiB, and four panels of 48
/// outputs when it is dy's.
inline constexpr Size pair_depth = 96;

/// to(m, q) = the pair of a(m, 2q) and a(m, 2q + 1), rounded to nearest even, for m < rows and
/// 2q < depth; of an odd depth the last pair's second term is 0. a(m, k) at a[m·a_row + k].
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

/// slab(q, j) = the pair of panel(2q, j) and panel(2q + 1, j) for 2q < depth and j < width, a
/// multiple of slab_group; rows of both are `width` long. Past an odd depth stands 0.
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

/// slab(q, j) = the pair of b(j, 2q) and b(j, 2q + 1) for 2q < width, a multiple of slab_group, and
/// j < cols; b's rows are `width` long, slab's slab_columns. The columns after that up to a whole
/// group are zero.
template <int Bytes>
LORA_ALWAYS_INLINE void transpose_pairs(Size width, Size cols, const BF16* b, BF16Pair* slab) {
  const float* from = reinterpret_cast<const float*>(b);
  float* to = reinterpret_cast<float*>(slab);
  const Size pairs = width / 2, squares = pairs / 16 * 16;
  transpose_block<float, Bytes>(squares, cols, from, pairs, to);
  transpose_block<float, 32>(pairs - squares, cols, from + squares, pairs,
                             to + squares * slab_columns);
}

/// The functions of an instruction set for products of pairs; null where it has none.
struct PairKernels {
  void (*multiply)(const BlockProduct<float, BF16Pair>&) = nullptr;
  void (*round)(Size rows, Size depth, const float* a, Size a_row, BF16Pair* to, Size to_row);
  void (*pair_rows)(Size depth, Size width, const BF16* panel, BF16Pair* slab);
  void (*transpose)(Size width, Size cols, const BF16* b, BF16Pair* slab);
};

}  // namespace lora::kernels
