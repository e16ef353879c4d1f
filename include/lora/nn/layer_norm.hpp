// Layer normalisation, as in GPT-2.
#pragma once

#include <lora/core/overlap.hpp>
#include <lora/core/parameter.hpp>
#include <lora/nn/rows.hpp>

#include <cmath>
#include <utility>

namespace lora {

/// Normalises each row: y = w ⊙ (x − μ) ρ + b with μ = mean(x) and ρ = (mean((x − μ)²) + eps)^-½; x
/// and y are (T, D), w and b (1, D). Computes μ and ρ in double for float. A value type.
/// Threads: forward() may run on several threads.
/// Source: Ba et al., 2016; torch.nn.LayerNorm.
template <class S>
struct LayerNorm {
  using Scalar = S;

  Parameter<S> weight, bias;
  double eps = 1e-5;

  LayerNorm() = default;
  LayerNorm(Matrix<S> w, Matrix<S> b, double epsilon)
      : weight(Parameter<S>::vector(std::move(w))),
        bias(Parameter<S>::vector(std::move(b))),
        eps(epsilon) {}

  Index size() const { return weight.size(); }
  const char* module_type() const { return "LayerNorm"; }

  /// Computes y, which may be x itself, and writes μ and ρ for backward to the columns of `stats`
  /// (T, 2).
  /// Throws: ShapeError; Error when y overlaps a part of x.
  /// Allocates: when T changes.
  void forward(In<S> x, Out<S> y, Matrix<S>& stats) const {
    using std::sqrt;
    using Wide = WideOf<S>;
    expect_shape("LayerNorm::forward", "x", x, -1, size());
    expect_shape("LayerNorm::forward", "y", y, x.rows(), size());
    expect_same_or_apart<S>("LayerNorm::forward", "y", y, "x", x);
    set_size(stats, x.rows(), 2);
    const Index n = size();
    const S *w = weight.value.data(), *b = bias.value.data();
    for_row_shares(x.rows(), n, [&](Index begin, Index end) {
      const auto count = static_cast<RealOf<Wide>>(n);
      for (Index t = begin; t < end; ++t) {
        const S* from = x.data() + t * x.outerStride();
        S* to = y.data() + t * y.outerStride();
        const S mean = static_cast<S>(sum_over<S>(n, [=](Index i) { return from[i]; }) / count);
        const Wide variance =
            sum_over<S>(n, [=](Index i) { return (from[i] - mean) * (from[i] - mean); }) / count;
        const S rho =
            static_cast<S>(RealOf<Wide>(1) / sqrt(variance + static_cast<RealOf<Wide>>(eps)));
        stats(t, 0) = mean;
        stats(t, 1) = rho;
        map_row(n, to, [=](Index i) { return w[i] * ((from[i] - mean) * rho) + b[i]; });
      }
    });
  }

  /// Adds dL/dx to dx. With x̂ = (x − μ) ρ and g = w ⊙ dy: dx += ρ (g − mean(g) − x̂ mean(g x̂)). x
  /// and stats are those of forward.
  /// Throws: ShapeError; Error when dx overlaps x or dy.
  /// Allocates: nothing.
  void add_input_gradient(In<S> x, In<S> dy, const Matrix<S>& stats, Out<S> dx) const {
    expect_shape("LayerNorm::add_input_gradient", "x", x, stats.rows(), size());
    expect_shape("LayerNorm::add_input_gradient", "dy", dy, x.rows(), size());
    expect_shape("LayerNorm::add_input_gradient", "dx", dx, x.rows(), size());
    expect_apart<S>("LayerNorm::add_input_gradient", "dx", dx, "x", x);
    expect_apart<S>("LayerNorm::add_input_gradient", "dx", dx, "dy", dy);
    const Index n = size();
    const S* w = weight.value.data();
    for_row_shares(x.rows(), n, [&](Index begin, Index end) {
      const auto count = static_cast<RealOf<S>>(n);
      for (Index t = begin; t < end; ++t) {
        const S* at = x.data() + t * x.outerStride();
        const S* g = dy.data() + t * dy.outerStride();
        S* to = dx.data() + t * dx.outerStride();
        const S mean = stats(t, 0), rho = stats(t, 1);
        const S level =
            static_cast<S>(sum_over<S>(n, [=](Index i) { return w[i] * g[i]; })) / count;
        const auto sum =
            sum_over<S>(n, [=](Index i) { return w[i] * g[i] * ((at[i] - mean) * rho); });
        const S along = static_cast<S>(sum) / count;
        map_row(n, to, [=](Index i) {
          return to[i] + rho * (w[i] * g[i] - level - (at[i] - mean) * rho * along);
        });
      }
    });
  }

  /// Adds dw += Σ_t dy_t ⊙ x̂_t and db += Σ_t dy_t, each if it is trainable.
  /// Throws: ShapeError.
  /// Allocates: nothing.
  void add_weight_gradient(In<S> x, In<S> dy, const Matrix<S>& stats) {
    expect_shape("LayerNorm::add_weight_gradient", "x", x, stats.rows(), size());
    expect_shape("LayerNorm::add_weight_gradient", "dy", dy, x.rows(), size());
    const auto g = [&](Index t, Index j) { return dy.data()[t * dy.outerStride() + j]; };
    if (weight.trainable) {
      add_column_sums(x.rows(), size(), weight.grad.data(), [&](Index t, Index j) {
        return g(t, j) * ((x.data()[t * x.outerStride() + j] - stats(t, 0)) * stats(t, 1));
      });
    }
    if (bias.trainable) add_column_sums(x.rows(), size(), bias.grad.data(), g);
  }

  template <class Fn>
  void for_each_parameter(const NamePath& prefix, Fn&& fn) {
    fn(NamePath(prefix, "weight"), weight);
    fn(NamePath(prefix, "bias"), bias);
  }
};

}  // namespace lora
