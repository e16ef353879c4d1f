// The steps that a tokenizer applies to a text before it splits it into words: normalising, marking
// spaces.
#pragma once

#include <lora/text/tokenizer/text_pattern.hpp>
#include <lora/text/unicode.hpp>

#include <algorithm>
#include <numeric>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lora {

/// One change of a text.
struct TextStep {
  enum class Kind {
    nfc,                   ///< Unicode's normalisation form C
    prepend,               ///< `to` before every text that is not empty
    prepend_unless_there,  ///< prepend unless the text begins with it
    prepend_first,         ///< the same, only at the beginning of the whole text
    replace,               ///< each `from`, or each match of `pattern`, becomes `to`
    strip_left,            ///< removes white space at the beginning
    strip_right,           ///< removes white space at the end
  };
  Kind kind = Kind::nfc;
  std::string from, to;
  std::optional<TextPattern> pattern = {};
};

/// Returns how large steps may make a text of `size` bytes: 16 MiB, or 16 times its size. A file of
/// a few lines can ask for more than any memory.
inline std::size_t largest_stepped_text(std::size_t size) {
  return std::max(std::size_t{16} << 20, 16 * size);
}

namespace detail {

// Returns the bytes of white space at one end.
inline std::size_t spaces_at_begin(std::string_view text) {
  std::size_t end = 0;
  for (std::size_t at = 0; at < text.size(); end = at) {
    if (Unicode::instance().class_of(next_code_point(text, at)) != CharClass::space) break;
  }
  return end;
}
inline std::size_t spaces_at_end(std::string_view text) {
  std::size_t begin = text.size();
  for (std::size_t at = begin; at > 0; begin = at) {
    do --at;
    while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0u) == 0x80u);
    std::size_t next = at;
    if (Unicode::instance().class_of(next_code_point(text, next)) != CharClass::space) break;
  }
  return text.size() - begin;
}

inline constexpr std::string_view text_steps_name = "the normalizer and the pre-tokenizer";

inline bool changes(const TextStep& step, std::string_view text, bool first) {
  switch (step.kind) {
    case TextStep::Kind::nfc:
      return !is_surely_nfc(text);
    case TextStep::Kind::prepend:
      return !text.empty();
    case TextStep::Kind::prepend_first:
      if (!first) return false;
      [[fallthrough]];
    case TextStep::Kind::prepend_unless_there:
      return text.substr(0, step.to.size()) != step.to;
    case TextStep::Kind::replace:
      // As in the library, no expression matches an empty text.
      return !text.empty() && (step.pattern.has_value() || text.find(step.from) != text.npos);
    case TextStep::Kind::strip_left:
      return spaces_at_begin(text) > 0;
    case TextStep::Kind::strip_right:
      return spaces_at_end(text) > 0;
  }
  return false;
}

// A text after one step, and how many of its bytes stand for the first character (see
// SteppedText::is_first).
struct StepResult {
  ChangedText text;
  std::size_t first = 0;
};

// Converts the text to NFC. `first` is the number of bytes of the first character, before the step
// and in the result.
inline StepResult composed(std::string_view text, std::size_t first, TextWork& work) {
  StepResult result;
  work.spend(4 * text.size(), text_steps_name);
  result.text = to_nfc(text);
  const ChangedText begin = to_nfc(text.substr(0, first));
  for (std::size_t at = 0; at < begin.text.size() && result.first < result.text.text.size();) {
    next_code_point(begin.text, at);  // as many characters as the beginning becomes by itself
    next_code_point(result.text.text, result.first);
  }
  return result;
}

