// Reads generation_config.json, a checkpoint's options of generation.
#pragma once

#include <lora/io/hf/config_json.hpp>
#include <lora/io/hf/hf_config.hpp>
#include <lora/models/generation_config.hpp>

#include <array>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace lora {

inline constexpr const char* hf_generation_config_file = "generation_config.json";

/// What a checkpoint says about generation.
struct HFGenerationConfig {
  GenerationConfig generation;
  /// Sentences about fields that this library does not support.
  std::vector<std::string> warnings;
};

namespace detail {

/// Fields that would change a text and are ignored, with the values that do nothing.
inline constexpr std::array<std::pair<const char*, const char*>, 26> ignored_generation_fields{{
    {"num_beams", "1"},
    {"num_beam_groups", "1"},
    {"penalty_alpha", "0"},
    {"typical_p", "1"},
    {"top_h", "null"},
    {"epsilon_cutoff", "0"},
    {"eta_cutoff", "0"},
    {"diversity_penalty", "0"},
    {"encoder_repetition_penalty", "1"},
    {"no_repeat_ngram_size", "0"},
    {"encoder_no_repeat_ngram_size", "0"},
    {"min_length", "0"},
    {"min_new_tokens", "0"},
    {"max_time", "null"},
    {"guidance_scale", "1"},
    {"bad_words_ids", "null"},
    {"force_words_ids", "null"},
    {"constraints", "null"},
    {"suppress_tokens", "[]"},
    {"begin_suppress_tokens", "[]"},
    {"forced_bos_token_id", "null"},
    {"forced_eos_token_id", "null"},
    {"sequence_bias", "null"},
    {"exponential_decay_length_penalty", "null"},
    {"watermarking_config", "null"},
    {"remove_invalid_values", "false"},
}};

/// Reads one id or several.
inline std::vector<std::int64_t> read_token_ids(const JsonFields& fields, const char* key) {
  const Json* value = fields.find(key);
  if (value == nullptr) return {};
  const Json all = value->is_array() ? *value : Json::array({*value});
  std::vector<std::int64_t> ids;
  for (const Json& one : all) {
    if (!one.is_number_integer() || one.get<std::uint64_t>() > std::uint64_t{1} << 31)
      fields.fault(key, "an id or an array of ids, each from 0 to 2^31");
    ids.push_back(one.get<std::int64_t>());
  }
  return ids;
}

inline std::vector<std::string> read_stop_strings(const JsonFields& fields) {
  const Json* value = fields.find("stop_strings");
  if (value == nullptr) return {};
  const Json all = value->is_array() ? *value : Json::array({*value});
  std::vector<std::string> texts;
  for (const Json& one : all) {
    if (!one.is_string() || one.get_ref<const std::string&>().empty())
      fields.fault("stop_strings", "a text or an array of texts, none of them empty");
    texts.push_back(one.get<std::string>());
  }
  return texts;
}

}  // namespace detail

/// Parses the content of generation_config.json; messages begin with `where`. null counts as
/// absent; absent fields have the defaults of transformers.
/// Throws: FormatError that names field and value, for a wrong type or range.
inline HFGenerationConfig parse_generation_config(const Json& json, const std::string& where) {
  const JsonFields fields(json, where);
  constexpr Index most = Index{1} << 31;
  HFGenerationConfig read;
  GenerationConfig& config = read.generation;
  const auto length = [&](const char* key, std::optional<Index>& value) {
    if (fields.find(key) != nullptr) value = fields.integer(key, 0, most);
  };
  length("max_new_tokens", config.max_new_tokens);
  length("max_length", config.max_length);
  config.do_sample = fields.flag("do_sample", false);
  // Greedy models may have a temperature of 0, which then means nothing.
  const double temperature = fields.number("temperature", 1, 0, 1e30);
  if (config.do_sample && temperature == 0) fields.fault("temperature", "a positive number");
  if (temperature > 0) config.temperature = temperature;
  config.top_k = fields.integer("top_k", 50, 0, most);
  config.top_p = fields.number("top_p", 1, 0, 1);
  config.min_p = fields.number("min_p", 0, 0, 1);
  config.repetition_penalty = fields.number("repetition_penalty", 1, 1e-30, 1e30);
  config.eos_token_id = detail::read_token_ids(fields, "eos_token_id");
  config.stop_strings = detail::read_stop_strings(fields);
  for (const auto& [key, nothing] : detail::ignored_generation_fields) {
    const Json* value = fields.find(key);
    if (value == nullptr || *value == Json::parse(nothing)) continue;
    read.warnings.push_back(where + ": " + key + " is " + printable(value->dump(), 60) +
                            ", which is not supported and does nothing");
  }
  return read;
}

/// Reads generation_config.json of a checkpoint's folder. Takes eos_token_id of config.json, if
/// any, without the file or if it names no end of text.
/// Throws: as parse_generation_config(); IoError if a file cannot be read.
/// Source: GenerationConfig.from_pretrained and from_model_config of transformers.
inline HFGenerationConfig read_generation_config(const std::filesystem::path& directory) {
  const auto json_of = [&](const char* name) {
    return std::filesystem::exists(directory / name) ? read_config_json(directory, name)
                                                     : Json::object();
  };
  HFGenerationConfig read = parse_generation_config(
      json_of(hf_generation_config_file), (directory / hf_generation_config_file).string());
  if (read.generation.eos_token_id.empty()) {
    const Json json = json_of(hf_config_file);
    const JsonFields fields(json, (directory / hf_config_file).string());
    read.generation.eos_token_id = detail::read_token_ids(fields, "eos_token_id");
  }
  return read;
}

}  // namespace lora
