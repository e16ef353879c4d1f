// Sets which tensors of a model act and which are trained, given the active adapters.
#pragma once

#include <lora/adapters/adaptable.hpp>
#include <lora/layers/merging.hpp>
#include <lora/layers/trained_copy.hpp>

#include <algorithm>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace lora {

/// What activation needs to know about an active adapter.
struct ActiveAdapter {
  std::string name;
  bool inference_mode = false;  ///< acts, but is not trained
  std::string bias = "none";    ///< which biases of the base it trains
};

namespace detail {

template <class Layer>
void prepare_activation_on_layer(Layer& layer, const std::vector<ActiveAdapter>& active,
                                 const std::string& bias, Transaction& change) {
  std::vector<std::string> own;
  const ActiveAdapter* with_copy = nullptr;  // the first one with a copy here
  for (const ActiveAdapter& adapter : active) {
    if (layer.adapters().contains(adapter.name)) own.push_back(adapter.name);
    if (with_copy == nullptr && layer.trained_copies().find(adapter.name) != nullptr)
      with_copy = &adapter;
  }
  const bool bias_trained = bias == "all" || (bias == "lora_only" && !own.empty());
  layer.adapters().prepare_active(std::move(own), change);
  for (auto& adapter : layer.adapters().all()) {
    const auto trains = [&adapter](const ActiveAdapter& one) {
      return one.name == adapter.name && !one.inference_mode;
    };
    adapter.prepare_trainable(std::any_of(active.begin(), active.end(), trains), change);
  }
  auto& copies = layer.trained_copies();
  copies.prepare_activate(with_copy != nullptr ? with_copy->name : std::string(), change);
  for (auto& copy : copies.all()) {
    if (copy.name == base_adapter_name) continue;
    const bool acts = with_copy != nullptr && copy.name == with_copy->name;
    copy.prepare_trainable(acts && !with_copy->inference_mode, change);
  }
  // A bias that a copy replaces gets no gradient, and weight decay must not change it silently.
  if (!layer.bias().empty())
    layer.bias().prepare_trainable(bias_trained && with_copy == nullptr, change);
}

/// Prepares to train or freeze the biases outside the adaptable layers, such as those of norms.
template <class Base>
void prepare_other_biases(Base& base, bool train, Transaction& change) {
  std::set<const void*> of_layers;
  for_each_adapter_layer(base, [&](const NamePath&, auto& layer) {
    layer.for_each_parameter("", [&](const auto&, auto& p) { of_layers.insert(&p); });
  });
  base.for_each_parameter("", [&](const NamePath& path, auto& p) {
    if (of_layers.count(&p) == 0 && is_bias_name(path.str())) p.prepare_trainable(train, change);
  });
}

}  // namespace detail

/// Prepares to activate these adapters, in this order, on every layer that has them. Trains their
/// tensors unless inference_mode is set. Freezes all other adapters, and the base's biases except
/// those that the adapters' `bias` selects. Of several trained copies of a layer, the first acts
/// and is trained.
/// Source: PEFT's set_adapter and _mark_only_adapters_as_trainable.
template <Adaptable Base>
void prepare_activation(Base& base, const std::vector<ActiveAdapter>& active, Transaction& change) {
  std::string bias = "none";
  for (const ActiveAdapter& adapter : active) {
    if (!adapter.inference_mode && adapter.bias != "none") bias = adapter.bias;
  }
  for_each_adapter_layer(base, [&](const NamePath&, auto& layer) {
    detail::prepare_activation_on_layer(layer, active, bias, change);
  });
  detail::prepare_other_biases(base, bias == "all", change);
}

/// Does prepare_activation() at once. Changes nothing if it throws.
template <Adaptable Base>
void activate_adapters(Base& base, const std::vector<ActiveAdapter>& active) {
  change_at_once([&](Transaction& change) { prepare_activation(base, active, change); });
}

/// Prepares to train or freeze all tensors of one adapter, active or not.
template <Adaptable Base>
void prepare_training(Base& base, const std::string& name, bool train, Transaction& change) {
  for_each_adapter_layer(base, [&](const NamePath&, auto& layer) {
    if (auto* adapter = layer.adapters().find(name)) adapter->prepare_trainable(train, change);
    if (auto* copy = layer.trained_copies().find(name)) copy->prepare_trainable(train, change);
  });
}

/// Does prepare_training() at once. Changes nothing if it throws.
template <Adaptable Base>
void train_adapter(Base& base, const std::string& name, bool train) {
  change_at_once([&](Transaction& change) { prepare_training(base, name, train, change); });
}

/// Prepares to merge those of the named adapters that the layer has.
/// Throws: as prepare_merge(), with the layer's name.
template <class Layer>
void prepare_merge_on_layer(const NamePath& path, Layer& layer, std::vector<std::string> names,
                            SafeMerge safe, Transaction& change) {
  std::erase_if(names, [&](const auto& name) { return !layer.adapters().contains(name); });
  if (names.empty()) return;
  try {
    layer.prepare_merge(names, safe, change);
  } catch (const ConfigError& error) {
    throw ConfigError(path.str() + ": " + error.what());
  } catch (const Error& error) {
    throw Error(path.str() + ": " + error.what());
  }
}

/// Disables a model's adapters. Its destructor restores the previous state and cannot fail. The
/// guard must not outlive the model, and the model and its layers must not be moved meanwhile.
template <class Model>
class [[nodiscard]] DisableGuard {
 public:
  explicit DisableGuard(Model& model) {
    model.prepare_enabled(model.enabled(), as_before_);
    model.set_enabled(false);
  }
  DisableGuard(const DisableGuard&) = delete;
  DisableGuard& operator=(const DisableGuard&) = delete;
  ~DisableGuard() { as_before_.commit(); }

 private:
  Transaction as_before_;
};

}  // namespace lora
