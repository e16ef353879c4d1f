// lora data shows what finetune learns: the same ids, and the same of them counted.
#include "../../tools/finetune_data.hpp"
#include "../../tools/support/color.hpp"
#include "../../tools/support/counted.hpp"

#include <lora/text/tokenizer/tokenizer_files.hpp>

#include "support/messages.hpp"
#include "support/shared.hpp"
#include "tools/ran.hpp"

namespace data_command_test {
using namespace lora_test;

const std::string base = LORA_SOURCE_DIR "/examples/data/base",
                  records = LORA_SOURCE_DIR "/examples/data/instructions.json";

Ran data(std::vector<std::string> words) {
  words.insert(words.begin(), {"--model", base});
  return run_command(tools::run_data, words);
}

/// The ids that a page shows, record by record, and those between the brackets: as labels.
struct Shown {
  std::vector<std::vector<std::int64_t>> ids, labels;
};
Shown shown(const std::string& page) {
  Shown all;
  std::istringstream lines(page);
  bool within = false, counted = false;
  for (std::string line; std::getline(lines, line);) {
    const bool first = line.starts_with("  ids ");
    within = first || (within && line.starts_with("      "));
    if (!within) continue;
    if (first) all.ids.emplace_back(), all.labels.emplace_back();
    std::istringstream words(line.substr(6));
    for (std::string word; words >> word;) {
      if (word.starts_with("⟦")) counted = true, word = word.substr(3);
      const bool ends = word.ends_with("⟧");
      const std::int64_t id = std::stoll(word);
      all.ids.back().push_back(id);
      all.labels.back().push_back(counted ? id : lora::ignored_label);
      if (ends) counted = false;
    }
  }
  return all;
}

// What finetune trains on with these words, without what it holds out, and how much it counts.
void expect_what_training_gets(const std::vector<std::string>& words, const std::string& file,
                               std::size_t count) {
  std::vector<std::string> all{"--data", file};
  all.insert(all.end(), words.begin(), words.end());
  std::vector<std::string> given{"name", "--model", base, "--validation-share", "0"};
  given.insert(given.end(), all.begin(), all.end());
  std::vector<const char*> argv;
  for (const std::string& word : given) argv.push_back(word.c_str());
  CLI::App app;
  tools::FinetuneSettings settings(app);
  tools::parse_words(app, static_cast<int>(argv.size()), argv.data());
  const lora::Tokenizer tokenizer = lora::Tokenizer::open(base);
  const auto trained = tools::read_finetune_data(settings.finetune_options(), tokenizer, 2048, 256);
  ASSERT_EQ(trained.train.size(), count);

  all.insert(all.end(), {"--records", "1000"});
  const Ran run = data(all);
  EXPECT_EQ(run.code, 0) << run.err;
  const Shown page = shown(run.out);
  ASSERT_EQ(page.ids.size(), trained.train.size());
  lora::Index tokens = 0, counted = 0;
  for (std::size_t i = 0; i < page.ids.size(); ++i) {
    std::vector<std::int64_t> labels = trained.train[i].labels;
    labels[0] = lora::ignored_label;  // nothing predicts it
    EXPECT_EQ(page.ids[i], trained.train[i].ids) << i;
    EXPECT_EQ(page.labels[i], labels) << i;
    tokens += static_cast<lora::Index>(labels.size());
    counted += std::count_if(labels.begin(), labels.end(),
                             [](std::int64_t one) { return one != lora::ignored_label; });
  }
  EXPECT_GT(counted, 0);
  EXPECT_HAS(run.out, ": " + tools::counted(tokens, "token") + ", " + std::to_string(counted) +
                          " counted by the loss with ");
  EXPECT_HAS(trained.text, tools::counted(tokens, "token") + ", " + std::to_string(counted) +
                               " counted by the loss with ");
}

TEST(DataCommand, ShowsWhatTrainingGets) {
  expect_what_training_gets({}, records, 651);
  const TemporaryFolder folder;
  const std::string chat = (folder.path / "c.jsonl").string();
  lora::atomic_write(chat, std::string(R"({"messages": [{"role": "user", "content": "one"}, )"
                                       R"({"role": "assistant", "content": "two"}, )"
                                       R"({"role": "user", "content": "three"}, )"
                                       R"({"role": "assistant", "content": "four\nfive"}]})"));
  for (const std::vector<std::string>& words :
       std::vector<std::vector<std::string>>{{},
                                             {"--loss-on", "last_answer"},
                                             {"--loss_on", "everything"},
                                             {"--template", "qwen2.5", "--system", "Be brief."},
                                             {"--max-length", "20"},
                                             {"--task", "classify"}})
    expect_what_training_gets(words, chat, 1);
  const std::string text = (folder.path / "p.txt").string();
  lora::atomic_write(text, std::string("Where does a farmer work? On the farm, all day long."));
  expect_what_training_gets({"--max-length", "8"}, text, 2);
}

TEST(DataCommand, MarksWhatCounts) {
  const Ran run = data({"--data", records, "--records", "1"});
  EXPECT_EQ(run.code, 0) << run.err;
  EXPECT_HAS(run.out, "  <|im_start|>user\\n\n  天空是什么颜色？<|im_end|>\\n\n");
  EXPECT_HAS(run.out, "\n  ⟦天空是蓝色的。<|im_end|>⟧\\n\n  ids ");
  EXPECT_HAS(run.out,
             "instructions.json: line 2: template chatml, 21 tokens, 4 counted by the "
             "loss with 1 end token\n");
  EXPECT_HAS(run.out, "\n1 record of 651: 21 tokens, 4 counted");
  const Ran colored = data({"--data", records, "--records", "1", "--color", "always"});
  EXPECT_HAS(colored.out, "\n  \x1b[1;32m天空是蓝色的。<|im_end|>\x1b[0m\\n\n  ids ");
  EXPECT_EQ(colored.out.find("⟦"), std::string::npos);
}

TEST(DataCommand, SaysWhatIsLeftOutOrNotShownAsItIs) {
  const TemporaryFolder folder;
  const std::string file = (folder.path / "p.jsonl").string();
  lora::atomic_write(file, std::string(R"({"prompt": "Where is it?", "completion": "x"})"
                                       "\n"
                                       R"({"prompt": "\u001b[2J", "completion": "y"})"));
  const Ran cut = data({"--data", file, "--max-length", "2"});
  EXPECT_EQ(cut.code, 0) << cut.err;
  EXPECT_HAS(cut.out, "  1 left out because the whole answer was cut\n");
  EXPECT_HAS(data({"--data", file}).out, "\n  \\x1b[2J⟦y");
}

TEST(DataCommand, TakesTheFileOfARun) {
  const TemporaryFolder folder;
  lora::atomic_write(folder.path / "c.json", std::string(R"({"r": 4, "max_length": 18, "data": ")" +
                                                         records + R"(", "num_train_epochs": 2})"));
  const Ran run = data({"--config", (folder.path / "c.json").string(), "--records", "2"});
  EXPECT_EQ(run.code, 0) << run.err;
  EXPECT_HAS(run.out, "2 records of 651");
  EXPECT_HAS(run.out, ", cut at 18 tokens\n");
}

TEST(DataCommand, Refuses) {
  const auto error = [](const std::vector<std::string>& words) {
    const Ran run = run_command(tools::run_data, words);
    EXPECT_EQ(run.code, 2);
    EXPECT_TRUE(run.err.starts_with("lora data: ")) << run.err;
    return run.err;
  };
  EXPECT_HAS(error({"--data", "x"}), "--model is missing");
  EXPECT_HAS(error({"--model", base}), "--data is missing");
  EXPECT_HAS(error({"--model", base, "--data", "nowhere"}), "nowhere");
  EXPECT_HAS(error({"--learning-rate", "1"}), "--learning-rate is not an option of this command");
  EXPECT_HAS(error({"--model", base, "--data", records, "--records", "0"}), "--records");
  EXPECT_HAS(error({"--model", base, "--data", records, "--color", "red"}), "--color");
}

TEST(Color, FollowsTheChoiceThenTheTerminal) {
  EXPECT_TRUE(tools::wants_color("always"));
  EXPECT_FALSE(tools::wants_color("never"));
  testing::internal::CaptureStdout();  // a file
  EXPECT_FALSE(tools::wants_color("auto"));
  testing::internal::GetCapturedStdout();
}

TEST(Counted, OneThingIsOne) {
  EXPECT_EQ(tools::counted(1, "record"), "1 record");
  EXPECT_EQ(tools::counted(0u, "record"), "0 records");
}

}  // namespace data_command_test
