// The prefix of PEFT's keys.
#include <lora/io/peft/peft_keys.hpp>

#include <gtest/gtest.h>

namespace peft_keys_test {
using lora::without_peft_prefix;

TEST(PeftKeys, LoseTheirPrefixOnceAndOnlyWhole) {
  EXPECT_EQ(without_peft_prefix("base_model.model.model.layers.0.q"), "model.layers.0.q");
  EXPECT_EQ(without_peft_prefix("base_model.model.base_model.model.q"), "base_model.model.q");
  EXPECT_EQ(without_peft_prefix("base_model.model."), "");
  for (const char* key : {"", "q", "base_model.model", "base_model.modelq", "x.base_model.model.q"})
    EXPECT_EQ(without_peft_prefix(key), key);
}

TEST(PeftKeys, TellCopiesOfTheBaseFromWhatWasTrained) {
  lora::LoRAConfig config;
  config.modules_to_save = {{"head", "score"}};
  using lora::copied_module;
  EXPECT_EQ(copied_module(config, "base_model.model.m.embed.base_layer.weight"), "m.embed");
  EXPECT_EQ(copied_module(config, "m.embed.weight"), "m.embed");
  // By the end of a name, without a dot before it, also of a container's.
  for (const char* key : {"lm_head.weight", "m.score.weight", "score.dense.weight", "m.embed.bias",
                          "m.embed.lora_A", "m.embed.base_layer.bias"})
    EXPECT_EQ(copied_module(config, key), "") << key;
  EXPECT_EQ(copied_module(config, "header.weight"), "header");
  EXPECT_TRUE(lora::detail::is_where_peft_looks("m.embed.base_layer.weight", true));
  EXPECT_FALSE(lora::detail::is_where_peft_looks("m.embed.weight", true));
  EXPECT_TRUE(lora::detail::is_where_peft_looks("m.embed.weight", false));
}

}  // namespace peft_keys_test
