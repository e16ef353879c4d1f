// The program lora: its commands, help, version, and what is no command.
#include <lora/io/atomic_file.hpp>

#include "support/messages.hpp"
#include "support/shared.hpp"
#include "tools/ran.hpp"

namespace commands_test {
using namespace lora_test;

Ran run(const std::vector<std::string>& words) { return run_command(tools::run_lora, words); }

const std::vector<std::string> commands{"finetune", "generate", "score",    "data",    "tokenize",
                                        "info",     "diff",     "merge",    "combine", "extract",
                                        "convert",  "to-gguf",  "from-gguf"};

TEST(Commands, HelpNamesEachOfThem) {
  const Ran help = run({"help"});
  EXPECT_EQ(help.code, 0);
  EXPECT_EQ(help.err, "");
  EXPECT_EQ(run({"--help"}).out, help.out);
  for (const std::string& name : commands) EXPECT_HAS(help.out, "\n  " + name + " ");
}

TEST(Commands, HelpOfOneIsItsOwn) {
  for (const std::string& name : commands) {
    const Ran help = run({"help", name});
    EXPECT_EQ(help.code, 0) << name;
    EXPECT_EQ(run({name, "--help"}).out, help.out);
    EXPECT_HAS(help.out, "Usage: lora " + name + " ");
    EXPECT_HAS(help.out, "Exit status: 0 ");
  }
}

TEST(Commands, HelpOfFinetuneSaysDefaults) {
  const std::string help = run({"help", "finetune"}).out;
  const auto line = [&](const std::string& option) {
    const std::size_t at = help.find("  --" + option + " ");
    return at == help.npos ? "" : help.substr(at, help.find('\n', at) - at);
  };
  for (const auto& [option, standard] :
       std::vector<std::pair<std::string, std::string>>{{"output", "[results/finetune]"},
                                                        {"dtype", "float32, bfloat16 [float32]"},
                                                        {"max-length", "[1024]"},
                                                        {"validation-share", "[0.1]"},
                                                        {"merge", "[false]"},
                                                        {"early-stopping-patience", "[not set]"},
                                                        {"per-device-eval-batch-size", "[4]"},
                                                        {"learning-rate", "[0.0002]"},
                                                        {"lr-scheduler-type", "[cosine]"},
                                                        {"loraplus-lr-ratio", "[not set]"},
                                                        {"r", "[16]"},
                                                        {"lora-alpha", "[32.0]"},
                                                        {"target-modules", "[all-linear]"},
                                                        {"bias", "[none]"}})
    EXPECT_TRUE(line(option).ends_with(standard)) << option << ": " << line(option);
}

TEST(Commands, SaysItsVersion) {
  const Ran version = run({"--version"});
  EXPECT_EQ(version.code, 0);
  EXPECT_TRUE(version.out.starts_with("lora 0.")) << version.out;
  EXPECT_HAS(version.out, "; instruction set ");
}

TEST(Commands, WhatIsNoneIsRefusedWithNearNames) {
  const auto refused = [](const std::vector<std::string>& words) {
    const Ran one = run(words);
    EXPECT_EQ(one.code, 2);
    EXPECT_EQ(one.out, "");
    return one.err;
  };
  EXPECT_EQ(refused({}), "lora: expected a command (see lora help)\n");
  EXPECT_EQ(refused({"mrege", "--base", "x"}),
            "lora: \"mrege\" is not a command; near names: merge (see lora help)\n");
  EXPECT_EQ(refused({"help", "gguf"}),
            "lora: \"gguf\" is not a command; near names: to-gguf, from-gguf (see lora help)\n");
  EXPECT_EQ(refused({"\x1b[2J"}), "lora: \"\\x1b[2J\" is not a command (see lora help)\n");
}

TEST(Commands, LostOutputIsSaidOnce) {
  const std::string lost = ": standard output: could not be written completely (no space left?)\n";
  EXPECT_EQ(run_onto_full(tools::run_lora, {"help"}).err, "lora" + lost);
  const Ran one = run_onto_full(tools::run_lora, {"help", "merge"});
  EXPECT_EQ(one.code, 2);
  EXPECT_EQ(one.err, "lora merge" + lost);
}

TEST(Commands, AnAdaptersFolderIsNoModel) {
  const TemporaryFolder folder;
  const std::string path = folder.path.string();
  lora::atomic_write(folder.path / "adapter_config.json",
                     R"({"base_model_name_or_path": "some/base"})");
  const std::string ends =
                        ": is the folder of an adapter, expected that of a model; give this "
                        "folder with ",
                    base = ", and its base with --model, which it calls \"some/base\"\n";
  EXPECT_EQ(run({"generate", "--model", path, "--prompt", "x"}).err,
            "lora generate: --model " + path + ends + "--adapter" + base);
  EXPECT_EQ(run({"score", "--model", path, "--ids", "x"}).err,
            "lora score: --model " + path + ends + "--adapter" + base);
  EXPECT_EQ(run({"finetune", "--model", path, "--data", "x"}).err,
            "lora finetune: --model " + path + ends + "--init-adapter" + base);
}

TEST(Commands, AReasonIsNotNamedTwice) {
  const TemporaryFolder folder;
  EXPECT_EQ(run({"combine", "--adapter", "a", "--weight", "1", "--weight", "2",
                 "--combination-type", "cat", "--output", (folder.path / "o").string()})
                .err,
            "lora combine: there are 2 weights, expected 1, one --weight for each --adapter\n");
}

}  // namespace commands_test
