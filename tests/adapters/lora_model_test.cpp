// LoRAModel: adding, choosing, scaling, disabling and deleting adapters by name. Merging is in
// lora_model_merging_test.
#include <lora/adapters/lora_model.hpp>
#include <lora/models/mlp.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "adapters/small_model.hpp"

namespace {
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
      {"LoRAModel: layer \"conv\" of the base has adapters already", "unload()"}));
  Small copied;
  copied.head.add_trained_copy("old");
  EXPECT_TRUE(throws<ConfigError>([&] { Model model(copied); }, {"layer \"head\""}));
  Small fully_trained;
  fully_trained.head.train_base();
  EXPECT_NO_THROW(Model model(fully_trained));
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
      {"taken name", "a", everything(), {"LoRAModel::add_adapter: adapter \"a\" is there already"}},
      {"empty name", "", everything(), {"the name is empty"}},
      {"reserved name", "__base__", everything(), {"__base__", "no adapter"}},
      {"dotted name", "x.y", everything(), {"x.y", "dot"}},
      {"invalid config", "new", everything(0), {"LoRAConfig: r = 0"}},
      {"unsupported field",
       "new",
       changed(everything(), [](auto& c) { c.use_dora = true; }),
       {"use_dora"}},
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
      {"LoRAConfig: target_modules selects \"impostor\"", "no layer that adapters can be put on"}));
  EXPECT_EQ(model.adapter_names(), Names{"default"});
}

// ---- active adapters ----

TEST(LoRAModel, SetAdapterTakesOneSeveralOrNone) {
  Model model = two_adapters();
  model.set_adapter("b");
  EXPECT_EQ(model.active_adapters(), Names{"b"});
  EXPECT_EQ(trained_names(model), (Names{"block.0.q.lora_A.b.weight", "block.0.q.lora_B.b.weight",
                                         "head.lora_A.b.weight", "head.lora_B.b.weight"}));
  EXPECT_TRUE(model.base().v.adapters().active().empty());
  model.set_adapter(std::string("a"));
  EXPECT_EQ(model.active_adapters(), Names{"a"});
  EXPECT_FALSE(contains(trained_names(model), "block.0.q.lora_A.b.weight"));
  model.set_adapter({"b", "a"});
  EXPECT_EQ(model.active_adapters(), (Names{"b", "a"}));
  EXPECT_EQ(model.base().q.adapters().active(), (Names{"b", "a"}));
  EXPECT_EQ(model.base().v.adapters().active(), Names{"a"});
  EXPECT_EQ(trained_names(model).size(), 18u);
  model.set_adapter(Names{"a"});
  EXPECT_EQ(model.active_adapters(), Names{"a"});
  model.set_adapter({});
  EXPECT_TRUE(model.active_adapters().empty());
  EXPECT_TRUE(trained_names(model).empty());
  EXPECT_TRUE(same_bits(model.base().run(), Small{}.run()));
  model.add_adapter("c", everything());
  EXPECT_EQ(model.active_adapters(), Names{"c"});
}

TEST(LoRAModel, SeveralActiveAdaptersAddUp) {
  LoRAModel<SmallModel<double>> model(SmallModel<double>{}, config_for({"v"}, 2, 3), "a");
  model.add_adapter("b", config_for({"v"}, 3, 2));
  fill_adapter(model, "a");
  fill_adapter(model, "b");
  const Matrix<double> x = random_matrix(4, 6, "x");
  const auto term = [&](const char* name) {
    model.set_adapter(name);
    Matrix<double> with(4, 6), without(4, 6);
    model.base().v.forward(x, with);
    model.set_adapter({});
    model.base().v.forward(x, without);
    return Matrix<double>(with - without);
  };
  const Matrix<double> a = term("a"), b = term("b");
  Matrix<double> base(4, 6), both(4, 6);
  model.base().v.forward(x, base);
  model.set_adapter({"a", "b"});
  model.base().v.forward(x, both);
  // Six roundings of numbers no larger than the terms' sizes, beside sums of 6 + 2 + 3.
  const double bound =
      20 * 0x1.0p-53 *
      (base.cwiseAbs().maxCoeff() + a.cwiseAbs().maxCoeff() + b.cwiseAbs().maxCoeff()) * 6;
  EXPECT_LE((both - (base + a + b)).cwiseAbs().maxCoeff(), bound);
  EXPECT_GT((a.cwiseAbs().minCoeff()), 0.0);
}

