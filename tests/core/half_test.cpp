// bf16 and f16: every pattern, every halfway case.
#include <lora/core/half.hpp>

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace half_test {

// The value of a small float by the definition of the format: 2^(e - bias) · 1.fraction, written
// independently of the bit tricks under test.
double by_definition(unsigned pattern, int exponent_bits, int fraction_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const unsigned fraction = pattern & ((1u << fraction_bits) - 1);
  const int exponent = static_cast<int>((pattern >> fraction_bits) & ((1u << exponent_bits) - 1));
  const double sign = (pattern >> (exponent_bits + fraction_bits)) != 0 ? -1.0 : 1.0;
  if (exponent == (1 << exponent_bits) - 1) {
    return fraction == 0 ? sign * std::numeric_limits<double>::infinity() : std::nan("");
  }
  if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias - fraction_bits);
  return sign * std::ldexp((1u << fraction_bits) + fraction, exponent - bias - fraction_bits);
}

struct Format {
  const char* name;
  int exponent_bits, fraction_bits;
  float (*widen)(std::uint16_t);
  std::uint16_t (*narrow)(float);
  std::uint16_t infinity() const {
    return static_cast<std::uint16_t>(((1u << exponent_bits) - 1) << fraction_bits);
  }
};

const Format formats[] = {{"f16", 5, 10, lora::f16_to_float, lora::float_to_f16},
                          {"bf16", 8, 7, lora::bf16_to_float, lora::float_to_bf16}};

TEST(Half, EveryPatternWidensToItsValueAndNarrowsBack) {
  for (const Format& format : formats) {
    for (unsigned pattern = 0; pattern <= 0xFFFF; ++pattern) {
      const auto h = static_cast<std::uint16_t>(pattern);
      const double expected = by_definition(pattern, format.exponent_bits, format.fraction_bits);
      const float widened = format.widen(h);
      if (std::isnan(expected)) {
        ASSERT_TRUE(std::isnan(widened)) << format.name << " " << pattern;
        // The payload comes back, with the bit that makes a NaN quiet.
        ASSERT_EQ(format.narrow(widened), h | (1u << (format.fraction_bits - 1)))
            << format.name << " " << pattern;
      } else {
        ASSERT_EQ(static_cast<double>(widened), expected) << format.name << " " << pattern;
        ASSERT_EQ(std::signbit(widened), (pattern & 0x8000u) != 0) << format.name << " " << pattern;
        ASSERT_EQ(format.narrow(widened), h) << format.name << " " << pattern;
      }
    }
  }
}

TEST(Half, EveryHalfwayCaseGoesToEvenAndItsNeighboursToTheNearest) {
  for (const Format& format : formats) {
    for (unsigned low = 0; low < format.infinity(); ++low) {
      const auto high = static_cast<std::uint16_t>(low + 1);
      const double below = by_definition(low, format.exponent_bits, format.fraction_bits);
      // One step past the largest finite value, where rounding to infinity begins half way.
      const double above =
          high == format.infinity()
              ? 2 * below - by_definition(low - 1, format.exponent_bits, format.fraction_bits)
              : by_definition(high, format.exponent_bits, format.fraction_bits);
      const auto middle = static_cast<float>((below + above) / 2);
      ASSERT_EQ(static_cast<double>(middle), (below + above) / 2) << "exact in float";
      const unsigned even = low % 2 == 0 ? low : high;
      const float less = std::nextafter(middle, 0.0f), more = std::nextafter(middle, INFINITY);
      ASSERT_EQ(format.narrow(middle), even) << format.name << " " << low;
      ASSERT_EQ(format.narrow(less), low) << format.name << " " << low;
      ASSERT_EQ(format.narrow(more), high) << format.name << " " << low;
      ASSERT_EQ(format.narrow(-middle), even | 0x8000u) << format.name << " " << low;
      ASSERT_EQ(format.narrow(-less), low | 0x8000u) << format.name << " " << low;
      ASSERT_EQ(format.narrow(-more), high | 0x8000u) << format.name << " " << low;
    }
  }
}

TEST(Half, OverflowUnderflowAndNaN) {
  for (const Format& format : formats) {
    EXPECT_EQ(format.narrow(std::numeric_limits<float>::max()), format.infinity()) << format.name;
    EXPECT_EQ(format.narrow(-std::numeric_limits<float>::infinity()), format.infinity() | 0x8000u);
    EXPECT_EQ(format.narrow(std::numeric_limits<float>::denorm_min()), 0u) << format.name;
    EXPECT_EQ(format.narrow(-std::numeric_limits<float>::denorm_min()), 0x8000u) << format.name;
    // A NaN whose payload lies only in the bits that are cut off must not become infinity.
    for (const std::uint32_t bits :
         {0x7F800001u, 0xFF800001u, 0x7FC00000u, 0x7FFFFFFFu, 0xFFFFFFFFu}) {
      const std::uint16_t h = format.narrow(std::bit_cast<float>(bits));
      EXPECT_TRUE(std::isnan(format.widen(h))) << format.name << " " << std::hex << bits;
      EXPECT_EQ(h >> 15, bits >> 31) << format.name;
    }
  }
}

}  // namespace half_test
