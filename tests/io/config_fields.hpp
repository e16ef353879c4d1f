// Small configurations of a Llama and a GPT-2 to vary, and reading them.
#pragma once

#include <lora/io/hf/hf_config_fields.hpp>

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <variant>

namespace lora_test {

using lora::Json;
using lora::LlamaConfig;
using lora::parse_hf_config;
using lora::parse_json;

inline Json llama_fields() {
  return parse_json(R"({"model_type":"llama","vocab_size":32,"hidden_size":12,
      "intermediate_size":20,"num_hidden_layers":3,"num_attention_heads":6,
      "num_key_value_heads":2,"rope_theta":500000.0,"rms_norm_eps":1e-05,
      "max_position_embeddings":64})",
                    "test");
}
inline Json gpt2_fields() {
  return parse_json(R"({"model_type":"gpt2","vocab_size":32,"n_positions":16,"n_embd":12,
      "n_layer":2,"n_head":3})",
                    "test");
}
inline LlamaConfig llama(const Json& fields) {
  return std::get<LlamaConfig>(parse_hf_config(fields, "config.json").model);
}
/// With one field changed; null removes nothing, it is a value.
inline Json with(Json fields, const char* key, Json value) {
  fields[key] = std::move(value);
  return fields;
}
inline Json without(Json fields, const char* key) {
  fields.erase(key);
  return fields;
}

template <class Error>
std::string message(const Json& fields) {
  try {
    parse_hf_config(fields, "config.json");
  } catch (const Error& error) {
    return error.what();
  } catch (const std::exception& error) {
    return std::string("another error: ") + error.what();
  }
  return "no error";
}

}  // namespace lora_test

#define EXPECT_FAULT(Error, fields, part)                                    \
  EXPECT_NE(lora_test::message<Error>(fields).find(part), std::string::npos) \
      << lora_test::message<Error>(fields) << "\nhas not: " << (part)
