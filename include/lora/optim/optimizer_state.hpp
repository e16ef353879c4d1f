// Keeps an optimiser's state between steps, by the name of the tensor.
#pragma once

#include <lora/core/on_use.hpp>
#include <lora/core/parameter.hpp>
#include <lora/optim/parameter_groups.hpp>

#include <cstddef>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace lora {

/// Everything that an optimiser needs to continue with the same bits, except hyper-parameters.
template <class S>
struct OptimizerState {
  struct Tensor {
    Index step = 0;  ///< number of updates of this tensor
    std::map<std::string, Matrix<S>>
        moments;  ///< by PyTorch's names ("exp_avg", …), each of the value's shape
  };
  Index step = 0;                         ///< number of steps of the optimiser
  std::map<std::string, Tensor> tensors;  ///< by the parameter's name
};

/// How load_state treats a trainable parameter that the state does not name.
enum class MissingState { refuse, start_fresh };

/// The state of one optimiser and its connection to a model: step() finds the slot of each
/// trainable parameter by name. It remembers the order of the last visit, so in steady state
/// finding a slot costs one comparison of names and no allocation. Copies are independent. Not safe
/// to share between threads.
template <class S>
class StateTable {
  using String = OnUse<std::string, S>;

 public:
  struct Slot {
    String name;
    std::size_t group = 0;
    Index rows = 0, cols = 0;
    Index step = 0;
    std::vector<Matrix<S>> moments;  ///< in the order of `kinds`
    Index visit = 0;                 ///< the last step that met this name
  };

  /// Messages begin with `owner`; `kinds` names the matrices kept for each tensor.
  StateTable(String owner, std::vector<String> kinds)
      : owner_(std::move(owner)), kinds_(std::move(kinds)) {}

  /// Runs one step: calls update(slot, parameter) for each trainable parameter of `model` in the
  /// model's order, with this update already counted in slot.step. A new name gets a slot of zeros.
  /// All parameters are found and checked before the first update, and must not move meanwhile.
  /// Throws: ConfigError if two have one name; ShapeError if a gradient or the state has another
  ///   shape than the value. Nothing changes then.
  template <class Model, class Update>
  void step(Model& model, const OnUse<ParameterGroups, S>& groups, Update update) {
    groups.expect_any();
    bound_.clear();
    ++visit_;
    try {
      model.for_each_parameter("", [&](const NamePath& name, Parameter<S>& p) {
        if (p.trainable) bound_.push_back({locate(name, p, groups), &p});
      });
    } catch (...) {
      drop_unused();
      throw;
    }
    for (const Bound& bound : bound_) {
      Slot& slot = slots_[bound.slot];
      ++slot.step;
      update(slot, *bound.parameter);
    }
    ++steps_;
  }

  Index steps() const { return steps_; }

  /// Returns a copy of the whole state.
  OptimizerState<S> snapshot() const {
    OptimizerState<S> state;
    state.step = steps_;
    for (const Slot& slot : slots_) {
      auto& tensor = state.tensors[slot.name];
      tensor.step = slot.step;
      for (std::size_t k = 0; k < kinds_.size(); ++k) tensor.moments[kinds_[k]] = slot.moments[k];
    }
    return state;
  }

  /// Replaces the whole state.
  /// Throws: ConfigError that lists everything that does not fit the model: names that it does not
  ///   have, trainable ones without state (unless start_fresh), and moments that are unknown,
  ///   missing or of another shape. Nothing changes then.
  template <class Model>
  void restore(const OptimizerState<S>& state, Model& model,
               const OnUse<ParameterGroups, S>& groups, MissingState missing) {
    std::vector<Slot> fresh;
    std::map<String, std::size_t> index;
    String faults;
    if (state.step < 0 || state.step > Index{1} << 53)  // leaves room to count further steps
      faults += "\n  step is " + std::to_string(state.step) + ", expected 0 to 2^53";
    std::set<String> known;
    // Before the first step there is no state to miss.
    const bool may_miss = missing == MissingState::start_fresh || state.step == 0;
    model.for_each_parameter("", [&](const NamePath& path, Parameter<S>& p) {
      const std::string name = path.str();
      if (!known.insert(name).second) return;  // step() rejects the second one
      const auto found = state.tensors.find(name);
      if (found == state.tensors.end()) {
        if (p.trainable && !may_miss) faults += "\n  missing: " + name;
        return;
      }
      faults += faults_of(name, found->second, p.value, state.step);
      index[name] = fresh.size();
      fresh.push_back(new_slot(name, p, groups));
      fresh.back().step = found->second.step;
      for (std::size_t k = 0; k < kinds_.size(); ++k) {
        const auto moment = found->second.moments.find(kinds_[k]);
        if (moment != found->second.moments.end()) fresh.back().moments[k] = moment->second;
      }
    });
    for (const auto& [name, tensor] : state.tensors) {
      if (known.count(name) == 0) faults += "\n  unknown: " + name;
    }
    if (!faults.empty()) {
      throw ConfigError(owner_ + "::load_state: the state does not fit the model:" + faults);
    }
    slots_ = std::move(fresh);
    index_ = std::move(index);
    order_.clear();
    steps_ = state.step;
    visit_ = 0;
  }

