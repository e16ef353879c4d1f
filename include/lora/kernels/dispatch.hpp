// Selects the kernels of the active instruction set. Each set is a struct of functions (Portable,
// Avx2, Avx512, Avx512Bf16) in a header of its name, and one line of dispatch(). Any number of
// threads may call these functions.
#pragma once

#include <lora/core/isa.hpp>
#include <lora/kernels/avx2.hpp>
#include <lora/kernels/avx512.hpp>
#include <lora/kernels/avx512bf16.hpp>
#include <lora/kernels/portable.hpp>

#include <type_traits>

namespace lora::kernels {

/// Returns fn(set) with the struct of isa(), for numbers of type S. Only float has wide registers.
template <class S, class Fn>
auto dispatch(Fn&& fn) {
#if defined(__x86_64__) && defined(__GNUC__)
  if constexpr (std::is_same_v<S, float>) {
    switch (isa()) {
      case Isa::avx512bf16:
      case Isa::avx512:
        return fn(Avx512{});
      case Isa::avx2:
        return fn(Avx2{});
      case Isa::portable:
        break;
    }
  }
#endif
  return fn(Portable{});
}

/// Returns the micro-kernels of products in S.
template <class S>
ProductKernels<S> product_kernels() {
  return dispatch<S>([](auto set) { return decltype(set)::template product<S>; });
}

/// Returns the micro-kernels of products in S with a weight stored as bfloat16.
template <class S = float>
BF16Kernels<S> bf16_kernels() {
  return dispatch<S>([](auto set) { return decltype(set)::template bf16<S>; });
}

/// Returns the micro-kernels of products of bfloat16 pairs; null if isa() has none.
template <class = void>
PairKernels pair_kernels() {
#if defined(__x86_64__) && defined(__GNUC__)
  if (isa() == Isa::avx512bf16) return Avx512Bf16::pairs<>;
#endif
  return {};
}

/// Returns the kernels of merging, which sum in S over a weight stored as Stored.
template <class S, class Stored>
MergeKernels<S, Stored> merge_kernels() {
  return dispatch<S>([](auto set) { return decltype(set)::template merge<S, Stored>; });
}

/// Returns the kernel of dropout masks. Its result is the same on every instruction set.
template <class = void>
DropoutKernel dropout_kernel() {
  return dispatch<float>(
      [](auto set) -> DropoutKernel { return decltype(set)::template dropout<>; });
}

/// Returns the kernel of out = F(x, dy), element by element.
template <template <int> class F>
ElementKernel element_kernel() {
  return dispatch<float>([](auto set) -> ElementKernel { return decltype(set)::template map<F>; });
}

/// Returns the kernels of a softmax row.
template <class = void>
SoftmaxKernels softmax_kernels() {
  return dispatch<float>([](auto set) { return decltype(set)::template softmax<>; });
}

/// Returns the kernel of an AdamW update.
template <class S>
AdamWKernel<S> adamw_kernel() {
  return dispatch<S>([](auto set) { return decltype(set)::template adamw<S>; });
}

}  // namespace lora::kernels
