// Stochastic gradient descent with momentum.
#pragma once

#include <lora/optim/optimizer_base.hpp>

#include <cmath>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

namespace lora {

/// The options of SGD, with the names and defaults of torch.optim.SGD.
struct SGDOptions {
  double lr = 1e-3;
  double momentum = 0;
  double dampening = 0;
  double weight_decay = 0;
  bool nesterov = false;
  bool maximize = false;
};

/// SGD in S, with the formula and the order of operations of torch.optim.SGD:
///   d = ±g + λ p,   b ← momentum b + (1 − dampening) d (b = d in a tensor's first update),
///   p ← p − lr d', with d' = d + momentum b if nesterov, else b, or d without momentum.
/// Models, state and thread safety are as for AdamW.
template <class S>
class SGD : public OptimizerBase<S, SGDOptions> {
  using Base = OptimizerBase<S, SGDOptions>;

 public:
  /// Creates the optimiser.
  /// Throws: ConfigError for a negative or non-finite lr, momentum or weight_decay, a non-finite
  ///   dampening, and nesterov without momentum or with dampening.
  explicit SGD(SGDOptions options = {}, std::vector<ParameterGroup> groups = {})
      : Base("SGD", options, std::move(groups),
             options.momentum != 0 ? std::vector<std::string>{"momentum_buffer"}
                                   : std::vector<std::string>{}) {
    detail::OptionCheck{"SGD"}.not_negative("momentum", options.momentum);
    if (!std::isfinite(options.dampening)) {
      throw ConfigError("SGD: dampening is " + number_text(options.dampening) +
                        ", expected a finite number");
    }
    if (options.nesterov && (options.momentum <= 0 || options.dampening != 0)) {
      throw ConfigError("SGD: nesterov needs a momentum > 0 and dampening 0, got momentum " +
                        number_text(options.momentum) + " and dampening " +
                        number_text(options.dampening));
    }
  }

  /// Updates every trainable parameter from its gradient, which stays unchanged.
  /// Throws: as AdamW::step. Nothing changes then.
  /// Allocates: only when the trainable names or their order differ from the previous step.
  template <class Model>
  void step(Model& model) {
    this->table_.step(model, this->groups_, [&](auto& slot, Parameter<S>& p) {
      if (this->options_.momentum == 0) {
        descend(p.value.size(), slot.group, p.grad.data(), p.value.data());
      } else {
        descend(p.value.size(), slot.group, slot.step == 1, p.grad.data(), p.value.data(),
                slot.moments[0].data());
      }
    });
  }

 private:
  S sign() const { return this->options_.maximize ? S(-1) : S(1); }

  void descend(Index n, std::size_t group, const S* __restrict g, S* __restrict p) const {
    const S s = sign(), decay = static_cast<S>(this->groups_.weight_decay(group));
    const S lr = static_cast<S>(this->groups_.lr(group));
    for (Index i = 0; i < n; ++i) p[i] -= lr * (decay != 0 ? s * g[i] + decay * p[i] : s * g[i]);
  }

  void descend(Index n, std::size_t group, bool first, const S* __restrict g, S* __restrict p,
               S* __restrict b) const {
    const S s = sign(), decay = static_cast<S>(this->groups_.weight_decay(group));
    const S lr = static_cast<S>(this->groups_.lr(group)),
            momentum = static_cast<S>(this->options_.momentum);
    const S rest = static_cast<S>(1 - this->options_.dampening);
    const bool nesterov = this->options_.nesterov;
    for (Index i = 0; i < n; ++i) {
      const S d = decay != 0 ? s * g[i] + decay * p[i] : s * g[i];
      b[i] = first ? d : momentum * b[i] + rest * d;
      p[i] -= lr * (nesterov ? d + momentum * b[i] : b[i]);
    }
  }
};

}  // namespace lora
