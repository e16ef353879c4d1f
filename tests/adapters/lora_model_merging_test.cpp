// LoRAModel: merging, unmerging and giving the base back, over layers of every kind.
#include <lora/adapters/lora_model.hpp>

#include <gtest/gtest.h>

#include <limits>
#include <map>
#include <string>
#include <vector>

#include "adapters/small_model.hpp"
#include "support/golden.hpp"

namespace lora_model_merging_test {
using namespace lora;
using namespace lora_test;
using Names = std::vector<std::string>;
using Small = SmallModel<float>;
using Model = LoRAModel<Small>;

/// "a" on everything and "b" on q, embed, c and head, at scales that are not 1; "a" is active.
template <class S>
LoRAModel<SmallModel<S>> two_adapters() {
  LoRAModel<SmallModel<S>> model(SmallModel<S>{}, everything(), "a");
  model.add_adapter("b", config_for({"q", "embed", "c", "head"}, 3, 2));
  fill_adapter(model, "a");
  fill_adapter(model, "b");
  model.set_scale("b", 0.7);
  return model;
}
/// Whether no layer holds an adapter or a copy and nothing is trained.
template <class Base>
bool bare(Base& base) {
  bool plain = true;
  for_each_adapter_layer(base, [&](const NamePath&, auto& layer) {
    plain = plain && layer.adapters().empty() && layer.trained_copies().empty() &&
            layer.adapters().enabled();
  });
  return plain && count_parameters(base).trainable == 0;
}
/// The weight of each layer.
template <class Base>
std::map<std::string, Matrix<typename Base::Scalar>> weights_of(Base& base) {
  std::map<std::string, Matrix<typename Base::Scalar>> weights;
  for_each_adapter_layer(base, [&](const NamePath& path, auto& layer) {
    weights[path.str()] = layer.weight().stored();
  });
  return weights;
}

// Five layers, each a sum of at most 12 base terms and 3 + 2 of the adapters; roundings of one are
// carried on by the next.
const double equivalence = 5 * golden_bound(17);

TEST(Merging, MergedEqualsUnmergedEqualsMergedAndUnloaded) {
  auto model = two_adapters<double>();
  const auto base = SmallModel<double>{}.run();
  for (const Names& names : {Names{"a"}, Names{"b"}, Names{"a", "b"}, Names{"b", "a"}}) {
    model.set_adapter(names);
    const Matrix<double> unmerged = model.base().run();
    for (const SafeMerge safe : {SafeMerge::no, SafeMerge::yes}) {
      SmallModel<double> unloaded = model.merge_and_unload(safe);
      EXPECT_TRUE(model.merged_adapters().empty());
      EXPECT_TRUE(bare(unloaded));
      expect_close(unloaded.run(), unmerged, equivalence, "unloaded");
      model.merge_adapter({}, safe);
      EXPECT_TRUE(same_bits(model.base().run(), unloaded.run()));
      expect_close(model.base().run(), unmerged, equivalence, "merged");
      EXPECT_GT((model.base().run() - base).cwiseAbs().maxCoeff(), 0.01);
      model.unmerge_adapter();
      EXPECT_TRUE(same_bits(model.base().run(), unmerged));
    }
  }
}

TEST(Merging, EachKindOfLayerGetsItsFormula) {
  auto model = two_adapters<double>();
  SmallModel<double> merged = model.merge_and_unload(SafeMerge::no, {"a", "b"});
  const auto before = weights_of(model.base()), after = weights_of(merged);
  const double bound = golden_bound(6);
  model.for_each_layer([&](const NamePath& path, auto& layer) {
    const std::string name = path.str();
    Matrix<double> change = Matrix<double>::Zero(layer.weight().rows(), layer.weight().cols());
    for (const auto& adapter : layer.adapters().all()) {
      const Matrix<double> ba = adapter.scaling * adapter.B.value * adapter.A.value;
      change += name == "embed" ? Matrix<double>(ba.transpose()) : ba;
    }
    if (name == "block.0.c") change.transposeInPlace();
    EXPECT_EQ(change.cwiseAbs().maxCoeff() > 0, name != "grouped") << name;
    expect_close(after.at(name), before.at(name) + change, bound, name);
  });
}

TEST(Merging, UnmergingGivesTheOriginalBytesAtAnyScale) {
  const auto original = weights_of(*std::make_unique<Small>());
  for (const double scale : {1.0, 0.3, 1e4, 1e-6, -2.0, 0.0}) {
    Model model = two_adapters<float>();
    model.set_scale("a", scale);
    model.set_adapter({"a", "b"});
    const auto before = snapshot(model);
    const Matrix<float> output = model.base().run();
    model.merge_adapter();
    EXPECT_EQ(model.merged_adapters(), (Names{"a", "b"}));
    EXPECT_NE(snapshot(model), before);
    model.unmerge_adapter();
    EXPECT_EQ(snapshot(model), before);
    EXPECT_TRUE(same_bits(model.base().run(), output));
    for (const auto& [name, weight] : weights_of(model.base()))
      EXPECT_TRUE(same_bits(weight, original.at(name))) << name;
  }
}

TEST(Merging, OneAfterTheOtherIsTheSameAsAtOnce) {
  Model one = two_adapters<float>(), both = two_adapters<float>();
  one.merge_adapter({"a"});
  one.merge_adapter({"b"});
  both.merge_adapter({"a", "b"});
  EXPECT_EQ(one.merged_adapters(), (Names{"a", "b"}));
  EXPECT_TRUE(same_bits(one.base().run(), both.base().run()));
  EXPECT_EQ(one.base().v.adapters().merged(), Names{"a"});
  one.unmerge_adapter();
  EXPECT_TRUE(one.merged_adapters().empty());
  EXPECT_EQ(snapshot(one), snapshot(*std::make_unique<Model>(two_adapters<float>())));
}

TEST(Merging, WhatIsMergedNeedNotBeActive) {
  Model model = two_adapters<float>();
  model.merge_adapter({"b"});
  const Matrix<float> merged = model.base().run();
  EXPECT_EQ(model.active_adapters(), Names{"a"});
  Small unloaded = model.merge_and_unload();  // what is merged already
  // v has no "b", so it still adds its active "a" as long as adapters are there.
  EXPECT_TRUE(bare(unloaded));
  model.set_adapter("b");
  EXPECT_TRUE(same_bits(unloaded.run(), model.merge_and_unload().run()));
  EXPECT_FALSE(same_bits(unloaded.run(), merged));
}

TEST(Merging, MergingWhatIsMergedIsAnError) {
  Model model = two_adapters<float>();
  model.merge_adapter({"a"});
  const auto before = snapshot(model);
  for (const Names& names : {Names{"a"}, Names{"b", "a"}, Names{}}) {
    EXPECT_TRUE(
        throws<Error>([&] { model.merge_adapter(names); },
                      {"LoRAModel::merge_adapter: adapter \"a\" is merged", "unmerge_adapter"}));
    EXPECT_EQ(snapshot(model), before);
  }
  EXPECT_TRUE(throws<ConfigError>(
      [&] {
        model.merge_adapter({"b", "b"});
      },
      {"LoRAModel::merge_adapter: adapter \"b\" is named twice"}));
  EXPECT_TRUE(throws<ConfigError>(
      [&] {
        model.merge_adapter({"b", "x"});
      },
      {"LoRAModel::merge_adapter: no adapter is called \"x\""}));
  EXPECT_EQ(snapshot(model), before);
  model.unmerge_adapter();
  EXPECT_TRUE(throws<Error>([&] { model.unmerge_adapter(); },
                            {"LoRAModel::unmerge_adapter: no adapter is merged"}));
  model.set_adapter({});
  EXPECT_TRUE(throws<Error>([&] { model.merge_adapter(); },
                            {"LoRAModel::merge_adapter: no adapter is named and none is active"}));
  EXPECT_TRUE(throws<Error>([&] { (void)model.merge_and_unload(); },
                            {"no adapter is named and none is active"}));
}

TEST(Merging, SafeMergeRefusesWhatIsNotFiniteAndChangesNoLayer) {
  const float inf = std::numeric_limits<float>::infinity(),
              nan = std::numeric_limits<float>::quiet_NaN();
  struct Breakage {
    const char* what;
    float a, b;
  };
  for (const Breakage& broken :
       {Breakage{"NaN in A", nan, 0.5f}, {"inf in B", 0.5f, inf}, {"overflow", 1e30f, 1e30f}}) {
    SCOPED_TRACE(broken.what);
    Model model = two_adapters<float>();
    auto& last = model.base().head.adapters().get("a");
    last.A.value(0, 0) = broken.a;
    last.B.value(0, 0) = broken.b;
    model.merge_adapter({"b"});
    const auto before = snapshot(model);
    EXPECT_TRUE(throws<Error>(
        [&] { model.merge_adapter({"a"}, SafeMerge::yes); },
        {"head: merge: the merged weight", "not finite", "b a", "nothing was merged"}));
    EXPECT_EQ(snapshot(model), before);
    EXPECT_TRUE(throws<Error>([&] { (void)model.merge_and_unload(SafeMerge::yes, {"a"}); },
                              {"head: merge", "not finite"}));
    EXPECT_EQ(snapshot(model), before);
    model.merge_adapter({"a"});  // not asked to be safe
    EXPECT_FALSE(model.base().run().allFinite());
    EXPECT_TRUE(
        throws<Error>([&] { (void)model.merge_and_unload(SafeMerge::yes); }, {"not finite"}))
        << "merged before, but not looked at";
    EXPECT_FALSE(model.merge_and_unload().run().allFinite());
    model.unmerge_adapter();
    model.delete_adapter("a");
    model.merge_adapter({"b"}, SafeMerge::yes);
    EXPECT_TRUE(model.base().run().allFinite());
  }
}

TEST(Merging, ALayerWithoutTheAdapterIsNotLookedAt) {
  Small base;
  base.v = LoRALinear<float>(Matrix<float>::Constant(6, 6, std::numeric_limits<float>::infinity()));
  Model model(base, config_for({"q"}));
  EXPECT_NO_THROW(model.merge_adapter({}, SafeMerge::yes));
}

TEST(Merging, AConvolutionWithGroupsRefusesForTheWholeModel) {
  Model model(Small{}, config_for({"q", "conv", "grouped"}));
  const auto before = snapshot(model);
  EXPECT_TRUE(throws<ConfigError>([&] { model.merge_adapter(); }, {"grouped: merge:", "groups"}));
  EXPECT_TRUE(throws<ConfigError>([&] { (void)model.merge_and_unload(); }, {"grouped: merge:"}));
  EXPECT_EQ(snapshot(model), before);
  fill_adapter(model, "default");
  EXPECT_TRUE(same_bits(model.unload().run(), Small{}.run()));
}

TEST(Merging, LoraBiasGoesIntoTheBasesBiasOrIsRefused) {
  LoRAConfig config = config_for({"q", "c", "conv", "head"});
  config.lora_bias = true;
  LoRAModel<SmallModel<double>> model(SmallModel<double>{}, config);
  fill_adapter(model, "default");
  const Matrix<double> unmerged = model.base().run();
  SmallModel<double> merged = model.merge_and_unload();
  expect_close(merged.run(), unmerged, equivalence);
  EXPECT_FALSE(same_bits(merged.q.bias().value, model.base().q.bias().value));
  model.merge_adapter();
  expect_close(model.base().run(), unmerged, equivalence);
  model.unmerge_adapter();
  EXPECT_TRUE(same_bits(model.base().run(), unmerged));

  config.target_modules = {"q", "v"};
  Model without(Small{}, config);
  const auto before = snapshot(without);
  EXPECT_TRUE(
      throws<ConfigError>([&] { without.merge_adapter(); },
                          {"block.0.v: merge: adapter \"default\" has a lora_bias", "no bias"}));
  EXPECT_EQ(snapshot(without), before);
}

TEST(Merging, NamedAdaptersAreExactlyThoseInTheResult) {
  Model model = two_adapters<float>();
  const auto before = snapshot(model);
  const auto only = [](const char* name) {
    Model fresh = two_adapters<float>();
    fresh.set_adapter(name);
    return fresh.merge_and_unload().run();
  };
  EXPECT_TRUE(same_bits(model.merge_and_unload(SafeMerge::no, {"b"}).run(), only("b")));
  EXPECT_EQ(snapshot(model), before);
  model.merge_adapter({"a"});
  EXPECT_TRUE(same_bits(model.merge_and_unload(SafeMerge::no, {"b"}).run(), only("b")));
  EXPECT_TRUE(same_bits(model.merge_and_unload(SafeMerge::no, {"a"}).run(), only("a")));
  EXPECT_TRUE(same_bits(model.merge_and_unload(SafeMerge::yes).run(), only("a")));
  EXPECT_EQ(model.merged_adapters(), Names{"a"});
  EXPECT_TRUE(throws<ConfigError>([&] { (void)model.merge_and_unload(SafeMerge::no, {"x"}); },
                                  {"no adapter is called \"x\""}));
}

TEST(Merging, UnloadGivesTheBaseBack) {
  Model model = two_adapters<float>();
  model.merge_adapter();
  const auto before = snapshot(model);
  Small base = model.unload();
  EXPECT_EQ(snapshot(model), before);
  EXPECT_TRUE(bare(base));
  EXPECT_TRUE(same_bits(base.run(), Small{}.run()));
  EXPECT_EQ(parameter_names(base), parameter_names(*std::make_unique<Small>()));
  EXPECT_TRUE(base.q.weight().shares_storage_with(model.base().q.weight()));
  Model again(base, everything());  // nothing is left that would stand in the way
  EXPECT_EQ(again.active_adapters(), Names{"default"});
}

TEST(Merging, AdoptsTheTrainedCopiesOfTheAdaptersThatAreMerged) {
  LoRAConfig plain = config_for({"q"}), saving = config_for({"v"});
  saving.modules_to_save = {"head", "embed", "conv"};
  LoRAModel<SmallModel<double>> model(SmallModel<double>{}, plain, "plain");
  model.add_adapter("saving", saving);
  fill_adapter(model, "plain");
  fill_adapter(model, "saving");
  for (const Names& names : {Names{"plain"}, Names{"saving"}, Names{"plain", "saving"}}) {
    model.set_adapter(names);
    const Matrix<double> output = model.base().run();
    SmallModel<double> merged = model.merge_and_unload();
    EXPECT_TRUE(bare(merged));
    expect_close(merged.run(), output, equivalence);
    const bool saved = names.back() == "saving";
    EXPECT_EQ(same_bits(merged.head.weight().stored(),
                        model.base().head.trained_copies().find("saving")->weight.value),
              saved);
    EXPECT_EQ(same_bits(merged.head.bias().value,
                        model.base().head.trained_copies().find("saving")->bias.value),
              saved);
    model.set_adapter({});
    expect_close(model.merge_and_unload(SafeMerge::no, names).run(), output, equivalence, "named");
    EXPECT_TRUE(same_bits(model.unload().run(), SmallModel<double>{}.run()));
  }
}

TEST(Merging, AFullyTrainedBaseIsNotLost) {
  Small base;
  base.head.train_base();
  base.head.trained_copies().find(base_adapter_name)->weight.value.setConstant(0.25f);
  const Matrix<float> output = base.run();
  Model model(base, config_for({"q"}));
  EXPECT_TRUE(same_bits(model.base().run(), output));
  EXPECT_TRUE(same_bits(model.unload().run(), output));
  EXPECT_TRUE(same_bits(model.merge_and_unload().run(), output));
  model.base().head.train_base();  // and again, beside the adapter
  model.base().head.trained_copies().find(base_adapter_name)->weight.value.setConstant(0.5f);
  const Matrix<float> again = model.base().run();
  EXPECT_TRUE(same_bits(model.unload().run(), again));
  EXPECT_TRUE(same_bits(model.merge_and_unload().run(), again));
}

TEST(Merging, BiasesTrainedWhileMergedActAndAreKept) {
  for (const bool lora_bias : {false, true}) {
    LoRAConfig config = config_for({"q", "c", "conv", "head"});
    config.bias = "all";
    config.lora_bias = lora_bias;
    Model model(Small{}, config);
    fill_adapter(model, "default");
    model.merge_adapter();
    const Matrix<float> before = model.base().run();
    model.for_each_parameter("", [](const NamePath& name, auto& p) {
      if (is_bias_name(name.str()) && name.str().find("lora_B") == std::string::npos)
        p.value.array() += 0.5f;
    });
    const Matrix<float> after = model.base().run();
    EXPECT_GT((after - before).leftCols(5 * Small::classes).cwiseAbs().minCoeff(), 0)
        << "each output of the head has a bias on its way";
    EXPECT_TRUE(same_bits(model.merge_and_unload().run(), after));
    Model later = model;
    later.unmerge_adapter();
    later.merge_adapter();
    EXPECT_TRUE(same_bits(later.base().run(), after));
    EXPECT_EQ(model.unload().head.bias().value(0, 0), Small{}.head.bias().value(0, 0) + 0.5f);
  }
}

TEST(Merging, TrainedBiasesStayInTheUnloadedBase) {
  LoRAConfig config = config_for({"q"});
  config.bias = "all";
  Model model(Small{}, config);
  model.base().head.bias().value.setConstant(3);
  model.base().norm.bias.value.setConstant(2);
  Small base = model.unload();
  EXPECT_TRUE(bare(base)) << "and are trained no more";
  EXPECT_EQ(base.head.bias().value(0, 0), 3);
  EXPECT_EQ(base.norm.bias.value(0, 0), 2);
}

TEST(Merging, WhileMergedTheAdaptersOwnTermIsNotAddedAgain) {
  Model model = two_adapters<float>();
  model.set_adapter({"a", "b"});
  model.merge_adapter();
  Small merged = model.merge_and_unload();
  EXPECT_TRUE(same_bits(model.base().run(), merged.run()));
}

}  // namespace lora_model_merging_test
