// Adapters of llama.cpp's GGUF read back for PEFT, bit for bit, and files that are none.
#include <lora/io/gguf/gguf_import.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

#include "io/peft_folder.hpp"

namespace gguf_import_test {
using namespace lora;
using lora_test::numbered;
using lora_test::PeftFolder;
using lora_test::TemporaryFolder;

GgufBase base_of(const std::string& type, const std::string& more = "") {
  return gguf_base(parse_json("{\"model_type\": \"" + type + R"(", "hidden_size": 8,
      "intermediate_size": 6, "num_hidden_layers": 2, "num_attention_heads": 2,
      "num_key_value_heads": 1, "head_dim": 4, "vocab_size": 5, "n_embd": 8, "n_layer": 2,
      "n_head": 2)" + more + "}",
                              "base"),
                   "config.json");
}

// A GGUF adapter put together tensor by tensor.
struct Gguf {
  GgufWriter writer;
  explicit Gguf(float alpha = 4, const std::string& architecture = "llama",
                const std::string& type = "adapter", const std::string& kind = "lora") {
    writer.set("general.architecture", architecture);
    writer.set("general.type", type);
    writer.set("adapter.type", kind);
    writer.set("adapter.lora.alpha", alpha);
  }
  Gguf& add(const std::string& name, std::vector<Index> shape, DType dtype = DType::F32) {
    Index count = 1;
    for (const Index n : shape) count *= n;
    const Matrix<float> values = numbered(1, count);
    std::vector<std::byte> bytes(static_cast<std::size_t>(count) * dtype_bits(dtype) / 8);
    encode_elements(dtype, std::span<const float>(values.data(), static_cast<std::size_t>(count)),
                    bytes.data());
    writer.add(name, dtype, shape, std::move(bytes));
    return *this;
  }
  Gguf& pair(const std::string& tensor, Index r, Index in, Index out, DType dtype = DType::F32) {
    return add(tensor + ".weight.lora_a", {r, in}, dtype)
        .add(tensor + ".weight.lora_b", {out, r}, dtype);
  }
  GgufFile file() const { return GgufFile::from_bytes(writer.to_bytes(), "x.gguf"); }
  GgufImport read(const GgufBase& base) const { return adapter_of_gguf(file(), base); }
  SafetensorsFile tensors(const GgufBase& base) const {
    return SafetensorsFile::from_bytes(read(base).tensors.to_bytes(), "x");
  }
};

std::string refusal(const Gguf& gguf, const GgufBase& base) {
  try {
    gguf.read(base);
  } catch (const FormatError& error) {
    return error.what();
  }
  return "(not thrown)";
}

const std::string prefix = "base_model.model.";

TEST(GgufImport, RowsGoBack) {
  Gguf gguf;
  gguf.pair("blk.1.attn_q", 2, 8, 8).pair("blk.1.attn_v", 2, 8, 4);
  const SafetensorsFile file = gguf.tensors(base_of("llama"));
  const std::string q = prefix + "model.layers.1.self_attn.q_proj";
  const Matrix<float> stored = numbered(8, 2), b = file.matrix<float>(q + ".lora_B.weight");
  const std::vector<Index> peft_row = {0, 2, 1, 3, 4, 6, 5, 7};
  for (Index row = 0; row < 8; ++row)
    EXPECT_EQ(b.row(peft_row[static_cast<std::size_t>(row)]), stored.row(row)) << row;
  EXPECT_EQ(file.matrix<float>(q + ".lora_A.weight"), numbered(2, 8));
  EXPECT_EQ(file.matrix<float>(prefix + "model.layers.1.self_attn.v_proj.lora_B.weight"),
            numbered(4, 2));
  EXPECT_EQ(file.metadata().at("format"), "pt");
}

TEST(GgufImport, HeadsOfSixKeepTheirThirds) {  // an order that is not its own inverse
  const GgufBase base =
      gguf_base(parse_json(R"({"model_type": "llama", "hidden_size": 12, "num_attention_heads": 2,
                     "num_hidden_layers": 1})",
                           "base"),
                "c");
  Gguf gguf;
  gguf.pair("blk.0.attn_k", 1, 12, 12);
  const Matrix<float> b =
      gguf.tensors(base).matrix<float>(prefix + "model.layers.0.self_attn.k_proj.lora_B.weight");
  const std::vector<Index> peft_row = {0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11};
  for (Index row = 0; row < 12; ++row)
    EXPECT_EQ(b(peft_row[static_cast<std::size_t>(row)], 0), numbered(12, 1)(row, 0)) << row;
}

