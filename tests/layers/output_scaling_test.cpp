// The gradients and the numbers of what scales a layer's output are in dora_test.
#include <lora/layers/lora_linear.hpp>
#include <lora/layers/output_scaling.hpp>

#include <gtest/gtest.h>

#include "layers/layer_tools.hpp"

namespace output_scaling_test {
using namespace lora;
using namespace lora_test;

LoRALinear<double> layer_with(const std::vector<AdapterVariant>& variants) {
  LoRALinear<double> layer(random_matrix(5, 4, "W"));
  std::vector<std::string> names;
  for (const AdapterVariant& variant : variants) {
    AdapterOptions options = rank(2);
    options.variant = variant;
    names.push_back("adapter " + std::to_string(names.size()));
    add_full_adapter(layer, names.back(), options);
    auto& adapter = layer.adapters().get(names.back());
    if (adapter.scales_output()) adapter.own[0].parameter.value *= 1.5;
  }
  layer.adapters().set_active(names);
  return layer;
}

TEST(OutputScaling, TakesGradientsBackTheLastAdapterFirst) {
  LoRALinear<double> layer = layer_with({PlainLoRA{}, DoRA{}, PlainLoRA{}, DoRA{}});
  const Matrix<double> x = random_matrix(3, 4, "x"), dy = random_matrix(3, 5, "dy");
  Matrix<double> y(3, 5);
  LoRALinear<double>::Tape tape;
  layer.forward(x, y, &tape);
  std::vector<Matrix<double>> c;
  for (const auto& adapter : layer.adapters().all()) {
    c.push_back(Matrix<double>::Ones(1, 5));
    adapter.if_scales_output(
        [&](const auto& one) { c.back() = one.output_scale(adapter, layer.base_map()); });
  }
  const View<double> base =
      scaled_gradients<double>(layer.adapters(), tape, 0, View<double>(dy), {});
  EXPECT_TRUE(tape.spent);
  const auto values = [](const View<double>& view) {
    return Matrix<double>(Eigen::Map<const Matrix<double>>(view.data, view.rows, view.cols));
  };
  Matrix<double> expected = dy;
  for (std::size_t i = 4; i-- > 0;) {
    EXPECT_LE((values(tape.adapters[i].dy) - expected).norm(), 1e-15) << i;
    expected = expected * c[i].row(0).asDiagonal();
    EXPECT_LE((values(tape.adapters[i].g) - expected).norm(), 1e-15) << i;
  }
  EXPECT_LE((values(base) - expected).norm(), 1e-15);
}

TEST(OutputScaling, LeavesPlainAdaptersAlone) {
  LoRALinear<double> layer = layer_with({PlainLoRA{}, RsLoRA{}});
  const Matrix<double> x = random_matrix(3, 4, "x"), dy = random_matrix(3, 5, "dy");
  Matrix<double> y(3, 5), dx;
  LoRALinear<double>::Tape tape;
  layer.forward(x, y, &tape);
  const Matrix<double> before = y;
  for (const auto& adapter : layer.adapters().all())
    scale_output<double>(adapter, layer.base_map(), x, {}, true, tape.adapters[0], y);
  EXPECT_TRUE(same_bits(y, before));
  EXPECT_EQ(scaled_gradients<double>(layer.adapters(), tape, 0, View<double>(dy), {}).data,
            dy.data());
  layer.backward(x, dy, tape, &dx);
  EXPECT_NO_THROW(layer.backward(x, dy, tape, &dx)) << "a tape of plain adapters serves again";
}

TEST(OutputScaling, ATapeServesAgainAfterAnotherForward) {
  LoRALinear<double> layer = layer_with({DoRA{}});
  const Matrix<double> x = random_matrix(3, 4, "x"), dy = random_matrix(3, 5, "dy");
  Matrix<double> y(3, 5), dx;
  LoRALinear<double>::Tape tape;
  for (int step = 0; step < 2; ++step) {
    layer.forward(x, y, &tape);
    layer.backward(x, dy, tape, &dx);
    EXPECT_THROW(layer.backward(x, dy, tape, &dx), Error);
  }
}

}  // namespace output_scaling_test
