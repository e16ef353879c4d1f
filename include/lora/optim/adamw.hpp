// AdamW: Adam with decoupled weight decay.
#pragma once

#include <lora/core/check.hpp>
#include <lora/core/parallel.hpp>
#include <lora/kernels/dispatch.hpp>
#include <lora/optim/optimizer_base.hpp>

#include <array>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

namespace lora {

/// The options of AdamW, with the names and defaults of torch.optim.AdamW.
struct AdamWOptions {
  double lr = 1e-3;
  std::array<double, 2> betas = {0.9, 0.999};
  double eps = 1e-8;
  double weight_decay = 1e-2;
  bool amsgrad = false;
  bool maximize = false;
};

/// AdamW in S, with the formula and the order of operations of torch.optim.AdamW:
///   p ← (1 − lr λ) p,   m ← m + (1−β1)(g − m),   v ← β2 v + (1−β2) g²,
///   p ← p − lr/(1−β1^t) · m / (√v / √(1−β2^t) + eps)
/// With amsgrad, the largest v so far replaces v under the root.
///
///   AdamW<float> optimizer({.lr = 1e-4, .weight_decay = 0.01});
///   for (const Batch& batch : batches) {
///     zero_grad(model);
///     compute_gradients(model, batch);  // a forward, a loss and a backward
///     clip_grad_norm(model, 1.0);
///     optimizer.step(model);
///   }
///
/// Works on any object whose for_each_parameter(prefix, fn) calls fn(const NamePath&,
/// Parameter<S>&) and whose parameters do not move during a step. Skips frozen parameters. State
/// belongs to a parameter's name. As in PyTorch, t counts the updates of one tensor, so a tensor
/// that becomes trainable later starts its own bias correction. Copies are independent.
/// Threads: not safe to share.
/// Source: Loshchilov and Hutter, 2019; amsgrad of Reddi, Kale and Kumar, 2018.
template <class S>
class AdamW : public OptimizerBase<S, AdamWOptions> {
  using Base = OptimizerBase<S, AdamWOptions>;

 public:
  /// Creates the optimiser. A parameter belongs to the first group that contains it.
  /// Throws: ConfigError for options that PyTorch rejects: lr, eps and weight_decay must be ≥ 0,
  ///   betas in [0, 1).
  explicit AdamW(AdamWOptions options = {}, std::vector<ParameterGroup> groups = {})
      : Base("AdamW", options, std::move(groups),
             options.amsgrad ? std::vector<std::string>{"exp_avg", "exp_avg_sq", "max_exp_avg_sq"}
                             : std::vector<std::string>{"exp_avg", "exp_avg_sq"}) {
    const detail::OptionCheck check{"AdamW"};
    check.not_negative("eps", options.eps);
    check.below_one("betas[0]", options.betas[0]);
    check.below_one("betas[1]", options.betas[1]);
  }

  /// Updates every trainable parameter from its gradient, which stays unchanged. Non-finite
  /// gradients enter values and state as in PyTorch; see gradients_finite().
  /// Throws: ConfigError for two parameters of one name; ShapeError for a parameter whose shape has
  ///   changed. Nothing changes then.
  /// Allocates: only when the trainable names or their order differ from the previous step.
  template <class Model>
  void step(Model& model) {
    const auto update = kernels::adamw_kernel<S>();
    this->table_.step(model, this->groups_, [&](auto& slot, Parameter<S>& p) {
      const auto c = coefficients(slot.group, slot.step);
      parallel_for(p.value.size(), 1 << 15, [&](Index begin, Index end) {
        S* v_max = this->options_.amsgrad ? slot.moments[2].data() + begin : nullptr;
        update(end - begin, c, p.grad.data() + begin, p.value.data() + begin,
               slot.moments[0].data() + begin, slot.moments[1].data() + begin, v_max);
      });
    });
  }

 private:
  /// Computes the coefficients in double and rounds them where they meet the tensor, as PyTorch
  /// does.
  kernels::AdamWCoefficients<S> coefficients(std::size_t group, Index t) const {
    const double lr = this->groups_.lr(group), n = static_cast<double>(t);
    const double beta1 = this->options_.betas[0], beta2 = this->options_.betas[1];
    kernels::AdamWCoefficients<S> c{};
    c.decay = static_cast<S>(1 - lr * this->groups_.weight_decay(group));
    c.sign = this->options_.maximize ? S(-1) : S(1);
    c.one_minus_beta1 = static_cast<S>(1 - beta1);
    c.beta2 = static_cast<S>(beta2);
    c.one_minus_beta2 = static_cast<S>(1 - beta2);
    c.root_correction2 = static_cast<S>(std::sqrt(1 - std::pow(beta2, n)));
    c.eps = static_cast<S>(this->options_.eps);
    c.step_size = static_cast<S>(lr / (1 - std::pow(beta1, n)));
    return c;
  }
};

}  // namespace lora
