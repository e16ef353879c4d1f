// Adapters of PEFT as GGUF files: names, layout, scales, and what is refused.
#include <lora/io/gguf/gguf_adapter.hpp>

#include <gtest/gtest.h>

#include <functional>

#include "io/peft_folder.hpp"
#include "support/messages.hpp"

namespace gguf_adapter_test {
using namespace lora;
using lora_test::numbered;
using lora_test::PeftFolder;

// hidden 8, 2 query heads and 1 key-value head of size 4, 2 layers.
GgufBase base_of(const std::string& type, const std::string& more = "") {
  return gguf_base(parse_json("{\"model_type\": \"" + type + R"(", "hidden_size": 8,
      "intermediate_size": 6, "num_hidden_layers": 2, "num_attention_heads": 2,
      "num_key_value_heads": 1, "head_dim": 4, "vocab_size": 5, "n_embd": 8, "n_layer": 2,
      "n_head": 2)" + more + "}",
                              "base"),
                   "config.json");
}

GgufFile exported(const PeftAdapter& adapter, const GgufBase& base,
                  const GgufOptions& options = {}) {
  return GgufFile::from_bytes(gguf_of_adapter(adapter, base, options).to_bytes(), "out.gguf");
}

std::string refusal(const PeftAdapter& adapter, const GgufBase& base,
                    const GgufOptions& options = {}) {
  try {
    gguf_of_adapter(adapter, base, options);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "(not thrown)";
}

const std::string q0 = "model.layers.0.self_attn.q_proj", k0 = "model.layers.0.self_attn.k_proj",
                  v1 = "model.layers.1.self_attn.v_proj";

TEST(GgufAdapter, MetadataInTheConvertersOrder) {
  PeftFolder folder;
  const GgufFile file = exported(folder.pair(q0, 2, 8, 8).open(), base_of("mistral"));
  EXPECT_EQ(file.keys(),
            (std::vector<std::string>{"general.architecture", "general.type", "adapter.type",
                                      "general.name", "adapter.lora.alpha"}));
  EXPECT_EQ(file.get<std::string>("general.architecture"), "llama");
  EXPECT_EQ(file.get<std::string>("general.type"), "adapter");
  EXPECT_EQ(file.get<std::string>("adapter.type"), "lora");
  EXPECT_EQ(file.get<std::string>("general.name"), "base LoRA");
  EXPECT_EQ(file.get<float>("adapter.lora.alpha"), 4.0f);
  const auto name = [&](const std::string& path, const GgufOptions& options = {}) {
    PeftFolder other("{\"base_model_name_or_path\": " + path + "}");
    return exported(other.pair(q0, 2, 8, 8).open(), base_of("qwen2"), options)
        .get<std::string>("general.name");
  };
  EXPECT_EQ(name("null"), "LoRA");
  EXPECT_EQ(name("\"models/qwen/\""), "qwen LoRA");
  EXPECT_EQ(name("null", {.name = "mine"}), "mine");
}

// Heads of size 4: rows 0 1 2 3 of a head become 0 2 1 3.
TEST(GgufAdapter, RowsOfQueryAndKeyAreInterleavedForLlamaOnly) {
  PeftFolder folder;
  folder.pair(q0, 2, 8, 8).pair(k0, 2, 8, 4).pair(v1, 2, 8, 4);
  const PeftAdapter adapter = folder.open();
  for (const char* type : {"llama", "mistral", "qwen2", "qwen3"}) {
    const GgufFile file = exported(adapter, base_of(type));
    const bool interleaved = std::string(type) == "llama" || std::string(type) == "mistral";
    const auto rows = [&](std::vector<Index> order, Index out) {
      const Matrix<float> b = numbered(out, 2, 100);
      if (!interleaved) return b;
      Matrix<float> moved(out, 2);
      for (std::size_t i = 0; i < order.size(); ++i)
        moved.row(static_cast<Index>(i)) = b.row(order[i]);
      return moved;
    };
    EXPECT_EQ(file.matrix<float>("blk.0.attn_q.weight.lora_a"), numbered(2, 8)) << type;
    EXPECT_EQ(file.matrix<float>("blk.0.attn_q.weight.lora_b"), rows({0, 2, 1, 3, 4, 6, 5, 7}, 8))
        << type;
    EXPECT_EQ(file.matrix<float>("blk.0.attn_k.weight.lora_b"), rows({0, 2, 1, 3}, 4)) << type;
    EXPECT_EQ(file.matrix<float>("blk.1.attn_v.weight.lora_b"), numbered(4, 2, 100)) << type;
    EXPECT_EQ(file.names().size(), 6u);
  }
}

TEST(GgufAdapter, EmbeddingOfAnUntiedBaseHasItsATransposed) {
  PeftFolder folder;
  folder.embedding("model.embed_tokens", 2, 5, 8).pair("lm_head", 2, 8, 5);
  folder.add("model.embed_tokens.base_layer.weight", numbered(5, 8));  // the frozen one
  const GgufFile file = exported(folder.open(), base_of("llama"));
  EXPECT_EQ(file.matrix<float>("token_embd.weight.lora_a"), numbered(2, 5).transpose());
  EXPECT_EQ(file.matrix<float>("token_embd.weight.lora_b"), numbered(8, 2, 100));
  EXPECT_EQ(file.matrix<float>("output.weight.lora_a"), numbered(2, 8));
  EXPECT_EQ(file.names().size(), 4u);
}

TEST(GgufAdapter, Gpt2IsAsPeftHasIt) {
  PeftFolder folder(R"({"fan_in_fan_out": true, "target_modules": ["c_attn", "c_proj"]})");
  folder.pair("transformer.h.0.attn.c_attn", 2, 8, 24).pair("transformer.h.0.mlp.c_proj", 2, 32, 8);
  const GgufFile file = exported(folder.open(), base_of("gpt2"));
  EXPECT_EQ(file.matrix<float>("blk.0.attn_qkv.weight.lora_b"), numbered(24, 2, 100));
  EXPECT_EQ(file.matrix<float>("blk.0.ffn_down.weight.lora_a"), numbered(2, 32));
}

// s B A of every layer is alpha / r B' A of the file.
TEST(GgufAdapter, ScalesAreFolded) {
  const auto file_of = [](const std::string& fields, Index r_of_v) {
    PeftFolder folder(fields);
    folder.pair(q0, 2, 8, 8).pair(v1, r_of_v, 8, 4);
    return exported(folder.open(), base_of("qwen2"));
  };
  const auto expect = [](const GgufFile& file, float alpha, double q_factor, double v_factor,
                         const char* what) {
    EXPECT_EQ(file.get<float>("adapter.lora.alpha"), alpha) << what;
    const Index r = file.info("blk.1.attn_v.weight.lora_b").shape[1];
    const Matrix<float> q = (numbered(8, 2, 100).cast<double>() * q_factor).cast<float>(),
                        v = (numbered(4, r, 100).cast<double>() * v_factor).cast<float>();
    EXPECT_EQ(file.matrix<float>("blk.0.attn_q.weight.lora_b"), q) << what;
    EXPECT_EQ(file.matrix<float>("blk.1.attn_v.weight.lora_b"), v) << what;
    EXPECT_EQ(file.matrix<float>("blk.1.attn_v.weight.lora_a"), numbered(r, 8)) << what;
  };
  expect(file_of("{}", 2), 4, 1, 1, "plain");
  expect(file_of(R"({"lora_alpha": -0.1})", 2), -0.1f, 1, 1, "negative");
  expect(file_of(R"({"rank_pattern": {"v_proj": 3}})", 3), 4, 1, 1, "rank_pattern");
  expect(file_of(R"({"use_rslora": true})", 2), static_cast<float>(4 * std::sqrt(2.0)), 1, 1,
         "rsLoRA");
  expect(file_of(R"({"use_rslora": true, "rank_pattern": {"v_proj": 3}})", 3), 1,
         4 * std::sqrt(2.0), 4 * std::sqrt(3.0), "rsLoRA with rank_pattern");
  expect(file_of(R"({"alpha_pattern": {"v_proj": 5}})", 2), 1, 4, 5, "alpha_pattern");
  expect(file_of(R"({"alpha_pattern": {"v_proj": 0}})", 2), 1, 4, 0, "one alpha of 0");
  expect(file_of(R"({"alpha_pattern": {"v_proj": 5}, "rank_pattern": {"v_proj": 3}})", 3), 1, 4, 5,
         "both patterns");
}

TEST(GgufAdapter, Types) {
  PeftFolder folder(R"({"alpha_pattern": {"v_proj": 5}})");
  folder.pair(q0, 2, 8, 8, DType::BF16).pair(v1, 2, 8, 4, DType::F64);
  const PeftAdapter adapter = folder.open();
  for (const DType dtype : {DType::F32, DType::F16, DType::BF16}) {
    const GgufFile file = exported(adapter, base_of("qwen2"), {.dtype = dtype});
    for (const std::string& name : file.names()) EXPECT_EQ(file.info(name).type.dtype, dtype);
    const Matrix<float> b = numbered(8, 2, 100) * 4;
    std::vector<std::byte> bytes(static_cast<std::size_t>(b.size()) * dtype_bits(dtype) / 8);
    encode_elements(dtype, std::span<const float>(b.data(), static_cast<std::size_t>(b.size())),
                    bytes.data());
    EXPECT_TRUE(std::ranges::equal(file.bytes("blk.0.attn_q.weight.lora_b"), bytes));
  }
  EXPECT_EQ(refusal(adapter, base_of("qwen2"), {.dtype = DType::F64}),
            "export_gguf: dtype is F64, expected F32, F16 or BF16");
}

TEST(GgufAdapter, EveryBitOfAFloatIsKept) {
  Matrix<float> a = numbered(2, 8);
  std::uint32_t bits[] = {0x7F800001u, 0xFFC12345u, 0x7F800000u, 0x80000000u, 0x00000001u};
  std::memcpy(a.data(), bits, sizeof bits);  // signalling and quiet NaN, infinity, -0, denormal
  PeftFolder folder;
  folder.add(v1 + ".lora_A.weight", a).add(v1 + ".lora_B.weight", numbered(4, 2));
  const GgufFile file = exported(folder.open(), base_of("llama"));
  EXPECT_EQ(std::memcmp(file.bytes("blk.1.attn_v.weight.lora_a").data(), a.data(), 64), 0);
}

TEST(GgufAdapter, ValuesTooLargeForTheTypeAreRefused) {
  PeftFolder folder(R"({"alpha_pattern": {"v_proj": 1e5}})");
  folder.add(v1 + ".lora_A.weight", Matrix<float>::Constant(2, 8, 70000.0f))
      .add(v1 + ".lora_B.weight", Matrix<float>::Constant(4, 2, 1e34f))
      .pair(q0, 2, 8, 8);
  const PeftAdapter adapter = folder.open();
  const std::string said = refusal(adapter, base_of("qwen2"), {.dtype = DType::F16});
  EXPECT_NE(said.find("v_proj.lora_A.weight: element 0 is 70000, too large for F16"),
            std::string::npos)
      << said;
  EXPECT_NE(said.find("v_proj.lora_B.weight: element 0 is 9.99999979e+38 with its scale, too "
                      "large for F16"),
            std::string::npos)
      << said;
  EXPECT_EQ(refusal(adapter, base_of("qwen2")).find("lora_A"), std::string::npos);
  EXPECT_NE(refusal(adapter, base_of("qwen2")).find("too large for F32"), std::string::npos);
}

TEST(GgufAdapter, NothingIsWrittenWhenRefused) {
  PeftFolder folder;
  const PeftAdapter adapter = folder.pair("lm_head", 2, 8, 5).open();
  const auto path = folder.path() / "out.gguf";
  EXPECT_THROW(export_gguf(adapter, base_of("qwen2", ", \"tie_word_embeddings\": true"), path),
               ConfigError);
  EXPECT_FALSE(std::filesystem::exists(path));
  export_gguf(adapter, base_of("qwen2"), path);
  EXPECT_EQ(GgufFile::open(path).names().size(), 2u);
}

// Everything at once, in one message.
TEST(GgufAdapter, AllThatCannotBeExpressedIsListed) {
  PeftFolder folder(R"({"bias": "lora_only", "lora_bias": true, "modules_to_save": ["score"],
                        "lora_alpha": 0})");
  folder.pair(q0, 2, 8, 8).pair("lm_head", 2, 8, 5).embedding("model.embed_tokens", 2, 5, 8);
  folder.pair("model.layers.2.mlp.up_proj", 2, 8, 6).pair("model.conv", 2, 8, 8);
  folder.pair(v1, 2, 8, 8);  // rows of another base
  folder.add(q0 + ".lora_B.bias", numbered(1, 8)).add(q0 + ".base_layer.bias", numbered(1, 8));
  folder.add("score.weight", numbered(2, 8));
  folder.add("model.norm.weight", numbered(1, 8)).add(q0 + ".base_layer.weight", numbered(8, 8));
  const PeftAdapter adapter = folder.open();
  const std::string base_prefix = "\n  base_model.model.";
  const std::string said = refusal(adapter, base_of("llama", ", \"tie_word_embeddings\": true"));
  for (const std::string& line : {
           std::string("GGUF cannot hold this adapter; merge it into its base instead:"),
           std::string("\n  bias = \"lora_only\": trained biases have no place in GGUF"),
           std::string("\n  lora_bias = true: a bias of B has no place in GGUF"),
           std::string("\n  modules_to_save: \"score\", a whole module, has no place in GGUF"),
           base_prefix + q0 + ".lora_B.bias: the bias of lora_bias has no place in GGUF",
           base_prefix + q0 +
               ".base_layer.bias: a bias of the base (bias \"all\" or "
               "\"lora_only\") has no place in GGUF",
           base_prefix +
               "score.weight: a module that is saved whole (modules_to_save) has no place",
           base_prefix + q0 + ".base_layer.weight: a module that is saved whole (modules_to_save)",
           base_prefix + "model.norm.weight: a trained norm, which llama.cpp would ignore",
           std::string("\n  lm_head: the head of this base is its embedding (tie_word_embeddings), "
                       "so that its GGUF has no output.weight"),
           std::string(
               "\n  model.embed_tokens: the embedding of this base is its head too "
               "(tie_word_embeddings): llama.cpp would apply the adapter to both and abort"),
           std::string("\n  model.layers.2.mlp.up_proj: no module of a llama base with 2 layers "
                       "that GGUF can adapt"),
           std::string("\n  model.conv: no module of a llama base with 2 layers"),
           base_prefix + v1 + ".lora_B.weight: shape is [8, 2], expected [4, 2] for this base",
           std::string(
               "\n  lora_alpha: the scale of every layer is 0 / r, expected a float that is "
               "neither 0 (llama.cpp takes it for no factor) nor infinite"),
       })
    EXPECT_NE(said.find(line), std::string::npos) << line << "\nin\n" << said;
  EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 14);
}

