// Several translation units that include every header link into one program, share what they should
// and keep apart what was built differently.
#include <gtest/gtest.h>

#include "structure/two_units_look.hpp"

namespace {

const char* const expected_message = "FrozenWeight::multiply: x is (4, 5), expected (T, 3)";

TEST(TwoUnits, LinkAndComputeTheSame) {
  const two_units::Sight first = look(), second = two_units::second_unit();
  EXPECT_EQ(first.result.size(), 20u);
  EXPECT_EQ(first.result, second.result);
  EXPECT_EQ(first.message, expected_message);
  EXPECT_EQ(second.message, expected_message);
}

TEST(TwoUnits, AreOneLibrary) {
  const two_units::Sight first = look(), second = two_units::second_unit();
  EXPECT_EQ(first.inner_namespace, second.inner_namespace);
  EXPECT_EQ(first.thread_limit, second.thread_limit);
  EXPECT_EQ(first.threads, second.threads);
  const int before = first.threads();
  second.set_threads(before + 3);
  EXPECT_EQ(first.threads(), before + 3);
  first.set_threads(before);
}

#if defined(LORA_OPENMP_UNIT)
TEST(TwoUnits, AUnitBuiltWithOpenMPIsALibraryOfItsOwn) {
  const two_units::Sight first = look(), other = two_units::openmp_unit();
  EXPECT_EQ(other.inner_namespace, "with_openmp");
  EXPECT_EQ(first.result, other.result);
  EXPECT_EQ(other.message, expected_message);
  if (first.inner_namespace == other.inner_namespace) GTEST_SKIP() << "all units have OpenMP";
  EXPECT_NE(first.thread_limit, other.thread_limit);
  EXPECT_NE(first.threads, other.threads);
  const int before = first.threads();
  other.set_threads(other.threads() + 3);
  EXPECT_EQ(first.threads(), before);
}
#endif

}  // namespace
