// Reads the rotary embedding of a config.json in the three dialects that transformers has written.
#pragma once

#include <lora/io/hf/config_json.hpp>
#include <lora/models/llama_config.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lora {

namespace detail {

/// Returns a field of config.json, or null. An empty object counts as absent.
inline const Json* find_filled(const JsonFields& fields, const char* key) {
  const Json* value = fields.find(key);
  return value != nullptr && *value == Json::object() ? nullptr : value;
}

/// Returns the field that has the rotary embedding in the dialect of the file.
inline const char* rope_key(const JsonFields& fields) {
  return find_filled(fields, "rope_parameters") != nullptr ? "rope_parameters" : "rope_scaling";
}

/// Returns the object of the rotary embedding: rope_parameters, rope_scaling, or an empty one.
inline Json rope_object(const JsonFields& fields) {
  const Json* parameters = find_filled(fields, "rope_parameters");
  const Json* scaling = find_filled(fields, "rope_scaling");
  if (parameters != nullptr && scaling != nullptr && *parameters != *scaling)
    fields.fault("rope_scaling", "no other values than those of rope_parameters");
  if (parameters == nullptr) parameters = scaling;
  if (parameters == nullptr) return Json::object();
  const char* key = rope_key(fields);
  if (!parameters->is_object()) fields.fault(key, "an object");
  for (const auto& [name, value] : parameters->items()) {
    if (value.is_object())
      fields.unsupported(key,
                         "models of type " + fields.text("model_type", "") +
                             " have one rotary embedding for all layers; expected rope_type and "
                             "its options in this object, not in " +
                             in_quotes(name));
  }
  return *parameters;
}

/// A type of rotary embedding and its options beside rope_theta.
struct RopeTypeName {
  RopeScaling::Type type;
  const char* name;
  std::array<const char*, 8> options;  // unused entries are null
};
inline constexpr std::array<RopeTypeName, 5> rope_type_names{{
    {RopeScaling::Type::none, "default", {}},
    {RopeScaling::Type::linear, "linear", {"factor"}},
    {RopeScaling::Type::dynamic, "dynamic", {"factor", "original_max_position_embeddings"}},
    {RopeScaling::Type::llama3,
     "llama3",
     {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}},
    {RopeScaling::Type::yarn,
     "yarn",
     {"factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow",
      "mscale", "mscale_all_dim", "truncate"}},
}};

inline const RopeTypeName& read_rope_type(const JsonFields& rope) {
  const std::string type = rope.text("rope_type", rope.text("type", "default"));
  if (rope.find("type") != nullptr && rope.text("type", "") != type)
    rope.fault("type", "the same as rope_type, which is " + in_quotes(type));
  for (const RopeTypeName& one : rope_type_names) {
    if (type == one.name) return one;
  }
  rope.unsupported(
      rope.find("rope_type") ? "rope_type" : "type",
      "expected default, linear, dynamic, llama3 or yarn" +
          std::string(type == "longrope" || type == "su"
                          ? "; only a checkpoint whose two lists of factors are all 1 and "
                            "whose attention_factor is 1 could say \"default\" instead"
                          : ""));
}

/// Returns the number of positions in pretraining: that beside the object, else that within it,
/// else max_positions, as in transformers 5.
inline Index read_original_positions(const JsonFields& fields, const JsonFields& rope,
                                     Index max_positions, std::vector<std::string>& warnings) {
  constexpr const char* key = "original_max_position_embeddings";
  const Index inside = rope.integer(key, max_positions, 1, most_positions);
  if (fields.find(key) == nullptr) return inside;
  const Index outside = fields.integer(key, 1, most_positions);
  if (rope.find(key) != nullptr && inside != outside) {
    warnings.push_back(rope.where() + ": " + key + " is " + std::to_string(inside) +
                       ", which does nothing: the " + std::to_string(outside) +
                       " outside the object is used");
  }
  return outside;
}

/// Reads yarn's options. The attention factor follows from mscale and mscale_all_dim, or from the
/// factor alone unless both exist; 0 counts as absent.
/// Source: _compute_yarn_parameters of transformers.
inline void read_yarn(const JsonFields& rope, Index max_positions, RopeScaling& scaling) {
  const auto original = static_cast<double>(scaling.original_max_position_embeddings);
  // A factor of null means the ratio of the positions.
  const bool implied = rope.json().contains("factor") && rope.find("factor") == nullptr;
  scaling.factor =
      implied ? static_cast<double>(max_positions) / original : rope.number("factor", 1e-6, 1e6);
  const auto given = [&](const char* key, double standard) {
    const double value = rope.number(key, 0, 0, 1e6);
    return value == 0 ? standard : value;
  };
  scaling.beta_fast = given("beta_fast", 32);
  scaling.beta_slow = given("beta_slow", 1);
  const Json& object = rope.json();
  // Python takes null for false here, and an absent option for true.
  scaling.truncate = object.contains("truncate") && object["truncate"].is_number()
                         ? object["truncate"] != 0
                         : rope.flag("truncate", !object.contains("truncate"));
  const double mscale = given("mscale", 0), all = given("mscale_all_dim", 0);
  if (rope.find("attention_factor") != nullptr) {
    scaling.attention_factor = rope.number("attention_factor", 1e-6, 1e6);
  } else if (mscale > 0 && all > 0) {
    const double growth = scaling.factor > 1 ? 0.1 * std::log(scaling.factor) : 0;
    scaling.attention_factor = (mscale * growth + 1) / (all * growth + 1);
  }
}

/// Ignores options that the type does not have, as transformers does, and adds a warning for each.
inline void warn_of_rope_options(const JsonFields& rope, const RopeTypeName& type,
                                 std::vector<std::string>& warnings) {
  for (const auto& [key, value] : rope.json().items()) {
    if (value.is_null() || key == "rope_theta" || key == "rope_type" || key == "type") continue;
    if (key == "partial_rotary_factor") {
      if (type.type != RopeScaling::Type::none && value != 1)
        rope.unsupported(key, "only 1, which rotates whole heads, is");
      continue;
    }
    const std::string_view name = key;
    if (std::any_of(type.options.begin(), type.options.end(),
                    [&](const char* option) { return option != nullptr && name == option; }))
      continue;
    warnings.push_back(rope.where() + ": " + printable(key) + " is " + printable(value.dump(), 60) +
                       ", which does nothing: rope_type " + in_quotes(type.name) +
                       " has no such option");
  }
}

inline void read_rope_scaling(const JsonFields& fields, const JsonFields& rope, LlamaConfig& config,
                              std::vector<std::string>& warnings) {
  using Type = RopeScaling::Type;
  const RopeTypeName& type = read_rope_type(rope);
  RopeScaling& scaling = config.rope_scaling;
  scaling.type = type.type;
  warn_of_rope_options(rope, type, warnings);
  if (scaling.type == Type::none) return;
  fields.unsupported_unless("partial_rotary_factor", 1, "only 1, which rotates whole heads, is");
  if (scaling.type == Type::yarn) {
    const Index positions = config.max_position_embeddings;
    scaling.original_max_position_embeddings =
        read_original_positions(fields, rope, positions, warnings);
    return read_yarn(rope, positions, scaling);
  }
  scaling.factor = rope.number("factor", 1e-6, 1e6);
  if (scaling.type == Type::dynamic)  // kept, although transformers does not use it
    scaling.original_max_position_embeddings =
        rope.integer("original_max_position_embeddings", 0, 1, most_positions);
  if (scaling.type != Type::llama3) return;
  scaling.original_max_position_embeddings =
      read_original_positions(fields, rope, config.max_position_embeddings, warnings);
  scaling.low_freq_factor = rope.number("low_freq_factor", 1e-6, 1e6);
  scaling.high_freq_factor = rope.number("high_freq_factor", 1e-6, 1e6);
  if (!(scaling.high_freq_factor > scaling.low_freq_factor))
    rope.fault("high_freq_factor", "more than low_freq_factor");
}

/// Reads rope_theta and the scaling of positions. max_position_embeddings must have been read.
inline void read_rope(const JsonFields& fields, LlamaConfig& config,
                      std::vector<std::string>& warnings) {
  const Json object = rope_object(fields);
  const JsonFields rope(object, fields.where() + ": " + rope_key(fields));
  read_rope_scaling(fields, rope, config, warnings);
  const bool inside = rope.find("rope_theta") != nullptr;
  const bool outside = fields.find("rope_theta") != nullptr;
  if (!inside && !outside) {
    throw FormatError(fields.where() +
                      ": rope_theta is missing, here and in rope_parameters; a file that "
                      "transformers wrote before it knew of it (Llama 1 and 2) means 10000: add "
                      "\"rope_theta\": 10000.0");
  }
  config.rope_theta = (inside ? rope : fields).number("rope_theta", 1, 1e15);
  if (inside && outside && fields.number("rope_theta", 1, 1e15) != config.rope_theta)
    fields.fault("rope_theta", "the same as in rope_parameters, " + number_text(config.rope_theta));
  if (config.rope_scaling.type == RopeScaling::Type::yarn && config.rope_theta <= 1)
    (inside ? rope : fields).fault("rope_theta", "more than 1 with rope_type \"yarn\"");
}

/// Returns the object that read_rope reads back; null for no scaling.
inline Json rope_fields(const RopeScaling& scaling) {
  using Type = RopeScaling::Type;
  if (scaling.type == Type::none) return nullptr;
  Json fields;
  for (const RopeTypeName& one : rope_type_names) {
    if (one.type == scaling.type) fields["rope_type"] = one.name;
  }
  fields["factor"] = scaling.factor;
  if (scaling.type == Type::llama3) {
    fields["low_freq_factor"] = scaling.low_freq_factor;
    fields["high_freq_factor"] = scaling.high_freq_factor;
  }
  if (scaling.type == Type::yarn) {
    fields["beta_fast"] = scaling.beta_fast;
    fields["beta_slow"] = scaling.beta_slow;
    fields["truncate"] = scaling.truncate;
    if (scaling.attention_factor) fields["attention_factor"] = *scaling.attention_factor;
  }
  if (scaling.original_max_position_embeddings > 0)
    fields["original_max_position_embeddings"] = scaling.original_max_position_embeddings;
  return fields;
}

}  // namespace detail

}  // namespace lora