TEST(GgufAdapter, ADoRAAdapterIsRefused) {
  PeftFolder folder(R"({"use_dora": true})");
  folder.pair(q0, 2, 8, 8).add_vector(q0 + ".lora_magnitude_vector", numbered(1, 8));
  EXPECT_NE(refusal(folder.open(), base_of("llama"))
                .find("\n  use_dora = true: DoRA's lora_magnitude_vector has no place in GGUF"),
            std::string::npos);
}

TEST(GgufAdapter, MoreRefusals) {
  const auto alpha = [](const std::string& value) {
    PeftFolder folder("{\"lora_alpha\": " + value + "}");
    return refusal(folder.pair(q0, 2, 8, 8).open(), base_of("llama"));
  };
  for (const char* value : {"1e-60", "3e38, \"use_rslora\": true"})
    EXPECT_NE(alpha(value).find("lora_alpha: the scale of every layer is"), std::string::npos);

  PeftFolder swapped;
  swapped.pair("model.embed_tokens", 2, 5, 8).embedding(q0, 2, 8, 8);
  const std::string said = refusal(swapped.open(), base_of("llama"));
  EXPECT_NE(
      said.find("\n  model.embed_tokens: has lora_A and lora_B, expected those of an embedding"),
      std::string::npos)
      << said;
  EXPECT_NE(said.find("\n  " + q0 + ": has an embedding's A and B, expected lora_A and lora_B"),
            std::string::npos)
      << said;

  PeftFolder gpt2(R"({"fan_in_fan_out": true})");
  gpt2.embedding("transformer.wte", 2, 5, 8);
  gpt2.pair("lm_head", 2, 8, 5);
  const std::string untied =
      refusal(gpt2.open(), base_of("gpt2", ", \"tie_word_embeddings\": false"));
  const std::string why = " (as GGUF has every gpt2, whatever tie_word_embeddings says)";
  EXPECT_HAS(untied, "transformer.wte: the embedding of this base is its head too" + why);
  EXPECT_HAS(untied, "lm_head: the head of this base is its embedding" + why);
}

