// Combines several adapters of a model into a new one.
#pragma once

#include <lora/adapters/combine.hpp>
#include <lora/adapters/combined_config.hpp>
#include <lora/adapters/lora_model.hpp>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

namespace lora {

namespace detail {

/// The new adapter's factors on one layer.
template <class S>
struct CombinedLayer {
  std::string path;
  LowRankFactors<S> factors;
};

/// Returns the factors of an adapter on any kind of layer. An embedding's A (R, V) and B (D, R)
/// change the transposed table.
template <class Layer>
LowRankFactors<typename Layer::Scalar> factors_of(const Layer& layer,
                                                  const Adapter<typename Layer::Scalar>& adapter) {
  expect_low_rank_alone(adapter, "combined");
  LowRankFactors<typename Layer::Scalar> factors{adapter.A.value, adapter.B.value, adapter.scaling};
  if constexpr (requires { layer.options().groups; }) factors.groups = layer.options().groups;
  return factors;
}

/// One call of add_weighted_adapter. Computes the new adapter without touching the model.
template <class Base>
class WeightedAdapter {
  using S = typename Base::Scalar;
  using Names = std::vector<std::string>;

 public:
  WeightedAdapter(LoRAModel<Base>& model, Names adapters, const std::vector<double>& weights,
                  const std::string& new_name, const CombineOptions& options)
      : model_(model), adapters_(std::move(adapters)), weights_(weights), options_(options) {
    check_call(new_name);
    check_sources();
    model.for_each_layer([&](const NamePath& path, auto& layer) {
      combine_layer(path.str(), layer);
      keep_copy(path.str(), layer);
    });
    std::vector<LoRAConfig> configs;
    for (const std::string& name : adapters_) configs.push_back(model.config(name));
    std::vector<ModuleRank> ranks;
    for (const auto& layer : layers_) ranks.push_back({layer.path, layer.factors.rank()});
    config_ = combined_config(configs, ranks, saved_, module_infos(model.base()), model_type());
  }

  MatchReport add_to_model(const std::string& new_name) {
    return model_.add_adapter(new_name, config_, 0, [&] {
      auto layer_values = layers_.begin();
      auto copy_values = copies_.begin();
      model_.for_each_layer([&](const NamePath&, auto& layer) {
        if (Adapter<S>* adapter = layer.adapters().find(new_name)) {
          adapter->A.value = std::move(layer_values->factors.A);
          adapter->B.value = std::move(layer_values->factors.B);
          ++layer_values;
        }
        if (TrainedCopy<S>* copy = layer.trained_copies().find(new_name)) {
          copy->weight.value = std::move(copy_values->first);
          copy->bias.value = std::move(copy_values->second);
          ++copy_values;
        }
      });
    });
  }

 private:
  [[noreturn]] static void fail(const std::string& what) {
    throw ConfigError("add_weighted_adapter: " + what);
  }
  void check_call(const std::string& new_name) const {
    options_.validate();
    if (model_.has_adapter(new_name)) fail("adapter \"" + new_name + "\" already exists");
    make_adapter<S>(new_name, {});  // checks the name
    if (adapters_.empty()) fail("no adapters are named, expected at least one");
    if (weights_.size() != adapters_.size()) {
      fail("there are " + std::to_string(weights_.size()) + " weights, expected " +
           std::to_string(adapters_.size()) + ", one for each adapter");
    }
    for (std::size_t i = 0; i < weights_.size(); ++i) {
      if (std::isfinite(weights_[i])) continue;
      fail("the weight of adapter \"" + adapters_[i] + "\" is " + number_text(weights_[i]) +
           ", expected a finite number");
    }
  }
  void check_sources() const {
    for (const std::string& name : adapters_) {
      if (!model_.has_adapter(name)) {
        std::string known;
        for (const std::string& other : model_.adapter_names()) known += " " + other;
        fail("no adapter is called \"" + name +
             "\"; there are:" + (known.empty() ? " none" : known));
      }
      const LoRAConfig& config = model_.config(name);
      if (config.lora_bias)
        fail("adapter \"" + name + "\" has lora_bias, which no combination keeps");
      if (config.bias != "none") {
        fail("adapter \"" + name + "\" trains biases of the base (bias = \"" + config.bias +
             "\"), which only one adapter may do");
      }
    }
  }
  std::string model_type() const {
    if constexpr (requires(const Base& base) { base.model_type(); }) {
      return std::as_const(model_).base().model_type();
    } else {
      return {};
    }
  }

