#include <lora/core/number_text.hpp>

#include <gtest/gtest.h>

#include <cstdio>
#include <limits>
#include <sstream>
#include <string>

#include "support/comma_locale.hpp"

namespace number_text_test {

using lora::fixed_text, lora::grouped_text, lora::number_of, lora::number_text,
    lora::scientific_text;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();

TEST(NumberText, ShowsSmallAndLargeNumbersAsWhatTheyAre) {
  EXPECT_EQ(number_text(0.5), "0.5");
  EXPECT_EQ(number_text(-2), "-2");
  EXPECT_EQ(number_text(0.1), "0.1");
  EXPECT_EQ(number_text(-1e-7), "-1e-07");
  EXPECT_EQ(number_text(1e300), "1e+300");
  EXPECT_EQ(number_text(1.0000001), "1.0000001");
  EXPECT_EQ(number_text(1234567), "1234567");
  EXPECT_EQ(number_text(1234567, 3), "1.23e+06");
  EXPECT_EQ(number_text(nan), "nan");
  EXPECT_EQ(number_text(-infinity), "-inf");
}

TEST(NumberText, IsWhatPrintfWrites) {
  const auto printed = [](const char* format, int digits, double x) {
    char text[400];
    std::snprintf(text, sizeof text, format, digits, x);
    return std::string(text);
  };
  for (const double x : {0.0, -0.0, 0.125, 2.5, -3.14159265358979, 9.9999999999, 1e-5, 123456789.75,
                         5e-324, 1.7976931348623157e308, 0.1, 1e16, infinity}) {
    for (const int digits : {0, 1, 4, 9}) {
      EXPECT_EQ(number_text(x, digits), printed("%.*g", digits, x));
      EXPECT_EQ(fixed_text(x, digits), printed("%.*f", digits, x));
      EXPECT_EQ(scientific_text(x, digits), printed("%.*e", digits, x));
    }
  }
}

TEST(NumberText, DigitsInGroupsOfThree) {
  EXPECT_EQ(grouped_text(0), "0");
  EXPECT_EQ(grouped_text(999), "999");
  EXPECT_EQ(grouped_text(1000), "1,000");
  EXPECT_EQ(grouped_text(12345678), "12,345,678");
  EXPECT_EQ(grouped_text(UINT64_MAX), "18,446,744,073,709,551,615");
}

TEST(NumberOf, TakesTheWholeText) {
  EXPECT_EQ(number_of("-0.5"), -0.5);
  EXPECT_EQ(number_of("2e-4"), 2e-4);
  EXPECT_EQ(number_of("7"), 7.0);
  for (const char* text : {"", " 1", "1 ", "+1", "1,5", "0x10", "1e999", "one", "1.5x"})
    EXPECT_EQ(number_of(text), std::nullopt) << text;
}

TEST(NumberText, DoesNotDependOnTheLocale) {
  const lora_test::CommaLocale comma;
  std::ostringstream stream;
  stream << 1234.5;
  ASSERT_EQ(stream.str(), "1.234,5");  // the locale acts
  if (!comma.in_c().empty()) {
    char text[16];
    std::snprintf(text, sizeof text, "%.1f", 0.5);
    ASSERT_STREQ(text, "0,5") << comma.in_c();
  }
  EXPECT_EQ(number_text(1234.5), "1234.5");
  EXPECT_EQ(fixed_text(1234.5, 2), "1234.50");
  EXPECT_EQ(scientific_text(0.00019, 1), "1.9e-04");
  EXPECT_EQ(grouped_text(1234), "1,234");
  EXPECT_EQ(number_of("0.5"), 0.5);
}

}  // namespace number_text_test
