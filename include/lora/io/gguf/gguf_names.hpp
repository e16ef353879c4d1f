// The GGUF names of modules in the model families whose adapters it can hold, and what must be
// known about a base model to write or read one.
#pragma once

#include <lora/core/error.hpp>
#include <lora/core/printable.hpp>
#include <lora/core/types.hpp>
#include <lora/io/hf/config_json.hpp>
#include <lora/io/json.hpp>

#include <algorithm>
#include <array>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace lora {

/// A size of a base model.
enum class GgufSize { hidden, feed_forward, query, key_value, query_key_value, vocabulary };

/// A module: HuggingFace's path and GGUF's tensor without ".weight"; '#' stands for the number of
/// the layer. A is (r, in), B is (out, r). `interleaved`: within each head of size K, row 2i + j of
/// B in the file is PEFT's row jK/2 + i (j is 0 or 1), because llama.cpp rotates adjacent pairs
/// where HuggingFace rotates halves.
struct GgufModule {
  std::string_view module, tensor;
  GgufSize in, out;
  bool interleaved = false;
};

/// A field of config.json and its default in transformers; 0 means derived from other fields.
struct GgufField {
  std::string_view key;
  Index standard;
};

/// A family of models. `embedding` and `head` are HuggingFace's paths.
struct GgufFamily {
  std::string_view model_type, architecture;
  std::span<const GgufModule> modules;
  std::string_view embedding = "model.embed_tokens", head = "lm_head";
  bool always_tied = false;  ///< in GGUF, whatever tie_word_embeddings says
  bool conv1d = false;       ///< the checkpoint's matrices are (in, out)
  GgufField hidden{"hidden_size", 4096}, feed_forward{"intermediate_size", 11008},
      layers{"num_hidden_layers", 32}, heads{"num_attention_heads", 32},
      vocabulary{"vocab_size", 32000};
};

namespace detail {

using enum GgufSize;

inline constexpr std::array<GgufModule, 9> qwen_modules{
    {{"model.layers.#.self_attn.q_proj", "blk.#.attn_q", hidden, query},
     {"model.layers.#.self_attn.k_proj", "blk.#.attn_k", hidden, key_value},
     {"model.layers.#.self_attn.v_proj", "blk.#.attn_v", hidden, key_value},
     {"model.layers.#.self_attn.o_proj", "blk.#.attn_output", query, hidden},
     {"model.layers.#.mlp.gate_proj", "blk.#.ffn_gate", hidden, feed_forward},
     {"model.layers.#.mlp.up_proj", "blk.#.ffn_up", hidden, feed_forward},
     {"model.layers.#.mlp.down_proj", "blk.#.ffn_down", feed_forward, hidden},
     {"model.embed_tokens", "token_embd", vocabulary, hidden},
     {"lm_head", "output", hidden, vocabulary}}};

inline constexpr auto llama_modules = [] {
  auto modules = qwen_modules;
  modules[0].interleaved = modules[1].interleaved = true;
  return modules;
}();

inline constexpr std::array<GgufModule, 6> gpt2_modules{
    {{"transformer.h.#.attn.c_attn", "blk.#.attn_qkv", hidden, query_key_value},
     {"transformer.h.#.attn.c_proj", "blk.#.attn_output", hidden, hidden},
     {"transformer.h.#.mlp.c_fc", "blk.#.ffn_up", hidden, feed_forward},
     {"transformer.h.#.mlp.c_proj", "blk.#.ffn_down", feed_forward, hidden},
     {"transformer.wte", "token_embd", vocabulary, hidden},
     {"lm_head", "output", hidden, vocabulary}}};

}  // namespace detail

/// All families. A new one is one entry. HuggingFace's Mistral runs as llama.cpp's "llama".
/// Source: llama.cpp's gguf-py/gguf/tensor_mapping.py, transformers' configuration classes.
inline constexpr std::array gguf_families{
    GgufFamily{.model_type = "llama", .architecture = "llama", .modules = detail::llama_modules},
    GgufFamily{.model_type = "mistral",
               .architecture = "llama",
               .modules = detail::llama_modules,
               .feed_forward = {"intermediate_size", 14336}},
    GgufFamily{.model_type = "qwen2",
               .architecture = "qwen2",
               .modules = detail::qwen_modules,
               .feed_forward = {"intermediate_size", 22016},
               .vocabulary = {"vocab_size", 151936}},
    GgufFamily{.model_type = "qwen3",
               .architecture = "qwen3",
               .modules = detail::qwen_modules,
               .feed_forward = {"intermediate_size", 22016},
               .vocabulary = {"vocab_size", 151936}},
    GgufFamily{.model_type = "gpt2",
               .architecture = "gpt2",
               .modules = detail::gpt2_modules,
               .embedding = "transformer.wte",
               .always_tied = true,
               .conv1d = true,
               .hidden = {"n_embd", 768},
               .feed_forward = {"n_inner", 4 * 768},
               .layers = {"n_layer", 12},
               .heads = {"n_head", 12},
               .vocabulary = {"vocab_size", 50257}}};

/// What a GGUF adapter depends on in a base model. A plain value.
struct GgufBase {
  const GgufFamily* family = nullptr;
  Index hidden = 0, feed_forward = 0, layers = 0, heads = 0, key_value_heads = 0, head_dim = 0,
        vocabulary = 0;
  bool tied = false;  ///< the head is the embedding

  Index size(GgufSize which) const {
    switch (which) {
      case GgufSize::hidden:
        return hidden;
      case GgufSize::feed_forward:
        return feed_forward;
      case GgufSize::query:
        return heads * head_dim;
      case GgufSize::key_value:
        return key_value_heads * head_dim;
      case GgufSize::query_key_value:
        return 3 * hidden;
      case GgufSize::vocabulary:
        return vocabulary;
    }
    return 0;
  }
};

