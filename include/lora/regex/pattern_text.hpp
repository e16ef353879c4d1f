// Reads the text of a regular expression: characters, escapes and sets.
#pragma once

#include <lora/core/code_points.hpp>
#include <lora/core/error.hpp>
#include <lora/core/printable.hpp>

#include <algorithm>
#include <bitset>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lora {

namespace detail {

/// A position in the text, and what can be read there. Every failure throws ConfigError with the
/// pattern and the position.
template <class Tag = void>
class PatternText {
  using CharSet = detail::CharSet<Tag>;

 public:
  static constexpr std::size_t max_length = 4096;

  explicit PatternText(std::string_view pattern) : pattern_(pattern) {
    if (pattern.size() > max_length) {
      throw ConfigError("regular expression " + in_quotes(pattern) + " has " +
                        std::to_string(pattern.size()) + " bytes, at most " +
                        std::to_string(max_length) + " are allowed");
    }
    decode_utf8(pattern, text_);
    for (const char32_t c : text_) {
      if (c >= 0xDC80 && c <= 0xDCFF) fail("is not valid UTF-8");
    }
  }

  [[noreturn]] void fail(const std::string& reason) const { fail_at(position_, reason); }
  [[noreturn]] void fail_at(std::size_t position, const std::string& reason) const {
    throw ConfigError("regular expression " + in_quotes(pattern_) + ", position " +
                      std::to_string(position) + ": " + reason);
  }

  bool at_end() const { return position_ >= text_.size(); }
  char32_t peek(std::size_t ahead = 0) const {
    return position_ + ahead < text_.size() ? text_[position_ + ahead] : 0xFFFFFFFFu;
  }
  bool take(char32_t c) {
    if (peek() != c) return false;
    ++position_;
    return true;
  }
  std::optional<Index> number() {
    if (peek() < '0' || peek() > '9') return std::nullopt;
    Index n = 0;
    for (; peek() >= '0' && peek() <= '9'; ++position_)
      n = std::min<Index>(n * 10 + Index(peek() - '0'), 1000000);
    return n;
  }

  /// Adds \d \s \w or a complement to `set`. Beyond ASCII, Python's classes follow Unicode's
  /// tables, which are not available here: such a pattern rejects other text instead of giving a
  /// wrong answer.
  bool class_escape(char32_t c, CharSet& set) {
    const char32_t lower = c | 0x20;
    if (c >= 128 || (lower != 'd' && lower != 's' && lower != 'w')) return false;
    ascii_only = true;
    std::bitset<128> members;
    for (char32_t k = 0; k < 128; ++k) {
      const bool digit = k >= '0' && k <= '9', space = (k >= 9 && k <= 13) || (k >= 28 && k <= 32);
      members.set(k, lower == 'd' ? digit : lower == 's' ? space : is_ascii_word(k));
    }
    set.ascii |= c == lower ? members : ~members;
    return true;
  }

  char32_t character_escape(char32_t c, std::size_t start) {
    constexpr std::string_view letters = "abfnrtv";  // \b is one only inside a set
    constexpr char32_t codes[] = {7, 8, 12, 10, 13, 9, 11};
    const std::size_t k = c < 128 ? letters.find(static_cast<char>(c)) : letters.npos;
    if (k != letters.npos) return codes[k];
    if (c == 'x' || c == 'u' || c == 'U') return hex(c == 'x' ? 2 : c == 'u' ? 4 : 8, start);
    if (c >= '0' && c <= '9') fail_at(start, "back-references and octal escapes are not supported");
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) {
      fail_at(start, std::string("unknown escape \\") + static_cast<char>(c));
    }
    return c;
  }
  char32_t hex(int digits, std::size_t start) {
    char32_t value = 0;
    for (int i = 0; i < digits; ++i) {
      const char32_t c = peek(), lower = c | 0x20;
      const bool letter = c < 128 && lower >= 'a' && lower <= 'f';
      if (!letter && (c < '0' || c > '9'))
        fail_at(start, "needs " + std::to_string(digits) + " hexadecimal digits");
      value = value * 16 + (letter ? lower - 'a' + 10 : c - '0');
      ++position_;
    }
    if (value > 0x10FFFF) fail_at(start, "is above the last code point");
    return value;
  }

  /// Parses a set between [ and ]. A ] at the very start is an ordinary member.
  CharSet bracket(std::size_t start) {
    CharSet set;
    set.negated = take('^');
    for (bool first = true; first || peek() != ']'; first = false) {
      const std::size_t here = position_;
      bool is_class = false;
      const char32_t lo = member(start, set, is_class);
      if (peek() != '-' || peek(1) == ']') {
        if (!is_class) set.add(lo, lo);
        continue;
      }
      ++position_;
      const char32_t hi = member(start, set, is_class);
      if (is_class || hi < lo) fail_at(here, "bad character range");
      set.add(lo, hi);
    }
    ++position_;
    return set;
  }
  char32_t member(std::size_t start, CharSet& set, bool& is_class) {
    if (at_end()) fail_at(start, "[ without its ]");
    const std::size_t here = position_;
    char32_t c = text_[position_++];
    if (c != '\\') return c;
    if (at_end()) fail_at(start, "[ without its ]");
    c = text_[position_++];
    if (class_escape(c, set)) return is_class = true, c;
    return character_escape(c, here);
  }

  std::vector<char32_t> text_;
  std::size_t position_ = 0;
  bool ascii_only = false;  ///< what was read is correct only for ASCII text

 private:
  std::string_view pattern_;
};

}  // namespace detail

}  // namespace lora
