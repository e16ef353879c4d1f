// Rank-stabilised LoRA is plain LoRA with another scale; PEFT's numbers for it are in
// lora_linear_test.
#include <lora/layers/lora_linear.hpp>

#include <gtest/gtest.h>

#include "layers/layer_tools.hpp"

namespace rslora_test {
using namespace lora;
using namespace lora_test;

TEST(RsLoRA, ScaleIsAlphaOverRootR) {
  EXPECT_EQ(RsLoRA::scaling(8, 4), 4.0);
  EXPECT_EQ(RsLoRA::scaling(3, 1), 3.0);
  EXPECT_EQ(RsLoRA::scaling(8, 3), 8.0 / std::sqrt(3.0));
}

template <class S>
LoRALinear<S> layer_of(bool stabilised) {
  LoRALinear<S> layer(random_matrix<S>(5, 9, "W"));
  AdapterOptions options = stabilised ? rank(4, 3, 0.3) : rank(4, 6, 0.3);  // s is 1.5 both times
  if (stabilised) options.variant = RsLoRA{};
  add_full_adapter(layer, "a", options);
  layer.adapters().set_active({"a"});
  return layer;
}

TEST(RsLoRA, AtTheSameScaleIsPlainLoRABitForBit) {
  LoRALinear<double> plain = layer_of<double>(false), stabilised = layer_of<double>(true);
  EXPECT_EQ(stabilised.adapters().get("a").scaling, 1.5);
  const Matrix<double> x = random_matrix(6, 9, "x"), dy = random_matrix(6, 5, "dy");
  Pass pass;
  pass.training = true;
  const auto step = [&](LoRALinear<double>& layer) {
    Matrix<double> y(6, 5), dx;
    LoRALinear<double>::Tape tape;
    layer.forward(x, y, &tape, pass);
    layer.backward(x, dy, tape, &dx);
    const Adapter<double>& adapter = layer.adapters().get("a");
    return std::vector<Matrix<double>>{y, dx, adapter.A.grad, adapter.B.grad,
                                       layer.prepare_merge().weight.dense()};
  };
  const auto expected = step(plain), actual = step(stabilised);
  for (std::size_t i = 0; i < expected.size(); ++i)
    EXPECT_TRUE(same_bits(actual[i], expected[i])) << i;
}

TEST(RsLoRA, Gradients) {
  EXPECT_EQ(check_gradients([](auto s) { return layer_of<decltype(s)>(true); }, 6), 2);
}

TEST(RsLoRA, BeginsLikePlainLoRA) {
  AdapterOptions options = rank(4);
  LoRALinear<double> layer(Matrix<double>(Matrix<double>::Zero(5, 9)));
  layer.add_adapter("a", options);
  const Matrix<double> expected = layer.adapters().get("a").A.value;
  layer.delete_adapter("a");
  options.variant = RsLoRA{};
  layer.add_adapter("a", options);
  EXPECT_TRUE(same_bits(layer.adapters().get("a").A.value, expected));
}

}  // namespace rslora_test
