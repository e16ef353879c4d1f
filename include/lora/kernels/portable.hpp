// The kernels for whatever the program is compiled for, in registers of 16 bytes: SSE2 on any
// x86-64, NEON on AArch64. The only ones for double and complex numbers.
#pragma once

#include <lora/kernels/dropout.hpp>
#include <lora/kernels/elementwise.hpp>
#include <lora/kernels/merge.hpp>
#include <lora/kernels/panel_tiles.hpp>

namespace lora::kernels::portable {

template <class B, class S>
void multiply(const BlockProduct<S, B>& p) {
  multiply_block<S, 16, 4>(p);
}
template <class S>
void panels(const PanelProduct<S>& p) {
  multiply_panels<S, 16, 4>(p);
}
template <class S>
void transpose(Size depth, Size cols, const S* b, Size b_row, S* slab) {
  transpose_block<S, 16>(depth, cols, b, b_row, slab);
}
template <class S>
void transpose_out(Size depth, Size cols, const S* b, Size b_row, S* to, Size to_row) {
  transpose_part<S, 16>({0, depth, 0, cols}, b, b_row, to, to_row);
}
template <class S>
void copy(Size depth, Size cols, const S* b, Size b_row, S* slab) {
  copy_block<S, 16>(depth, cols, b, b_row, slab);
}
template <class B, class S>
void few(const FewRows<S, B>& f) {
  multiply_few<S, 16, 4>(f);
}
template <class S>
void widen(Size n, const BF16* stored, S* floats) {
  widen_block<16>(n, stored, floats);
}
template <class S>
void scale(Size n, const S& factor, const S* change, S* sum, bool add) {
  scale_elements<S, 16>(n, factor, change, sum, add);
}
template <class S, class Stored>
void add_change(const Block<const Stored>& from, const S* change, Size change_stride, Stored* to,
                Size to_stride) {
  kernels::add_change<S, 16>(from, change, change_stride, to, to_stride);
}
template <class = void>
void dropout(const DropoutRow& d, Size n, const float* from, float* to, bool add) {
  dropout_row<16>(d, n, from, to, add);
}
template <template <int> class F>
void map(Size n, const float* x, const float* dy, float* out) {
  map_elements<F, 16>(n, x, dy, out);
}
template <class = void>
double exponentials(Size n, const float* x, float shift, float* e) {
  return kernels::exponentials<16>(n, x, shift, e);
}
template <class = void>
float largest(Size n, const float* x) {
  return kernels::largest<16>(n, x);
}
template <class = void>
void scale_and_shift(Size n, float factor, float subtrahend, float* x) {
  kernels::scale_and_shift<16>(n, factor, subtrahend, x);
}

}  // namespace lora::kernels::portable
