#include <lora/text/token_table.hpp>

#include <gtest/gtest.h>

#include <map>

namespace {

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

}  // namespace
