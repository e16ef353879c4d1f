// Writes JSON as Python's json.dumps does, so that a file of PEFT keeps its bytes when it is read
// and written again.
#pragma once

#include <lora/io/json.hpp>

#include <array>
#include <charconv>
#include <cmath>
#include <string>
#include <string_view>

namespace lora {

/// Formats a finite x as Python's repr does: the fewest digits that give x again, with an exponent
/// below 1e-4 and from 1e16 on: "0.0", "0.05", "1e-05", "1e+16".
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

/// The options of Python's json.dumps.
struct PythonJson {
  std::size_t indent = 0;    ///< spaces per level; 0: one line with ", " (Python's None)
  bool ensure_ascii = true;  ///< characters beyond ASCII as \uXXXX
};

namespace detail {

inline void append_python_json(std::string& text, const Json& value, PythonJson style,
                               std::size_t depth) {
  if (value.is_number_float()) {
    text += python_float(value.get<double>());
    return;
  }
  if (!value.is_structured() || value.empty()) {
    text += value.dump(-1, ' ', style.ensure_ascii);
    return;
  }
  const auto new_line = [&](std::size_t level) {
    if (style.indent > 0) text.append(1, '\n').append(style.indent * level, ' ');
  };
  const bool object = value.is_object();
  text += object ? '{' : '[';
  const char* separator = "";
  for (const auto& [key, entry] : value.items()) {
    text += separator;
    new_line(depth + 1);
    if (object) text.append(Json(key).dump(-1, ' ', style.ensure_ascii)).append(": ");
    append_python_json(text, entry, style, depth + 1);
    separator = style.indent > 0 ? "," : ", ";
  }
  new_line(depth);
  text += object ? '}' : ']';
}

}  // namespace detail

/// Formats `value` as Python's json.dumps does, with the keys of objects in the order of Json.
/// Recurses once per level, which parse_json bounds.
/// Throws: Json::exception for invalid UTF-8.
inline std::string json_dumps(const Json& value, PythonJson style = {}) {
  std::string text;
  detail::append_python_json(text, value, style, 0);
  return text;
}

/// Formats `value` as Python's json.dumps(value, indent=2): one entry per line, characters beyond
/// ASCII as \uXXXX, no line end after the last line, objects in the order of their keys here.
/// Recurses once per level, which parse_json bounds.
/// Throws: ConfigError that names `where` for invalid UTF-8 and for a number that is not finite.
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
    return json_dumps(value, {.indent = 2});
  } catch (const Json::exception&) {
    throw ConfigError(where + ": holds text that is not valid UTF-8");
  }
}

}  // namespace lora
