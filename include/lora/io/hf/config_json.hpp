// Reads and changes a checkpoint's config.json: what all its readers must agree on, and the type of
// the weights.
#pragma once

#include <lora/core/types.hpp>
#include <lora/io/dtype.hpp>
#include <lora/io/file.hpp>
#include <lora/io/json_fields.hpp>

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace lora {

/// The file of a checkpoint's folder that describes the model.
inline constexpr const char* hf_config_file = "config.json";

/// Reads config.json, or another small JSON file, of a checkpoint's folder.
/// Throws: IoError; FormatError if it is larger than 4 MiB or is not JSON.
inline Json read_config_json(const std::filesystem::path& directory,
                             const char* file = hf_config_file) {
  const std::filesystem::path path = directory / file;
  const auto bytes = read_file(path, std::uint64_t{1} << 22);
  return parse_json(as_text(bytes), path.string());
}

/// Returns torch's name of F32, F64, BF16 or F16, as in config.json.
/// Throws: ConfigError for other types.
inline std::string torch_dtype_name(DType dtype) {
  switch (dtype) {
    case DType::F32:
      return "float32";
    case DType::F64:
      return "float64";
    case DType::BF16:
      return "bfloat16";
    case DType::F16:
      return "float16";
    default:
      throw ConfigError("torch_dtype_name: " + matrix_dtype_fault(dtype));
  }
}

/// Sets the type of the weights in a config.json object: in `torch_dtype` and `dtype`, whichever
/// exists; in `torch_dtype`, which every version of transformers reads, if neither does.
/// Throws: as torch_dtype_name, before anything changes.
inline void set_config_dtype(Json& fields, DType dtype) {
  const std::string name = torch_dtype_name(dtype);
  if (!fields.contains("dtype") || fields.contains("torch_dtype")) fields["torch_dtype"] = name;
  if (fields.contains("dtype")) fields["dtype"] = name;
}

namespace detail {

/// A supported architecture. To add one, add a line here and in hf_config_fields. The other fields
/// are the defaults of transformers for what config.json lacks.
struct Architecture {
  std::string_view model_type;
  const char* name;
  Index max_position_embeddings = 0;
  Index num_key_value_heads = 0;  ///< 0: the number of heads
  Index head_dim = 0;             ///< 0: hidden_size / heads
  bool tie_word_embeddings = false;
};
inline constexpr std::array<Architecture, 5> architectures{{
    {"llama", "LlamaForCausalLM", 2048},
    {"mistral", "MistralForCausalLM", 131072, 8},
    {"qwen2", "Qwen2ForCausalLM", 32768, 32},
    {"qwen3", "Qwen3ForCausalLM", 32768, 32, 128},
    {"gpt2", "GPT2LMHeadModel", 1024, 0, 0, true},
}};

/// Returns the architecture that model_type names, or null if it is not supported.
inline const Architecture* find_architecture(const JsonFields& fields) {
  const Json* type = fields.find("model_type");
  for (const Architecture& one : architectures) {
    if (type != nullptr && *type == one.model_type) return &one;
  }
  return nullptr;
}

/// Returns "llama, mistral, …" for messages.
inline std::string known_architectures() {
  std::string known;
  for (const Architecture& one : architectures)
    known += (known.empty() ? "" : ", ") + std::string(one.model_type);
  return known;
}

/// Whether the head is the embedding's own matrix: as config.json says, else as the architecture
/// does by default. Returns nullopt if neither tells.
/// Throws: FormatError if tie_word_embeddings is neither true nor false.
inline std::optional<bool> tied_embeddings(const JsonFields& fields) {
  const Architecture* const known = find_architecture(fields);
  if (fields.find("tie_word_embeddings") == nullptr)
    return known == nullptr ? std::nullopt : std::optional<bool>(known->tie_word_embeddings);
  return fields.field("tie_word_embeddings").flag();
}

/// Returns a size. An absent field has the default of the architecture; a null field, and one whose
/// default is 0, have the size `derived`.
inline Index derivable_size(const JsonFields& fields, const char* key, Index standard,
                            Index derived, Index most) {
  const bool absent = !fields.json().contains(key);
  return fields.integer<Index>(key, absent && standard > 0 ? standard : derived, 1, most);
}

// Large enough for every existing model, small enough that no product of two overflows.
inline constexpr Index most_width = Index{1} << 24, most_layers = Index{1} << 12,
                       most_positions = Index{1} << 30;

}  // namespace detail

}  // namespace lora
