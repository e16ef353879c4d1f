#include <lora/optim/clip_grad.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "optim/toy_model.hpp"
#include "support/allocations.hpp"

using lora::ClipOptions;
using lora::Index;
using lora::Matrix;
using lora::NonFinite;
using lora_test::draw_gradients;
using lora_test::three_tensors;
using lora_test::ToyModel;

namespace clip_grad_test {

const double infinity = std::numeric_limits<double>::infinity();

template <class S>
void clip_case(const lora::SafetensorsFile& file, const lora::Json& one) {
  const std::string key = std::to_string(one.at("case").get<int>()) + ".";
  ToyModel<S> model;
  Index terms = 0;
  for (int i = 0; file.contains(key + lora_test::tensor_name('g', i)); ++i) {
    const auto g = file.matrix<S>(key + lora_test::tensor_name('g', i));
    model.add(std::to_string(i), Matrix<S>::Zero(g.rows(), g.cols())).grad = g;
    terms += g.size();
  }
  ASSERT_GE(terms, 1) << key;
  const auto& type = one.at("norm_type");
  ClipOptions options;
  options.norm_type = type.is_string() ? infinity : type.get<double>();
  const double total = one.at("total_norm");
  // The norm: that many terms in double of gradients that were rounded to S; the factor's division
  // and product besides.
  const double unit = std::numeric_limits<S>::epsilon() / 2,
               bound = 4 * unit + static_cast<double>(terms + 2) * 0x1p-53;
  const double norm = lora::clip_grad_norm(model, one.at("max_norm").get<double>(), options);
  EXPECT_LE(std::abs(norm - total), bound * total) << key;
  for (auto& [i, p] : model.list) {
    const auto expected = file.matrix<double>(key + "clipped" + i);
    ASSERT_EQ(p.size(), expected.size());
    for (Index k = 0; k < expected.size(); ++k) {
      const double actual = static_cast<double>(p.grad.data()[k]);
      EXPECT_LE(std::abs(actual - expected.data()[k]), 2 * bound * std::abs(expected.data()[k]))
          << key;
    }
  }
}

TEST(ClipGradNorm, EveryGoldenCaseInBothPrecisions) {
  lora_test::for_each_golden_case("clip", [](const lora_test::GoldenCase& all) {
    const auto file = all.tensors();
    ASSERT_FALSE(all.at("clips").empty());
    for (const auto& one : all.at("clips")) {
      clip_case<float>(file, one);
      clip_case<double>(file, one);
    }
  });
}

TEST(GradNorm, NormsAgainstTheirDefinition) {
  auto model = three_tensors<float>();
  draw_gradients(model, 0);
  for (const double p : {0.5, 1.0, 2.0, 3.0, infinity}) {
    long double sum = 0, largest = 0;
    Index n = 0;
    for (auto& [name, q] : model.list) {
      for (Index k = 0; k < q.size(); ++k, ++n) {
        const long double x = std::abs(static_cast<long double>(q.grad.data()[k]));
        sum += std::pow(x, static_cast<long double>(p));
        largest = std::max(largest, x);
      }
    }
    const double expected = static_cast<double>(
        std::isinf(p) ? largest : std::pow(sum, 1 / static_cast<long double>(p)));
    EXPECT_LE(std::abs(lora::grad_norm(model, p) - expected),
              expected * static_cast<double>(n) * 0x1p-53 * 2 / std::min(p, 1.0))
        << p;
  }
}

TEST(GradNorm, PerParameterNormsAndFrozenOnes) {
  auto model = three_tensors<float>();
  draw_gradients(model, 0);
  model["t1"].set_trainable(false);
  double squares = 0;
  std::string names;
  lora::for_each_grad_norm(model, [&](const std::string& name, double norm) {
    names += name + " ";
    squares += norm * norm;
    EXPECT_LE(std::abs(norm - model[name].grad.cast<double>().norm()), norm * 200 * 0x1p-53);
  });
  EXPECT_EQ(names, "t0 t2 ");
  EXPECT_LE(std::abs(lora::grad_norm(model) - std::sqrt(squares)),
            std::sqrt(squares) * 8 * 0x1p-53);
  lora::clip_grad_norm(model, 1e-3);
  EXPECT_EQ(model["t1"].grad.size(), 0);
  ToyModel<float> nothing;
  EXPECT_EQ(lora::clip_grad_norm(nothing, 1.0), 0.0);
}

TEST(GradNorm, TheSumsOfFloatsAreDouble) {
  ToyModel<float> model;
  model.add("large", Matrix<float>::Zero(1, 3))
      .grad.setConstant(1e30f);  // its square is past the largest float
  EXPECT_LE(std::abs(lora::grad_norm(model) - std::sqrt(3.0) * 1e30f), 1e30 * 0x1p-50);
}

TEST(ClipGradNorm, ASmallGradientKeepsItsBytes) {
  auto model = three_tensors<float>();
  draw_gradients(model, 0);
  const auto before = model;
  lora::clip_grad_norm(model, infinity);
  lora::clip_grad_norm(model, lora::grad_norm(model) + 1e-3);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_TRUE(lora_test::same_bytes(before.list[i].second.grad, model.list[i].second.grad));
  }
}

