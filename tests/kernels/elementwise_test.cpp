// The kernels of activations and softmax rows, of every instruction set that this processor has,
// against the same functions in double.
#include <lora/kernels/dispatch.hpp>
#include <lora/kernels/elementwise.hpp>
#include <lora/nn/activations.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "support/instruction_sets.hpp"

namespace elementwise_test {
using namespace lora;
using lora_test::for_each_isa;
constexpr float infinity = std::numeric_limits<float>::infinity();

/// The distance of two neighbouring floats at x, that of denormal numbers at the least.
double ulp(double x) {
  const double smallest = std::numeric_limits<float>::denorm_min();
  if (x == 0) return smallest;
  return std::max(smallest, std::ldexp(1.0, std::ilogb(x) - 23));
}

/// Finite floats of every size and a dense range where the functions bend.
std::vector<float> arguments() {
  std::vector<float> x;
  for (int i = -120000; i <= 120000; ++i) x.push_back(static_cast<float>(i) * 1e-3f);
  for (float size = 1e-40f; size < 1e38f; size *= 1.07f) {
    x.push_back(size);
    x.push_back(-size);
  }
  x.push_back(0.0f);
  x.push_back(-0.0f);
  x.push_back(std::numeric_limits<float>::max());
  x.push_back(std::numeric_limits<float>::lowest());
  return x;
}

struct Case {
  Activation kind;
  kernels::ElementKernel forward, backward;
  /// Units in the last place of |f| and |f'|, of which these have terms of size (1 + |x|).
  double forward_ulps, backward_ulps;
};
std::vector<Case> cases() {
  return {{Activation::sigmoid, kernels::element_kernel<kernels::SigmoidLanes>(),
           kernels::element_kernel<kernels::SigmoidBackwardLanes>(), 4, 6},
          {Activation::silu, kernels::element_kernel<kernels::SiluLanes>(),
           kernels::element_kernel<kernels::SiluBackwardLanes>(), 4, 6},
          {Activation::gelu_tanh, kernels::element_kernel<kernels::GeluTanhLanes>(),
           kernels::element_kernel<kernels::GeluTanhBackwardLanes>(), 6, 12},
          {Activation::gelu, kernels::element_kernel<kernels::GeluLanes>(),
           kernels::element_kernel<kernels::GeluBackwardLanes>(), 6, 12}};
}
/// What the exponent's own rounding costs: e^u has a relative error of |u| / 2²⁴ more for each
/// operation that makes u.
double exponent_of(Activation kind, double x) {
  const double magnitude = std::abs(x);
  if (kind == Activation::gelu) return x < 0 ? x * x / 2 : 0;
  if (kind == Activation::gelu_tanh)
    return x < 0 ? 5 * (1.6 * (magnitude + 0.045 * magnitude * x * x)) : 0;
  return 0;
}
double derivative(Activation kind, double x) {
  Matrix<double> at(1, 1), one(1, 1), dx(1, 1);
  at << x;
  one << 1;
  activation_backward<double>(kind, at, one, dx);
  return dx(0, 0);
}
double value(Activation kind, double x) {
  Matrix<double> at(1, 1), y(1, 1);
  at << x;
  if (kind == Activation::gelu_tanh) {
    // ½ (1 + tanh u) as σ(2u), since near -1 the tanh of double cancels too.
    const double u = 0.7978845608028654 * (x + 0.044715 * x * x * x);
    return x / (1 + std::exp(-2 * u));
  }
  if (kind == Activation::gelu) return x * 0.5 * std::erfc(-x * 0.7071067811865476);
  activation_forward<double>(kind, at, y);
  return y(0, 0);
}

TEST(ElementKernels, ValuesAreWithinSomeUnitsInTheLastPlace) {
  const std::vector<float> x = arguments();
  std::vector<float> y(x.size());
  for_each_isa([&](const char* name) {
    for (const Case& one : cases()) {
      one.forward(static_cast<std::ptrdiff_t>(x.size()), x.data(), x.data(), y.data());
      double worst = 0;
      float worst_at = 0;
      for (std::size_t i = 0; i < x.size(); ++i) {
        const double expected = value(one.kind, x[i]);
        // e⁸⁹ is infinite, so that what is smaller than 89 / e⁸⁹ may be 0, as it is in PyTorch.
        const double unit = std::max(ulp(expected), 3e-37);
        const double bound = one.forward_ulps + exponent_of(one.kind, x[i]);
        const double error = std::abs(y[i] - expected) / (unit * bound);
        if (!(error <= worst)) worst = error, worst_at = x[i];
      }
      EXPECT_LE(worst, 1) << name << " " << activation_name(one.kind) << " at " << worst_at;
    }
  });
}

TEST(ElementKernels, DerivativesAreWithinSomeUnitsInTheLastPlace) {
  const std::vector<float> x = arguments();
  std::vector<float> dx(x.size());
  const std::vector<float> dy(x.size(), -2.0f);
  for_each_isa([&](const char* name) {
    for (const Case& one : cases()) {
      one.backward(static_cast<std::ptrdiff_t>(x.size()), x.data(), dy.data(), dx.data());
      double worst = 0;
      float worst_at = 0;
      for (std::size_t i = 0; i < x.size(); ++i) {
        const double expected = -2 * derivative(one.kind, x[i]);
        // f' is a sum of terms of the size of f(x) / x and cancels where it crosses zero.
        const double terms =
            std::abs(value(one.kind, x[i])) / std::max(1e-3, std::abs(double{x[i]}));
        // In double the reference itself cancels: 1 + erf(x) and 1 - tanh(x)² near -1 and 1.
        const double unit = std::max(ulp(std::max(std::abs(expected), 2 * terms)), 1e-15);
        const double bound =
            one.backward_ulps * (1 + std::abs(double{x[i]})) + 4 * exponent_of(one.kind, x[i]);
        const double error = std::abs(dx[i] - expected) / (unit * bound);
        if (!(error <= worst)) worst = error, worst_at = x[i];
      }
      EXPECT_LE(worst, 1) << name << " " << activation_name(one.kind) << " at " << worst_at;
    }
  });
}

TEST(ElementKernels, InfinitiesAndNaNsGoThrough) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> x = {infinity, -infinity, nan};
  for_each_isa([&](const char* name) {
    for (const Case& one : cases()) {
      std::vector<float> y(3), dx(3);
      one.forward(3, x.data(), x.data(), y.data());
      const bool sigmoid = one.kind == Activation::sigmoid;
      EXPECT_EQ(y[0], sigmoid ? 1 : infinity) << name;
      if (sigmoid) {
        EXPECT_EQ(y[1], 0) << name;
      } else {
        EXPECT_TRUE(std::isnan(y[1])) << name << ": as in PyTorch";
      }
      EXPECT_TRUE(std::isnan(y[2])) << name;
      const std::vector<float> bad = {1, 1, nan}, fine = {-3, 3, 0.5f};
      one.backward(3, fine.data(), bad.data(), dx.data());
      EXPECT_TRUE(std::isfinite(dx[0]) && std::isfinite(dx[1])) << name;
      EXPECT_TRUE(std::isnan(dx[2])) << name << ": a NaN of dy";
    }
  });
}

