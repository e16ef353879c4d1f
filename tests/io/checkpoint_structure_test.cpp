#include <lora/io/hf/checkpoint_structure.hpp>

#include <gtest/gtest.h>

#include "io/peft_folder.hpp"

namespace checkpoint_structure_test {
using namespace lora;
using lora_test::numbered;
using lora_test::TemporaryFolder;

struct Base {
  TemporaryFolder folder;
  Base(const std::vector<std::pair<std::string, std::vector<Index>>>& tensors,
       const std::string& config = "") {
    SafetensorsWriter writer;
    for (const auto& [name, shape] : tensors) {
      Index size = 1;
      for (const Index n : shape) size *= n;
      writer.add(name, numbered(1, size), DType::F32, shape);
    }
    writer.write(folder.path / checkpoint_file);
    if (!config.empty()) atomic_write(folder.path / "config.json", config);
  }
};

TEST(CheckpointStructure, KnownModelsSayHowTheirWeightsLie) {
  for (const char* type : {"llama", "mistral", "qwen2", "qwen3", "gpt2"}) {
    SCOPED_TRACE(type);
    const bool gpt2 = std::string(type) == "gpt2";
    const Base base({{"w", {1}}}, R"({"model_type": ")" + std::string(type) + "\"}");
    const auto files = CheckpointFiles::open(base.folder.path);
    const CheckpointStructure structure(files);
    EXPECT_TRUE(structure.known());
    EXPECT_EQ(structure.embedding(), gpt2 ? "transformer.wte" : "model.embed_tokens");
    for (const char* module : {"h.0.attn.c_attn", "h.0.attn.c_proj", "h.0.mlp.c_fc"})
      EXPECT_EQ(structure.layout(module), gpt2 ? Layout::in_out : Layout::out_in) << module;
    for (const char* module : {"lm_head", "score", "model.layers.0.self_attn.q_proj"})
      EXPECT_EQ(structure.layout(module), Layout::out_in) << module;
  }
}

TEST(CheckpointStructure, BiasesSayHowOtherWeightsLie) {
  const Base base({{"a.weight", {3, 5}},
                   {"a.bias", {5}},
                   {"b.weight", {3, 5}},
                   {"b.bias", {3}},
                   {"c.weight", {3, 5}},
                   {"x.c_proj.weight", {3, 3}},
                   {"x.c_proj.bias", {3}},
                   {"x.square.weight", {3, 3}},
                   {"x.c_fc.weight", {12, 3}},
                   {"x.c_fc.bias", {12}}},
                  R"({"model_type": "starcoder2"})");
  const auto files = CheckpointFiles::open(base.folder.path);
  const CheckpointStructure structure(files);
  EXPECT_FALSE(structure.known());
  EXPECT_EQ(structure.layout("a"), Layout::in_out);
  EXPECT_EQ(structure.layout("b"), Layout::out_in);
  EXPECT_EQ(structure.layout("c"), std::nullopt);
  EXPECT_EQ(structure.layout("none"), std::nullopt);
  EXPECT_EQ(structure.layout("x.square"), std::nullopt);
  EXPECT_EQ(structure.layout("x.c_proj"), Layout::out_in) << "as x.c_fc beside it";
}

TEST(CheckpointStructure, TiedIsWhatTheConfigurationSaysOrItsTypeMeans) {
  const auto tied = [](const char* config, bool head) {
    std::vector<std::pair<std::string, std::vector<Index>>> tensors{{"wte.weight", {3, 2}}};
    if (head) tensors.push_back({"lm_head.weight", {3, 2}});
    const Base base(tensors, config);
    const auto files = CheckpointFiles::open(base.folder.path);
    return CheckpointStructure(files).tied();
  };
  for (const bool head : {false, true}) {
    EXPECT_TRUE(tied(R"({"tie_word_embeddings": true})", head));
    EXPECT_FALSE(tied(R"({"tie_word_embeddings": false})", head));
    EXPECT_TRUE(tied(R"({"model_type": "gpt2"})", head));
    EXPECT_EQ(tied("", head), !head);
    EXPECT_FALSE(tied(R"({"model_type": "llama"})", head)) << "transformers' default";
    EXPECT_EQ(tied(R"({"model_type": "bloom"})", head), !head);
    EXPECT_EQ(tied("[]", head), !head);
    EXPECT_EQ(tied(R"({"tie_word_embeddings": null})", head), !head);
    EXPECT_THROW(tied(R"({"model_type": "bloom", "tie_word_embeddings": 1})", head), FormatError);
  }
}

