// What every optimiser is to its user beside step(): rates, options, and state kept by name.
#pragma once

#include <lora/optim/optimizer_state.hpp>

#include <string>
#include <utility>
#include <vector>

namespace lora {

/// The base of an optimiser with these Options, which have `lr` and `weight_decay`. Copies are
/// independent. Threads: one at a time. Not for use by itself.
template <class S, class Options>
class OptimizerBase {
 public:
  /// From now on each group's learning rate is its own times `factor`; see LRSchedule::factor. The
  /// factor is not part of the state.
  /// Throws: ConfigError unless it is finite and not negative.
  void set_lr_factor(double factor) { groups_.set_lr_factor(factor); }
  /// The learning rate of the parameters in no group, as the next step uses it.
  double lr() const { return groups_.lr(groups_.size() - 1); }
  const ParameterGroups& groups() const { return groups_; }
  const Options& options() const { return options_; }

  /// Calls of step() so far, those before a loaded state included.
  Index steps() const { return table_.steps(); }

  /// A copy of the state: the optimiser's matrices for each name, under PyTorch's names.
  OptimizerState<S> state() const { return table_.snapshot(); }
  /// Goes on from `state` with the bits that an uninterrupted run would have.
  /// Throws: ConfigError listing all that does not fit (unknown, missing or misshapen entries);
  /// then nothing has changed.
  template <class Model>
  void load_state(const OptimizerState<S>& state, Model& model,
                  MissingState missing = MissingState::refuse) {
    table_.restore(state, model, groups_, missing);
  }
  /// Forgets names that `model` no longer lists or lists with another shape (an adapter was
  /// deleted).
  template <class Model>
  void prune(Model& model) {
    table_.prune(model);
  }

 protected:
  /// `name` begins the messages; `matrices` names what is kept of each tensor.
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
