// One named low-rank adapter of one layer.
#pragma once

#include <lora/core/half.hpp>
#include <lora/core/number_text.hpp>
#include <lora/core/parameter.hpp>
#include <lora/layers/adapter_init.hpp>
#include <lora/layers/dropout.hpp>
#include <lora/layers/pass.hpp>
#include <lora/layers/variants/dora.hpp>
#include <lora/layers/variants/plain_lora.hpp>
#include <lora/layers/variants/rslora.hpp>
#include <lora/weights/low_rank.hpp>

#include <string>
#include <variant>
#include <vector>

namespace lora {

/// The kinds of adapter. Each is a header in layers/variants/ and a name in this list.
using AdapterVariant = std::variant<PlainLoRA, RsLoRA, DoRA>;

/// The options of a new adapter, with PEFT's names and defaults.
struct AdapterOptions {
  Index r = 8;
  double lora_alpha = 8;
  double lora_dropout = 0;
  AdapterInit init = AdapterInit::kaiming_uniform;
  bool lora_bias = false;
  AdapterVariant variant = PlainLoRA{};
  std::uint64_t seed = 0;
  /// The layer's dotted name, which is part of the names of its random streams. Layers with the
  /// same path, adapter name, seed and shape draw the same A and the same dropout masks, so the
  /// layers of a model need distinct paths. LoRAModel sets them.
  std::string path = {};
};

/// A tensor that a variant has besides A and B.
template <class S>
struct OwnTensor {
  std::string_view name;  ///< PEFT's, "lora_magnitude_vector"
  Parameter<S> parameter;
};

/// One adapter: A (R, D), B (O, R), their scale and options. The layer adds
/// scaling · (drop(x) Aᵀ Bᵀ + bias).
template <class S>
struct Adapter {
  std::string name;
  Index r = 0;
  double alpha = 0, dropout = 0;
  double initial_scaling = 0;     ///< alpha / r, or the variant's formula
  double scaling = 0;             ///< s: initial_scaling times the factor of set_scale()
  Parameter<S> A, B, bias;        ///< bias (1, O) belongs to B and is empty without lora_bias
  std::vector<OwnTensor<S>> own;  ///< the variant's own tensors
  Matrix<WideOf<S>> of_weight;    ///< what the variant's remember() returned for the frozen weight
  NormCache<S> norm;              ///< for DoRA, outside training
  AdapterVariant variant;
  std::uint64_t dropout_stream = 0;
  /// Set by the layer, which never reuses an id, so a tape can identify its adapters.
  std::uint64_t id = 0;

