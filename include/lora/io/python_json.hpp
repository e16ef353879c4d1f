// JSON spelled as Python's json.dumps spells it, so that a file of PEFT's that is read and written
// again keeps its bytes.
#pragma once

#include <lora/io/json.hpp>

#include <array>
#include <charconv>
#include <cmath>
#include <string>
#include <string_view>

namespace lora {

/// x as Python's repr: the fewest digits that give x again, with an exponent below 1e-4 and from
/// 1e16 on: "0.0", "0.05", "1e-05", "1e+16". x is finite.
inline std::string python_float(double x) {
  std::array<char, 32> digits{};
  const auto scientific =
      std::to_chars(digits.data(), digits.data() + digits.size(), x, std::chars_format::scientific);
  const std::string text(digits.data(), scientific.ptr);
  const int exponent = std::stoi(text.substr(text.find('e') + 1));
  if (exponent < -4 || exponent >= 16) return text;
  std::array<char, 64> fixed{};
  const auto plain =
      std::to_chars(fixed.data(), fixed.data() + fixed.size(), x, std::chars_format::fixed);
  const std::string number(fixed.data(), plain.ptr);
  return number.find('.') == number.npos ? number + ".0" : number;
}

namespace detail {

inline void append_python_json(std::string& text, const Json& value, std::size_t indent) {
  if (value.is_number_float()) {
    text += python_float(value.get<double>());
    return;
  }
  if (!value.is_structured() || value.empty()) {
    text += value.dump(-1, ' ', true);
    return;
  }
  const std::string line = "\n" + std::string(indent + 2, ' ');
  text += value.is_array() ? "[" : "{";
  const char* separator = "";
  for (const auto& [key, entry] : value.items()) {
    text += separator + line;
    if (value.is_object()) text += Json(key).dump(-1, ' ', true) + ": ";
    append_python_json(text, entry, indent + 2);
    separator = ",";
  }
  text += "\n" + std::string(indent, ' ') + (value.is_array() ? "]" : "}");
}

}  // namespace detail

/// `value` as Python's json.dumps(value, indent=2): one entry a line, characters beyond ASCII as
/// \uXXXX, no line end after the last line; objects in the order of their keys here. Throws
/// ConfigError, naming `where`, for text that is not UTF-8 and for a number that is not finite.
/// Recurses once a level, which parse_json bounds.
inline std::string python_json(const Json& value, const std::string& where) {
  const auto check = [&](const auto& self, const Json& one) -> void {
    if (one.is_number_float() && !std::isfinite(one.get<double>()))
      throw ConfigError(where + ": " + number_text(one.get<double>()) + " is not a number of JSON");
    if (one.is_structured()) {
      for (const Json& entry : one) self(self, entry);
    }
  };
  check(check, value);
  try {
    std::string text;
    detail::append_python_json(text, value, 0);
    return text;
  } catch (const Json::exception&) {
    throw ConfigError(where + ": holds text that is not valid UTF-8");
  }
}

}  // namespace lora
