// The prefix of PEFT's keys.
#include <lora/io/peft_keys.hpp>

#include <gtest/gtest.h>

namespace {
using lora::without_peft_prefix;

TEST(PeftKeys, LoseTheirPrefixOnceAndOnlyWhole) {
  EXPECT_EQ(without_peft_prefix("base_model.model.model.layers.0.q"), "model.layers.0.q");
  EXPECT_EQ(without_peft_prefix("base_model.model.base_model.model.q"), "base_model.model.q");
  EXPECT_EQ(without_peft_prefix("base_model.model."), "");
  for (const char* key : {"", "q", "base_model.model", "base_model.modelq", "x.base_model.model.q"})
    EXPECT_EQ(without_peft_prefix(key), key);
}

}  // namespace
