// Chooses the kernels of the instruction set in force. Each set is a struct of functions (Portable,
// Avx2, Avx512, Avx512Bf16) in a header of its name, and one line of dispatch(). Thread-safe.
#pragma once

#include <lora/core/isa.hpp>
#include <lora/kernels/avx2.hpp>
#include <lora/kernels/avx512.hpp>
#include <lora/kernels/avx512bf16.hpp>
#include <lora/kernels/portable.hpp>

#include <type_traits>

namespace lora::kernels {

/// fn(set) with the struct of isa(), for numbers of type S; wide registers exist for float.
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

/// For products in S.
template <class S>
ProductKernels<S> product_kernels() {
  return dispatch<S>([](auto set) { return decltype(set)::template product<S>; });
}

/// For products in S with stored bfloat16.
template <class S = float>
BF16Kernels<S> bf16_kernels() {
  return dispatch<S>([](auto set) { return decltype(set)::template bf16<S>; });
}

/// For products of pairs of bfloat16; null where isa() has none.
template <class = void>
PairKernels pair_kernels() {
#if defined(__x86_64__) && defined(__GNUC__)
  if (isa() == Isa::avx512bf16) return Avx512Bf16::pairs<>;
#endif
  return {};
}

/// For merging: sums in S over a weight stored as Stored.
template <class S, class Stored>
MergeKernels<S, Stored> merge_kernels() {
  return dispatch<S>([](auto set) { return decltype(set)::template merge<S, Stored>; });
}

/// For the mask of dropout, which is the same in all.
template <class = void>
DropoutKernel dropout_kernel() {
  return dispatch<float>(
      [](auto set) -> DropoutKernel { return decltype(set)::template dropout<>; });
}

/// For out = F(x, dy), element by element.
template <template <int> class F>
ElementKernel element_kernel() {
  return dispatch<float>([](auto set) -> ElementKernel { return decltype(set)::template map<F>; });
}

/// For a row of a softmax.
template <class = void>
SoftmaxKernels softmax_kernels() {
  return dispatch<float>([](auto set) { return decltype(set)::template softmax<>; });
}

/// For an update by AdamW.
template <class S>
AdamWKernel<S> adamw_kernel() {
  return dispatch<S>([](auto set) { return decltype(set)::template adamw<S>; });
}

}  // namespace lora::kernels
