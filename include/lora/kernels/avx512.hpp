// The kernels for AVX-512, compiled whatever target the program has; only the functions here use
// these instructions. 32 registers of 64 bytes hold tiles of 8 x 3.
#pragma once

#include <lora/kernels/adamw.hpp>
#include <lora/kernels/dropout.hpp>
#include <lora/kernels/elementwise.hpp>
#include <lora/kernels/merge.hpp>
#include <lora/kernels/panel_tiles.hpp>

#if defined(__x86_64__) && defined(__GNUC__)
#define LORA_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))

namespace lora::kernels {

#if !defined(__clang__)
template <>
struct Widening<64> {
  static LORA_ALWAYS_INLINE void load(BF16Lanes<64>::Whole& v, const BF16* p) {
    asm("vpmovzxwd %1, %0" : "=v"(v) : "m"(*reinterpret_cast<const BF16Lanes<64>::Half*>(p)));
  }
};

// Inserting a quarter from memory needs no shuffle. clang finds this form by itself; gcc emits
// shuffles instead.
template <>
struct Quarters<float, 64, float> {
  static LORA_ALWAYS_INLINE void load(Register<float, 64>::type& v, const float* p, Size distance) {
    typedef const float(Quarter)[4];
    asm("vmovups %1, %x0\n\t"
        "vinsertf32x4 $1, %2, %0, %0\n\t"
        "vinsertf32x4 $2, %3, %0, %0\n\t"
        "vinsertf32x4 $3, %4, %0, %0"
        : "=&v"(v)
        : "m"(*reinterpret_cast<Quarter*>(p)), "m"(*reinterpret_cast<Quarter*>(p + distance)),
          "m"(*reinterpret_cast<Quarter*>(p + 2 * distance)),
          "m"(*reinterpret_cast<Quarter*>(p + 3 * distance)));
  }
};

/// Broadcasts the upper quarters from memory under a mask, to avoid shuffles too; then each
/// bfloat16 becomes the upper half of its float.
template <>
struct Quarters<float, 64, BF16> {
  static LORA_ALWAYS_INLINE void load(Register<float, 64>::type& v, const BF16* p, Size distance) {
    typedef const BF16(Quarter)[4];
    constexpr unsigned char second = 2, third = 4, fourth = 8;
    BF16Lanes<64>::Whole bits;
    asm("vmovq %1, %x0\n\t"
        "vpbroadcastq %2, %t0%{%5%}\n\t"
        "vpbroadcastq %3, %t0%{%6%}\n\t"
        "vpbroadcastq %4, %t0%{%7%}\n\t"
        "vpmovzxwd %t0, %0"
        : "=&v"(bits)
        : "m"(*reinterpret_cast<Quarter*>(p)), "m"(*reinterpret_cast<Quarter*>(p + distance)),
          "m"(*reinterpret_cast<Quarter*>(p + 2 * distance)),
          "m"(*reinterpret_cast<Quarter*>(p + 3 * distance)), "Yk"(second), "Yk"(third),
          "Yk"(fourth));
    bits <<= 16;
    v = reinterpret_cast<Register<float, 64>::type>(bits);
  }
};

#endif

}  // namespace lora::kernels

namespace lora::kernels {

struct Avx512 {
  static constexpr int register_bytes = 64, tile_rows = 8;
#include <lora/kernels/isa_functions.inc>
};

}  // namespace lora::kernels

#undef LORA_TARGET
#endif
