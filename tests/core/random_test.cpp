#include <lora/core/random.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

namespace random_test {
using namespace lora;
using Words = std::array<std::uint32_t, 4>;

constexpr std::uint64_t count = 200000;

// The moments of n independent numbers stray from those of their distribution by about sigma/√n;
// five times that is exceeded once in 1.7 million. The streams are fixed, so a test passes always
// or never.
void expect_moment(double measured, double expected, double sigma, double n = double(count)) {
  EXPECT_LE(std::abs(measured - expected), 5 * sigma / std::sqrt(n))
      << measured << " instead of " << expected;
}

template <class Fn>
double mean_of(Fn fn) {
  double sum = 0;
  for (std::uint64_t i = 0; i < count; ++i) sum += fn(i);
  return sum / double(count);
}

// The known answers of the Random123 library for philox4x32-10: counters and keys of zeros, ones
// and π's digits.
TEST(Philox, KnownAnswers) {
  constexpr std::uint32_t ones = 0xFFFFFFFFu;
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, 0),
            (Words{0x6627E8D5u, 0xE169C58Du, 0xBC57AC4Cu, 0x9B00DBD8u}));
  EXPECT_EQ(philox4x32({ones, ones, ones, ones}, 0xFFFFFFFFFFFFFFFFu),
            (Words{0x408F276Du, 0x41C83B0Eu, 0xA20BC7C6u, 0x6D5451FDu}));
  EXPECT_EQ(philox4x32({0x243F6A88u, 0x85A308D3u, 0x13198A2Eu, 0x03707344u}, 0x299F31D0A4093822u),
            (Words{0xD16CFE09u, 0x94FDCCEBu, 0x5001E420u, 0x24126EA1u}));
}

// splitmix64's first outputs from the states 0 and 1.
TEST(Mix64, KnownAnswers) {
  EXPECT_EQ(mix64(0), 0xE220A8397B1DCDAFu);
  EXPECT_EQ(mix64(1), 0x910A2DEC89025CC1u);
}

// From an independent program (integers of any size in Python): an adapter initialised today is the
// one initialised on another platform or by a later version.
TEST(RandomStream, BitsAreFixedForEver) {
  const RandomStream s(42, "layers.0.lora_A");
  EXPECT_EQ(s.key(), 0x4846E18793166624u);
  EXPECT_EQ(s.word(0), 0xBBC49C0Fu);
  EXPECT_EQ(s.word(1), 0x71042FE0u);
  EXPECT_EQ(s.word(5), 0x00B73151u);
  EXPECT_EQ(s.word(17179869186u), 0x86BD28F0u);  // block 2^32: the counter's second word
  EXPECT_EQ(s.uniform(0), 0x1.7789381ee2085p-1);
  EXPECT_EQ(s.uniform(1), 0x1.e90211319a780p-2);
  EXPECT_EQ(s.uniform(7), 0x1.c4ab0f4257800p-5);
  EXPECT_NEAR(s.normal(0), -1.6100443907538002, 1e-15);  // log and cos may differ in the last bit
  EXPECT_NEAR(s.normal(1), -1.1492231412011276, 1e-15);
  EXPECT_NEAR(s.normal(7), 0.1800817560783135, 1e-15);
}

TEST(RandomStream, PositionAloneDecides) {
  const RandomStream s(7, "a"), again(7, "a");
  std::vector<double> forwards, backwards;
  for (std::uint64_t i = 0; i < 100; ++i) forwards.push_back(s.normal(i));
  for (std::uint64_t i = 100; i-- > 0;) backwards.push_back(again.normal(i));
  std::reverse(backwards.begin(), backwards.end());
  EXPECT_EQ(forwards, backwards);
  const Words first = s.block(3);
  for (std::uint64_t i = 0; i < 4; ++i) EXPECT_EQ(s.word(12 + i), first[std::size_t(i)]);
}

TEST(RandomStream, UniformHasTheMomentsOfTheUnitInterval) {
  const RandomStream s(1, "uniform");
  double low = 1, high = 0;
  for (std::uint64_t i = 0; i < count; ++i) {
    low = std::min(low, s.uniform(i));
    high = std::max(high, s.uniform(i));
  }
  EXPECT_GE(low, 0.0);
  EXPECT_LT(high, 1.0);
  EXPECT_LE(low, 20.0 / double(count));  // missed by all of them with probability e^-20
  EXPECT_GE(high, 1 - 20.0 / double(count));
  expect_moment(mean_of([&](auto i) { return s.uniform(i); }), 0.5, std::sqrt(1 / 12.0));
  expect_moment(mean_of([&](auto i) { return std::pow(s.uniform(i) - 0.5, 2); }), 1 / 12.0,
                std::sqrt(1 / 180.0));
}

