#include <lora/io/atomic_file.hpp>
#include <lora/io/hf/hf_config.hpp>

#include <gtest/gtest.h>

#include "io/config_fields.hpp"
#include "support/golden_sets.hpp"

namespace hf_config_test {
using namespace lora;

using lora_test::gpt2_fields;
using lora_test::llama;
using lora_test::llama_fields;
using lora_test::message;
using lora_test::with;
using lora_test::without;

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

TEST(HFConfig, ReadsTheRelativesOfLlama) {
  const auto type = [](const char* name) { return with(llama_fields(), "model_type", name); };
  const LlamaConfig qwen2 = llama(type("qwen2"));
  EXPECT_TRUE(qwen2.qkv_bias);
  EXPECT_FALSE(qwen2.o_bias || qwen2.qk_norm);
  EXPECT_EQ(qwen2.sliding_window, 0);
  EXPECT_EQ(llama(with(with(type("qwen2"), "use_sliding_window", true), "sliding_window", nullptr))
                .sliding_window,
            0);
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
  EXPECT_FAULT(FormatError, window, "expected an array with one name per layer, 3");
  window["layer_types"] = {"full_attention", "linear_attention", "full_attention"};
  EXPECT_FAULT(ConfigError, window, "expected full_attention or sliding_attention");
  window["layer_types"] = {"full_attention", "full_attention", "sliding_attention"};
  window["use_sliding_window"] = false;
  EXPECT_FAULT(FormatError, window, "no sliding_attention where no sliding_window is used");
  EXPECT_FAULT(ConfigError, with(llama_fields(), "sliding_window", 8),
               "sliding_window is 8, which is not supported: models of type llama have no window");
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
  EXPECT_FAULT(ConfigError, with(llama_fields(), "quantization_config", {{"quant_method", "gptq"}}),
               "quantization_config is {\"quant_method\":\"gptq\"}, which is not supported");
  EXPECT_FAULT(ConfigError, with(llama_fields(), "hidden_act", "quick_gelu"),
               "hidden_act is \"quick_gelu\", which is not supported: activation_from_name");
  // Nothing of the file reaches a terminal as it is.
  const std::string escape = message<ConfigError>(with(llama_fields(), "hidden_act", "\x1b[31m"));
  EXPECT_NE(escape.find("\"\\x1b[31m\""), std::string::npos) << escape;
  EXPECT_EQ(escape.find('\x1b'), std::string::npos);
}

// What transformers 4.57 and 5.24 do with each field of their configurations' classes, found by
// reading both and by comparing loss, logits and greedy text of small models with and without it in
// 5.24. `accepted` changes nothing there and nothing here, `followed` means another model, and
// `refused` is what changes something there that is not there here.
enum class Means { accepted, followed, refused };
struct FieldRow {
  const char* types;  // "" is every one
  const char* field;
  const char* value;
  Means means;
};
constexpr FieldRow field_rows[] = {
    // PretrainedConfig's, 4.57 and 5.24
    {"", "is_decoder", "false", Means::accepted},
    {"", "is_decoder", "true", Means::accepted},
    {"", "is_encoder_decoder", "true", Means::accepted},
    {"", "tie_encoder_decoder", "true", Means::accepted},
    {"", "cross_attention_hidden_size", "7", Means::accepted},
    {"gpt2", "add_cross_attention", "true", Means::refused},
    {"llama mistral qwen2 qwen3", "add_cross_attention", "true", Means::accepted},
    {"gpt2", "pruned_heads", R"({"0":[1]})", Means::refused},
    {"", "pruned_heads", "{}", Means::accepted},
    {"llama mistral qwen2 qwen3", "pruned_heads", R"({"0":[1]})", Means::accepted},
    {"", "chunk_size_feed_forward", "4", Means::accepted},
    {"", "output_hidden_states", "true", Means::accepted},
    {"", "output_attentions", "true", Means::accepted},
    {"", "return_dict", "false", Means::accepted},
    {"", "torchscript", "true", Means::accepted},
    {"", "use_bfloat16", "true", Means::accepted},
    {"", "tf_legacy_loss", "true", Means::accepted},
    {"", "gradient_checkpointing", "true", Means::accepted},
    {"", "tie_last_hidden_states", "true", Means::accepted},
    {"", "per_layer_config", R"({"1":{"hidden_act":"relu"}})", Means::refused},
    {"", "per_layer_config", "{}", Means::accepted},
    {"", "architectures", R"(["LlamaForSequenceClassification"])", Means::accepted},
    {"", "auto_map", R"({"AutoModelForCausalLM":"x.Y"})", Means::accepted},
    {"", "finetuning_task", R"("x")", Means::accepted},
    {"", "id2label", R"({"0":"a"})", Means::accepted},
    {"", "label2id", R"({"a":0})", Means::accepted},
    {"", "num_labels", "5", Means::accepted},
    {"", "problem_type", R"("regression")", Means::accepted},
    {"", "task_specific_params", R"({"text-generation":{"max_length":20}})", Means::accepted},
    {"", "tokenizer_class", R"("X")", Means::accepted},
    {"", "prefix", R"("x")", Means::accepted},
    {"", "bos_token_id", "7", Means::accepted},
    {"", "eos_token_id", "[7,8]", Means::accepted},
    {"", "pad_token_id", "3", Means::accepted},
    {"", "sep_token_id", "3", Means::accepted},
    {"", "decoder_start_token_id", "3", Means::accepted},
    {"", "max_length", "20", Means::accepted},
    {"", "do_sample", "true", Means::accepted},
    {"", "name_or_path", R"("x")", Means::accepted},
    {"", "_name_or_path", R"("x")", Means::accepted},
    {"", "_commit_hash", R"("x")", Means::accepted},
    {"", "transformers_version", R"("4.0")", Means::accepted},
    {"", "attn_implementation", R"("eager")", Means::accepted},
    {"", "loss_type", R"("ForMaskedLM")", Means::accepted},
    {"", "quantization_config", R"({"quant_method":"gptq"})", Means::refused},
    {"llama mistral", "tie_word_embeddings", "true", Means::followed},
    {"gpt2", "tie_word_embeddings", "false", Means::followed},
    {"", "tie_word_embeddings", R"("yes")", Means::refused},
    // looked at by transformers' masks and caches, whatever the model
    {"", "is_causal", "false", Means::refused},
    {"", "is_causal", "true", Means::accepted},
    {"", "is_causal", "null", Means::refused},
    {"llama mistral gpt2", "attention_chunk_size", "8", Means::refused},
    {"qwen2 qwen3", "attention_chunk_size", "8", Means::accepted},
    {"llama gpt2", "sliding_window", "8", Means::refused},
    {"llama gpt2", "sliding_window", "64", Means::accepted},
    {"llama gpt2", "sliding_window", "null", Means::accepted},
    {"mistral", "sliding_window", "8", Means::followed},
    {"mistral", "sliding_window", "null", Means::followed},
    {"qwen2 qwen3", "sliding_window", "8", Means::accepted},
    {"", "use_sliding_window", "false", Means::accepted},
    {"llama mistral gpt2", "use_sliding_window", "true", Means::accepted},
    {"qwen2 qwen3", "max_window_layers", "-1", Means::accepted},
    {"llama mistral gpt2", "max_window_layers", "0", Means::accepted},
    {"llama qwen2 qwen3", "layer_types", R"(["full_attention","full_attention"])", Means::accepted},
    {"llama qwen2 qwen3", "layer_types", R"(["full_attention","sliding_attention"])",
     Means::refused},
    {"llama mistral qwen2 qwen3", "layer_types", R"(["full_attention"])", Means::refused},
    // of Llama and its relatives
    {"llama mistral qwen2 qwen3", "vocab_size", "33", Means::followed},
    {"llama mistral qwen2 qwen3", "hidden_size", "24", Means::followed},
    {"llama mistral qwen2 qwen3", "intermediate_size", "21", Means::followed},
    {"llama mistral qwen2 qwen3", "num_hidden_layers", "3", Means::followed},
    {"llama mistral qwen2 qwen3", "num_attention_heads", "2", Means::followed},
    {"llama mistral qwen2 qwen3", "num_key_value_heads", "1", Means::followed},
    {"llama mistral qwen2 qwen3", "head_dim", "4", Means::followed},
    {"llama mistral qwen2 qwen3", "max_position_embeddings", "65", Means::followed},
    {"llama mistral qwen2 qwen3", "rms_norm_eps", "0.5", Means::followed},
    {"llama mistral qwen2 qwen3", "rms_norm_eps", "0", Means::followed},
    {"llama mistral qwen2 qwen3", "hidden_act", R"("relu")", Means::followed},
    {"llama mistral qwen2 qwen3", "hidden_act", R"("quick_gelu")", Means::refused},
    {"llama mistral qwen2 qwen3", "rope_theta", "20000", Means::followed},
    {"llama mistral qwen2 qwen3", "rope_scaling", R"({"rope_type":"linear","factor":2})",
     Means::followed},
    {"llama mistral qwen2 qwen3", "rope_scaling", R"({"rope_type":"linear","factor":0.5})",
     Means::followed},
    {"llama mistral qwen2 qwen3", "rope_scaling", "{}", Means::accepted},
    {"llama mistral qwen2 qwen3", "rope_parameters", "{}", Means::accepted},
    {"llama mistral qwen2 qwen3", "rope_parameters",
     R"({"full_attention":{"rope_type":"default"}})", Means::refused},
    {"llama mistral qwen2 qwen3", "rope_scaling", R"({"rope_type":"longrope"})", Means::refused},
    {"llama mistral qwen2 qwen3", "partial_rotary_factor", "0.5", Means::accepted},
    {"llama mistral qwen2 qwen3", "original_max_position_embeddings", "8", Means::accepted},
    {"llama qwen3", "attention_bias", "true", Means::followed},
    {"mistral qwen2 gpt2", "attention_bias", "true", Means::accepted},
    {"qwen2", "attention_bias", "false", Means::accepted},
    {"llama", "mlp_bias", "true", Means::followed},
    {"mistral qwen2 qwen3 gpt2", "mlp_bias", "true", Means::accepted},
    {"", "qkv_bias", "false", Means::accepted},
    {"", "attention_dropout", "0.5", Means::accepted},
    {"", "initializer_range", "0.5", Means::accepted},
    {"", "use_cache", "false", Means::accepted},
    {"", "pretraining_tp", "2", Means::accepted},
    {"", "num_experts", "8", Means::accepted},
    {"", "final_logit_softcapping", "3.0", Means::accepted},
    {"", "use_mrope", "true", Means::accepted},
    // of GPT-2
    {"gpt2", "n_positions", "65", Means::followed},
    {"gpt2", "n_embd", "24", Means::followed},
    {"gpt2", "n_layer", "3", Means::followed},
    {"gpt2", "n_head", "2", Means::followed},
    {"gpt2", "n_inner", "20", Means::followed},
    {"gpt2", "activation_function", R"("relu")", Means::followed},
    {"gpt2", "layer_norm_epsilon", "0.5", Means::followed},
    {"gpt2", "scale_attn_weights", "false", Means::refused},
    {"gpt2", "scale_attn_by_inverse_layer_idx", "true", Means::refused},
    {"gpt2", "reorder_and_upcast_attn", "true", Means::accepted},
    {"gpt2", "hidden_size", "24", Means::refused},
    {"gpt2", "num_hidden_layers", "3", Means::refused},
    {"gpt2", "num_attention_heads", "2", Means::refused},
    {"gpt2", "max_position_embeddings", "65", Means::refused},
    {"gpt2", "hidden_size", "12", Means::accepted},
    {"gpt2", "attn_pdrop", "0.5", Means::accepted},
    {"gpt2", "embd_pdrop", "0.5", Means::accepted},
    {"gpt2", "resid_pdrop", "0.5", Means::accepted},
    {"gpt2", "n_ctx", "8", Means::accepted},
    {"gpt2", "summary_type", R"("last")", Means::accepted},
    {"gpt2", "summary_use_proj", "false", Means::accepted},
    {"gpt2", "summary_activation", R"("tanh")", Means::accepted},
    {"gpt2", "summary_proj_to_labels", "false", Means::accepted},
    {"gpt2", "summary_first_dropout", "0.9", Means::accepted},
    {"gpt2", "head_dim", "16", Means::accepted},
};

TEST(HFConfig, TakesEachFieldAsTransformersDoes) {
  for (const FieldRow& row : field_rows) {
    int models = 0;
    for (const char* type : {"llama", "mistral", "qwen2", "qwen3", "gpt2"}) {
      if (row.types[0] != '\0' &&
          (" " + std::string(row.types) + " ").find(" " + std::string(type) + " ") ==
              std::string::npos)
        continue;
      ++models;
      Json fields = std::string(type) == "gpt2" ? with(gpt2_fields(), "n_positions", 64)
                                                : with(llama_fields(), "num_hidden_layers", 2);
      fields["model_type"] = type;
      const CausalLMConfig before = parse_hf_config(fields, "config.json").model;
      fields[row.field] = parse_json(row.value, "test");
      SCOPED_TRACE(std::string(type) + " " + row.field + " " + row.value);
      try {
        const CausalLMConfig after = parse_hf_config(fields, "config.json").model;
        EXPECT_EQ(before == after, row.means == Means::accepted);
        EXPECT_NE(row.means, Means::refused);
      } catch (const Error& error) {
        EXPECT_EQ(row.means, Means::refused) << error.what();
        EXPECT_NE(std::string(error.what()).find(row.field), std::string::npos) << error.what();
      }
    }
    EXPECT_GT(models, 0) << row.field;
  }
}

TEST(HFConfig, SaysWhichDropoutIsNotApplied) {
  const auto notes = [](const Json& fields) {
    return parse_hf_config(fields, "config.json").training_warnings;
  };
  EXPECT_TRUE(notes(with(llama_fields(), "attention_dropout", 0.0)).empty());
  EXPECT_EQ(
      notes(with(llama_fields(), "attention_dropout", 0.25)),
      (std::vector<std::string>{
          "config.json: attention_dropout is 0.25, which is not applied in training: the base "
          "has no dropout here"}));
  EXPECT_EQ(notes(with(with(gpt2_fields(), "attn_pdrop", 0.1), "resid_pdrop", 0.1)).size(), 2u);
}

TEST(HFConfig, TakesTheDefaultsOfEachClass) {
  const auto heads = [](const char* type, Json fields) {
    return llama(with(with(without(std::move(fields), "num_key_value_heads"), "head_dim", 2),
                      "model_type", type));
  };
  const Json many = with(with(llama_fields(), "num_attention_heads", 64), "hidden_size", 128);
  EXPECT_EQ(heads("llama", many).num_key_value_heads, 64);
  EXPECT_EQ(heads("mistral", many).num_key_value_heads, 8);
  EXPECT_EQ(heads("qwen3", many).num_key_value_heads, 32);
  const Json null = with(with(many, "model_type", "qwen2"), "num_key_value_heads", nullptr);
  EXPECT_EQ(llama(null).num_key_value_heads, 64);
  EXPECT_FAULT(FormatError,
               with(without(llama_fields(), "num_key_value_heads"), "model_type", "qwen2"),
               "num_key_value_heads is missing, and 32 is its default in transformers");
  const Json named =
      parse_json(R"({"model_type":"gpt2","vocab_size":32,"max_position_embeddings":16,
      "hidden_size":12,"num_hidden_layers":2,"num_attention_heads":3})",
                 "test");
  EXPECT_EQ(std::get<GPT2Config>(parse_hf_config(named, "x").model),
            (GPT2Config{32, 16, 12, 2, 3, 48}));
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
  EXPECT_FAULT(FormatError, with(llama_fields(), "rms_norm_eps", -1), "rms_norm_eps is -1");
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

