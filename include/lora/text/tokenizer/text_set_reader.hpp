// Reads the characters and sets of a regular expression of a tokenizer.json.
#pragma once

#include <lora/core/code_points.hpp>
#include <lora/core/error.hpp>
#include <lora/core/printable.hpp>
#include <lora/text/tokenizer/text_program.hpp>

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora {

namespace detail {

/// A position in the text of an expression, and functions that read one character or one set there.
class TextSetReader {
 public:
  static constexpr std::size_t max_length = 16384;
  static constexpr int max_depth = 32;

  /// Decodes `text`.
  /// Throws: as all functions, ConfigError that names the pattern, the position and the reason.
  explicit TextSetReader(std::string_view text) : pattern_(text) {
    if (text.size() > max_length) fail("has more than " + std::to_string(max_length) + " bytes");
    decode_utf8(text, text_);
  }

  [[noreturn]] void fail(const std::string& reason) const {
    throw ConfigError("regular expression " + in_quotes(pattern_) + ", position " +
                      std::to_string(at_) + ": " + reason);
  }
  bool at_end() const { return at_ >= text_.size(); }
  char32_t peek(std::size_t ahead = 0) const {
    return at_ + ahead < text_.size() ? text_[at_ + ahead] : 0xFFFFFFFFu;
  }
  bool take(char32_t c) {
    if (peek() != c) return false;
    ++at_;
    return true;
  }
  bool take(std::string_view ascii) {
    for (std::size_t i = 0; i < ascii.size(); ++i) {
      if (peek(i) != static_cast<unsigned char>(ascii[i])) return false;
    }
    at_ += ascii.size();
    return true;
  }

  // Reads \d \w \s \h \p{...} or a complement.
  bool class_escape(TextSet& set) {
    const char32_t kind = peek(1);
    if (kind == 'p' || kind == 'P') {
      at_ += 2;
      set.negated = kind == 'P';
      if (!take('{')) fail("\\p without {");
      if (take('^')) set.negated = !set.negated;
      std::string name;
      while (!at_end() && peek() != '}' && name.size() < 40) append_code_point(name, text_[at_++]);
      if (!take('}')) fail("missing }");
      set.categories = Unicode::categories_of(name);
      if (set.categories == 0) fail("\\p{" + printable(name) + "} is not supported");
      return true;
    }
    const char32_t low = kind | 0x20u;
    if (low == 'd')
      set.categories = Unicode::categories_of("Nd");
    else if (low == 'w')
      set.word = true;
    else if (low == 's')
      set.space = true;
    else if (low == 'h')
      set.ranges = {{'0', '9'}, {'a', 'f'}, {'A', 'F'}};
    else
      return false;
    if (kind > 127) return false;
    set.negated = kind != low;
    at_ += 2;
    return true;
  }

  // Reads a literal or an escaped character.
  char32_t character() {
    if (at_end()) fail("ends within a set or an escape");
    const char32_t c = text_[at_++];
    if (c != '\\') return c;
    if (at_end()) fail("ends with a backslash");
    const char32_t escaped = text_[at_++];
    switch (escaped) {
      case 't':
        return '\t';
      case 'n':
        return '\n';
      case 'r':
        return '\r';
      case 'f':
        return '\f';
      case 'v':
        return '\v';
      case 'x':
        return take('{') ? hex(1, 8, true) : hex(1, 2, false);
      case 'u':
        return hex(4, 4, false);
      default:
        break;
    }
    const bool letter = (escaped | 0x20u) >= 'a' && (escaped | 0x20u) <= 'z';
    if (escaped >= 128 || letter || (escaped >= '0' && escaped <= '9'))
      --at_, fail("this escape is not supported");
    return escaped;
  }
  char32_t hex(std::size_t least, std::size_t most, bool braces) {
    char32_t value = 0;
    std::size_t digits = 0;
    for (; digits < most; ++digits, ++at_) {
      const char32_t c = peek();
      if (c >= '0' && c <= '9')
        value = 16 * value + (c - '0');
      else if (c < 128 && (c | 0x20u) >= 'a' && (c | 0x20u) <= 'f')
        value = 16 * value + ((c | 0x20u) - 'a' + 10);
      else
        break;
    }
    if (digits < least || (braces && !take('}')) || (!braces && value >= 128 && most == 2))
      fail("this escape is not supported");
    return value;
  }

  // Reads the set after a [.
  TextSet set_in_brackets(int depth) {
    if (depth > max_depth) fail("sets are nested deeper than " + std::to_string(max_depth));
    TextSet set;
    set.negated = take('^');
    for (bool first = true; first || peek() != ']'; first = false) {
      if (at_end()) fail("missing ]");
      if (peek() == '[') {
        if (peek(1) == ':') fail("a bracket of POSIX is not supported");
        ++at_;
        if (fold_ && peek() == '^') fail("a negated set within a set under (?i) is not supported");
        set.within.push_back(set_in_brackets(depth + 1));
        continue;
      }
      if (peek() == '&' && peek(1) == '&') fail("&& in a set is not supported");
      if (first && peek() == ']') fail("an empty set is not supported");
      TextSet escape;
      if (peek() == '\\' && class_escape(escape)) {
        if (fold_ && !is_without_case(escape))
          fail("a class with letters or marks within a set under (?i) is not supported");
        escape.in_set = true;
        set.within.push_back(std::move(escape));
        continue;
      }
      const char32_t low = character();
      char32_t high = low;
      if (peek() == '-' && peek(1) != ']' && peek(1) != 0xFFFFFFFFu) {
        ++at_;
        if (peek() == '[') fail("a range that ends in a set is not supported");
        if (peek() == '\\' &&
            (peek(1) == 'p' || peek(1) == 's' || peek(1) == 'w' || peek(1) == 'd'))
          fail("a range that ends in a class is not supported");
        high = character();
        if (high < low) fail("a range that is empty");
      }
      add(set, low, high);
    }
    ++at_;
    return set;
  }

  // Whether case folding, which Oniguruma applies to a set as a whole, adds nothing to a class.
  // Some marks fold to letters; \h has both cases.
  static bool is_without_case(const TextSet& set) {
    const std::uint32_t cased = Unicode::categories_of("L") | Unicode::categories_of("M");
    return !set.negated && !set.word && (set.categories & cased) == 0;
  }
  // Adds a range, and under (?i) the other case of its letters.
  void add(TextSet& set, char32_t low, char32_t high) {
    set.ranges.emplace_back(low, high);
    if (!fold_) return;
    if (high >= 128) fail("a character beyond ASCII under (?i) is not supported");
    for (char32_t c = low; c <= high; ++c) {
      const char32_t lower = c | 0x20u;
      if (lower < 'a' || lower > 'z') continue;
      set.ranges.emplace_back(lower, lower);
      set.ranges.emplace_back(lower - 0x20u, lower - 0x20u);
      if (lower == 's') set.ranges.emplace_back(0x17Fu, 0x17Fu);
      if (lower == 'k') set.ranges.emplace_back(0x212Au, 0x212Au);
    }
  }

 protected:
  std::size_t at_ = 0;
  bool fold_ = false;  // whether (?i) is on

 private:
  std::string pattern_;
  std::vector<char32_t> text_;
};

}  // namespace detail

}  // namespace lora