// What GGUF has no place for, by name: trained biases, modules that are saved whole.
void expect_refused(const PeftAdapter& adapter, const GgufBase& base) {
  const std::string said = refusal(adapter, base);
  const auto says = [&](const std::string& part) {
    EXPECT_NE(said.find(part), std::string::npos) << part << " in " << said;
  };
  const LoRAConfig& config = adapter.config();
  for (const std::string& module : config.modules_to_save.value_or(std::vector<std::string>())) {
    says("modules_to_save: \"" + module + "\"");
    says(module + ".weight: a module that is saved whole");
  }
  if (config.bias == "none") return;
  says("bias = \"" + config.bias + "\": trained biases have no place");
  for (const std::string& name : adapter.other_tensors()) {
    if (name.ends_with(".base_layer.bias")) says("base_layer.bias: a bias of the base");
  }
}

// What the golden adapters are in GGUF, by the converter's own formulas.
TEST(GgufAdapter, GoldenAdapters) {
  int exportable = 0;
  lora_test::for_each_golden_model([&](const lora_test::GoldenModel& golden) {
    const PeftAdapter adapter = PeftAdapter::open(golden.adapter);
    const GgufBase base = read_gguf_base(golden.base);
    if (adapter.config().bias != "none" || adapter.config().modules_to_save ||
        adapter.config().use_dora) {
      expect_refused(adapter, base);
      return;
    }
    ++exportable;
    const GgufFile file = exported(adapter, base);
    const double alpha = static_cast<double>(file.get<float>("adapter.lora.alpha"));
    ASSERT_EQ(file.names().size(), 2 * adapter.modules().size());
    for (std::size_t i = 0; i < adapter.modules().size(); ++i) {
      const PeftModule& module = adapter.modules()[i];
      const std::string& what = module.name;
      const Matrix<double> a = adapter.tensors().matrix<double>(module.a_key),
                           b = adapter.tensors().matrix<double>(module.b_key);
      Matrix<double> a_file = file.matrix<double>(file.names()[2 * i]),
                     b_file = file.matrix<double>(file.names()[2 * i + 1]);
      if (module.embedding) a_file = Matrix<double>(a_file.transpose());
      EXPECT_EQ(a_file, a) << what;
      const bool q = module.name.ends_with("q_proj"), k = module.name.ends_with("k_proj");
      if (base.family->architecture == "llama" && (q || k)) {
        // reshape(heads, 2, hd / 2, r).swapaxes(1, 2), undone
        const Index heads = q ? base.heads : base.key_value_heads, half = b.rows() / heads / 2;
        Matrix<double> back(b.rows(), b.cols());
        for (Index h = 0; h < heads; ++h)
          for (Index j = 0; j < 2; ++j)
            for (Index n = 0; n < half; ++n)
              back.row((2 * h + j) * half + n) = b_file.row(2 * (h * half + n) + j);
        b_file = back;
      }
      // One rounding of B' and one of alpha.
      const Matrix<double> expected = b * module.scaling,
                           found = b_file * (alpha / static_cast<double>(module.r));
      EXPECT_TRUE(((found - expected).array().abs() <= expected.array().abs() * 0x1.0p-22).all())
          << what;
      if (!adapter.config().use_rslora && adapter.config().alpha_pattern.empty()) {
        EXPECT_EQ(b_file, b) << what;
      }
    }
  });
  EXPECT_GE(exportable, 1);
}

}  // namespace gguf_adapter_test
