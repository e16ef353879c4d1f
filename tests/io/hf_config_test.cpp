#include <lora/io/hf_config.hpp>

#include <gtest/gtest.h>

#include "support/shared.hpp"

namespace {
using namespace lora;

Json llama_fields() {
  return parse_json(R"({"model_type":"llama","vocab_size":32,"hidden_size":12,
      "intermediate_size":20,"num_hidden_layers":3,"num_attention_heads":6,
      "num_key_value_heads":2,"rope_theta":500000.0,"rms_norm_eps":1e-05,
      "max_position_embeddings":64})",
                    "test");
}
Json gpt2_fields() {
  return parse_json(R"({"model_type":"gpt2","vocab_size":32,"n_positions":16,"n_embd":12,
      "n_layer":2,"n_head":3})",
                    "test");
}
LlamaConfig llama(const Json& fields) {
  return std::get<LlamaConfig>(parse_hf_config(fields, "config.json").model);
}
/// With one field changed; null removes nothing, it is a value.
Json with(Json fields, const char* key, Json value) {
  fields[key] = std::move(value);
  return fields;
}
Json without(Json fields, const char* key) {
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
#define EXPECT_FAULT(Error, fields, part)                         \
  EXPECT_NE(message<Error>(fields).find(part), std::string::npos) \
      << message<Error>(fields) << "\nhas not: " << (part)

TEST(HFConfig, ReadsLlama) {
  const LlamaConfig config = llama(llama_fields());
  EXPECT_EQ(config.model_type, "llama");
  EXPECT_EQ(config.vocab_size, 32);
  EXPECT_EQ(config.hidden_size, 12);
  EXPECT_EQ(config.intermediate_size, 20);
  EXPECT_EQ(config.num_hidden_layers, 3);
  EXPECT_EQ(config.num_attention_heads, 6);
  EXPECT_EQ(config.num_key_value_heads, 2);
  EXPECT_EQ(config.head_dim, 2);
  EXPECT_EQ(config.max_position_embeddings, 64);
  EXPECT_EQ(config.rms_norm_eps, 1e-5);
  EXPECT_EQ(config.rope_theta, 500000.0);
  EXPECT_EQ(config.rope_scaling, RopeScaling());
  EXPECT_EQ(config.hidden_act, Activation::silu);
  EXPECT_FALSE(config.qkv_bias || config.o_bias || config.mlp_bias || config.qk_norm);
  EXPECT_FALSE(config.tie_word_embeddings);
  EXPECT_EQ(config.sliding_window, 0);
  EXPECT_EQ(llama(without(llama_fields(), "num_key_value_heads")).num_key_value_heads, 6);
  EXPECT_TRUE(llama(with(llama_fields(), "attention_bias", true)).o_bias);
  EXPECT_TRUE(llama(with(llama_fields(), "mlp_bias", true)).mlp_bias);
  EXPECT_EQ(llama(with(llama_fields(), "head_dim", 8)).head_dim, 8);
  EXPECT_EQ(llama(with(llama_fields(), "hidden_act", "gelu")).hidden_act, Activation::gelu);
}

TEST(HFConfig, ReadsThreeDialectsOfTheRotaryEmbedding) {
  const Json plain = without(llama_fields(), "rope_theta");
  const auto scaled = [&](const char* text) { return parse_json(text, "test"); };
  const Json old =
      with(llama_fields(), "rope_scaling", scaled(R"({"type":"linear","factor":2.0})"));
  const Json newer =
      with(llama_fields(), "rope_scaling", scaled(R"({"rope_type":"linear","factor":2.0})"));
  const Json newest = with(plain, "rope_parameters",
                           scaled(R"({"rope_type":"linear","factor":2.0,"rope_theta":500000.0})"));
  const Json layered = with(plain, "rope_parameters", scaled(R"({"full_attention":
      {"rope_type":"linear","factor":2.0,"rope_theta":500000.0},"sliding_attention":
      {"rope_type":"linear","factor":2.0,"rope_theta":500000.0}})"));
  for (const Json& dialect : {old, newer, newest, layered}) {
    EXPECT_EQ(llama(dialect), llama(old));
    EXPECT_EQ(llama(dialect).rope_scaling.type, RopeScaling::Type::linear);
    EXPECT_EQ(llama(dialect).rope_scaling.factor, 2);
    EXPECT_EQ(llama(dialect).rope_theta, 500000);
  }
  const LlamaConfig llama3 = llama(with(llama_fields(), "rope_scaling", scaled(R"({"rope_type":
      "llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,
      "original_max_position_embeddings":32})")));
  EXPECT_EQ(llama3.rope_scaling, (RopeScaling{RopeScaling::Type::llama3, 8, 1, 4, 32}));
  const LlamaConfig dynamic =
      llama(with(llama_fields(), "rope_scaling", scaled(R"({"type":"dynamic","factor":4.0})")));
  EXPECT_EQ(dynamic.rope_scaling, (RopeScaling{RopeScaling::Type::dynamic, 4, 1, 4, 0}));
}

TEST(HFConfig, RefusesRotaryEmbeddingsItWouldGetWrong) {
  const auto scaled = [&](const char* text) {
    return with(llama_fields(), "rope_scaling", parse_json(text, "test"));
  };
  EXPECT_FAULT(FormatError, without(llama_fields(), "rope_theta"),
               "config.json: rope_theta is missing, here and in rope_parameters");
  EXPECT_FAULT(FormatError, with(llama_fields(), "rope_theta", nullptr), "rope_theta is missing");
  EXPECT_FAULT(FormatError, with(llama_fields(), "rope_theta", -1.0),
               "rope_theta is -1.0, expected a number from 1 to 1e+15");
  EXPECT_FAULT(ConfigError, scaled(R"({"type":"yarn","factor":4.0})"),
               "rope_scaling: type is \"yarn\", which is not supported");
  EXPECT_FAULT(ConfigError, scaled(R"({"rope_type":"longrope","factor":4.0})"),
               "rope_type is \"longrope\"");
  EXPECT_FAULT(ConfigError, scaled(R"({"rope_type":"linear","factor":4.0,"mscale":2})"),
               "mscale is 2, which is not supported: rope_type \"linear\" has no such option");
  EXPECT_FAULT(FormatError, scaled(R"({"rope_type":"linear"})"), "factor is missing");
  EXPECT_FAULT(FormatError, scaled(R"({"rope_type":"linear","factor":0.5})"), "factor is 0.5");
  EXPECT_FAULT(FormatError, scaled(R"({"rope_type":"linear","type":"dynamic","factor":2})"),
               "type is \"dynamic\", expected the same as rope_type, which is \"linear\"");
  EXPECT_FAULT(FormatError, scaled(R"({"rope_type":"llama3","factor":2,"low_freq_factor":1,
      "high_freq_factor":4})"),
               "original_max_position_embeddings is missing");
  EXPECT_FAULT(FormatError, scaled(R"({"rope_type":"llama3","factor":2,"low_freq_factor":4,
      "high_freq_factor":4,"original_max_position_embeddings":8})"),
               "high_freq_factor is 4, expected more than low_freq_factor");
  EXPECT_FAULT(FormatError, with(llama_fields(), "rope_scaling", 3), "rope_scaling is 3");
  const Json both = with(scaled(R"({"rope_type":"linear","factor":2.0})"), "rope_parameters",
                         parse_json(R"({"rope_type":"default"})", "test"));
  EXPECT_FAULT(FormatError, both, "no other values than those of rope_parameters");
  EXPECT_FAULT(FormatError,
               with(llama_fields(), "rope_parameters",
                    parse_json(R"({"rope_type":"default","rope_theta":1e4})", "test")),
               "rope_theta is 500000.0, expected the same as in rope_parameters, 10000");
  EXPECT_FAULT(ConfigError,
               with(llama_fields(), "rope_parameters",
                    parse_json(R"({"full_attention":
      {"rope_theta":1e4},"sliding_attention":{"rope_theta":1e6}})",
                               "test")),
               "layers with different rotary embeddings");
}

