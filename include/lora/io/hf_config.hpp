// config.json of a causal language model, as transformers writes it, read into the models' own
// configurations and written back.
#pragma once

#include <lora/io/config_json.hpp>
#include <lora/io/dtype.hpp>
#include <lora/io/json.hpp>
#include <lora/io/python_json.hpp>
#include <lora/models/causal_lm_config.hpp>

#include <array>
#include <cmath>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace LORA_NAMESPACE {

/// What a checkpoint's config.json says.
struct HFConfig {
  CausalLMConfig model;
  std::optional<DType> dtype;  ///< of the stored weights, when the file names it; informative
  Json fields;                 ///< the file, for writing it again
};

namespace detail {

/// The fields of one JSON object, each checked when it is asked for. null is absent.
class ConfigFields {
 public:
  ConfigFields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object.is_object())
      throw FormatError(where_ + ": is " + object.type_name() + ", expected an object");
  }

  const std::string& where() const { return where_; }
  const Json& object() const { return object_; }
  const Json* find(const char* key) const {
    const auto found = object_.find(key);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }
  [[noreturn]] void fault(const std::string& key, const std::string& expected) const {
    const Json* value = find(key.c_str());
    throw FormatError(where_ + ": " + key +
                      (value ? " is " + printable(value->dump(), 60) : " is missing") +
                      ", expected " + expected);
  }
  [[noreturn]] void refuse(const std::string& key, const std::string& why) const {
    const Json* value = find(key.c_str());
    throw ConfigError(where_ + ": " + key + " is " +
                      (value ? printable(value->dump(), 60) : "not set") +
                      ", which is not supported: " + why);
  }

  /// A whole number of [low, high]; without `standard` it must be there.
  Index integer(const char* key, std::optional<Index> standard, Index low, Index high) const {
    const Json* value = find(key);
    if (value == nullptr && standard) return *standard;
    // A negative number is far too large as an unsigned one.
    const bool whole = value != nullptr && value->is_number_integer();
    const std::uint64_t n = whole ? value->get<std::uint64_t>() : 0;
    if (!whole || n < static_cast<std::uint64_t>(low) || n > static_cast<std::uint64_t>(high))
      fault(key, "a whole number from " + std::to_string(low) + " to " + std::to_string(high));
    return static_cast<Index>(n);
  }
  /// A finite number of [low, high] that is not 0.
  double number(const char* key, std::optional<double> standard, double low, double high) const {
    const Json* value = find(key);
    if (value == nullptr && standard) return *standard;
    if (value == nullptr || !value->is_number() || !std::isfinite(value->get<double>()) ||
        !(value->get<double>() >= low && value->get<double>() <= high))
      fault(key, "a number from " + number_text(low) + " to " + number_text(high));
    return value->get<double>();
  }
  bool flag(const char* key, bool standard) const {
    const Json* value = find(key);
    if (value == nullptr) return standard;
    if (!value->is_boolean()) fault(key, "true or false");
    return value->get<bool>();
  }
  std::string text(const char* key, const std::optional<std::string>& standard) const {
    const Json* value = find(key);
    if (value == nullptr && standard) return *standard;
    if (value == nullptr || !value->is_string()) fault(key, "a string");
    return value->get<std::string>();
  }
  Activation activation(const char* key, const char* standard) const {
    try {
      return activation_from_name(text(key, standard));
    } catch (const ConfigError& error) {
      refuse(key, error.what());
    }
  }
  /// Refuses every value of an option but its neutral one.
  void refuse_unless(const char* key, const Json& neutral, const char* why) const {
    const Json* value = find(key);
    if (value != nullptr && *value != neutral) refuse(key, why);
  }

 private:
  const Json& object_;
  std::string where_;
};

// Large enough for every model there is, small enough that no product of two overflows.
inline constexpr Index most_width = Index{1} << 24, most_layers = Index{1} << 12,
                       most_positions = Index{1} << 30;

