// JSON as the tojson filter of chat templates spells it.
#pragma once

#include <lora/io/python_json.hpp>

#include <string>

namespace lora {

/// `value` as Python's json.dumps(value, ensure_ascii=False, indent=indent) spells it: on one line
/// with ", " and ": " when `indent` is 0. Recurses as deep as the value, which parse_json bounds.
inline std::string jinja_json(const Json& value, std::size_t indent = 0, std::size_t depth = 0) {
  if (value.is_number_float()) return python_float(value.get<double>());
  if (!value.is_structured() || value.empty()) return value.dump();
  const auto line = [&](std::size_t level) {
    return indent == 0 ? std::string() : "\n" + std::string(indent * level, ' ');
  };
  std::string text;
  for (const auto& [key, member] : value.items()) {
    text += text.empty() ? line(depth + 1) : (indent == 0 ? ", " : ",") + line(depth + 1);
    if (value.is_object()) text += Json(key).dump() + ": ";
    text += jinja_json(member, indent, depth + 1);
  }
  const bool object = value.is_object();
  return (object ? "{" : "[") + text + line(depth) + (object ? "}" : "]");
}

}  // namespace lora
