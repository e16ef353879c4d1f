// Bounds the work of encoding one text. A tokenizer.json of a few lines can ask for more than a
// machine does in a year.
#pragma once

#include <lora/core/error.hpp>

#include <cstddef>
#include <string>
#include <string_view>

namespace lora {

/// The remaining steps for one text: those of regular expressions, of the search for added tokens,
/// and of bytes cut and written. A step takes a few nanoseconds. Pipelines of published models use
/// less than 6 % of the steps on prose and code, and less than a fifth on any text that was tried.
class TextWork {
 public:
  static constexpr std::size_t steps_a_byte = 1000, free_bytes = 100;

  /// `where` names the tokenizer in messages and must outlive this object.
  TextWork(std::string_view where, std::size_t text_bytes)
      : where_(where), bytes_(text_bytes), left_(steps_a_byte * (text_bytes + free_bytes)) {}

  /// Spends steps on `what`.
  /// Throws: FormatError if fewer steps are left.
  void spend(std::size_t steps, std::string_view what) {
    if (!take(steps)) give_up(what);
  }
  /// Spends the steps and returns true, or returns false if fewer are left.
  bool take(std::size_t steps) {
    if (steps > left_) return false;
    left_ -= steps;
    return true;
  }
  [[noreturn]] void give_up(std::string_view what) const {
    throw FormatError(std::string(where_) + ": encoding a text of " + std::to_string(bytes_) +
                      " bytes takes more than " + std::to_string(steps_a_byte) +
                      " steps per byte; stopped at " + std::string(what));
  }
  std::size_t left() const { return left_; }

 private:
  std::string_view where_;
  std::size_t bytes_, left_;
};

/// Returns the most steps that the search for `literal` in `text` takes.
inline std::size_t search_steps(std::string_view text, std::string_view literal) {
  return text.size() * (1 + literal.size() / 64);
}

}  // namespace lora
