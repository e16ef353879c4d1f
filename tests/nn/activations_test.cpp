#include <lora/nn/activations.hpp>

#include <support/allocations.hpp>
#include <support/golden.hpp>
#include <support/gradcheck.hpp>
#include <support/messages.hpp>

#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace activations_test {
using namespace lora;
using lora_test::Complex;
using lora_test::message_of;
using lora_test::random_matrix;

constexpr double u = 0x1.0p-53;
constexpr double infinity = std::numeric_limits<double>::infinity();
const double nan = std::numeric_limits<double>::quiet_NaN();

const std::vector<Activation> all{Activation::identity,  Activation::relu, Activation::gelu,
                                  Activation::gelu_tanh, Activation::silu, Activation::sigmoid,
                                  Activation::tanh};

template <class S>
Matrix<S> forward(Activation kind, const Matrix<S>& x) {
  Matrix<S> y(x.rows(), x.cols());
  activation_forward<S>(kind, x, y);
  return y;
}
template <class S>
Matrix<S> backward(Activation kind, const Matrix<S>& x, const Matrix<S>& dy) {
  Matrix<S> dx(x.rows(), x.cols());
  activation_backward<S>(kind, x, dy, dx);
  return dx;
}
double value(Activation kind, double x) {
  return forward<double>(kind, Matrix<double>::Constant(1, 1, x))(0);
}
double slope(Activation kind, double x, double dy = 1) {
  return backward<double>(kind, Matrix<double>::Constant(1, 1, x),
                          Matrix<double>::Constant(1, 1, dy))(0);
}

// A few roundings of numbers of the size of x, and of 1 where 1 + erf or 1 + tanh cancels. NaN
// fails.
template <class S>
void expect_near_each(const Matrix<S>& got, const Matrix<double>& expected, const Matrix<double>& x,
                      double unit, const std::string& what) {
  ASSERT_EQ(got.size(), expected.size());
  for (Index i = 0; i < x.size(); ++i) {
    EXPECT_LE(std::abs(double(got.data()[i]) - expected.data()[i]),
              8 * unit * (1 + std::abs(x.data()[i])))
        << what << " at x = " << x.data()[i];
  }
}

TEST(Activations, GoldenValuesAndDerivatives) {
  const std::vector<std::pair<const char*, Activation>> golden{
      {"relu", Activation::relu},           {"gelu", Activation::gelu},
      {"gelu_tanh", Activation::gelu_tanh}, {"silu", Activation::silu},
      {"sigmoid", Activation::sigmoid},     {"tanh", Activation::tanh}};
  lora_test::for_each_golden_case("activation", [&](const lora_test::GoldenCase& one) {
    const auto file = one.tensors();
    const auto x = file.matrix<double>("x");
    ASSERT_GE(x.size(), 1);
    const Matrix<double> ones = Matrix<double>::Ones(x.rows(), x.cols());
    for (const auto& [name, kind] : golden) {
      const auto y = file.matrix<double>(name), dy = file.matrix<double>(std::string("d") + name);
      expect_near_each<double>(forward<double>(kind, x), y, x, u, name);
      expect_near_each<double>(backward<double>(kind, x, ones), dy, x, u, std::string("d") + name);
      const Matrix<float> xf = x.cast<float>(), ones_f = ones.cast<float>();
      // A float input is off by 2^-24 |x|, which a slope of at most 1.13 (and a curvature below 1)
      // hands on.
      expect_near_each<float>(forward<float>(kind, xf), y, x, 0x1.0p-24, name);
      expect_near_each<float>(backward<float>(kind, xf, ones_f), dy, x, 0x1.0p-24, name);
    }
  });
}

TEST(Activations, GradientsByComplexStep) {
  for (const Activation kind : all) {
    if (kind == Activation::relu) continue;  // its kink: below
    for (const auto& [rows, cols] :
         {std::pair<Index, Index>{5, 7}, {1, 3}, {3, 1}, {1, 1}, {0, 4}}) {
      const auto x = random_matrix(rows, cols, "x", 2), dy = random_matrix(rows, cols, "dy");
      EXPECT_TRUE(lora_test::gradcheck(
          [&](const Matrix<Complex>& at) { return lora_test::inner(forward(kind, at), dy); }, x,
          backward(kind, x, dy)))
          << activation_name(kind) << " " << rows << " x " << cols;
    }
  }
}

TEST(Activations, GradientOfReluByDifferences) {
  auto x = random_matrix(5, 7, "x", 2);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] += x.data()[i] > 0 ? 0.1 : -0.1;  // off the kink
  const auto dy = random_matrix(5, 7, "dy");
  EXPECT_TRUE(lora_test::gradcheck_difference(
      [&](const Matrix<double>& at) { return lora_test::inner(forward(Activation::relu, at), dy); },
      x, backward(Activation::relu, x, dy)));
}

