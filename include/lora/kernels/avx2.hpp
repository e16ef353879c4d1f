// The kernels for AVX2 and FMA, whatever the program is compiled for: only the functions here may
// use it. 16 registers of 32 bytes: tiles of 4 x 3.
#pragma once

#include <lora/kernels/dropout.hpp>
#include <lora/kernels/elementwise.hpp>
#include <lora/kernels/merge.hpp>
#include <lora/kernels/panel_tiles.hpp>

#if defined(__x86_64__) && defined(__GNUC__)
#define LORA_TARGET __attribute__((target("avx2,fma")))

#if !defined(__clang__)
namespace lora::kernels {
template <>
struct Widening<32> {
  static LORA_ALWAYS_INLINE void load(BF16Lanes<32>::Whole& v, const BF16* p) {
    asm("vpmovzxwd %1, %0" : "=x"(v) : "m"(*reinterpret_cast<const BF16Lanes<32>::Half*>(p)));
  }
};
}  // namespace lora::kernels
#endif

namespace lora::kernels::avx2 {

template <class B, class S>
LORA_TARGET void multiply(const BlockProduct<S, B>& p) {
  multiply_block<S, 32, 4>(p);
}
template <class S>
LORA_TARGET void panels(const PanelProduct<S>& p) {
  multiply_panels<S, 32, 4>(p);
}
template <class S>
LORA_TARGET void transpose(Size depth, Size cols, const S* b, Size b_row, S* slab) {
  transpose_block<S, 32>(depth, cols, b, b_row, slab);
}
template <class S>
LORA_TARGET void transpose_out(Size depth, Size cols, const S* b, Size b_row, S* to, Size to_row) {
  transpose_part<S, 32>({0, depth, 0, cols}, b, b_row, to, to_row);
}
template <class S>
LORA_TARGET void copy(Size depth, Size cols, const S* b, Size b_row, S* slab) {
  copy_block<S, 32>(depth, cols, b, b_row, slab);
}
template <class B, class S>
LORA_TARGET void few(const FewRows<S, B>& f) {
  multiply_few<S, 32, 4>(f);
}
template <class S>
LORA_TARGET void widen(Size n, const BF16* stored, S* floats) {
  widen_block<32>(n, stored, floats);
}
template <class S>
LORA_TARGET void scale(Size n, const S& factor, const S* change, S* sum, bool add) {
  scale_elements<S, 32>(n, factor, change, sum, add);
}
template <class S, class Stored>
LORA_TARGET void add_change(const Block<const Stored>& from, const S* change, Size change_stride,
                            Stored* to, Size to_stride) {
  kernels::add_change<S, 32>(from, change, change_stride, to, to_stride);
}
template <class = void>
LORA_TARGET void dropout(const DropoutRow& d, Size n, const float* from, float* to, bool add) {
  dropout_row<32>(d, n, from, to, add);
}
template <template <int> class F>
LORA_TARGET void map(Size n, const float* x, const float* dy, float* out) {
  map_elements<F, 32>(n, x, dy, out);
}
template <class = void>
LORA_TARGET double exponentials(Size n, const float* x, float shift, float* e) {
  return kernels::exponentials<32>(n, x, shift, e);
}
template <class = void>
LORA_TARGET float largest(Size n, const float* x) {
  return kernels::largest<32>(n, x);
}
template <class = void>
LORA_TARGET void scale_and_shift(Size n, float factor, float subtrahend, float* x) {
  kernels::scale_and_shift<32>(n, factor, subtrahend, x);
}

}  // namespace lora::kernels::avx2

#undef LORA_TARGET
#endif
