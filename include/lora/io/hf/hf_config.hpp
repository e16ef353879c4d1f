// Reads config.json of a causal language model, as transformers writes it, into the models'
// configurations.
#pragma once

#include <lora/io/dtype.hpp>
#include <lora/io/hf/config_json.hpp>
#include <lora/io/hf/hf_rope.hpp>
#include <lora/io/json.hpp>
#include <lora/io/python_json.hpp>
#include <lora/models/causal_lm_config.hpp>

#include <array>
#include <filesystem>
#include <initializer_list>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace lora {

/// The content of a checkpoint's config.json.
struct HFConfig {
  CausalLMConfig model;
  std::optional<DType> dtype;  ///< type of the stored weights, if the file names it; informative
  Json fields;                 ///< the whole file, for writing it again
  /// Sentences about options that do nothing, as in transformers.
  std::vector<std::string> warnings;
  /// Sentences about what training in transformers would do and this library does not.
  std::vector<std::string> training_warnings;
};

namespace detail {

inline Activation read_activation(const JsonFields& fields, const char* key, const char* standard) {
  try {
    return activation_from_name(fields.text(key, standard));
  } catch (const ConfigError& error) {
    fields.unsupported(key, error.what());
  }
}

/// Rejects options that no architecture here supports. The other common fields of transformers do
/// nothing to a causal language model (is_decoder, chunk_size_feed_forward, pretraining_tp and so
/// on) and are ignored.
inline void refuse_foreign_options(const JsonFields& fields) {
  for (const char* key : {"quantization_config", "compression_config"}) {
    if (fields.find(key) != nullptr)
      fields.unsupported(
          key, "quantised weights are not supported; expected a checkpoint in F32, BF16 or F16");
  }
  fields.unsupported_unless("is_causal", true, "only causal models are");
  if (fields.json().contains("is_causal") && fields.find("is_causal") == nullptr)
    fields.unsupported("is_causal",
                       "null makes transformers look at later tokens too; expected true");
  fields.unsupported_unless("per_layer_config", Json::object(), "layers of one shape are");
}

/// Rejects options by which transformers' cache forgets keys while it generates, though nothing
/// else in these models reads them.
inline void refuse_cache_options(const JsonFields& fields, Index positions,
                                 std::initializer_list<const char*> keys) {
  for (const char* key : keys) {
    const Json* value = fields.find(key);
    if (value == nullptr) continue;
    if (fields.integer(key, 1, most_positions) < positions)
      fields.unsupported(key,
                         "models of type " + fields.text("model_type", "") +
                             " have no window; expected null, or at least as many as positions");
  }
}

/// Adds a sentence for each dropout rate in the base that is not 0.
inline void note_dropout(const JsonFields& fields, std::initializer_list<const char*> keys,
                         std::vector<std::string>& notes) {
  for (const char* key : keys) {
    const Json* value = fields.find(key);
    if (value == nullptr || *value == 0) continue;
    notes.push_back(fields.where() + ": " + key + " is " + printable(value->dump(), 60) +
                    ", which is not applied in training: the base has no dropout here");
  }
}

/// Reads the sliding window and the first layer that uses it; both 0 without a window.
inline void read_sliding_window(const JsonFields& fields, LlamaConfig& config) {
  const bool mistral = config.model_type == "mistral";
  const bool qwen = !mistral && config.model_type != "llama";
  if (!qwen) refuse_cache_options(fields, config.max_position_embeddings, {"attention_chunk_size"});
  if (config.model_type == "llama") {
    refuse_cache_options(fields, config.max_position_embeddings, {"sliding_window"});
  } else if (mistral || fields.flag("use_sliding_window", false)) {
    // The default of transformers, that of Mistral 0.1; null means none.
    const Index standard = fields.json().contains("sliding_window") ? 0 : 4096;
    config.sliding_window = fields.integer("sliding_window", standard, 1, most_positions);
  }
  const Index layers = config.num_hidden_layers;
  Index first = qwen && config.sliding_window > 0
                    ? fields.integer("max_window_layers", 28, 0, most_positions)
                    : 0;
  if (const Json* types = fields.find("layer_types")) {
    if (!types->is_array() || static_cast<Index>(types->size()) != layers)
      fields.fault("layer_types", "an array with one name per layer, " + std::to_string(layers));
    first = layers;
    for (Index i = layers; i-- > 0;) {
      const Json& type = (*types)[static_cast<std::size_t>(i)];
      if (type != "full_attention" && type != "sliding_attention")
        fields.unsupported("layer_types", "expected full_attention or sliding_attention");
      if (type == "full_attention") continue;
      if (first != i + 1)
        fields.unsupported("layer_types", "layers with a window must be the last ones");
      first = i;
    }
    if (first < layers && config.sliding_window == 0)
      fields.fault("layer_types", "no sliding_attention where no sliding_window is used");
  }
  if (config.sliding_window == 0) return;
  config.first_sliding_layer = first;
  if (first >= layers) config.sliding_window = config.first_sliding_layer = 0;
}

inline Index read_key_value_heads(const JsonFields& fields, const Architecture& known,
                                  Index heads) {
  constexpr const char* key = "num_key_value_heads";
  if (fields.find(key) != nullptr) return fields.integer(key, 1, heads);
  const Index count = derivable_size(fields, key, known.num_key_value_heads, heads, most_width);
  if (count <= heads) return count;
  throw FormatError(fields.where() + ": num_key_value_heads is missing, and " +
                    std::to_string(count) + " is its default in transformers; expected at " +
                    "most num_attention_heads, which is " + std::to_string(heads));
}

inline LlamaConfig read_llama_config(const JsonFields& fields, const Architecture& known,
                                     HFConfig& read) {
  LlamaConfig config;
  config.model_type = known.model_type;
  config.vocab_size = fields.integer("vocab_size", 1, most_width);
  config.hidden_size = fields.integer("hidden_size", 1, most_width);
  config.intermediate_size = fields.integer("intermediate_size", 1, most_width);
  config.num_hidden_layers = fields.integer("num_hidden_layers", 1, most_layers);
  const Index heads = fields.integer("num_attention_heads", 1, most_width);
  config.num_attention_heads = heads;
  config.num_key_value_heads = read_key_value_heads(fields, known, heads);
  if (heads % config.num_key_value_heads != 0)
    fields.fault("num_key_value_heads",
                 "a divisor of num_attention_heads, which is " + std::to_string(heads));
  const bool derived = known.head_dim == 0 || fields.json().contains("head_dim");
  if (fields.find("head_dim") == nullptr && derived && config.hidden_size % heads != 0)
    fields.fault("num_attention_heads", "a divisor of hidden_size, or head_dim beside it");
  config.head_dim = derivable_size(fields, "head_dim", known.head_dim, config.hidden_size / heads,
                                   most_width / heads);
  if (config.head_dim % 2 != 0 || config.head_dim == 0) {
    throw FormatError(fields.where() + ": head_dim is " + std::to_string(config.head_dim) +
                      ", expected an even number: a rotary embedding rotates pairs");
  }
  config.max_position_embeddings =
      fields.integer("max_position_embeddings", known.max_position_embeddings, 1, most_positions);
  config.rms_norm_eps = fields.number("rms_norm_eps", 1e-6, 0, 1);
  config.hidden_act = read_activation(fields, "hidden_act", "silu");
  config.tie_word_embeddings = *tied_embeddings(fields);
  read_rope(fields, config, read.warnings);
  read_sliding_window(fields, config);
  if (config.model_type == "llama" || config.model_type == "qwen3")
    config.qkv_bias = config.o_bias = fields.flag("attention_bias", false);
  if (config.model_type == "qwen2") config.qkv_bias = true;
  if (config.model_type == "llama") config.mlp_bias = fields.flag("mlp_bias", false);
  config.qk_norm = config.model_type == "qwen3";
  note_dropout(fields, {"attention_dropout"}, read.training_warnings);
  return config;
}

/// Reads a size under GPT-2's own name or that of the other models, which transformers accepts too.
inline Index read_gpt2_size(const JsonFields& fields, const char* key, const char* alias,
                            Index high) {
  const char* one = fields.find(key) == nullptr && fields.find(alias) != nullptr ? alias : key;
  const Index size = fields.integer(one, 1, high);
  if (fields.find(alias) != nullptr && fields.integer(alias, 1, high) != size)
    fields.fault(alias, std::string("the same as ") + key + ", which is " + std::to_string(size));
  return size;
}

inline GPT2Config read_gpt2_config(const JsonFields& fields, HFConfig& read) {
  GPT2Config config;
  config.vocab_size = fields.integer("vocab_size", 1, most_width);
  config.n_positions =
      read_gpt2_size(fields, "n_positions", "max_position_embeddings", most_positions);
  config.n_embd = read_gpt2_size(fields, "n_embd", "hidden_size", most_width / 4);
  config.n_layer = read_gpt2_size(fields, "n_layer", "num_hidden_layers", most_layers);
  config.n_head = read_gpt2_size(fields, "n_head", "num_attention_heads", most_width);
  if (config.n_embd % config.n_head != 0)
    fields.fault("n_head", "a divisor of n_embd, which is " + std::to_string(config.n_embd));
  config.n_inner = fields.integer("n_inner", 4 * config.n_embd, 1, most_width);
  config.layer_norm_epsilon = fields.number("layer_norm_epsilon", 1e-5, 0, 1);
  config.activation_function = read_activation(fields, "activation_function", "gelu_new");
  config.tie_word_embeddings = *tied_embeddings(fields);
  fields.unsupported_unless("scale_attn_weights", true,
                            "scores are always scaled by 1/√(head size)");
  fields.unsupported_unless("scale_attn_by_inverse_layer_idx", false, "layers are scaled alike");
  fields.unsupported_unless("add_cross_attention", false, "there is no cross attention");
  fields.unsupported_unless("pruned_heads", Json::object(), "every layer has all its heads");
  refuse_cache_options(fields, config.n_positions, {"sliding_window", "attention_chunk_size"});
  note_dropout(fields, {"attn_pdrop", "embd_pdrop", "resid_pdrop"}, read.training_warnings);
  return config;
}

}  // namespace detail

