// add_weighted_adapter over a model with every kind of layer.
#include <lora/adapters/weighted_adapter.hpp>

#include <gtest/gtest.h>

#include <limits>
#include <map>
#include <string>
#include <vector>

#include "adapters/small_model.hpp"

namespace weighted_adapter_test {
using namespace lora;
using namespace lora_test;
using enum CombinationType;
using Names = std::vector<std::string>;
using Model = LoRAModel<SmallModel<double>>;
using Deltas = std::map<std::string, Matrix<double>>;

const CombineOptions by_cat{.type = cat};

/// "a" on every layer of rank 2, "b" on some of rank 4 with rsLoRA, all with numbers in them.
Model two_adapters() {
  LoRAConfig a = everything(), b = config_for({"embed", "q", "conv", "head"}, 4, 5);
  a.target_modules = {"embed", "q", "v", "c", "default", "conv", "grouped", "head"};
  b.use_rslora = true;
  Model model(SmallModel<double>{}, a, "a");
  model.add_adapter("b", b);
  fill_adapter(model, "a");
  fill_adapter(model, "b");
  return model;
}

/// s B A of an adapter by layer; where it is not, there is nothing.
Deltas deltas_of(Model& model, const std::string& name) {
  Deltas deltas;
  model.for_each_layer([&](const NamePath& path, auto& layer) {
    if (const auto* adapter = layer.adapters().find(name))
      deltas[path.str()] = detail::factors_of(layer, *adapter).delta();
  });
  return deltas;
}
void expect_sum(Model& model, double of_a, double of_b, const std::string& name) {
  Deltas a = deltas_of(model, "a"), b = deltas_of(model, "b"), sum = deltas_of(model, name);
  for (auto& [path, delta] : a) delta *= of_a;
  for (auto& [path, delta] : b) {
    delta *= of_b;
    if (a.count(path) != 0) delta += a[path];
    a[path] = delta;
  }
  EXPECT_EQ(a.size(), sum.size());
  for (auto& [path, delta] : a) {
    ASSERT_TRUE(sum.count(path) != 0) << path;
    EXPECT_LE((sum[path] - delta).norm(), 1e-14 * (1 + delta.norm())) << path;
  }
}

TEST(WeightedAdapter, CatIsTheSumOnEveryKindOfLayer) {
  Model model = two_adapters();
  model.set_scale("a", 0.5);
  const Matrix<double> before = model.base().run();
  const MatchReport report = add_weighted_adapter(model, {"a", "b"}, {0.7, -0.4}, "sum", by_cat);
  EXPECT_EQ(report.targets.size(), 8u);
  EXPECT_TRUE(same_bits(model.base().run(), before)) << "it is there and does not act";
  EXPECT_EQ(model.active_adapters(), Names{"a"});
  expect_sum(model, 0.7, -0.4, "sum");
  for (const std::string& name : trained_names(model))
    EXPECT_EQ(name.find(".sum"), std::string::npos) << name;
}

// The whole model: the outputs of all layers are linear in the deltas of one layer only, so each is
// looked at alone.
TEST(WeightedAdapter, ADoRAAdapterIsRefused) {
  Model model = two_adapters();
  LoRAConfig config;
  config.target_modules = Names{"q"};
  config.use_dora = true;
  model.add_adapter("dora", config);
  EXPECT_TRUE(throws<ConfigError>(
      [&] {
        add_weighted_adapter(model, {"a", "dora"}, {1, 1}, "sum", by_cat);
      },
      {"adapter \"dora\": a DoRA adapter cannot be combined"}));
  EXPECT_FALSE(model.has_adapter("sum"));
}

TEST(WeightedAdapter, ActsAsTheSourcesTogether) {
  for (const char* layer : {"q", "head", "conv", "embed"}) {
    Model model(SmallModel<double>{}, config_for({layer}), "a");
    model.add_adapter("b", config_for({layer}, 3, 1));
    fill_adapter(model, "a");
    fill_adapter(model, "b");
    add_weighted_adapter(model, {"a", "b"}, {1, 1}, "sum", by_cat);
    CombineOptions full;
    full.svd_rank = 6;
    add_weighted_adapter(model, {"a", "b"}, {1, 1}, "best", full);
    model.set_adapter({"a", "b"});
    const Matrix<double> together = model.base().run();
    for (const char* name : {"sum", "best"}) {
      model.set_adapter(name);
      EXPECT_LE((model.base().run() - together).norm(), 1e-13 * together.norm()) << layer << name;
      model.merge_adapter();
      EXPECT_LE((model.base().run() - together).norm(), 1e-13 * together.norm()) << layer << name;
      model.unmerge_adapter();
    }
  }
}

// The configuration says what is there, so that a fresh model takes the tensors.
TEST(WeightedAdapter, TheConfigurationGivesRanksAndScale) {
  Model model = two_adapters();
  add_weighted_adapter(model, {"a", "b"}, {1, 1}, "sum", by_cat);
  const LoRAConfig& config = model.config("sum");
  EXPECT_EQ(config.r, 6);
  EXPECT_EQ(config.lora_alpha, 6);
  EXPECT_FALSE(config.use_rslora);
  using Pattern = std::vector<std::pair<std::string, Index>>;
  EXPECT_EQ(config.rank_pattern,
            (Pattern{{"block.0.v", 2}, {"block.0.c", 2}, {"lora_A.default", 2}, {"grouped", 2}}));
  EXPECT_EQ(config.target_modules,
            NameSelection(Names{"embed", "q", "v", "c", "default", "conv", "grouped", "head"}));
  Model fresh(SmallModel<double>{}, config, "sum");
  std::map<std::string, std::pair<Index, double>> shapes;
  fresh.for_each_layer([&](const NamePath& path, auto& layer) {
    if (const auto* one = layer.adapters().find("sum")) shapes[path.str()] = {one->r, one->scaling};
  });
  EXPECT_EQ(shapes.size(), 8u);
  model.for_each_layer([&](const NamePath& path, auto& layer) {
    const auto* one = layer.adapters().find("sum");
    if (one == nullptr) return;
    EXPECT_EQ(one->A.value.rows(), shapes[path.str()].first) << path.str();
    EXPECT_EQ(one->r, shapes[path.str()].first) << path.str();
    EXPECT_EQ(shapes[path.str()].second, 1) << path.str();
    EXPECT_EQ(one->scaling, 1) << path.str();
  });
}

// Where one of the sources is not, the layer is combined from the others.
TEST(WeightedAdapter, SourcesOnDifferentLayers) {
  Model model(SmallModel<double>{}, config_for({"q"}), "a");
  model.add_adapter("b", config_for({"head", "v"}, 3, 2));
  model.add_adapter("unused", config_for({"c"}));
  fill_adapter(model, "a");
  fill_adapter(model, "b");
  add_weighted_adapter(model, {"b", "a"}, {-2, 0.5}, "sum", by_cat);
  expect_sum(model, 0.5, -2, "sum");
  EXPECT_EQ(deltas_of(model, "sum").count("block.0.c"), 0u);
}

TEST(WeightedAdapter, EveryTypeOnEqualRanks) {
  for (const CombinationType type :
       {svd, linear, cat, ties, ties_svd, dare_linear, dare_linear_svd, dare_ties, dare_ties_svd,
        magnitude_prune, magnitude_prune_svd}) {
    Model model(SmallModel<double>{}, everything(), "a");
    model.add_adapter("b", everything(2, 5));
    fill_adapter(model, "a");
    fill_adapter(model, "b");
    CombineOptions options{.type = type};
    if (type != svd && type != linear && type != cat) options.density = 0.6;
    options.seed = 9;
    add_weighted_adapter(model, {"a", "b"}, {0.7, -0.4}, "sum", options);
    int layers = 0;
    model.for_each_layer([&](const NamePath& path, auto& layer) {
      const auto* sum = layer.adapters().find("sum");
      if (sum == nullptr) return;
      ++layers;
      const std::vector<LowRankFactors<double>> sources = {
          detail::factors_of(layer, *layer.adapters().find("a")),
          detail::factors_of(layer, *layer.adapters().find("b"))};
      CombineOptions own = options;
      own.path = path.str();
      const auto expected = combine_factors<double>(sources, std::vector<double>{0.7, -0.4}, own);
      EXPECT_TRUE(same_bits(sum->A.value, expected.A)) << path.str();
      EXPECT_TRUE(same_bits(sum->B.value, expected.B)) << path.str();
    });
    EXPECT_EQ(layers, 7) << combination_type_name(type);
  }
}

TEST(WeightedAdapter, OneSourceIsACopy) {
  Model model = two_adapters();
  add_weighted_adapter(model, {"b"}, {1}, "copy", {.type = linear});
  const Deltas b = deltas_of(model, "b"), copy = deltas_of(model, "copy");
  EXPECT_EQ(copy.size(), 4u);
  for (const auto& [path, delta] : b)
    EXPECT_LE((copy.at(path) - delta).norm(), 1e-14 * delta.norm()) << path;
}

TEST(WeightedAdapter, MinusItselfIsZero) {
  Model model = two_adapters();
  add_weighted_adapter(model, {"b", "b"}, {1, -1}, "none", {.type = linear});
  for (const auto& [path, delta] : deltas_of(model, "none")) EXPECT_EQ(delta.norm(), 0) << path;
}

TEST(WeightedAdapter, BecomesActiveWhenNoneIs) {
  Model model = two_adapters();
  model.set_adapter(Names{});
  add_weighted_adapter(model, {"a", "b"}, {1, 1}, "sum", by_cat);
  EXPECT_EQ(model.active_adapters(), Names{"sum"});
  EXPECT_FALSE(trained_names(model).empty());
}

TEST(WeightedAdapter, MergedSourcesAreCombinedAsTheyAre) {
  Model model = two_adapters();
  model.delete_adapter("b");
  model.base().grouped.delete_adapter("a");
  model.merge_adapter({"a"});
  const Matrix<double> merged = model.base().run();
  add_weighted_adapter(model, {"a"}, {2}, "twice", by_cat);
  EXPECT_EQ(model.merged_adapters(), Names{"a"});
  EXPECT_TRUE(same_bits(model.base().run(), merged));
  const Deltas once = deltas_of(model, "a"), twice = deltas_of(model, "twice");
  for (const auto& [path, delta] : once)
    EXPECT_LE((twice.at(path) - 2 * delta).norm(), 1e-14) << path;
}

TEST(WeightedAdapter, ASavedModuleOfOneSourceIsTakenOver) {
  LoRAConfig a = config_for({"q"}), b = config_for({"q", "v"});
  b.modules_to_save = {"head"};
  Model model(SmallModel<double>{}, a, "a");
  model.add_adapter("b", b);
  fill_adapter(model, "a");
  fill_adapter(model, "b");
  add_weighted_adapter(model, {"a", "b", "b"}, {1, 0.25, 0.25}, "sum", by_cat);
  const auto& copies = model.base().head.trained_copies();
  EXPECT_TRUE(same_bits(copies.find("sum")->weight.value, copies.find("b")->weight.value));
  EXPECT_TRUE(same_bits(copies.find("sum")->bias.value, copies.find("b")->bias.value));
  EXPECT_EQ(model.config("sum").modules_to_save, Names{"head"});
  expect_sum(model, 1, 0.5, "sum");
}

// ---- refusals: nothing changes ----

template <class E = ConfigError>
void refused(Model& model, const Names& adapters, const std::vector<double>& weights,
             const std::string& name, const CombineOptions& options,
             std::initializer_list<const char*> parts) {
  const auto before = snapshot(model);
  EXPECT_TRUE(
      throws<E>([&] { add_weighted_adapter(model, adapters, weights, name, options); }, parts));
  EXPECT_EQ(snapshot(model), before);
}

TEST(WeightedAdapter, CallsThatDoNotFit) {
  Model model = two_adapters();
  const double nan = std::nan("");
  refused(model, {"a"}, {1}, "b", by_cat, {"add_weighted_adapter: adapter \"b\" already exists"});
  refused(model, {"a"}, {1}, "", by_cat, {"the name is empty"});
  refused(model, {"a"}, {1}, "x.y", by_cat, {"a name must not contain a dot"});
  refused(model, {"a"}, {1}, "__base__", by_cat, {"stands for \"no adapter\""});
  refused(model, {}, {}, "n", by_cat, {"no adapters are named, expected at least one"});
  refused(model, {"a", "b"}, {1}, "n", by_cat, {"there are 1 weights, expected 2"});
  refused(model, {"a", "b"}, {1, nan}, "n", by_cat,
          {"the weight of adapter \"b\" is nan, expected a finite number"});
  refused(model, {"a", "c"}, {1, 1}, "n", by_cat, {"no adapter is called \"c\"; there are: a b"});
  refused(model, {"a"}, {1}, "n", {.type = ties}, {"CombineOptions: density = none"});
  refused(model, {"a", "b"}, {1, 1}, "n", {.type = linear},
          {"add_weighted_adapter: layer \"embed\": ", "the rank is 4, expected 2"});
  refused(model, {"a"}, {1}, "n", {},
          {"layer \"grouped\": ", "not defined for a convolution with groups"});
  Model empty{SmallModel<double>{}};
  refused(empty, {"a"}, {1}, "n", by_cat, {"there are: none"});
}

TEST(WeightedAdapter, SourcesThatCannotBeCombined) {
  LoRAConfig biased = config_for({"q"}), base_bias = config_for({"q"});
  biased.lora_bias = true;
  base_bias.bias = "lora_only";
  Model model(SmallModel<double>{}, config_for({"q"}), "a");
  model.add_adapter("biased", biased);
  model.add_adapter("base_bias", base_bias);
  refused(model, {"a", "biased"}, {1, 1}, "n", by_cat,
          {"adapter \"biased\" has lora_bias, which no combination keeps"});
  refused(model, {"a", "base_bias"}, {1, 1}, "n", by_cat,
          {"adapter \"base_bias\" trains biases of the base (bias = \"lora_only\")"});

  model.base().q.adapters().get("a").A.value(0, 0) = std::numeric_limits<double>::infinity();
  refused<Error>(model, {"a"}, {1}, "n", by_cat,
                 {"layer \"block.0.q\": ", "factors 0: A, B or the scaling is not finite"});
}

TEST(WeightedAdapter, SavedModulesThatMeet) {
  LoRAConfig saving = config_for({"q"}), other = config_for({"v"});
  saving.modules_to_save = {"head"};
  other.modules_to_save = {"head"};
  Model model(SmallModel<double>{}, saving, "a");
  model.add_adapter("b", other);
  model.add_adapter("c", config_for({"head"}));
  refused(model, {"a", "b"}, {1, 1}, "n", by_cat,
          {"layer \"head\" is in modules_to_save of both \"a\" and \"b\""});
  refused(model, {"c", "a"}, {1, 1}, "n", by_cat,
          {"layer \"head\" is in modules_to_save of \"a\", while another of the adapters has "
           "low-rank factors there"});
}

TEST(WeightedAdapter, ALayerThatIsTrainedWholeIsLeftAlone) {
  Model model(SmallModel<double>{}, config_for({"q"}), "a");
  model.add_adapter("b", config_for({"q", "head"}));
  model.base().head.delete_adapter("b");
  model.base().head.train_base();
  add_weighted_adapter(model, {"a", "b"}, {1, 1}, "n", by_cat);
  EXPECT_FALSE(model.base().head.adapters().contains("n"));
}

}  // namespace weighted_adapter_test
