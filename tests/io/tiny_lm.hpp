// Something with the configuration, the names and the layers of a language model, without its
// computation: what loading and saving need.
#pragma once

#include <lora/core/random.hpp>
#include <lora/layers/lora_embedding.hpp>
#include <lora/layers/lora_linear.hpp>
#include <lora/models/gpt2_config.hpp>
#include <lora/models/llama_config.hpp>

#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace lora_test {
using namespace lora;

template <class S>
struct TinyLM {
  using Scalar = S;
  using Config = CausalLMConfig;

  CausalLMConfig config_;
  LoRAEmbedding<S> table;
  std::vector<LoRALinear<S>> layers;
  Parameter<S> norm;
  LoRALinear<S> head;

  template <class Source>
  TinyLM(CausalLMConfig config, Source&& source) : config_(std::move(config)) {
    const LlamaConfig& c = std::get<LlamaConfig>(config_);
    const FrozenWeight<S> w =
        source.matrix("model.embed_tokens.weight", c.vocab_size, c.hidden_size, Layout::out_in);
    table = LoRAEmbedding<S>(w);
    for (Index i = 0; i < c.num_hidden_layers; ++i) {
      const std::string name = "model.layers." + std::to_string(i) + ".proj";
      FrozenWeight<S> own =
          source.matrix(name + ".weight", c.hidden_size, c.hidden_size, Layout::in_out);
      layers.emplace_back(std::move(own), source.vector(name + ".bias", c.hidden_size));
    }
    norm = Parameter<S>::vector(source.vector("model.norm.weight", c.hidden_size));
    head = LoRALinear<S>(c.tie_word_embeddings ? w
                                               : source.matrix("lm_head.weight", c.vocab_size,
                                                               c.hidden_size, Layout::out_in));
  }

  const Config& config() const { return config_; }
  std::string output_module() const { return "lm_head"; }
  template <class Fn>
  void for_each_module(const NamePath& prefix, Fn&& fn) {
    fn(NamePath(prefix, "model.embed_tokens"), table);
    for (std::size_t i = 0; i < layers.size(); ++i) {
      const std::string name = "model.layers." + std::to_string(i) + ".proj";
      fn(NamePath(prefix, name), layers[i]);
    }
    fn(NamePath(prefix, "lm_head"), head);
  }
  template <class Fn>
  void for_each_parameter(const NamePath& prefix, Fn&& fn) {
    for_each_module(prefix,
                    [&](const NamePath& name, auto& layer) { layer.for_each_parameter(name, fn); });
    fn(NamePath(prefix, "model.norm.weight"), norm);
  }
};

/// Weights drawn by name.
template <class S>
struct DrawnWeights {
  FrozenWeight<S> matrix(const std::string& name, Index O, Index D, Layout layout) {
    Matrix<S> values(layout == Layout::out_in ? O : D, layout == Layout::out_in ? D : O);
    fill_uniform(values, RandomStream(3, name), -1, 1);
    return FrozenWeight<S>(std::move(values), layout);
  }
  Matrix<S> vector(const std::string& name, Index n) {
    Matrix<S> values(1, n);
    fill_uniform(values, RandomStream(3, name), -1, 1);
    return values;
  }
};

inline LlamaConfig tiny_config(bool tied = true) {
  LlamaConfig config;
  config.vocab_size = 70;
  config.hidden_size = 12;
  config.intermediate_size = 20;
  config.num_hidden_layers = 2;
  config.num_attention_heads = 3;
  config.num_key_value_heads = 3;
  config.head_dim = 4;
  config.max_position_embeddings = 64;
  config.tie_word_embeddings = tied;
  return config;
}
template <class S = float>
TinyLM<S> tiny_lm(bool tied = true) {
  return TinyLM<S>(tiny_config(tied), DrawnWeights<S>());
}

}  // namespace lora_test
