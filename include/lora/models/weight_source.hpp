// Where a model's weights come from: a checkpoint, random numbers, a test.
#pragma once

#include <lora/core/random.hpp>
#include <lora/layers/lora_embedding.hpp>
#include <lora/layers/lora_linear.hpp>
#include <lora/nn/layer_norm.hpp>
#include <lora/nn/rms_norm.hpp>

#include <concepts>
#include <optional>
#include <string>
#include <utility>

namespace lora {

/// What an architecture asks for its tensors while it is constructed, each once, by the names that
/// transformers gives them ("model.layers.0.self_attn.q_proj.weight"); a tied head is not asked
/// for.
///   matrix(name, O, D, layout)  the weight of y = x Wᵀ; the tensor is (O, D), or (D, O) with
///                               Layout::in_out, as GPT-2's Conv1D has it
///   vector(name, n)             a norm's weight or a bias, (1, n)
/// A source may collect what is missing and hand out empty weights meanwhile: nothing is computed
/// with them in a constructor.
template <class Source, class S>
concept WeightSource = requires(Source& source, const std::string& name) {
  { source.matrix(name, Index{}, Index{}, Layout::out_in) } -> std::same_as<FrozenWeight<S>>;
  { source.vector(name, Index{}) } -> std::same_as<Matrix<S>>;
};

/// Whether a linear layer has a bias.
enum class Bias { no, yes };

/// The layer `name` (O, D) from name.weight and, with Bias::yes, name.bias.
template <class S, WeightSource<S> Source>
LoRALinear<S> linear_from(Source& source, const std::string& name, Index O, Index D,
                          Bias bias = Bias::no, Layout layout = Layout::out_in) {
  FrozenWeight<S> weight = source.matrix(name + ".weight", O, D, layout);
  Matrix<S> values = bias == Bias::yes ? source.vector(name + ".bias", O) : Matrix<S>();
  if (weight.rows() != O) values.resize(0, 0);  // the source knows that something is missing
  return LoRALinear<S>(std::move(weight), std::move(values));
}

template <class S, WeightSource<S> Source>
LoRAEmbedding<S> embedding_from(Source& source, const std::string& name, Index V, Index D) {
  return LoRAEmbedding<S>(source.matrix(name + ".weight", V, D, Layout::out_in));
}

/// The norms `name` of n elements from name.weight, and name.bias where there is one.
template <class S, WeightSource<S> Source>
RMSNorm<S> rms_norm_from(Source& source, const std::string& name, Index n, double eps,
                         const char* type) {
  return RMSNorm<S>(source.vector(name + ".weight", n), eps, type);
}
template <class S, WeightSource<S> Source>
LayerNorm<S> layer_norm_from(Source& source, const std::string& name, Index n, double eps) {
  Matrix<S> weight = source.vector(name + ".weight", n);
  return LayerNorm<S>(std::move(weight), source.vector(name + ".bias", n), eps);
}

/// A model's weights before any training: matrices normal with mean 0 and `deviation`, each from a
/// stream of its own named after it; norms' weights 1, biases 0. The same seed and names give the
/// same bits. Source: transformers' initializer_range.
template <class S>
struct RandomWeights {
  std::uint64_t seed = 0;
  double deviation = 0.02;
  std::optional<Precision> packed = {};           ///< float's: prepared for its products as this
  Orientations orientations = Orientations::one;  ///< of what is packed

  FrozenWeight<S> matrix(const std::string& name, Index O, Index D, Layout layout) const {
    Matrix<S> values(layout == Layout::out_in ? O : D, layout == Layout::out_in ? D : O);
    fill_normal(values, RandomStream(seed, name), deviation);
    if constexpr (std::is_same_v<S, float>) {
      if (packed) return FrozenWeight<S>::pack(values, *packed, layout, orientations);
    }
    return FrozenWeight<S>(std::move(values), layout);
  }
  Matrix<S> vector(const std::string& name, Index n) const {
    return Matrix<S>::Constant(1, n, S(name.ends_with("bias") ? 0 : 1));
  }
};

}  // namespace lora
