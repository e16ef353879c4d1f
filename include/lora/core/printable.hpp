// Text of strangers and durations as messages show them.
#pragma once

#include <lora/core/namespace.hpp>
#include <lora/core/number_text.hpp>

#include <cstdio>
#include <string>
#include <string_view>

namespace LORA_NAMESPACE {

/// `text` fit for a message on a terminal: control characters of ASCII escaped as \xNN, cut with
/// "..." after `limit` bytes, never within a UTF-8 sequence.
template <class = void>
std::string printable(std::string_view text, std::size_t limit = 160) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::size_t end = text.size() < limit ? text.size() : limit;
  while (end < text.size() && end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0u) == 0x80u) {
    --end;
  }
  std::string out;
  for (const char ch : text.substr(0, end)) {
    const auto byte = static_cast<unsigned char>(ch);
    if (byte >= 0x20 && byte != 0x7F) {
      out += ch;
    } else {
      out += "\\x";
      out += digits[byte >> 4];
      out += digits[byte & 15u];
    }
  }
  return end < text.size() ? out + "..." : out;
}

/// A name, pattern or value in double quotes, fit for a message: see printable().
template <class = void>
std::string in_quotes(std::string_view text) {
  return '"' + printable(text) + '"';
}

/// "0:07", "12:30" or "1:02:03"; "?" for what is not a number of seconds below 1000 hours.
template <class = void>
std::string duration_text(double seconds) {
  if (!(seconds >= 0.0 && seconds < 3.6e6)) return "?";
  const long whole = static_cast<long>(seconds + 0.5), h = whole / 3600, m = whole / 60 % 60,
             s = whole % 60;
  char text[32];
  if (h > 0) {
    std::snprintf(text, sizeof text, "%ld:%02ld:%02ld", h, m, s);
  } else {
    std::snprintf(text, sizeof text, "%ld:%02ld", m, s);
  }
  return text;
}

}  // namespace LORA_NAMESPACE
