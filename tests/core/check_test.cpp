#include <lora/core/check.hpp>

#include <gtest/gtest.h>

#include <limits>

#include "support/messages.hpp"

namespace check_test {

template <class Call>
std::string message(Call&& call) {
  return lora_test::message_of<lora::ConfigError>(call);
}
constexpr double nan = std::numeric_limits<double>::quiet_NaN(),
                 infinity = std::numeric_limits<double>::infinity();
const lora::detail::OptionCheck check{"Who"};

TEST(OptionCheck, TakesWhatIsInRange) {
  check.at_least("n", 1, 1);
  check.positive("x", 1e-300);
  check.not_negative("x", 0);
  check.within("x", 0, 0, 1), check.within("x", 1, 0, 1);
  check.below_one("x", 0), check.below_one("x", 0.999);
}

TEST(OptionCheck, NamesWhoFieldAndValue) {
  EXPECT_EQ(message([] { check.at_least("n", 0, 1); }), "Who: n is 0, expected at least 1");
  EXPECT_EQ(message([] { check.positive("x", 0); }), "Who: x is 0, expected a finite number > 0");
  EXPECT_EQ(message([] { check.not_negative("x", -0.5); }),
            "Who: x is -0.5, expected a finite number >= 0");
  EXPECT_EQ(message([] { check.within("x", 2, 0, 1.5); }),
            "Who: x is 2, expected a number from 0 to 1.5");
  EXPECT_EQ(message([] { check.below_one("x", 1); }), "Who: x is 1, expected 0 <= x < 1");
  EXPECT_THROW(check.refuse("x", "1", "2"), lora::ConfigError);
}

TEST(OptionCheck, NoNumberIsInNoRange) {
  for (const double x : {nan, infinity}) {
    EXPECT_THROW(check.positive("x", x), lora::ConfigError) << x;
    EXPECT_THROW(check.not_negative("x", x), lora::ConfigError) << x;
    EXPECT_THROW(check.within("x", x, 0, 1), lora::ConfigError) << x;
    EXPECT_THROW(check.below_one("x", x), lora::ConfigError) << x;
  }
}

}  // namespace check_test
