// The gradients of the low-rank path by complex step, through the layer that carries it, at every
// shape that is an edge.
#include <lora/layers/lora_linear.hpp>

#include <gtest/gtest.h>

#include "layers/layer_tools.hpp"

namespace plain_lora_test {
using namespace lora;
using namespace lora_test;

template <class S>
LoRALinear<S> layer_of(const LayerShape& shape, Layout layout, double dropout, bool biases) {
  const Matrix<S> w = random_matrix<S>(shape.out, shape.in, "W");
  const Matrix<S> stored = layout == Layout::out_in ? w : Matrix<S>(w.transpose());
  LoRALinear<S> layer(FrozenWeight<S>(stored, layout),
                      biases ? random_matrix<S>(1, shape.out, "b") : Matrix<S>());
  AdapterOptions options = rank(shape.r, 5, dropout);
  options.lora_bias = biases;
  add_full_adapter(layer, "a", options);
  layer.adapters().set_active({"a"});
  if (biases) layer.bias().set_trainable(true);
  return layer;
}

TEST(PlainLoRA, GradientsAtEveryShape) {
  for (const LayerShape& shape : edge_shapes) {
    for (const Layout layout : {Layout::out_in, Layout::in_out}) {
      SCOPED_TRACE(std::string(shape.what) +
                   (layout == Layout::out_in ? "" : ", stored (in, out)"));
      const auto make = [&](auto s) { return layer_of<decltype(s)>(shape, layout, 0.0, true); };
      EXPECT_EQ(check_gradients(make, shape.rows), 4) << "A, B, lora_bias and the base's bias";
    }
  }
}

TEST(PlainLoRA, GradientsThroughDropoutUseForwardsMask) {
  Pass pass;
  pass.training = true;
  pass.seed = 77;
  pass.first_row = 3;
  for (const LayerShape& shape : edge_shapes) {
    SCOPED_TRACE(shape.what);
    const auto make = [&](auto s) {
      return layer_of<decltype(s)>(shape, Layout::out_in, 0.4, true);
    };
    EXPECT_EQ(check_gradients(make, shape.rows, pass), 4);
  }
}

TEST(PlainLoRA, WithoutTrainingThereIsNoDropout) {
  const auto make = [&](auto s) {
    return layer_of<decltype(s)>(edge_shapes[0], Layout::out_in, 0.4, false);
  };
  EXPECT_EQ(check_gradients(make, 5), 2);
  const LoRALinear<double> with = make(double{}),
                           without = layer_of<double>(edge_shapes[0], Layout::out_in, 0, false);
  const Matrix<double> x = random_matrix(5, 7, "x");
  Matrix<double> y(5, 11), expected(5, 11);
  with.forward(x, y);
  without.forward(x, expected);
  EXPECT_TRUE(same_bits(y, expected));
}

/// Two adapters of other ranks and scales at once, one of them with dropout.
template <class S>
LoRALinear<S> two_adapters() {
  LoRALinear<S> layer(random_matrix<S>(11, 7, "W"));
  add_full_adapter(layer, "first", rank(3, 5, 0.3));
  add_full_adapter(layer, "second", rank(2, -1));
  add_full_adapter(layer, "idle", rank(4, 2));
  layer.adapters().set_active({"second", "first"});
  return layer;
}

TEST(PlainLoRA, GradientsOfSeveralActiveAdapters) {
  for (const bool training : {false, true}) {
    Pass pass;
    pass.training = training;
    EXPECT_EQ(check_gradients([](auto s) { return two_adapters<decltype(s)>(); }, 5, pass), 4);
  }
}

TEST(PlainLoRA, AFrozenTensorGetsNoGradientAndTheOthersAreAsBefore) {
  const auto make = [](auto s) {
    auto layer = two_adapters<decltype(s)>();
    layer.adapters().get("first").A.set_trainable(false);
    layer.adapters().get("second").B.set_trainable(false);
    return layer;
  };
  EXPECT_EQ(check_gradients(make, 5), 2);
  LoRALinear<double> layer = make(double{});
  layer.adapters().set_active({"first", "second"}, false);
  const Matrix<double> x = random_matrix(5, 7, "x"), dy = random_matrix(5, 11, "dy");
  Matrix<double> y(5, 11), dx;
  LoRALinear<double>::Tape tape;
  layer.forward(x, y, &tape);
  layer.backward(x, dy, tape, &dx);
  EXPECT_EQ(layer.adapters().get("first").A.grad.size(), 0);
  EXPECT_EQ(check_gradients(
                [](auto s) {
                  auto frozen = two_adapters<decltype(s)>();
                  frozen.adapters().set_active({"first", "second"}, false);
                  return frozen;
                },
                5),
            0)
      << "dx alone";
}

TEST(PlainLoRA, GradientsAddUpUntilTheyAreZeroedAndDxWhenAsked) {
  for (const double dropout : {0.0, 0.3}) {
    LoRALinear<double> layer = layer_of<double>(edge_shapes[0], Layout::out_in, dropout, true);
    const Matrix<double> x = random_matrix(5, 7, "x"), dy = random_matrix(5, 11, "dy");
    Matrix<double> y(5, 11), dx;
    Pass pass;
    pass.training = true;
    LoRALinear<double>::Tape tape;
    layer.forward(x, y, &tape, pass);
    layer.backward(x, dy, tape, &dx);
    const Matrix<double> once = layer.adapters().get("a").A.grad;
    const Matrix<double> before = random_matrix(5, 7, "dx before");
    Matrix<double> sum = before;
    layer.backward(x, dy, tape, &sum, Accumulate::yes);
    // Each entry of dx is a sum of out + r terms; another order of adding moves it by their
    // roundings.
    EXPECT_TRUE(same_gradient(sum, before + dx, 32 * 0x1.0p-53));
    EXPECT_TRUE(same_gradient(layer.adapters().get("a").A.grad, 2 * once, 32 * 0x1.0p-53));
    layer.backward(x, dy, tape, nullptr);
    EXPECT_TRUE(same_gradient(layer.adapters().get("a").A.grad, 3 * once, 32 * 0x1.0p-53))
        << "without dx";
    zero_grad(layer);
    for (const char* name :
         {"lora_A.a.weight", "lora_B.a.weight", "lora_B.a.bias", "base_layer.bias"}) {
      EXPECT_EQ(parameter_of(layer, name).grad.cwiseAbs().maxCoeff(), 0.0) << name;
    }
  }
}

TEST(PlainLoRA, ScaleIsAlphaOverR) {
  EXPECT_EQ(PlainLoRA::scaling(8, 3), 8.0 / 3.0);
  EXPECT_EQ(PlainLoRA::scaling(-2, 1), -2.0);
  const LoRALinear<double> layer = layer_of<double>(edge_shapes[0], Layout::out_in, 0, false);
  const Adapter<double>& adapter = layer.adapters().get("a");
  const LowRankDelta<double> delta = PlainLoRA::delta(adapter);
  EXPECT_EQ(delta.scale, 5.0 / 3.0);
  EXPECT_EQ(delta.left.data, adapter.B.value.data());
  EXPECT_EQ(delta.right.data, adapter.A.value.data());
}

}  // namespace plain_lora_test