inline void refuse_foreign_options(const ConfigFields& fields) {
  for (const char* key : {"quantization_config", "compression_config"}) {
    if (fields.find(key) != nullptr)
      fields.refuse(key,
                    "quantised weights are not read; expected a checkpoint in F32, BF16 or F16");
  }
  for (const char* key : {"num_experts", "num_local_experts", "n_routed_experts"}) {
    if (fields.find(key) != nullptr) fields.refuse(key, "mixtures of experts are not implemented");
  }
  fields.refuse_unless("pretraining_tp", 1, "only 1, which computes each product at once, is");
  fields.refuse_unless("partial_rotary_factor", 1, "only 1, which rotates whole heads, is");
  fields.refuse_unless("is_decoder", true, "only causal models are");
  fields.refuse_unless("add_cross_attention", false, "there is no cross attention");
  fields.refuse_unless("chunk_size_feed_forward", 0, "only 0 is");
}

/// The rotary embedding's object in the dialect of the file: rope_parameters (also when it repeats
/// itself for each type of layer), rope_scaling, or none.
inline Json rope_object(const ConfigFields& fields) {
  const Json* parameters = fields.find("rope_parameters");
  const Json* scaling = fields.find("rope_scaling");
  if (parameters != nullptr && scaling != nullptr && *parameters != *scaling)
    fields.fault("rope_scaling", "no other values than those of rope_parameters");
  if (parameters == nullptr) parameters = scaling;
  if (parameters == nullptr) return Json::object();
  const char* key = fields.find("rope_parameters") ? "rope_parameters" : "rope_scaling";
  if (!parameters->is_object()) fields.fault(key, "an object");
  const Json* one = nullptr;
  for (const auto& [name, value] : parameters->items()) {
    if (!name.ends_with("_attention") || !value.is_object()) return *parameters;
    if (one != nullptr && *one != value)
      fields.refuse(key, "layers with different rotary embeddings are not implemented");
    one = &value;
  }
  return one == nullptr ? Json::object() : *one;
}

inline void read_rope_scaling(const ConfigFields& rope, RopeScaling& scaling) {
  const std::string type = rope.text("rope_type", rope.text("type", "default"));
  if (rope.find("type") != nullptr && rope.text("type", "") != type)
    rope.fault("type", "the same as rope_type, which is " + in_quotes(type));
  const char* type_key = rope.find("rope_type") ? "rope_type" : "type";
  using Type = RopeScaling::Type;
  if (type == "default") {
    scaling.type = Type::none;
  } else if (type == "linear") {
    scaling.type = Type::linear;
  } else if (type == "dynamic") {
    scaling.type = Type::dynamic;
  } else if (type == "llama3") {
    scaling.type = Type::llama3;
  } else {
    rope.refuse(type_key, "expected default, linear, dynamic or llama3");
  }
  const bool llama3 = scaling.type == Type::llama3;
  for (const auto& [key, value] : rope.object().items()) {
    const bool general = key == "rope_theta" || key == "rope_type" || key == "type";
    const bool factor = key == "factor" && scaling.type != Type::none;
    const bool original =
        key == "original_max_position_embeddings" && (llama3 || type == "dynamic");
    const bool band = (key == "low_freq_factor" || key == "high_freq_factor") && llama3;
    if (value.is_null() || general || factor || original || band) continue;
    if (key == "partial_rotary_factor" && value == 1) continue;
    rope.refuse(key, "rope_type " + in_quotes(type) + " has no such option");
  }
  if (scaling.type == Type::none) return;
  scaling.factor = rope.number("factor", std::nullopt, 1, 1e6);
  const std::optional<Index> none = llama3 ? std::nullopt : std::optional<Index>(0);
  scaling.original_max_position_embeddings =
      rope.integer("original_max_position_embeddings", none, 1, most_positions);
  if (!llama3) return;
  scaling.low_freq_factor = rope.number("low_freq_factor", std::nullopt, 1e-6, 1e6);
  scaling.high_freq_factor = rope.number("high_freq_factor", std::nullopt, 1e-6, 1e6);
  if (!(scaling.high_freq_factor > scaling.low_freq_factor))
    rope.fault("high_freq_factor", "more than low_freq_factor");
}

