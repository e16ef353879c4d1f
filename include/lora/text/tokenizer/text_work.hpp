// How much work the encoding of one text may be. A tokenizer.json of a few lines can ask for more
// than any machine does in a year.
#pragma once

#include <lora/core/error.hpp>

#include <cstddef>
#include <string>
#include <string_view>

namespace lora {

/// The steps that are left for one text: of regular expressions, of the search for added tokens, and
/// the bytes that are cut and written. A step is some nanoseconds. The pipelines of published models
/// take less than 6 % of them on prose and code, and less than a fifth on any text that was tried.
class TextWork {
 public:
  static constexpr std::size_t steps_a_byte = 1000, free_bytes = 100;

  /// `where` names the tokenizer in messages and must live as long.
  TextWork(std::string_view where, std::size_t text_bytes)
      : where_(where), bytes_(text_bytes), left_(steps_a_byte * (text_bytes + free_bytes)) {}

  /// Throws FormatError where fewer steps are left; `what` takes them.
  void spend(std::size_t steps, std::string_view what) {
    if (!take(steps)) give_up(what);
  }
  /// Takes the steps, if as many are left.
  bool take(std::size_t steps) {
    if (steps > left_) return false;
    left_ -= steps;
    return true;
  }
  [[noreturn]] void give_up(std::string_view what) const {
    throw FormatError(std::string(where_) + ": encoding a text of " + std::to_string(bytes_) +
                      " bytes takes more than " + std::to_string(steps_a_byte) +
                      " steps a byte; the last ones are of " + std::string(what));
  }
  std::size_t left() const { return left_; }

 private:
  std::string_view where_;
  std::size_t bytes_, left_;
};

/// What the search for `literal` in `text` takes at most.
inline std::size_t search_steps(std::string_view text, std::string_view literal) {
  return text.size() * (1 + literal.size() / 64);
}

}  // namespace lora