TEST(HFConfig, ReadsTheRelativesOfLlama) {
  const auto type = [](const char* name) { return with(llama_fields(), "model_type", name); };
  const LlamaConfig qwen2 = llama(type("qwen2"));
  EXPECT_TRUE(qwen2.qkv_bias);
  EXPECT_FALSE(qwen2.o_bias || qwen2.qk_norm);
  EXPECT_EQ(qwen2.sliding_window, 0);
  const LlamaConfig qwen3 = llama(type("qwen3"));
  EXPECT_TRUE(qwen3.qk_norm);
  EXPECT_FALSE(qwen3.qkv_bias);
  EXPECT_EQ(qwen3.head_dim, 128);
  EXPECT_EQ(llama(type("mistral")).sliding_window, 4096);
  EXPECT_EQ(llama(with(type("mistral"), "sliding_window", nullptr)).sliding_window, 0);
  EXPECT_EQ(llama(with(type("mistral"), "sliding_window", 7)).sliding_window, 7);

  Json window = with(type("qwen2"), "use_sliding_window", true);
  window["sliding_window"] = 5;
  EXPECT_EQ(llama(window).sliding_window, 0) << "max_window_layers is 28 unless it is given";
  window["max_window_layers"] = 1;
  EXPECT_EQ(llama(window).sliding_window, 5);
  EXPECT_EQ(llama(window).first_sliding_layer, 1);
  window["layer_types"] = {"full_attention", "full_attention", "sliding_attention"};
  EXPECT_EQ(llama(window).first_sliding_layer, 2) << "layer_types is stronger";
  window["layer_types"] = {"full_attention", "full_attention", "full_attention"};
  EXPECT_EQ(llama(window).sliding_window, 0);
  window["layer_types"] = {"sliding_attention", "full_attention", "full_attention"};
  EXPECT_FAULT(ConfigError, window, "layers with a window must be the last ones");
  window["layer_types"] = {"sliding_attention"};
  EXPECT_FAULT(FormatError, window, "expected an array with one name a layer, 3");
  window["layer_types"] = {"full_attention", "linear_attention", "full_attention"};
  EXPECT_FAULT(ConfigError, window, "expected full_attention or sliding_attention");
  window["layer_types"] = {"full_attention", "full_attention", "sliding_attention"};
  window["use_sliding_window"] = false;
  EXPECT_FAULT(FormatError, window, "no sliding_attention where no sliding_window is used");
  EXPECT_FAULT(ConfigError, with(llama_fields(), "sliding_window", 8),
               "sliding_window is 8, which is not supported: models of type llama have none");
}

