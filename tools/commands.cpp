// The table of commands: lora COMMAND, lora help, lora --version.
#include "commands.hpp"

#include "support/near_names.hpp"
#include "support/program.hpp"

#include <lora/core/isa.hpp>
#include <lora/core/printable.hpp>

#include <algorithm>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

namespace tools {

namespace {

struct Command {
  const char* name;
  const char* words;
  int (*run)(int, const char* const*);
};
constexpr Command commands[] = {
    {"finetune", "train an adapter on a file of instructions or texts", run_finetune},
    {"generate", "write text with a model and its adapters, or chat", run_generate},
    {"score", "compute loss and logits of a model on given ids", run_score},
    {"data", "show what finetune learns from a file, record by record", run_data},
    {"tokenize", "show ids and pieces of a text, or the text of ids", run_tokenize},
    {"info", "show what is in an adapter, a base model or a file", run_info},
    {"diff", "show how two adapters differ", run_diff},
    {"merge", "merge an adapter into its base, as one checkpoint", run_merge},
    {"combine", "combine several adapters of one base into one", run_combine},
    {"extract", "extract the adapter nearest to a fine-tuned model", run_extract},
    {"convert", "convert an adapter to another number type", run_convert},
    {"to-gguf", "convert an adapter for llama.cpp", run_to_gguf},
    {"from-gguf", "convert an adapter of llama.cpp for PEFT", run_from_gguf},
};

const Command* find(const std::string& name) {
  const auto found = std::find_if(std::begin(commands), std::end(commands),
                                  [&](const Command& one) { return name == one.name; });
  return found == std::end(commands) ? nullptr : found;
}

std::string help_text() {
  std::string text =
      "Fine-tunes language models with LoRA, and manages adapters, models and data.\n"
      "Usage: lora COMMAND [OPTIONS]\n\nCommands:\n";
  for (const Command& one : commands) {
    std::string name = one.name;
    name.resize(12, ' ');
    text += "  " + name + one.words + "\n";
  }
  return text +
         "\nlora help COMMAND shows the options of a command; so does lora COMMAND --help.\n"
         "lora --version shows the version.\n"
         "Exit status: 0 done, 2 an error, with its reason on standard error; diff: 1 different;\n"
         "finetune: 128 + N when signal N ended it.\n";
}

std::string compiler_text() {
#if defined(__clang__)
  return "clang " + std::to_string(__clang_major__) + "." + std::to_string(__clang_minor__);
#elif defined(__GNUC__)
  return "g++ " + std::to_string(__GNUC__) + "." + std::to_string(__GNUC_MINOR__);
#else
  return "an unknown compiler";
#endif
}

int unknown_command(const std::string& name) {
  std::vector<std::string> names{"help"};
  for (const Command& one : commands) names.emplace_back(one.name);
  const std::string near = near_names(name, names);
  std::cerr << "lora: " << lora::in_quotes(name) << " is not a command"
            << (near.empty() ? "" : "; near names: " + near) << " (see lora help)\n";
  return 2;
}

int help_of(const std::string& name) {
  const Command* command = find(name);
  if (command == nullptr) return unknown_command(name);
  const char* const words[] = {command->name, "--help"};
  return command->run(2, words);
}

}  // namespace

int run_lora(int argc, const char* const* argv) {
  const std::string first = argc > 1 ? argv[1] : "", second = argc > 2 ? argv[2] : "";
  // A command reports errors and lost output under its own name.
  if (const Command* command = find(first)) return command->run(argc - 1, argv + 1);
  if (first == "help" && !second.empty()) return help_of(second);
  return run_program({"lora"}, [&] {
    if (first == "help" || first == "--help" || first == "-h") {
      std::cout << help_text();
    } else if (first == "--version" || first == "version") {
      std::cout << "lora " LORA_VERSION " (" << compiler_text() << "; instruction set "
                << lora::isa_name(lora::isa()) << ")\n";
    } else if (first.empty()) {
      std::cerr << "lora: expected a command (see lora help)\n";
      return 2;
    } else {
      return unknown_command(first);
    }
    return 0;
  });
}

}  // namespace tools
