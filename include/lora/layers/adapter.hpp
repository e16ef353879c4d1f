// One named low-rank adapter of one layer.
#pragma once

#include <lora/core/half.hpp>
#include <lora/core/number_text.hpp>
#include <lora/core/parameter.hpp>
#include <lora/layers/adapter_init.hpp>
#include <lora/layers/dropout.hpp>
#include <lora/layers/pass.hpp>
#include <lora/layers/variants/plain_lora.hpp>
#include <lora/layers/variants/rslora.hpp>
#include <lora/weights/low_rank.hpp>

#include <string>
#include <variant>

namespace lora {

/// The kinds of adapter there are. A kind is a header in layers/variants/ and a name in this list.
using AdapterVariant = std::variant<PlainLoRA, RsLoRA>;

/// What an adapter is made from; PEFT's names and defaults.
struct AdapterOptions {
  Index r = 8;
  double lora_alpha = 8;
  double lora_dropout = 0;
  AdapterInit init = AdapterInit::kaiming_uniform;
  bool lora_bias = false;
  AdapterVariant variant = PlainLoRA{};
  std::uint64_t seed = 0;
  /// The layer's dotted name, part of the name of its random streams. Layers that are given the
  /// same path, adapter's name, seed and shape draw the same A and the same dropout masks, so
  /// layers of one model need paths of their own; LoRAModel gives them.
  std::string path = {};
};

/// A (R, D), B (O, R) and what belongs to them: the layer adds scaling · drop(x) Aᵀ Bᵀ
/// (+ scaling · bias).
template <class S>
struct Adapter {
  std::string name;
  Index r = 0;
  double alpha = 0, dropout = 0;
  double initial_scaling = 0;  ///< alpha / r, or what the variant makes of them
  double scaling = 0;          ///< s in force: initial_scaling times what set_scale() asked for
  Parameter<S> A, B, bias;     ///< bias (1, O) belongs to B and is empty without lora_bias
  AdapterVariant variant;
  std::uint64_t dropout_stream = 0;
  std::uint64_t id =
      0;  ///< given by the layer; never used twice in it, so that a tape knows its adapters

  /// s as the scalar that the products use.
  S scale() const { return static_cast<S>(scaling); }
  /// The dropout of one pass; inactive outside training.
  Dropout dropout_of(const Pass& pass) const {
    return Dropout(pass.training ? dropout : 0.0,
                   mix64(dropout_stream ^ mix64(pass.seed ^ mix64(pass.use))));
  }
  Index size() const { return A.size() + B.size() + bias.size(); }
  void set_trainable(bool train) {
    change_at_once([&](Transaction& change) { prepare_trainable(train, change); });
  }
  /// The same at the commit of `change`; see Parameter::prepare_trainable.
  void prepare_trainable(bool train, Transaction& change) {
    A.prepare_trainable(train, change);
    B.prepare_trainable(train, change);
    if (!bias.empty()) bias.prepare_trainable(train, change);
  }
  bool trainable() const { return A.trainable || B.trainable || bias.trainable; }
  /// Whether every value is finite.
  bool finite() const {
    return A.value.allFinite() && B.value.allFinite() && bias.value.allFinite();
  }
};

/// An adapter without values: name, r, alpha, dropout and scaling checked and set.
/// Throws ConfigError when r < 1, alpha is not finite in float32, dropout is outside [0, 1), or the
/// name is empty, reserved or has a dot.
template <class S>
Adapter<S> make_adapter(const std::string& name, const AdapterOptions& options) {
  const std::string where = "adapter \"" + name + "\": ";
  if (name.empty()) throw ConfigError("adapter: the name is empty");
  if (name == base_adapter_name) throw ConfigError(where + "this name stands for \"no adapter\"");
  if (name.find('.') != std::string::npos) {
    throw ConfigError(where +
                      "a name must not have a dot, which separates the parts of a tensor's name");
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
  adapter.name = name;
  adapter.r = options.r;
  adapter.alpha = options.lora_alpha;
  adapter.dropout = options.lora_dropout;
  adapter.variant = options.variant;
  adapter.initial_scaling = adapter.scaling = std::visit(
      [&](const auto& variant) { return variant.scaling(options.lora_alpha, options.r); },
      options.variant);
  adapter.dropout_stream = stream_key(options.seed, options.path + ".lora_dropout." + name);
  return adapter;
}

/// Throws ConfigError when a layer of this kind has the plain update written out and the variant
/// has another.
template <class... Variant>
void expect_plain_update(const std::variant<Variant...>& variant, const std::string& name,
                         const char* kind) {
  if (std::visit([](const auto& one) { return one.plain_update; }, variant)) return;
  throw ConfigError("adapter \"" + name + "\": its variant is not supported for " + kind);
}

/// Fills A and B of a linear or convolution adapter as `options` asks, from streams named after
/// tensor and layer.
template <class S>
void initialize_linear_adapter(Adapter<S>& adapter, const AdapterOptions& options, Index fan_in) {
  const RandomStream a(options.seed, options.path + ".lora_A." + adapter.name + ".weight");
  const RandomStream b(options.seed, options.path + ".lora_B." + adapter.name + ".weight");
  std::visit([&](const auto& variant) { variant.initialize(adapter, options.init, fan_in, a, b); },
             adapter.variant);
}

/// What backward needs of one adapter's forward, and its scratch. Owned by the caller's tape,
/// reused from step to step.
template <class S>
struct AdapterTape {
  std::uint64_t id = 0;
  Matrix<S> h;        ///< scaling · drop(x) Aᵀ, (T, R)
  Matrix<S> dh;       ///< scaling · dy B, (T, R)
  Matrix<S> dB_t;     ///< hᵀ dy, (R, O)
  Matrix<S> dropped;  ///< a few rows of drop(x), when there is dropout
};

}  // namespace lora
