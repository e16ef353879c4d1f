// LoRAModel: choosing, scaling, disabling and deleting adapters by name.
#include <lora/adapters/lora_model.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "adapters/small_model.hpp"

namespace lora_model_active_test {
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

TEST(LoRAModel, RenamingChangesTheNameAlone) {
  Model model = two_adapters(), before = two_adapters();
  model.set_adapter({"b", "a"});
  before.set_adapter({"b", "a"});
  model.rename_adapter(model.active_adapters().front(), "c");  // the name is the model's own
  EXPECT_EQ(model.active_adapters(), (Names{"c", "a"}));
  EXPECT_EQ(model.adapter_names(), (Names{"a", "c"}));
  EXPECT_EQ(model.base().q.adapters().active(), (Names{"c", "a"}));
  EXPECT_EQ(model.config("c").r, before.config("b").r);
  EXPECT_TRUE(contains(trained_names(model), "block.0.q.lora_A.c.weight"));
  EXPECT_FALSE(contains(trained_names(model), "block.0.q.lora_A.b.weight"));
  EXPECT_TRUE(same_bits(model.base().run(), before.base().run()));
  model.merge_adapter({"c"});
  model.rename_adapter("c", "d");
  EXPECT_EQ(model.merged_adapters(), Names{"d"});
  model.unmerge_adapter();
  EXPECT_TRUE(same_bits(model.base().run(), before.base().run()));
  model.rename_adapter("d", "d");
  model.delete_adapter("d");
  EXPECT_EQ(model.adapter_names(), Names{"a"});
}

TEST(LoRAModel, RenamingTakesTrainedCopiesAlong) {
  LoRAConfig config = config_for({"q"});
  config.modules_to_save = Names{"head"};
  Model model(Small{}, config, "a");
  model.rename_adapter("a", "b");
  EXPECT_TRUE(contains(trained_names(model), "head.modules_to_save.b.weight"));
  EXPECT_NE(model.base().head.trained_copies().acting(), nullptr);
  EXPECT_EQ(model.base().head.trained_copies().acting()->name, "b");
}

TEST(LoRAModel, RenamingRefusesNamesThatAreUnknownTakenOrInvalid) {
  Model model = two_adapters();
  const auto message = [&](const char* from, const char* to) -> std::string {
    try {
      model.rename_adapter(from, to);
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "no error";
  };
  EXPECT_NE(message("x", "y").find("rename_adapter: no adapter is called \"x\""),
            std::string::npos);
  EXPECT_NE(message("a", "b").find("rename_adapter: adapter \"b\" already exists"),
            std::string::npos);
  EXPECT_NE(message("a", "").find("the name is empty"), std::string::npos);
  EXPECT_NE(message("a", "x.y").find("must not contain a dot"), std::string::npos);
  EXPECT_NE(message("a", "__base__").find("stands for \"no adapter\""), std::string::npos);
  EXPECT_EQ(model.adapter_names(), (Names{"a", "b"}));
  auto& layer = model.base().q;
  EXPECT_THROW(layer.rename_adapter("a", "b"), ConfigError);
  layer.rename_adapter("unknown", "y");
  EXPECT_FALSE(layer.knows("y"));
}

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

}  // namespace lora_model_active_test