TEST(HFConfig, ReadsGPT2) {
  const auto gpt2 = [](const Json& fields) {
    return std::get<GPT2Config>(parse_hf_config(fields, "config.json").model);
  };
  const GPT2Config config = gpt2(gpt2_fields());
  EXPECT_EQ(config, (GPT2Config{32, 16, 12, 2, 3, 48}));
  EXPECT_EQ(gpt2(with(gpt2_fields(), "n_inner", 20)).n_inner, 20);
  EXPECT_FALSE(gpt2(with(gpt2_fields(), "tie_word_embeddings", false)).tie_word_embeddings);
  EXPECT_FAULT(FormatError, with(gpt2_fields(), "n_head", 5), "n_head is 5, expected a divisor");
  EXPECT_FAULT(ConfigError, with(gpt2_fields(), "scale_attn_weights", false), "scale_attn_weights");
  EXPECT_FAULT(ConfigError, with(gpt2_fields(), "scale_attn_by_inverse_layer_idx", true),
               "layers are scaled alike");
  EXPECT_FAULT(ConfigError, with(gpt2_fields(), "add_cross_attention", true), "cross attention");
}

TEST(HFConfig, ReadsTheStoredType) {
  const auto dtype = [](const char* key, const char* name) {
    return parse_hf_config(with(llama_fields(), key, name), "config.json").dtype;
  };
  EXPECT_EQ(dtype("torch_dtype", "float16"), DType::F16);
  EXPECT_EQ(dtype("dtype", "bfloat16"), DType::BF16);
  EXPECT_EQ(dtype("torch_dtype", "float32"), DType::F32);
  EXPECT_EQ(dtype("dtype", "float64"), DType::F64);
  EXPECT_EQ(dtype("dtype", "auto"), std::nullopt);
  EXPECT_EQ(parse_hf_config(llama_fields(), "config.json").dtype, std::nullopt);
}

TEST(HFConfig, WritesTheTypeWhereItStands) {
  const auto written = [](Json fields) {
    set_config_dtype(fields, DType::BF16);
    return fields;
  };
  EXPECT_EQ(written(Json::object()), Json({{"torch_dtype", "bfloat16"}}));
  EXPECT_EQ(written({{"dtype", "float32"}}), Json({{"dtype", "bfloat16"}}));
  EXPECT_EQ(written({{"dtype", "float32"}, {"torch_dtype", "float32"}}),
            Json({{"dtype", "bfloat16"}, {"torch_dtype", "bfloat16"}}));
  Json fields = {{"dtype", "float32"}};
  EXPECT_THROW(set_config_dtype(fields, DType::I64), ConfigError);
  EXPECT_EQ(fields, Json({{"dtype", "float32"}}));
}

TEST(HFConfig, RefusesWhatIsNotThere) {
  EXPECT_FAULT(FormatError, Json(3), "config.json: is number, expected an object");
  EXPECT_FAULT(FormatError, without(llama_fields(), "model_type"), "model_type is missing");
  EXPECT_FAULT(ConfigError, with(llama_fields(), "model_type", "gemma2"),
               "model_type is \"gemma2\", which is not supported: expected one of llama, mistral, "
               "qwen2, qwen3, gpt2");
  EXPECT_FAULT(ConfigError, with(llama_fields(), "pretraining_tp", 2), "pretraining_tp is 2");
  EXPECT_FAULT(ConfigError, with(llama_fields(), "quantization_config", {{"quant_method", "gptq"}}),
               "quantization_config is {\"quant_method\":\"gptq\"}, which is not supported");
  EXPECT_FAULT(ConfigError, with(llama_fields(), "num_local_experts", 8), "mixtures of experts");
  EXPECT_FAULT(ConfigError, with(llama_fields(), "partial_rotary_factor", 0.5), "whole heads");
  EXPECT_FAULT(ConfigError, with(llama_fields(), "hidden_act", "quick_gelu"),
               "hidden_act is \"quick_gelu\", which is not supported: activation_from_name");
}

