// What a formula needs to run with float, double and std::complex<double>: complex numbers are how
// the tests take derivatives (x + ih carries f'(x)h in its imaginary part), so they go through the
// very code that is shipped.
//
// An operator stays analytic, and so can be proved this way, when it transposes without
// conjugating, takes no absolute value, and branches on `real_part` only.
#pragma once

#include <cmath>
#include <complex>

namespace lora {

namespace detail {
template <class S>
struct ScalarTraits {
  using Real = S;
  using Wide = S;
};
template <>
struct ScalarTraits<float> {
  using Real = float;
  using Wide = double;
};
template <class R>
struct ScalarTraits<std::complex<R>> {
  using Real = R;
  using Wide = std::complex<typename ScalarTraits<R>::Wide>;
};
}  // namespace detail

/// The real type under S: S itself for float and double.
template <class S>
using RealOf = typename detail::ScalarTraits<S>::Real;

/// What a long sum of S is held in: double for float, otherwise S.
template <class S>
using WideOf = typename detail::ScalarTraits<S>::Wide;

/// x, or the real part of a complex x: what comparisons look at.
template <class R>
constexpr R real_part(R x) {
  return x;
}
template <class R>
constexpr R real_part(const std::complex<R>& x) {
  return x.real();
}

/// x as a constant, through which no derivative goes: PyTorch's detach(). A complex x loses its
/// imaginary part.
template <class R>
constexpr R detached(R x) {
  return x;
}
template <class R>
constexpr std::complex<R> detached(const std::complex<R>& x) {
  return x.real();
}

/// Neither infinite nor NaN; of a complex number, both parts.
template <class R>
bool is_finite(R x) {
  return std::isfinite(x);
}
template <class R>
bool is_finite(const std::complex<R>& x) {
  return std::isfinite(x.real()) && std::isfinite(x.imag());
}

/// erf(x) = 2/√π ∫₀ˣ exp(−t²) dt. For a complex number to first order in its imaginary part h:
/// erf(x) + i h 2/√π exp(−x²), exact in double while |h| is far below 1e-8.
template <class R>
R error_function(R x) {
  return std::erf(x);
}
template <class R>
std::complex<R> error_function(const std::complex<R>& z) {
  constexpr R two_over_sqrt_pi = R(1.1283791670955125739L);
  const R x = z.real();
  return {std::erf(x), z.imag() * two_over_sqrt_pi * std::exp(-x * x)};
}

}  // namespace lora
