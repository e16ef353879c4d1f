// Decides whether to print in colour.
#pragma once

#include <unistd.h>

#include <cstdlib>
#include <string_view>

namespace tools {

/// Whether standard output gets colour: "always", "never", or "auto", which means on a terminal
/// that supports colour unless NO_COLOR is set (https://no-color.org).
inline bool wants_color(std::string_view choice) {
  if (choice != "auto") return choice == "always";
  const auto value = [](const char* name) {
    const char* text = std::getenv(name);
    return std::string_view(text == nullptr ? "" : text);
  };
  return isatty(STDOUT_FILENO) != 0 && value("NO_COLOR").empty() && !value("TERM").empty() &&
         value("TERM") != "dumb";
}

}  // namespace tools