// `limit` is the largest size of the result; `first` is as in the result.
inline StepResult change(const TextStep& step, std::string_view text, std::size_t first,
                         std::size_t limit, TextWork& work) {
  if (step.kind == TextStep::Kind::nfc) return composed(text, first, work);
  StepResult result;
  ChangedText& out = result.text;
  const auto put = [&](std::string_view part, std::size_t from, std::size_t stride) {
    if (part.size() > limit - std::min(limit, out.text.size())) {
      throw FormatError("a step of the tokenizer makes a text larger than " +
                        std::to_string(limit) + " bytes");
    }
    work.spend(8 + part.size(), text_steps_name);
    out.text += part;
    for (std::size_t i = 0; i < part.size(); ++i) out.origin.push_back(from + stride * i);
  };
  const auto copy = [&](std::string_view part, std::size_t from) {
    put(part, from, 1);
    if (from < first) result.first += std::min(part.size(), first - from);
  };
  // The replacement of [begin, end) counts as its last character, or the one before nothing.
  const auto replace = [&](std::size_t begin, std::size_t end) {
    put(step.to, begin, 0);
    if (std::max<std::size_t>(end, 1) <= first) result.first += step.to.size();
  };
  if (step.kind == TextStep::Kind::strip_left || step.kind == TextStep::Kind::strip_right) {
    const bool left = step.kind == TextStep::Kind::strip_left;
    const std::size_t from = left ? spaces_at_begin(text) : 0;
    copy(text.substr(from, left ? text.npos : text.size() - spaces_at_end(text)), from);
    return result;
  }
  if (step.pattern) {
    std::size_t done = 0;
    for (PatternScan scan(*step.pattern, text, work);;) {
      const auto match = scan.next();
      const std::size_t begin = match ? match->begin : text.size();
      copy(text.substr(done, begin - done), done);
      if (!match) return result;
      replace(begin, match->end);
      done = match->end;
    }
  }
  if (step.kind != TextStep::Kind::replace) {
    out.text.reserve(text.size() + step.to.size());
    out.origin.reserve(text.size() + step.to.size());
    replace(0, 0);
    copy(text, 0);
    return result;
  }
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t found = std::min(text.find(step.from, at), text.size());
    copy(text.substr(at, found - at), at);
    if (found < text.size()) replace(found, found + step.from.size());
    at = found + step.from.size();
  }
  return result;
}

}  // namespace detail

/// A text after a list of steps. It is the text itself while nothing changes it.
class SteppedText {
 public:
  explicit SteppedText(std::string_view text) : view_(text), size_(text.size()) {
    if (!text.empty()) detail::next_code_point(text, first_);
  }
  SteppedText(const SteppedText&) = delete;
  SteppedText& operator=(const SteppedText&) = delete;

  /// Applies the steps. `first` says whether the text is at the beginning of the encoded text.
  /// `limit` is the largest size of the result; 0 stands for largest_stepped_text.
  /// Throws: FormatError when `work` is used up or a step exceeds the limit.
  void apply(const std::vector<TextStep>& steps, bool first, TextWork& work,
             std::size_t limit = 0) {
    if (limit == 0) limit = largest_stepped_text(size_);
    for (const TextStep& step : steps) {
      work.spend(1 + search_steps(view_, step.from) / 4, detail::text_steps_name);
      if (!detail::changes(step, view_, first)) continue;
      detail::StepResult next = detail::change(step, view_, first_, limit, work);
      if (changed_) {
        for (std::size_t& origin : next.text.origin) origin = before(origin);
      }
      now_ = std::move(next.text);
      first_ = next.first;
      changed_ = true;
      view_ = now_.text;
    }
  }
  std::string_view view() const { return view_; }
  /// Returns the byte of the original text that byte `at` of view() stands for, or the size of the
  /// text for the end.
  std::size_t before(std::size_t at) const {
    if (!changed_) return at;
    return at < now_.origin.size() ? now_.origin[at] : size_;
  }
  /// Whether byte `at` of view() stands for the first character of the original text. As in the
  /// tokenizers library, the replacement of several characters stands for the last of them.
  bool is_first(std::size_t at) const { return at < first_; }

 private:
  std::string_view view_;
  std::size_t size_;
  std::size_t first_ = 0;  // bytes of view_ that stand for the first character
  ChangedText now_;
  bool changed_ = false;
};

}  // namespace lora
