// The initial values of A and B.
#pragma once

#include <lora/core/error.hpp>
#include <lora/core/random.hpp>

#include <cmath>

namespace lora {

/// PEFT's `init_lora_weights`.
enum class AdapterInit {
  kaiming_uniform,  ///< true: A uniform in ±1/√D (Kaiming with a = √5), B = 0
  torch_default,    ///< false: A as above, B uniform in ±1/√R, so the adapter acts at once
  gaussian,         ///< "gaussian": A normal with standard deviation 1/R, B = 0
  orthogonal,       ///< "orthogonal": A, B span orthogonal halves: B A = 0, neither zero; R even
  none,             ///< not in PEFT: leaves A and B unset, for callers that fill them
};

namespace detail {

/// Makes the rows of q orthonormal, in order (modified Gram-Schmidt, twice for accuracy).
template <class Real>
void orthonormalise_rows(Matrix<Real>& q) {
  for (Index i = 0; i < q.rows(); ++i) {
    for (int pass = 0; pass < 2; ++pass) {
      for (Index j = 0; j < i; ++j) q.row(i) -= q.row(i).dot(q.row(j)) * q.row(j);
    }
    q.row(i) /= q.row(i).norm();
  }
}

/// Fills A and B for AdapterInit::orthogonal, in double whatever S is. Real is a template parameter
/// so that Eigen's products are instantiated only where this is called.
template <class S, class Real = double>
void init_orthogonal(Matrix<S>& a, Matrix<S>& b, const RandomStream& a_stream,
                     const RandomStream& b_stream) {
  const Index r = a.rows(), half = r / 2;
  Matrix<Real> q(r, r), left(half, b.rows()), right(a.cols(), half), even(half, r), odd(half, r);
  fill_normal(q, RandomStream(mix64(a_stream.key())), 1.0);
  orthonormalise_rows(q);
  for (Index i = 0; i < half; ++i) {
    even.row(i) = q.row(2 * i);
    odd.row(i) = q.row(2 * i + 1);
  }
  fill_normal(right, a_stream, 0.1);
  fill_normal(left, b_stream, 0.1);
  a = (right * even).transpose().template cast<S>();
  b = (left.transpose() * odd).template cast<S>();
}

}  // namespace detail

/// Fills A (R, D) and B (O, R) of a linear or convolution adapter. `fan_in` is D, for a convolution
/// channels · kernel. With groups, B is (O, R / groups). Each tensor has its own stream.
/// Throws: ConfigError for the orthogonal initialisation with an odd R or with groups.
/// Source: PEFT's reset_lora_parameters and orthogonal_init.
template <class S>
void initialize_adapter(AdapterInit init, Index fan_in, Matrix<S>& a, Matrix<S>& b,
                        const RandomStream& a_stream, const RandomStream& b_stream) {
  if (init == AdapterInit::none) return;
  const Index r = a.rows();
  b.setZero();
  switch (init) {
    case AdapterInit::gaussian:
      fill_normal(a, a_stream, 1.0 / static_cast<double>(r));
      return;
    case AdapterInit::orthogonal:
      if (r % 2 != 0) {
        throw ConfigError("init_lora_weights \"orthogonal\": r is " + std::to_string(r) +
                          ", expected an even number");
      }
      if (b.cols() != r) {
        throw ConfigError(
            "init_lora_weights \"orthogonal\" is not defined for a convolution with groups");
      }
      detail::init_orthogonal(a, b, a_stream, b_stream);
      return;
    case AdapterInit::kaiming_uniform:
    case AdapterInit::torch_default:
    case AdapterInit::none:
      break;
  }
  const double bound = 1.0 / std::sqrt(static_cast<double>(fan_in));
  fill_uniform(a, a_stream, -bound, bound);
  if (init == AdapterInit::torch_default) {
    const double b_bound = 1.0 / std::sqrt(static_cast<double>(b.cols()));
    fill_uniform(b, b_stream, -b_bound, b_bound);
  }
}

/// Fills A (R, V) and B (D, R) of an embedding's adapter, where the roles are reversed: A = 0 and B
/// is standard normal. With torch_default both are standard normal.
/// Throws: ConfigError for the orthogonal initialisation.
/// Source: PEFT's reset_lora_parameters.
template <class S>
void initialize_embedding_adapter(AdapterInit init, Matrix<S>& a, Matrix<S>& b,
                                  const RandomStream& a_stream, const RandomStream& b_stream) {
  if (init == AdapterInit::orthogonal) {
    throw ConfigError("init_lora_weights \"orthogonal\" is not defined for an embedding");
  }
  if (init == AdapterInit::none) return;
  a.setZero();
  if (init == AdapterInit::torch_default) fill_normal(a, a_stream, 1.0);
  fill_normal(b, b_stream, 1.0);
}

}  // namespace lora