/// A module of a base, found by either of its names.
struct GgufPlace {
  const GgufModule* module = nullptr;
  Index layer = -1;  ///< -1 outside the layers

  /// Returns HuggingFace's path.
  std::string path() const { return filled(module->module); }
  /// Returns GGUF's name of the base's weight, with ".weight".
  std::string tensor() const { return filled(module->tensor) + ".weight"; }

 private:
  std::string filled(std::string_view pattern) const {
    std::string text(pattern);
    if (const std::size_t at = text.find('#'); at != text.npos)
      text.replace(at, 1, std::to_string(layer));
    return text;
  }
};

namespace detail {

// Returns the number in `name` in place of the '#' in `pattern`, or -1 if both are equal without a
// '#'. Accepts only the shortest form of the number, so that no two names denote one module.
inline std::optional<Index> match(std::string_view pattern, std::string_view name) {
  const std::size_t at = pattern.find('#');
  if (at == pattern.npos) return pattern == name ? std::optional<Index>(-1) : std::nullopt;
  const std::string_view tail = pattern.substr(at + 1);
  if (!name.starts_with(pattern.substr(0, at)) || name.size() < at + tail.size() ||
      !name.ends_with(tail))
    return std::nullopt;
  const std::string_view digits = name.substr(at, name.size() - at - tail.size());
  if (digits.empty() || digits.size() > 9 || (digits.size() > 1 && digits[0] == '0'))
    return std::nullopt;
  Index number = 0;
  for (const char digit : digits) {
    if (digit < '0' || digit > '9') return std::nullopt;
    number = 10 * number + (digit - '0');
  }
  return number;
}

inline std::optional<GgufPlace> find(const GgufBase& base, std::string_view name,
                                     std::string_view GgufModule::*pattern) {
  for (const GgufModule& module : base.family->modules) {
    const auto layer = match(module.*pattern, name);
    if (layer && *layer < base.layers) return GgufPlace{&module, *layer};
  }
  return std::nullopt;
}

}  // namespace detail

/// Returns the module of HuggingFace's path ("model.layers.0.self_attn.q_proj"), if the base has
/// it.
inline std::optional<GgufPlace> gguf_place_of_path(const GgufBase& base, std::string_view path) {
  return detail::find(base, path, &GgufModule::module);
}
/// Returns the module of GGUF's name of a weight ("blk.0.attn_q.weight"), if the base has it.
inline std::optional<GgufPlace> gguf_place_of_tensor(const GgufBase& base, std::string_view name) {
  constexpr std::string_view end = ".weight";
  if (!name.ends_with(end)) return std::nullopt;
  return detail::find(base, name.substr(0, name.size() - end.size()), &GgufModule::tensor);
}

/// Returns every module of the base that can have an adapter, in the order of the family's table.
inline std::vector<GgufPlace> gguf_places(const GgufBase& base) {
  std::vector<GgufPlace> places;
  for (const GgufModule& module : base.family->modules) {
    if (module.module.find('#') == module.module.npos) {
      places.push_back({&module, -1});
    } else {
      for (Index layer = 0; layer < base.layers; ++layer) places.push_back({&module, layer});
    }
  }
  return places;
}

/// Reads the base from the content of its config.json; `where` names it in errors. Absent fields
/// have the defaults of transformers.
/// Throws: ConfigError for another kind of model; FormatError for sizes that are not whole numbers
///   or do not fit together.
inline GgufBase gguf_base(const Json& config, const std::string& where) {
  const JsonFields fields(config, where);
  const detail::Architecture* const known = detail::find_architecture(fields);
  GgufBase base;
  std::string supported;
  for (const GgufFamily& family : gguf_families) {
    supported += (supported.empty() ? "" : ", ") + std::string(family.model_type);
    if (known != nullptr && known->model_type == family.model_type) base.family = &family;
  }
  if (base.family == nullptr) {
    throw ConfigError(fields.field("model_type").said() + ", GGUF adapters are supported for " +
                      supported);
  }
  const GgufFamily& family = *base.family;
  constexpr Index most = detail::most_width;  // keeps every product of three far from overflow
  const auto size = [&](const GgufField& field) {
    return config.contains(field.key) ? fields.integer(field.key, 1, most) : field.standard;
  };
  base.hidden = size(family.hidden);
  base.feed_forward = family.conv1d
                          ? fields.integer(family.feed_forward.key, 4 * base.hidden, 1, most)
                          : size(family.feed_forward);
  base.layers = size(family.layers);
  base.heads = size(family.heads);
  base.key_value_heads = base.heads;
  base.head_dim = std::max<Index>(base.hidden / base.heads, 1);
  if (!family.conv1d) {
    base.key_value_heads = detail::derivable_size(fields, "num_key_value_heads",
                                                  known->num_key_value_heads, base.heads, most);
    base.head_dim =
        detail::derivable_size(fields, "head_dim", known->head_dim, base.head_dim, most);
  }
  base.vocabulary = size(family.vocabulary);
  if (base.head_dim % 2 != 0 && family.modules[0].interleaved) {
    throw FormatError(where + ": the head size is " + std::to_string(base.head_dim) +
                      ", expected an even number");
  }
  base.tied = *detail::tied_embeddings(fields) || family.always_tied;
  return base;
}

/// Reads the base from config.json in a base model's folder.
/// Throws: as gguf_base(); IoError, FormatError.
inline GgufBase read_gguf_base(const std::filesystem::path& directory) {
  return gguf_base(read_config_json(directory), (directory / hf_config_file).string());
}

}  // namespace lora
