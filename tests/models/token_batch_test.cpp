// The lengths of a batch's sequences.
#include <lora/models/token_batch.hpp>

#include <gtest/gtest.h>

#include "layers/layer_tools.hpp"

namespace token_batch_test {
using namespace lora;
using namespace lora_test;

std::vector<Index> listed(const std::vector<std::int64_t>& ids, const std::vector<Index>& given) {
  std::vector<Index> lengths = {99};
  list_lengths("here", {ids, given}, lengths);
  return lengths;
}

TEST(TokenBatch, ListsSequencesThatHaveTokens) {
  EXPECT_EQ(listed({1, 2, 3}, {}), std::vector<Index>{3});
  EXPECT_EQ(listed({1, 2, 3}, {2, 1}), (std::vector<Index>{2, 1}));
  EXPECT_EQ(listed({1, 2, 3}, {0, 2, 0, 1, 0}), (std::vector<Index>{2, 1}));
  EXPECT_TRUE(listed({}, {}).empty());
  EXPECT_TRUE(listed({}, {0, 0}).empty());
}

TEST(TokenBatch, RefusesLengthsThatDoNotFit) {
  EXPECT_TRUE(throws<ShapeError>(
      [] {
        listed({1, 2, 3}, {2, 2});
      },
      {"here: lengths[1] is 2, expected 0 to 1, what the previous "
       "sequences leave of 3 ids"}));
  EXPECT_TRUE(throws<ShapeError>([] { listed({1, 2, 3}, {-1, 4}); }, {"lengths[0] is -1"}));
  EXPECT_TRUE(throws<ShapeError>(
      [] {
        listed({1, 2, 3}, {2});
      },
      {"here: lengths sum to 2, expected 3, the number of ids"}));
  EXPECT_TRUE(throws<ShapeError>([] { listed({}, {1}); }, {"lengths[0] is 1, expected 0 to 0"}));
  const Index huge = std::numeric_limits<Index>::max();
  EXPECT_TRUE(throws<ShapeError>([=] { listed({1, 2}, {huge, huge}); }, {"lengths[0] is"}));
}

}  // namespace token_batch_test
