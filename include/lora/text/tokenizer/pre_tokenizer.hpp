// Splits text into words for byte-level BPE, as the regular expressions of GPT-2, Llama 3 and Qwen2
// do.
#pragma once

#include <lora/text/unicode.hpp>

#include <optional>
#include <string_view>

namespace lora {

/// How text is split into words: not at all, by one of three regular expressions, or before each
/// "▁".
enum class WordSplit { none, gpt2, llama3, qwen2, before_mark };

/// U+2581, which represents a space in vocabularies of SentencePiece.
inline constexpr std::string_view space_mark = "\xE2\x96\x81";

/// Returns the regular expression of a split, as tokenizer.json spells it, or an empty string.
inline std::string_view regex_of(WordSplit split) {
  switch (split) {
    case WordSplit::gpt2:
      return R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
    case WordSplit::llama3:
      return R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|)"
             R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
    case WordSplit::qwen2:
      return R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|)"
             R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
    case WordSplit::none:
    case WordSplit::before_mark:
      break;
  }
  return {};
}

/// Returns the split that `regex` describes, if it is one of the three.
inline std::optional<WordSplit> split_of_regex(std::string_view regex) {
  for (const WordSplit split : {WordSplit::gpt2, WordSplit::llama3, WordSplit::qwen2}) {
    if (regex == regex_of(split)) return split;
  }
  return std::nullopt;
}

/// Iterates over the words of one text. The words cover the text in order without gaps; an empty
/// text has none. Bytes that are not UTF-8 count as symbols. Takes linear time and does not
/// allocate.
class WordScanner {
 public:
  WordScanner(WordSplit split, std::string_view text)
      : split_(split), text_(text), unicode_(Unicode::instance()) {}

  bool done() const { return at_ == text_.size(); }
  /// Returns the next word. There is one unless done().
  std::string_view next() {
    const std::size_t start = at_;
    at_ = end_of_word(start);
    return text_.substr(start, at_ - start);
  }

 private:
  struct Char {
    char32_t code;
    CharClass kind;
    std::size_t end;
  };

  // Returns the character at `at`; past the end, a NUL of length 0, which matches nothing here.
  Char look(std::size_t at) const {
    if (at >= text_.size()) return {0, CharClass::other, at};
    const char32_t c = detail::next_code_point(text_, at);
    return {c, unicode_.class_of(c), at};
  }
  bool is(std::size_t at, CharClass kind) const {
    return at < text_.size() && look(at).kind == kind;
  }
  std::size_t end_of_run(std::size_t at, CharClass kind) const {
    while (at < text_.size()) {
      const Char c = look(at);
      if (c.kind != kind) break;
      at = c.end;
    }
    return at;
  }

  std::size_t end_of_word(std::size_t at) const {
    switch (split_) {
      case WordSplit::none:
        return text_.size();
      case WordSplit::before_mark: {
        const std::size_t mark = text_.find(space_mark, at + 1);
        return mark == text_.npos ? text_.size() : mark;
      }
      case WordSplit::gpt2:
        return end_for_gpt2(at);
      case WordSplit::llama3:
        return end_for_llama3(at, 3);
      case WordSplit::qwen2:
        return end_for_llama3(at, 1);
    }
    return text_.size();
  }

  std::size_t end_for_gpt2(std::size_t at) const {
    const Char first = look(at);
    if (first.code == '\'') {
      if (const std::size_t end = end_of_contraction(first.end, false); end != at) return end;
    }
    const bool spaced = first.code == ' ' && first.end < text_.size();
    const Char c = spaced ? look(first.end) : first;
    if (c.kind != CharClass::space) return end_of_run(c.end, c.kind);
    return end_of_spaces(at);
  }

  std::size_t end_for_llama3(std::size_t at, int most_digits) const {
    const Char first = look(at);
    if (first.kind == CharClass::letter) return end_of_run(first.end, CharClass::letter);
    if (first.kind == CharClass::number) {
      std::size_t end = first.end;
      for (int i = 1; i < most_digits && is(end, CharClass::number); ++i) end = look(end).end;
      return end;
    }
    if (first.code == '\'') {
      if (const std::size_t end = end_of_contraction(first.end, true); end != at) return end;
    }
    const bool line_end = first.code == '\n' || first.code == '\r';
    if (!line_end && is(first.end, CharClass::letter))
      return end_of_run(first.end, CharClass::letter);
    if (first.kind == CharClass::other || (first.code == ' ' && is(first.end, CharClass::other))) {
      std::size_t end = end_of_run(first.end, CharClass::other);
      while (end < text_.size() && (text_[end] == '\n' || text_[end] == '\r')) ++end;
      return end;
    }
    const std::size_t run = end_of_run(at, CharClass::space);
    const std::size_t last_line = text_.substr(at, run - at).find_last_of("\r\n");
    return last_line == text_.npos ? end_of_spaces(at) : at + last_line + 1;
  }

  // \s+(?!\S)|\s+ : takes all spaces at the end of the text, else all but the last, which belongs
  // to the next word, unless there is only one.
  std::size_t end_of_spaces(std::size_t at) const {
    std::size_t end = at, before_last = at;
    while (is(end, CharClass::space)) {
      before_last = end;
      end = look(end).end;
    }
    return end == text_.size() || before_last == at ? end : before_last;
  }

  // After the apostrophe at `at` - 1, returns the end of 's 't 're 've 'm 'll 'd, or `at` - 1 if
  // none follows. U+017F folds to s.
  std::size_t end_of_contraction(std::size_t at, bool fold) const {
    const auto letter = [&](std::size_t position) -> char32_t {
      const char32_t c = look(position).code;
      if (fold && c >= 'A' && c <= 'Z') return c + ('a' - 'A');
      return fold && c == 0x17F ? U's' : c;
    };
    const char32_t a = letter(at);
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return look(at).end;
    const char32_t b = letter(at + 1);
    if (((a == 'r' || a == 'v') && b == 'e') || (a == 'l' && b == 'l')) return at + 2;
    return at - 1;
  }

  WordSplit split_;
  std::string_view text_;
  const Unicode& unicode_;
  std::size_t at_ = 0;
};

}  // namespace lora
