// The base of all optimisers: learning rates, options, and state kept by name.
#pragma once

#include <lora/optim/optimizer_state.hpp>

#include <string>
#include <utility>
#include <vector>

namespace lora {

/// The base of an optimiser. Options has `lr` and `weight_decay`. Copies are independent.
/// Threads: not safe to share.
template <class S, class Options>
class OptimizerBase {
 public:
  /// Sets the factor of all learning rates: each group uses its own rate times `factor`; see
  /// LRSchedule::factor. The factor is not part of the state.
  /// Throws: ConfigError unless the factor is finite and not negative.
  void set_lr_factor(double factor) { groups_.set_lr_factor(factor); }
  /// Returns the learning rate of the parameters in no group for the next step.
  double lr() const { return groups_.lr(groups_.size() - 1); }
  const ParameterGroups& groups() const { return groups_; }
  const Options& options() const { return options_; }

  /// Returns the number of steps so far, including those before a loaded state.
  Index steps() const { return table_.steps(); }

  /// Returns a copy of the state: the optimiser's matrices for each name, under PyTorch's names.
  OptimizerState<S> state() const { return table_.snapshot(); }
  /// Continues from `state` with the bits of an uninterrupted run.
  /// Throws: ConfigError that lists everything that does not fit (unknown, missing or misshapen
  ///   entries). Nothing changes then.
  template <class Model>
  void load_state(const OptimizerState<S>& state, Model& model,
                  MissingState missing = MissingState::refuse) {
    table_.restore(state, model, groups_, missing);
  }
  /// Forgets names that `model` no longer lists or lists with another shape, for instance after an
  /// adapter was deleted.
  template <class Model>
  void prune(Model& model) {
    table_.prune(model);
  }

 protected:
  /// Messages begin with `name`; `matrices` names the matrices kept for each tensor.
  OptimizerBase(const char* name, const Options& options, std::vector<ParameterGroup> groups,
                std::vector<std::string> matrices)
      : options_(options),
        groups_(name, options.lr, options.weight_decay, std::move(groups)),
        table_(name, std::move(matrices)) {}
  ~OptimizerBase() = default;
  OptimizerBase(const OptimizerBase&) = default;
  OptimizerBase(OptimizerBase&&) noexcept = default;
  OptimizerBase& operator=(const OptimizerBase&) = default;
  OptimizerBase& operator=(OptimizerBase&&) noexcept = default;

  Options options_;
  OnUse<ParameterGroups, S> groups_;
  StateTable<S> table_;
};

}  // namespace lora
