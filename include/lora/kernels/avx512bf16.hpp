// The kernels for AVX512-BF16: products of pairs of bfloat16, summed in float32.
#pragma once

#include <lora/kernels/bf16_pairs.hpp>

#if defined(__x86_64__) && defined(__GNUC__)
#define LORA_TARGET \
  __attribute__((target("avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))

namespace lora::kernels {

/// Computes a tile of products of pairs. Each lane adds the second product of a pair first, then
/// the first; each step rounds to nearest even, and denormals count as zero. This is a function of
/// its own, in assembly, because a template without a target accepts neither the intrinsic nor a
/// wide asm operand. It prefetches nothing: the slab of pairs was written just before.
template <class S, int Bytes, int Rows, int Vecs, bool>
LORA_TARGET void tile(const BlockProduct<S, BF16Pair>& p, Size m, Size n, S* c, Size c_row,
                      Asking&) {
  using Bits = BF16Lanes<64>::Whole;
  Tile<S, Bytes, Rows, Vecs> t;
  t.begin(c, c_row, p.add);
  Terms<S, BF16Pair> pairs = p.terms.from(m, n);
  for (Size k = 0; k < pairs.depth; ++k, pairs.a += pairs.a_col, pairs.b += pairs.b_row) {
    typename Register<S, Bytes>::type w[Vecs];
    LORA_UNROLL
    for (int i = 0; i < Vecs; ++i) Register<S, Bytes>::load(w[i], pairs.b + i * t.lanes);
    LORA_UNROLL
    for (int i = 0; i < Rows; ++i) {
      const Bits x = Bits{} | __builtin_bit_cast(std::uint32_t, pairs.a[i * pairs.a_row]);
      LORA_UNROLL
      for (int j = 0; j < Vecs; ++j)
        asm("vdpbf16ps %2, %1, %0" : "+v"(t.sum[i][j]) : "v"(w[j]), "v"(x));
    }
  }
  if (p.more.depth > 0) t.add(p.more.from(m, n));
  t.end(c, c_row);
}

struct Avx512Bf16 {
  template <class = void>
  LORA_TARGET static void multiply(const BlockProduct<float, BF16Pair>& p) {
    multiply_block<float, 64, 8>(p);
  }
  template <class = void>
  LORA_TARGET static void round(Size rows, Size depth, const float* a, Size a_row, BF16Pair* to,
                                Size to_row) {
    round_to_pairs<64>(rows, depth, a, a_row, to, to_row);
  }
  template <class = void>
  LORA_TARGET static void pair_rows(Size depth, Size width, const BF16* panel, BF16Pair* slab) {
    kernels::pair_rows<64>(depth, width, panel, slab);
  }
  template <class = void>
  LORA_TARGET static void transpose(Size width, Size cols, const BF16* b, BF16Pair* slab) {
    transpose_pairs<64>(width, cols, b, slab);
  }
  template <class = void>
  static constexpr PairKernels pairs{multiply<>, round<>, pair_rows<>, transpose<>};
};

}  // namespace lora::kernels

#undef LORA_TARGET
#endif
