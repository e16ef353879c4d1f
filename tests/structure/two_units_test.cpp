// Two translation units that include every header link into one program and share what they should.
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
  EXPECT_EQ(first.thread_limit, second.thread_limit);
  EXPECT_EQ(first.threads, second.threads);
  const int before = first.threads();
  second.set_threads(before + 3);
  EXPECT_EQ(first.threads(), before + 3);
  first.set_threads(before);
}

}  // namespace