TEST(LoRAModel, SetAdapterRefusesUnknownAndRepeatedNames) {
  Model model = two_adapters();
  model.merge_adapter({"a"});
  const auto before = snapshot(model);
  EXPECT_TRUE(throws<ConfigError>(
      [&] {
        model.set_adapter({"a", "x"});
      },
      {"LoRAModel::set_adapter: no adapter is called \"x\"", "there are: a b"}));
  EXPECT_TRUE(throws<ConfigError>(
      [&] {
        model.set_adapter({"a", "a"});
      },
      {"LoRAModel::set_adapter: adapter \"a\" is named twice"}));
  EXPECT_EQ(snapshot(model), before);
}

TEST(LoRAModel, SetAdapterUnmergesFirst) {
  Model model = two_adapters();
  const Matrix<float> a = model.base().run();
  model.merge_adapter();
  model.set_adapter("b");
  EXPECT_TRUE(model.merged_adapters().empty());
  model.set_adapter("a");
  EXPECT_TRUE(same_bits(model.base().run(), a));
}

TEST(LoRAModel, InferenceModeActsAndIsNotTrained) {
  LoRAConfig config = everything();
  config.inference_mode = true;
  config.target_modules = {"q", "v"};
  config.modules_to_save = {"head"};
  config.bias = "all";
  Model model(Small{}, config, "fixed");
  fill_adapter(model, "fixed");
  EXPECT_EQ(model.active_adapters(), Names{"fixed"});
  EXPECT_TRUE(trained_names(model).empty());
  EXPECT_FALSE(same_bits(model.base().run(), Small{}.run()));
  model.add_adapter("free", config_for({"q"}));
  model.set_adapter({"fixed", "free"});
  EXPECT_EQ(trained_names(model),
            (Names{"block.0.q.lora_A.free.weight", "block.0.q.lora_B.free.weight"}));
  model.set_requires_grad({"fixed"}, true);  // asked for by name
  EXPECT_EQ(trained_names(model).size(), 8u);
}

TEST(LoRAModel, SetRequiresGradSpeaksOfTrainingAlone) {
  LoRAConfig config = config_for({"q"});
  config.modules_to_save = {"head"};
  Model model(Small{}, config, "a");
  model.add_adapter("b", config_for({"v"}));
  fill_adapter(model, "b");
  const Matrix<float> output = model.base().run();
  model.set_requires_grad({"b"});
  model.set_requires_grad({"a"}, false);
  EXPECT_EQ(trained_names(model),
            (Names{"block.0.v.lora_A.b.weight", "block.0.v.lora_B.b.weight"}));
  model.set_requires_grad({"a", "b"});
  EXPECT_EQ(trained_names(model),
            (Names{"block.0.q.lora_A.a.weight", "block.0.q.lora_B.a.weight",
                   "block.0.v.lora_A.b.weight", "block.0.v.lora_B.b.weight",
                   "head.modules_to_save.a.weight", "head.modules_to_save.a.bias"}));
  EXPECT_EQ(model.active_adapters(), Names{"a"});
  EXPECT_TRUE(same_bits(model.base().run(), output));
  const auto before = snapshot(model);
  EXPECT_TRUE(throws<ConfigError>(
      [&] {
        model.set_requires_grad({"a", "x"}, false);
      },
      {"LoRAModel::set_requires_grad: no adapter is called \"x\""}));
  EXPECT_EQ(snapshot(model), before);
}

// ---- scale ----

