#include <support/gradcheck.hpp>

#include <limits>
#include <string>

namespace gradcheck_test {
using namespace lora_test;

// f(x) = Σ sin(x) w, df = cos(x) ∘ w.
struct Sines {
  Matrix<double> x = random_matrix(3, 5, "x"), w = random_matrix(3, 5, "w");
  Matrix<double> gradient = (x.array().cos() * w.array()).matrix();
  template <class S>
  S loss(const Matrix<S>& at) const {
    return inner<S>(at.array().sin().matrix(), w);
  }
  auto complex_loss() const {
    return [this](const Matrix<Complex>& at) { return loss(at); };
  }
  auto real_loss() const {
    return [this](const Matrix<double>& at) { return loss(at); };
  }
};

TEST(Gradcheck, AcceptsARightGradientToTheLastBits) {
  const Sines f;
  EXPECT_TRUE(gradcheck(f.complex_loss(), f.x, f.gradient, 1e-15));
  EXPECT_TRUE(gradcheck_difference(f.real_loss(), f.x, f.gradient));
}

TEST(Gradcheck, RefusesASmallErrorAndNamesTheEntry) {
  const Sines f;
  Matrix<double> wrong = f.gradient;
  wrong(2, 3) += 1e-8 * f.gradient.cwiseAbs().maxCoeff();
  for (const auto& result :
       {gradcheck(f.complex_loss(), f.x, wrong), gradcheck_difference(f.real_loss(), f.x, wrong)}) {
    EXPECT_FALSE(result);
    EXPECT_NE(std::string(result.message()).find("entry (2, 3): measured "), std::string::npos)
        << result.message();
  }
}

TEST(Gradcheck, RefusesNaNOnEitherSide) {
  const Sines f;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const Index column : {0, 4}) {  // first and last, so that none is forgotten on the way
    Matrix<double> wrong = f.gradient;
    wrong(1, column) = nan;
    EXPECT_FALSE(gradcheck(f.complex_loss(), f.x, wrong));
    EXPECT_FALSE(gradcheck_difference(f.real_loss(), f.x, wrong));
  }
  EXPECT_FALSE(gradcheck([&](const Matrix<Complex>&) { return Complex(0, nan); }, f.x, f.gradient));
  EXPECT_FALSE(gradcheck_difference([&](const Matrix<double>&) { return nan; }, f.x, f.gradient));
}

TEST(Gradcheck, RefusesAnotherShape) {
  const Sines f;
  const Matrix<double> turned = f.gradient.transpose();
  const auto result = gradcheck(f.complex_loss(), f.x, turned);
  EXPECT_FALSE(result);
  EXPECT_STREQ(result.message(), "the value is (3, 5), its gradient (5, 3)");
}

TEST(Gradcheck, AnEmptyValueHasNothingToCheck) {
  EXPECT_TRUE(gradcheck([](const Matrix<Complex>&) { return Complex(1); }, Matrix<double>(0, 3),
                        Matrix<double>(0, 3)));
}

TEST(Gradcheck, DifferenceWorksBesideAKink) {
  Matrix<double> x(1, 3), dx(1, 3);
  x << -0.5, 0.25, 1.5;
  dx << -1, 1, 1;
  EXPECT_TRUE(
      gradcheck_difference([](const Matrix<double>& at) { return at.cwiseAbs().sum(); }, x, dx));
}

// z·conj(z) has no imaginary part, so the complex step sees a derivative of zero. This exposes an
// `adjoint` in an operator.
TEST(Gradcheck, FindsAConjugation) {
  const Matrix<double> x = random_matrix(2, 3, "x");
  EXPECT_FALSE(gradcheck(
      [](const Matrix<Complex>& at) { return (at.array() * at.array().conjugate()).sum(); }, x,
      2 * x));
  EXPECT_TRUE(gradcheck([](const Matrix<Complex>& at) { return (at.array() * at.array()).sum(); },
                        x, 2 * x));
}

}  // namespace gradcheck_test
