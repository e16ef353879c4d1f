// What a model must offer: the docstring's example as it stands there, and what is refused.
#include <lora/lora.hpp>

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "layers/layer_tools.hpp"

// clang-format off
    struct TwoLayers {
      using Scalar = float;
      lora::LoRALinear<float> up, down;
      template <class Fn> void for_each_module(const lora::NamePath& prefix, Fn&& fn) {
        fn(lora::NamePath(prefix, "up"), up);
        fn(lora::NamePath(prefix, "down"), down);
      }
      template <class Fn> void for_each_parameter(const lora::NamePath& prefix, Fn&& fn) {
        for_each_module(prefix, [&](const lora::NamePath& name, auto& layer) {
          layer.for_each_parameter(name, fn);
        });
      }
    };
// clang-format on

namespace adaptable_test {
using namespace lora;
using namespace lora_test;

static_assert(Adaptable<TwoLayers>);
static_assert(Adaptable<MLP<float>>);
static_assert(Adaptable<MLP<double>>);

struct NoScalar {
  template <class Fn>
  void for_each_module(const NamePath&, Fn&&) {}
  template <class Fn>
  void for_each_parameter(const NamePath&, Fn&&) {}
};
struct NoModules {
  using Scalar = float;
  template <class Fn>
  void for_each_parameter(const NamePath&, Fn&&) {}
};
struct NoParameters {
  using Scalar = float;
  template <class Fn>
  void for_each_module(const NamePath&, Fn&&) {}
};
struct Complete : NoModules {
  template <class Fn>
  void for_each_module(const NamePath&, Fn&&) {}
};
struct NotCopyable : Complete {
  NotCopyable(NotCopyable&&) = default;
};
static_assert(Adaptable<Complete>);
static_assert(!Adaptable<NoScalar>);
static_assert(!Adaptable<NoModules>);
static_assert(!Adaptable<NoParameters>);
static_assert(!Adaptable<NotCopyable>);
static_assert(!Adaptable<int>);

static_assert(AdapterLayer<LoRALinear<float>>);
static_assert(AdapterLayer<LoRALinear<double>>);
static_assert(AdapterLayer<LoRAEmbedding<float>>);
static_assert(AdapterLayer<LoRAConv2d<float>>);
static_assert(!AdapterLayer<Parameter<float>>);
static_assert(!AdapterLayer<MLP<float>>);

/// A text without blanks.
std::string squeezed(const std::string& text) {
  std::string bare;
  for (const char c : text) {
    if (c != ' ' && c != '\n') bare += c;
  }
  return bare;
}
std::string read(const std::string& path) {
  std::ifstream file(std::string(LORA_SOURCE_DIR) + path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

TEST(Adaptable, TheDocstringsExampleIsTheOneCompiledHere) {
  std::istringstream header(read("/include/lora/adapters/adaptable.hpp"));
  std::string example, line;
  int lines = 0;
  while (std::getline(header, line)) {
    if (!line.starts_with("///     ")) continue;
    example += line.substr(3) + "\n";
    ++lines;
  }
  EXPECT_GE(lines, 10);
  EXPECT_NE(squeezed(read("/tests/adapters/adaptable_test.cpp")).find(squeezed(example)),
            std::string::npos)
      << example;
}

TEST(Adaptable, TheExampleIsAdaptedTrainedAndMerged) {
  TwoLayers layers;
  layers.up = LoRALinear<float>(random_matrix<float>(5, 3, "up"));
  layers.down = LoRALinear<float>(random_matrix<float>(2, 5, "down"));
  LoRAConfig config;
  config.r = 2;
  config.target_modules = {"up", "down"};
  LoRAModel model(layers, config);
  const Matrix<float> x = random_matrix<float>(8, 3, "x"),
                      target = random_matrix<float>(8, 2, "target");
  Matrix<float> h(8, 5), y(8, 2), dy(8, 2), dh;
  LoRALinear<float>::Tape up, down;
  AdamW<float> optimizer({.lr = 0.05, .weight_decay = 0.0});
  double first = 0, last = 0;
  for (int step = 0; step < 100; ++step) {
    zero_grad(model);
    model.base().up.forward(x, h, &up);
    model.base().down.forward(h, y, &down);
    last = mse_loss<float>(y, target, dy);
    if (step == 0) first = last;
    model.base().down.backward(h, dy, down, &dh);
    model.base().up.backward(x, dh, up, nullptr);
    optimizer.step(model);
  }
  EXPECT_LT(last, 0.5 * first);
  const TwoLayers merged = model.merge_and_unload();
  Matrix<float> merged_y(8, 2);
  merged.up.forward(x, h);
  merged.down.forward(h, merged_y);
  model.base().up.forward(x, h);
  model.base().down.forward(h, y);
  // Sums of at most 5 + 2 products in each of two layers, whose terms may be larger than their sum.
  EXPECT_LE((merged_y - y).cwiseAbs().maxCoeff(),
            2 * 20 * 7 * 0x1.0p-24f * y.cwiseAbs().maxCoeff());
}

struct Mixed {
  using Scalar = float;
  LoRALinear<float> first{Matrix<float>(1, 1)}, second{Matrix<float>(1, 1)};
  int other = 0;
  template <class Fn>
  void for_each_module(const NamePath& prefix, Fn&& fn) {
    fn(NamePath(prefix, "second"), second);
    fn(NamePath(prefix, "other"), other);
    fn(NamePath(prefix, "first"), first);
  }
  template <class Fn>
  void for_each_parameter(const NamePath&, Fn&&) {}
};
TEST(Adaptable, LayersAreVisitedInTheModelsOrderAndOthersPassedOver) {
  Mixed model;
  std::vector<std::string> names;
  for_each_adapter_layer(model,
                         [&](const NamePath& name, LoRALinear<float>&) { names.push_back(name); });
  EXPECT_EQ(names, (std::vector<std::string>{"second", "first"}));
}

TEST(Adaptable, BiasNames) {
  EXPECT_TRUE(is_bias_name("bias"));
  EXPECT_TRUE(is_bias_name("layers.0.bias"));
  EXPECT_FALSE(is_bias_name("layers.0.weight"));
  EXPECT_FALSE(is_bias_name("rebias"));
  EXPECT_FALSE(is_bias_name("bias.weight"));
  EXPECT_FALSE(is_bias_name(""));
}

}  // namespace adaptable_test