TEST(LoRAModel, SetScaleIsAFactorOfTheInitialScaleOnEveryLayer) {
  Model model = two_adapters();
  const double s = model.base().q.adapters().get("a").scaling,
               other = model.base().q.adapters().get("b").scaling;
  EXPECT_EQ(s, 1.5);
  model.set_scale("a", 2);
  model.set_scale("a", 3);
  model.for_each_layer([&](const NamePath& path, auto& layer) {
    if (layer.adapters().contains("a")) {
      EXPECT_EQ(layer.adapters().get("a").scaling, 3 * s) << path.str();
    }
  });
  EXPECT_EQ(model.base().q.adapters().get("b").scaling, other);
  model.set_scale("a", 0);
  EXPECT_TRUE(same_bits(model.base().run(), Small{}.run()));
  model.set_scale("a", 1);
  EXPECT_TRUE(same_bits(model.base().run(), two_adapters().base().run()));
}

TEST(LoRAModel, SetScaleRefusesWhatItCannotDo) {
  Model model = two_adapters();
  model.merge_adapter({"a"});
  const auto before = snapshot(model);
  EXPECT_TRUE(throws<ConfigError>([&] { model.set_scale("x", 2); },
                                  {"LoRAModel::set_scale: no adapter is called \"x\""}));
  EXPECT_TRUE(throws<Error>([&] { model.set_scale("a", 2); },
                            {"LoRAModel::set_scale: adapter \"a\" is merged", "unmerge_adapter"}));
  EXPECT_TRUE(throws<ConfigError>(
      [&] { model.set_scale("b", std::numeric_limits<double>::quiet_NaN()); }, {"finite"}));
  EXPECT_TRUE(throws<ConfigError>(
      [&] { model.set_scale("b", std::numeric_limits<double>::infinity()); }, {"finite"}));
  EXPECT_EQ(snapshot(model), before);
}

// ---- disabling ----

TEST(LoRAModel, WhileDisabledTheModelIsItsBase) {
  Model model = two_adapters();
  const Matrix<float> base = Small{}.run(), adapted = model.base().run();
  const auto before = snapshot(model);
  {
    auto off = model.disable_adapters();
    EXPECT_FALSE(model.enabled());
    EXPECT_TRUE(same_bits(model.base().run(), base));
    {
      auto inner = model.disable_adapters();
      EXPECT_TRUE(same_bits(model.base().run(), base));
    }
    EXPECT_FALSE(model.enabled());
    EXPECT_TRUE(same_bits(model.base().run(), base));
  }
  EXPECT_TRUE(model.enabled());
  EXPECT_EQ(snapshot(model), before);
  EXPECT_TRUE(same_bits(model.base().run(), adapted));

  model.merge_adapter();
  const Matrix<float> merged = model.base().run();
  {
    auto off = model.disable_adapters();
    EXPECT_TRUE(same_bits(model.base().run(), base));
    EXPECT_EQ(model.merged_adapters(), Names{"a"});
  }
  EXPECT_TRUE(same_bits(model.base().run(), merged));
}

TEST(LoRAModel, WhatIsDoneWhileDisabledActsAfterwards) {
  Model model = two_adapters(), direct = two_adapters();
  {
    auto off = model.disable_adapters();
    model.set_adapter("b");
    model.add_adapter("c", everything());
    model.delete_adapter("a");
    EXPECT_TRUE(same_bits(model.base().run(), Small{}.run()));
  }
  direct.set_adapter("b");
  EXPECT_TRUE(same_bits(model.base().run(), direct.base().run()));
  model.set_enabled(false);
  EXPECT_FALSE(model.enabled());
  { auto off = model.disable_adapters(); }
  EXPECT_FALSE(model.enabled()) << "a guard restores what it found";
  model.set_enabled(true);
  EXPECT_TRUE(same_bits(model.base().run(), direct.base().run()));
}

TEST(LoRAModel, AGuardRestoresAfterAnException) {
  Model model = two_adapters();
  try {
    auto off = model.disable_adapters();
    model.set_adapter("x");
  } catch (const ConfigError&) {
  }
  EXPECT_TRUE(model.enabled());
}

// ---- deleting ----

