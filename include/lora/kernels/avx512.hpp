// The kernels for AVX-512, whatever the program is compiled for: only the functions here may use it.
// 32 registers of 64 bytes: tiles of 8 x 3.
#pragma once

#include <lora/kernels/tiles.hpp>

#if defined(__x86_64__) && defined(__GNUC__)
#define LORA_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))

namespace LORA_NAMESPACE::kernels::avx512 {

template <class S>
LORA_TARGET void multiply(const BlockProduct<S>& p) {
  multiply_block<S, 64, 8>(p);
}
template <class B, class S>
LORA_TARGET void transpose(Size depth, Size cols, const B* b, Size b_row, S* slab) {
  transpose_block<S, 64>(depth, cols, b, b_row, slab);
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

}  // namespace LORA_NAMESPACE::kernels::avx512

#undef LORA_TARGET
#endif
