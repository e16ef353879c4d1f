#include <lora/io/hf/hf_checkpoint.hpp>
#include <lora/io/hf/save_model.hpp>

#include <gtest/gtest.h>

#include "io/tiny_lm.hpp"
#include "support/file_calls.hpp"
#include "support/messages.hpp"
#include "support/shared.hpp"

namespace save_model_test {
using namespace lora;
using namespace lora_test;
namespace fs = std::filesystem;

std::vector<std::string> listing(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}
using Names = std::vector<std::string>;

TEST(SaveModel, WritesWhatTransformersReads) {
  const TemporaryFolder folder;
  TinyLM<float> model = tiny_lm();
  save_pretrained(model, folder.path / "tied");
  EXPECT_EQ(listing(folder.path / "tied"), (Names{"config.json", "model.safetensors"}));
  const SafetensorsFile file = SafetensorsFile::open(folder.path / "tied" / checkpoint_file);
  EXPECT_EQ(file.metadata().at("format"), "pt");
  EXPECT_FALSE(file.contains("lm_head.weight"));
  EXPECT_EQ(file.info("model.norm.weight").shape, (std::vector<Index>{12}));
  EXPECT_EQ(file.info("model.layers.0.proj.weight").shape, (std::vector<Index>{12, 12}));
  EXPECT_EQ(file.matrix<float>("model.layers.0.proj.weight"), model.layers[0].weight().stored());
  EXPECT_EQ(file.matrix<float>("model.layers.0.proj.bias"), model.layers[0].bias().value);
  EXPECT_EQ(read_hf_config(folder.path / "tied").dtype, DType::F32);
}

TEST(SaveModel, SplitsLargeModels) {
  const TemporaryFolder folder;
  TinyLM<float> model = tiny_lm(false);
  save_pretrained(model, folder.path / "m", {.dtype = DType::BF16, .max_shard_size = 1000});
  EXPECT_EQ(listing(folder.path / "m"),
            (Names{"config.json", "model-00001-of-00004.safetensors",
                   "model-00002-of-00004.safetensors", "model-00003-of-00004.safetensors",
                   "model-00004-of-00004.safetensors", "model.safetensors.index.json"}));
  const CheckpointFiles files = CheckpointFiles::open(folder.path / "m");
  EXPECT_EQ(files.names().size(), 7u);
  EXPECT_EQ(files.index()["metadata"]["total_size"], 2 * (2 * 70 * 12 + 2 * 12 * 12 + 3 * 12));
  EXPECT_EQ(files.info("lm_head.weight").dtype, DType::BF16);
}

TEST(SaveModel, WritesAHeadThatIsNoLongerTheEmbedding) {
  const TemporaryFolder folder;
  LoRAConfig config;
  config.target_modules = std::vector<std::string>{"lm_head"};
  LoRAModel<TinyLM<float>> adapted(tiny_lm(), config);
  adapted.for_each_parameter("", [](const NamePath&, auto& p) { p.value.array() += 0.25f; });
  TinyLM<float> merged = adapted.merge_and_unload();
  save_pretrained(merged, folder.path / "m");
  const auto model = load_model<TinyLM<float>>(folder.path / "m");
  EXPECT_FALSE(std::get<LlamaConfig>(model.config()).tie_word_embeddings);
  EXPECT_EQ(model.head.weight().stored(), merged.head.weight().stored());
  EXPECT_EQ(model.table.weight().stored(), merged.table.weight().stored());
  EXPECT_NE(model.head.weight().stored(), model.table.weight().stored());
}

TEST(SaveModel, WritesWhatWasTrainedWhole) {
  const TemporaryFolder folder;
  TinyLM<float> model = tiny_lm(false);
  model.layers[0].train_base();
  model.head.train_base();
  model.for_each_parameter("", [](const NamePath&, auto& p) {
    if (p.trainable) p.value.array() += 1;
  });
  save_pretrained(model, folder.path / "m");
  const TinyLM<float> before = tiny_lm(false);
  const auto read = load_model<TinyLM<float>>(folder.path / "m");
  const Matrix<float> moved = before.head.weight().stored().array() + 1;
  EXPECT_EQ(read.head.weight().stored(), moved);
  const Matrix<float> bias = before.layers[0].bias().value.array() + 1;
  EXPECT_EQ(read.layers[0].bias().value, bias);
  EXPECT_EQ(read.layers[1].weight().stored(), before.layers[1].weight().stored());
}

TEST(SaveModel, KeepsTheOtherFilesOfItsBase) {
  const TemporaryFolder folder;
  TinyLM<float> model = tiny_lm();
  save_pretrained(model, folder.path / "base");
  Json fields = read_hf_config(folder.path / "base").fields;
  fields["eos_token_id"] = 2;
  atomic_write(folder.path / "base" / hf_config_file, fields.dump());
  atomic_write(folder.path / "base" / "tokenizer.json", "{}");
  save_pretrained(model, folder.path / "m",
                  {.dtype = DType::F16, .base_directory = folder.path / "base"});
  EXPECT_EQ(listing(folder.path / "m"),
            (Names{"config.json", "model.safetensors", "tokenizer.json"}));
  const Json written = read_hf_config(folder.path / "m").fields;
  EXPECT_EQ(written["eos_token_id"], 2);
  EXPECT_EQ(written["torch_dtype"], "float16");
}

TEST(SaveModel, SavesDoubleInAnyType) {
  const TemporaryFolder folder;
  TinyLM<double> model = tiny_lm<double>();
  save_pretrained(model, folder.path / "m");
  EXPECT_EQ(read_hf_config(folder.path / "m").dtype, DType::F64);
  const auto read = load_model<TinyLM<double>>(folder.path / "m");
  EXPECT_EQ(read.layers[0].weight().stored(), model.layers[0].weight().stored());
}

TEST(SaveModel, RefusesAndLeavesNothing) {
  const TemporaryFolder folder;
  const fs::path path = folder.path / "m";
  LoRAConfig config;
  config.target_modules = std::vector<std::string>{"proj"};
  LoRAModel<TinyLM<float>> adapted(tiny_lm(), config);
  EXPECT_HAS(message_of<Error>([&] { save_pretrained(adapted.base(), path); }),
             "layer \"model.layers.0.proj\" has adapters; merge_and_unload()");
  TinyLM<float> model = tiny_lm();
  EXPECT_HAS(message_of<ConfigError>([&] { save_pretrained(model, path, {.dtype = DType::I8}); }),
             "I8, expected F32, F64, BF16 or F16");
  model.norm.value(0, 3) = 1e6f;
  EXPECT_HAS(message_of<ConfigError>([&] { save_pretrained(model, path, {.dtype = DType::F16}); }),
             "saving model.norm.weight as F16: element 3 is 1000000");
  EXPECT_TRUE(fs::is_empty(folder.path)) << "nothing is left of what failed";
  atomic_write(folder.path / "file", "x");
  EXPECT_HAS(message_of<ConfigError>([&] { save_pretrained(model, folder.path); }), "is not empty");
}

TEST(SaveModel, AFullDiskLeavesNothing) {
  const TemporaryFolder folder;
  FileCalls full = posix_calls();
  static int writes;
  full.write = [](int fd, const void* bytes, std::size_t n) -> ssize_t {
    if (++writes < 4) return ::write(fd, bytes, n);
    errno = ENOSPC;
    return -1;
  };
  TinyLM<float> model = tiny_lm();
  writes = 0;
  EXPECT_HAS(message_of<IoError>(
                 [&] { with_calls(full, [&] { save_pretrained(model, folder.path / "m"); }); }),
             "No space left on device");
  EXPECT_TRUE(fs::is_empty(folder.path));
}

}  // namespace save_model_test
