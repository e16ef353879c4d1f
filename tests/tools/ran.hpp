// The program lora, run within the test.
#pragma once

#include "../../tools/commands.hpp"

#include <gtest/gtest.h>

#include <iostream>
#include <sstream>
#include <string>
#include <vector>

namespace lora_test {

struct Ran {
  int code;
  std::string out, err;
};

/// Runs a command, or the program, with these words behind its name and `input` on standard input.
inline Ran run_command(int (*command)(int, const char* const*), std::vector<std::string> words,
                       const std::string& input = "") {
  words.insert(words.begin(), "name");
  std::vector<const char*> argv;
  for (const std::string& word : words) argv.push_back(word.c_str());
  std::istringstream in(input);
  std::streambuf* const usual = std::cin.rdbuf(in.rdbuf());
  std::cin.clear();
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  const int code = command(static_cast<int>(argv.size()), argv.data());
  Ran run{code, "", ""};
  run.out = testing::internal::GetCapturedStdout();
  run.err = testing::internal::GetCapturedStderr();
  std::cin.rdbuf(usual);
  return run;
}

/// The same with a standard output that takes nothing.
inline Ran run_onto_full(int (*command)(int, const char* const*),
                         const std::vector<std::string>& words) {
  struct Full : std::streambuf {};
  Full full;
  std::streambuf* const before = std::cout.rdbuf(&full);
  const Ran run = run_command(command, words);
  std::cout.rdbuf(before);
  std::cout.clear();
  return run;
}

}  // namespace lora_test