TEST(GgufImport, ConfigOfOneRank) {
  Gguf gguf(2.5f, "qwen2");
  gguf.pair("blk.0.attn_q", 2, 8, 8).pair("blk.1.attn_q", 2, 8, 8);
  const LoRAConfig config = gguf.read(base_of("qwen2")).config;
  EXPECT_EQ(config.r, 2);
  EXPECT_EQ(config.lora_alpha, 2.5);
  EXPECT_EQ(*config.target_modules.list(), std::vector<std::string>{"q_proj"});
  EXPECT_TRUE(config.rank_pattern.empty());
  EXPECT_TRUE(config.alpha_pattern.empty());
  EXPECT_FALSE(config.use_rslora);
  EXPECT_FALSE(config.fan_in_fan_out);
  EXPECT_EQ(config.task_type, "CAUSAL_LM");
  EXPECT_EQ(config.bias, "none");
}

TEST(GgufImport, TargetsSelectNothingElse) {
  const auto targets = [](const Gguf& gguf, const std::string& type) {
    return *gguf.read(base_of(type)).config.target_modules.list();
  };
  Gguf partial;
  partial.pair("blk.0.attn_q", 2, 8, 8).pair("blk.1.attn_q", 2, 8, 8).pair("blk.1.ffn_up", 2, 8, 6);
  EXPECT_EQ(
      targets(partial, "llama"),
      (std::vector<std::string>{"model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj",
                                "model.layers.1.self_attn.q_proj"}));
  // c_proj of attn and of mlp have the same end.
  Gguf one(4, "gpt2"), both(4, "gpt2");
  for (const char* block : {"blk.0.", "blk.1."}) {
    one.pair(std::string(block) + "ffn_down", 2, 32, 8);
    both.pair(std::string(block) + "ffn_down", 2, 32, 8);
    both.pair(std::string(block) + "attn_output", 2, 8, 8);
  }
  EXPECT_EQ(targets(one, "gpt2").size(), 2u);
  EXPECT_EQ(targets(both, "gpt2"), std::vector<std::string>{"c_proj"});
  EXPECT_TRUE(both.read(base_of("gpt2")).config.fan_in_fan_out);
}

TEST(GgufImport, OtherRanksAndNoFactor) {
  for (const float alpha : {4.0f, 0.0f}) {
    Gguf gguf(alpha);
    gguf.pair("blk.0.attn_v", 3, 8, 4).pair("blk.1.attn_v", 3, 8, 4).pair("blk.0.ffn_up", 5, 8, 6);
    const LoRAConfig config = gguf.read(base_of("llama")).config;
    EXPECT_EQ(config.r, 3);
    ASSERT_EQ(config.rank_pattern.size(), 1u);
    EXPECT_EQ(config.rank_pattern[0].first, "model.layers.0.mlp.up_proj");
    EXPECT_EQ(config.rank_pattern[0].second, 5);
    if (alpha != 0) {
      EXPECT_EQ(config.lora_alpha, 4);
      EXPECT_TRUE(config.alpha_pattern.empty());
    } else {  // llama.cpp applies B A itself: alpha = r
      EXPECT_EQ(config.lora_alpha, 3);
      ASSERT_EQ(config.alpha_pattern.size(), 1u);
      EXPECT_EQ(config.alpha_pattern[0].first, "model.layers.0.mlp.up_proj");
      EXPECT_EQ(config.alpha_pattern[0].second, 5);
    }
  }
}

TEST(GgufImport, TypesAndEmbeddings) {
  Gguf gguf;
  gguf.add("token_embd.weight.lora_a", {5, 2}, DType::F16);
  gguf.add("token_embd.weight.lora_b", {8, 2}, DType::BF16);
  const SafetensorsFile file = gguf.tensors(base_of("llama"));
  const std::string key = prefix + "model.embed_tokens.lora_embedding_";
  EXPECT_EQ(file.info(key + "A").dtype, DType::F16);
  EXPECT_EQ(file.info(key + "B").dtype, DType::BF16);
  EXPECT_EQ(file.matrix<float>(key + "A"), numbered(5, 2).transpose());
  EXPECT_EQ(file.matrix<float>(key + "B"), numbered(8, 2));
  EXPECT_EQ(gguf.read(base_of("llama")).config.r, 2);
}

