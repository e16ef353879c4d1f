// Checks options, with messages of one form.
#pragma once

#include <lora/core/error.hpp>
#include <lora/core/number_text.hpp>

#include <cmath>
#include <string>
#include <string_view>

namespace lora::detail {

/// Checks the values of options. Each function throws ConfigError "WHO: FIELD is VALUE, expected X"
/// unless the value is what its name says. NaN fails every check.
/// Allocates: only to throw.
/// Threads: any number.
struct OptionCheck {
  std::string_view who;

  [[noreturn]] void refuse(std::string_view field, std::string_view value,
                           std::string_view expected) const {
    std::string text(who);
    text.append(": ").append(field).append(" is ").append(value);
    throw ConfigError(text.append(", expected ").append(expected));
  }
  void at_least(std::string_view field, Index value, Index least) const {
    if (value < least)
      refuse(field, std::to_string(value), std::string("at least ").append(std::to_string(least)));
  }
  void positive(std::string_view field, double value) const {
    if (!(value > 0) || !std::isfinite(value))
      refuse(field, number_text(value), "a finite number > 0");
  }
  void not_negative(std::string_view field, double value) const {
    if (!(value >= 0) || !std::isfinite(value))
      refuse(field, number_text(value), "a finite number >= 0");
  }
  /// Accepts the values of [low, high].
  void within(std::string_view field, double value, double low, double high) const {
    if (!(value >= low && value <= high))
      refuse(field, number_text(value),
             std::string("a number from ")
                 .append(number_text(low))
                 .append(" to ")
                 .append(number_text(high)));
  }
  /// Accepts the values of [0, 1).
  void below_one(std::string_view field, double value) const {
    if (!(value >= 0 && value < 1))
      refuse(field, number_text(value), std::string("0 <= ").append(field).append(" < 1"));
  }
};

}  // namespace lora::detail
