// The kernels for whatever the program is compiled for, in registers of 16 bytes: SSE2 on any
// x86-64, NEON on AArch64. The only ones for double and complex numbers.
#pragma once

#include <lora/kernels/tiles.hpp>

namespace LORA_NAMESPACE::kernels::portable {

template <class S>
void multiply(const BlockProduct<S>& p) {
  multiply_block<S, 16, 4>(p);
}
template <class B, class S>
void transpose(Size depth, Size cols, const B* b, Size b_row, S* slab) {
  transpose_block<S, 16>(depth, cols, b, b_row, slab);
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

}  // namespace LORA_NAMESPACE::kernels::portable
