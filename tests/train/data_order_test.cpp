#include <lora/train/data_order.hpp>

#include <gtest/gtest.h>

#include <array>

namespace data_order_test {

using lora::Index;
using lora::RandomStream;
using Indices = std::vector<Index>;

Indices sorted(Indices order) {
  std::sort(order.begin(), order.end());
  return order;
}

Indices counting(Index n) {
  Indices all(static_cast<std::size_t>(n));
  std::iota(all.begin(), all.end(), Index{0});
  return all;
}

TEST(DataOrder, APermutationThatDependsOnTheStreamAlone) {
  for (const Index n : {0, 1, 2, 17, 1000})
    EXPECT_EQ(sorted(lora::random_order(n, RandomStream(1, "x"))), counting(n));
  EXPECT_EQ(lora::random_order(9, RandomStream(1, "x")),
            lora::random_order(9, RandomStream(1, "x")));
  EXPECT_NE(lora::random_order(100, RandomStream(1, "x")),
            lora::random_order(100, RandomStream(2, "x")));
  // Fixed, so that a run of last year can be repeated.
  EXPECT_EQ(lora::random_order(8, RandomStream(7, "order")), (Indices{6, 0, 7, 1, 3, 2, 4, 5}));
}

TEST(DataOrder, EachPermutationIsAsLikely) {
  std::array<int, 6> counts{};
  for (std::uint64_t seed = 0; seed < 6000; ++seed) {
    const Indices order = lora::random_order(3, RandomStream(seed, "x"));
    ++counts[static_cast<std::size_t>(2 * order[0] + (order[1] > order[2]))];
  }
  // 1000 each; five standard deviations are 144.
  for (const int count : counts) EXPECT_NEAR(count, 1000, 145);
}

TEST(DataOrder, TheSplitHasEachExampleOnce) {
  const lora::DataSplit split = lora::split_by_seed(100, 7, 3);
  EXPECT_EQ(split.validation.size(), 7u);
  Indices all = split.training;
  all.insert(all.end(), split.validation.begin(), split.validation.end());
  EXPECT_EQ(sorted(all), counting(100));
  EXPECT_EQ(sorted(split.training), split.training);
  EXPECT_EQ(sorted(split.validation), split.validation);
  EXPECT_EQ(lora::split_by_seed(100, 7, 3).validation, split.validation);
  EXPECT_NE(lora::split_by_seed(100, 7, 4).validation, split.validation);
  EXPECT_TRUE(lora::split_by_seed(5, 0, 3).validation.empty());
}

TEST(DataOrder, LikeLengthsStandTogetherAndTheLongestFirst) {
  Indices lengths;
  for (Index i = 0; i < 103; ++i) lengths.push_back(1 + i * 37 % 101);
  const Index batch = 4, stretch = 4 * 6;  // 103 / 16 = 6 batches
  const Indices order = lora::length_grouped_order(lengths, batch, RandomStream(1, "order"));
  EXPECT_EQ(sorted(order), counting(103));
  const auto length = [&](std::size_t i) { return lengths[static_cast<std::size_t>(order[i])]; };
  EXPECT_EQ(length(0), 101);
  for (std::size_t i = 1; i < order.size(); ++i) {
    // The head of one stretch may have changed places with the longest of all.
    if (i % stretch <= 1) continue;
    EXPECT_LE(length(i), length(i - 1)) << i;
  }
  EXPECT_EQ(sorted(lora::length_grouped_order(Indices{5, 9, 1}, 8, RandomStream(1, "x"))),
            counting(3));
  EXPECT_EQ(lora::length_grouped_order(Indices{5, 9, 1}, 8, RandomStream(1, "x")),
            (Indices{1, 0, 2}));
  EXPECT_TRUE(lora::length_grouped_order({}, 8, RandomStream(1, "x")).empty());
}

TEST(DataOrder, AShareIsRoundedUp) {
  EXPECT_EQ(lora::share_of(100, 0.05), 5);
  EXPECT_EQ(lora::share_of(101, 0.05), 6);
  EXPECT_EQ(lora::share_of(3, 0), 0);
}

std::string refusal(auto&& call) {
  try {
    call();
  } catch (const lora::ConfigError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(DataOrder, Refusals) {
  EXPECT_EQ(refusal([] { lora::split_by_seed(5, 5, 1); }),
            "split_by_seed: 5 of 5 examples for validation leave none for training, expected 0 to "
            "4");
  EXPECT_EQ(refusal([] { lora::split_by_seed(0, 0, 1); }),
            "split_by_seed: 0 of 0 examples for validation leave none for training, expected 0 to "
            "0");
  EXPECT_EQ(refusal([] { lora::split_by_seed(5, -1, 1); }).substr(0, 22), "split_by_seed: -1 of 5");
  EXPECT_EQ(refusal([] { lora::share_of(5, 1.0); }),
            "share_of: the share is 1, expected 0 up to below 1");
  EXPECT_EQ(refusal([] { lora::share_of(5, std::nan("")); }),
            "share_of: the share is nan, expected 0 up to below 1");
  EXPECT_EQ(refusal([] { lora::length_grouped_order(Indices{1}, 0, RandomStream(1, "x")); }),
            "length_grouped_order: the batch has 0 examples, expected at least 1");
}

}  // namespace data_order_test
