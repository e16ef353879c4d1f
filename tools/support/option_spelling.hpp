// Accepts options with - or _ in their names: --max-new-tokens, --max_new_tokens.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

namespace tools {

/// Returns the command line for CLI11's parse(), without the program's name and with - for _ in
/// option names, so each option is defined once. Values do not change, unless one starts with --
/// and is a separate word.
inline std::vector<std::string> dashed_options(int argc, const char* const* argv) {
  std::vector<std::string> words(argv + std::min(argc, 1), argv + argc);
  for (std::string& word : words) {
    if (word == "--") break;
    if (!word.starts_with("--")) continue;
    const auto end = std::find(word.begin(), word.end(), '=');
    std::replace(word.begin(), end, '_', '-');
  }
  std::reverse(words.begin(), words.end());  // as CLI11 takes a vector
  return words;
}

}  // namespace tools
