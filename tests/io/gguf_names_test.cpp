// GGUF's names for the modules of the model families, and what is read from a base's config.json.
#include <lora/io/atomic_file.hpp>
#include <lora/io/gguf/gguf_names.hpp>

#include <gtest/gtest.h>

#include <set>

#include "support/shared.hpp"

namespace gguf_names_test {
using namespace lora;

GgufBase base_of(const std::string& json) { return gguf_base(parse_json(json, "test"), "c.json"); }

std::string refusal(const std::string& json) {
  try {
    base_of(json);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

// Written out once more, by hand: what llama.cpp calls them.
TEST(GgufNames, OfEveryFamily) {
  const std::vector<std::pair<std::string, std::string>> llama = {
      {"model.layers.1.self_attn.q_proj", "blk.1.attn_q.weight"},
      {"model.layers.1.self_attn.k_proj", "blk.1.attn_k.weight"},
      {"model.layers.1.self_attn.v_proj", "blk.1.attn_v.weight"},
      {"model.layers.1.self_attn.o_proj", "blk.1.attn_output.weight"},
      {"model.layers.1.mlp.gate_proj", "blk.1.ffn_gate.weight"},
      {"model.layers.1.mlp.up_proj", "blk.1.ffn_up.weight"},
      {"model.layers.1.mlp.down_proj", "blk.1.ffn_down.weight"},
      {"model.embed_tokens", "token_embd.weight"},
      {"lm_head", "output.weight"}};
  const std::vector<std::pair<std::string, std::string>> gpt2 = {
      {"transformer.h.1.attn.c_attn", "blk.1.attn_qkv.weight"},
      {"transformer.h.1.attn.c_proj", "blk.1.attn_output.weight"},
      {"transformer.h.1.mlp.c_fc", "blk.1.ffn_up.weight"},
      {"transformer.h.1.mlp.c_proj", "blk.1.ffn_down.weight"},
      {"transformer.wte", "token_embd.weight"},
      {"lm_head", "output.weight"}};
  for (const auto& [type, architecture] :
       std::vector<std::pair<std::string, std::string>>{{"llama", "llama"},
                                                        {"mistral", "llama"},
                                                        {"qwen2", "qwen2"},
                                                        {"qwen3", "qwen3"},
                                                        {"gpt2", "gpt2"}}) {
    const GgufBase base = base_of("{\"model_type\": \"" + type + "\"}");
    EXPECT_EQ(base.family->architecture, architecture);
    const auto& names = type == "gpt2" ? gpt2 : llama;
    EXPECT_EQ(base.family->modules.size(), names.size());
    for (const auto& [path, tensor] : names) {
      const auto from_path = gguf_place_of_path(base, path);
      const auto from_tensor = gguf_place_of_tensor(base, tensor);
      ASSERT_TRUE(from_path && from_tensor) << type << " " << path;
      EXPECT_EQ(from_path->tensor(), tensor);
      EXPECT_EQ(from_tensor->path(), path);
      const bool rotated = path.ends_with("q_proj") || path.ends_with("k_proj");
      EXPECT_EQ(from_path->module->interleaved, rotated && architecture == "llama") << path;
    }
    EXPECT_TRUE(gguf_place_of_path(base, base.family->embedding));
    EXPECT_TRUE(gguf_place_of_path(base, base.family->head));
  }
}

TEST(GgufNames, EveryPlaceOfABaseOnceBothWays) {
  const GgufBase base = base_of(R"({"model_type": "qwen2", "num_hidden_layers": 12})");
  std::set<std::string> paths, tensors;
  for (const GgufPlace& place : gguf_places(base)) {
    paths.insert(place.path());
    tensors.insert(place.tensor());
    EXPECT_EQ(gguf_place_of_path(base, place.path())->tensor(), place.tensor());
    EXPECT_EQ(gguf_place_of_tensor(base, place.tensor())->path(), place.path());
  }
  EXPECT_EQ(paths.size(), 12u * 7 + 2);
  EXPECT_EQ(tensors.size(), paths.size());
  EXPECT_EQ(paths.count("model.layers.11.mlp.up_proj"), 1u);
}

TEST(GgufNames, OthersAreNotFound) {
  const GgufBase base = base_of(R"({"model_type": "llama", "num_hidden_layers": 12})");
  EXPECT_TRUE(gguf_place_of_path(base, "model.layers.11.mlp.up_proj"));
  for (const char* path :
       {"", "model.layers.12.mlp.up_proj", "model.layers.01.mlp.up_proj",
        "model.layers..mlp.up_proj", "model.layers.-1.mlp.up_proj", "model.layers.1.mlp.up_projx",
        "model.layers.1.mlp", "model.layers.1.input_layernorm", "model.norm",
        "layers.1.mlp.up_proj", "model.layers.99999999999999999999.mlp.up_proj",
        "model.layers.1x.mlp.up_proj", "model.layers.mlp.up_proj", "model.layers.#.mlp.up_proj",
        "transformer.wte", "lm_head.x"})
    EXPECT_FALSE(gguf_place_of_path(base, path)) << path;
  EXPECT_TRUE(gguf_place_of_tensor(base, "blk.0.attn_q.weight"));
  for (const char* name :
       {"", ".weight", "blk.0.attn_q", "blk.00.attn_q.weight", "blk.12.attn_q.weight",
        "blk.0.attn_norm.weight", "blk.0.attn_q.bias", "rope_freqs.weight"})
    EXPECT_FALSE(gguf_place_of_tensor(base, name)) << name;
}

TEST(GgufBase, DefaultsAreThoseOfTransformers) {
  struct Row {
    const char* type;
    Index hidden, feed_forward, layers, heads, key_value_heads, head_dim, vocabulary;
    bool tied;
  };
  for (const Row& row : {Row{"llama", 4096, 11008, 32, 32, 32, 128, 32000, false},
                         Row{"mistral", 4096, 14336, 32, 32, 8, 128, 32000, false},
                         Row{"qwen2", 4096, 22016, 32, 32, 32, 128, 151936, false},
                         Row{"qwen3", 4096, 22016, 32, 32, 32, 128, 151936, false},
                         Row{"gpt2", 768, 3072, 12, 12, 12, 64, 50257, true}}) {
    const GgufBase base = base_of(std::string("{\"model_type\": \"") + row.type + "\"}");
    EXPECT_EQ(base.hidden, row.hidden) << row.type;
    EXPECT_EQ(base.feed_forward, row.feed_forward) << row.type;
    EXPECT_EQ(base.layers, row.layers) << row.type;
    EXPECT_EQ(base.heads, row.heads) << row.type;
    EXPECT_EQ(base.key_value_heads, row.key_value_heads) << row.type;
    EXPECT_EQ(base.head_dim, row.head_dim) << row.type;
    EXPECT_EQ(base.vocabulary, row.vocabulary) << row.type;
    EXPECT_EQ(base.tied, row.tied) << row.type;
  }
}

TEST(GgufBase, NullAndDerivedSizes) {
  const GgufBase llama = base_of(
      R"({"model_type": "llama", "hidden_size": 60, "num_attention_heads": 6,
          "num_key_value_heads": null, "head_dim": null, "tie_word_embeddings": true})");
  EXPECT_EQ(llama.key_value_heads, 6);
  EXPECT_EQ(llama.head_dim, 10);
  EXPECT_TRUE(llama.tied);
  const GgufBase qwen3 = base_of(
      R"({"model_type": "qwen3", "hidden_size": 48, "num_attention_heads": 4,
          "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 88, "vocab_size": 211})");
  EXPECT_EQ(qwen3.size(GgufSize::hidden), 48);
  EXPECT_EQ(qwen3.size(GgufSize::feed_forward), 88);
  EXPECT_EQ(qwen3.size(GgufSize::query), 64);
  EXPECT_EQ(qwen3.size(GgufSize::key_value), 32);
  EXPECT_EQ(qwen3.size(GgufSize::query_key_value), 144);
  EXPECT_EQ(qwen3.size(GgufSize::vocabulary), 211);
  const GgufBase gpt2 =
      base_of(R"({"model_type": "gpt2", "n_embd": 20, "n_head": 2, "n_inner": null,
                  "tie_word_embeddings": false})");
  EXPECT_EQ(gpt2.feed_forward, 80);
  EXPECT_TRUE(gpt2.tied);  // in llama.cpp, whatever the configuration says
  EXPECT_EQ(base_of(R"({"model_type": "gpt2", "n_inner": 7})").feed_forward, 7);
}

TEST(GgufBase, Refusals) {
  const std::string known = ", GGUF adapters are supported for llama, mistral, qwen2, qwen3, gpt2";
  EXPECT_EQ(refusal("[]"), "c.json: is array, expected an object");
  EXPECT_EQ(refusal("{}"), "c.json: model_type is missing" + known);
  EXPECT_EQ(refusal(R"({"model_type": "gemma"})"), "c.json: model_type is \"gemma\"" + known);
  EXPECT_EQ(refusal(R"({"model_type": 3})"), "c.json: model_type is 3" + known);
  const auto llama = [](const std::string& fields) {
    return refusal("{\"model_type\": \"llama\", " + fields + "}");
  };
  for (const char* value : {"0", "-4", "4.0", "\"4\"", "true", "[4]", "16777217"}) {
    EXPECT_EQ(llama(std::string("\"num_attention_heads\": ") + value),
              std::string("c.json: num_attention_heads is ") + value +
                  ", expected a whole number from 1 to 16777216");
  }
  EXPECT_EQ(llama("\"hidden_size\": null"),
            "c.json: hidden_size is null, expected a whole number from 1 to 16777216");
  EXPECT_EQ(llama("\"tie_word_embeddings\": 1"),
            "c.json: tie_word_embeddings is 1, expected true or false");
  EXPECT_EQ(llama("\"head_dim\": 15"), "c.json: the head size is 15, expected an even number");
  EXPECT_EQ(refusal(R"({"model_type": "qwen2", "head_dim": 15})"), "");
}

TEST(GgufBase, OfAFolder) {
  const lora_test::TemporaryFolder folder;
  atomic_write(folder.path / "config.json", R"({"model_type": "gpt2", "n_layer": 3})");
  EXPECT_EQ(read_gguf_base(folder.path).layers, 3);
  EXPECT_THROW(read_gguf_base(folder.path / "none"), IoError);
  atomic_write(folder.path / "config.json", "{");
  EXPECT_THROW(read_gguf_base(folder.path), FormatError);
}

}  // namespace gguf_names_test
