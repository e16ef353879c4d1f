// The kernels for AVX-512, whatever the program is compiled for: only the functions here may use
// it. 32 registers of 64 bytes: tiles of 8 x 3.
#pragma once

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

// Inserting a quarter from memory takes no shuffle. clang finds that by itself; gcc shuffles unless
// it is told.
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

/// The upper quarters are broadcast from memory under a mask, for the same reason; then each
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

namespace lora::kernels::avx512 {

template <class B, class S>
LORA_TARGET void multiply(const BlockProduct<S, B>& p) {
  multiply_block<S, 64, 8>(p);
}
template <class S>
LORA_TARGET void panels(const PanelProduct<S>& p) {
  multiply_panels<S, 64, 8>(p);
}
template <class S>
LORA_TARGET void transpose(Size depth, Size cols, const S* b, Size b_row, S* slab) {
  transpose_block<S, 64>(depth, cols, b, b_row, slab);
}
template <class S>
LORA_TARGET void transpose_out(Size depth, Size cols, const S* b, Size b_row, S* to, Size to_row) {
  transpose_part<S, 64>({0, depth, 0, cols}, b, b_row, to, to_row);
}
template <class S>
LORA_TARGET void copy(Size depth, Size cols, const S* b, Size b_row, S* slab) {
  copy_block<S, 64>(depth, cols, b, b_row, slab);
}
template <class B, class S>
LORA_TARGET void few(const FewRows<S, B>& f) {
  multiply_few<S, 64, 8>(f);
}
template <class S>
LORA_TARGET void widen(Size n, const BF16* stored, S* floats) {
  widen_block<64>(n, stored, floats);
}
template <class S>
LORA_TARGET void scale(Size n, const S& factor, const S* change, S* sum, bool add) {
  scale_elements<S, 64>(n, factor, change, sum, add);
}
template <class S, class Stored>
LORA_TARGET void add_change(const Block<const Stored>& from, const S* change, Size change_stride,
                            Stored* to, Size to_stride) {
  kernels::add_change<S, 64>(from, change, change_stride, to, to_stride);
}
template <class = void>
LORA_TARGET void dropout(const DropoutRow& d, Size n, const float* from, float* to, bool add) {
  dropout_row<64>(d, n, from, to, add);
}
template <template <int> class F>
LORA_TARGET void map(Size n, const float* x, const float* dy, float* out) {
  map_elements<F, 64>(n, x, dy, out);
}
template <class = void>
LORA_TARGET double exponentials(Size n, const float* x, float shift, float* e) {
  return kernels::exponentials<64>(n, x, shift, e);
}
template <class = void>
LORA_TARGET float largest(Size n, const float* x) {
  return kernels::largest<64>(n, x);
}
template <class = void>
LORA_TARGET void scale_and_shift(Size n, float factor, float subtrahend, float* x) {
  kernels::scale_and_shift<64>(n, factor, subtrahend, x);
}

}  // namespace lora::kernels::avx512

#undef LORA_TARGET
#endif
