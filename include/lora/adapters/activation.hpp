// Which tensors of a model act and are trained, given the adapters that are active.
#pragma once

#include <lora/adapters/adaptable.hpp>
#include <lora/layers/trained_copy.hpp>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

namespace LORA_NAMESPACE {

/// What activation needs to know of an active adapter.
struct ActiveAdapter {
  std::string name;
  bool inference_mode = false;  ///< it acts, but is not trained
  std::string bias = "none";    ///< the biases of the base that it trains
};

namespace detail {

template <class S>
void train_copy(TrainedCopy<S>& copy, bool train) {
  copy.weight.set_trainable(train);
  if (!copy.bias.empty()) copy.bias.set_trainable(train);
}

template <class Layer>
void activate_on_layer(Layer& layer, const std::vector<ActiveAdapter>& active,
                       const std::string& bias) {
  std::vector<std::string> own;
  for (const ActiveAdapter& adapter : active) {
    if (layer.adapters().contains(adapter.name)) own.push_back(adapter.name);
  }
  layer.adapters().set_active(own);
  auto& copies = layer.trained_copies();
  copies.activate({});
  for (auto& copy : copies.all()) {
    if (copy.name != base_adapter_name) train_copy(copy, false);
  }
  bool copy_acts = false;
  for (const ActiveAdapter& adapter : active) {
    if (auto* low_rank = layer.adapters().find(adapter.name))
      low_rank->set_trainable(!adapter.inference_mode);
    auto* copy = copies.find(adapter.name);
    if (copy == nullptr || copy_acts) continue;
    copy_acts = true;
    copies.activate(adapter.name);
    train_copy(*copy, !adapter.inference_mode);
  }
  // A bias that a copy replaces has no gradient, and weight decay must not move it unseen.
  const bool bias_trained = bias == "all" || (bias == "lora_only" && !own.empty());
  if (!layer.bias().empty()) layer.bias().set_trainable(bias_trained && !copy_acts);
}

/// Trains or freezes the biases of what is no layer for adapters, such as a norm.
template <class Base>
void train_other_biases(Base& base, bool train) {
  std::set<const void*> of_layers;
  for_each_adapter_layer(base, [&](const NamePath&, auto& layer) {
    layer.for_each_parameter("", [&](const auto&, auto& p) { of_layers.insert(&p); });
  });
  base.for_each_parameter("", [&](const NamePath& path, auto& p) {
    if (of_layers.count(&p) == 0 && is_bias_name(path.str())) p.set_trainable(train);
  });
}

}  // namespace detail

/// Makes these adapters, in this order, the active ones of every layer that has them. Their tensors
/// are trained unless they are for inference, all other adapters are frozen, and the base's biases
/// but for those that the adapters' `bias` names. Of several trained copies of one layer the first
/// one acts and is trained. Source: PEFT's set_adapter and _mark_only_adapters_as_trainable.
template <Adaptable Base>
void activate_adapters(Base& base, const std::vector<ActiveAdapter>& active) {
  std::string bias = "none";
  for (const ActiveAdapter& adapter : active) {
    if (!adapter.inference_mode && adapter.bias != "none") bias = adapter.bias;
  }
  for_each_adapter_layer(
      base, [&](const NamePath&, auto& layer) { detail::activate_on_layer(layer, active, bias); });
  detail::train_other_biases(base, bias == "all");
}

/// Trains or freezes all tensors of one adapter, whether it is active or not.
template <Adaptable Base>
void train_adapter(Base& base, const std::string& name, bool train) {
  for_each_adapter_layer(base, [&](const NamePath&, auto& layer) {
    if (auto* adapter = layer.adapters().find(name)) adapter->set_trainable(train);
    if (auto* copy = layer.trained_copies().find(name)) detail::train_copy(*copy, train);
  });
}

/// Lets a model's adapters act again, if they did, at the end of its life. Must not outlive the
/// model, nor the model be moved meanwhile.
template <class Model>
class [[nodiscard]] DisableGuard {
 public:
  explicit DisableGuard(Model& model) : model_(model), was_enabled_(model.enabled()) {
    model_.set_enabled(false);
  }
  DisableGuard(const DisableGuard&) = delete;
  DisableGuard& operator=(const DisableGuard&) = delete;
  ~DisableGuard() { model_.set_enabled(was_enabled_); }

 private:
  Model& model_;
  bool was_enabled_;
};

}  // namespace LORA_NAMESPACE
