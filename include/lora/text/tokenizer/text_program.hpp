// The program that a regular expression of a tokenizer.json is compiled to: sets of characters and
// steps.
#pragma once

#include <lora/text/unicode.hpp>

#include <algorithm>
#include <bitset>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace lora {

namespace detail {

/// Whether c is in \w of Oniguruma within a set: that of UTS #18 without the joiners.
inline bool is_set_word(char32_t c) {
  return c != 0x200C && c != 0x200D && Unicode::instance().is_word(c);
}
/// Whether c is a word character for \w, \W and \b of Oniguruma outside sets: as in a set, with ² ³
/// ¹ ¼ ½ ¾ added.
inline bool is_regex_word(char32_t c) {
  return is_set_word(c) || (c < 256 && Unicode::instance().class_of(c) == CharClass::number);
}

/// A set of characters: of ranges, categories and nested sets; or its complement.
struct TextSet {
  std::vector<std::pair<char32_t, char32_t>> ranges;
  std::uint32_t categories = 0;  ///< one bit per category
  bool space = false, word = false, negated = false;
  bool in_set = false;  ///< \w is within a set
  std::vector<TextSet> within;
  std::bitset<128> ascii;             ///< computed by seal()
  std::size_t cost_beyond_ascii = 1;  ///< computed by seal()

  bool evaluate(char32_t c) const {
    const Unicode& unicode = Unicode::instance();
    const bool in =
        std::any_of(ranges.begin(), ranges.end(),
                    [c](const auto& range) { return range.first <= c && c <= range.second; }) ||
        ((categories >> unicode.category(c)) & 1u) != 0 ||
        (space && unicode.class_of(c) == CharClass::space) ||
        (word && (in_set ? is_set_word(c) : is_regex_word(c))) ||
        std::any_of(within.begin(), within.end(),
                    [c](const TextSet& set) { return set.evaluate(c); });
    return in != negated;
  }
  void seal() {
    for (char32_t c = 0; c < 128; ++c) ascii.set(c, evaluate(c));
    cost_beyond_ascii = 1 + size() / 16;
  }
  std::size_t size() const {
    std::size_t all = ranges.size() + 1;
    for (const TextSet& set : within) all += set.size();
    return all;
  }
  /// Returns the steps that contains() takes.
  std::size_t cost(char32_t c) const { return c < 128 ? 1 : cost_beyond_ascii; }
  bool contains(char32_t c) const { return c < 128 ? ascii.test(c) : evaluate(c); }
};

enum class TextOp : std::uint8_t {
  run,    // takes least to most characters of the set
  split,  // continues at `next`, and with lower priority at `other`
  jump,   // continues at `next`
  ahead,  // a character of the set follows (negated: does not)
  behind,
  text_begin,
  text_end,
  last_line_end,
  line_begin,
  line_end,
  word_edge,
  accept
};

struct TextStepOp {
  static constexpr std::uint32_t unbounded = 0xFFFFFFFFu;
  enum Mode : std::uint8_t { greedy, lazy, possessive };
  TextOp op = TextOp::accept;
  std::uint32_t set = 0, least = 1, most = 1, next = 0, other = 0;
  Mode mode = greedy;
  bool negated = false;

  static TextStepOp jump(TextOp op, std::size_t next, std::ptrdiff_t other) {
    TextStepOp step;
    step.op = op;
    step.next = static_cast<std::uint32_t>(next);
    step.other = static_cast<std::uint32_t>(other);
    return step;
  }
};

/// Whether Oniguruma under (?i) matches one character for the two: ß for ss, ligatures for others.
inline bool folds_as_pair(char32_t a, char32_t b) {
  const auto lower = [](char32_t c) { return c < 128 ? c | 0x20u : c; };
  a = lower(a);
  b = lower(b);
  return (a == 's' && (b == 's' || b == 't')) || (a == 'f' && (b == 'f' || b == 'i' || b == 'l'));
}

struct TextProgram {
  std::string text;
  std::vector<TextStepOp> code;
  std::vector<TextSet> sets;
};

}  // namespace detail

}  // namespace lora
