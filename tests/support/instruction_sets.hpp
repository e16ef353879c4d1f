// Runs a check with the kernels of each instruction set that the processor supports.
#pragma once

#include <lora/core/isa.hpp>

namespace lora_test {

/// Calls fn(name) with isa() set to each one in turn, and restores isa() at the end.
template <class Fn>
void for_each_isa(Fn&& fn) {
  const lora::Isa before = lora::isa();
  for (const lora::Isa one : lora::all_isas) {
    if (!lora::isa_supported(one)) continue;
    lora::set_isa(one);
    fn(lora::isa_name(one));
  }
  lora::set_isa(before);
}

}  // namespace lora_test
