// From a configuration to the layers of a model. The rules of matching are in matching_test.
#include <lora/adapters/selection.hpp>

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "adapters/small_model.hpp"

namespace selection_test {
using namespace lora;
using namespace lora_test;

TEST(Selection, ModulesCarryTheirTypesAndTheOutput) {
  SmallModel<float> model;
  std::string text;
  for (const ModuleInfo& module : module_infos(model))
    text += module.name + " " + module.type + (module.is_output ? " output\n" : "\n");
  EXPECT_EQ(
      text,
      "embed Embedding\nrotary unknown\nblock.0.q Linear\nblock.0.v Linear\nblock.0.c Conv1D\n"
      "lora_A.default Linear\nnorm LayerNorm\nconv Conv2d\ngrouped Conv2d\nhead Linear output\n");
}

TEST(Selection, OnlyLayersMayBeSelected) {
  SmallModel<float> model;
  LoRAConfig config = config_for({"q", "conv"}, 4);
  config.rank_pattern = {{"conv", 6}};
  config.modules_to_save = {"head"};
  const MatchReport report = select_modules(model, config);
  ASSERT_EQ(report.targets.size(), 2u);
  EXPECT_EQ(report.targets[1].name, "conv");
  EXPECT_EQ(report.targets[1].r, 6);
  EXPECT_EQ(report.saved, std::vector<std::string>{"head"});
  config.modules_to_save = {"rotary"};
  EXPECT_TRUE(throws<ConfigError>(
      [&] { select_modules(model, config); },
      {"LoRAConfig: modules_to_save selects \"rotary\"", "can neither", "trained as a whole"}));
}

TEST(Selection, OptionsAreTheConfigsForThisModule) {
  LoRAConfig config;
  config.lora_dropout = 0.125;
  config.lora_bias = true;
  const AdapterOptions options = adapter_options(config, {"a.b", 3, 12, 4}, 99);
  EXPECT_EQ(options.r, 3);
  EXPECT_EQ(options.lora_alpha, 12);
  EXPECT_EQ(options.lora_dropout, 0.125);
  EXPECT_TRUE(options.lora_bias);
  EXPECT_EQ(options.seed, 99u);
  EXPECT_EQ(options.path, "a.b");
  EXPECT_EQ(options.init, AdapterInit::kaiming_uniform);
  EXPECT_EQ(options.variant.index(), AdapterVariant(PlainLoRA{}).index());
  config.use_rslora = true;
  EXPECT_EQ(adapter_options(config, {"a.b", 3, 12, 4}, 0).variant.index(),
            AdapterVariant(RsLoRA{}).index());
  for (const bool rslora : {false, true}) {
    config.use_dora = true;
    config.use_rslora = rslora;
    const AdapterVariant chosen = adapter_options(config, {"a.b", 4, 12, 4}, 0).variant;
    EXPECT_EQ(std::get<DoRA>(chosen).scaling(12, 4), rslora ? 6 : 3);
  }
}

TEST(Selection, InitialisationsByTheirNames) {
  LoRAConfig config;
  EXPECT_EQ(adapter_init(config), AdapterInit::kaiming_uniform);
  config.init_lora_weights = false;
  EXPECT_EQ(adapter_init(config), AdapterInit::torch_default);
  config.init_lora_weights = "gaussian";
  EXPECT_EQ(adapter_init(config), AdapterInit::gaussian);
  config.init_lora_weights = "orthogonal";
  EXPECT_EQ(adapter_init(config), AdapterInit::orthogonal);
}

}  // namespace selection_test
