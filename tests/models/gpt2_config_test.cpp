// What GPT-2's sizes and options may be.
#include <lora/models/gpt2_config.hpp>

#include <gtest/gtest.h>

#include "layers/layer_tools.hpp"

namespace gpt2_config_test {
using namespace lora;
using namespace lora_test;

template <class Change>
testing::AssertionResult refused(Change&& change, const char* part) {
  GPT2Config c{8, 8, 8, 1, 2};
  change(c);
  return throws<ConfigError>([&] { check_config(c); }, {"GPT2Config: ", part});
}

TEST(GPT2Config, GoodOnesPassAndInnerIsFourTimesTheWidth) {
  GPT2Config c{8, 8, 8, 1, 2};
  EXPECT_NO_THROW(check_config(c));
  EXPECT_EQ(c.inner(), 32);
  GPT2Config said = c;
  said.n_inner = 32;
  EXPECT_EQ(c, said) << "the same model";
  c.n_inner = 5;
  EXPECT_EQ(c.inner(), 5);
  EXPECT_NE(c, said);
}

TEST(GPT2Config, BadOnesAreRefusedByField) {
  EXPECT_TRUE(refused([](auto& c) { c.vocab_size = 0; }, "vocab_size is 0, expected at least 1"));
  EXPECT_TRUE(refused([](auto& c) { c.n_positions = 0; }, "n_positions is 0"));
  EXPECT_TRUE(refused([](auto& c) { c.n_embd = 0; }, "n_embd is 0"));
  EXPECT_TRUE(refused([](auto& c) { c.n_layer = -1; }, "n_layer is -1"));
  EXPECT_TRUE(refused([](auto& c) { c.n_head = 0; }, "n_head is 0"));
  EXPECT_TRUE(refused([](auto& c) { c.n_inner = -1; }, "n_inner is -1"));
  EXPECT_TRUE(
      refused([](auto& c) { c.n_head = 3; }, "n_embd is 8, expected a multiple of n_head, 3"));
  EXPECT_TRUE(refused([](auto& c) { c.layer_norm_epsilon = -1; }, "layer_norm_epsilon is -1"));
}

}  // namespace gpt2_config_test