TEST(GgufImport, OtherMetadataIsRefused) {
  const auto with = [](const Gguf& gguf, const std::string& type = "llama") {
    Gguf full = gguf;
    return refusal(full.pair("blk.0.attn_v", 2, 8, 4), base_of(type));
  };
  EXPECT_EQ(with(Gguf()), "(not thrown)");
  EXPECT_EQ(with(Gguf(), "qwen2"),
            "x.gguf: is not an adapter for this qwen2 base:\n  general.architecture: is \"llama\", "
            "expected \"qwen2\"");
  EXPECT_EQ(with(Gguf(4, "llama", "model")),
            "x.gguf: is not an adapter for this llama base:\n  general.type: is \"model\", "
            "expected \"adapter\"");
  EXPECT_EQ(with(Gguf(4, "llama", "adapter", "control")),
            "x.gguf: is not an adapter for this llama base:\n  adapter.type: is \"control\", "
            "expected \"lora\"");
  EXPECT_EQ(
      with(Gguf(std::numeric_limits<float>::infinity())),
      "x.gguf: is not an adapter for this llama base:\n  adapter.lora.alpha: is inf, expected "
      "a finite number");
  Gguf activated;
  activated.writer.set("adapter.alora.invocation_tokens",
                       GgufArray{std::vector<std::uint32_t>{1, 2}});
  EXPECT_NE(with(activated).find("\n  adapter.alora.invocation_tokens: activated LoRA is not"),
            std::string::npos);
  EXPECT_EQ(
      refusal(Gguf(), base_of("llama")),
      "x.gguf: is not an adapter for this llama base:\n  no tensor: the file holds no adapter");
  const GgufFile bare = GgufFile::from_bytes(GgufWriter().to_bytes(), "x.gguf");
  try {
    adapter_of_gguf(bare, base_of("llama"));
    FAIL();
  } catch (const FormatError& error) {
    EXPECT_STREQ(error.what(), "x.gguf: has no key \"general.type\", expected string");
  }
}

TEST(GgufImport, EveryTensorThatDoesNotFitIsListed) {
  Gguf gguf;
  gguf.add("blk.0.attn_q.weight.lora_a", {2, 8});  // no B
  gguf.add("blk.0.attn_k.weight.lora_b", {4, 2});  // no A
  gguf.pair("blk.2.attn_q", 2, 8, 8);              // no such layer
  gguf.add("blk.0.attn_norm.weight", {8}).add("rope_freqs.weight", {8});
  gguf.pair("output", 2, 8, 5);
  gguf.add("token_embd.weight.lora_a", {5, 2}).add("token_embd.weight.lora_b", {8, 2});
  gguf.pair("blk.0.ffn_up", 2, 8, 7);  // rows of another base
  gguf.pair("blk.1.ffn_up", 2, 9, 6);  // columns of another base
  gguf.add("blk.0.ffn_down.weight.lora_a", {2, 6}).add("blk.0.ffn_down.weight.lora_b", {8, 3});
  gguf.add("blk.1.ffn_down.weight.lora_a", {0, 6}).add("blk.1.ffn_down.weight.lora_b", {8, 0});
  gguf.add("blk.0.ffn_gate.weight.lora_a", {2, 8}).add("blk.0.ffn_gate.weight.lora_b", {12});
  const std::string said = refusal(gguf, base_of("llama", ", \"tie_word_embeddings\": true"));
  for (const char* line :
       {"\n  blk.0.attn_q.weight.lora_a: has no .lora_b beside it",
        "\n  blk.0.attn_k.weight.lora_b: has no .lora_a beside it",
        "\n  blk.2.attn_q.weight.lora_a: no module of a llama base with 2 layers that GGUF can",
        "\n  blk.2.attn_q.weight.lora_b: no module of a llama base with 2 layers that GGUF can",
        "\n  blk.0.attn_norm.weight: a trained norm, which llama.cpp ignores",
        "\n  rope_freqs.weight: expected a name that ends in .lora_a or .lora_b",
        "\n  lm_head: the head of this base is its embedding",
        "\n  model.embed_tokens: the embedding of this base is its head too",
        "\n  blk.0.ffn_up.weight.lora_b: shape is [7, 2], expected [6, r] with r from 1 to 1048576",
        "\n  blk.1.ffn_up.weight.lora_a: shape is [2, 9], expected [2, 8] for this base",
        "\n  blk.0.ffn_down.weight.lora_a: shape is [2, 6], expected [3, 6] for this base",
        "\n  blk.1.ffn_down.weight.lora_b: shape is [8, 0], expected [8, r] with r from 1 to "
        "1048576",
        "\n  blk.0.ffn_gate.weight.lora_b: shape is [12], expected [6, r] with r from 1 to "
        "1048576"})
    EXPECT_NE(said.find(line), std::string::npos) << line << "\nin\n" << said;
  EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 13);
}

