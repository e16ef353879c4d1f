// Colour on a terminal.
#pragma once

#include <unistd.h>

#include <cstdlib>
#include <string_view>

namespace tools {

/// Whether standard output gets colour: "always", "never", or "auto", which means a terminal that
/// knows colour and a user who has not set NO_COLOR (https://no-color.org).
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
