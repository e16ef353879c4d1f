#include <lora/kernels/dispatch.hpp>

#include <gtest/gtest.h>

#include <type_traits>

#include "support/instruction_sets.hpp"

namespace dispatch_test {
using namespace lora;
using lora_test::for_each_isa;

template <class S>
int bytes() {
  return kernels::dispatch<S>([](auto set) { return decltype(set)::register_bytes; });
}

// Each instruction set has the registers of its own; wide ones are for float alone.
TEST(Dispatch, FollowsTheInstructionSet) {
  for_each_isa([](const char* name) {
    const int wide = isa() >= Isa::avx512 ? 64 : isa() == Isa::avx2 ? 32 : 16;
    EXPECT_EQ(bytes<float>(), wide) << name;
    EXPECT_EQ(bytes<double>(), 16) << name;
  });
}

// All tables come from one set, so no two parts of a product mix instruction sets.
TEST(Dispatch, GivesTheFunctionsOfOneSet) {
  for_each_isa([](const char* name) {
    kernels::dispatch<float>([&](auto set) {
      using Set = decltype(set);
      EXPECT_EQ(kernels::product_kernels<float>().multiply, (Set::template multiply<float, float>))
          << name;
      EXPECT_EQ(kernels::bf16_kernels<>().widen, Set::template widen<float>) << name;
      EXPECT_EQ((kernels::merge_kernels<float, float>().scale), Set::template scale<float>) << name;
      EXPECT_EQ(kernels::dropout_kernel<>(), Set::template dropout<>) << name;
      EXPECT_EQ(kernels::element_kernel<kernels::SiluLanes>(),
                Set::template map<kernels::SiluLanes>)
          << name;
      EXPECT_EQ(kernels::softmax_kernels<>().largest, Set::template largest<>) << name;
      EXPECT_EQ(kernels::adamw_kernel<float>(), Set::template adamw<float>) << name;
      return 0;
    });
    EXPECT_EQ(kernels::pair_kernels<>().multiply != nullptr, isa() == Isa::avx512bf16) << name;
  });
}

}  // namespace dispatch_test