  /// Forgets the names that `model` no longer lists, frozen or not, or lists with another shape, so
  /// that a reused name starts from zero.
  template <class Model>
  void prune(Model& model) {
    std::map<String, std::pair<Index, Index>> known;
    model.for_each_parameter("", [&](const NamePath& name, Parameter<S>& p) {
      known[name.str()] = {p.value.rows(), p.value.cols()};
    });
    const auto stays = [&known](const Slot& slot) {
      const auto found = known.find(slot.name);
      return found != known.end() && found->second == std::pair(slot.rows, slot.cols);
    };
    std::map<String, std::size_t> index;
    for (const Slot& slot : slots_) {
      if (stays(slot)) index.emplace(slot.name, index.size());
    }
    // From here on nothing throws.
    std::erase_if(slots_, [&stays](const Slot& slot) { return !stays(slot); });
    index_ = std::move(index);
    order_.clear();
  }

 private:
  struct Bound {
    std::size_t slot;
    Parameter<S>* parameter;
  };

  Slot new_slot(const std::string& name, const Parameter<S>& p,
                const OnUse<ParameterGroups, S>& groups) const {
    Slot slot;
    slot.name = name;
    slot.group = groups.find(name, p.shape);
    slot.rows = p.value.rows();
    slot.cols = p.value.cols();
    slot.moments.assign(kinds_.size(), Matrix<S>::Zero(slot.rows, slot.cols));
    return slot;
  }

  /// Returns the slot of the parameter visited as number bound_.size().
  std::size_t locate(const NamePath& path, const Parameter<S>& p,
                     const OnUse<ParameterGroups, S>& groups) {
    const std::size_t position = bound_.size();
    if (position == order_.size()) order_.push_back(slots_.size());
    std::size_t& k = order_[position];
    if (k >= slots_.size() || !(path == slots_[k].name)) {
      const std::string name = path.str();
      const auto found = index_.find(name);
      if (found != index_.end()) {
        k = found->second;
      } else {
        k = slots_.size();
        slots_.push_back(new_slot(name, p, groups));
        index_[name] = k;
      }
    }
    check(slots_[k], p);
    slots_[k].visit = visit_;
    return k;
  }

  void check(const Slot& slot, const Parameter<S>& p) const {
    const Index rows = p.value.rows(), cols = p.value.cols();
    if (slot.visit == visit_) {
      throw ConfigError(owner_ + "::step: two trainable parameters are called \"" + slot.name +
                        "\", expected each name once");
    }
    if (p.grad.rows() != rows || p.grad.cols() != cols) {
      throw ShapeError(owner_ + "::step: the gradient of " + slot.name + " is " +
                       shape_text(p.grad.rows(), p.grad.cols()) + ", expected " +
                       shape_text(rows, cols) + " as its value");
    }
    if (slot.rows != rows || slot.cols != cols) {
      throw ShapeError(owner_ + "::step: " + slot.name + " is " + shape_text(rows, cols) +
                       ", expected " + shape_text(slot.rows, slot.cols) +
                       " as in the steps before; prune() forgets what a model no longer has");
    }
  }

  std::string faults_of(const std::string& name, const typename OptimizerState<S>::Tensor& tensor,
                        const Matrix<S>& value, Index steps) const {
    String faults;
    if (tensor.step < 1 || tensor.step > steps) {
      faults += "\n  " + name + ": step is " + std::to_string(tensor.step) + ", expected 1 to " +
                std::to_string(steps) + ", the optimiser's step";
    }
    for (const std::string& kind : kinds_) {
      const auto found = tensor.moments.find(kind);
      if (found == tensor.moments.end()) {
        faults += "\n  missing: " + name + ", " + kind;
      } else if (found->second.rows() != value.rows() || found->second.cols() != value.cols()) {
        faults += "\n  " + name + ", " + kind + " is " +
                  shape_text(found->second.rows(), found->second.cols()) + ", expected " +
                  shape_text(value.rows(), value.cols());
      }
    }
    for (const auto& [kind, moment] : tensor.moments) {
      bool known = false;
      for (const std::string& k : kinds_) known = known || k == kind;
      if (!known) faults += "\n  unknown: " + name + ", " + kind;
    }
    return faults;
  }

  /// Removes the slots that a failed step added.
  void drop_unused() {
    while (!slots_.empty() && slots_.back().step == 0) {
      index_.erase(slots_.back().name);
      slots_.pop_back();
    }
    order_.clear();
    bound_.clear();
  }

  String owner_;
  std::vector<String> kinds_;
  std::vector<Slot> slots_;  ///< in the order in which the names were first seen
  std::map<String, std::size_t> index_;
  std::vector<std::size_t> order_;  ///< slot of the k-th trainable parameter of the last visit
  std::vector<Bound> bound_;
  Index steps_ = 0;
  Index visit_ = 0;
};

}  // namespace lora