TEST(LoRAModel, DeletingTheActiveAdapterActivatesTheFirstOfTheOthersByName) {
  Model model(Small{}, everything(), "m");
  for (const char* name : {"z", "k", "p"}) model.add_adapter(name, everything());
  model.delete_adapter("m");
  EXPECT_EQ(model.active_adapters(), Names{"k"});
  EXPECT_EQ(model.adapter_names(), (Names{"z", "k", "p"}));
  EXPECT_TRUE(contains(trained_names(model), "block.0.q.lora_A.k.weight"));
  model.set_adapter({"z", "p"});
  model.delete_adapter(model.active_adapters()[0]);  // a name that lies in the model itself
  EXPECT_EQ(model.active_adapters(), Names{"p"});
  model.delete_adapter("k");
  EXPECT_EQ(model.active_adapters(), Names{"p"});
  model.delete_adapter("p");
  EXPECT_TRUE(model.active_adapters().empty());
  EXPECT_TRUE(model.adapter_names().empty());
  EXPECT_EQ(parameter_names(model), parameter_names(*std::make_unique<Model>(Small{})));
  EXPECT_TRUE(same_bits(model.base().run(), Small{}.run()));
  model.add_adapter("m", everything());
  EXPECT_EQ(model.active_adapters(), Names{"m"});
}

TEST(LoRAModel, DeletingAnInactiveAdapterChangesNothingElse) {
  Model model = two_adapters();
  model.set_adapter({});
  model.set_requires_grad({"a"});
  const Names trained = trained_names(model);
  model.delete_adapter("b");
  EXPECT_TRUE(model.active_adapters().empty()) << "none was active, so none becomes active";
  EXPECT_EQ(trained_names(model), trained);
}

TEST(LoRAModel, DeletingRefusesUnknownAndMerged) {
  Model model = two_adapters();
  model.merge_adapter({"a"});
  const auto before = snapshot(model);
  EXPECT_TRUE(
      throws<ConfigError>([&] { model.delete_adapter("x"); },
                          {"LoRAModel::delete_adapter: no adapter is called \"x\"", "a b"}));
  EXPECT_TRUE(throws<Error>([&] { model.delete_adapter("a"); },
                            {"LoRAModel::delete_adapter: adapter \"a\" is merged"}));
  EXPECT_EQ(snapshot(model), before);
  model.delete_adapter("b");  // not merged
  EXPECT_EQ(model.merged_adapters(), Names{"a"});
  EXPECT_TRUE(throws<ConfigError>([&] { model.set_adapter("b"); },
                                  {"no adapter is called \"b\"", "there are: a"}));
}

// ---- biases ----

TEST(LoRAModel, BiasChoosesWhichOfTheBasesBiasesAreTrained) {
  const auto biases = [](const std::string& mode) {
    LoRAConfig config = config_for({"q", "v"});
    config.bias = mode;
    Model model(Small{}, config);
    Names names;
    for (const std::string& name : trained_names(model)) {
      if (name.ends_with("bias")) names.push_back(name);
    }
    return names;
  };
  EXPECT_EQ(biases("none"), Names{});
  EXPECT_EQ(biases("lora_only"), Names{"block.0.q.base_layer.bias"});
  EXPECT_EQ(biases("all"), (Names{"block.0.q.base_layer.bias", "block.0.c.bias", "norm.bias",
                                  "conv.bias", "head.bias"}));
}

TEST(LoRAModel, BiasesFollowTheActiveAdapter) {
  LoRAConfig config = config_for({"q"});
  config.bias = "all";
  Model model(Small{}, config, "a");
  model.add_adapter("b", config_for({"v"}));
  model.set_adapter("b");
  EXPECT_EQ(trained_names(model),
            (Names{"block.0.v.lora_A.b.weight", "block.0.v.lora_B.b.weight"}));
  model.set_adapter({"b", "a"});
  EXPECT_TRUE(contains(trained_names(model), "norm.bias"));
  model.delete_adapter("a");
  EXPECT_EQ(trained_names(model),
            (Names{"block.0.v.lora_A.b.weight", "block.0.v.lora_B.b.weight"}));
}

