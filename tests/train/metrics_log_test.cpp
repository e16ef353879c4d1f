#include <lora/train/metrics_log.hpp>

#include <gtest/gtest.h>

#include "support/shared.hpp"
#include "train/toy.hpp"

namespace metrics_log_test {
using namespace lora;
using namespace lora_test;

std::vector<Json> lines_of(const std::filesystem::path& path) {
  std::vector<Json> lines;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) lines.push_back(parse_json(line, "line"));
  return lines;
}

TEST(MetricsLog, HasALineAStepAndAnEvaluation) {
  const TemporaryFolder folder;
  Toy model = toy_model();
  TrainingArguments a = toy_arguments();
  a.eval_strategy = IntervalStrategy::epoch;
  ToyTrainer trainer(model, a, toy_task(), toy_examples(), toy_data(4));
  trainer.add_callback(std::make_shared<JsonLinesLog>(folder.path / "new" / "log.jsonl"));
  trainer.train();
  const std::vector<Json> lines = lines_of(folder.path / "new" / "log.jsonl");
  ASSERT_EQ(lines.size(), 15u + 3u);
  EXPECT_EQ(Json(lines), trainer.state().log_history);
  for (const char* key :
       {"step", "epoch", "loss", "grad_norm", "learning_rate", "tokens_per_second"})
    EXPECT_TRUE(lines[0][key].is_number()) << key;
  EXPECT_TRUE(lines[5]["eval_loss"].is_number());
}

TEST(MetricsLog, GoesOnWhereARunIsResumed) {
  const TemporaryFolder folder;
  const std::filesystem::path path = folder.path / "log.jsonl";
  const auto run = [&](const std::filesystem::path& resume) {
    Toy model = toy_model();
    ToyTrainer trainer(model, toy_arguments(folder.path / "run"), toy_task(), toy_examples());
    trainer.add_callback(std::make_shared<JsonLinesLog>(path));
    trainer.train(resume);
  };
  run({});
  const std::vector<Json> whole = lines_of(path);
  std::ofstream(path, std::ios::app) << "{\"step\":3,\"los";  // cut by a kill
  run(folder.path / "run" / "checkpoint-8");
  const std::vector<Json> again = lines_of(path);
  ASSERT_EQ(again.size(), 15u);
  for (std::size_t i = 0; i < 15; ++i) {
    EXPECT_EQ(again[i]["step"], i + 1);
    EXPECT_EQ(again[i]["loss"], whole[i]["loss"]);
  }
}

TEST(MetricsLog, ThatCannotBeWrittenIsAnError) {
  const TemporaryFolder folder;
  JsonLines lines(folder.path / "log.jsonl");
  EXPECT_HAS(message_of<IoError>([&] { lines.write(Json(1)); }), "cannot write the log");
  std::ofstream(folder.path / "file") << "x";
  JsonLines below(folder.path / "file" / "log.jsonl");
  EXPECT_HAS(message_of<IoError>([&] { below.begin(0); }), "Not a directory");
}

}  // namespace metrics_log_test