TEST(GgufImport, OtherTypesAreRefused) {
  Gguf gguf;
  gguf.pair("blk.0.attn_v", 2, 8, 4);
  std::vector<std::byte> bytes = gguf.writer.to_bytes();
  const std::string name = "blk.0.attn_v.weight.lora_a";
  const std::size_t type_at = as_text(bytes).find(name) + name.size() + 4 + 16;
  bytes[type_at] = std::byte{26};  // I32, of the same size as F32
  const GgufFile file = GgufFile::from_bytes(bytes, "x.gguf");
  try {
    adapter_of_gguf(file, base_of("llama"));
    FAIL();
  } catch (const FormatError& error) {
    EXPECT_NE(std::string(error.what()).find("lora_a: type is I32, expected F32, F16 or BF16"),
              std::string::npos)
        << error.what();
  }
}

TEST(GgufImport, NamesOfOneModuleAreOneModule) {
  Gguf gguf;
  gguf.pair("blk.0.attn_v", 2, 8, 4).pair("blk.00.attn_v", 2, 8, 4);
  EXPECT_NE(refusal(gguf, base_of("llama")).find("blk.00.attn_v.weight.lora_a: no module"),
            std::string::npos);
}

TEST(GgufImport, WritesAFolderThatOpens) {
  const TemporaryFolder folder;
  Gguf gguf;
  gguf.pair("blk.0.attn_v", 3, 8, 4).pair("blk.1.attn_v", 2, 8, 4).pair("blk.0.ffn_up", 2, 8, 6);
  gguf.writer.write(folder.path / "x.gguf");
  import_gguf(folder.path / "x.gguf", base_of("llama"), folder.path / "out", "org/base");
  const PeftAdapter adapter = PeftAdapter::open(folder.path / "out");
  EXPECT_EQ(adapter.config().base_model_name_or_path, "org/base");
  EXPECT_EQ(adapter.modules().size(), 3u);
  for (const PeftModule& module : adapter.modules()) {
    const Index r = module.name == "model.layers.0.self_attn.v_proj" ? 3 : 2;
    EXPECT_EQ(module.r, r) << module.name;
    EXPECT_EQ(module.scaling, 4.0 / static_cast<double>(r)) << module.name;
  }
  gguf.add("extra", {1}).writer.write(folder.path / "y.gguf");
  EXPECT_THROW(import_gguf(folder.path / "y.gguf", base_of("llama"), folder.path / "none"),
               FormatError);
  EXPECT_FALSE(std::filesystem::exists(folder.path / "none"));
}

// PEFT -> GGUF -> PEFT: the same tensors bit for bit where no scale was folded into B, the same
// s B A everywhere, and a second export gives the same file but for the name.
TEST(GgufImport, GoldenAdaptersComeBack) {
  int same = 0, folded = 0;
  lora_test::for_each_golden_model([&](const lora_test::GoldenModel& golden) {
    const TemporaryFolder folder;
    const PeftAdapter adapter = PeftAdapter::open(golden.adapter);
    if (adapter.config().bias != "none" || adapter.config().modules_to_save ||
        adapter.config().use_dora)
      return;  // refused, see gguf_adapter_test
    const GgufBase base = read_gguf_base(golden.base);
    export_gguf(adapter, base, folder.path / "a.gguf", {.name = "n"});
    import_gguf(folder.path / "a.gguf", base, folder.path / "back");
    const PeftAdapter back = PeftAdapter::open(folder.path / "back");
    ASSERT_EQ(back.modules().size(), adapter.modules().size());
    EXPECT_EQ(back.tensors().names(), adapter.tensors().names());
    const bool folds = !adapter.config().alpha_pattern.empty();
    ++(folds ? folded : same);
    for (std::size_t i = 0; i < adapter.modules().size(); ++i) {
      const PeftModule &before = adapter.modules()[i], &after = back.modules()[i];
      ASSERT_EQ(after.name, before.name);
      const auto bytes = [](const PeftAdapter& a, const std::string& key) {
        return as_text(a.tensors().bytes(key));
      };
      EXPECT_EQ(bytes(back, after.a_key), bytes(adapter, before.a_key));
      if (folds) {
        const Matrix<double> was = adapter.tensors().matrix<double>(before.b_key) * before.scaling;
        const Matrix<double> is = back.tensors().matrix<double>(after.b_key) * after.scaling;
        EXPECT_TRUE(((is - was).array().abs() <= was.array().abs() * 0x1.0p-23).all());
      } else {
        EXPECT_EQ(bytes(back, after.b_key), bytes(adapter, before.b_key));
        EXPECT_NEAR(after.scaling, before.scaling, std::abs(before.scaling) * 0x1.0p-23);
      }
    }
    export_gguf(back, base, folder.path / "b.gguf", {.name = "n"});
    EXPECT_EQ(as_text(read_file(folder.path / "b.gguf", 1 << 24)),
              as_text(read_file(folder.path / "a.gguf", 1 << 24)));
  });
  EXPECT_GE(same, 1);
  EXPECT_GE(folded, 1);
}

}  // namespace gguf_import_test