inline void read_rope(const ConfigFields& fields, LlamaConfig& config) {
  const Json object = rope_object(fields);
  const ConfigFields rope(
      object, fields.where() + ": " +
                  (fields.find("rope_parameters") ? "rope_parameters" : "rope_scaling"));
  read_rope_scaling(rope, config.rope_scaling);
  const bool inside = rope.find("rope_theta") != nullptr;
  const bool outside = fields.find("rope_theta") != nullptr;
  if (!inside && !outside) {
    throw FormatError(fields.where() +
                      ": rope_theta is missing, here and in rope_parameters; a file that "
                      "transformers wrote before it knew of it (Llama 1 and 2) means 10000: add "
                      "\"rope_theta\": 10000.0");
  }
  config.rope_theta = (inside ? rope : fields).number("rope_theta", std::nullopt, 1, 1e15);
  if (inside && outside && fields.number("rope_theta", std::nullopt, 1, 1e15) != config.rope_theta)
    fields.fault("rope_theta", "the same as in rope_parameters, " + number_text(config.rope_theta));
}

/// From which layer on the window is used; 0 with no window.
inline void read_sliding_window(const ConfigFields& fields, LlamaConfig& config) {
  const bool mistral = config.model_type == "mistral";
  if (config.model_type == "llama") {
    if (fields.find("sliding_window") != nullptr)
      fields.refuse("sliding_window", "models of type llama have none");
  } else if (mistral ? fields.object().find("sliding_window") == fields.object().end()
                     : fields.flag("use_sliding_window", false)) {
    // transformers' default, of Mistral 0.1; null is none.
    config.sliding_window = fields.integer("sliding_window", 4096, 1, most_positions);
  } else if (mistral) {
    config.sliding_window = fields.integer("sliding_window", 0, 1, most_positions);
  }
  const Index layers = config.num_hidden_layers;
  Index first = mistral ? 0 : fields.integer("max_window_layers", 28, 0, most_positions);
  if (const Json* types = fields.find("layer_types")) {
    if (!types->is_array() || static_cast<Index>(types->size()) != layers)
      fields.fault("layer_types", "an array with one name a layer, " + std::to_string(layers));
    first = layers;
    for (Index i = layers; i-- > 0;) {
      const Json& type = (*types)[static_cast<std::size_t>(i)];
      if (type != "full_attention" && type != "sliding_attention")
        fields.refuse("layer_types", "expected full_attention or sliding_attention");
      if (type == "full_attention") continue;
      if (first != i + 1)
        fields.refuse("layer_types", "layers with a window must be the last ones");
      first = i;
    }
    if (first < layers && config.sliding_window == 0)
      fields.fault("layer_types", "no sliding_attention where no sliding_window is used");
  }
  if (config.sliding_window == 0) return;
  config.first_sliding_layer = first;
  if (first >= layers) config.sliding_window = config.first_sliding_layer = 0;
}

inline LlamaConfig read_llama_config(const ConfigFields& fields) {
  LlamaConfig config;
  config.model_type = fields.text("model_type", std::nullopt);
  config.vocab_size = fields.integer("vocab_size", std::nullopt, 1, most_width);
  config.hidden_size = fields.integer("hidden_size", std::nullopt, 1, most_width);
  config.intermediate_size = fields.integer("intermediate_size", std::nullopt, 1, most_width);
  config.num_hidden_layers = fields.integer("num_hidden_layers", std::nullopt, 1, most_layers);
  const Index heads = fields.integer("num_attention_heads", std::nullopt, 1, most_width);
  config.num_attention_heads = heads;
  config.num_key_value_heads = fields.integer("num_key_value_heads", heads, 1, heads);
  if (heads % config.num_key_value_heads != 0)
    fields.fault("num_key_value_heads",
                 "a divisor of num_attention_heads, which is " + std::to_string(heads));
  if (fields.find("head_dim") == nullptr && config.model_type != "qwen3" &&
      config.hidden_size % heads != 0)
    fields.fault("num_attention_heads", "a divisor of hidden_size, or head_dim beside it");
  const Index standard = config.model_type == "qwen3" ? 128 : config.hidden_size / heads;
  config.head_dim = fields.integer("head_dim", standard, 1, most_width / heads);
  if (config.head_dim % 2 != 0 || config.head_dim == 0) {
    throw FormatError(fields.where() + ": head_dim is " + std::to_string(config.head_dim) +
                      ", expected an even number: a rotary embedding turns pairs");
  }
  const Index positions = config.model_type == "llama"     ? 2048
                          : config.model_type == "mistral" ? 131072
                                                           : 32768;
  config.max_position_embeddings =
      fields.integer("max_position_embeddings", positions, 1, most_positions);
  config.rms_norm_eps = fields.number("rms_norm_eps", 1e-6, 1e-30, 1);
  config.hidden_act = fields.activation("hidden_act", "silu");
  config.tie_word_embeddings = fields.flag("tie_word_embeddings", false);
  read_rope(fields, config);
  read_sliding_window(fields, config);
  if (config.model_type == "llama" || config.model_type == "qwen3")
    config.qkv_bias = config.o_bias = fields.flag("attention_bias", false);
  if (config.model_type == "qwen2") config.qkv_bias = true;
  if (config.model_type == "llama") config.mlp_bias = fields.flag("mlp_bias", false);
  config.qk_norm = config.model_type == "qwen3";
  return config;
}

