// Root mean square normalisation, as in Llama and its relatives.
#pragma once

#include <lora/core/overlap.hpp>
#include <lora/core/parameter.hpp>
#include <lora/nn/rows.hpp>

#include <cmath>
#include <utility>

namespace lora {

/// Normalises each row: y = w ⊙ x ρ with ρ = (mean(x²) + eps)^-½; x and y are (T, D), w (1, D).
/// Computes ρ in double for float. A value type.
/// Threads: forward() may run on several threads.
/// Source: Zhang and Sennrich, 2019; LlamaRMSNorm of transformers.
template <class S>
struct RMSNorm {
  using Scalar = S;

  Parameter<S> weight;
  double eps = 1e-6;
  const char* type = "RMSNorm";  ///< the class name in transformers

  RMSNorm() = default;
  RMSNorm(Matrix<S> w, double epsilon, const char* type_name = "RMSNorm")
      : weight(Parameter<S>::vector(std::move(w))), eps(epsilon), type(type_name) {}

  Index size() const { return weight.size(); }
  const char* module_type() const { return type; }

  /// Computes y, which may be x itself, and ρ (T, 1) for backward.
  /// Throws: ShapeError; Error when y overlaps a part of x.
  /// Allocates: when T changes.
  void forward(In<S> x, Out<S> y, Matrix<S>& rho) const {
    using std::sqrt;
    expect_shape("RMSNorm::forward", "x", x, -1, size());
    expect_shape("RMSNorm::forward", "y", y, x.rows(), size());
    expect_same_or_apart<S>("RMSNorm::forward", "y", y, "x", x);
    set_size(rho, x.rows(), 1);
    const Index n = size();
    const S* w = weight.value.data();
    for_row_shares(x.rows(), n, [&](Index begin, Index end) {
      using Wide = WideOf<S>;
      for (Index t = begin; t < end; ++t) {
        const S* from = x.data() + t * x.outerStride();
        S* to = y.data() + t * y.outerStride();
        const Wide mean = dot_product(n, from, from) / static_cast<RealOf<Wide>>(n);
        const S scale =
            static_cast<S>(RealOf<Wide>(1) / sqrt(mean + static_cast<RealOf<Wide>>(eps)));
        rho(t, 0) = scale;
        map_row(n, to, [=](Index i) { return w[i] * (from[i] * scale); });
      }
    });
  }

  /// Adds dL/dx to dx. With g = w ⊙ dy: dx += ρ g − x ρ³/D Σ g x. x and rho are those of forward.
  /// Throws: ShapeError; Error when dx overlaps x or dy.
  /// Allocates: nothing.
  void add_input_gradient(In<S> x, In<S> dy, const Matrix<S>& rho, Out<S> dx) const {
    expect_shape("RMSNorm::add_input_gradient", "x", x, rho.rows(), size());
    expect_shape("RMSNorm::add_input_gradient", "dy", dy, x.rows(), size());
    expect_shape("RMSNorm::add_input_gradient", "dx", dx, x.rows(), size());
    expect_apart<S>("RMSNorm::add_input_gradient", "dx", dx, "x", x);
    expect_apart<S>("RMSNorm::add_input_gradient", "dx", dx, "dy", dy);
    const Index n = size();
    const S* w = weight.value.data();
    for_row_shares(x.rows(), n, [&](Index begin, Index end) {
      for (Index t = begin; t < end; ++t) {
        const S* at = x.data() + t * x.outerStride();
        const S* g = dy.data() + t * dy.outerStride();
        S* to = dx.data() + t * dx.outerStride();
        const S r = rho(t, 0);
        const auto sum = sum_over<S>(n, [=](Index i) { return w[i] * g[i] * at[i]; });
        const S along = static_cast<S>(sum) * (r * r * r / static_cast<RealOf<S>>(n));
        map_row(n, to, [=](Index i) { return to[i] + r * (w[i] * g[i]) - along * at[i]; });
      }
    });
  }

  /// Adds dw += Σ_t dy_t ⊙ x_t ρ_t if the weight is trainable.
  /// Throws: ShapeError.
  /// Allocates: nothing.
  void add_weight_gradient(In<S> x, In<S> dy, const Matrix<S>& rho) {
    if (!weight.trainable) return;
    expect_shape("RMSNorm::add_weight_gradient", "x", x, rho.rows(), size());
    expect_shape("RMSNorm::add_weight_gradient", "dy", dy, x.rows(), size());
    add_column_sums(x.rows(), size(), weight.grad.data(), [&](Index t, Index j) {
      return dy.data()[t * dy.outerStride() + j] * (x.data()[t * x.outerStride() + j] * rho(t, 0));
    });
  }

  template <class Fn>
  void for_each_parameter(const NamePath& prefix, Fn&& fn) {
    fn(NamePath(prefix, "weight"), weight);
  }
};

}  // namespace lora
