#include <lora/core/aligned_array.hpp>

#include <gtest/gtest.h>

#include <cstdint>

namespace aligned_array_test {
using lora::AlignedArray;

TEST(AlignedArray, BeginsAtACacheLine) {
  for (const std::ptrdiff_t n : {1, 3, 1000}) {
    AlignedArray<char> array(n);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(array.data()) % 64, 0u);
    EXPECT_EQ(array.size(), n);
    array.data()[n - 1] = 'x';
  }
}

TEST(AlignedArray, MayBeEmpty) {
  EXPECT_EQ(AlignedArray<float>().size(), 0);
  EXPECT_EQ(AlignedArray<float>(0).data(), nullptr);
}

TEST(AlignedArray, MovesItsMemory) {
  AlignedArray<int> a(5);
  a.data()[4] = 42;
  const int* where = a.data();
  AlignedArray<int> b(std::move(a));
  EXPECT_EQ(b.data(), where);
  AlignedArray<int> c(2);
  c = std::move(b);
  EXPECT_EQ(c.data()[4], 42);
  EXPECT_EQ(c.size(), 5);
}

}  // namespace aligned_array_test
