// score through its command line: losses and logits of transformers and PEFT, and what it refuses.
#include "../../tools/support/ids_file.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "support/golden.hpp"
#include "tools/ran.hpp"

namespace score_command_test {

namespace fs = std::filesystem;
using namespace lora_test;
using lora::DType;
using lora::Index;

Ran score(const std::vector<std::string>& words) { return run_command(tools::run_score, words); }
void expect_refused(const std::vector<std::string>& words, const std::string& reason) {
  const Ran run = score(words);
  EXPECT_EQ(run.code, 2);
  EXPECT_EQ(run.out, "");
  EXPECT_TRUE(run.err.starts_with("lora score: ")) << run.err;
  EXPECT_NE(run.err.find(reason), std::string::npos) << run.err;
}

// Logits agree to 1e-4 of the largest, the loss likewise.
void expect_score(std::vector<std::string> words, double loss,
                  const lora::Matrix<float>& expected) {
  const TemporaryFolder folder;
  const fs::path logits = folder.path / "logits.safetensors";
  words.insert(words.end(), {"--logits", logits.string()});
  const Ran run = score(words);
  ASSERT_EQ(run.code, 0) << run.err;
  ASSERT_TRUE(run.out.starts_with("loss ")) << run.out;
  EXPECT_EQ(run.out.size(), std::string("loss 5.12345678\n").size()) << run.out;
  EXPECT_NEAR(std::stod(run.out.substr(5)), loss, 1e-4 * loss);
  const auto file = lora::SafetensorsFile::open(logits);
  EXPECT_EQ(file.info("logits").dtype, DType::F32);
  EXPECT_EQ(file.info("logits").shape.size(), 3u);
  expect_close(file.matrix<float>("logits"), expected, 1e-4, "logits");
}

TEST(Score, GoldenLossAndLogitsOfTransformersAndPeft) {
  for_each_golden_model([](const GoldenModel& golden) {
    const auto tensors = lora::SafetensorsFile::open(golden.folder / "golden.safetensors");
    const lora::Json numbers = read_golden_json(golden.folder / "golden.json");
    std::vector<std::string> words{"--model", golden.base.string(), "--ids",
                                   (golden.folder / "batches.safetensors").string()};
    expect_score(words, numbers.at("base_loss").get<double>(),
                 tensors.matrix<float>("base_logits"));
    words.insert(words.end(), {"--adapter", golden.adapter.string(), "--dtype=float32"});
    expect_score(words, numbers.at("adapter_loss").get<double>(),
                 tensors.matrix<float>("adapter_logits"));
  });
}

/// A file of ids and labels.
struct IdsFile {
  TemporaryFolder folder;
  lora::SafetensorsWriter writer;
  void add(const char* name, const std::vector<Index>& shape, DType dtype = DType::I64) {
    Index size = static_cast<Index>(dtype_bits(dtype) / 8);
    for (const Index n : shape) size *= n;
    writer.add(name, dtype, shape, std::vector<std::byte>(static_cast<std::size_t>(size)));
  }
  std::string write() {
    const fs::path path = folder.path / "ids.safetensors";
    writer.write(path);
    return path.string();
  }
};

TEST(Score, RefusesFilesThatHoldNoBatch) {
  const auto expect = [](IdsFile& file, const std::string& reason) {
    const std::string path = file.write();
    expect_refused({"--model", "nowhere", "--ids", path}, path + ": " + reason);
  };
  IdsFile empty;
  expect(empty, "input_ids is missing");
  IdsFile no_labels;
  no_labels.add("input_ids", {1, 2});
  expect(no_labels, "labels is missing");
  IdsFile floats;
  floats.add("input_ids", {1, 2}, DType::F32);
  expect(floats, "input_ids is F32, expected I64");
  for (const std::vector<Index>& shape :
       {std::vector<Index>{4}, std::vector<Index>{0, 1, 2}, std::vector<Index>{1, 1, 1, 1}}) {
    IdsFile other;
    other.add("input_ids", shape);
    other.add("labels", shape);
    expect(other, "input_ids has shape " + lora::shape_text(shape) +
                      ", expected (rows, T) or (micro-batches, rows, T)");
  }
  IdsFile differ;
  differ.add("input_ids", {2, 3});
  differ.add("labels", {2, 4});
  expect(differ, "labels has shape [2, 4], expected that of input_ids, [2, 3]");
}

TEST(Score, TakesTheFirstMicroBatch) {
  IdsFile file;
  std::vector<std::int64_t> numbers(24);
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<std::int64_t>(i);
  for (const char* name : {"input_ids", "labels"})
    file.writer.add(name, DType::I64, {4, 2, 3}, std::as_bytes(std::span(numbers)));
  const tools::ScoredBatch batch = tools::read_scored_batch(file.write());
  EXPECT_EQ(batch.rows, 2);
  EXPECT_EQ(batch.tokens, 3);
  EXPECT_EQ(batch.ids, (std::vector<std::int64_t>{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(batch.labels, batch.ids);
}

TEST(Score, LostOutputIsAnError) {
  const Ran run = run_onto_full(tools::run_score, {"--help"});
  EXPECT_EQ(run.code, 2);
  EXPECT_NE(run.err.find("lora score: standard output: could not be written"), std::string::npos);
}

TEST(Score, SaysWhatDoesNotFit) {
  IdsFile file;
  file.add("input_ids", {1, 2});
  file.add("labels", {1, 2});
  const std::string ids = file.write();
  expect_refused({"--ids", ids}, "--model is required (see --help)");
  expect_refused({"--model", "nowhere", "--ids", ids}, "nowhere: ");
  expect_refused({"--model", "m", "--ids", ids, "--dtype", "int8"}, "--dtype");
  expect_refused({"--model", "m", "--ids", ids, "--wrong_option", "1"}, "--wrong-option");
  expect_refused({"--model", "m", "--ids", ids, "--logits", ids},
                 "which is an input; inputs are never overwritten");
  const lora_test::TemporaryFolder folder;
  const std::string model = (folder.path / "model.safetensors").string();
  lora::SafetensorsWriter weights;
  weights.add("w", lora::Matrix<float>::Ones(1, 1), DType::F32);
  weights.write(model);
  expect_refused({"--model", "m", "--ids", ids, "--logits", model},
                 "is not a safetensors file with only logits");
  EXPECT_EQ(score({"--help"}).code, 0);
  EXPECT_NE(score({"--help"}).out.find("Exit status: 0 "), std::string::npos);
}

}  // namespace score_command_test