// PyTorch multiplies with max_norm / (norm + 1e-6) whatever it is.
TEST(ClipGradNorm, NonFiniteAsPyTorch) {
  for (const double p : {1.0, 2.0, 3.0, infinity}) {
    auto model = three_tensors<float>();
    draw_gradients(model, 0);
    model["t1"].grad(0, 2) = -std::numeric_limits<float>::infinity();
    EXPECT_FALSE(lora::gradients_finite(model));
    EXPECT_EQ(lora::clip_grad_norm(model, 1.0, {p, NonFinite::scale}), infinity) << p;
    EXPECT_TRUE(std::isnan(model["t1"].grad(0, 2)));
    EXPECT_EQ(model["t1"].grad(0, 1), 0);
    EXPECT_EQ(model["t2"].grad.cwiseAbs().maxCoeff(), 0);

    for (const Index at : {0, 8, 140, 142}) {
      draw_gradients(model, 0);
      model["t2"].grad.data()[at] = std::numeric_limits<float>::quiet_NaN();
      EXPECT_TRUE(std::isnan(lora::clip_grad_norm(model, 1.0, {p, NonFinite::scale}))) << p;
      EXPECT_TRUE(std::isnan(model["t0"].grad(0, 0)));
    }
  }
}

TEST(ClipGradNorm, NonFiniteRefusedOnRequestWithNothingChanged) {
  auto model = three_tensors<float>();
  draw_gradients(model, 0);
  EXPECT_TRUE(lora::gradients_finite(model));
  model["t1"].grad(0, 6) = std::numeric_limits<float>::quiet_NaN();
  model["t2"].grad(0, 0) = std::numeric_limits<float>::infinity();
  const auto before = model;
  EXPECT_MESSAGE(
      lora::Error, lora::clip_grad_norm(model, 1.0, {2, NonFinite::refuse}),
      "clip_grad_norm: the norm of the gradients is nan, expected a finite number; the first "
      "non-finite gradient is that of t1");
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_TRUE(lora_test::same_bytes(before.list[i].second.grad, model.list[i].second.grad));
  }
  ToyModel<double> large;
  large.add("w", Matrix<double>::Zero(1, 2)).grad.setConstant(1e200);
  EXPECT_MESSAGE(lora::Error, lora::clip_grad_norm(large, 1.0, {2, NonFinite::refuse}),
                 "no gradient is non-finite, their sum overflows");
  EXPECT_EQ(lora::clip_grad_norm(large, 1.0, {infinity, NonFinite::refuse}), 1e200);
}

TEST(ClipGradNorm, AllocatesNothing) {
  LORA_NEEDS_ALLOCATION_COUNTS();
  auto model = three_tensors<float>();
  draw_gradients(model, 0);
  lora_test::AllocationCounter counter;
  const double norm = lora::clip_grad_norm(model, 0.1);
  const bool finite = lora::gradients_finite(model);
  lora::for_each_grad_norm(model, [](const std::string&, double) {});
  EXPECT_EQ(counter.stop().calls, 0u);
  EXPECT_GT(norm, 0.1);
  EXPECT_TRUE(finite);
}

TEST(ClipGradNormErrors, Options) {
  auto model = three_tensors<float>();
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_MESSAGE(lora::ConfigError, lora::clip_grad_norm(model, -1),
                 "clip_grad_norm: max_norm is -1, expected a number >= 0");
  EXPECT_MESSAGE(lora::ConfigError, lora::clip_grad_norm(model, nan), "max_norm is nan");
  EXPECT_MESSAGE(lora::ConfigError, lora::clip_grad_norm(model, 1, {0, NonFinite::scale}),
                 "clip_grad_norm: norm_type is 0, expected a number > 0 or infinity");
  EXPECT_MESSAGE(lora::ConfigError, lora::grad_norm(model, nan), "grad_norm: norm_type is nan");
  EXPECT_MESSAGE(lora::ConfigError,
                 lora::for_each_grad_norm(
                     model, [](auto&, double) {}, -2),
                 "for_each_grad_norm: norm_type is -2");
}

}  // namespace clip_grad_test
