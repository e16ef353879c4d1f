// Where the weights of a model come from: a checkpoint, random numbers, a test.
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

/// What an architecture reads its tensors from while it is constructed, each once, by the names of
/// transformers ("model.layers.0.self_attn.q_proj.weight"). It does not read a tied head.
///   matrix(name, O, D, layout)  the weight of y = x Wᵀ; the tensor is (O, D), or (D, O) with
///                               Layout::in_out, as in GPT-2's Conv1D
///   vector(name, n)             the weight of a norm or a bias, (1, n)
/// A source may collect what is missing and return empty weights meanwhile: constructors compute
/// nothing with them.
template <class Source, class S>
concept WeightSource = requires(Source& source, const std::string& name) {
  { source.matrix(name, Index{}, Index{}, Layout::out_in) } -> std::same_as<FrozenWeight<S>>;
  { source.vector(name, Index{}) } -> std::same_as<Matrix<S>>;
};

/// Whether a linear layer has a bias.
enum class Bias { no, yes };

/// Creates the layer `name` (O, D) from name.weight and, with Bias::yes, name.bias.
template <class S, WeightSource<S> Source>
LoRALinear<S> linear_from(Source& source, const std::string& name, Index O, Index D,
                          Bias bias = Bias::no, Layout layout = Layout::out_in) {
  FrozenWeight<S> weight = source.matrix(name + ".weight", O, D, layout);
  Matrix<S> values = bias == Bias::yes ? source.vector(name + ".bias", O) : Matrix<S>();
  if (weight.rows() != O) values.resize(0, 0);  // the source has recorded what is missing
  return LoRALinear<S>(std::move(weight), std::move(values));
}

template <class S, WeightSource<S> Source>
LoRAEmbedding<S> embedding_from(Source& source, const std::string& name, Index V, Index D) {
  return LoRAEmbedding<S>(source.matrix(name + ".weight", V, D, Layout::out_in));
}

/// Creates the norm `name` of n elements from name.weight and, for a LayerNorm, name.bias.
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

/// Random initial weights: matrices are normal with mean 0 and `deviation`, each from a stream
/// named after it; the weights of norms are 1, biases 0. The same seed and names give the same
/// bits.
/// Source: initializer_range of transformers.
template <class S>
struct RandomWeights {
  std::uint64_t seed = 0;
  double deviation = 0.02;
  std::optional<Precision> packed = {};           ///< float only: pack matrices with this precision
  Orientations orientations = Orientations::one;  ///< orientations of packed matrices

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
