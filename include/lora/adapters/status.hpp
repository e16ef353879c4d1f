// Reports which adapters are on which layers of a model, and in what state.
#pragma once

#include <lora/adapters/adaptable.hpp>
#include <lora/core/on_use.hpp>
#include <lora/layers/adapter_set.hpp>
#include <lora/layers/trained_copy.hpp>

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace lora {

/// The status of one adapted layer.
/// Source: PEFT's get_layer_status.
struct LayerStatus {
  std::string name;
  std::string module_type;  ///< "lora.Linear" (Conv1D's too), "lora.Embedding", "lora.Conv2d"
  bool enabled = true;
  /// Only those on this layer, in the order in which they act. PEFT also lists active adapters that
  /// the layer does not have.
  std::vector<std::string> active_adapters, merged_adapters;
  std::vector<std::string> available_adapters;  ///< sorted
  /// By adapter; empty if only some of its tensors are trained.
  std::map<std::string, std::optional<bool>> requires_grad;
};

/// The status of a whole model. An empty optional means that the layers with the adapter differ
/// ("irregular" in PEFT).
/// Source: PEFT's get_model_status.
struct ModelStatus {
  Index trainable_params = 0, total_params = 0, num_adapter_layers = 0;
  std::optional<bool> enabled;
  std::optional<std::vector<std::string>> active_adapters, merged_adapters;
  std::map<std::string, std::optional<bool>> requires_grad;
  std::vector<std::string> available_adapters;  ///< sorted
};

/// Returns the status of a layer called `name`; Layer is an AdapterLayer.
template <class Layer>
LayerStatus layer_status(const std::string& name, const Layer& layer) {
  const std::string type = layer.module_type();
  const auto& adapters = layer.adapters();
  OnUse<LayerStatus, Layer> status;
  status.name = name;
  status.module_type = "lora." + (type == "Conv1D" ? std::string("Linear") : type);
  status.enabled = adapters.enabled();
  status.active_adapters = adapters.active();
  status.merged_adapters = adapters.merged();
  status.available_adapters = adapters.names();
  std::sort(status.available_adapters.begin(), status.available_adapters.end());
  for (const auto& adapter : adapters.all()) {
    std::optional<bool>& trained = status.requires_grad[adapter.name];
    trained = adapter.A.trainable;
    bool alike = true;
    adapter.for_each_tensor(
        [&](const auto& tensor) { alike = alike && tensor.trainable == *trained; });
    if (!alike) trained.reset();
  }
  return status;
}

namespace detail {

/// Returns all names of one kind, in the order of the layers. Empty if a layer has one of these
/// adapters, but not as that kind.
template <class Layer>
std::optional<std::vector<std::string>> common_names(const std::vector<Layer>& layers,
                                                     std::vector<std::string> Layer::*kind) {
  std::vector<std::string> all;
  const auto has = [](const std::vector<std::string>& names, const std::string& name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  for (const Layer& layer : layers) {
    for (const std::string& name : layer.*kind) {
      if (!has(all, name)) all.push_back(name);
    }
  }
  for (const Layer& layer : layers) {
    for (const std::string& name : layer.available_adapters) {
      if (has(all, name) && !has(layer.*kind, name)) return std::nullopt;
    }
  }
  return all;
}

}  // namespace detail

/// Summarizes the layers. Of the three counts, sets only the number of layers. Without layers,
/// nothing is active, merged or irregular.
template <class Tag = void>
ModelStatus summarize(const std::vector<OnUse<LayerStatus, Tag>>& layers) {
  OnUse<ModelStatus, Tag> status;
  status.num_adapter_layers = static_cast<Index>(layers.size());
  status.enabled = layers.empty() || layers.front().enabled;
  status.active_adapters = detail::common_names(layers, &LayerStatus::active_adapters);
  status.merged_adapters = detail::common_names(layers, &LayerStatus::merged_adapters);
  for (const LayerStatus& layer : layers) {
    if (layer.enabled != layers.front().enabled) status.enabled.reset();
    for (const auto& [name, trained] : layer.requires_grad) {
      const auto place = status.requires_grad.emplace(name, trained).first;
      if (place->second != trained) place->second.reset();
    }
  }
  for (const auto& [name, trained] : status.requires_grad)
    status.available_adapters.push_back(name);
  return status;
}

/// Returns the numbers of (trained, all) elements of a model, including its frozen weights. A
/// weight that several layers share counts once. Base is Adaptable.
template <class Base>
std::pair<Index, Index> count_with_frozen(Base& base) {
  using Weight = FrozenWeight<typename Base::Scalar>;
  const ParameterCount counted = count_parameters(base);
  Index all = counted.listed;
  std::vector<Weight> seen;
  for_each_adapter_layer(base, [&](const NamePath&, auto& layer) {
    const auto same = [&](const Weight& w) { return w.shares_storage_with(layer.weight()); };
    if (layer.frozen_size() == 0 || std::any_of(seen.begin(), seen.end(), same)) return;
    seen.push_back(layer.weight());
    all += layer.frozen_size();
  });
  return {counted.trainable, all};
}

/// Formats the line that PEFT prints:
/// "trainable params: 1,234 || all params: 56,789 || trainable%: 2.1730".
inline std::string trainable_text(Index trainable, Index all) {
  const double share =
      all == 0 ? 0.0 : 100.0 * static_cast<double>(trainable) / static_cast<double>(all);
  std::string text("trainable params: ");
  text += grouped_text(static_cast<std::uint64_t>(trainable)) +
          " || all params: " + grouped_text(static_cast<std::uint64_t>(all)) +
          " || trainable%: " + fixed_text(share, 4);
  return text;
}

}  // namespace lora
