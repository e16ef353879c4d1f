// Converts numbers to text and back, independent of the program's locale.
#pragma once

#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>

namespace lora {

namespace detail {

inline std::string number_chars(double x, std::chars_format format, int digits) {
  std::array<char, 400> text{};  // the largest double has 309 digits before its point
  const auto end = std::to_chars(text.data(), text.data() + text.size(), x, format, digits);
  return std::string(text.data(), end.ptr);
}

}  // namespace detail

/// Formats x with at most `digits` significant digits, as printf's %.*g. (std::to_string would show
/// -1e-7 as -0.000000.)
inline std::string number_text(double x, int digits = 9) {
  return detail::number_chars(x, std::chars_format::general, digits);
}

/// Formats x with `decimals` digits after the point, as printf's %.*f: "0.50". Takes at most 80
/// digits.
inline std::string fixed_text(double x, int decimals) {
  return detail::number_chars(x, std::chars_format::fixed, decimals);
}

/// Formats x with one digit before the point and `decimals` after it, as printf's %.*e: "1.9e-04".
inline std::string scientific_text(double x, int decimals) {
  return detail::number_chars(x, std::chars_format::scientific, decimals);
}

/// Formats n with a comma between groups of three digits, as Python's format(n, ","): "1,234,567".
inline std::string grouped_text(std::uint64_t n) {
  const std::string digits = std::to_string(n);
  std::string text;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}

/// Parses all of `text` as a number: "-0.5" or "2e-4", also "nan" and "inf". Returns nullopt for
/// anything else, such as leading white space or a leading +, and for a number outside the range of
/// double.
inline std::optional<double> number_of(std::string_view text) {
  double x = 0;
  const auto end = std::from_chars(text.data(), text.data() + text.size(), x);
  if (end.ec != std::errc() || end.ptr != text.data() + text.size()) return std::nullopt;
  return x;
}

}  // namespace lora
