#include <lora/text/data/packing.hpp>

#include <gtest/gtest.h>

#include <random>

namespace packing_test {

using lora::Index;
using lora::TokenizedExample;
using Lengths = std::vector<Index>;
using Rows = std::vector<std::vector<Index>>;

TokenizedExample example(std::int64_t id, std::size_t length) {
  TokenizedExample out{std::vector<std::int64_t>(length, id),
                       std::vector<std::int64_t>(length, id)};
  out.labels[0] = lora::ignored_label;
  return out;
}

TEST(Packing, TheLongestFirstWhereTheLeastRoomIsLeft) {
  EXPECT_EQ(lora::pack_by_length(Lengths{3, 6, 4, 7, 2}, 10), (Rows{{3, 0}, {1, 2}, {4}}));
  EXPECT_EQ(lora::pack_by_length(Lengths{5, 5, 5}, 5), (Rows{{0}, {1}, {2}}));
  EXPECT_EQ(lora::pack_by_length(Lengths{1, 1, 1}, 3), (Rows{{0, 1, 2}}));
  EXPECT_EQ(lora::pack_by_length(Lengths{}, 3), Rows{});
}

TEST(Packing, EveryExampleStandsInOneRowAndNoRowIsTooLong) {
  std::mt19937 random(6);
  for (int round = 0; round < 200; ++round) {
    Lengths lengths;
    Index sum = 0;
    for (auto n = random() % 60; n > 0; --n) {
      lengths.push_back(1 + static_cast<Index>(random() % 32));
      sum += lengths.back();
    }
    const Rows rows = lora::pack_by_length(lengths, 32);
    std::vector<int> seen(lengths.size());
    for (const auto& row : rows) {
      Index length = 0;
      for (const Index i : row) {
        ++seen[static_cast<std::size_t>(i)];
        length += lengths[static_cast<std::size_t>(i)];
      }
      ASSERT_LE(length, 32);
    }
    ASSERT_EQ(seen, std::vector<int>(lengths.size(), 1));
    // Any two rows hold more than one row may, so at most one is half empty.
    ASSERT_LE(static_cast<Index>(rows.size()), 2 * sum / 32 + 1);
  }
}

TEST(Packing, RowsKeepTheirExamplesApart) {
  const std::vector<TokenizedExample> examples = {example(1, 2), example(2, 3), example(3, 1)};
  const std::vector<lora::PackedRow> rows = lora::pack(examples, 4);
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].ids, (std::vector<std::int64_t>{2, 2, 2, 3}));
  EXPECT_EQ(rows[0].labels, (std::vector<std::int64_t>{-100, 2, 2, -100}));
  EXPECT_EQ(rows[0].lengths, (Lengths{3, 1}));
  EXPECT_EQ(rows[1].ids, (std::vector<std::int64_t>{1, 1}));
  EXPECT_EQ(rows[1].lengths, Lengths{2});
}

std::string refusal(auto&& call) {
  try {
    call();
  } catch (const lora::ConfigError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(Packing, RefusesLengthsAndIndicesThatAreNone) {
  EXPECT_EQ(refusal([] {
              lora::pack_by_length(Lengths{3, 5}, 4);
            }),
            "pack_by_length: example 1 has 5 tokens, expected 1 to 4");
  EXPECT_EQ(refusal([] {
              lora::pack_by_length(Lengths{3, 0}, 4);
            }),
            "pack_by_length: example 1 has 0 tokens, expected 1 to 4");
  const std::vector<TokenizedExample> examples = {example(1, 2)};
  EXPECT_EQ(refusal([&] {
              lora::join(examples, Lengths{0, 1});
            }),
            "join: index 1 is none of 1 examples");
  EXPECT_EQ(refusal([&] { lora::join(examples, Lengths{-1}); }),
            "join: index -1 is none of 1 examples");
}

}  // namespace packing_test
