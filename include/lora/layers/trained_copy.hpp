// A trainable copy of a layer's whole weight.
#pragma once

#include <lora/core/parameter.hpp>
#include <lora/layers/pass.hpp>
#include <lora/weights/frozen_weight.hpp>

#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace lora {

/// A dense, trainable copy that replaces a layer's weight and bias. Under an adapter's name it is
/// PEFT's modules_to_save; under "__base__" it is full fine-tuning. The values keep the
/// checkpoint's orientation.
template <class S>
struct TrainedCopy {
  std::string name;
  Parameter<S> weight, bias;
  /// Set by the layer, which never reuses an id, so a tape can identify the copy that acted.
  std::uint64_t id = 0;

  /// Trains or freezes the copy at the commit of `change`; see Parameter::prepare_trainable.
  void prepare_trainable(bool train, Transaction& change) {
    weight.prepare_trainable(train, change);
    if (!bias.empty()) bias.prepare_trainable(train, change);
  }
};

/// The trained copies of one layer. A function that throws has changed nothing. prepare_x() defers
/// what x() does to the commit of a Transaction.
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
  /// Adds a copy.
  /// Throws: ConfigError if the name is empty, contains a dot or is taken.
  TrainedCopy<S>& add(std::string name, const Matrix<S>& weight, std::vector<Index> shape,
                      const Matrix<S>& bias) {
    change_at_once([&](Transaction& change) {
      prepare_add(std::move(name), weight, std::move(shape), bias, change);
    });
    return copies_.back();
  }
  void prepare_add(std::string name, const Matrix<S>& weight, std::vector<Index> shape,
                   const Matrix<S>& bias, Transaction& change) {
    if (name.empty() || name.find('.') != std::string::npos)
      throw ConfigError("a trained copy's name is \"" + name +
                        "\", expected one that is not empty and has no dot");
    if (find(name) != nullptr)
      throw ConfigError("a trained copy called \"" + name + "\" is already there");
    TrainedCopy<S> copy{std::move(name), Parameter<S>(weight, std::move(shape), true),
                        Parameter<S>(), last_id_ + 1};
    if (bias.size() != 0) copy.bias = Parameter<S>::vector(bias, true);
    change.set(last_id_, copy.id);
    change.append(copies_, std::move(copy));
  }
  /// Removes the copy of that name, if there is one.
  void remove(std::string name) noexcept { discard(std::move(name)); }
  void prepare_remove(std::string name, Transaction& change) {
    change.then([this, name = std::move(name)]() mutable noexcept { discard(std::move(name)); });
  }
  void discard(std::string name) noexcept {
    if (active_ == name) active_.clear();
    std::erase_if(copies_, [&](const TrainedCopy<S>& copy) { return copy.name == name; });
  }
  /// Renames a copy; the caller has checked that the new name is free and valid.
  void rename(std::string name, std::string new_name) {
    change_at_once([&](Transaction& change) { prepare_rename(name, new_name, change); });
  }
  void prepare_rename(const std::string& name, const std::string& new_name, Transaction& change) {
    if (TrainedCopy<S>* copy = find(name)) change.set(copy->name, new_name);
    if (active_ == name) change.set(active_, new_name);
  }
  /// Removes all copies. Their ids are not reused.
  void clear() noexcept {
    copies_.clear();
    active_.clear();
  }
  /// Makes the copy called `name` act. If there is none, the copy of full fine-tuning acts, if any.
  void activate(std::string name) noexcept { active_ = std::move(name); }
  void prepare_activate(std::string name, Transaction& change) {
    change.set(active_, std::move(name));
  }
  const TrainedCopy<S>* acting() const {
    const TrainedCopy<S>* copy = find(active_);
    return copy != nullptr ? copy : find(base_adapter_name);
  }

 private:
  std::vector<TrainedCopy<S>> copies_;
  std::string active_;
  std::uint64_t last_id_ = 0;
};

}  // namespace lora