/// Parses the content of config.json; messages begin with `where`. Reads its three dialects:
/// rope_theta beside rope_scaling (with type or rope_type), and rope_parameters; dtype or
/// torch_dtype. Dropout in the base (GPT-2's attn_pdrop and others, attention_dropout) is not
/// applied, as training_warnings says. Ignores fields that do nothing in transformers for the
/// model, and those that only tokenizers and generation use.
/// Throws: FormatError that names field and value, for a field that is missing, of the wrong type
///   or out of range (rope_theta has no default); ConfigError for a model_type or an option that is
///   not supported.
inline HFConfig parse_hf_config(const Json& json, const std::string& where) {
  const JsonFields fields(json, where);
  const std::string type = fields.text("model_type");
  const detail::Architecture* const known = detail::find_architecture(fields);
  if (known == nullptr)
    fields.unsupported("model_type", "expected one of " + detail::known_architectures());
  detail::refuse_foreign_options(fields);
  HFConfig config;
  config.fields = json;
  if (type == "gpt2") {
    config.model = detail::read_gpt2_config(fields, config);
  } else {
    config.model = detail::read_llama_config(fields, *known, config);
  }
  const char* key = fields.find("dtype") ? "dtype" : "torch_dtype";
  const std::string dtype = fields.text(key, "");
  for (const DType one : {DType::F32, DType::F64, DType::BF16, DType::F16}) {
    if (dtype == torch_dtype_name(one)) config.dtype = one;
  }
  return config;
}

/// Reads config.json of a checkpoint's folder.
/// Throws: as parse_hf_config(); IoError if there is no config.json.
inline HFConfig read_hf_config(const std::filesystem::path& directory) {
  return parse_hf_config(read_config_json(directory), (directory / hf_config_file).string());
}

}  // namespace lora