TEST(LoRAModel, OnlyOneAdapterMayTrainBiases) {
  LoRAConfig config = config_for({"q"});
  config.bias = "lora_only";
  Model model(Small{}, config, "a");
  config.bias = "all";
  const auto before = snapshot(model);
  EXPECT_TRUE(throws<ConfigError>(
      [&] { model.add_adapter("b", config); },
      {"LoRAModel::add_adapter: adapter \"b\" trains biases, and so does \"a\"", "only one"}));
  EXPECT_EQ(snapshot(model), before);
  config.bias = "none";
  model.add_adapter("b", config);
  model.delete_adapter("a");
  config.bias = "all";
  EXPECT_NO_THROW(model.add_adapter("c", config));
}

// ---- modules_to_save ----

TEST(LoRAModel, ATrainedCopyActsOnlyForItsAdapter) {
  LoRAConfig config = config_for({"q"});
  config.modules_to_save = {"head", "embed", "conv"};
  Model model(Small{});
  model.add_adapter("plain", config_for({"q", "head"}));
  model.add_adapter("saved", config);
  fill_adapter(model, "plain");
  const Matrix<float> plain = model.base().run();
  fill_adapter(model, "saved");
  EXPECT_TRUE(same_bits(model.base().run(), plain));
  model.set_adapter("saved");
  EXPECT_FALSE(same_bits(model.base().run(), plain));
  EXPECT_EQ(trained_names(model),
            (Names{"embed.modules_to_save.saved.weight", "block.0.q.lora_A.saved.weight",
                   "block.0.q.lora_B.saved.weight", "conv.modules_to_save.saved.weight",
                   "conv.modules_to_save.saved.bias", "head.modules_to_save.saved.weight",
                   "head.modules_to_save.saved.bias"}));
  Matrix<float> x = random_matrix<float>(3, 7, "x"), y(3, 5);
  model.base().head.forward(x, y);
  const auto& copy = *model.base().head.trained_copies().find("saved");
  const Matrix<float> expected =
      (x * copy.weight.value.transpose()).rowwise() + copy.bias.value.row(0);
  for (Index i = 0; i < y.size(); ++i) {
    const float bound = 10 * 0x1.0p-24f *
                        (x.cwiseAbs().maxCoeff() * copy.weight.value.cwiseAbs().maxCoeff() * 7 + 1);
    EXPECT_LE(std::abs(y.data()[i] - expected.data()[i]), bound);
  }
  {
    auto off = model.disable_adapters();
    EXPECT_TRUE(same_bits(model.base().run(), Small{}.run()));
  }
  model.set_adapter("plain");
  EXPECT_TRUE(same_bits(model.base().run(), plain));
  model.delete_adapter("saved");
  EXPECT_TRUE(same_bits(model.base().run(), plain));
  EXPECT_TRUE(model.base().head.trained_copies().empty());
}

TEST(LoRAModel, OfSeveralCopiesTheFirstActiveOneActs) {
  LoRAConfig config = config_for({"q"});
  config.modules_to_save = {"head"};
  Model model(Small{}, config_for({"v"}), "none");
  for (const char* name : {"a", "b"}) {
    model.add_adapter(name, config);
    fill_adapter(model, name);
  }
  model.set_adapter({"none", "b", "a"});
  EXPECT_EQ(model.base().head.trained_copies().acting()->name, "b");
  const Names trained = trained_names(model);
  EXPECT_TRUE(contains(trained, "head.modules_to_save.b.weight"));
  EXPECT_FALSE(contains(trained, "head.modules_to_save.a.weight"));
}

TEST(LoRAModel, ABiasThatACopyReplacesIsNotTrained) {
  LoRAConfig config = config_for({"q"});
  config.modules_to_save = {"head"};
  config.bias = "all";
  Model model(Small{}, config);
  const Names trained = trained_names(model);
  EXPECT_TRUE(contains(trained, "head.modules_to_save.default.bias"));
  EXPECT_FALSE(contains(trained, "head.bias"));
  EXPECT_TRUE(contains(trained, "conv.bias"));
}

