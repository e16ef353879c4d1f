// The command line of finetune, and what it makes of data and logs.
#include "../../tools/finetune_data.hpp"
#include "../../tools/finetune_options.hpp"
#include "../../tools/resume_option.hpp"
#include "../../tools/training_chart.hpp"

#include <gtest/gtest.h>

#include "support/comma_locale.hpp"
#include "support/shared.hpp"
#include "text/small_tokenizer.hpp"

namespace finetune_test {
using namespace tools;

FinetuneOptions options_of(std::vector<std::string> words) {
  words.insert(words.begin(), {"finetune", "--model", "m"});
  std::vector<const char*> argv;
  for (const std::string& word : words) argv.push_back(word.c_str());
  CLI::App app;
  FinetuneSettings settings(app);
  parse_words(app, static_cast<int>(argv.size()), argv.data());
  return settings.finetune_options();
}
std::string error_of(const std::vector<std::string>& words) {
  try {
    options_of(words);
  } catch (const lora::Error& error) {
    return error.what();
  } catch (const CLI::ParseError& error) {
    return error.what();
  }
  return "nothing thrown";
}

TEST(FinetuneOptions, BothSpellingsOfAName) {
  for (const char* name : {"--learning-rate", "--learning_rate"}) {
    const FinetuneOptions options = options_of({"--data", "d", name, "3e-4"});
    EXPECT_EQ(options.training.learning_rate, 3e-4);
    EXPECT_EQ(options.data, std::vector<std::string>{"d"});
  }
  EXPECT_EQ(options_of({"--data", "d", "--max_steps=7"}).training.max_steps, 7);
}

TEST(FinetuneOptions, APresetThenTheFileThenTheCommandLine) {
  const FinetuneOptions preset = options_of({"--data", "d", "--task", "code"});
  EXPECT_EQ(preset.adapter["r"], 32);
  EXPECT_EQ(preset.training.learning_rate, 1e-4);
  EXPECT_EQ(preset.max_length, 2048);

  const lora_test::TemporaryFolder folder;
  const std::filesystem::path file = folder.path / "c.json";
  const std::string text =
      R"({"task": "code", "r": 4, "learning_rate": 0.5, "num_train_epochs": 2, "merge": true})";
  lora::atomic_write(file, text);
  const FinetuneOptions options =
      options_of({"--data", "d", "--config", file.string(), "--num-train-epochs", "9"});
  EXPECT_EQ(options.adapter["r"], 4);
  EXPECT_EQ(options.adapter["lora_alpha"], 64.0);
  EXPECT_EQ(options.training.learning_rate, 0.5);
  EXPECT_EQ(options.training.num_train_epochs, 9);
  EXPECT_TRUE(options.merge);
}

TEST(FinetuneOptions, ListsFlagsAndFields) {
  const FinetuneOptions options = options_of(
      {"--data", "a", "b", "--target-modules", "q_proj,v_proj", "--packing", "--use-rslora",
       "--fields", "instruction=question,output=answer", "--rank-pattern", R"({"q_proj": 2})"});
  EXPECT_EQ(options.data, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(options.adapter["target_modules"], (Json{"q_proj", "v_proj"}));
  EXPECT_TRUE(options.packing);
  EXPECT_EQ(options.adapter["use_rslora"], true);
  EXPECT_EQ(options.fields.at("instruction"), "question");
  EXPECT_EQ(options.adapter["rank_pattern"]["q_proj"], 2);
  EXPECT_EQ(
      options_of({"--data", "d", "--target-modules", ".*\\.(q|v)_proj"}).adapter["target_modules"],
      ".*\\.(q|v)_proj");
}

TEST(FinetuneOptions, ALogHasALineAStep) {
  EXPECT_EQ(options_of({"--data", "d"}).training.logging_steps, 10);
  EXPECT_EQ(options_of({"--data", "d", "--log", "l"}).training.logging_steps, 1);
  EXPECT_EQ(
      options_of({"--data", "d", "--log", "l", "--logging-steps", "3"}).training.logging_steps, 3);
}

TEST(FinetuneOptions, OneCopyOfAWeightUnlessBothAreAskedFor) {
  EXPECT_EQ(options_of({"--data", "d"}).orientations, lora::Orientations::one);
  EXPECT_EQ(options_of({"--data", "d", "--orientations", "both"}).orientations,
            lora::Orientations::both);
  EXPECT_NE(error_of({"--data", "d", "--orientations", "two"}).find("one of one, both"),
            std::string::npos);
}

TEST(ResumeOption, SaysThatThereIsNoCheckpoint) {
  using tools::checkpoint_to_resume;
  EXPECT_EQ(checkpoint_to_resume("", "out/checkpoint-3", "out"), "");
  EXPECT_EQ(checkpoint_to_resume("last", "out/checkpoint-3", "out"), "out/checkpoint-3");
  EXPECT_EQ(checkpoint_to_resume("other/checkpoint-1", "", "out"), "other/checkpoint-1");
  try {
    checkpoint_to_resume("last", "", "out");
    FAIL();
  } catch (const lora::ConfigError& error) {
    EXPECT_STREQ(error.what(),
                 "--resume-from-checkpoint last: there is no checkpoint in out; omit the option "
                 "to start a new run");
  }
}

TEST(FinetuneOptions, MistakesAreNamed) {
  EXPECT_NE(error_of({}).find("expected either --data or --ids"), std::string::npos);
  EXPECT_NE(error_of({"--data", "d", "--ids", "i"}).find("expected either"), std::string::npos);
  EXPECT_NE(error_of({"--data", "d", "--learning-rate", "fast"})
                .find("learning_rate is \"fast\", expected a number"),
            std::string::npos);
  EXPECT_NE(error_of({"--data", "d", "--dtype", "int8"}).find("one of float32, bfloat16"),
            std::string::npos);
  EXPECT_NE(error_of({"--data", "d", "--learning-rat", "1"}).find("learning-rat"),
            std::string::npos);
  EXPECT_NE(error_of({"--data", "d", "--max-new-tokens", "0"})
                .find("max_new_tokens is 0, expected at least 1"),
            std::string::npos);
  EXPECT_NE(error_of({"--data", "d", "--threads", "-1"}).find("threads is -1, expected 0 to 1024"),
            std::string::npos);
  EXPECT_EQ(error_of({"--data", "d", "--threads", "100000"}),
            "threads is 100000, expected 0 to 1024");
  EXPECT_NE(error_of({"--data", "d", "--seed", "-1"}).find("seed is -1"), std::string::npos);
  const lora_test::TemporaryFolder folder;
  lora::atomic_write(folder.path / "c.json", std::string(R"({"lerning_rate": 1})"));
  EXPECT_NE(error_of({"--data", "d", "--config", (folder.path / "c.json").string()})
                .find("\"lerning_rate\" is not an option"),
            std::string::npos);
}

TEST(FinetuneOptions, APathThatJsonCannotHoldIsRefusedAtOnce) {
  const std::string latin = "caf\xe9";
  for (const char* name : {"--output", "--model", "--system"}) {
    const std::string error = error_of({"--data", "d", name, latin});
    EXPECT_NE(error.find(std::string(name).substr(2) + " is "), std::string::npos) << error;
    EXPECT_NE(error.find("is not UTF-8"), std::string::npos) << error;
  }
  // What is only read, or written under its own name, may be called anything.
  EXPECT_EQ(options_of({"--data", latin, "--log", latin}).data, std::vector<std::string>{latin});
}

TEST(FinetuneOptions, NumbersAreReadAsEverInALocaleWithCommas) {
  const lora_test::CommaLocale comma;
  const FinetuneOptions options = options_of({"--data", "d", "--learning-rate", "2.5e-4",
                                              "--lora-alpha", "1234.5", "--max-steps", "12345"});
  EXPECT_EQ(options.training.learning_rate, 2.5e-4);
  EXPECT_EQ(options.adapter["lora_alpha"], 1234.5);
  EXPECT_EQ(lora::python_json(options.adapter["lora_alpha"], ""), "1234.5");
  EXPECT_EQ(lora::arguments_json(options.training)["learning_rate"].dump(), "0.00025");
  EXPECT_EQ(lora::arguments_json(options.training)["max_steps"].dump(), "12345");
  EXPECT_NE(error_of({"--data", "d", "--validation-share", "1.5"})
                .find("is 1.5, expected at least 0 and below 1"),
            std::string::npos);
}

TEST(FinetuneData, FieldsAreMappedAndUnknownOnesNamed) {
  FinetuneOptions options;
  options.fields = {{"instruction", "question"}};
  EXPECT_EQ(detail::data_options(options).fields.instruction, "question");
  options.fields = {{"instrution", "question"}};
  try {
    detail::data_options(options);
    ADD_FAILURE() << "nothing thrown";
  } catch (const lora::ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("\"instrution\" is not a field"), std::string::npos);
  }
}

// What finetune makes of these files, with a tokenizer of a few tokens.
FinetuneData data_of(const std::map<std::string, std::string>& files,
                     const std::vector<std::string>& train, const std::vector<std::string>& eval,
                     FinetuneOptions options = {}) {
  const lora_test::TemporaryFolder folder;
  for (const auto& [name, text] : files) lora::atomic_write(folder.path / name, text);
  for (const std::string& name : train) options.data.push_back((folder.path / name).string());
  for (const std::string& name : eval) options.eval_data.push_back((folder.path / name).string());
  lora::TokenizerSpec spec = lora_test::byte_level_spec();
  spec.chat_template =
      "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + "
      "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ "
      "'<|im_start|>assistant\n' }}{% endif %}";
  return read_finetune_data(options, lora::Tokenizer(spec), 261, 512);
}
const std::string chat_record =
    R"({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}], "id": 1})"
    "\n";

TEST(FinetuneData, FilesOfSeveralKindsInAnyOrder) {
  const std::map<std::string, std::string> files = {{"c.jsonl", chat_record},
                                                    {"p.txt", "some text"}};
  FinetuneOptions options;
  options.validation_share = 0;
  const FinetuneData one = data_of(files, {"c.jsonl", "p.txt"}, {}, options);
  const FinetuneData two = data_of(files, {"p.txt", "c.jsonl"}, {}, options);
  EXPECT_EQ(one.templates, "chatml (1 record), plain (1 record)");
  EXPECT_EQ(two.templates, one.templates);
  EXPECT_EQ(one.train[0].ids, two.train[1].ids);
  EXPECT_EQ(one.train[1].ids, two.train[0].ids);
  EXPECT_TRUE(one.warnings.empty());
  EXPECT_NE(one.text.find("fields not used (of records): id (1)\n"), std::string::npos) << one.text;
  EXPECT_NE(one.text.find("counted by the loss with 2 end tokens"), std::string::npos) << one.text;
  const FinetuneData eval = data_of(files, {"p.txt"}, {"c.jsonl"}, options);
  EXPECT_EQ(eval.eval.at(0).ids, one.train[0].ids);
  EXPECT_EQ(eval.templates, one.templates);
  options.max_length = 4;
  EXPECT_EQ(
      data_of(files, {"p.txt"}, {"c.jsonl"}, options).warnings,
      std::vector<std::string>{"nothing is left to evaluate: every answer was cut completely"});
}

TEST(FinetuneData, OneTextSharesItsRows) {
  FinetuneOptions options;
  options.max_length = 10;
  options.validation_share = 0.1;
  const FinetuneData data = data_of({{"p.txt", std::string(199, 'x')}}, {"p.txt"}, {}, options);
  EXPECT_EQ(data.train.size(), 18u);
  EXPECT_EQ(data.eval.size(), 2u);
  EXPECT_NE(data.text.find("training     1 record in 18 rows, 180 tokens"), std::string::npos);
  EXPECT_NE(data.text.find("evaluation   2 pieces of documents in 2 rows, 20 tokens"),
            std::string::npos)
      << data.text;
  options.max_length = 0;
  const FinetuneData one = data_of({{"c.jsonl", chat_record}}, {"c.jsonl"}, {}, options);
  EXPECT_TRUE(one.eval.empty());
  EXPECT_NE(one.text.find("evaluation   none"), std::string::npos) << one.text;
}

TEST(FinetuneData, ADocumentBesideOtherRecordsSharesItsPieces) {
  FinetuneOptions options;
  options.max_length = 10;
  const std::map<std::string, std::string> files = {
      {"p.txt", std::string(99, 'x')},
      {"c.jsonl",
       "{\"prompt\": \"x\", \"completion\": \"p\"}\n{\"prompt\": \"x\", "
       "\"completion\": \"q\"}\n{\"prompt\": \"x\", \"completion\": \"r\"}\n"}};
  for (std::uint64_t seed = 0; seed < 8; ++seed) {
    options.training.seed = seed;
    for (const std::vector<std::string>& order :
         {std::vector<std::string>{"p.txt", "c.jsonl"}, {"c.jsonl", "p.txt"}}) {
      const FinetuneData data = data_of(files, order, {}, options);
      EXPECT_EQ(data.train.size(), 2u + 9) << data.text;
      EXPECT_EQ(data.eval.size(), 2u);
      EXPECT_EQ(data.questions.size(), 1u);
      EXPECT_NE(data.text.find("training     3 records in 11 rows, 96 tokens"), std::string::npos)
          << data.text;
      EXPECT_NE(data.text.find("evaluation   1 record and 1 piece of documents in 2 rows, 13 tok"),
                std::string::npos)
          << data.text;
    }
  }
  // Documents enough for the share are held out whole.
  options.validation_share = 0.5;
  const FinetuneData whole =
      data_of({{"t.jsonl", "{\"text\": \"" + std::string(99, 'x') + "\"}\n{\"text\": \"" +
                               std::string(99, 'y') + "\"}\n"}},
              {"t.jsonl"}, {}, options);
  EXPECT_EQ(whole.eval.size(), 10u);
  EXPECT_EQ(whole.train.size(), 10u);
  // One of each: nothing can be held out.
  options.validation_share = 0.1;
  const FinetuneData none =
      data_of({{"p.txt", "x"}, {"c.jsonl", chat_record}}, {"p.txt", "c.jsonl"}, {}, options);
  EXPECT_TRUE(none.eval.empty());
  EXPECT_NE(none.text.find("evaluation   none"), std::string::npos) << none.text;
}

TEST(FinetuneData, ThePlanCountsWhatTrainingGets) {
  FinetuneOptions options;
  options.max_length = 10;
  int without = 0;
  for (std::uint64_t seed = 0; seed < 16; ++seed) {
    options.training.seed = seed;
    const FinetuneData data = data_of({{"p.txt", std::string(49, 'x')}}, {"p.txt"}, {}, options);
    bool ends = false;
    for (const lora::PackedRow& row : data.train) ends = ends || row.labels.back() == 258;
    EXPECT_NE(data.text.find(ends ? "36 counted by the loss with 1 end token"
                                    ""
                                  : "36 counted by the loss with 0 end tokens"),
              std::string::npos)
        << data.text;
    EXPECT_EQ(data.warnings.size(), ends ? 0u : 1u);
    without += ends ? 0 : 1;
  }
  EXPECT_GT(without, 0);
  EXPECT_LT(without, 16);
}

TEST(FinetuneData, WhatIsLeftOutIsTheReasonThatNothingIsLeft) {
  FinetuneOptions options;
  options.max_length = 4;
  const auto error = [&](const std::string& record) {
    try {
      data_of({{"c.jsonl", record}}, {"c.jsonl"}, {}, options);
    } catch (const lora::ConfigError& refused) {
      return std::string(refused.what());
    }
    return std::string("accepted");
  };
  EXPECT_EQ(error(chat_record),
            "there is nothing to learn: no example is left of 1 record; 1 left out because the "
            "whole answer was cut (max_length 4)");
  EXPECT_EQ(error("{\"text\": \"<|end|>\"}"),
            "there is nothing to learn: no example is left of 1 record; 1 left out because nothing "
            "counts (max_length 4)");
}

TEST(FinetuneData, WhatTheDataBringsIsSaid) {
  FinetuneOptions options;
  options.validation_share = 0;
  const FinetuneData ended =
      data_of({{"t.jsonl", "{\"text\": \"A<|end|>\"}\n"}}, {"t.jsonl"}, {}, options);
  EXPECT_NE(ended.text.find("  1 record ends with the end token and gets no second one\n"),
            std::string::npos);
  const FinetuneData spaced =
      data_of({{"t.jsonl", "{\"text\": \"A<|end|>\\n\"}\n"}}, {"t.jsonl"}, {}, options);
  EXPECT_NE(spaced.text.find("  1 record has white space before its beginning token or after its "
                             "end token and gets a second one, as in TRL\n"),
            std::string::npos);
  const FinetuneData never =
      data_of({{"t.jsonl", "{\"segments\": [{\"label\": 1, \"text\": \"AB\"}]}\n"}}, {"t.jsonl"},
              {}, options);
  ASSERT_EQ(never.warnings.size(), 1u);
  EXPECT_EQ(never.warnings[0].substr(0, 23), "no end token counts: no");
  options.chat_template = "qwen2.5";
  const FinetuneData calls =
      data_of({{"c.json", R"([{"messages": [{"role": "user", "content": "x"}, {"role": "assistant",
        "tool_calls": [{"name": "f", "arguments": "{}"}, {"name": "g", "arguments": {}}]}]}])"}},
              {"c.json"}, {}, options);
  EXPECT_NE(calls.text.find("  1 tool call has a string as arguments: "), std::string::npos);
  options.chat_template = "gemma";
  const FinetuneData gemma = data_of({{"c.jsonl", chat_record}}, {"c.jsonl"}, {}, options);
  ASSERT_EQ(gemma.warnings.size(), 3u);
  EXPECT_EQ(gemma.warnings[0].substr(0, 23), "the template begins wit");
  EXPECT_EQ(gemma.warnings[2],
            "the tokenizer has no token for <start_of_turn>, <end_of_turn> of the template gemma: "
            "they are learned letter by letter");
}

TEST(TrainingChart, DrawsWhatTheLogHas) {
  const Json log = {{{"step", 1}, {"loss", 2.5}, {"grad_norm", nullptr}},
                    {{"step", 2}, {"loss", 2.25}, {"grad_norm", 1.0}},
                    {{"step", 2}, {"eval_loss", 2.0}}};
  const Chart chart = training_chart(log, "t");
  ASSERT_EQ(chart.panels.size(), 2u);
  ASSERT_EQ(chart.panels[0].series.size(), 2u);
  EXPECT_EQ(chart.panels[0].series[0].y, (std::vector<double>{2.5, 2.25}));
  EXPECT_EQ(chart.panels[0].series[1].x, std::vector<double>{2});
  EXPECT_TRUE(std::isnan(chart.panels[1].series[0].y[0]));
  EXPECT_NE(to_svg(chart).find("<svg"), std::string::npos);
}

}  // namespace finetune_test
