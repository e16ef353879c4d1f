// The concept of a model whose layers can take adapters.
#pragma once

#include <lora/core/parameter.hpp>
#include <lora/layers/adapter_set.hpp>

#include <concepts>
#include <string>
#include <string_view>
#include <type_traits>

namespace lora {

namespace detail {
/// Stands for "any function of a name and a layer" in the concept below.
struct AnyModuleVisitor {
  template <class Layer>
  void operator()(const NamePath&, Layer&) const {}
};
struct AnyParameterVisitor {
  template <class S>
  void operator()(const NamePath&, Parameter<S>&) const {}
};
}  // namespace detail

/// A model that lists its layers and its tensors by dotted path. `for_each_module(prefix, fn)`
/// calls fn(name, layer) for every layer that can take an adapter (LoRALinear, LoRAEmbedding,
/// LoRAConv2d), in a fixed order. It may list other layers too. `for_each_parameter(prefix, fn)`
/// calls fn(name, Parameter<Scalar>&) for every tensor that is or may become trainable. Copying the
/// model must copy the layers. A minimal example:
///
///     struct TwoLayers {
///       using Scalar = float;
///       lora::LoRALinear<float> up, down;
///       template <class Fn> void for_each_module(const lora::NamePath& prefix, Fn&& fn) {
///         fn(lora::NamePath(prefix, "up"), up);
///         fn(lora::NamePath(prefix, "down"), down);
///       }
///       template <class Fn> void for_each_parameter(const lora::NamePath& prefix, Fn&& fn) {
///         for_each_module(prefix, [&](const lora::NamePath& name, auto& layer) {
///           layer.for_each_parameter(name, fn);
///         });
///       }
///     };
///
/// A model may also have `std::string output_module()`, which names the layer that "all-linear"
/// leaves out, and `std::string model_type()`, which selects the default target_modules.
template <class Base>
concept Adaptable = std::copyable<Base> && requires(Base& base, const NamePath& prefix) {
  typename Base::Scalar;
  base.for_each_module(prefix, detail::AnyModuleVisitor{});
  base.for_each_parameter(prefix, detail::AnyParameterVisitor{});
};

/// A layer that can take adapters.
template <class Layer>
concept AdapterLayer = requires(Layer& layer, const std::string& name) {
  typename Layer::Scalar;
  { layer.adapters() } -> std::same_as<AdapterSet<typename Layer::Scalar>&>;
  layer.add_adapter(name, AdapterOptions{});
  { layer.new_adapter(name, AdapterOptions{}) } -> std::same_as<Adapter<typename Layer::Scalar>>;
  { layer.module_type() } -> std::convertible_to<std::string>;
};

/// Calls fn(name, layer) for every layer of `base` that can take adapters, in the order of
/// for_each_module.
template <class Base, class Fn>
void for_each_adapter_layer(Base& base, Fn&& fn) {
  base.for_each_module("", [&fn](const NamePath& path, auto& layer) {
    if constexpr (AdapterLayer<std::remove_reference_t<decltype(layer)>>) fn(path, layer);
  });
}

/// Whether a tensor's dotted name is that of a bias, by PEFT's rule.
inline bool is_bias_name(std::string_view name) {
  return name == "bias" || name.ends_with(".bias");
}

}  // namespace lora
