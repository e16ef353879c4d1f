// What a Llama's sizes and options may be.
#include <lora/models/llama_config.hpp>

#include <gtest/gtest.h>

#include <limits>

#include "layers/layer_tools.hpp"

namespace llama_config_test {
using namespace lora;
using namespace lora_test;

LlamaConfig good() {
  LlamaConfig c;
  c.vocab_size = c.hidden_size = c.intermediate_size = c.max_position_embeddings = 8;
  c.num_hidden_layers = 1, c.num_attention_heads = 4, c.num_key_value_heads = 2, c.head_dim = 4;
  return c;
}
template <class Change>
testing::AssertionResult refused(Change&& change, const char* part) {
  LlamaConfig c = good();
  change(c);
  return throws<ConfigError>([&] { check_config(c); }, {"LlamaConfig: ", part});
}

TEST(LlamaConfig, GoodOnesPass) {
  EXPECT_NO_THROW(check_config(good()));
  LlamaConfig c = good();
  c.rope_scaling = {RopeScaling::Type::llama3, 8, 1, 4, 16};
  EXPECT_NO_THROW(check_config(c));
  EXPECT_EQ(c.rope().head_dim, 4);
  EXPECT_EQ(c.rope().scaling.factor, 8);
  EXPECT_EQ(c.rope().max_position_embeddings, 8);
}

TEST(LlamaConfig, NormsAreCalledAsTransformersDoes) {
  EXPECT_STREQ(rms_norm_type("llama"), "LlamaRMSNorm");
  EXPECT_STREQ(rms_norm_type("mistral"), "MistralRMSNorm");
  EXPECT_STREQ(rms_norm_type("qwen2"), "Qwen2RMSNorm");
  EXPECT_STREQ(rms_norm_type("qwen3"), "Qwen3RMSNorm");
}

TEST(LlamaConfig, BadOnesAreRefusedByField) {
  EXPECT_TRUE(refused([](auto& c) { c.model_type = "gemma"; }, "model_type is \"gemma\""));
  EXPECT_TRUE(refused([](auto& c) { c.vocab_size = 0; }, "vocab_size is 0, expected at least 1"));
  EXPECT_TRUE(refused([](auto& c) { c.hidden_size = -1; }, "hidden_size is -1"));
  EXPECT_TRUE(refused([](auto& c) { c.intermediate_size = 0; }, "intermediate_size is 0"));
  EXPECT_TRUE(refused([](auto& c) { c.num_hidden_layers = -1; }, "num_hidden_layers is -1"));
  EXPECT_TRUE(refused([](auto& c) { c.num_attention_heads = 0; }, "num_attention_heads is 0"));
  EXPECT_TRUE(refused([](auto& c) { c.num_key_value_heads = 0; }, "num_key_value_heads is 0"));
  EXPECT_TRUE(refused([](auto& c) { c.num_key_value_heads = 3; },
                      "num_attention_heads is 4, expected a multiple of num_key_value_heads, 3"));
  EXPECT_TRUE(refused([](auto& c) { c.head_dim = 5; }, "head_dim is 5, expected an even number"));
  EXPECT_TRUE(refused([](auto& c) { c.head_dim = 0; }, "head_dim is 0"));
  EXPECT_TRUE(
      refused([](auto& c) { c.max_position_embeddings = 0; }, "max_position_embeddings is 0"));
  EXPECT_TRUE(refused([](auto& c) { c.sliding_window = -1; }, "sliding_window is -1"));
  EXPECT_TRUE(refused([](auto& c) { c.first_sliding_layer = -1; }, "first_sliding_layer is -1"));
  EXPECT_TRUE(refused([](auto& c) { c.rms_norm_eps = -1; }, "rms_norm_eps is -1"));
  EXPECT_TRUE(refused([](auto& c) { c.rope_theta = std::numeric_limits<double>::infinity(); },
                      "rope_theta is inf, expected a finite number > 0"));
  using Type = RopeScaling::Type;
  EXPECT_TRUE(refused(
      [](auto& c) {
        c.rope_scaling = {Type::linear, 0};
      },
      "rope_scaling.factor is 0"));
  EXPECT_TRUE(refused(
      [](auto& c) {
        c.rope_scaling = {Type::dynamic, 2}, c.head_dim = 2;
      },
      "head_dim is 2, expected more than 2 with a rope_scaling that is dynamic"));
  EXPECT_TRUE(refused(
      [](auto& c) {
        c.rope_scaling = {Type::llama3, 8, 0, 4, 16};
      },
      "rope_scaling.low_freq_factor is 0"));
  EXPECT_TRUE(refused(
      [](auto& c) {
        c.rope_scaling = {Type::llama3, 8, 1, -4, 16};
      },
      "rope_scaling.high_freq_factor is -4"));
  EXPECT_TRUE(refused(
      [](auto& c) {
        c.rope_scaling = {Type::llama3, 8, 4, 4, 16};
      },
      "expected more than low_freq_factor, 4"));
  EXPECT_TRUE(refused(
      [](auto& c) {
        c.rope_scaling = {Type::llama3, 8, 1, 4, 0};
      },
      "rope_scaling.original_max_position_embeddings is 0"));
  const auto yarn = [](auto& c) { c.rope_scaling = {Type::yarn, 8, 1, 4, 16}; };
  EXPECT_TRUE(refused([&](auto& c) { yarn(c), c.rope_scaling.beta_slow = 0; },
                      "rope_scaling.beta_slow is 0"));
  EXPECT_TRUE(refused([&](auto& c) { yarn(c), c.rope_scaling.attention_factor = -1; },
                      "rope_scaling.attention_factor is -1"));
  EXPECT_TRUE(refused([&](auto& c) { yarn(c), c.rope_theta = 1; }, "expected more than 1"));
  EXPECT_TRUE(
      refused([&](auto& c) { yarn(c), c.rope_scaling.original_max_position_embeddings = 0; },
              "rope_scaling.original_max_position_embeddings is 0"));
}

}  // namespace llama_config_test
