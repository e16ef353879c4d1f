#include <lora/core/scalar.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <complex>
#include <limits>
#include <type_traits>

namespace scalar_test {
using namespace lora;
using Complex = std::complex<double>;

static_assert(std::is_same_v<RealOf<float>, float>);
static_assert(std::is_same_v<RealOf<double>, double>);
static_assert(std::is_same_v<RealOf<Complex>, double>);
static_assert(std::is_same_v<WideOf<float>, double>);
static_assert(std::is_same_v<WideOf<double>, double>);
static_assert(std::is_same_v<WideOf<Complex>, Complex>);

TEST(Scalar, RealPart) {
  EXPECT_EQ(real_part(-2.5f), -2.5f);
  EXPECT_EQ(real_part(Complex(3, 4)), 3.0);
}

TEST(Scalar, IsFinite) {
  const double infinity = std::numeric_limits<double>::infinity(), nan = std::nan("");
  EXPECT_TRUE(is_finite(1.0f));
  EXPECT_FALSE(is_finite(infinity));
  EXPECT_FALSE(is_finite(nan));
  EXPECT_TRUE(is_finite(Complex(1, 2)));
  EXPECT_FALSE(is_finite(Complex(infinity, 0)));
  EXPECT_FALSE(is_finite(Complex(0, nan)));
}

// The derivative of erf against a five-point difference of std::erf: error h⁴/30 f⁽⁵⁾ and rounding
// u/h.
TEST(Scalar, ErrorFunctionCarriesItsDerivative) {
  constexpr double h = 0x1.0p-10, tiny = 1e-30;
  for (const double x : {-3.0, -0.75, 0.0, 0.5, 1.25, 4.0}) {
    const Complex y = error_function(Complex(x, tiny));
    EXPECT_EQ(y.real(), std::erf(x));
    const double slope =
        (std::erf(x - 2 * h) - 8 * std::erf(x - h) + 8 * std::erf(x + h) - std::erf(x + 2 * h)) /
        (12 * h);
    EXPECT_LE(std::abs(y.imag() / tiny - slope), 1e-11) << x;
  }
  EXPECT_EQ(error_function(0.5f), std::erf(0.5f));
}

}  // namespace scalar_test
