// What a tokenizer does to a text before it cuts it into words: normalising, marking spaces.
#pragma once

#include <lora/text/unicode.hpp>

#include <algorithm>
#include <numeric>
#include <string>
#include <string_view>
#include <vector>

namespace LORA_NAMESPACE {

/// One change of a text.
struct TextStep {
  enum class Kind {
    nfc,                   ///< Unicode's normalisation form C
    prepend,               ///< `to` before every text that is not empty
    prepend_unless_there,  ///< the same where the text does not begin with it
    prepend_first,         ///< the same, and only where the text begins what is encoded
    replace,               ///< each `from` becomes `to`
  };
  Kind kind = Kind::nfc;
  std::string from, to;
};

namespace detail {

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
      return text.find(step.from) != text.npos;
  }
  return false;
}

inline ChangedText change(const TextStep& step, std::string_view text) {
  if (step.kind == TextStep::Kind::nfc) return to_nfc(text);
  ChangedText out;
  const auto copy = [&](std::string_view part, std::size_t from, std::size_t stride) {
    out.text += part;
    for (std::size_t i = 0; i < part.size(); ++i) out.origin.push_back(from + stride * i);
  };
  if (step.kind != TextStep::Kind::replace) {
    out.text.reserve(text.size() + step.to.size());
    out.origin.reserve(text.size() + step.to.size());
    copy(step.to, 0, 0);
    copy(text, 0, 1);
    return out;
  }
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t found = std::min(text.find(step.from, at), text.size());
    copy(text.substr(at, found - at), at, 1);
    if (found < text.size()) copy(step.to, found, 0);
    at = found + step.from.size();
  }
  return out;
}

}  // namespace detail

/// A text behind a list of steps: the text itself as long as nothing changes it.
class SteppedText {
 public:
  explicit SteppedText(std::string_view text) : view_(text), size_(text.size()) {}
  SteppedText(const SteppedText&) = delete;
  SteppedText& operator=(const SteppedText&) = delete;

  /// `first`: whether the text begins what is encoded.
  void apply(const std::vector<TextStep>& steps, bool first) {
    for (const TextStep& step : steps) {
      if (!detail::changes(step, view_, first)) continue;
      ChangedText next = detail::change(step, view_);
      if (changed_) {
        for (std::size_t& origin : next.origin) origin = before(origin);
      }
      now_ = std::move(next);
      changed_ = true;
      view_ = now_.text;
    }
  }
  std::string_view view() const { return view_; }
  /// The byte of the text as it was given that byte `at` of view() stands for; its size for the
  /// end.
  std::size_t before(std::size_t at) const {
    if (!changed_) return at;
    return at < now_.origin.size() ? now_.origin[at] : size_;
  }

 private:
  std::string_view view_;
  std::size_t size_;
  ChangedText now_;
  bool changed_ = false;
};

}  // namespace LORA_NAMESPACE
