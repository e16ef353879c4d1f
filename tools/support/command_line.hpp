// Parses the command line of every command of lora.
#pragma once

#include "near_names.hpp"
#include "option_spelling.hpp"

#include <lora/core/printable.hpp>

#include <CLI/CLI.hpp>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

namespace tools {

/// Throws CLI::ParseError for the first word that looks like an option but is not one of `app`.
/// CLI11 alone would report a missing option before a mistyped one. The word after an option that
/// takes a value is its value.
inline void expect_known_options(const CLI::App& app, const std::vector<std::string>& words) {
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (words[i] == "--") return;
    if (words[i] == "--help" || words[i] == "-h") return;
    if (!words[i].starts_with("--") || words[i].size() < 3) continue;
    const std::size_t equal = words[i].find('=');
    const std::string name = words[i].substr(0, equal);
    if (const CLI::Option* option = app.get_option_no_throw(name)) {
      if (equal == std::string::npos)
        i += static_cast<std::size_t>(std::max(0, option->get_items_expected_min()));
      continue;
    }
    std::vector<std::string> known;
    for (const CLI::Option* option : app.get_options()) {
      for (const std::string& one : option->get_lnames()) known.push_back("--" + one);
    }
    const std::string near = near_names(name, known);
    throw CLI::ParseError(lora::printable(name) + " is not an option of this command" +
                              (near.empty() ? "" : "; near names: " + near),
                          CLI::ExitCodes::ExtrasError);
  }
}

/// Parses a command line whose first word is the command's name.
/// Throws: CLI::ParseError, also for --help.
inline void parse_words(CLI::App& app, int argc, const char* const* argv) {
  const std::vector<std::string> words = dashed_options(argc, argv);
  expect_known_options(app, {words.rbegin(), words.rend()});
  app.parse(std::vector<std::string>(words));
}

/// Parses a command line. Returns an exit code if the program should end: 0 after --help, 2 after a
/// one-line message about an invalid option.
inline std::optional<int> parse_command_line(CLI::App& app, int argc, const char* const* argv) {
  app.failure_message([](const CLI::App* failed, const CLI::Error& error) {
    return failed->get_name() + ": " + error.what() + " (see --help)\n";
  });
  try {
    parse_words(app, argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  return std::nullopt;
}

}  // namespace tools
