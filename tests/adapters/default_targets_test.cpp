#include <lora/adapters/default_targets.hpp>

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace default_targets_test {

using Names = std::vector<std::string>;

TEST(DefaultTargets, KnowsTheModelsOfTheReference) {
  for (const char* type : {"llama", "mistral", "gemma", "qwen2", "qwen3", "mixtral", "opt"}) {
    EXPECT_EQ(lora::default_target_modules(type), (Names{"q_proj", "v_proj"})) << type;
  }
  EXPECT_EQ(lora::default_target_modules("gpt2"), Names{"c_attn"});
  EXPECT_EQ(lora::default_target_modules("chatglm"), Names{"query_key_value"});
  EXPECT_EQ(lora::default_target_modules("bert"), (Names{"query", "value"}));
  EXPECT_EQ(lora::default_target_modules("phi"), (Names{"q_proj", "v_proj", "fc1", "fc2"}));
}

TEST(DefaultTargets, IsSortedAndComplete) {
  const auto known = lora::known_default_targets();
  EXPECT_EQ(known.size(), 37u);
  for (std::size_t i = 0; i < known.size(); ++i) {
    EXPECT_TRUE(i == 0 || known[i - 1].model_type < known[i].model_type) << known[i].model_type;
    EXPECT_FALSE(lora::default_target_modules(known[i].model_type).empty()) << known[i].model_type;
  }
}

TEST(DefaultTargets, ListsTheKnownTypesForAnother) {
  for (const char* type : {"vit", "qwen", ""}) {
    try {
      lora::default_target_modules(type);
      FAIL() << type;
    } catch (const lora::ConfigError& error) {
      const std::string said = error.what();
      EXPECT_NE(said.find("model type \"" + std::string(type) + "\" has no default targets"),
                said.npos)
          << said;
      for (const auto& entry : lora::known_default_targets())
        EXPECT_NE(said.find(entry.model_type), said.npos);
    }
  }
}

}  // namespace default_targets_test
