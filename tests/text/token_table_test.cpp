#include <lora/text/tokenizer/token_table.hpp>

#include <gtest/gtest.h>

#include <ctime>
#include <map>

namespace token_table_test {

TEST(TokenTable, FindsWhatWasAddedAndNothingElse) {
  lora::TokenTable table;
  EXPECT_EQ(table.find("a"), lora::no_token);
  for (std::uint32_t i = 0; i < 20'000; ++i)
    EXPECT_TRUE(table.add(std::string(i % 19, 'x') + std::to_string(i), i));
  EXPECT_EQ(table.size(), 20'000u);
  for (std::uint32_t i = 0; i < 20'000; ++i) {
    const std::string key = std::string(i % 19, 'x') + std::to_string(i);
    ASSERT_EQ(table.find(key), i);
    ASSERT_EQ(table.find(key + "y"), lora::no_token);
  }
  EXPECT_EQ(table.find(""), lora::no_token);
  EXPECT_TRUE(table.add("", 7));
  EXPECT_EQ(table.find(""), 7u);
}

TEST(TokenTable, AnOldKeyKeepsItsValue) {
  lora::TokenTable table;
  EXPECT_TRUE(table.add("same", 1));
  EXPECT_FALSE(table.add("same", 2));
  EXPECT_EQ(table.find("same"), 1u);
  EXPECT_EQ(table.size(), 1u);
}

TEST(TokenTable, KeysThatDifferInTheirLengthOrZerosAreDifferent) {
  lora::TokenTable table;
  const std::string zeros(20, '\0');
  for (std::uint32_t n = 0; n <= 20; ++n) EXPECT_TRUE(table.add(zeros.substr(0, n), n));
  for (std::uint32_t n = 0; n <= 20; ++n) EXPECT_EQ(table.find(zeros.substr(0, n)), n);
}

TEST(PairTable, EqualsAMap) {
  lora::PairTable table;
  EXPECT_EQ(table.find(1, 2, 9), 9u);
  std::map<std::pair<std::uint32_t, std::uint32_t>, std::uint32_t> expected;
  for (std::uint32_t i = 0; i < 20'000; ++i) {
    const std::uint32_t a = i * 7919 % 300, b = i * 104'729 % 400;
    table.at(a, b) = i;
    expected[{a, b}] = i;
  }
  for (std::uint32_t a = 0; a < 310; ++a) {
    for (std::uint32_t b = 0; b < 410; ++b) {
      const auto found = expected.find({a, b});
      ASSERT_EQ(table.find(a, b, 7), found == expected.end() ? 7u : found->second);
    }
  }
}

TEST(PairTable, ANewPairHasNoTokenUntilItIsGivenOne) {
  lora::PairTable table;
  EXPECT_EQ(table.at(0, 0), lora::no_token);
  EXPECT_EQ(table.find(0, 0, 5), lora::no_token);
}

double processor_seconds(auto&& work) {
  const std::clock_t began = std::clock();
  work();
  return static_cast<double>(std::clock() - began) / CLOCKS_PER_SEC;
}

// Keys that all met in one slot while the hash had no secret: each search would look at all others.
TEST(TokenTable, KeysOfAStrangerDoNotCollide) {
  lora::TokenTable table;
  const double took = processor_seconds([&] {
    for (std::uint64_t i = 0; i < 40'000; ++i) {
      const std::uint64_t words[] = {i, 12'345 ^ lora::mix64(16 ^ i)};
      std::string key(16, '\0');
      std::memcpy(key.data(), words, 16);
      EXPECT_TRUE(table.add(key, 1));
    }
  });
  EXPECT_LT(took, 1);
}

TEST(PairTable, KeysOfAStrangerDoNotCollide) {
  constexpr std::uint64_t factor = 0x9E3779B97F4A7C15u;
  std::uint64_t inverse = 1;
  for (int i = 0; i < 6; ++i) inverse *= 2 - factor * inverse;
  lora::PairTable table;
  const double took = processor_seconds([&] {
    for (std::uint64_t i = 0; i < 60'000; ++i) {
      const std::uint64_t pair = (i << 32 | i) * inverse;
      table.at(static_cast<std::uint32_t>(pair >> 32), static_cast<std::uint32_t>(pair)) = 1;
    }
  });
  EXPECT_LT(took, 1);
}

}  // namespace token_table_test
