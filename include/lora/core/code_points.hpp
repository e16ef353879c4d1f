// Decodes UTF-8 to code points, and represents sets of them.
#pragma once

#include <algorithm>
#include <bitset>
#include <string_view>
#include <utility>
#include <vector>

namespace lora {

namespace detail {

template <class = void>
bool is_ascii_word(char32_t c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

/// Returns the code point at text[at], decoded as strict UTF-8, and advances `at` past it. A byte
/// that fits nowhere counts alone as 0xDC00 + byte (Python's surrogateescape), a value that no
/// valid text holds.
template <class = void>
char32_t next_code_point(std::string_view text, std::size_t& at) {
  const auto byte = [&](std::size_t k) {
    return static_cast<char32_t>(static_cast<unsigned char>(text[k]));
  };
  const char32_t lead = byte(at);
  const std::size_t length = lead < 0x80   ? 1
                             : lead < 0xC2 ? 0
                             : lead < 0xE0 ? 2
                             : lead < 0xF0 ? 3
                             : lead < 0xF5 ? 4
                                           : 0;
  char32_t c = length <= 1 ? lead : lead & (0x7Fu >> length);
  bool ok = length > 0 && at + length <= text.size();
  for (std::size_t k = 1; ok && k < length; ++k) {
    ok = (byte(at + k) & 0xC0u) == 0x80u;
    c = (c << 6) | (byte(at + k) & 0x3Fu);
  }
  ok = ok && !(length == 3 && (c < 0x800 || (c >= 0xD800 && c < 0xE000))) &&
       !(length == 4 && (c < 0x10000 || c > 0x10FFFF));
  at += ok ? length : 1;
  return ok ? c : 0xDC00 + lead;
}

/// Decodes all of `text` to `out` with next_code_point().
template <class = void>
void decode_utf8(std::string_view text, std::vector<char32_t>& out) {
  out.clear();
  for (std::size_t at = 0; at < text.size();) out.push_back(next_code_point(text, at));
}

/// Whether all of `text` is strict UTF-8.
template <class = void>
bool is_utf8(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    const char32_t c = next_code_point(text, at);
    if (c >= 0xDC00 && c < 0xDD00) return false;
  }
  return true;
}

/// A set of code points: a table for ASCII, ranges for the rest.
template <class = void>
struct CharSet {
  std::bitset<128> ascii;
  std::vector<std::pair<char32_t, char32_t>> wide;
  bool negated = false;

  void add(char32_t lo, char32_t hi) {
    for (char32_t c = lo; c <= hi && c < 128; ++c) ascii.set(c);
    if (hi >= 128) wide.emplace_back(std::max<char32_t>(lo, 128), hi);
  }
  bool contains(char32_t c) const {
    if (c < 128) return ascii.test(c) != negated;
    const auto holds = [c](const auto& range) { return range.first <= c && c <= range.second; };
    return std::any_of(wide.begin(), wide.end(), holds) != negated;
  }
};

}  // namespace detail

}  // namespace lora