void expect_rope(const RopeScaling& scaling, const Json& rope) {
  const auto type = rope.at("rope_type").get<std::string>();
  EXPECT_EQ(scaling.type, type == "llama3"   ? RopeScaling::Type::llama3
                          : type == "linear" ? RopeScaling::Type::linear
                                             : RopeScaling::Type::none);
  if (type == "default") return;
  EXPECT_EQ(scaling.factor, rope.at("factor").get<double>());
  if (type != "llama3") return;
  EXPECT_EQ(scaling.low_freq_factor, rope.at("low_freq_factor").get<double>());
  EXPECT_EQ(scaling.high_freq_factor, rope.at("high_freq_factor").get<double>());
  EXPECT_EQ(scaling.original_max_position_embeddings,
            rope.at("original_max_position_embeddings").get<Index>());
}

TEST(HFConfig, ReadsTheGoldenModels) {
  lora_test::for_each_golden_model([](const lora_test::GoldenModel& golden) {
    const Json file = read_config_json(golden.base);
    const HFConfig read = read_hf_config(golden.base);
    const auto number = [&](const char* field) { return file.at(field).get<Index>(); };
    if (file.contains("dtype")) {
      const auto dtype = file.at("dtype").get<std::string>();
      EXPECT_EQ(read.dtype, dtype == "bfloat16"  ? DType::BF16
                            : dtype == "float16" ? DType::F16
                                                 : DType::F32);
    }
    if (const auto* gpt2 = std::get_if<GPT2Config>(&read.model)) {
      EXPECT_EQ(file.at("model_type"), "gpt2");
      EXPECT_EQ(gpt2->vocab_size, number("vocab_size"));
      EXPECT_EQ(gpt2->n_embd, number("n_embd"));
      EXPECT_EQ(gpt2->n_layer, number("n_layer"));
      EXPECT_EQ(gpt2->n_head, number("n_head"));
      EXPECT_EQ(gpt2->n_inner, file.at("n_inner").is_null() ? 4 * gpt2->n_embd : number("n_inner"));
      return;
    }
    const auto& llama = std::get<LlamaConfig>(read.model);
    EXPECT_EQ(llama.model_type, file.at("model_type").get<std::string>());
    EXPECT_EQ(llama.vocab_size, number("vocab_size"));
    EXPECT_EQ(llama.hidden_size, number("hidden_size"));
    EXPECT_EQ(llama.intermediate_size, number("intermediate_size"));
    EXPECT_EQ(llama.num_hidden_layers, number("num_hidden_layers"));
    EXPECT_EQ(llama.num_attention_heads, number("num_attention_heads"));
    EXPECT_EQ(llama.num_key_value_heads, number("num_key_value_heads"));
    EXPECT_EQ(llama.head_dim,
              file.value("head_dim", llama.hidden_size / llama.num_attention_heads));
    EXPECT_EQ(llama.tie_word_embeddings, file.at("tie_word_embeddings").get<bool>());
    EXPECT_EQ(llama.rms_norm_eps, file.at("rms_norm_eps").get<double>());
    EXPECT_EQ(llama.qkv_bias, llama.model_type == "qwen2");
    EXPECT_EQ(llama.qk_norm, llama.model_type == "qwen3");
    const bool windowed = llama.model_type == "mistral";
    EXPECT_EQ(llama.sliding_window, windowed ? number("sliding_window") : 0);
    if (!file.contains("rope_parameters")) return;
    const Json& rope = file.at("rope_parameters");
    EXPECT_EQ(llama.rope_theta, rope.at("rope_theta").get<double>());
    expect_rope(llama.rope_scaling, rope);
  });
}

TEST(HFConfig, ReadsStories260K) {
  LORA_NEEDS_SHARED("data/stories260K-hf");
  const HFConfig stories = read_hf_config(lora_test::shared_dir() / "data" / "stories260K-hf");
  EXPECT_EQ(std::get<LlamaConfig>(stories.model).head_dim, 8);
}

}  // namespace hf_config_test
