// The product kernels of every instruction set, for typed tests.
#pragma once

#include <lora/kernels/dispatch.hpp>

#include <gtest/gtest.h>

#include <complex>

namespace lora_test {
namespace kernels = lora::kernels;

/// The kernels of one instruction set for one scalar type.
template <class Set, lora::Isa needs, class S = float>
struct KernelTable {
  using Scalar = S;
  static constexpr int rows = Set::tile_rows;
  static constexpr lora::Isa isa = needs;
  static constexpr kernels::ProductKernels<S> with = Set::template product<S>;
};
template <class S>
using Portable = KernelTable<kernels::Portable, lora::Isa::portable, S>;

using KernelTables =
    testing::Types<Portable<float>, Portable<double>, Portable<std::complex<double>>
#if defined(__x86_64__)
                   ,
                   KernelTable<kernels::Avx2, lora::Isa::avx2>,
                   KernelTable<kernels::Avx512, lora::Isa::avx512>
#endif
                   >;

/// A test of one table, skipped if the processor does not support it.
template <class Table>
class KernelTest : public testing::Test {
 public:
  void SetUp() override {
    if (!lora::isa_supported(Table::isa)) GTEST_SKIP() << "this processor does not have it";
  }
};

}  // namespace lora_test
