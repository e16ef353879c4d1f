// The kernels for the target that the program is compiled for, in registers of 16 bytes: SSE2 on
// any x86-64, NEON on AArch64. Products in double and in complex numbers have only these.
#pragma once

#include <lora/kernels/adamw.hpp>
#include <lora/kernels/dropout.hpp>
#include <lora/kernels/elementwise.hpp>
#include <lora/kernels/merge.hpp>
#include <lora/kernels/panel_tiles.hpp>

#define LORA_TARGET

namespace lora::kernels {

struct Portable {
  static constexpr int register_bytes = 16, tile_rows = 4;
#include <lora/kernels/isa_functions.inc>
};

}  // namespace lora::kernels

#undef LORA_TARGET