struct Classifier {
  using Scalar = float;
  LoRALinear<float> body{random_matrix<float>(4, 3, "body")},
      score{random_matrix<float>(2, 4, "score")};
  template <class Fn>
  void for_each_module(const NamePath& prefix, Fn&& fn) {
    fn(NamePath(prefix, "layers", 0), body);
    fn(NamePath(prefix, "score"), score);
  }
  template <class Fn>
  void for_each_parameter(const NamePath& prefix, Fn&& fn) {
    for_each_module(prefix,
                    [&](const NamePath& name, auto& layer) { layer.for_each_parameter(name, fn); });
  }
};
TEST(LoRAModel, TheTaskAddsItsHead) {
  LoRAConfig config = config_for({"layers.0"});
  config.task_type = "SEQ_CLS";
  LoRAModel<Classifier> model(Classifier{}, config);
  EXPECT_TRUE(contains(trained_names(model), "score.modules_to_save.default.weight"));
}

// ---- copies ----

TEST(LoRAModel, ACopyIsIndependentAndSharesTheFrozenWeights) {
  Model model = two_adapters();
  Model copy = model;
  const auto before = snapshot(model);
  EXPECT_TRUE(copy.base().q.weight().shares_storage_with(model.base().q.weight()));
  fill_adapter(copy, "a", "else");
  copy.set_adapter("b");
  copy.merge_adapter();
  copy.delete_adapter("a");
  EXPECT_EQ(snapshot(model), before);
  Model moved = std::move(copy);
  EXPECT_EQ(moved.merged_adapters(), Names{"b"});
  copy = model;
  EXPECT_EQ(snapshot(copy), before);
}

// ---- counting ----

TEST(LoRAModel, CountsAreTheClosedForm) {
  const Index r = 3;
  LoRAConfig config = everything(r);
  config.target_modules = {"embed", "q", "v", "c", "default", "conv", "grouped", "head"};
  config.rank_pattern = {{"grouped", 4}};
  Model plain(Small{}), model(Small{}, config);
  const auto [none, base] = plain.get_nb_trainable_parameters();
  const Index weights = 11 * 6 + 6 * 6 + 6 * 6 + 6 * 7 + 7 * 7 + 7 * 5 + 3 * 12 + 4 * 6,
              biases = 6 + 7 + 5 + 3, norm = 14;
  EXPECT_EQ(none, 0);
  EXPECT_EQ(base, weights + biases + norm);
  // r (in + out); a convolution's A sees in channels · kernel, with groups B has r / groups
  // columns.
  const Index adapters =
      r * ((11 + 6) + (6 + 6) + (6 + 6) + (6 + 7) + (7 + 7) + (12 + 3) + (7 + 5)) + 4 * 12 + 4 * 2;
  const auto [trained, all] = model.get_nb_trainable_parameters();
  EXPECT_EQ(trained, adapters);
  EXPECT_EQ(all, base + adapters);

  LoRAConfig more = config_for({"q", "v"}, r);
  more.lora_bias = true;
  more.modules_to_save = {"head"};
  more.bias = "lora_only";
  Model rich(Small{}, more);
  const Index own = r * 24 + 6 + 6 + (35 + 5);
  EXPECT_EQ(rich.get_nb_trainable_parameters(), (std::pair<Index, Index>(own + 6, base + own)));
  const ModelStatus status = rich.get_model_status();
  EXPECT_EQ(status.trainable_params, own + 6);
  EXPECT_EQ(status.total_params, base + own);
  EXPECT_EQ(status.num_adapter_layers, 2);
}

TEST(LoRAModel, PrintsWhatPeftPrints) {
  LoRAModel<MLP<float>> model(MLP<float>({300, 200, 10}), config_for({"layers.0"}, 8, 8));
  const Index trained = 8 * 500, all = trained + 300 * 200 + 200 + 2000 + 10;
  EXPECT_EQ(trained, 4000);
  EXPECT_EQ(all, 66210);
  EXPECT_EQ(model.print_trainable_parameters(),
            "trainable params: 4,000 || all params: 66,210 || trainable%: 6.0414");
  EXPECT_EQ(LoRAModel<MLP<float>>(MLP<float>({3, 2})).print_trainable_parameters(),
            "trainable params: 0 || all params: 8 || trainable%: 0.0000");
}

