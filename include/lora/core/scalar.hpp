// What a formula needs to run with float, double and std::complex<double>. The tests take
// derivatives with complex numbers (x + ih carries f'(x)h in its imaginary part), so complex values
// run the shipped code itself.
//
// An operator stays analytic, and can be tested this way, if it transposes without conjugating,
// takes no absolute value, and branches on `real_part` only.
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

/// The type that long sums of S are held in: double for float, otherwise S.
template <class S>
using WideOf = typename detail::ScalarTraits<S>::Wide;

/// Returns x, or the real part of a complex x: the number that comparisons use.
template <class R>
constexpr R real_part(R x) {
  return x;
}
template <class R>
constexpr R real_part(const std::complex<R>& x) {
  return x.real();
}

/// Returns x as a constant that no derivative passes through, as PyTorch's detach() does. A complex
/// x loses its imaginary part.
template <class R>
constexpr R detached(R x) {
  return x;
}
template <class R>
constexpr std::complex<R> detached(const std::complex<R>& x) {
  return x.real();
}

/// Whether x is neither infinite nor NaN. For a complex number, both parts count.
template <class R>
bool is_finite(R x) {
  return std::isfinite(x);
}
template <class R>
bool is_finite(const std::complex<R>& x) {
  return std::isfinite(x.real()) && std::isfinite(x.imag());
}

/// Computes erf(x) = 2/√π ∫₀ˣ exp(−t²) dt. For a complex number, computes it to first order in the
/// imaginary part h: erf(x) + i h 2/√π exp(−x²), exact in double while |h| is far below 1e-8.
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