inline GPT2Config read_gpt2_config(const ConfigFields& fields) {
  GPT2Config config;
  config.vocab_size = fields.integer("vocab_size", std::nullopt, 1, most_width);
  config.n_positions = fields.integer("n_positions", std::nullopt, 1, most_positions);
  config.n_embd = fields.integer("n_embd", std::nullopt, 1, most_width / 4);
  config.n_layer = fields.integer("n_layer", std::nullopt, 1, most_layers);
  config.n_head = fields.integer("n_head", std::nullopt, 1, most_width);
  if (config.n_embd % config.n_head != 0)
    fields.fault("n_head", "a divisor of n_embd, which is " + std::to_string(config.n_embd));
  config.n_inner = fields.integer("n_inner", 4 * config.n_embd, 1, most_width);
  config.layer_norm_epsilon = fields.number("layer_norm_epsilon", 1e-5, 1e-30, 1);
  config.activation_function = fields.activation("activation_function", "gelu_new");
  config.tie_word_embeddings = fields.flag("tie_word_embeddings", true);
  fields.refuse_unless("scale_attn_weights", true, "scores are always scaled by 1/√(head size)");
  fields.refuse_unless("scale_attn_by_inverse_layer_idx", false, "layers are scaled alike");
  return config;
}

/// The architectures there are: adding one is a line here and in hf_config_fields's.
struct ArchitectureName {
  const char* model_type;
  const char* architecture;
};
inline constexpr std::array<ArchitectureName, 5> architecture_names{{
    {"llama", "LlamaForCausalLM"},
    {"mistral", "MistralForCausalLM"},
    {"qwen2", "Qwen2ForCausalLM"},
    {"qwen3", "Qwen3ForCausalLM"},
    {"gpt2", "GPT2LMHeadModel"},
}};

}  // namespace detail

/// config.json's content as a configuration; `where` begins the messages. Its three dialects are
/// read: rope_theta beside rope_scaling (with type or rope_type), and rope_parameters; dtype or
/// torch_dtype. Dropout within the base (GPT-2's attn_pdrop and its like, attention_dropout) is not
/// applied, and fields that only tokenizers and generation use are not looked at. Throws
/// FormatError, naming field and value, for what is missing, of another kind or out of range
/// (rope_theta has no default), and ConfigError for a model_type or an option that is not
/// supported.
inline HFConfig parse_hf_config(const Json& json, const std::string& where) {
  const detail::ConfigFields fields(json, where);
  const std::string type = fields.text("model_type", std::nullopt);
  std::string known;
  bool found = false;
  for (const auto& one : detail::architecture_names) {
    known += (known.empty() ? "" : ", ") + std::string(one.model_type);
    found = found || type == one.model_type;
  }
  if (!found) fields.refuse("model_type", "expected one of " + known);
  detail::refuse_foreign_options(fields);
  HFConfig config;
  config.fields = json;
  if (type == "gpt2") {
    config.model = detail::read_gpt2_config(fields);
  } else {
    config.model = detail::read_llama_config(fields);
  }
  const char* key = fields.find("dtype") ? "dtype" : "torch_dtype";
  const std::string dtype = fields.text(key, "");
  for (const DType one : {DType::F32, DType::F64, DType::BF16, DType::F16}) {
    if (dtype == torch_dtype_name(one)) config.dtype = one;
  }
  return config;
}

/// The same from a checkpoint's folder. Throws IoError when there is no config.json.
inline HFConfig read_hf_config(const std::filesystem::path& directory) {
  return parse_hf_config(read_config_json(directory), (directory / hf_config_file).string());
}

}  // namespace LORA_NAMESPACE