/// A linear layer or embedding that has the sizes of a large model and the memory of a small one: W
/// is not there.
struct NominalLayer : LoRALinear<float> {
  Index out = 0, in = 0;
  const char* type = "Linear";
  NominalLayer() = default;
  NominalLayer(Index o, Index d, const char* t = "Linear")
      : LoRALinear<float>(Matrix<float>(1, 1)), out(o), in(d), type(t) {}
  const char* module_type() const { return type; }
  Index frozen_size() const { return out * in; }
  void add_adapter(const std::string& name, const AdapterOptions& options = {}) {
    Adapter<float> adapter = make_adapter<float>(name, options);
    adapter.A = Parameter<float>(Matrix<float>::Zero(options.r, in));
    adapter.B = Parameter<float>(Matrix<float>::Zero(out, options.r));
    adapters().add(std::move(adapter));
  }
};
/// Llama-3.2-3B: 28 layers, hidden 3072, key and value 1024, feed-forward 8192, vocabulary 128256,
/// tied head.
struct Llama3B {
  using Scalar = float;
  static constexpr Index hidden = 3072;
  struct Block {
    NominalLayer q{hidden, hidden}, k{1024, hidden}, v{1024, hidden}, o{hidden, hidden},
        gate{8192, hidden}, up{8192, hidden}, down{hidden, 8192};
    Parameter<float> norms{Matrix<float>(2, hidden)};
  };
  NominalLayer embed{128256, hidden, "Embedding"}, head = embed;
  std::vector<Block> blocks = std::vector<Block>(28);
  Parameter<float> norm{Matrix<float>(1, hidden)};

  Llama3B() { head.type = "Linear"; }
  std::string output_module() const { return "lm_head"; }
  std::string model_type() const { return "llama"; }
  template <class Fn>
  void for_each_module(const NamePath& prefix, Fn&& fn) {
    fn(NamePath(prefix, "model.embed_tokens"), embed);
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      const NamePath block(prefix, "model.layers", static_cast<Index>(i));
      fn(NamePath(block, "self_attn.q_proj"), blocks[i].q);
      fn(NamePath(block, "self_attn.k_proj"), blocks[i].k);
      fn(NamePath(block, "self_attn.v_proj"), blocks[i].v);
      fn(NamePath(block, "self_attn.o_proj"), blocks[i].o);
      fn(NamePath(block, "mlp.gate_proj"), blocks[i].gate);
      fn(NamePath(block, "mlp.up_proj"), blocks[i].up);
      fn(NamePath(block, "mlp.down_proj"), blocks[i].down);
    }
    fn(NamePath(prefix, "lm_head"), head);
  }
  template <class Fn>
  void for_each_parameter(const NamePath& prefix, Fn&& fn) {
    for_each_module(prefix,
                    [&](const NamePath& name, auto& layer) { layer.for_each_parameter(name, fn); });
    for (Block& block : blocks) fn(NamePath(prefix, "norms"), block.norms);
    fn(NamePath(prefix, "model.norm.weight"), norm);
  }
};

TEST(LoRAModel, CountsLlama32AsPeftPublishedIt) {
  LoRAConfig config;
  config.r = 32;
  config.lora_alpha = 64;
  const LoRAModel<Llama3B> qv(Llama3B{}, config);  // the default targets of its type
  EXPECT_EQ(qv.print_trainable_parameters(),
            "trainable params: 9,175,040 || all params: 3,221,924,864 || trainable%: 0.2848");
  const LoRAModel<Llama3B> mlp(Llama3B{}, config_for({"gate_proj", "up_proj", "down_proj"}, 10));
  EXPECT_EQ(mlp.get_nb_trainable_parameters().first, 9461760);
}

}  // namespace