TEST(CheckpointStructure, AHeadMayHaveAnotherName) {
  const Base base({{"embed_in.weight", {3, 2}}, {"embed_out.weight", {3, 2}}});
  const auto files = CheckpointFiles::open(base.folder.path);
  EXPECT_TRUE(CheckpointStructure(files).has_head());
  EXPECT_FALSE(CheckpointStructure(files).tied());
}

TEST(CheckpointStructure, MayBeTiedByNameOrByTheVocabulary) {
  const auto structure = [](const char* config, const auto& look) {
    const Base base({{"w", {1}}}, config);
    const auto files = CheckpointFiles::open(base.folder.path);
    look(CheckpointStructure(files));
  };
  structure(R"({"model_type": "x", "vocab_size": 7, "vision_config": {"vocab_size": 9}})",
            [](const CheckpointStructure& known) {
              for (const Index rows : {7, 9}) EXPECT_TRUE(known.may_be_tied("m.w", rows, false));
              EXPECT_FALSE(known.may_be_tied("m.w", 8, false));
              EXPECT_FALSE(known.may_be_tied("m.wpe", 8, true)) << "of positions";
            });
  structure("", [](const CheckpointStructure& unknown) {
    EXPECT_TRUE(unknown.may_be_tied("m.table", 8, true));
    EXPECT_FALSE(unknown.may_be_tied("m.q_proj", 8, false));
    for (const char* name :
         {"transformer.word_embeddings", "gpt_neox.embed_in", "embed_out", "model.tok_embeddings",
          "backbone.embeddings", "lm_head", "model.embed_tokens", "transformer.wte"})
      EXPECT_TRUE(unknown.may_be_tied(name, 8, false)) << name;
  });
}

TEST(CheckpointStructure, AHeadBesideATiedEmbeddingMustBeIt) {
  const auto problem = [](const char* config, float first) {
    const TemporaryFolder folder;
    SafetensorsWriter writer;
    writer.add("model.embed_tokens.weight", numbered(3, 2), DType::F32);
    if (first != 0) writer.add("lm_head.weight", numbered(3, 2, first), DType::F32);
    writer.write(folder.path / checkpoint_file);
    atomic_write(folder.path / "config.json", config);
    const auto files = CheckpointFiles::open(folder.path);
    return CheckpointStructure(files).head_problem();
  };
  const char* tied = R"({"model_type": "llama", "tie_word_embeddings": true})";
  EXPECT_EQ(problem(tied, 0), "");
  EXPECT_EQ(problem(tied, 1), "");
  EXPECT_EQ(problem(tied, 2),
            "is not model.embed_tokens.weight, though the configuration says that they are one "
            "(tie_word_embeddings); where they are two, expected false there");
  EXPECT_EQ(problem(R"({"model_type": "llama"})", 2), "");
  EXPECT_EQ(problem(R"({"tie_word_embeddings": true})", 2), "");
}

TEST(CheckpointStructure, ComparesTensorsOnceBothAreRounded) {
  const TemporaryFolder folder;
  Matrix<float> other = numbered(2, 3), fine = numbered(2, 3);
  other(1, 2) *= 1.01f;
  fine(1, 2) = std::nextafter(fine(1, 2), 9.0f);
  SafetensorsWriter writer;
  writer.add("own", numbered(2, 3), DType::F32);
  writer.add("half", numbered(2, 3), DType::F16);
  writer.add("other", other, DType::F32);
  writer.add("fine", fine, DType::F32);
  writer.add("fine_half", fine, DType::BF16);
  writer.add("shape", numbered(3, 2), DType::F32);
  writer.write(folder.path / "f");
  const auto file = SafetensorsFile::open(folder.path / "f");
  const auto same = [&](const char* a, const char* b) {
    return same_tensors(file, a, file, b);
  };
  EXPECT_TRUE(same("own", "half"));
  EXPECT_TRUE(same("own", "fine_half"));
  EXPECT_FALSE(same("own", "fine"));
  EXPECT_FALSE(same("half", "other"));
  EXPECT_FALSE(same("own", "shape"));
}

}  // namespace checkpoint_structure_test
