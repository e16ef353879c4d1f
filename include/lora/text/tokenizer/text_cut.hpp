// Cuts a text into pieces like the pre-tokenizers Split, Digits, Punctuation, Whitespace and
// WhitespaceSplit of the tokenizers library.
#pragma once

#include <lora/text/tokenizer/text_pattern.hpp>
#include <lora/text/unicode.hpp>

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora {

/// One cut: what to find, and what to do with a match.
struct TextCut {
  enum class Find { pattern, literal, digit, punctuation, space, word };
  /// What to do with a match: make it a piece of its own, remove it, join it to the piece before or
  /// after it, or join it to adjacent matches.
  enum class Behavior { isolated, removed, with_previous, with_next, contiguous };

  Find find = Find::digit;
  std::optional<TextPattern> pattern = {};
  std::string literal = {};
  Behavior behavior = Behavior::isolated;
  bool invert = false;  ///< swaps matches and the text between them
};

/// A piece: bytes [begin, end) of a text.
struct TextRange {
  std::size_t begin, end;
};

namespace detail {

struct FoundRange {
  std::size_t begin, end;
  bool match;
};

// The classes of Whitespace: 0 a space, 1 a part of a word, 2 anything else.
inline int word_class(char32_t c) {
  const Unicode& unicode = Unicode::instance();
  return unicode.is_word(c) ? 1 : unicode.class_of(c) == CharClass::space ? 0 : 2;
}

inline bool is_found(TextCut::Find find, char32_t c) {
  const Unicode& unicode = Unicode::instance();
  if (find == TextCut::Find::digit) {  // digits of Unicode 17, while \p{N} is of Unicode 16
    return unicode.class_of(c) == CharClass::number || (c >= 0x11DE0 && c <= 0x11DE9) ||
           (c >= 0x16FF4 && c <= 0x16FF6);
  }
  if (find == TextCut::Find::space) return unicode.class_of(c) == CharClass::space;
  return unicode.is_punctuation(c);
}

// Returns the text as consecutive matches and the text between them.
inline std::vector<FoundRange> find_ranges(const TextCut& cut, std::string_view text,
                                           TextWork& work) {
  std::vector<FoundRange> all;
  std::size_t done = 0;
  const auto add = [&](std::size_t begin, std::size_t end) {
    if (done < begin) all.push_back({done, begin, false});
    all.push_back({begin, end, true});
    done = end;
  };
  if (cut.find == TextCut::Find::pattern) {
    PatternScan scan(*cut.pattern, text, work);
    while (const auto match = scan.next()) add(match->begin, match->end);
  } else if (cut.find == TextCut::Find::literal) {
    for (std::size_t at = text.find(cut.literal); at != text.npos;
         at = text.find(cut.literal, at + cut.literal.size()))
      add(at, at + cut.literal.size());
  } else {
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t begin = at;
      const char32_t c = next_code_point(text, at);
      if (cut.find != TextCut::Find::word) {
        if (is_found(cut.find, c)) add(begin, at);
      } else if (const int kind = word_class(c); kind != 0) {
        std::size_t end = at;
        while (end < text.size() && word_class(next_code_point(text, end)) == kind) at = end;
        add(begin, at);
      }
    }
  }
  if (done < text.size()) all.push_back({done, text.size(), false});
  return all;
}

}  // namespace detail

/// Returns the non-empty pieces of `text`, in order.
/// Throws: FormatError when `work` is used up.
inline std::vector<TextRange> cut_text(const TextCut& cut, std::string_view text, TextWork& work) {
  using Behavior = TextCut::Behavior;
  std::vector<TextRange> out;
  bool previous = false;
  work.spend(16 + search_steps(text, cut.literal), "cutting it into pieces");
  std::vector<detail::FoundRange> found = detail::find_ranges(cut, text, work);
  const bool backwards = cut.behavior == Behavior::with_next;
  if (backwards) std::reverse(found.begin(), found.end());
  for (const detail::FoundRange& range : found) {
    const bool match = range.match != cut.invert;
    const bool joins =
        !out.empty() &&
        (cut.behavior == Behavior::contiguous
             ? match == previous
             : (cut.behavior == Behavior::with_previous || cut.behavior == Behavior::with_next) &&
                   match && !previous);
    previous = match;
    if (cut.behavior == Behavior::removed && match) continue;
    if (!joins) {
      out.push_back({range.begin, range.end});
    } else if (backwards) {
      out.back().begin = range.begin;
    } else {
      out.back().end = range.end;
    }
  }
  if (backwards) std::reverse(out.begin(), out.end());
  std::erase_if(out, [](const TextRange& range) { return range.begin == range.end; });
  return out;
}

}  // namespace lora
