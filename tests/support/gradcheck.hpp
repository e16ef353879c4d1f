// Checks gradients: compares a hand-written backward with the derivative of the shipped forward.
//
//   EXPECT_TRUE(gradcheck([&](const Matrix<Complex>& a) { return the loss with a in it; }, a, da));
//
// `gradcheck` takes a complex step: for an analytic f, Im f(x + ih)/h = f'(x) + O(h²), without a
// difference of nearby numbers, so h = 1e-30 is exact to the last bits. `gradcheck_difference` is a
// five-point difference in double, for piecewise analytic functions (|x|, max) at points away from
// the kinks.
#pragma once

#include <lora/core/random.hpp>
#include <lora/core/types.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <complex>
#include <sstream>
#include <string_view>

namespace lora_test {

using lora::Index;
using lora::Matrix;
using Complex = std::complex<double>;

/// Returns a (rows, cols) matrix of normal numbers. The same name gives the same numbers.
template <class S = double>
Matrix<S> random_matrix(Index rows, Index cols, std::string_view name, double deviation = 1.0) {
  Matrix<S> m(rows, cols);
  lora::fill_normal(m, lora::RandomStream(20240521, name), deviation);
  return m;
}

inline Matrix<Complex> to_complex(const Matrix<double>& m) { return m.cast<Complex>(); }

/// Returns Σ y ∘ dy without conjugation: the loss whose gradient with respect to y is dy.
template <class S>
S inner(const Matrix<S>& y, const Matrix<double>& dy) {
  S sum = 0;
  for (Index i = 0; i < y.rows(); ++i) {
    for (Index j = 0; j < y.cols(); ++j) sum += y(i, j) * dy(i, j);
  }
  return sum;
}

/// Whether two gradients agree: |measured − analytic| ≤ bound · max(|measured|, |analytic| over all
/// entries, 1e-6) + slack. The largest entry sets the scale, since entries that nearly cancel keep
/// the rounding of their terms. A NaN anywhere fails. The message names the worst entry.
inline testing::AssertionResult same_gradient(const Matrix<double>& measured,
                                              const Matrix<double>& analytic, double bound,
                                              double slack = 0) {
  if (measured.rows() != analytic.rows() || measured.cols() != analytic.cols()) {
    return testing::AssertionFailure()
           << "the value is (" << measured.rows() << ", " << measured.cols() << "), its gradient ("
           << analytic.rows() << ", " << analytic.cols() << ")";
  }
  double scale = 1e-6, worst = -1;
  Index worst_row = 0, worst_col = 0;
  for (Index i = 0; i < measured.rows(); ++i) {
    for (Index j = 0; j < measured.cols(); ++j) {
      const double error = std::abs(measured(i, j) - analytic(i, j));
      scale = std::max({scale, std::abs(measured(i, j)), std::abs(analytic(i, j))});
      if (!(error <= worst) && !std::isnan(worst)) {  // a NaN becomes the worst and stays it
        worst = error;
        worst_row = i;
        worst_col = j;
      }
    }
  }
  if (worst <= bound * scale + slack) return testing::AssertionSuccess();
  std::ostringstream text;
  text.precision(17);
  text << "entry (" << worst_row << ", " << worst_col << "): measured "
       << measured(worst_row, worst_col) << ", analytic " << analytic(worst_row, worst_col);
  text.precision(3);
  text << ", error " << worst << " of scale " << scale << ", allowed " << bound << " of it";
  return testing::AssertionFailure() << text.str();
}

/// Checks `analytic` = d loss/d value at every entry by complex steps. `loss` takes a const
/// Matrix<Complex>& in place of `value` and returns a Complex. For small sizes: it calls loss once
/// per entry.
template <class Loss>
testing::AssertionResult gradcheck(Loss&& loss, const Matrix<double>& value,
                                   const Matrix<double>& analytic, double bound = 1e-9) {
  constexpr double h = 1e-30;
  Matrix<Complex> x = to_complex(value);
  Matrix<double> measured(value.rows(), value.cols());
  for (Index i = 0; i < value.rows(); ++i) {
    for (Index j = 0; j < value.cols(); ++j) {
      x(i, j) = Complex(value(i, j), h);
      measured(i, j) = Complex(loss(static_cast<const Matrix<Complex>&>(x))).imag() / h;
      x(i, j) = value(i, j);
    }
  }
  return same_gradient(measured, analytic, bound);
}

/// Checks by five-point differences of `loss`, a double of a const Matrix<double>&: (f(x−2h) − 8
/// f(x−h) + 8 f(x+h) − f(x+2h)) / 12h, with error h⁴/30 f⁽⁵⁾ and rounding 1.5 u|f|/h; allows 8
/// u|f|/h of rounding in addition to the bound. h is `step` · max(1, |x|); no kink may be within
/// 2h.
template <class Loss>
testing::AssertionResult gradcheck_difference(Loss&& loss, const Matrix<double>& value,
                                              const Matrix<double>& analytic, double bound = 1e-9,
                                              double step = 1e-3) {
  Matrix<double> x = value, measured(value.rows(), value.cols());
  double largest = 0;
  const auto at = [&](Index i, Index j, double moved) {
    x(i, j) = moved;
    const double f = loss(static_cast<const Matrix<double>&>(x));
    x(i, j) = value(i, j);
    largest = std::max(largest, std::abs(f));
    return f;
  };
  for (Index i = 0; i < value.rows(); ++i) {
    for (Index j = 0; j < value.cols(); ++j) {
      const double v = value(i, j);
      // A power of two, so that v ± h and v ± 2h differ by exactly h unless v is much larger.
      const double h = std::exp2(std::round(std::log2(step * std::max(1.0, std::abs(v)))));
      measured(i, j) =
          ((at(i, j, v - 2 * h) - at(i, j, v + 2 * h)) + 8 * (at(i, j, v + h) - at(i, j, v - h))) /
          (12 * h);
    }
  }
  return same_gradient(measured, analytic, bound, 8 * 0x1.0p-53 * largest / step);
}

}  // namespace lora_test
