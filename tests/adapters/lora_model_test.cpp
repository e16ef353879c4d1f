// LoRAModel: wrapping a model and adding adapters. What acts afterwards is in
// lora_model_active_test, merging in lora_model_merging_test, counts in lora_model_counts_test.
#include <lora/adapters/lora_model.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "adapters/small_model.hpp"

namespace lora_model_test {
using namespace lora;
using namespace lora_test;
using Names = std::vector<std::string>;
using Small = SmallModel<float>;
using Model = LoRAModel<Small>;

/// Two filled adapters, "a" on everything and "b" on q and head; "a" is active.
Model two_adapters() {
  Model model(Small{}, everything(), "a");
  model.add_adapter("b", config_for({"q", "head"}, 3, 2));
  fill_adapter(model, "a");
  fill_adapter(model, "b");
  return model;
}

bool contains(const Names& names, const std::string& name) {
  return std::count(names.begin(), names.end(), name) != 0;
}

// ---- wrapping and adding ----

TEST(LoRAModel, WrappingFreezesEverythingAndChangesNoOutput) {
  Small base;
  base.norm.weight.set_trainable(true);
  base.q.bias().set_trainable(true);
  const Matrix<float> before = base.run();
  Model model(base);
  EXPECT_TRUE(trained_names(model).empty());
  EXPECT_TRUE(model.adapter_names().empty());
  EXPECT_TRUE(model.active_adapters().empty());
  EXPECT_TRUE(same_bits(model.base().run(), before));
  const Model& constant = model;
  EXPECT_EQ(constant.base().q.in_features(), 6);
}

TEST(LoRAModel, ABaseWithAdaptersIsRefused) {
  Small base;
  base.conv.add_adapter("old");
  EXPECT_TRUE(throws<ConfigError>(
      [&] { Model model(base); },
      {"LoRAModel: layer \"conv\" of the base already has adapters", "unload()"}));
  Small copied;
  copied.head.add_trained_copy("old");
  EXPECT_TRUE(throws<ConfigError>([&] { Model model(copied); }, {"layer \"head\""}));
}

TEST(LoRAModel, WrappingFreezesWhatFullFineTuningTrained) {
  Small base;
  base.head.train_base();
  base.conv.train_base();
  base.head.trained_copies().find(base_adapter_name)->weight.value.setConstant(0.25f);
  base.conv.trained_copies().find(base_adapter_name)->bias.value.setOnes();
  const Matrix<float> output = base.run();
  Model model(base, config_for({"head", "conv"}));
  EXPECT_TRUE(same_bits(model.base().run(), output));
  EXPECT_TRUE(base.head.base_trained()) << "the one that was handed over is as it was";
  EXPECT_EQ(trained_names(model),
            (Names{"conv.lora_A.default.weight", "conv.lora_B.default.weight",
                   "head.lora_A.default.weight", "head.lora_B.default.weight"}));
  EXPECT_EQ(model.base().head.bias().size(), 5);
  fill_adapter(model, "default");
  EXPECT_FALSE(same_bits(model.base().run(), output)) << "adapters act on it";
}

TEST(LoRAModel, ALayerThatIsTrainedWholeIsGivenNoAdapter) {
  Model model(Small{}, config_for({"q"}));
  model.base().head.train_base();
  const auto before = snapshot(model);
  EXPECT_TRUE(throws<Error>(
      [&] {
        model.add_adapter("b", config_for({"v", "head"}));
      },
      {"add_adapter: the base of this layer is being trained", "freeze_base()"}));
  EXPECT_EQ(snapshot(model), before);
  EXPECT_TRUE(throws<Error>([&] { model.base().q.train_base(); },
                            {"train_base: the layer has adapters or trained copies"}));
  EXPECT_EQ(snapshot(model), before);
}

TEST(LoRAModel, AddingUnmergesNothing) {
  Model model = two_adapters();
  model.set_adapter(std::vector<std::string>{});
  model.merge_adapter({"a"});
  const Matrix<float> merged = model.base().run();
  model.add_adapter("c", everything());
  EXPECT_EQ(model.merged_adapters(), Names{"a"});
  EXPECT_EQ(model.active_adapters(), Names{"c"});
  EXPECT_TRUE(same_bits(model.base().run(), merged));
  model.unmerge_adapter();
  fill_adapter(model, "c");
  EXPECT_FALSE(same_bits(model.base().run(), Small{}.run())) << "and then the new one acts";
}

TEST(LoRAModel, NewAdaptersChangeNoOutputBitForBit) {
  const Matrix<float> before = Small{}.run();
  for (const char* init : {"true", "gaussian"}) {
    LoRAConfig config = everything();
    config.target_modules = {"embed", "q", "v", "c", "default", "conv", "grouped", "head"};
    if (init != std::string("true")) config.init_lora_weights = init;
    Model model(Small{}, config);
    EXPECT_TRUE(same_bits(model.base().run(), before)) << init;
  }
  LoRAConfig random = everything();
  random.init_lora_weights = false;
  Model model(Small{}, random);
  EXPECT_FALSE(same_bits(model.base().run(), before));
}

TEST(LoRAModel, TheFirstAdapterIsActivatedAndOthersAreNot) {
  Model model(Small{}, everything());
  EXPECT_EQ(model.adapter_names(), Names{"default"});
  EXPECT_EQ(model.active_adapters(), Names{"default"});
  EXPECT_TRUE(model.has_adapter("default"));
  EXPECT_FALSE(model.has_adapter("other"));
  fill_adapter(model, "default");
  const Names trained = trained_names(model);
  const Matrix<float> output = model.base().run();
  EXPECT_EQ(trained.size(), 14u);

  LoRAConfig other = config_for({"q"});
  other.init_lora_weights = false;
  other.modules_to_save = {"head"};
  model.add_adapter("other", other);
  EXPECT_EQ(model.adapter_names(), (Names{"default", "other"}));
  EXPECT_EQ(model.active_adapters(), Names{"default"});
  EXPECT_EQ(trained_names(model), trained);
  EXPECT_TRUE(same_bits(model.base().run(), output));
}

TEST(LoRAModel, ASecondAdapterStandsBesideTheFirst) {
  Model model = two_adapters();
  Names of_q;
  for (const std::string& name : parameter_names(model)) {
    if (name.starts_with("block.0.q.")) of_q.push_back(name);
  }
  EXPECT_EQ(of_q, (Names{"block.0.q.base_layer.bias", "block.0.q.lora_A.a.weight",
                         "block.0.q.lora_B.a.weight", "block.0.q.lora_A.b.weight",
                         "block.0.q.lora_B.b.weight"}));
  EXPECT_EQ(model.base().q.adapters().names(), (Names{"a", "b"}));
  EXPECT_EQ(model.base().v.adapters().names(), Names{"a"});
}

TEST(LoRAModel, AddingLeavesTheTrainingOfOthersAsItWasChosen) {
  Model model = two_adapters();
  model.set_requires_grad({"a"}, false);
  model.set_requires_grad({"b"}, true);
  const Names trained = trained_names(model);
  EXPECT_EQ(trained.size(), 4u);
  model.add_adapter("c", everything());
  EXPECT_EQ(trained_names(model), trained);
}

TEST(LoRAModel, NamesArePeftsNamesInMemory) {
  LoRAConfig config = config_for({"embed", "q", "c", "conv", "default"});
  config.modules_to_save = {"head"};
  Model model(Small{}, config, "lora");
  Small copy;
  EXPECT_EQ(parameter_names(model),
            (Names{"embed.lora_embedding_A.lora", "embed.lora_embedding_B.lora",
                   "block.0.q.base_layer.bias", "block.0.q.lora_A.lora.weight",
                   "block.0.q.lora_B.lora.weight", "block.0.c.base_layer.bias",
                   "block.0.c.lora_A.lora.weight", "block.0.c.lora_B.lora.weight",
                   "lora_A.default.lora_A.lora.weight", "lora_A.default.lora_B.lora.weight",
                   "norm.weight", "norm.bias", "conv.base_layer.bias", "conv.lora_A.lora.weight",
                   "conv.lora_B.lora.weight", "head.bias", "head.modules_to_save.lora.weight",
                   "head.modules_to_save.lora.bias"}));
  Names prefixed;
  model.for_each_parameter("net", [&](const NamePath& name, auto&) { prefixed.push_back(name); });
  EXPECT_EQ(prefixed.front(), "net.embed.lora_embedding_A.lora");

  LoRAConfig with_bias = config_for({"q"});
  with_bias.lora_bias = true;
  Model biased(Small{}, with_bias);
  EXPECT_TRUE(contains(parameter_names(biased), "block.0.q.lora_B.default.bias"));
  EXPECT_TRUE(contains(trained_names(biased), "block.0.q.lora_B.default.bias"));
}

TEST(LoRAModel, SeedNamesAndNothingElseDecideTheValues) {
  LoRAConfig config = everything();
  config.init_lora_weights = false;
  Model first(Small{}, config, "a", 7), second(Small{});
  second.add_adapter("b", config, 3);
  second.add_adapter("a", config, 7);
  second.delete_adapter("b");
  second.set_adapter("a");
  EXPECT_EQ(snapshot(first), snapshot(second));
  Model other(Small{}, config, "a", 8);
  EXPECT_FALSE(same_bits(first.base().q.adapters().get("a").A.value,
                         other.base().q.adapters().get("a").A.value));
  EXPECT_FALSE(same_bits(first.base().q.adapters().get("a").A.value,
                         first.base().v.adapters().get("a").A.value));
}

TEST(LoRAModel, AddReportsWhatMatchedAndWarnsOfTypingErrors) {
  Model model(Small{});
  const MatchReport report = model.add_adapter("a", config_for({"q", "vv"}));
  ASSERT_EQ(report.targets.size(), 1u);
  EXPECT_EQ(report.targets[0].name, "block.0.q");
  ASSERT_EQ(report.warnings.size(), 1u);
  EXPECT_NE(report.warnings[0].find("\"vv\" matches no module"), std::string::npos)
      << report.warnings[0];
  EXPECT_NE(report.warnings[0].find("near names: v"), std::string::npos) << report.warnings[0];
}

TEST(LoRAModel, AllLinearLeavesOutTheOutputAndWhatIsNotLinear) {
  LoRAConfig config;
  config.target_modules = "all-linear";
  Model model(Small{}, config);
  Names adapted;
  for (const LayerStatus& layer : model.get_layer_status()) adapted.push_back(layer.name);
  EXPECT_EQ(adapted, (Names{"block.0.q", "block.0.v", "block.0.c", "lora_A.default"}));
}

struct TypedModel : Small {
  std::string model_type() const { return "llama"; }  // q_proj and v_proj
};
TEST(LoRAModel, TheModelsTypeChoosesTheTargetsThatAreNotGiven) {
  EXPECT_TRUE(throws<ConfigError>([] { LoRAModel<TypedModel> model(TypedModel{}, LoRAConfig{}); },
                                  {"q_proj"}));
  EXPECT_TRUE(throws<ConfigError>([] { Model model(Small{}, LoRAConfig{}); }, {"target_modules"}));
}

TEST(LoRAModel, ConfigGivesBackWhatWasAdded) {
  Model model(Small{}, everything(5, 2), "a");
  EXPECT_EQ(model.config("a").r, 5);
  EXPECT_TRUE(
      throws<ConfigError>([&] { (void)model.config(); },
                          {"LoRAModel::config: no adapter is called \"default\"", "there are: a"}));
  EXPECT_TRUE(throws<ConfigError>([] { (void)Model(Small{}).config("x"); }, {"there are: none"}));
}

TEST(LoRAModel, PatternsAndRsLoRAReachEveryKindOfLayer) {
  LoRAConfig config = everything(4, 6);
  config.rank_pattern = {{"^embed", 3}, {"q", 2}, {"conv", 5}};
  config.alpha_pattern = {{"q", 10}, {"block.0.c", 1}};
  Model model(Small{}, config);
  const auto& base = model.base();
  const auto check = [](const auto& layer, Index r, double scaling) {
    const auto& adapter = layer.adapters().get("default");
    EXPECT_EQ(adapter.r, r);
    EXPECT_EQ(adapter.A.value.rows(), r);
    EXPECT_EQ(adapter.B.value.cols(), r);
    EXPECT_EQ(adapter.scaling, scaling);
  };
  check(base.embed, 3, 2.0);
  check(base.q, 2, 5.0);
  check(base.v, 4, 1.5);
  check(base.c, 4, 0.25);
  check(base.conv, 5, 1.2);
  check(base.head, 4, 1.5);
  config.use_rslora = true;
  Model stabilised(Small{}, config);
  const auto& rs = stabilised.base();
  check(rs.embed, 3, 6 / std::sqrt(3.0));
  check(rs.q, 2, 10 / std::sqrt(2.0));
  check(rs.conv, 5, 6 / std::sqrt(5.0));
  check(rs.v, 4, 3.0);
}

TEST(LoRAModel, DropoutReachesTheLayersThatHaveIt) {
  LoRAConfig config = everything();
  config.lora_dropout = 0.25;
  Model model(Small{}, config);
  EXPECT_EQ(model.base().q.adapters().get("default").dropout, 0.25);
  EXPECT_EQ(model.base().conv.adapters().get("default").dropout, 0.25);
}

// ---- adding that fails changes nothing ----

struct Refusal {
  const char* what;
  std::string name;
  LoRAConfig config;
  std::vector<const char*> parts;
};
LoRAConfig changed(LoRAConfig config, const std::function<void(LoRAConfig&)>& change) {
  change(config);
  return config;
}

TEST(LoRAModel, ARefusedAdapterLeavesNoTrace) {
  const std::vector<Refusal> refusals = {
      {"taken name", "a", everything(), {"LoRAModel::add_adapter: adapter \"a\" already exists"}},
      {"empty name", "", everything(), {"the name is empty"}},
      {"reserved name", "__base__", everything(), {"__base__", "no adapter"}},
      {"dotted name", "x.y", everything(), {"x.y", "dot"}},
      {"invalid config", "new", everything(0), {"LoRAConfig: r = 0"}},
      {"unsupported field",
       "new",
       changed(everything(), [](auto& c) { c.use_qalora = true; }),
       {"use_qalora"}},
      {"nothing matched", "new", config_for({"nothing"}), {"matches none"}},
      {"a module that cannot be adapted",
       "new",
       config_for({"q", "norm"}),
       {"norm", "LayerNorm", "cannot be adapted"}},
      {"a module without a type", "new", config_for({"q", "rotary"}), {"rotary", "unknown"}},
      {"a module that cannot be trained whole",
       "new",
       changed(config_for({"q"}), [](auto& c) { c.modules_to_save = {"norm"}; }),
       {"LoRAConfig: modules_to_save selects \"norm\""}},
      {"adapted and saved",
       "new",
       changed(config_for({"q", "head"}), [](auto& c) { c.modules_to_save = {"ead"}; }),
       {"head"}},
      {"odd rank of a later layer",
       "new",
       changed(everything(4),
               [](auto& c) {
                 c.init_lora_weights = "orthogonal";
                 c.rank_pattern = {{"head", 3}};
               }),
       {"rank_pattern", "even"}},
      {"orthogonal embedding",
       "new",
       changed(config_for({"q", "embed"}), [](auto& c) { c.init_lora_weights = "orthogonal"; }),
       {"orthogonal", "embedding"}},
      {"lora_bias of an embedding",
       "new",
       changed(everything(), [](auto& c) { c.lora_bias = true; }),
       {"lora_bias", "embed"}},
      // These two are refused by a layer, after others were given the adapter and a copy.
      {"rank and groups",
       "new",
       changed(config_for({"q", "v", "conv", "grouped"}, 3),
               [](auto& c) { c.modules_to_save = {"embed"}; }),
       {"\"new\"", "multiple of the 2 groups"}},
      {"orthogonal with groups",
       "new",
       changed(config_for({"q", "v", "conv", "grouped"}, 4),
               [](auto& c) {
                 c.init_lora_weights = "orthogonal";
                 c.modules_to_save = {"embed"};
               }),
       {"orthogonal", "groups"}},
  };
  Model model = two_adapters();
  model.set_adapter({"b", "a"});
  model.merge_adapter({"b"});
  const auto before = snapshot(model);
  const Matrix<float> output = model.base().run();
  for (const Refusal& refusal : refusals) {
    SCOPED_TRACE(refusal.what);
    try {
      model.add_adapter(refusal.name, refusal.config);
      ADD_FAILURE() << "nothing was thrown";
    } catch (const ConfigError& error) {
      for (const char* part : refusal.parts) {
        EXPECT_NE(std::string(error.what()).find(part), std::string::npos)
            << error.what() << " lacks " << part;
      }
    }
    EXPECT_EQ(snapshot(model), before);
    EXPECT_TRUE(same_bits(model.base().run(), output));
  }
  EXPECT_TRUE(throws<ConfigError>([] { Model failed(Small{}, config_for({"nothing"})); },
                                  {"matches none"}));
}

TEST(LoRAModel, AnAdapterPutOnALayerByHandIsNotTouched) {
  Model model(Small{}, config_for({"q"}));
  model.base().v.add_adapter("mine");
  const auto before = snapshot(model);
  EXPECT_TRUE(
      throws<ConfigError>([&] { model.add_adapter("mine", everything()); },
                          {"LoRAModel::add_adapter: layer \"block.0.v\" has an adapter \"mine\"",
                           "not added by this model"}));
  model.base().v.delete_adapter("mine");
  model.base().v.add_trained_copy("mine");
  EXPECT_TRUE(throws<ConfigError>([&] { model.add_adapter("mine", everything()); },
                                  {"layer \"block.0.v\""}));
  model.base().v.delete_adapter("mine");
  model.base().v.add_adapter("mine");
  EXPECT_EQ(snapshot(model), before);
}

/// Says that it is a Linear, but cannot carry an adapter.
struct Impostor {
  const char* module_type() const { return "Linear"; }
};
struct ImpostorModel : Small {
  Impostor impostor;
  template <class Fn>
  void for_each_module(const NamePath& prefix, Fn&& fn) {
    Small::for_each_module(prefix, fn);
    fn(NamePath(prefix, "impostor"), impostor);
  }
};
TEST(LoRAModel, AMatchedModuleThatIsNoLayerIsNotPassedOver) {
  LoRAModel<ImpostorModel> model(ImpostorModel{}, config_for({"q"}));
  EXPECT_TRUE(throws<ConfigError>(
      [&] {
        model.add_adapter("b", config_for({"q", "impostor"}));
      },
      {"LoRAConfig: target_modules selects \"impostor\"", "can neither take an adapter"}));
  EXPECT_EQ(model.adapter_names(), Names{"default"});
}

}  // namespace lora_model_test