TEST(RandomStream, UniformFillsItsBinsEvenly) {
  const RandomStream s(2, "bins");
  constexpr std::size_t bins = 64;
  std::array<double, bins> seen{};
  for (std::uint64_t i = 0; i < count; ++i) seen[std::size_t(s.uniform(i) * double(bins))] += 1;
  const double expected = double(count) / double(bins);
  double chi2 = 0;
  for (const double n : seen) chi2 += (n - expected) * (n - expected) / expected;
  const double freedom = double(bins) - 1;
  EXPECT_LE(std::abs(chi2 - freedom), 5 * std::sqrt(2 * freedom));
}

TEST(RandomStream, NormalHasTheMomentsOfTheBell) {
  const RandomStream s(3, "normal");
  const auto power = [&](int k) {
    return mean_of([&](auto i) { return std::pow(s.normal(i), k); });
  };
  expect_moment(power(1), 0, 1);
  expect_moment(power(2), 1, std::sqrt(2.0));
  expect_moment(power(3), 0, std::sqrt(15.0));
  expect_moment(power(4), 3, std::sqrt(96.0));
  const double within = mean_of([&](auto i) { return std::abs(s.normal(i)) < 1 ? 1.0 : 0.0; });
  expect_moment(within, 0.6826894921370859, 0.4655);
  for (std::uint64_t i = 0; i < count; ++i) ASSERT_TRUE(std::isfinite(s.normal(i))) << i;
}

TEST(RandomStream, NeighboursOfAStreamAreIndependent) {
  const RandomStream s(4, "neighbours");
  expect_moment(mean_of([&](auto i) { return s.normal(i) * s.normal(i + 1); }), 0, 1);
  expect_moment(mean_of([&](auto i) { return s.normal(i) * s.normal(i + 64); }), 0, 1);
}

// Names and seeds as a model has them: near to each other.
TEST(RandomStream, StreamsOfOtherNamesAndSeedsAreIndependent) {
  const std::array<RandomStream, 6> streams{
      RandomStream(0, "layers.0.lora_A"), RandomStream(0, "layers.1.lora_A"),
      RandomStream(0, "layers.0.lora_B"), RandomStream(1, "layers.0.lora_A"),
      RandomStream(1, "layers.1.lora_A"), RandomStream(0, "")};
  for (std::size_t a = 0; a < streams.size(); ++a) {
    for (std::size_t b = a + 1; b < streams.size(); ++b) {
      EXPECT_NE(streams[a].key(), streams[b].key());
      expect_moment(mean_of([&](auto i) { return streams[a].normal(i) * streams[b].normal(i); }), 0,
                    1);
    }
  }
}

TEST(RandomStream, KeysOfManyNamesDiffer) {
  std::vector<std::uint64_t> keys;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    for (int layer = 0; layer < 500; ++layer) {
      keys.push_back(stream_key(seed, "layers." + std::to_string(layer) + ".q_proj"));
    }
  }
  std::sort(keys.begin(), keys.end());
  EXPECT_EQ(std::adjacent_find(keys.begin(), keys.end()), keys.end());
}

TEST(RandomStream, BelowGivesEachIntegerAlike) {
  const RandomStream s(5, "below");
  constexpr Index n = 7;
  std::array<double, n> seen{};
  for (std::uint64_t i = 0; i < count; ++i) {
    const Index k = s.below(i, n);
    ASSERT_GE(k, 0);
    ASSERT_LT(k, n);
    seen[std::size_t(k)] += 1;
  }
  const double p = 1.0 / double(n);
  for (const double k : seen) expect_moment(k / double(count), p, std::sqrt(p * (1 - p)));
  for (std::uint64_t i = 0; i < 100; ++i) EXPECT_EQ(s.below(i, 1), 0);
}

TEST(Fill, UniformFillsByPosition) {
  const RandomStream s(6, "fill");
  Matrix<float> m(3, 5);
  fill_uniform(m, s, -0.25, 0.25);
  for (Index i = 0; i < 3; ++i) {
    for (Index j = 0; j < 5; ++j) {
      EXPECT_EQ(m(i, j), float(-0.25 + 0.5 * s.uniform(std::uint64_t(i * 5 + j))));
    }
  }
  Matrix<double> wide(200, 301);
  fill_uniform(wide, s, -2, 3);
  EXPECT_GE(wide.minCoeff(), -2);
  EXPECT_LE(wide.maxCoeff(), 3);
  expect_moment(wide.mean(), 0.5, 5 * std::sqrt(1 / 12.0), 200 * 301);
}

TEST(Fill, NormalFillsByPosition) {
  const RandomStream s(6, "fill");
  Matrix<double> m(4, 3);
  fill_normal(m, s, 0.02);
  for (Index i = 0; i < m.size(); ++i) EXPECT_EQ(m.data()[i], 0.02 * s.normal(std::uint64_t(i)));
  Matrix<double> none(0, 3);
  fill_normal(none, s, 1);
  EXPECT_EQ(none.size(), 0);
}

}  // namespace random_test
