// How adapters begin: moments and bounds against the formulas and against one draw of PEFT's, and
// streams of their own.
#include <lora/layers/lora_conv2d.hpp>
#include <lora/layers/lora_embedding.hpp>
#include <lora/layers/lora_linear.hpp>

#include <gtest/gtest.h>

#include <map>
#include <sstream>

#include "layers/layer_tools.hpp"
#include "support/golden.hpp"

namespace adapter_init_test {
using namespace lora;
using namespace lora_test;

double largest(const Matrix<double>& m) { return m.cwiseAbs().maxCoeff(); }
double deviation(const Matrix<double>& m) {
  return std::sqrt((m.array() - m.mean()).square().sum() / static_cast<double>(m.size() - 1));
}
double root(Index n) { return std::sqrt(static_cast<double>(n)); }

AdapterOptions options_of(AdapterInit init, Index r, std::uint64_t seed = 1,
                          const std::string& path = "layer") {
  AdapterOptions options = rank(r);
  options.init = init;
  options.seed = seed;
  options.path = path;
  return options;
}
Adapter<double> linear_adapter(Index in, Index out, const AdapterOptions& options,
                               const std::string& name = "default") {
  LoRALinear<double> layer(Matrix<double>(Matrix<double>::Zero(out, in)));
  layer.add_adapter(name, options);
  return layer.adapters().get(name);
}

/// Uniform in ±bound: all within, the largest near it, and mean and deviation within five of their
/// standard errors (σ/√n, and for a uniform σ̂ the relative √(1/5)/√n).
void expect_uniform(const Matrix<double>& m, double bound) {
  EXPECT_LE(largest(m), bound);
  EXPECT_GE(largest(m), bound * (1 - 20 / static_cast<double>(m.size())))
      << "smaller once in e^20 draws";
  const double sigma = bound / std::sqrt(3.0);
  EXPECT_LE(std::abs(m.mean()), 5 * sigma / root(m.size()));
  EXPECT_LE(std::abs(deviation(m) - sigma), 5 * sigma * std::sqrt(0.2) / root(m.size()));
}
/// Normal: mean, deviation (its relative standard error is 1/√2n), the fourth moment, and a largest
/// element that fits.
void expect_normal(const Matrix<double>& m, double sigma) {
  const double n = static_cast<double>(m.size());
  EXPECT_LE(std::abs(m.mean()), 5 * sigma / std::sqrt(n));
  EXPECT_LE(std::abs(deviation(m) - sigma), 5 * sigma / std::sqrt(2 * n));
  EXPECT_LE(std::abs(m.array().pow(4).mean() / std::pow(sigma, 4) - 3), 5 * std::sqrt(96 / n));
  EXPECT_LE(largest(m), 6.5 * sigma);
  EXPECT_GE(largest(m), 2.5 * sigma);
}

TEST(AdapterInit, Distributions) {
  const Index in = 300, out = 170, r = 8;
  const auto adapter = [&](AdapterInit init) {
    return linear_adapter(in, out, options_of(init, r));
  };
  const Adapter<double> kaiming = adapter(AdapterInit::kaiming_uniform),
                        torch = adapter(AdapterInit::torch_default),
                        gaussian = adapter(AdapterInit::gaussian);
  expect_uniform(kaiming.A.value, 1 / root(in));
  expect_uniform(torch.A.value, 1 / root(in));
  expect_uniform(torch.B.value, 1 / root(r));
  expect_normal(gaussian.A.value, 1.0 / static_cast<double>(r));
  EXPECT_EQ(largest(kaiming.B.value), 0);
  EXPECT_EQ(largest(gaussian.B.value), 0);
}

// A = (right even)ᵀ with right (D, r/2) normal of deviation 0.1 and orthonormal rows of even, so
// that |A|² = |right|².
TEST(AdapterInit, OrthogonalHalves) {
  for (const auto& [in, out, r] : {std::array<Index, 3>{300, 170, 8}, {7, 5, 12}, {9, 4, 2}}) {
    const Adapter<double> adapter = linear_adapter(in, out, options_of(AdapterInit::orthogonal, r));
    const Matrix<double>&a = adapter.A.value, &b = adapter.B.value;
    ASSERT_EQ(a.rows(), r);
    ASSERT_EQ(b.cols(), r);
    EXPECT_GT(a.norm(), 0);
    EXPECT_GT(b.norm(), 0);
    EXPECT_LE((b * a).norm(), 10 * static_cast<double>(r) * 0x1.0p-53 * b.norm() * a.norm())
        << "B A = 0";
    for (const auto& [m, n] : {std::pair<const Matrix<double>&, Index>{a, in}, {b, out}}) {
      const double count = static_cast<double>(n * r / 2);
      EXPECT_LE(std::abs(m.squaredNorm() / 0.01 - count), 5 * std::sqrt(2 * count))
          << "a χ² of that many squares";
    }
    const Matrix<double> gram =
        a * a.transpose();  // of rank r/2 at most: its trace is spread over half of the directions
    EXPECT_GE(gram.squaredNorm() * static_cast<double>(r / 2),
              gram.trace() * gram.trace() * (1 - 1e-12));
  }
}

AdapterInit init_of(const Json& asked) {
  if (asked == Json(true)) return AdapterInit::kaiming_uniform;
  if (asked == Json(false)) return AdapterInit::torch_default;
  if (asked == Json("gaussian")) return AdapterInit::gaussian;
  if (asked == Json("orthogonal")) return AdapterInit::orthogonal;
  throw std::runtime_error("unknown init");
}

/// A row of init.json about "conv2d 20->14 3x3".
void check_drawn_conv2d(const Json& row) {
  std::istringstream words(row.at("layer").get<std::string>());
  std::string kind;
  Index in = 0, out = 0, height = 0, width = 0;
  char between = 0;
  words >> kind >> in >> between >> between >> out >> height >> between >> width;
  ASSERT_TRUE(words && kind == "conv2d");
  const auto number = [&](const char* field) { return row.at(field).get<double>(); };
  const Index fan_in = in * height * width;
  LoRAConv2d<double> conv(Matrix<double>(Matrix<double>::Zero(out, fan_in)),
                          {{height, width}, {1, 1}, {1, 1}, {1, 1}, 1});
  conv.add_adapter("default", rank(row.value("r", Index{8})));
  const Adapter<double>& adapter = conv.adapters().get("default");
  const Matrix<double>& a = adapter.A.value;
  expect_uniform(a, 1 / root(fan_in));
  EXPECT_LE(number("A_max"), 1 / root(fan_in) * (1 + 1e-6)) << "their draw was in float";
  EXPECT_LE(std::abs(number("A_std") / deviation(a) - 1), 10 * std::sqrt(0.2) / root(a.size()));
  EXPECT_EQ(largest(adapter.B.value), number("B_max"));
}

void check_drawn_linear(const Json& row) {
  const auto number = [&](const char* field) { return row.at(field).get<double>(); };
  const AdapterInit init = init_of(row.at("init_lora_weights"));
  const Index in = row.at("D").get<Index>(), out = row.at("O").get<Index>(),
              r = row.at("r").get<Index>();
  const Adapter<double> adapter = linear_adapter(in, out, options_of(init, r));
  const Matrix<double>&a = adapter.A.value, &b = adapter.B.value;
  const double d_bound = 1 / root(in) * (1 + 1e-6), r_bound = 1 / root(r) * (1 + 1e-6);
  // Both draws lie within five standard errors, at most 1/√n for n independent numbers
  // (orthogonal: n/2), of one value.
  const double spread = 10 / std::min(root(a.size() / 2), root(b.size() / 2));
  EXPECT_LE(std::abs(number("A_std") / deviation(a) - 1), spread);
  EXPECT_LE(std::abs(number("A_mean")), 5 * number("A_std") / root(a.size() / 2));
  EXPECT_LE(std::abs(number("A_max") / largest(a) - 1), 0.35) << "normal extremes wander";
  EXPECT_EQ(number("B_max") == 0, largest(b) == 0);
  if (largest(b) != 0) {
    EXPECT_LE(std::abs(number("B_std") / deviation(b) - 1), spread);
  }
  if (init == AdapterInit::kaiming_uniform || init == AdapterInit::torch_default) {
    EXPECT_LE(number("A_max"), d_bound);
    EXPECT_LE(largest(a), d_bound);
  }
  const double ba = (b * a).norm();
  if (init == AdapterInit::torch_default) {
    EXPECT_LE(number("B_max"), r_bound);
    EXPECT_LE(std::abs(ba / number("BA_norm") - 1), spread);
  } else {
    EXPECT_LE(ba, 1e-13);
    // Theirs may be of float matrices.
    const double norms = number("A_std") * root(a.size()) * number("B_std") * root(b.size());
    EXPECT_LE(number("BA_norm"), 10 * static_cast<double>(r) * 0x1p-24 * norms);
  }
}

TEST(AdapterInit, GoldenDrawsOfPeftHaveOurMoments) {
  for_each_golden_case("init", [](const GoldenCase& one) {
    std::map<std::string, int> rows;
    for (const Json& row : one.json()) {
      const std::string layer = row.at("layer").get<std::string>();
      SCOPED_TRACE(row.dump());
      ++rows[layer.substr(0, layer.find(' '))];
      if (layer == "linear") {
        check_drawn_linear(row);
      } else if (layer == "embedding") {  // the size of that table is not told
        EXPECT_EQ(row.at("A_max").get<double>(), 0);
        EXPECT_LE(std::abs(row.at("B_std").get<double>() - 1), 0.1);
      } else {
        check_drawn_conv2d(row);
      }
    }
    for (const char* kind : {"linear", "embedding", "conv2d"}) EXPECT_GE(rows[kind], 1) << kind;
  });
}

TEST(AdapterInit, EmbeddingsHaveTheRolesReversed) {
  for (const AdapterInit init :
       {AdapterInit::kaiming_uniform, AdapterInit::gaussian, AdapterInit::torch_default}) {
    LoRAEmbedding<double> layer(Matrix<double>(Matrix<double>::Zero(230, 170)));
    layer.add_adapter("a", options_of(init, 8));
    const Adapter<double>& adapter = layer.adapters().get("a");
    expect_normal(adapter.B.value, 1);
    if (init == AdapterInit::torch_default) {
      expect_normal(adapter.A.value, 1);
    } else {
      EXPECT_EQ(largest(adapter.A.value), 0);
    }
  }
}

TEST(AdapterInit, AConvolutionsFanInIsChannelsTimesKernelAndItsGroupsShareTheRank) {
  LoRAConv2d<double> conv(Matrix<double>(Matrix<double>::Zero(48, 8 * 9)),
                          {{3, 3}, {1, 1}, {1, 1}, {1, 1}, 4});
  conv.add_adapter("a", options_of(AdapterInit::torch_default, 16));
  const Adapter<double>& adapter = conv.adapters().get("a");
  ASSERT_EQ(adapter.B.value.cols(), 4);
  expect_uniform(adapter.A.value, 1 / root(32 * 9));
  expect_uniform(adapter.B.value, 1 / root(4));  // PyTorch's fan in of a convolution with groups
}

TEST(AdapterInit, WhatIsNotDefinedIsRefused) {
  Matrix<double> a(3, 5), b(4, 3), grouped(4, 1);
  const RandomStream one(1), two(2);
  EXPECT_TRUE(
      throws<ConfigError>([&] { initialize_adapter(AdapterInit::orthogonal, 5, a, b, one, two); },
                          {"init_lora_weights \"orthogonal\": r is 3, expected an even number"}));
  Matrix<double> even(2, 5);
  EXPECT_TRUE(throws<ConfigError>(
      [&] { initialize_adapter(AdapterInit::orthogonal, 5, even, grouped, one, two); },
      {"init_lora_weights \"orthogonal\" is not defined for a convolution with groups"}));
  EXPECT_TRUE(throws<ConfigError>(
      [&] { initialize_embedding_adapter(AdapterInit::orthogonal, a, b, one, two); },
      {"init_lora_weights \"orthogonal\" is not defined for an embedding"}));
}

double correlation(const Matrix<double>& x, const Matrix<double>& y) {
  const Index n = std::min(x.size(), y.size());
  const Eigen::Map<const Eigen::ArrayXd> a(x.data(), n), b(y.data(), n);
  return ((a - a.mean()) * (b - b.mean())).mean() / (deviation(x) * deviation(y));
}

TEST(AdapterInit, EveryTensorHasAStreamOfItsOwn) {
  const Index in = 300, out = 170, r = 8;
  for (const AdapterInit init :
       {AdapterInit::torch_default, AdapterInit::gaussian, AdapterInit::orthogonal}) {
    std::vector<Matrix<double>> tensors;
    for (const auto& [name, path, seed] : {std::tuple{"a", "layers.0.q", 1},
                                           {"a", "layers.1.q", 1},
                                           {"a", "layers.0.k", 1},
                                           {"a", "layers.0.q", 2},
                                           {"b", "layers.0.q", 1},
                                           {"a", "", 0}}) {
      const Adapter<double> adapter = linear_adapter(
          in, out, options_of(init, r, static_cast<std::uint64_t>(seed), path), name);
      tensors.push_back(adapter.A.value);
      if (init != AdapterInit::gaussian) tensors.push_back(adapter.B.value);
    }
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      for (std::size_t j = 0; j < i; ++j) {
        // Orthogonal tensors have half as many independent numbers as elements.
        const double bound = 5 / root(std::min(tensors[i].size(), tensors[j].size()) / 2);
        EXPECT_LE(std::abs(correlation(tensors[i], tensors[j])), bound) << i << " and " << j;
      }
    }
  }
}

TEST(AdapterInit, SeedPathAndNameAloneDecide) {
  const AdapterOptions options = options_of(AdapterInit::torch_default, 4, 7, "layers.3.q_proj");
  const Adapter<double> expected = linear_adapter(30, 20, options);
  LoRALinear<double> layer(Matrix<double>(Matrix<double>::Zero(20, 30)));
  layer.add_adapter("before", rank(9));
  layer.add_adapter("default", options);
  EXPECT_TRUE(same_bits(layer.adapters().get("default").A.value, expected.A.value));
  EXPECT_TRUE(same_bits(layer.adapters().get("default").B.value, expected.B.value));
  LoRALinear<float> narrow(Matrix<float>(Matrix<float>::Zero(20, 30)));
  narrow.add_adapter("default", options);
  EXPECT_TRUE(same_bits(narrow.adapters().get("default").A.value,
                        Matrix<float>(expected.A.value.cast<float>())));
}

}  // namespace adapter_init_test
