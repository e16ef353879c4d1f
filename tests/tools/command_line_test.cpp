// Command lines: what is not known comes first, with near names.
#include "../../tools/support/command_line.hpp"

#include <gtest/gtest.h>

#include "support/messages.hpp"

namespace command_line_test {
using namespace tools;

/// What is said of these words behind the name of a command with a few options.
std::string error_of(std::vector<std::string> words) {
  words.insert(words.begin(), "name");
  std::vector<const char*> argv;
  for (const std::string& word : words) argv.push_back(word.c_str());
  CLI::App app("", "lora try");
  std::string model, text;
  std::vector<std::string> several;
  bool flag = false;
  app.add_option("--model", model)->required();
  app.add_option("--max-length", text);
  app.add_option("--data", several);
  app.add_flag("--quiet", flag);
  try {
    parse_words(app, static_cast<int>(argv.size()), argv.data());
  } catch (const CLI::CallForHelp&) {
    return "help";
  } catch (const CLI::ParseError& error) {
    return error.what();
  }
  return "";
}

TEST(CommandLine, WhatIsUnknownIsSaidBeforeWhatIsMissing) {
  EXPECT_EQ(error_of({"--modle", "m"}),
            "--modle is not an option of this command; near names: --model");
  EXPECT_EQ(error_of({"--model=m", "--length=3"}), "--length is not an option of this command");
  EXPECT_EQ(error_of({"--model", "m", "--data", "a", "b", "--max_lenght", "3"}),
            "--max-lenght is not an option of this command; near names: --max-length");
  EXPECT_EQ(error_of({}), "--model is required");
  EXPECT_EQ(error_of({"--\x1b[2J"}), "--\\x1b[2J is not an option of this command");
}

TEST(CommandLine, AValueMayLookLikeAnOption) {
  EXPECT_EQ(error_of({"--model", "--modle"}), "");
  EXPECT_EQ(error_of({"--model", "m", "--quiet", "--modle"}),
            "--modle is not an option of this command; near names: --model");
}

TEST(CommandLine, HelpIsGivenWhateverElseIsThere) {
  EXPECT_EQ(error_of({"--help"}), "help");
  EXPECT_EQ(error_of({"--help", "--modle"}), "help");
}

TEST(CommandLine, SaysOneLineAndTheExitCode) {
  const char* argv[] = {"try", "--modle"};
  CLI::App app("", "lora try");
  testing::internal::CaptureStderr();
  EXPECT_EQ(parse_command_line(app, 2, argv), 2);
  EXPECT_EQ(testing::internal::GetCapturedStderr(),
            "lora try: --modle is not an option of this command (see --help)\n");
  EXPECT_EQ(parse_command_line(app, 1, argv), std::nullopt);
}

TEST(NearNames, AreThoseAFewLettersAway) {
  EXPECT_EQ(lora::edit_distance("merge", "mrege"), 2u);
  EXPECT_EQ(lora::edit_distance("", "ab"), 2u);
  EXPECT_EQ(lora::edit_distance("data", "data"), 0u);
  const std::vector<std::string> names{"merge", "generate", "to-gguf", "from-gguf"};
  EXPECT_EQ(near_names("merg", names), "merge");
  EXPECT_EQ(near_names("gguf", names), "to-gguf, from-gguf");
  EXPECT_EQ(near_names("xy", names), "");
  EXPECT_EQ(near_names("", names), "");
}

}  // namespace command_line_test