TEST(Activations, ReluAtItsKink) {
  EXPECT_EQ(value(Activation::relu, 0.0), 0);
  EXPECT_EQ(slope(Activation::relu, 0.0), 0);
  EXPECT_EQ(slope(Activation::relu, -0.0), 0);
  EXPECT_EQ(slope(Activation::relu, 5e-324), 1);
}

TEST(Activations, InPlaceIsTheSameBits) {
  const auto x = random_matrix(5, 7, "x"), dy = random_matrix(5, 7, "dy");
  for (const Activation kind : all) {
    Matrix<double> y = x, over_dy = dy, over_x = x;
    activation_forward<double>(kind, y, y);
    EXPECT_EQ(y, forward(kind, x));
    activation_backward<double>(kind, x, over_dy, over_dy);
    EXPECT_EQ(over_dy, backward(kind, x, dy));
    activation_backward<double>(kind, over_x, dy, over_x);
    EXPECT_EQ(over_x, backward(kind, x, dy));
  }
}

TEST(Activations, BlocksOfLargerMatrices) {
  const auto x = random_matrix(6, 9, "x"), dy = random_matrix(7, 8, "dy");
  const Matrix<double> xb = x.block(1, 2, 4, 5), dyb = dy.block(2, 3, 4, 5);
  for (const Activation kind : all) {
    Matrix<double> y = Matrix<double>::Constant(8, 11, 77), dx = y;
    activation_forward<double>(kind, x.block(1, 2, 4, 5), y.block(3, 4, 4, 5));
    activation_backward<double>(kind, x.block(1, 2, 4, 5), dy.block(2, 3, 4, 5),
                                dx.block(3, 4, 4, 5));
    Matrix<double> expected = Matrix<double>::Constant(8, 11, 77), expected_dx = expected;
    expected.block(3, 4, 4, 5) = forward(kind, xb);
    expected_dx.block(3, 4, 4, 5) = backward(kind, xb, dyb);
    EXPECT_EQ(y, expected) << activation_name(kind);
    EXPECT_EQ(dx, expected_dx) << activation_name(kind);
  }
}

TEST(Activations, NaNGoesThrough) {
  for (const Activation kind : all) {
    EXPECT_TRUE(std::isnan(value(kind, nan))) << activation_name(kind);
    EXPECT_TRUE(std::isnan(slope(kind, 1.0, nan))) << activation_name(kind);
    if (kind == Activation::identity) continue;
    if (kind == Activation::relu) {  // as PyTorch: a NaN counts as open
      EXPECT_EQ(slope(kind, nan, 3.0), 3.0);
    } else {
      EXPECT_TRUE(std::isnan(slope(kind, nan))) << activation_name(kind);
    }
  }
}

TEST(Activations, InfinityIsTheLimitOrNaN) {
  for (const Activation kind : {Activation::identity, Activation::relu, Activation::gelu,
                                Activation::gelu_tanh, Activation::silu}) {
    EXPECT_EQ(value(kind, infinity), infinity) << activation_name(kind);
  }
  EXPECT_EQ(value(Activation::identity, -infinity), -infinity);
  EXPECT_EQ(value(Activation::relu, -infinity), 0);
  for (const Activation kind : {Activation::gelu, Activation::gelu_tanh, Activation::silu}) {
    EXPECT_TRUE(std::isnan(value(kind, -infinity))) << activation_name(kind);
  }
  EXPECT_EQ(value(Activation::sigmoid, infinity), 1);
  EXPECT_EQ(value(Activation::sigmoid, -infinity), 0);
  EXPECT_EQ(value(Activation::tanh, infinity), 1);
  EXPECT_EQ(value(Activation::tanh, -infinity), -1);
  EXPECT_EQ(slope(Activation::relu, -1.0, infinity), 0);  // a closed element lets nothing in
}

TEST(Activations, LargeFiniteInputsStayFinite) {
  const std::vector<float> large{1e5f, 1e13f, 1e20f, 3e38f};
  for (const Activation kind : all) {
    for (const float size : large) {
      for (const float x : {size, -size}) {
        const Matrix<float> at = Matrix<float>::Constant(1, 1, x), one = Matrix<float>::Ones(1, 1);
        const float y = forward<float>(kind, at)(0), dx = backward<float>(kind, at, one)(0);
        EXPECT_TRUE(std::isfinite(y)) << activation_name(kind) << " at " << x;
        EXPECT_TRUE(std::isfinite(dx)) << activation_name(kind) << "' at " << x;
        EXPECT_TRUE(dx == 0 || dx == 1) << activation_name(kind) << "' at " << x << " is " << dx;
      }
    }
  }
}

