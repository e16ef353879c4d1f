// Formats untrusted text and durations for messages.
#pragma once

#include <lora/core/code_points.hpp>
#include <lora/core/number_text.hpp>

#include <cstdio>
#include <string>
#include <string_view>

namespace lora {

namespace detail {

/// Whether a terminal displays c without any other effect. Excludes control characters (U+009B
/// begins a command as ESC does), direction marks (LRM, RLM, ALM, embeddings, overrides, isolates
/// and the deprecated ones after them), line separators, and bytes that are not UTF-8.
inline bool is_shown(char32_t c) {
  const auto within = [&](char32_t first, char32_t last) { return c >= first && c <= last; };
  return c >= 0x20 && !within(0x7F, 0x9F) && c != 0x061C && !within(0x200E, 0x200F) &&
         !within(0x2028, 0x202E) && !within(0x2066, 0x206F) && !within(0xDC80, 0xDCFF);
}

}  // namespace detail

/// Makes `text` safe for a terminal: escapes the bytes of characters that are not displayed
/// (control characters, direction marks, invalid UTF-8) as \xNN, and cuts with "..." after `limit`
/// bytes, never inside a UTF-8 sequence.
inline std::string printable(std::string_view text, std::size_t limit = 160) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::size_t end = text.size() < limit ? text.size() : limit;
  while (end < text.size() && end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0u) == 0x80u) {
    --end;
  }
  std::string out;
  for (std::size_t at = 0; at < end;) {
    const std::size_t begin = at;
    const bool shown = detail::is_shown(detail::next_code_point(text.substr(0, end), at));
    for (const char ch : text.substr(begin, at - begin)) {
      const auto byte = static_cast<unsigned char>(ch);
      if (shown) {
        out += ch;
      } else {
        out += "\\x";
        out += digits[byte >> 4];
        out += digits[byte & 15u];
      }
    }
  }
  return end < text.size() ? out + "..." : out;
}

/// Puts a name, pattern or value in double quotes for a message. See printable().
inline std::string in_quotes(std::string_view text) { return '"' + printable(text) + '"'; }

/// Formats a duration as "0:07", "12:30" or "1:02:03", or "?" unless it is from 0 to below 1000
/// hours.
inline std::string duration_text(double seconds) {
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

}  // namespace lora
