// The product's functions of every instruction set, as a typed test wants them.
#pragma once

#include <lora/kernels/avx2.hpp>
#include <lora/kernels/avx512.hpp>
#include <lora/kernels/portable.hpp>

#include <gtest/gtest.h>

#include <complex>

namespace lora_test {
namespace kernels = lora::kernels;

/// The functions of one instruction set, for numbers of one type.
template <class S>
struct Portable {
  using Scalar = S;
  static constexpr int rows = 4, isa = 0;
  static constexpr kernels::ProductKernels<S> with{
      kernels::portable::multiply<S, S>, kernels::portable::panels<S>,
      kernels::portable::transpose<S>,   kernels::portable::transpose_out<S>,
      kernels::portable::copy<S>,        kernels::portable::few<S, S>};
};
#if defined(__x86_64__)
struct Avx2 {
  using Scalar = float;
  static constexpr int rows = 4, isa = 2;
  static constexpr kernels::ProductKernels<float> with{kernels::avx2::multiply<float, float>,
                                                       kernels::avx2::panels,
                                                       kernels::avx2::transpose,
                                                       kernels::avx2::transpose_out,
                                                       kernels::avx2::copy,
                                                       kernels::avx2::few<float, float>};
};
struct Avx512 {
  using Scalar = float;
  static constexpr int rows = 8, isa = 512;
  static constexpr kernels::ProductKernels<float> with{kernels::avx512::multiply<float, float>,
                                                       kernels::avx512::panels,
                                                       kernels::avx512::transpose,
                                                       kernels::avx512::transpose_out,
                                                       kernels::avx512::copy,
                                                       kernels::avx512::few<float, float>};
};
#endif

inline bool can_run(int isa) {
  if (isa == 0) return true;
#if defined(__x86_64__)
  if (isa == 2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#else
  return false;
#endif
}

using KernelTables =
    testing::Types<Portable<float>, Portable<double>, Portable<std::complex<double>>
#if defined(__x86_64__)
                   ,
                   Avx2, Avx512
#endif
                   >;

/// A test of one table, skipped where the processor does not have it.
template <class Table>
class KernelTest : public testing::Test {
 public:
  void SetUp() override {
    if (!can_run(Table::isa)) GTEST_SKIP() << "this processor does not have it";
  }
};

}  // namespace lora_test
