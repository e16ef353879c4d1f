#include <lora/io/hf/hf_checkpoint.hpp>
#include <lora/io/hf/save_model.hpp>

#include <gtest/gtest.h>

#include "io/tiny_lm.hpp"
#include "support/golden.hpp"
#include "support/messages.hpp"
#include "support/shared.hpp"

namespace hf_checkpoint_test {
using namespace lora;
using namespace lora_test;

std::string verdict(const std::filesystem::path& folder) {
  try {
    load_model<TinyLM<float>>(folder);
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

/// A folder with a small model.
struct Saved {
  TemporaryFolder above;
  std::filesystem::path path = above.path / "model";
  explicit Saved(bool tied = true, SaveModelOptions options = {}) {
    TinyLM<float> model = tiny_lm(tied);
    save_pretrained(model, path, options);
  }
};

TEST(HFCheckpoint, LoadsWhatWasSaved) {
  for (const bool tied : {true, false}) {
    const Saved saved(tied);
    TinyLM<float> given = tiny_lm(tied), model = load_model<TinyLM<float>>(saved.path);
    EXPECT_EQ(model.config(), given.config());
    EXPECT_EQ(model.table.weight().stored(), given.table.weight().stored());
    EXPECT_EQ(model.head.weight().stored(), given.head.weight().stored());
    EXPECT_EQ(model.head.weight().shares_storage_with(model.table.weight()), tied);
    EXPECT_EQ(model.layers[1].weight().stored(), given.layers[1].weight().stored());
    EXPECT_EQ(model.layers[1].weight().layout(), Layout::in_out);
    EXPECT_EQ(model.layers[1].bias().value, given.layers[1].bias().value);
    EXPECT_EQ(model.norm.value, given.norm.value);
    const auto wide = load_model<TinyLM<double>>(saved.path);
    EXPECT_EQ(wide.table.weight().stored(),
              given.table.weight().stored().template cast<double>().eval());
  }
}

TEST(HFCheckpoint, HoldsHalfTheBytesAsBfloat16) {
  const Saved saved;
  const auto whole = load_model<TinyLM<float>>(saved.path);
  const auto half = load_model<TinyLM<float>>(saved.path, {.dtype = Precision::bfloat16});
  EXPECT_EQ(2 * half.table.weight().bytes(), whole.table.weight().bytes());
}

TEST(HFCheckpoint, SaysWhatAFolderLacks) {
  const Saved saved;
  EXPECT_HAS(verdict(saved.above.path), "has neither model.safetensors nor");
  std::filesystem::remove(saved.path / hf_config_file);
  EXPECT_HAS(verdict(saved.path), "config.json: cannot open for reading: No such file");
}

TEST(HFCheckpoint, ListsTheTensorsOfAnotherModel) {
  const Saved saved;
  Json fields = read_hf_config(saved.path).fields;
  fields["num_hidden_layers"] = 3;
  fields["vocab_size"] = 71;
  atomic_write(saved.path / hf_config_file, fields.dump());
  const std::string text = verdict(saved.path);
  EXPECT_HAS(text, "model.embed_tokens.weight: shape is [70, 12], expected [71, 12]");
  EXPECT_HAS(text, "missing: model.layers.2.proj.weight");
  EXPECT_HAS(text, "missing: model.layers.2.proj.bias");
  fields["num_hidden_layers"] = 1;
  fields["vocab_size"] = 70;
  fields["tie_word_embeddings"] = false;
  atomic_write(saved.path / hf_config_file, fields.dump());
  const std::string fewer = verdict(saved.path);
  EXPECT_HAS(fewer, "unexpected: model.layers.1.proj.weight");
  EXPECT_HAS(fewer, "missing: lm_head.weight (is it the embedding?");
}

TEST(HFCheckpoint, RefusesDamagedFiles) {
  const Saved whole;
  const std::filesystem::path weights = whole.path / checkpoint_file;
  std::filesystem::resize_file(weights, std::filesystem::file_size(weights) - 5);
  EXPECT_HAS(verdict(whole.path), "bytes after the header");
  atomic_write(weights, "version https://git-lfs.github.com/spec/v1\noid sha256:" +
                            std::string(64, '0') + "\nsize 1234\n");
  EXPECT_HAS(verdict(whole.path), "is a Git LFS pointer");

  const Saved shards(true, {.max_shard_size = 2000});
  const std::filesystem::path last = shards.path / "model-00002-of-00002.safetensors";
  ASSERT_EQ(verdict(shards.path), "accepted");
  std::filesystem::resize_file(last, std::filesystem::file_size(last) - 1);
  EXPECT_HAS(verdict(shards.path), last.string());
  std::filesystem::remove(last);
  EXPECT_HAS(verdict(shards.path), "No such file");
  atomic_write(shards.path / checkpoint_index_file,
               R"({"weight_map":{"a":"../model/model-00001-of-00002.safetensors"}})");
  EXPECT_HAS(verdict(shards.path), "expected the name of a .safetensors file in this folder");
}

/// The first row of a golden case's ids, and its logits of the base.
struct GoldenRow {
  std::vector<std::int64_t> ids;
  Matrix<double> logits;
  explicit GoldenRow(const std::filesystem::path& folder) {
    const SafetensorsFile file = SafetensorsFile::open(folder / "golden.safetensors");
    ids = file.integers("input_ids");
    ids.resize(static_cast<std::size_t>(file.info("input_ids").shape[1]));
    const std::vector<Index> shape = file.info("base_logits").shape;  // (rows, tokens, V)
    const Matrix<double> all = file.matrix<double>("base_logits");
    logits = Eigen::Map<const Matrix<double>>(all.data(), shape[1], shape[2]);
  }
};

// Float32, bfloat16 in shards, half, and GPT-2's turned matrices.
TEST(HFCheckpoint, GivesTheGoldenLogits) {
  for_each_golden_model([](const GoldenModel& model) {
    const GoldenRow golden(model.folder);
    expect_close(load_causal_lm(model.base).logits({golden.ids}), golden.logits, 1e-4);
    expect_close(load_causal_lm<double>(model.base).logits({golden.ids}), golden.logits, 1e-5);
    // Eight bits of each weight: 2^-9 of it, over a few layers.
    const auto half = load_causal_lm(model.base, {.dtype = Precision::bfloat16});
    expect_close(half.logits({golden.ids}), golden.logits, 3e-2, "bfloat16");
  });
}

// As the original files on the hub have it: no "transformer.", and the masks as buffers.
TEST(HFCheckpoint, ReadsGoldenGPT2WithoutItsPrefix) {
  int seen = 0;
  for_each_golden_model([&](const GoldenModel& model) {
    if (!std::holds_alternative<GPT2Config>(read_hf_config(model.base).model)) return;
    ++seen;
    const TemporaryFolder folder;
    const SafetensorsFile file = SafetensorsFile::open(model.base / checkpoint_file);
    SafetensorsWriter writer;
    for (const std::string& name : file.names()) {
      const std::string bare = name.substr(std::string("transformer.").size());
      ASSERT_TRUE(name.starts_with("transformer."));
      writer.add(bare, file.matrix<float>(name), DType::F32, file.info(name).shape);
    }
    writer.add("h.0.attn.bias", Matrix<float>::Ones(8, 8), DType::F32, {1, 1, 8, 8});
    writer.add("h.0.attn.masked_bias", Matrix<float>::Ones(1, 1), DType::F32, {});
    writer.write(folder.path / checkpoint_file);
    std::filesystem::copy(model.base / hf_config_file, folder.path / hf_config_file);
    const GoldenRow golden(model.folder);
    expect_close(load_causal_lm(folder.path).logits({golden.ids}), golden.logits, 1e-4);
  });
  EXPECT_GE(seen, 1);
}

}  // namespace hf_checkpoint_test
