// Layers from a source of weights, and the random one.
#include <lora/models/weight_source.hpp>

#include <gtest/gtest.h>

#include "layers/layer_tools.hpp"
#include "support/golden.hpp"

namespace weight_source_test {
using namespace lora;
using namespace lora_test;

/// Knows nothing yet.
struct EmptySource {
  FrozenWeight<float> matrix(const std::string&, Index, Index, Layout) { return {}; }
  Matrix<float> vector(const std::string&, Index n) { return Matrix<float>::Zero(1, n); }
};
static_assert(WeightSource<EmptySource, float>);
static_assert(WeightSource<RandomWeights<double>, double>);
static_assert(!WeightSource<RandomWeights<double>, float>);

TEST(WeightSource, MakesLayersByName) {
  RandomWeights<double> source{.seed = 3, .deviation = 0.5};
  const auto linear = linear_from<double>(source, "a.b", 4, 6, Bias::yes);
  EXPECT_TRUE(same_bits(linear.weight().stored(),
                        source.matrix("a.b.weight", 4, 6, Layout::out_in).stored()));
  EXPECT_TRUE(linear.bias().value.isZero(0));
  EXPECT_EQ(linear.bias().size(), 4);
  const auto conv1d = linear_from<double>(source, "a.b", 4, 6, Bias::no, Layout::in_out);
  EXPECT_EQ(conv1d.weight_shape(), (std::vector<Index>{6, 4}));
  EXPECT_STREQ(conv1d.module_type(), "Conv1D");
  EXPECT_TRUE(conv1d.bias().empty());
  EXPECT_EQ(embedding_from<double>(source, "table", 9, 4).num_embeddings(), 9);
  const auto norm = layer_norm_from<double>(source, "ln", 5, 1e-4);
  EXPECT_TRUE(norm.weight.value.isOnes(0));
  EXPECT_TRUE(norm.bias.value.isZero(0));
  EXPECT_EQ(norm.eps, 1e-4);
  const auto rms = rms_norm_from<double>(source, "norm", 5, 1e-3, "LlamaRMSNorm");
  EXPECT_TRUE(rms.weight.value.isOnes(0));
  EXPECT_STREQ(rms.module_type(), "LlamaRMSNorm");
}

TEST(WeightSource, OneThatHasNothingYetIsNoError) {
  EmptySource source;
  EXPECT_EQ(linear_from<float>(source, "a", 4, 6, Bias::yes).weight().size(), 0);
  EXPECT_EQ(embedding_from<float>(source, "a", 4, 6).weight().size(), 0);
}

TEST(RandomWeights, DependOnSeedAndNameAlone) {
  RandomWeights<float> source{.seed = 3}, other{.seed = 4};
  const auto values = [](RandomWeights<float>& from, const char* name) {
    return from.matrix(name, 300, 70, Layout::out_in).stored();
  };
  EXPECT_TRUE(same_bits(values(source, "a"), values(source, "a")));
  EXPECT_FALSE(same_bits(values(source, "a"), values(source, "b")));
  EXPECT_FALSE(same_bits(values(source, "a"), values(other, "a")));
  // The deviation of 21000 numbers is within 4 of its own deviations of 0.02.
  const double deviation = values(source, "a").norm() / std::sqrt(21000.0);
  EXPECT_NEAR(deviation, 0.02, 4 * 0.02 / std::sqrt(2 * 21000.0));
  RandomWeights<float> packed{.seed = 3, .packed = Precision::bfloat16};
  expect_close(values(packed, "a"), values(source, "a"), 0x1.0p-8);
  EXPECT_LT(packed.matrix("a", 300, 70, Layout::out_in).bytes(), 300 * 70 * 3);
}

}  // namespace weight_source_test
