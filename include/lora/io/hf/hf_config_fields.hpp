// Writes a model's configuration as the fields of a config.json that transformers reads.
#pragma once

#include <lora/io/hf/hf_config.hpp>

#include <string>
#include <type_traits>
#include <variant>

namespace lora {

namespace detail {

inline void add_config_fields(Json& fields, const LlamaConfig& config) {
  const std::string& type = config.model_type;
  fields["model_type"] = type;
  fields["vocab_size"] = config.vocab_size;
  fields["hidden_size"] = config.hidden_size;
  fields["intermediate_size"] = config.intermediate_size;
  fields["num_hidden_layers"] = config.num_hidden_layers;
  fields["num_attention_heads"] = config.num_attention_heads;
  fields["num_key_value_heads"] = config.num_key_value_heads;
  fields["head_dim"] = config.head_dim;
  fields["max_position_embeddings"] = config.max_position_embeddings;
  fields["rms_norm_eps"] = config.rms_norm_eps;
  fields["rope_theta"] = config.rope_theta;
  fields["rope_scaling"] = rope_fields(config.rope_scaling);
  fields["hidden_act"] = std::string(activation_name(config.hidden_act));
  if (type == "llama" || type == "qwen3") fields["attention_bias"] = config.qkv_bias;
  if (type == "llama") fields["mlp_bias"] = config.mlp_bias;
  if (type != "llama") {
    fields["sliding_window"] = nullptr;
    if (config.sliding_window > 0) fields["sliding_window"] = config.sliding_window;
  }
  if (type == "qwen2" || type == "qwen3") {
    fields["use_sliding_window"] = config.sliding_window > 0;
    fields["max_window_layers"] =
        config.sliding_window > 0 ? config.first_sliding_layer : config.num_hidden_layers;
  }
}

inline void add_config_fields(Json& fields, const GPT2Config& config) {
  fields["model_type"] = "gpt2";
  fields["vocab_size"] = config.vocab_size;
  fields["n_positions"] = config.n_positions;
  fields["n_embd"] = config.n_embd;
  fields["n_layer"] = config.n_layer;
  fields["n_head"] = config.n_head;
  fields["n_inner"] = config.inner();
  fields["layer_norm_epsilon"] = config.layer_norm_epsilon;
  fields["activation_function"] = config.activation_function == Activation::gelu_tanh
                                      ? "gelu_new"
                                      : std::string(activation_name(config.activation_function));
}

}  // namespace detail

/// Returns the fields of a config.json that parse_hf_config reads back as `config`, with this type
/// of weights. Keeps `as_read` (HFConfig::fields) except for the type and tie_word_embeddings.
/// Without it, writes the older dialect, which every version of transformers reads.
/// Throws: ConfigError if the file would describe another model, because `as_read` belongs to
///   another model or a configuration of your own has what its model_type does not; and as
///   parse_hf_config, for what is out of range.
inline Json hf_config_fields(const CausalLMConfig& config, DType dtype,
                             const Json& as_read = Json::object()) {
  Json fields = as_read;
  const auto tied = [](const auto& one) { return one.tie_word_embeddings; };
  if (as_read.empty()) {
    fields["architectures"] = Json::array();
    std::visit([&](const auto& one) { detail::add_config_fields(fields, one); }, config);
    for (const auto& one : detail::architectures) {
      if (fields["model_type"] == one.model_type) fields["architectures"] = {one.name};
    }
  }
  fields["tie_word_embeddings"] = std::visit(tied, config);
  set_config_dtype(fields, dtype);
  if (parse_hf_config(fields, "hf_config_fields").model != config) {
    throw ConfigError(
        as_read.empty()
            ? "hf_config_fields: a config.json of model_type " +
                  printable(fields["model_type"].dump()) + " cannot describe this model"
            : std::string("hf_config_fields: the fields that were read belong to another model"));
  }
  return fields;
}

}  // namespace lora