  template <class Layer>
  void combine_layer(const std::string& path, const Layer& layer) {
    std::vector<LowRankFactors<S>> sources;
    std::vector<double> weights;
    for (std::size_t i = 0; i < adapters_.size(); ++i) {
      const Adapter<S>* adapter = layer.adapters().find(adapters_[i]);
      if (adapter == nullptr) continue;
      sources.push_back(factors_of(layer, *adapter));
      weights.push_back(weights_[i]);
    }
    if (sources.empty()) return;
    CombineOptions own = options_;
    own.path = path;
    const std::string where = "add_weighted_adapter: layer \"" + path + "\": ";
    try {
      layers_.push_back({path, combine_factors<S>(sources, weights, own)});
    } catch (const ConfigError& error) {
      throw ConfigError(where + error.what());
    } catch (const Error& error) {
      throw Error(where + error.what());
    }
  }

  /// Copies a module that one source trained as a whole. Such modules cannot be weighted.
  template <class Layer>
  void keep_copy(const std::string& path, const Layer& layer) {
    const std::string* owner = nullptr;
    for (const std::string& name : adapters_) {
      const TrainedCopy<S>* copy = layer.trained_copies().find(name);
      if (copy == nullptr || (owner != nullptr && *owner == name)) continue;
      if (owner != nullptr) {
        fail("layer \"" + path + "\" is in modules_to_save of both \"" + *owner + "\" and \"" +
             name + "\"; modules that are trained as a whole cannot be combined");
      }
      owner = &name;
      saved_.push_back(path);
      copies_.emplace_back(copy->weight.value, copy->bias.value);
    }
    if (owner == nullptr || layers_.empty() || layers_.back().path != path) return;
    fail("layer \"" + path + "\" is in modules_to_save of \"" + *owner +
         "\", while another of the adapters has low-rank factors there");
  }

  LoRAModel<Base>& model_;
  Names adapters_;
  const std::vector<double>& weights_;
  const CombineOptions& options_;
  std::vector<CombinedLayer<S>> layers_;
  Names saved_;
  std::vector<std::pair<Matrix<S>, Matrix<S>>> copies_;
  LoRAConfig config_;
};

}  // namespace detail

/// Adds adapter `new_name`, which combines `adapters` with these weights. Each layer combines the
/// adapters that it has, by combine_factors(), with the scales that set_scale() gave them. As with
/// add_adapter(), the new adapter becomes active if none is, otherwise it is frozen; returns its
/// report. The new s is 1: lora_alpha = r without rsLoRA, and rank_pattern and alpha_pattern name
/// the layers with other ranks (see combined_config). Changes nothing if it throws.
/// Throws: ConfigError for options that do not fit the type, a name that is taken or not valid, an
///   unknown adapter, a wrong number of weights, a non-finite weight, unequal ranks where the type
///   needs equal ones, an svd type on a convolution with groups, a DoRA source, a source with
///   lora_bias or trained base biases, and conflicting modules_to_save; Error if a source is not
///   finite.
/// Allocates: the new adapter's tensors, and what combine_factors() needs for one layer at a time.
/// Source: PEFT's LoraModel.add_weighted_adapter, with these differences besides those of
///   combine_factors():
///   - a taken name is an error; PEFT returns silently;
///   - refuses lora_bias, which PEFT drops, and base biases in any source; PEFT checks the first;
///   - ranks are per layer; PEFT pads all layers with zeros to one rank;
///   - ignores rsLoRA of the first source; PEFT keeps it, so its s is √r;
///   - keeps the trained copy (modules_to_save) of any source; PEFT starts a fresh copy for those
///   of
///     the first source and drops the others.
template <class Base>
MatchReport add_weighted_adapter(LoRAModel<Base>& model, std::vector<std::string> adapters,
                                 const std::vector<double>& weights, std::string new_name,
                                 const CombineOptions& options = {}) {
  return detail::WeightedAdapter<Base>(model, std::move(adapters), weights, new_name, options)
      .add_to_model(new_name);
}

}  // namespace lora