  /// s in the scalar type of the products.
  S scale() const { return static_cast<S>(scaling); }
  /// The dropout of one pass; inactive outside training.
  Dropout dropout_of(const Pass& pass) const {
    return Dropout(pass.training ? dropout : 0.0,
                   mix64(dropout_stream ^ mix64(pass.seed ^ mix64(pass.use))));
  }
  /// Calls fn(Parameter&) for each tensor.
  template <class Fn>
  void for_each_tensor(Fn&& fn) {
    fn(A);
    fn(B);
    if (!bias.empty()) fn(bias);
    for (OwnTensor<S>& tensor : own) fn(tensor.parameter);
  }
  template <class Fn>
  void for_each_tensor(Fn&& fn) const {
    const_cast<Adapter*>(this)->for_each_tensor([&](const Parameter<S>& tensor) { fn(tensor); });
  }
  Index size() const {
    Index elements = 0;
    for_each_tensor([&](const Parameter<S>& tensor) { elements += tensor.size(); });
    return elements;
  }
  void set_trainable(bool train) {
    change_at_once([&](Transaction& change) { prepare_trainable(train, change); });
  }
  /// Does the same at the commit of `change`; see Parameter::prepare_trainable.
  void prepare_trainable(bool train, Transaction& change) {
    for_each_tensor([&](Parameter<S>& tensor) { tensor.prepare_trainable(train, change); });
  }
  /// Whether any tensor is trainable.
  bool trainable() const {
    bool any = false;
    for_each_tensor([&](const Parameter<S>& tensor) { any = any || tensor.trainable; });
    return any;
  }
  /// The change that merging adds to W: left (outputs, R), right (R, inputs).
  LowRankDelta<S> delta() const {
    return std::visit([&](const auto& one) { return one.delta(*this); }, variant);
  }
  /// Whether every value is finite.
  bool finite() const {
    bool all = true;
    for_each_tensor([&](const Parameter<S>& tensor) { all = all && tensor.value.allFinite(); });
    return all;
  }
  /// Calls fn(variant) if the variant scales the output (DoRA).
  template <class Fn>
  void if_scales_output(Fn&& fn) const {
    std::visit(
        [&](const auto& one) {
          if constexpr (std::remove_cvref_t<decltype(one)>::scales_output) fn(one);
        },
        variant);
  }
  bool scales_output() const {
    return std::visit([](const auto& one) { return one.scales_output; }, variant);
  }
};

/// Creates an adapter without tensors: checks and sets name, r, alpha, dropout and scaling.
/// Throws: ConfigError if r < 1, alpha is not finite in float32, dropout is outside [0, 1), the
///   name is empty, reserved or contains a dot, or lora_bias is asked for with DoRA.
template <class S>
Adapter<S> make_adapter(const std::string& name, const AdapterOptions& options) {
  const std::string where = "adapter \"" + name + "\": ";
  if (name.empty()) throw ConfigError("adapter: the name is empty");
  if (name == base_adapter_name) throw ConfigError(where + "this name stands for \"no adapter\"");
  if (name.find('.') != std::string::npos) {
    throw ConfigError(where +
                      "a name must not contain a dot; dots separate the parts of a tensor's name");
  }
  if (options.r < 1)
    throw ConfigError(where + "r is " + std::to_string(options.r) + ", expected at least 1");
  if (!fits_float32(options.lora_alpha))
    throw ConfigError(where + "lora_alpha is not finite in float32");
  if (!(options.lora_dropout >= 0.0 && options.lora_dropout < 1.0)) {
    throw ConfigError(where + "lora_dropout is " + number_text(options.lora_dropout) +
                      ", expected 0 <= p < 1");
  }
  Adapter<S> adapter;
  adapter.variant = options.variant;
  if (options.lora_bias && adapter.scales_output())
    throw ConfigError(where + "lora_bias is not defined for DoRA, which scales the layer's output");
  adapter.name = name;
  adapter.r = options.r;
  adapter.alpha = options.lora_alpha;
  adapter.dropout = options.lora_dropout;
  adapter.initial_scaling = adapter.scaling = std::visit(
      [&](const auto& variant) { return variant.scaling(options.lora_alpha, options.r); },
      options.variant);
  adapter.dropout_stream = stream_key(options.seed, options.path + ".lora_dropout." + name);
  return adapter;
}

/// Throws ConfigError unless A, B and s are all there is to the adapter. `what` is the participle
/// for the message: "combined".
template <class S>
void expect_low_rank_alone(const Adapter<S>& adapter, const char* what) {
  if (!adapter.scales_output()) return;
  throw ConfigError(
      "adapter \"" + adapter.name + "\": a DoRA adapter cannot be " + what +
      ", since its lora_magnitude_vector scales the layer's output; merge it instead");
}

/// Fills A and B of a linear or convolution adapter by options.init, from streams named after the
/// tensor and the layer.
template <class S>
void initialize_linear_adapter(Adapter<S>& adapter, const AdapterOptions& options, Index fan_in) {
  const RandomStream a(options.seed, options.path + ".lora_A." + adapter.name + ".weight");
  const RandomStream b(options.seed, options.path + ".lora_B." + adapter.name + ".weight");
  std::visit([&](const auto& variant) { variant.initialize(adapter, options.init, fan_in, a, b); },
             adapter.variant);
}

/// Lets a new adapter's variant inspect W and add its own tensors. Call it once A and B are filled.
template <class S>
void begin_variant(Adapter<S>& adapter, const AdapterOptions& options, const BaseMap<S>& base) {
  adapter.if_scales_output([&](const auto& variant) {
    adapter.own.clear();
    adapter.of_weight = variant.remember(base);
    variant.begin(adapter, base, options.init);
  });
}

/// What backward needs from one adapter's forward, and its workspace. Owned by the caller's tape
/// and reused from step to step.
template <class S>
struct AdapterTape {
  std::uint64_t id = 0;
  Matrix<S> h;           ///< scaling · drop(x) Aᵀ, (T, R)
  Matrix<S> dh;          ///< scaling · dy B, (T, R)
  Matrix<S> dB_t;        ///< hᵀ dy, (R, O)
  Matrix<S> dropped;     ///< with dropout: a few rows of drop(x)
  OutputTape<S> output;  ///< for a variant that scales the output
  View<S> dy, g;         ///< in backward: the gradients of its output and of its term
};

}  // namespace lora
