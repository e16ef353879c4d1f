// Applies a dropout mask to a row of floats, on registers of any width: computes many Philox blocks
// at once.
#pragma once

#include <lora/kernels/vector.hpp>

namespace lora::kernels {

/// Element j of a row is kept if word j % 4 of the Philox4x32-10 block with counter (j / 4, 0, row,
/// row >> 32) is at least `threshold`. See layers/dropout.hpp.
struct DropoutRow {
  std::uint64_t key, row;
  std::uint32_t threshold;
  float scale;  ///< factor of the kept elements
};

template <int Bytes>
struct Words {
  using V = typename BF16Lanes<Bytes>::Whole;
  using Pairs = typename Register<std::uint64_t, Bytes, true>::type;
  static constexpr int lanes = Bytes / 4;
};

/// Computes a = (lower halves of a) · m in 64 bits; m < 2³². gcc emits three multiplications where
/// one instruction does it.
template <int Bytes>
LORA_ALWAYS_INLINE void widening_multiply(typename Words<Bytes>::Pairs& a, std::uint64_t m) {
  using Pairs = typename Words<Bytes>::Pairs;
  const Pairs factor = Pairs{} + m;
#if defined(__x86_64__) && !defined(__clang__)
  if constexpr (Bytes > 16) {
    asm("vpmuludq %1, %0, %0" : "+v"(a) : "v"(factor));
    return;
  }
#endif
  a = (a & 0xFFFFFFFFu) * factor;
}

/// Computes half a Philox round: x becomes the upper half of its product with m, mixed with y and
/// k; y becomes the lower half.
template <int Bytes>
LORA_ALWAYS_INLINE void philox_half(typename Words<Bytes>::V& x, typename Words<Bytes>::V& y,
                                    std::uint32_t m, std::uint32_t k) {
  using V = typename Words<Bytes>::V;
  using Pairs = typename Words<Bytes>::Pairs;
  constexpr std::uint64_t lower = 0xFFFFFFFFu;
  Pairs even = reinterpret_cast<Pairs>(x), odd = even >> 32;
  widening_multiply<Bytes>(even, m);
  widening_multiply<Bytes>(odd, m);
  const Pairs high = (even >> 32) | (odd & ~lower), low = (even & lower) | (odd << 32);
  x = reinterpret_cast<V>(high) ^ y ^ k;
  y = reinterpret_cast<V>(low);
}

/// Computes to[j] = from[j] · mask, or adds it with `add`, for j < n. `to` may be `from`.
template <int Bytes>
LORA_ALWAYS_INLINE void dropout_row(const DropoutRow& d, Size n, const float* from, float* to,
                                    bool add) {
  using V = typename Words<Bytes>::V;
  using Reg = Register<float, Bytes>;
  using F = typename Reg::type;
  constexpr int lanes = Words<Bytes>::lanes, quarters = lanes / 4;
  // Lane 4q + i computes block i · quarters + q, so that transposing within quarters puts the words
  // of neighbouring blocks next to each other.
  std::uint32_t first[lanes];
  for (int lane = 0; lane < lanes; ++lane)
    first[lane] = static_cast<std::uint32_t>(lane % 4 * quarters + lane / 4);
  V blocks;
  __builtin_memcpy(&blocks, first, sizeof(blocks));
  for (Size j = 0; j < n; j += 4 * lanes, blocks += static_cast<std::uint32_t>(lanes)) {
    V c0 = blocks, c1{}, c2 = V{} + static_cast<std::uint32_t>(d.row),
      c3 = V{} + static_cast<std::uint32_t>(d.row >> 32);
    std::uint32_t k0 = static_cast<std::uint32_t>(d.key),
                  k1 = static_cast<std::uint32_t>(d.key >> 32);
    LORA_UNROLL
    for (int round = 0; round < 10; ++round) {
      philox_half<Bytes>(c0, c3, 0xD2511F53u, k1);
      philox_half<Bytes>(c2, c1, 0xCD9E8D57u, k0);
      const V next = c2;  // swap the two halves
      c2 = c0;
      c0 = next;
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    V words[4] = {c0, c1, c2, c3};
    transpose_quarters<4, lanes>(words);
    LORA_UNROLL
    for (int i = 0; i < 4; ++i) {
      const Size at = j + i * lanes;
      float part[lanes] = {};
      const bool whole = at + lanes <= n;
      F x, y;
      if (whole) {
        Reg::load(x, from + at);
      } else {
        for (Size k = at; k < n; ++k) part[k - at] = from[k];
        Reg::load(x, part);
      }
      const V kept = words[i] >= d.threshold ? V{} - 1u : V{};
      y = reinterpret_cast<F>(reinterpret_cast<V>(F(x * d.scale)) & kept);
      if (whole) {
        if (add) {
          Reg::load(x, to + at);
          y += x;
        }
        Reg::store(to + at, y);
      } else {
        Reg::store(part, y);
        for (Size k = at; k < n; ++k) to[k] = add ? to[k] + part[k - at] : part[k - at];
      }
    }
  }
}

using DropoutKernel = void (*)(const DropoutRow& d, Size n, const float* from, float* to, bool add);

}  // namespace lora::kernels