TEST(HFConfig, RefusesSizesThatCannotBe) {
  for (const char* key : {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                          "num_attention_heads"}) {
    EXPECT_FAULT(FormatError, without(llama_fields(), key), std::string(key) + " is missing");
    for (const Json& value : {Json(0), Json(-3), Json(2.5), Json("12"), Json(true), Json(1u << 30)})
      EXPECT_FAULT(FormatError, with(llama_fields(), key, value),
                   std::string(key) + " is " + value.dump() + ", expected a whole number from 1");
  }
  EXPECT_FAULT(FormatError, with(llama_fields(), "num_key_value_heads", 4),
               "num_key_value_heads is 4, expected a divisor of num_attention_heads, which is 6");
  EXPECT_FAULT(FormatError, with(llama_fields(), "num_key_value_heads", 12), "from 1 to 6");
  EXPECT_FAULT(FormatError, with(llama_fields(), "hidden_size", 13),
               "num_attention_heads is 6, expected a divisor of hidden_size");
  EXPECT_FAULT(FormatError, with(llama_fields(), "head_dim", 3), "head_dim is 3, expected an even");
  EXPECT_FAULT(FormatError, with(llama_fields(), "head_dim", 1 << 23), "head_dim is 8388608");
  EXPECT_FAULT(FormatError, with(llama_fields(), "rms_norm_eps", 0), "rms_norm_eps is 0");
  EXPECT_FAULT(FormatError, with(llama_fields(), "tie_word_embeddings", 1), "expected true or");
  EXPECT_FAULT(FormatError, with(llama_fields(), "max_position_embeddings", 0), "is 0");
}

TEST(HFConfig, SaysThatThereIsNoFile) {
  const lora_test::TemporaryFolder folder;
  try {
    read_hf_config(folder.path);
    FAIL();
  } catch (const IoError& error) {
    EXPECT_NE(std::string(error.what()).find("config.json: cannot open"), std::string::npos);
  }
}

TEST(ConfigJson, ReadsAFileOfTheFolder) {
  const lora_test::TemporaryFolder folder;
  atomic_write(folder.path / hf_config_file, R"({"a": 1})");
  atomic_write(folder.path / "other.json", "[2]");
  EXPECT_EQ(read_config_json(folder.path), Json({{"a", 1}}));
  EXPECT_EQ(read_config_json(folder.path, "other.json"), Json::array({2}));
  atomic_write(folder.path / hf_config_file, std::string((std::size_t{1} << 22) + 1, ' '));
  EXPECT_THROW(read_config_json(folder.path), FormatError);
  EXPECT_THROW(read_config_json(folder.path, "absent.json"), IoError);
}

TEST(HFConfig, ReadsTheGoldenModels) {
  LORA_NEEDS_SHARED("golden/models");
  const auto base = [](const char* name) {
    return read_hf_config(lora_test::shared_dir() / "golden" / "models" / name / "base");
  };
  const LlamaConfig llama3 = std::get<LlamaConfig>(base("llama3_gqa_tied").model);
  EXPECT_EQ(llama3.rope_scaling, (RopeScaling{RopeScaling::Type::llama3, 8, 1, 4, 32}));
  EXPECT_TRUE(llama3.tie_word_embeddings);
  EXPECT_EQ(llama3.rope_theta, 500000);
  EXPECT_EQ(base("llama_bf16_sharded").dtype, DType::BF16);
  EXPECT_EQ(std::get<LlamaConfig>(base("mistral").model).sliding_window, 7);
  EXPECT_EQ(std::get<LlamaConfig>(base("qwen3").model).head_dim, 16);
  EXPECT_EQ(std::get<LlamaConfig>(base("qwen2").model).head_dim, 12);
  EXPECT_EQ(std::get<GPT2Config>(base("gpt2").model).n_inner, 192);
  LORA_NEEDS_SHARED("data/stories260K-hf");
  const HFConfig stories = read_hf_config(lora_test::shared_dir() / "data" / "stories260K-hf");
  EXPECT_EQ(std::get<LlamaConfig>(stories.model).head_dim, 8);
}

}  // namespace
