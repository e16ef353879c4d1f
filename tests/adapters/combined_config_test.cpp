// The configuration of a combined adapter: which modules it names, with which ranks.
#include <lora/adapters/combined_config.hpp>

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "layers/layer_tools.hpp"

namespace combined_config_test {
using namespace lora;
using namespace lora_test;
using Names = std::vector<std::string>;
using Ranks = std::vector<ModuleRank>;

std::vector<ModuleInfo> modules(const Names& names) {
  std::vector<ModuleInfo> list;
  for (const std::string& name : names) list.push_back({name, "Linear"});
  return list;
}
const Names blocks = {"m.0.q", "m.0.v", "m.1.q", "m.1.v", "head"};

LoRAConfig targeting(NameSelection targets) {
  LoRAConfig config;
  config.target_modules = std::move(targets);
  return config;
}
/// The ranks that the configuration gives to `names`, "module r" each.
Names found(const LoRAConfig& config, const Names& names) {
  Names list;
  for (const MatchedModule& one : match_modules(modules(names), config).targets) {
    EXPECT_EQ(one.scaling, 1) << one.name;
    list.push_back(one.name + " " + std::to_string(one.r));
  }
  return list;
}

TEST(CombinedConfig, OtherFieldsAreThoseOfTheFirst) {
  LoRAConfig first = targeting({"q"}), second = targeting({"v"});
  first.lora_dropout = 0.25;
  first.task_type = "CAUSAL_LM";
  first.base_model_name_or_path = "base";
  first.use_rslora = true;
  first.init_lora_weights = "orthogonal";
  first.rank_pattern = {{"q", 2}};
  first.alpha_pattern = {{"q", 9}};
  second.lora_dropout = 0.5;
  const Ranks ranks = {{"m.0.q", 4}, {"m.0.v", 4}, {"m.1.q", 4}, {"m.1.v", 4}};
  const LoRAConfig config = combined_config<>({first, second}, ranks, {}, modules(blocks));
  EXPECT_EQ(config.r, 4);
  EXPECT_EQ(config.lora_alpha, 4);
  EXPECT_EQ(config.lora_dropout, 0.25);
  EXPECT_EQ(config.task_type, "CAUSAL_LM");
  EXPECT_EQ(config.base_model_name_or_path, "base");
  EXPECT_FALSE(config.use_rslora);
  EXPECT_EQ(config.init_lora_weights, InitSelection(true));
  EXPECT_TRUE(config.rank_pattern.empty());
  EXPECT_TRUE(config.alpha_pattern.empty());
  EXPECT_EQ(config.target_modules, NameSelection(Names{"q", "v"}));
  EXPECT_FALSE(config.modules_to_save.has_value());
}

TEST(CombinedConfig, TargetsAreUnited) {
  const Ranks all = {{"m.0.q", 4}, {"m.0.v", 4}, {"m.1.q", 4}, {"m.1.v", 4}};
  const auto united = [&](NameSelection a, NameSelection b, const Ranks& ranks) {
    return combined_config<>({targeting(a), targeting(b)}, ranks, {}, modules(blocks))
        .target_modules;
  };
  EXPECT_EQ(united({"q", "v"}, {"v"}, all), NameSelection(Names{"q", "v"}));
  EXPECT_EQ(united(".*\\.q", ".*\\.v", all), NameSelection("(.*\\.q)|(.*\\.v)"));
  EXPECT_EQ(united(".*\\.[qv]", ".*\\.[qv]", all), NameSelection(".*\\.[qv]"));
  Ranks linear = all;
  linear.push_back({"head", 4});
  EXPECT_EQ(united("all-linear", "all-linear", linear), NameSelection("all-linear"));
  // A mix of both kinds, or of "all-linear" and another, is written out.
  const NameSelection paths({"m.0.q", "m.0.v", "m.1.q", "m.1.v"});
  EXPECT_EQ(united({"q"}, ".*\\.v", all), paths);
  linear = all;
  linear.push_back({"head", 4});
  EXPECT_EQ(united("all-linear", ".*\\.v", linear),
            NameSelection(Names{"m.0.q", "m.0.v", "m.1.q", "m.1.v", "head"}));
}

TEST(CombinedConfig, DefaultTargetsStayDefaults) {
  const Names llama = {"model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj",
                       "model.layers.0.self_attn.o_proj"};
  const Ranks ranks = {{llama[0], 4}, {llama[1], 4}};
  const auto combined = [&](NameSelection second) {
    return combined_config<>({LoRAConfig(), targeting(second)}, ranks, {}, modules(llama), "llama")
        .target_modules;
  };
  EXPECT_TRUE(combined({}).is_null());
  EXPECT_EQ(combined({"q_proj"}), NameSelection(Names{llama[0], llama[1]}));
}

// PEFT keeps the first one's filters and loses the second one's layer.
TEST(CombinedConfig, FiltersThatDifferAreWrittenOut) {
  LoRAConfig first = targeting({"q"}), second = targeting({"q", "v"});
  const Names names = {"t.m.0.q", "t.m.0.v", "t.m.1.q", "t.m.1.v", "head"};
  first.layers_to_transform = 0;
  first.exclude_modules = {"head"};
  second.layers_to_transform = 1;
  const LoRAConfig same = combined_config<>({first, first}, {{"t.m.0.q", 2}}, {}, modules(names));
  EXPECT_EQ(same.target_modules, NameSelection(Names{"q"}));
  EXPECT_EQ(same.layers_to_transform, LayerSelection(0));
  EXPECT_EQ(same.exclude_modules, NameSelection(Names{"head"}));
  const Ranks ranks = {{"t.m.0.q", 2}, {"t.m.1.q", 2}, {"t.m.1.v", 2}};
  const LoRAConfig config = combined_config<>({first, second}, ranks, {}, modules(names));
  EXPECT_EQ(config.target_modules, NameSelection(Names{"t.m.0.q", "t.m.1.q", "t.m.1.v"}));
  EXPECT_TRUE(config.layers_to_transform.is_null());
  EXPECT_TRUE(config.exclude_modules.is_null());
  EXPECT_EQ(found(config, names), (Names{"t.m.0.q 2", "t.m.1.q 2", "t.m.1.v 2"}));
}

TEST(CombinedConfig, RanksThatDifferGoToThePatterns) {
  const Ranks ranks = {{"m.0.q", 5}, {"m.0.v", 3}, {"m.1.q", 5}, {"m.1.v", 2}};
  const LoRAConfig config =
      combined_config<>({targeting({"q"}), targeting({"v"})}, ranks, {}, modules(blocks));
  EXPECT_EQ(config.r, 5);
  EXPECT_EQ(config.lora_alpha, 5);
  using Pattern = std::vector<std::pair<std::string, Index>>;
  using Alphas = std::vector<std::pair<std::string, double>>;
  EXPECT_EQ(config.rank_pattern, (Pattern{{"m.0.v", 3}, {"m.1.v", 2}}));
  EXPECT_EQ(config.alpha_pattern, (Alphas{{"m.0.v", 3}, {"m.1.v", 2}}));
  EXPECT_EQ(found(config, blocks), (Names{"m.0.q 5", "m.0.v 3", "m.1.q 5", "m.1.v 2"}));
}

// "a.q" is also the end of "b.a.q": as a key and as a target it would hit both.
TEST(CombinedConfig, APathThatEndsAnotherIsAnchored) {
  const Names names = {"a.q", "b.a.q", "c+.q"};
  const LoRAConfig config = combined_config<>(
      {targeting({"q"})}, {{"a.q", 2}, {"b.a.q", 5}, {"c+.q", 3}}, {}, modules(names));
  EXPECT_EQ(config.rank_pattern[0].first, "^a\\.q");
  EXPECT_EQ(config.rank_pattern[1].first, "^c\\+\\.q");
  EXPECT_EQ(found(config, names), (Names{"a.q 2", "b.a.q 5", "c+.q 3"}));
  const LoRAConfig one = combined_config<>({targeting("a\\.q"), targeting({"c+.q"})},
                                           {{"a.q", 2}, {"c+.q", 2}}, {}, modules(names));
  EXPECT_EQ(one.target_modules, NameSelection("a\\.q|c\\+\\.q"));
  EXPECT_EQ(found(one, names), (Names{"a.q 2", "c+.q 2"}));
}

TEST(CombinedConfig, SavedModulesAreUnited) {
  LoRAConfig first = targeting({"q"}), second = targeting({"q"});
  first.modules_to_save = {"head"};
  second.modules_to_save = {"v", "head"};
  const Ranks ranks = {{"m.0.q", 2}, {"m.1.q", 2}};
  const LoRAConfig config =
      combined_config<>({first, second}, ranks, {"m.0.v", "m.1.v", "head"}, modules(blocks));
  EXPECT_EQ(config.modules_to_save, (Names{"head", "v"}));
  EXPECT_TRUE(throws<ConfigError>(
      [&] {
        combined_config<>({first, second}, ranks, {"head"}, modules(blocks));
      },
      {"combined_config: no configuration selects exactly the modules of the sources"}));
}

TEST(CombinedConfig, Errors) {
  const LoRAConfig config = targeting({"q"});
  EXPECT_TRUE(throws<ConfigError>(
      [&] {
        combined_config<>({}, {{"m.0.q", 2}}, {}, modules(blocks));
      },
      {"combined_config: there are 0 configurations and 1 modules, expected at least one"}));
  EXPECT_TRUE(throws<ConfigError>([&] { combined_config<>({config}, {}, {}, modules(blocks)); },
                                  {"there are 1 configurations and 0 modules"}));
  EXPECT_TRUE(throws<ConfigError>(
      [&] {
        combined_config<>({config}, {{"m.7.q", 2}}, {}, modules(blocks));
      },
      {"no configuration selects exactly the modules of the sources", "m\\.7\\.q"}));
  EXPECT_TRUE(throws<ConfigError>(
      [&] {
        combined_config<>({config}, {{"m.0.q", Index{1} << 21}}, {}, modules(blocks));
      },
      {"no configuration selects exactly", "r = 2097152"}));
}

}  // namespace combined_config_test
