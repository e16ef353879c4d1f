// Merging: PEFT's numbers, the same function merged or not, exact return, and errors that leave
// everything as it was.
#include <lora/layers/lora_linear.hpp>

#include <gtest/gtest.h>

#include <limits>
#include <map>

#include "layers/golden_layers.hpp"
#include "layers/layer_tools.hpp"

namespace merging_test {
using namespace lora;
using namespace lora_test;
using Names = std::vector<std::string>;

/// A golden case, merged into a weight that holds its W in W's own type, and what PEFT made of it.
struct GoldenMerged {
  Matrix<float> W, A, B, expected, merged;
  DType dtype{};
  float scaling = 0;
};
GoldenMerged merge_golden(const GoldenCase& one) {
  const SafetensorsFile file = one.tensors();
  GoldenMerged g{file.matrix<float>("W"),
                 file.matrix<float>("A"),
                 file.matrix<float>("B"),
                 file.matrix<float>("merged"),
                 {},
                 file.info("W").dtype};
  LoRALinear<float> layer(g.dtype == DType::BF16
                              ? FrozenWeight<float>::pack(g.W, Precision::bfloat16)
                              : FrozenWeight<float>(g.W));
  g.scaling = add_golden_adapter(layer, golden_adapter(one), file).scale();
  g.merged = layer.prepare_merge({"default"}).weight.stored();
  return g;
}

// W + s B A is summed in another order there, and multiplied and added in one rounding here where
// the processor can: each side is within γ_{r+2} (|W| + s |B| |A|) of the exact sum.
void expect_rounding_of_the_sum(const GoldenMerged& g) {
  const float bound =
      static_cast<float>(2 * (g.A.rows() + 2)) * std::numeric_limits<float>::epsilon() / 2;
  const Matrix<float> size =
      g.W.cwiseAbs() + g.scaling * (g.B.cwiseAbs().lazyProduct(g.A.cwiseAbs()));
  for (Index i = 0; i < g.merged.size(); ++i) {
    EXPECT_LE(std::abs(g.merged.data()[i] - g.expected.data()[i]), bound * size.data()[i]) << i;
  }
}

// The sum is made in float32 and rounded once; PEFT's, rounded before, may be the next bfloat16.
void expect_one_unit_in_the_last_place(const GoldenMerged& g) {
  for (Index i = 0; i < g.merged.size(); ++i) {
    const float got = g.merged.data()[i], want = g.expected.data()[i];
    const std::uint16_t bits = float_to_bf16(std::abs(want));
    EXPECT_LE(std::abs(got - want),
              bf16_to_float(static_cast<std::uint16_t>(bits + 1)) - bf16_to_float(bits))
        << i;
  }
}

TEST(GoldenMerge, WithinTheRoundingOfTheWeightsType) {
  std::map<DType, int> count;
  for_each_golden_case("merge", [&](const GoldenCase& one) {
    const GoldenMerged g = merge_golden(one);
    ASSERT_EQ(g.merged.rows(), g.expected.rows());
    ASSERT_EQ(g.merged.cols(), g.expected.cols());
    ++count[g.dtype];
    g.dtype == DType::BF16 ? expect_one_unit_in_the_last_place(g) : expect_rounding_of_the_sum(g);
  });
  EXPECT_GE(count[DType::F32], 1);
  EXPECT_GE(count[DType::BF16], 1);
}

/// A layer of odd sizes with adapters of three ranks, scales and signs, two of them with a bias.
template <class S>
LoRALinear<S> layer_of(Layout layout = Layout::out_in, bool biases = true) {
  const Matrix<S> w = random_matrix<S>(19, 37, "W");
  LoRALinear<S> layer(
      FrozenWeight<S>(layout == Layout::out_in ? w : Matrix<S>(w.transpose()), layout),
      biases ? random_matrix<S>(1, 19, "b") : Matrix<S>());
  for (const auto& [name, r, alpha] : {std::tuple{"a", 5, 8.0}, {"b", 1, -3.0}, {"c", 41, 0.7}}) {
    AdapterOptions options = rank(r, alpha, 0.5);
    options.lora_bias = biases && std::string(name) != "a";
    add_full_adapter(layer, name, options);
  }
  return layer;
}
template <class S>
Matrix<S> output_of(const LoRALinear<S>& layer, Index rows = 13) {
  Matrix<S> y(rows, layer.out_features());
  layer.forward(random_matrix<S>(rows, layer.in_features(), "x"), y);
  return y;
}
template <class S>
Matrix<double> size_of(const Matrix<S>& m) {
  return m.template cast<double>().cwiseAbs();
}

template <class S>
class MergingOf : public testing::Test {};
using Scalars = testing::Types<float, double>;
TYPED_TEST_SUITE(MergingOf, Scalars, );

// y and dx are sums of products; each operation rounds by u, and an entry passes through at most n
// of them on either way, so the two ways differ by 2 n u (|x| |W|ᵀ + Σ |s| |x| |A|ᵀ |B|ᵀ + |b| +
// Σ |s bias|).
TYPED_TEST(MergingOf, MergedEqualsUnmerged) {
  using S = TypeParam;
  const double u = std::numeric_limits<S>::epsilon() / 2;
  for (const Layout layout : {Layout::out_in, Layout::in_out}) {
    for (const Names& names : {Names{"a"}, Names{"b", "a"}, Names{"a", "b", "c"}}) {
      LoRALinear<S> layer = layer_of<S>(layout);
      layer.adapters().set_active(names);
      const Matrix<S> x = random_matrix<S>(13, 37, "x"), dy = random_matrix<S>(13, 19, "dy");
      Matrix<S> y(13, 19), merged_y(13, 19), dx, merged_dx;
      typename LoRALinear<S>::Tape tape;
      layer.forward(x, y, &tape);
      layer.backward(x, dy, tape, &dx);
      layer.merge();
      EXPECT_EQ(layer.adapters().merged(), names);
      layer.forward(x, merged_y, &tape);
      layer.backward(x, dy, tape, &merged_dx);

      Matrix<double> weight = size_of(layer.weight().dense()), bias = size_of(layer.bias().value);
      double steps = 37 + 19 + 10;
      for (const std::string& name : names) {
        const Adapter<S>& adapter = layer.adapters().get(name);
        weight += std::abs(adapter.scaling) * size_of(adapter.B.value) * size_of(adapter.A.value);
        if (!adapter.bias.empty()) bias += std::abs(adapter.scaling) * size_of(adapter.bias.value);
        steps += static_cast<double>(adapter.r + 4);
      }
      const Matrix<double> y_bound = (size_of(x) * weight.transpose()).rowwise() + bias.row(0);
      const Matrix<double> dx_bound = size_of(dy) * weight;
      for (Index t = 0; t < 13; ++t) {
        for (Index o = 0; o < 19; ++o) {
          EXPECT_LE(std::abs(static_cast<double>(merged_y(t, o)) - static_cast<double>(y(t, o))),
                    2 * steps * u * y_bound(t, o));
        }
        for (Index i = 0; i < 37; ++i) {
          EXPECT_LE(std::abs(static_cast<double>(merged_dx(t, i)) - static_cast<double>(dx(t, i))),
                    2 * steps * u * dx_bound(t, i));
        }
      }
      EXPECT_FALSE(
          same_bits(merged_y, output_of(LoRALinear<S>(layer.weight(), layer.bias().value))))
          << "it did act";
    }
  }
}

TYPED_TEST(MergingOf, UnmergingGivesBackTheBytesAtAnyScale) {
  using S = TypeParam;
  for (const Layout layout : {Layout::out_in, Layout::in_out}) {
    for (const double scale : {1e-12, 0.0, 1.0, -3.0, 1e15}) {
      LoRALinear<S> layer = layer_of<S>(layout);
      layer.adapters().set_active({"a", "b", "c"});
      for (const char* name : {"a", "b", "c"}) layer.adapters().set_scale(name, scale);
      const FrozenWeight<S> handle = layer.weight();
      const Matrix<S> bytes = handle.stored(), bias = layer.bias().value, y = output_of(layer);
      layer.merge({"a"});
      layer.merge({"c", "b"});
      EXPECT_EQ(layer.adapters().merged(), (Names{"a", "c", "b"}));
      layer.unmerge();
      EXPECT_TRUE(layer.adapters().merged().empty());
      EXPECT_TRUE(layer.weight().shares_storage_with(handle));
      EXPECT_TRUE(same_bits(layer.weight().stored(), bytes));
      EXPECT_TRUE(same_bits(layer.bias().value, bias));
      EXPECT_TRUE(same_bits(output_of(layer), y));
    }
  }
}

TEST(Merging, OneAfterTheOtherIsAllAtOnce) {
  LoRALinear<float> layer = layer_of<float>(), together = layer;
  layer.merge({"b"});
  layer.merge({"a", "c"});
  together.merge({"b", "a", "c"});
  EXPECT_TRUE(same_bits(output_of(layer), output_of(together)));
  layer.unload();
  together.unload();
  EXPECT_TRUE(same_bits(layer.weight().stored(), together.weight().stored()));
}

TEST(Merging, AFreshAdapterChangesNoBit) {
  LoRALinear<float> layer = layer_of<float>();
  const Matrix<float> bytes = layer.weight().stored();
  layer.add_adapter("fresh", rank(4));
  EXPECT_TRUE(same_bits(layer.prepare_merge({"fresh"}).weight.stored(), bytes));
}

TEST(Merging, WhileMergedTheMergedAdaptersAloneAct) {
  LoRALinear<double> layer = layer_of<double>();
  layer.adapters().set_active({"a"});
  layer.merge({"b"});
  const Matrix<double> y = output_of(layer);
  layer.adapters().set_active({"c", "b"});
  EXPECT_TRUE(same_bits(output_of(layer), y));
}

TEST(Merging, DisabledAndEnabledAgainItIsMergedStill) {
  LoRALinear<double> layer = layer_of<double>();
  const Matrix<double> base = output_of(LoRALinear<double>(layer.weight(), layer.bias().value));
  layer.merge({"a", "b"});
  const Matrix<double> merged = output_of(layer);
  layer.adapters().set_enabled(false);
  EXPECT_TRUE(same_bits(output_of(layer), base));
  EXPECT_EQ(layer.adapters().merged(), (Names{"a", "b"}));
  layer.adapters().set_enabled(true);
  EXPECT_TRUE(same_bits(output_of(layer), merged));
  layer.adapters().set_enabled(false);
  layer.unmerge();
  EXPECT_TRUE(same_bits(output_of(layer), base));
}

TEST(Merging, ACopyIsMergedAndUnmergedAlone) {
  LoRALinear<double> layer = layer_of<double>();
  layer.merge({"a"});
  const Matrix<double> merged = output_of(layer);
  LoRALinear<double> copy = layer;
  EXPECT_TRUE(same_bits(output_of(copy), merged));
  copy.unmerge();
  EXPECT_TRUE(same_bits(output_of(layer), merged));
  EXPECT_EQ(layer.adapters().merged(), Names{"a"});
}

TEST(Merging, PreparingChangesNothing) {
  LoRALinear<double> layer = layer_of<double>();
  layer.adapters().set_active({"b"});
  const Matrix<double> y = output_of(layer);
  MergedWeight<double> prepared = layer.prepare_merge();
  EXPECT_EQ(prepared.names, Names{"b"});
  EXPECT_TRUE(layer.adapters().merged().empty());
  EXPECT_TRUE(same_bits(output_of(layer), y));
  const Matrix<double> weight = prepared.weight.dense();
  layer.commit_merge(std::move(prepared));
  EXPECT_EQ(layer.adapters().merged(), Names{"b"});
  layer.unload();
  EXPECT_TRUE(same_bits(layer.weight().dense(), weight));
}

TEST(Merging, NothingToMergeIsNoMerge) {
  LoRALinear<double> layer = layer_of<double>();
  layer.merge();
  EXPECT_TRUE(layer.adapters().merged().empty());
  EXPECT_TRUE(throws<Error>([&] { layer.unmerge(); }, {"unmerge: no adapter is merged"}));
}

TEST(MergingErrors, AnUnknownNameIsNotPassedOver) {
  LoRALinear<double> layer = layer_of<double>();
  for (const Names& names : {Names{"tpyo"}, Names{"a", "tpyo"}}) {
    EXPECT_TRUE(throws<ConfigError>([&] { layer.merge(names); },
                                    {"no adapter is called \"tpyo\"; there are: a b c"}));
    EXPECT_TRUE(layer.adapters().merged().empty());
  }
}

TEST(Merging, NamesToMerge) {
  AdapterSet<double> set;
  for (const char* name : {"a", "b", "c"}) set.add(make_adapter<double>(name, rank(1)));
  set.set_active({"c", "a"});
  EXPECT_EQ(names_to_merge(set, {}), (Names{"c", "a"}));
  EXPECT_EQ(names_to_merge(set, {"b"}), Names{"b"});
  EXPECT_TRUE(throws<ConfigError>(
      [&] {
        names_to_merge(set, {"b", "elsewhere"});
      },
      {"no adapter is called \"elsewhere\"; there are: a b c"}));
  set.set_merged({"b"});
  EXPECT_EQ(names_to_merge(set, {"a"}), (Names{"b", "a"}));
  EXPECT_TRUE(throws<Error>(
      [&] {
        names_to_merge(set, {"a", "b"});
      },
      {"merge: adapter \"b\" is merged already"}));
}

TEST(MergingErrors, TwiceOrNotAtAll) {
  LoRALinear<double> layer = layer_of<double>();
  EXPECT_TRUE(throws<Error>([&] { layer.unmerge(); }, {"unmerge: no adapter is merged"}));
  layer.adapters().set_active({"a", "b"});
  layer.merge({"b"});
  const Matrix<double> y = output_of(layer);
  EXPECT_TRUE(throws<Error>([&] { layer.merge(); }, {"merge: adapter \"b\" is merged already"}));
  EXPECT_TRUE(throws<Error>(
      [&] {
        layer.merge({"c", "b"});
      },
      {"merge: adapter \"b\" is merged already"}));
  EXPECT_TRUE(throws<Error>(
      [&] {
        layer.merge({"c", "c"});
      },
      {"merge: adapter \"c\" is merged already"}));
  EXPECT_EQ(layer.adapters().merged(), Names{"b"});
  EXPECT_TRUE(same_bits(output_of(layer), y));
  layer.unmerge();
  EXPECT_TRUE(throws<Error>([&] { layer.unmerge(); }, {"unmerge: no adapter is merged"}));
}

TEST(MergingErrors, WhatIsMergedIsNeitherDeletedNorRescaled) {
  LoRALinear<double> layer = layer_of<double>();
  layer.adapters().set_active({"a"});
  layer.merge();
  const Matrix<double> y = output_of(layer);
  EXPECT_TRUE(throws<Error>([&] { layer.delete_adapter("a"); },
                            {"\"a\" is merged; unmerge it before it is deleted"}));
  EXPECT_TRUE(throws<Error>([&] { layer.adapters().set_scale("a", 2); },
                            {"\"a\" is merged; unmerge it before its scale"}));
  layer.delete_adapter("c");
  EXPECT_TRUE(same_bits(output_of(layer), y));
}

TEST(MergingErrors, ASafeMergeRefusesWhatIsNotFinite) {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN(),
                   inf = std::numeric_limits<double>::infinity();
  for (const double bad : {nan, inf, -inf}) {
    for (const char* broken : {"A", "B", "bias"}) {
      LoRALinear<double> layer = layer_of<double>();
      layer.merge({"a"}, SafeMerge::yes);
      const Matrix<double> y = output_of(layer);
      Adapter<double>& b = layer.adapters().get("b");
      Parameter<double>& tensor = *broken == 'A' ? b.A : *broken == 'B' ? b.B : b.bias;
      tensor.value(0, 0) = bad;
      EXPECT_TRUE(throws<Error>(
          [&] {
            layer.merge({"c", "b"}, SafeMerge::yes);
          },
          {"merge: the merged weight has values that are not finite", "adapters is broken: a c b;",
           "nothing was merged"}))
          << broken << " " << bad;
      EXPECT_EQ(layer.adapters().merged(), Names{"a"});
      EXPECT_TRUE(same_bits(output_of(layer), y));
      layer.merge({"c"}, SafeMerge::yes);
      layer.merge({"b"});
      EXPECT_FALSE(output_of(layer).allFinite()) << "unasked, it goes through";
      layer.unmerge();
      EXPECT_TRUE(layer.weight().all_finite());
    }
  }
}

TEST(MergingErrors, ASafeMergeLooksAtTheSumOfTheBiases) {
  LoRALinear<double> layer = layer_of<double>();
  layer.bias().value(0, 3) = 1e308;
  layer.adapters().get("b").bias.value(0, 3) = 1e308 / layer.adapters().get("b").scaling;
  EXPECT_TRUE(throws<Error>([&] { layer.merge({"b"}, SafeMerge::yes); },
                            {"values that are not finite", "adapters is broken: b;"}));
  EXPECT_NO_THROW(layer.merge({"a"}, SafeMerge::yes));
}

TEST(MergingErrors, ABiasNeedsABiasToGoInto) {
  LoRALinear<double> layer = layer_of<double>(Layout::out_in, false);
  AdapterOptions options = rank(2);
  options.lora_bias = true;
  layer.add_adapter("biased", options);
  EXPECT_TRUE(throws<ConfigError>(
      [&] {
        layer.merge({"a", "biased"});
      },
      {"merge: adapter \"biased\" has a lora_bias, but the layer has no bias to merge it into"}));
  EXPECT_TRUE(layer.adapters().merged().empty());
}

}  // namespace merging_test