TEST(ElementKernels, EveryLengthTouchesItsElementsAloneAndMayBeInPlace) {
  for_each_isa([&](const char* name) {
    for (const Case& one : cases()) {
      for (std::ptrdiff_t n = 0; n <= 40; ++n) {
        std::vector<float> x(static_cast<std::size_t>(n) + 3), whole(x.size());
        for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::sin(static_cast<float>(i)) * 3;
        for (std::size_t i = 0; i < x.size(); ++i) one.forward(1, &x[i], &x[i], &whole[i]);
        std::vector<float> y = x;  // in place, one element in from the begin
        one.forward(n, y.data() + 1, y.data() + 1, y.data() + 1);
        for (std::size_t i = 0; i < x.size(); ++i) {
          const bool inside = i >= 1 && i < static_cast<std::size_t>(n) + 1;
          EXPECT_EQ(y[i], inside ? whole[i] : x[i]) << name << " n " << n << " element " << i;
        }
      }
    }
  });
}

TEST(SoftmaxKernels, MatchPlainLoopsForEveryLength) {
  for_each_isa([&](const char* name) {
    const auto with = kernels::softmax_kernels();
    for (std::ptrdiff_t n = 1; n <= 67; ++n) {
      std::vector<float> x(static_cast<std::size_t>(n));
      for (std::size_t i = 0; i < x.size(); ++i)
        x[i] = 20 * std::sin(static_cast<float>(i * i) + static_cast<float>(n));
      const float m = *std::max_element(x.begin(), x.end());
      EXPECT_EQ(with.largest(n, x.data()), m) << name << " n " << n;
      std::vector<float> e(x.size() + 1, -7.0f);
      const double sum = with.exponentials(n, x.data(), m, e.data());
      EXPECT_EQ(e.back(), -7.0f) << name << ": nothing after the last";
      double total = 0;
      for (std::size_t i = 0; i < x.size(); ++i) {
        const double expected = std::exp(static_cast<double>(x[i] - m));
        EXPECT_LE(std::abs(e[i] - expected), 2 * ulp(expected)) << name << " at " << x[i] - m;
        total += e[i];
      }
      EXPECT_NEAR(sum, total, 1e-14 * total) << name;
      EXPECT_NEAR(with.exponentials(n, x.data(), m, nullptr), sum, 0) << name << ": not stored";
      with.scale_and_shift(n, 0.25f, 2.0f, e.data());
      EXPECT_EQ(e.back(), -7.0f) << name;
      for (std::size_t i = 0; i < x.size(); ++i) {
        const double expected = 0.25 * std::exp(static_cast<double>(x[i] - m)) - 2;
        EXPECT_NEAR(e[i], expected, 3 * ulp(2.0)) << name;
      }
    }
  });
}

TEST(SoftmaxKernels, ANaNSpoilsTheSumAndMinusInfinityAddsNothing) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for_each_isa([&](const char* name) {
    const auto with = kernels::softmax_kernels();
    for (std::size_t at = 0; at < 35; ++at) {
      std::vector<float> x(35, 1.0f);
      x[at] = -infinity;
      EXPECT_EQ(with.exponentials(35, x.data(), with.largest(35, x.data()), nullptr), 34) << name;
      x[at] = nan;
      EXPECT_TRUE(std::isnan(with.exponentials(35, x.data(), with.largest(35, x.data()), nullptr)))
          << name << " at " << at;
      x[at] = infinity;
      EXPECT_TRUE(std::isnan(with.exponentials(35, x.data(), with.largest(35, x.data()), nullptr)))
          << name << " at " << at;
    }
  });
}

}  // namespace elementwise_test
