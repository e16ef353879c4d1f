// The kernels for AVX2 and FMA, compiled whatever target the program has; only the functions here
// use these instructions. 16 registers of 32 bytes hold tiles of 4 x 3.
#pragma once

#include <lora/kernels/adamw.hpp>
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

namespace lora::kernels {

struct Avx2 {
  static constexpr int register_bytes = 32, tile_rows = 4;
#include <lora/kernels/isa_functions.inc>
};

}  // namespace lora::kernels

#undef LORA_TARGET
#endif