TEST(Activations, NoAllocation) {
  LORA_NEEDS_ALLOCATION_COUNTS();
  const auto x = random_matrix(5, 70, "x"), dy = random_matrix(5, 70, "dy");
  Matrix<double> y(5, 70), dx(5, 70);
  lora_test::AllocationCounter counter;
  for (const Activation kind :
       {Activation::identity, Activation::relu, Activation::gelu, Activation::gelu_tanh,
        Activation::silu, Activation::sigmoid, Activation::tanh}) {
    activation_forward<double>(kind, x, y);
    activation_backward<double>(kind, x.leftCols(60), dy.leftCols(60), dx.leftCols(60));
  }
  EXPECT_EQ(counter.stop().calls, 0u);
}

TEST(Activations, ShapeErrors) {
  const Matrix<double> x = Matrix<double>::Ones(4, 6);
  Matrix<double> right(4, 6), wrong(4, 7), short_one(3, 6);
  right.setConstant(5);
  EXPECT_EQ(
      lora_test::message_of<Error>([&] { activation_forward<double>(Activation::relu, x, wrong); }),
      "activation_forward: y is (4, 7), expected (4, 6)");
  EXPECT_EQ(lora_test::message_of<Error>(
                [&] { activation_backward<double>(Activation::relu, x, short_one, right); }),
            "activation_backward: dy is (3, 6), expected (4, 6)");
  EXPECT_EQ(lora_test::message_of<Error>(
                [&] { activation_backward<double>(Activation::relu, x, x, wrong); }),
            "activation_backward: dx is (4, 7), expected (4, 6)");
  EXPECT_EQ(right, (Matrix<double>::Constant(4, 6, 5)));
  EXPECT_THROW(activation_forward<double>(Activation::relu, x, wrong), ShapeError);
}

TEST(Activations, AValueOutsideTheEnumIsRefused) {
  const auto none = static_cast<Activation>(17);
  const Matrix<double> x = Matrix<double>::Ones(2, 3);
  Matrix<double> y = Matrix<double>::Constant(2, 3, 5);
  EXPECT_EQ(lora_test::message_of<Error>([&] { activation_forward<double>(none, x, y); }),
            "activation_forward: 17 is not an Activation");
  EXPECT_EQ(lora_test::message_of<Error>([&] { activation_backward<double>(none, x, x, y); }),
            "activation_backward: 17 is not an Activation");
  EXPECT_EQ(lora_test::message_of<Error>([&] { activation_name(none); }),
            "activation_name: 17 is not an Activation");
  EXPECT_EQ(y, (Matrix<double>::Constant(2, 3, 5)));
}

TEST(Activations, NamesOfHuggingFace) {
  EXPECT_EQ(activation_from_name("relu"), Activation::relu);
  EXPECT_EQ(activation_from_name("gelu"), Activation::gelu);
  EXPECT_EQ(activation_from_name("gelu_new"), Activation::gelu_tanh);
  EXPECT_EQ(activation_from_name("gelu_pytorch_tanh"), Activation::gelu_tanh);
  EXPECT_EQ(activation_from_name("silu"), Activation::silu);
  EXPECT_EQ(activation_from_name("swish"), Activation::silu);
  EXPECT_EQ(activation_from_name("linear"), Activation::identity);
  for (const Activation kind : all) EXPECT_EQ(activation_from_name(activation_name(kind)), kind);
}

TEST(Activations, AnUnknownNameListsTheKnownOnes) {
  EXPECT_EQ(
      lora_test::message_of<Error>([] { activation_from_name("gellu"); }),
      "activation_from_name: unknown activation \"gellu\", expected one of linear, relu, gelu, "
      "gelu_pytorch_tanh, gelu_new, silu, swish, sigmoid, tanh");
  EXPECT_THROW(activation_from_name(""), ConfigError);
  EXPECT_THROW(activation_from_name("ReLU"), ConfigError);
}

TEST(Activations, AnOutputThatOverlapsAPartIsRefused) {
  Matrix<double> whole = Matrix<double>::Random(4, 3), other = Matrix<double>::Random(3, 3);
  const Matrix<double> before = whole;
  const auto part = [&](Index row) { return whole.middleRows(row, 3); };
  const auto relu = Activation::relu;
  EXPECT_HAS(message_of<Error>([&] { activation_forward<double>(relu, part(0), part(1)); }),
             "activation_forward: y overlaps x in part");
  EXPECT_HAS(message_of<Error>([&] { activation_backward<double>(relu, part(0), other, part(1)); }),
             "activation_backward: dx overlaps x in part");
  EXPECT_HAS(message_of<Error>([&] { activation_backward<double>(relu, other, part(1), part(0)); }),
             "activation_backward: dx overlaps dy in part");
  EXPECT_EQ(whole, before);
}

}  // namespace activations_test
