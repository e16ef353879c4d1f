// Stochastic gradient descent with momentum.
#pragma once

#include <lora/optim/optimizer_state.hpp>

#include <cmath>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

namespace lora {

/// torch.optim.SGD's options and defaults.
struct SGDOptions {
  double lr = 1e-3;
  double momentum = 0;
  double dampening = 0;
  double weight_decay = 0;
  bool nesterov = false;
  bool maximize = false;
};

/// SGD with the formula and the order of operations of torch.optim.SGD, in S:
///   d = ±g + λ p,   b ← momentum b + (1 − dampening) d (b = d in a tensor's first update),
///   p ← p − lr d', with d' = d + momentum b if nesterov, else b, or d without momentum.
/// What it works on, its state by name and its thread safety are AdamW's.
template <class S>
class SGD {
 public:
  /// Throws ConfigError for a negative or non-finite lr, momentum or weight_decay, a dampening that
  /// is not finite, and nesterov without momentum or with dampening.
  explicit SGD(SGDOptions options = {}, std::vector<ParameterGroup> groups = {})
      : options_(options),
        groups_("SGD", options.lr, options.weight_decay, std::move(groups)),
        table_("SGD", options.momentum != 0 ? std::vector<std::string>{"momentum_buffer"}
                                            : std::vector<std::string>{}) {
    detail::expect_not_negative("SGD", "momentum", options.momentum);
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

  /// One update of every trainable parameter from its gradient, which stays as it is. Allocates
  /// only when the trainable names or their order differ from the step before. Throws as
  /// AdamW::step does; then nothing has changed.
  template <class Model>
  void step(Model& model) {
    table_.step(model, groups_, [&](auto& slot, Parameter<S>& p) {
      if (options_.momentum == 0) {
        descend(p.value.size(), slot.group, p.grad.data(), p.value.data());
      } else {
        descend(p.value.size(), slot.group, slot.step == 1, p.grad.data(), p.value.data(),
                slot.moments[0].data());
      }
    });
  }

  /// See AdamW::set_lr_factor.
  void set_lr_factor(double factor) { groups_.set_lr_factor(factor); }
  /// The learning rate of the parameters in no group, as the next step uses it.
  double lr() const { return groups_.lr(groups_.size() - 1); }
  const ParameterGroups& groups() const { return groups_; }
  const SGDOptions& options() const { return options_; }
  /// Calls of step() so far, those before a loaded state included.
  Index steps() const { return table_.steps(); }

  /// A copy of the state: with momentum the "momentum_buffer" of each name.
  OptimizerState<S> state() const { return table_.snapshot(); }
  /// See AdamW::load_state.
  template <class Model>
  void load_state(const OptimizerState<S>& state, Model& model,
                  MissingState missing = MissingState::refuse) {
    table_.restore(state, model, groups_, missing);
  }
  /// See AdamW::prune.
  template <class Model>
  void prune(Model& model) {
    table_.prune(model);
  }

 private:
  S sign() const { return options_.maximize ? S(-1) : S(1); }

  void descend(Index n, std::size_t group, const S* __restrict g, S* __restrict p) const {
    const S s = sign(), decay = static_cast<S>(groups_.weight_decay(group));
    const S lr = static_cast<S>(groups_.lr(group));
    for (Index i = 0; i < n; ++i) p[i] -= lr * (decay != 0 ? s * g[i] + decay * p[i] : s * g[i]);
  }

  void descend(Index n, std::size_t group, bool first, const S* __restrict g, S* __restrict p,
               S* __restrict b) const {
    const S s = sign(), decay = static_cast<S>(groups_.weight_decay(group));
    const S lr = static_cast<S>(groups_.lr(group)), momentum = static_cast<S>(options_.momentum);
    const S rest = static_cast<S>(1 - options_.dampening);
    const bool nesterov = options_.nesterov;
    for (Index i = 0; i < n; ++i) {
      const S d = decay != 0 ? s * g[i] + decay * p[i] : s * g[i];
      b[i] = first ? d : momentum * b[i] + rest * d;
      p[i] -= lr * (nesterov ? d + momentum * b[i] : b[i]);
    }
  }

  SGDOptions options_;
  OnUse<ParameterGroups, S> groups_;
  StateTable<S> table_;
};

}  // namespace lora
