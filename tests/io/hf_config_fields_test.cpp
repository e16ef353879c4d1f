#include <lora/io/hf/hf_config_fields.hpp>

#include <gtest/gtest.h>

#include "support/golden_sets.hpp"

namespace hf_config_fields_test {
using namespace lora;

LlamaConfig small(const char* type) {
  LlamaConfig config;
  config.model_type = type;
  config.vocab_size = 32;
  config.hidden_size = 12;
  config.intermediate_size = 20;
  config.num_hidden_layers = 3;
  config.num_attention_heads = 6;
  config.num_key_value_heads = 2;
  config.head_dim = 4;
  config.max_position_embeddings = 64;
  return config;
}

TEST(HFConfigFields, SayWhatTheModelIs) {
  std::vector<CausalLMConfig> models;
  LlamaConfig llama = small("llama");
  llama.qkv_bias = llama.o_bias = llama.mlp_bias = llama.tie_word_embeddings = true;
  llama.rope_scaling = {RopeScaling::Type::llama3, 8, 1, 4, 32};
  models.push_back(llama);
  llama.rope_scaling = {RopeScaling::Type::linear, 2};
  models.push_back(llama);
  llama.rope_scaling = {RopeScaling::Type::dynamic, 2};
  models.push_back(llama);
  LlamaConfig qwen2 = small("qwen2");
  qwen2.qkv_bias = true;
  models.push_back(qwen2);
  qwen2.sliding_window = 5;
  qwen2.first_sliding_layer = 1;
  models.push_back(qwen2);
  LlamaConfig qwen3 = small("qwen3");
  qwen3.qk_norm = true;
  models.push_back(qwen3);
  LlamaConfig mistral = small("mistral");
  mistral.rms_norm_eps = 1e-5;
  models.push_back(mistral);
  mistral.sliding_window = 7;
  models.push_back(mistral);
  models.push_back(GPT2Config{32, 16, 12, 2, 3, 20});
  models.push_back(GPT2Config{32, 16, 12, 2, 3, 0});
  for (const CausalLMConfig& model : models) {
    const Json fields = hf_config_fields(model, DType::BF16);
    // Through the text, as a reader would.
    const HFConfig read = parse_hf_config(parse_json(python_json(fields, "x"), "x"), "x");
    EXPECT_EQ(read.model, model) << fields;
    EXPECT_EQ(read.dtype, DType::BF16);
    EXPECT_EQ(fields["architectures"].size(), 1u);
  }
}

TEST(HFConfigFields, KeepWhatWasRead) {
  Json read = hf_config_fields(small("llama"), DType::F32);
  read.erase("torch_dtype");
  read["dtype"] = "float32";
  read["bos_token_id"] = 1;
  LlamaConfig untied = small("llama");
  untied.tie_word_embeddings = true;
  const Json fields = hf_config_fields(untied, DType::F16, read);
  EXPECT_EQ(fields["bos_token_id"], 1);
  EXPECT_EQ(fields["dtype"], "float16");
  EXPECT_FALSE(fields.contains("torch_dtype"));
  EXPECT_EQ(fields["tie_word_embeddings"], true);
}

TEST(HFConfigFields, RefuseToSayAnotherThing) {
  const auto message = [](const CausalLMConfig& model, const Json& read) {
    try {
      hf_config_fields(model, DType::F32, read);
    } catch (const ConfigError& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  LlamaConfig odd = small("llama");
  odd.qk_norm = true;
  EXPECT_EQ(message(odd, Json::object()),
            "hf_config_fields: a config.json of model_type \"llama\" cannot describe this model");
  EXPECT_EQ(message(small("llama"), hf_config_fields(small("mistral"), DType::F32)),
            "hf_config_fields: the fields that were read belong to another model");
  EXPECT_THROW(hf_config_fields(small("llama"), DType::I32), ConfigError);
}

TEST(HFConfigFields, AreThoseOfTheGoldenModels) {
  lora_test::for_each_golden_model([](const lora_test::GoldenModel& golden) {
    const HFConfig read = read_hf_config(golden.base);
    EXPECT_EQ(hf_config_fields(read.model, *read.dtype, read.fields), read.fields);
    const Json written = hf_config_fields(read.model, *read.dtype);
    EXPECT_EQ(parse_hf_config(written, "x").model, read.model);
  });
}

}  // namespace hf_config_fields_test
