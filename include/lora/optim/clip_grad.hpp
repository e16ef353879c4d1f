// Measures, checks and limits the size of a model's gradient.
//
// All functions take any object with for_each_parameter, read its trainable parameters only,
// allocate nothing themselves, and sum in double in an order that depends only on the sizes.
#pragma once

#include <lora/core/parameter.hpp>
#include <lora/optim/parameter_groups.hpp>

#include <array>
#include <cmath>
#include <cstddef>
#include <string>
#include <type_traits>

namespace lora {

/// What clip_grad_norm does with a norm that is NaN or infinite: scale all the same, as PyTorch
/// does, or throw.
enum class NonFinite { scale, refuse };

/// The options of clip_grad_norm, as those of torch.nn.utils.clip_grad_norm_.
struct ClipOptions {
  double norm_type = 2;  ///< p > 0 of the p-norm; infinity: the largest magnitude
  NonFinite non_finite = NonFinite::scale;
};

namespace detail {

/// Returns the larger of two magnitudes; a NaN stays a NaN.
inline double larger(double a, double b) { return b <= a || std::isnan(a) ? a : b; }

/// Folds term(|g_i|) over all i, as eight parallel folds that do not wait for each other.
template <class S, class Term, class Fold>
double fold_magnitudes(const Matrix<S>& g, Term term, Fold fold) {
  std::array<double, 8> part{};
  const Index n = g.size(), whole = n - n % 8;
  const S* x = g.data();
  for (Index i = 0; i < whole; i += 8) {
    for (std::size_t k = 0; k < 8; ++k) {
      part[k] = fold(part[k], term(std::abs(static_cast<double>(x[i + static_cast<Index>(k)]))));
    }
  }
  for (Index i = whole; i < n; ++i) {
    part[0] = fold(part[0], term(std::abs(static_cast<double>(x[i]))));
  }
  for (std::size_t k = 1; k < 8; ++k) part[0] = fold(part[0], part[k]);
  return part[0];
}

/// Accumulates a p-norm.
class NormSum {
 public:
  explicit NormSum(double p) : p_(p) {}

  template <class S>
  void add(const Matrix<S>& g) {
    const auto plus = [](double a, double b) { return a + b; };
    const auto itself = [](double x) { return x; };
    if (p_ == 2) {
      sum_ += fold_magnitudes(
          g, [](double x) { return x * x; }, plus);
    } else if (p_ == 1) {
      sum_ += fold_magnitudes(g, itself, plus);
    } else if (std::isinf(p_)) {
      sum_ = larger(sum_, fold_magnitudes(g, itself, larger));
    } else {
      sum_ += fold_magnitudes(
          g, [p = p_](double x) { return std::pow(x, p); }, plus);
    }
  }
  double norm() const {
    if (p_ == 2) return std::sqrt(sum_);
    return p_ == 1 || std::isinf(p_) ? sum_ : std::pow(sum_, 1 / p_);
  }

 private:
  double p_;
  double sum_ = 0;  ///< Σ |g|^p, or the largest |g| when p is infinite
};

inline void expect_norm_type(const char* where, double p) {
  if (!(p > 0)) {
    throw ConfigError(std::string(where) + ": norm_type is " + number_text(p) +
                      ", expected a number > 0 or infinity");
  }
}

}  // namespace detail

/// Whether no gradient holds a NaN or an infinity, so that a loop can skip a bad step.
template <class Model>
bool gradients_finite(Model& model) {
  bool finite = true;
  model.for_each_parameter("", [&finite](const auto&, auto& p) {
    if (!p.trainable || !finite) return;
    for (Index i = 0; i < p.grad.size() && finite; ++i) finite = std::isfinite(p.grad.data()[i]);
  });
  return finite;
}

/// Calls fn(name, norm) with the p-norm of each trainable parameter's gradient.
/// Throws: ConfigError unless norm_type > 0.
template <class Model, class Fn>
void for_each_grad_norm(Model& model, Fn fn, double norm_type = 2) {
  detail::expect_norm_type("for_each_grad_norm", norm_type);
  model.for_each_parameter("", [&](const auto& name, auto& p) {
    if (!p.trainable) return;
    detail::NormSum sum(norm_type);
    sum.add(p.grad);
    fn(name, sum.norm());
  });
}

/// Returns (Σ |g|^p)^(1/p) over all gradients as one vector, or 0 if nothing is trained.
/// Throws: ConfigError unless norm_type > 0.
template <class Model>
double grad_norm(Model& model, double norm_type = 2) {
  detail::expect_norm_type("grad_norm", norm_type);
  detail::NormSum total(norm_type);
  model.for_each_parameter("", [&](const auto&, auto& p) {
    if (p.trainable) total.add(p.grad);
  });
  return total.norm();
}

/// Multiplies all gradients by min(1, max_norm / (norm + 1e-6)) and returns `norm`, grad_norm
/// before the call. With NonFinite::scale, an infinite norm turns finite gradients into 0 and
/// infinite ones into NaN, and a NaN norm turns all into NaN.
/// Throws: ConfigError for a negative or NaN max_norm or norm_type ≤ 0; with NonFinite::refuse,
///   Error for a non-finite norm, which names the first such tensor. Nothing changes then.
/// Source: torch.nn.utils.clip_grad_norm_, which sums in the type of the gradient.
template <class Model>
double clip_grad_norm(Model& model, double max_norm, const ClipOptions& options = {}) {
  if (!(max_norm >= 0)) {
    throw ConfigError("clip_grad_norm: max_norm is " + number_text(max_norm) +
                      ", expected a number >= 0");
  }
  detail::expect_norm_type("clip_grad_norm", options.norm_type);
  const double norm = grad_norm(model, options.norm_type);
  if (options.non_finite == NonFinite::refuse && !std::isfinite(norm)) {
    std::string first;
    model.for_each_parameter("", [&first](const NamePath& name, auto& p) {
      if (p.trainable && first.empty() && !p.grad.allFinite()) first = name.str();
    });
    throw Error("clip_grad_norm: the norm of the gradients is " + number_text(norm) +
                ", expected a finite number; " +
                (first.empty() ? "no gradient is non-finite, their sum overflows"
                               : "the first non-finite gradient is that of " + first));
  }
  const double factor = max_norm / (norm + 1e-6);
  if (factor >= 1) return norm;
  model.for_each_parameter("", [factor](const auto&, auto& p) {
    if (p.trainable) p.grad *= static_cast<typename std::decay_t<decltype(p.grad)>::Scalar>(factor);
  });
  return norm;
}

}  // namespace lora
