// Language models of odd sizes with numbers in every tensor, for tests.
#pragma once

#include <lora/models/causal_lm.hpp>

#include <string>
#include <utility>
#include <vector>

#include "layers/layer_tools.hpp"

namespace lora_test {

/// Weights of such a size that every part of a model matters: matrices normal, norms around 1.
template <class S>
struct TestWeights {
  std::vector<std::string> asked;

  lora::FrozenWeight<S> matrix(const std::string& name, Index O, Index D, lora::Layout layout) {
    asked.push_back(name);
    const bool as_is = layout == lora::Layout::out_in;
    return lora::FrozenWeight<S>(random_matrix<S>(as_is ? O : D, as_is ? D : O, name, 0.4), layout);
  }
  Matrix<S> vector(const std::string& name, Index n) {
    asked.push_back(name);
    Matrix<S> v = random_matrix<S>(1, n, name, 0.3);
    if (name.ends_with("weight")) v.array() += S(1);
    return v;
  }
};

inline lora::LlamaConfig tiny_llama() {
  lora::LlamaConfig c;
  c.vocab_size = 11, c.hidden_size = 7, c.intermediate_size = 9, c.num_hidden_layers = 2;
  c.num_attention_heads = 4, c.num_key_value_heads = 2, c.head_dim = 6;
  c.max_position_embeddings = 64;
  c.rms_norm_eps = 1e-3, c.rope_theta = 50;
  return c;
}
inline lora::GPT2Config tiny_gpt2() {
  lora::GPT2Config c;
  c.vocab_size = 11, c.n_positions = 40, c.n_embd = 6, c.n_layer = 2, c.n_head = 3, c.n_inner = 7;
  c.layer_norm_epsilon = 1e-3;
  return c;
}

/// Every architecture and option once.
inline std::vector<std::pair<std::string, lora::CausalLMConfig>> tiny_configs() {
  std::vector<std::pair<std::string, lora::CausalLMConfig>> all;
  const auto add = [&](const char* name, auto&& change) {
    lora::LlamaConfig c = tiny_llama();
    change(c);
    all.emplace_back(name, c);
  };
  using Type = lora::RopeScaling::Type;
  add("llama", [](auto&) {});
  add("llama with every bias, tied, llama3", [](auto& c) {
    c.qkv_bias = c.o_bias = c.mlp_bias = c.tie_word_embeddings = true;
    c.rope_scaling = {Type::llama3, 8, 1, 4, 16};
  });
  add("mistral, window from layer 1 on, linear", [](auto& c) {
    c.model_type = "mistral";
    c.sliding_window = 2, c.first_sliding_layer = 1;
    c.rope_scaling = {Type::linear, 3};
  });
  add("qwen2, dynamic, gelu", [](auto& c) {
    c.model_type = "qwen2";
    c.qkv_bias = true;
    c.max_position_embeddings = 4;
    c.rope_scaling = {Type::dynamic, 2};
    c.hidden_act = lora::Activation::gelu_tanh;
  });
  add("qwen3", [](auto& c) {
    c.model_type = "qwen3";
    c.qk_norm = true, c.num_key_value_heads = 1;
  });
  all.emplace_back("gpt2, tied", tiny_gpt2());
  lora::GPT2Config untied = tiny_gpt2();
  untied.tie_word_embeddings = false, untied.n_inner = 0;
  all.emplace_back("gpt2, untied", untied);
  return all;
}

template <class S>
lora::CausalLM<S> tiny_model(const lora::CausalLMConfig& config) {
  return lora::CausalLM<S>(config, TestWeights<S>{});
}

/// Two adapters' worth of numbers on every layer that takes one, the tables and the head included;
/// norms and biases are trained too.
template <class S>
void adapt_everything(lora::CausalLM<S>& model) {
  model.for_each_module("", [](const lora::NamePath& path, auto& module) {
    if constexpr (requires { module.adapters(); }) {
      lora::AdapterOptions options = rank(2, 5);
      options.path = path.str();
      module.add_adapter("a", options);
      auto& adapter = module.adapters().get("a");
      adapter.A.value = random_matrix<S>(adapter.A.value.rows(), adapter.A.value.cols(),
                                         "A of " + path.str(), 0.4);
      adapter.B.value = random_matrix<S>(adapter.B.value.rows(), adapter.B.value.cols(),
                                         "B of " + path.str(), 0.4);
      adapter.set_trainable(true);
      module.adapters().set_active({"a"});
    }
  });
  model.for_each_parameter("", [](const auto&, auto& p) { p.set_trainable(true); });
}
/// Full fine-tuning of every tensor.
template <class S>
void train_everything(lora::CausalLM<S>& model) {
  model.for_each_module("", [](const lora::NamePath&, auto& module) {
    if constexpr (requires { module.train_base(); }) module.train_base();
  });
  model.for_each_parameter("", [](const auto&, auto& p) { p.set_trainable(true); });
}

/// Three sequences end to end, one of a single token, with labels of which some do not count.
struct TinyText {
  std::vector<std::int64_t> ids = {3, 1, 4, 1, 5, 10, 2, 6, 0},
                            labels = {3, 1, -100, 1, 5, 10, 2, 6, 0};
  std::vector<Index> lengths = {5, 1, 3};
  lora::TokenBatch batch() const { return {ids, lengths}; }
};

}  // namespace lora_test
