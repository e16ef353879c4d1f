// The kernels for AVX-512, whatever the program is compiled for: only the functions here may use it.
// 32 registers of 64 bytes: tiles of 8 x 3.
#pragma once

#include <lora/kernels/tiles.hpp>

#if defined(__x86_64__) && defined(__GNUC__)
#define LORA_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))

namespace LORA_NAMESPACE::kernels::avx512 {

inline LORA_TARGET void multiply(const BlockProduct<float>& p) { multiply_block<float, 64, 8>(p); }
inline LORA_TARGET void transpose(Size depth, Size cols, const float* b, Size b_row, float* slab) {
  transpose_block<float, 64>(depth, cols, b, b_row, slab);
}
inline LORA_TARGET void copy(Size depth, Size cols, const float* b, Size b_row, float* slab) {
  copy_block<float, 64>(depth, cols, b, b_row, slab);
}
inline LORA_TARGET void transpose_bf16(Size depth, Size cols, const BF16* b, Size b_row,
                                       float* slab) {
  transpose_block<float, 64>(depth, cols, b, b_row, slab);
}
inline LORA_TARGET void widen(Size n, const BF16* stored, float* floats) {
  widen_block<64>(n, stored, floats);
}

}  // namespace LORA_NAMESPACE::kernels::avx512

#undef LORA_TARGET
#endif
