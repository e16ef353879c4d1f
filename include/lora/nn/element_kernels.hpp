// The kernels of the chosen instruction set for functions of one element and for a softmax's rows.
#pragma once

#include <lora/core/isa.hpp>
#include <lora/kernels/avx2.hpp>
#include <lora/kernels/avx512.hpp>
#include <lora/kernels/portable.hpp>

namespace lora::detail {

/// out = F(x, dy) over n floats, in the registers of isa(). Thread-safe.
template <template <int> class F>
kernels::ElementKernel element_kernel() {
#if defined(__x86_64__) && defined(__GNUC__)
  if (isa() >= Isa::avx512) return kernels::avx512::map<F>;
  if (isa() == Isa::avx2) return kernels::avx2::map<F>;
#endif
  return kernels::portable::map<F>;
}

/// What cross entropy does with a row of logits, in the registers of isa(). Thread-safe.
template <class = void>
kernels::SoftmaxKernels softmax_kernels() {
#if defined(__x86_64__) && defined(__GNUC__)
  if (isa() >= Isa::avx512) {
    return {kernels::avx512::exponentials<>, kernels::avx512::largest<>,
            kernels::avx512::scale_and_shift<>};
  }
  if (isa() == Isa::avx2) {
    return {kernels::avx2::exponentials<>, kernels::avx2::largest<>,
            kernels::avx2::scale_and_shift<>};
  }
#endif
  return {kernels::portable::exponentials<>, kernels::portable::largest<>,
          kernels::portable::scale_and_shift<>};
}

}  // namespace lora::detail
