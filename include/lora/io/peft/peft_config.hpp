// Reads and writes LoRAConfig as PEFT's adapter_config.json.
#pragma once

#include <lora/adapters/config.hpp>
#include <lora/io/file.hpp>
#include <lora/io/json_fields.hpp>
#include <lora/io/python_json.hpp>

#include <algorithm>
#include <cmath>
#include <concepts>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora {

/// The content of an adapter_config.json.
struct PeftConfig {
  LoRAConfig config;                        ///< valid: validate() has passed
  Json fields = Json::object();             ///< as in the file, including unknown fields
  std::vector<std::string> unknown_fields;  ///< names that LoRAConfig does not have
};

/// Limits on the size and content of an adapter_config.json.
inline constexpr std::uint64_t peft_config_max_bytes = std::uint64_t{4} << 20;
inline constexpr JsonLimits peft_config_limits{.depth = 32, .values = 200'000};

/// The peft_version that peft_config_fields() writes if the configuration has none: the release of
/// PEFT that has exactly these fields.
inline constexpr const char* peft_fields_version = "0.21.2";

namespace detail {

/// A number that is an int or a float in Python. 8.0 in C++ is written as 8.
template <class Number>
struct IntOrFloat {
  Number& value;
};

/// Calls visit(name, member) for every field of LoRAConfig. Passes a number whose default is an int
/// as IntOrFloat.
template <class Config, class Visit>
void visit_peft_fields(Config& config, Visit&& visit) {
  visit_lora_config(config, [&](const ConfigField& field, auto&& member) {
    using Member = std::remove_reference_t<decltype(member)>;
    if constexpr (std::is_same_v<std::remove_const_t<Member>, double>) {
      if (field.standard.find('.') == std::string_view::npos)
        return visit(field.name.data(), IntOrFloat<Member>{member});
    }
    visit(field.name.data(), member);
  });
}

/// Reads one field. Every overload refuses all other types.
class PeftFieldReader {
 public:
  explicit PeftFieldReader(const JsonField& field) : field_(field) {}

  void read(bool& out) const { out = field_.flag(); }
  void read(std::string& out) const { out = field_.text(); }
  void read(double& out) const { out = field_.number(); }
  template <class Number>
  void read(IntOrFloat<Number> out) const {
    read(out.value);
  }
  void read(Index& out) const { out = integer(value(), "an integer"); }
  void read(std::optional<std::string>& out) const {
    out.reset();
    if (!value().is_null()) out = field_.text("a string or null");
  }
  template <class Text>
  void read(JsonText<Text> out) const {
    out.text.reset();
    if (!value().is_null()) out.text = value().dump();
  }
  void read(std::optional<std::vector<std::string>>& out) const {
    out.reset();
    if (!value().is_null()) out = field_.texts("a list of strings or null");
  }
  void read(NameSelection& out) const {
    if (value().is_null()) {
      out = NameSelection();
    } else if (value().is_string()) {
      out = value().get<std::string>();
    } else {
      out = field_.texts("a list of strings, a string or null");
    }
  }
  void read(LayerSelection& out) const {
    constexpr const char* expected = "an integer, a list of integers or null";
    if (value().is_null()) {
      out = LayerSelection();
    } else if (value().is_array()) {
      std::vector<Index> layers;
      for (const Json& entry : value()) layers.push_back(integer(entry, expected));
      out = LayerSelection(std::move(layers));
    } else {
      out = LayerSelection(integer(value(), expected));
    }
  }
  void read(InitSelection& out) const {
    if (value().is_boolean()) {
      out = value().get<bool>();
    } else {
      out = field_.text("true, false or a string");
    }
  }
  void read(std::vector<std::pair<std::string, Index>>& out) const {
    pattern(out, "an object of integers",
            [&](const Json& entry, const char* expected) { return integer(entry, expected); });
  }
  void read(std::vector<std::pair<std::string, double>>& out) const {
    pattern(out, "an object of numbers",
            [&](const Json& entry, const char* expected) { return number(entry, expected); });
  }

 private:
  const Json& value() const { return field_.value(); }
  double number(const Json& value, const char* expected) const {
    if (!value.is_number()) field_.fault(expected);
    return value.get<double>();
  }
  // Accepts Python's 8.0 as 8.
  Index integer(const Json& value, const char* expected) const {
    const double x = number(value, expected);
    if (!(std::abs(x) <= 0x1p53) || x != std::floor(x)) field_.fault(expected);
    return static_cast<Index>(x);
  }
  template <class Entries, class Read>
  void pattern(Entries& out, const char* expected, Read&& read_entry) const {
    out.clear();
    if (value().is_null()) return;
    for (const auto& [key, entry] : field_.object(expected).items())
      out.emplace_back(key, read_entry(entry, expected));
  }

  JsonField field_;
};

/// Converts one field to JSON.
class PeftFieldWriter {
 public:
  explicit PeftFieldWriter(const char* field) : field_(field) {}

  template <class Value>
  requires std::same_as<Value, bool> || std::same_as<Value, double> || std::same_as<Value, Index> ||
      std::same_as<Value, std::string> || std::same_as<Value, std::vector<std::string>>
          Json write(const Value& value)
  const { return Json(value); }
  template <class Number>
  Json write(IntOrFloat<Number> number) const {
    const double x = number.value;
    if (std::abs(x) < 0x1p53 && x == std::floor(x)) return Json(static_cast<std::int64_t>(x));
    return Json(x);
  }
  template <class Value>
  Json write(const std::optional<Value>& value) const {
    return value ? write(*value) : Json();
  }
  template <class Text>
  Json write(JsonText<Text> json) const {
    if (!json.text) return Json();
    try {
      return parse_json(*json.text, std::string("LoRAConfig: ") + field_, peft_config_limits);
    } catch (const FormatError& error) {
      throw ConfigError(error.what());
    }
  }
  Json write(const NameSelection& names) const {
    if (names.pattern() != nullptr) return Json(*names.pattern());
    return names.list() != nullptr ? Json(*names.list()) : Json();
  }
  Json write(const LayerSelection& layers) const {
    if (layers.is_null()) return Json();
    return layers.is_list() ? Json(layers.indices()) : Json(layers.indices().front());
  }
  Json write(const InitSelection& init) const {
    return init.flag() != nullptr ? Json(*init.flag()) : Json(*init.name());
  }
  template <class Value>
  Json write(const std::vector<std::pair<std::string, Value>>& entries) const {
    Json object = Json::object();
    for (const auto& [key, value] : entries) {
      if constexpr (std::same_as<Value, double>) {
        object[key] = write(IntOrFloat<const double&>{value});
      } else {
        object[key] = value;
      }
    }
    return object;
  }

 private:
  const char* field_;
};

/// Returns every field of the config under its name, as PEFT writes it.
inline Json canonical_peft_fields(const LoRAConfig& config) {
  Json fields = Json::object();
  visit_peft_fields(config, [&](const char* name, const auto& field) {
    fields[name] = PeftFieldWriter(name).write(field);
  });
  if (fields["loftq_config"].is_null()) fields["loftq_config"] = Json::object();
  return fields;
}

/// Converts fields to a config, without validating it.
inline LoRAConfig config_of_peft_fields(const Json& fields, const std::string& where) {
  LoRAConfig config;
  const std::string prefix = where + ": ";
  visit_peft_fields(config, [&](const char* name, auto&& field) {
    const auto found = fields.find(name);
    if (found != fields.end()) PeftFieldReader(JsonField(prefix, name, &*found)).read(field);
  });
  return config;
}

}  // namespace detail

/// Parses the text of an adapter_config.json; `where` names it in messages. peft_type is required;
/// other missing fields get their defaults. Keeps and reports fields that LoRAConfig does not have.
/// Reports and ignores a runtime_config, which belongs to the process that wrote it, as in PEFT.
/// Throws: FormatError for text that is empty, a Git LFS pointer, not JSON or beyond
///   peft_config_limits, and for a field of a wrong type; ConfigError for a value that is not valid
///   or not supported. Both name the field and the value.
inline PeftConfig parse_peft_config(std::string_view text, const std::string& where) {
  PeftConfig read;
  if (text.empty()) throw FormatError(where + ": is empty: a download or a save was cut short");
  refuse_git_lfs_pointer(std::as_bytes(std::span(text)), where);
  read.fields = parse_json(text, where, peft_config_limits);
  expect_object(read.fields, where);
  if (!read.fields.contains("peft_type")) {
    const bool mlx =
        read.fields.contains("fine_tune_type") || read.fields.contains("lora_parameters");
    throw FormatError(where + ": peft_type is missing, expected \"LORA\": " +
                      (mlx ? "this is a configuration of mlx-lm, whose format is not read here"
                           : "is this a configuration of PEFT?"));
  }
  std::set<std::string_view> known;
  for (const ConfigField& field : lora_config_fields()) known.insert(field.name);
  for (const auto& [name, value] : read.fields.items()) {
    if (known.count(name) == 0) read.unknown_fields.push_back(name);
  }
  read.config = detail::config_of_peft_fields(read.fields, where);
  if (read.config.runtime_config) {  // belongs to another process; PEFT drops it too
    const Json& runtime = read.fields.at("runtime_config");
    if (!runtime.is_null() && runtime != Json{{"ephemeral_gpu_offload", false}})
      read.unknown_fields.push_back("runtime_config");
    read.config.runtime_config.reset();
  }
  try {
    read.config.validate();
  } catch (const ConfigError& error) {
    throw ConfigError(where + ": " + error.what());
  }
  return read;
}

/// Parses a file of at most peft_config_max_bytes.
/// Throws: as parse_peft_config(); IoError.
inline PeftConfig read_peft_config(const std::filesystem::path& path) {
  return parse_peft_config(as_text(read_file(path, peft_config_max_bytes)), path.string());
}

/// Returns the fields that PEFT writes for `config`: all except runtime_config, sorted by name,
/// with inference_mode true. `as_read` are the fields of the file that the configuration came from.
/// Keeps its unknown fields and the spelling of values that have not changed (8.0 stays 8.0), and
/// omits a field that the file lacks if it has its default, as an older PEFT would.
/// Throws: ConfigError for a field whose text is not JSON.
/// Source: PeftConfigMixin's save_pretrained; but rank_pattern and alpha_pattern keep their order,
///   because the first matching key wins, where PEFT sorts them.
inline Json peft_config_fields(const LoRAConfig& config, const Json& as_read = Json::object()) {
  const Json now = detail::canonical_peft_fields(config);
  const Json standard = detail::canonical_peft_fields(LoRAConfig());
  const Json before =
      detail::canonical_peft_fields(detail::config_of_peft_fields(as_read, "fields as read"));
  std::map<std::string, Json> sorted;
  for (const auto& [name, value] : as_read.items()) sorted[name] = value;
  for (const auto& [name, value] : now.items()) {
    const bool read = as_read.contains(name);
    if (read && before.at(name) == value) continue;
    if (!read && !as_read.empty() && value == standard.at(name)) continue;
    sorted[name] = value;
  }
  sorted.erase("runtime_config");
  sorted["inference_mode"] = true;
  if (as_read.empty() && sorted["peft_version"].is_null())
    sorted["peft_version"] = peft_fields_version;
  Json fields = Json::object();
  for (auto& [name, value] : sorted) fields[name] = std::move(value);
  return fields;
}

/// Returns the bytes of an adapter_config.json with these fields, in their order.
/// Throws: ConfigError for text that is not UTF-8 and for a number that is not finite.
inline std::string peft_config_text(const Json& fields) {
  return python_json(fields, "adapter_config.json");
}

}  // namespace lora
