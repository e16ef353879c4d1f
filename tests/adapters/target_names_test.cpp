// The shortest way to name modules.
#include <lora/adapters/target_names.hpp>

#include <gtest/gtest.h>

namespace target_names_test {
using lora::target_names;
using Names = std::vector<std::string>;

const Names all = {"h.0.attn.q", "h.0.attn.v", "h.0.mlp.up", "h.1.attn.q", "h.1.mlp.up", "head"};

TEST(TargetNames, LastNamesWhereTheySelectNoOthers) {
  EXPECT_EQ(target_names({"h.0.mlp.up", "h.1.mlp.up", "h.0.attn.v"}, all), (Names{"up", "v"}));
  EXPECT_EQ(target_names({"head"}, all), Names{"head"});
  EXPECT_EQ(target_names({}, all), Names{});
}

TEST(TargetNames, WholePathsWhereLastNamesSelectMore) {
  EXPECT_EQ(target_names({"h.1.attn.q"}, all), Names{"h.1.attn.q"});
  EXPECT_EQ(target_names({"head", "h.0.mlp.up"}, all), (Names{"head", "h.0.mlp.up"}));
}

TEST(TargetNames, ALastNameStandsBehindTheLastDot) {
  EXPECT_EQ(lora::last_name("a.b.c"), "c");
  EXPECT_EQ(lora::last_name("c"), "c");
  EXPECT_EQ(lora::last_name("a."), "");
}

}  // namespace target_names_test
