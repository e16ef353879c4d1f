// A layer's weight that is trained as a whole.
#pragma once

#include <lora/core/parameter.hpp>
#include <lora/layers/pass.hpp>
#include <lora/weights/frozen_weight.hpp>

#include <optional>
#include <string>
#include <vector>

namespace LORA_NAMESPACE {

/// A dense copy of a layer's weight and bias that is trained instead of them: PEFT's
/// modules_to_save, one for each adapter that asks for it, or with the name "__base__" full
/// fine-tuning. The values keep the checkpoint's orientation.
template <class S>
struct TrainedCopy {
  std::string name;
  Parameter<S> weight, bias;
  /// Given by the layer; never used twice in it, so that a tape knows the copy that acted.
  std::uint64_t id = 0;
};

/// The trained copies of one layer.
template <class S>
class TrainedCopies {
 public:
  bool empty() const { return copies_.empty(); }
  std::vector<TrainedCopy<S>>& all() { return copies_; }
  const TrainedCopy<S>* find(const std::string& name) const {
    for (const TrainedCopy<S>& copy : copies_) {
      if (copy.name == name) return &copy;
    }
    return nullptr;
  }
  TrainedCopy<S>* find(const std::string& name) {
    return const_cast<TrainedCopy<S>*>(std::as_const(*this).find(name));
  }
  /// Throws ConfigError when the name is empty, has a dot or is taken.
  TrainedCopy<S>& add(const std::string& name, const Matrix<S>& weight, std::vector<Index> shape,
                      const Matrix<S>& bias) {
    if (name.empty() || name.find('.') != std::string::npos)
      throw ConfigError("a trained copy's name is \"" + name +
                        "\", expected one that is not empty and has no dot");
    if (find(name) != nullptr)
      throw ConfigError("a trained copy called \"" + name + "\" is already there");
    TrainedCopy<S> copy{name, Parameter<S>(weight, std::move(shape), true), Parameter<S>(),
                        ++last_id_};
    if (bias.size() != 0) copy.bias = Parameter<S>::vector(bias, true);
    copies_.push_back(std::move(copy));
    return copies_.back();
  }
  void remove(const std::string& name) {
    std::erase_if(copies_, [&](const TrainedCopy<S>& copy) { return copy.name == name; });
    if (active_ == name) active_.clear();
  }
  /// Calls a copy by a name that is free and valid.
  void rename(const std::string& name, const std::string& new_name) {
    if (TrainedCopy<S>* copy = find(name)) copy->name = new_name;
    if (active_ == name) active_ = new_name;
  }
  /// Removes all copies. Their ids stay used up.
  void clear() {
    copies_.clear();
    active_.clear();
  }
  /// Lets the copy called `name` act; without one of that name the copy of full fine-tuning acts,
  /// if there is one.
  void activate(const std::string& name) { active_ = name; }
  const TrainedCopy<S>* acting() const {
    const TrainedCopy<S>* copy = find(active_);
    return copy != nullptr ? copy : find(base_adapter_name);
  }

 private:
  std::vector<TrainedCopy<S>> copies_;
  std::string active_;
  std::uint64_t last_id_ = 0;
};

}  // namespace LORA_NAMESPACE
