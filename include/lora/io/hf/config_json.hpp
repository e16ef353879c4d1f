// A checkpoint's config.json: reading it, its fields one by one, and the type of the weights in it.
#pragma once

#include <lora/io/dtype.hpp>
#include <lora/io/file.hpp>
#include <lora/io/json.hpp>

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>

namespace lora {

/// The file of a checkpoint's folder that says which model it is.
inline constexpr const char* hf_config_file = "config.json";

/// The content of config.json, or of another small JSON file, in a checkpoint's folder. Throws
/// IoError when it cannot be read, FormatError when it is larger than 4 MiB or is not JSON.
inline Json read_config_json(const std::filesystem::path& directory,
                             const char* file = hf_config_file) {
  const std::filesystem::path path = directory / file;
  const auto bytes = read_file(path, std::uint64_t{1} << 22);
  return parse_json(as_text(bytes), path.string());
}

/// torch's name of F32, F64, BF16 or F16, as config.json has it. Throws ConfigError for others.
inline std::string torch_dtype_name(DType dtype) {
  switch (dtype) {
    case DType::F32:
      return "float32";
    case DType::F64:
      return "float64";
    case DType::BF16:
      return "bfloat16";
    case DType::F16:
      return "float16";
    default:
      throw ConfigError("torch_dtype_name: " + std::string(dtype_name(dtype)) +
                        ", expected F32, F64, BF16 or F16");
  }
}

/// Names the weights' type in a config.json's object: under `torch_dtype` and `dtype`, whichever it
/// has; `torch_dtype`, which every transformers reads, when it has neither. Throws as
/// torch_dtype_name, before anything is changed.
inline void set_config_dtype(Json& fields, DType dtype) {
  const std::string name = torch_dtype_name(dtype);
  if (!fields.contains("dtype") || fields.contains("torch_dtype")) fields["torch_dtype"] = name;
  if (fields.contains("dtype")) fields["dtype"] = name;
}

namespace detail {

// Large enough for every model there is, small enough that no product of two overflows.
inline constexpr Index most_width = Index{1} << 24, most_layers = Index{1} << 12,
                       most_positions = Index{1} << 30;

/// The fields of one JSON object, each checked when it is asked for. null is absent.
class ConfigFields {
 public:
  ConfigFields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object.is_object())
      throw FormatError(where_ + ": is " + object.type_name() + ", expected an object");
  }

  const std::string& where() const { return where_; }
  const Json& object() const { return object_; }
  const Json* find(const char* key) const {
    const auto found = object_.find(key);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }
  [[noreturn]] void fault(const std::string& key, const std::string& expected) const {
    const Json* value = find(key.c_str());
    throw FormatError(where_ + ": " + key +
                      (value ? " is " + printable(value->dump(), 60) : " is missing") +
                      ", expected " + expected);
  }
  [[noreturn]] void refuse(const std::string& key, const std::string& why) const {
    const Json* value = find(key.c_str());
    throw ConfigError(where_ + ": " + key + " is " +
                      (value ? printable(value->dump(), 60) : "not set") +
                      ", which is not supported: " + why);
  }

  /// A whole number of [low, high]; without `standard` it must be there.
  Index integer(const char* key, std::optional<Index> standard, Index low, Index high) const {
    const Json* value = find(key);
    if (value == nullptr && standard) return *standard;
    // A negative number is far too large as an unsigned one.
    const bool whole = value != nullptr && value->is_number_integer();
    const std::uint64_t n = whole ? value->get<std::uint64_t>() : 0;
    if (!whole || n < static_cast<std::uint64_t>(low) || n > static_cast<std::uint64_t>(high))
      fault(key, "a whole number from " + std::to_string(low) + " to " + std::to_string(high));
    return static_cast<Index>(n);
  }
  /// A finite number of [low, high] that is not 0.
  double number(const char* key, std::optional<double> standard, double low, double high) const {
    const Json* value = find(key);
    if (value == nullptr && standard) return *standard;
    if (value == nullptr || !value->is_number() || !std::isfinite(value->get<double>()) ||
        !(value->get<double>() >= low && value->get<double>() <= high))
      fault(key, "a number from " + number_text(low) + " to " + number_text(high));
    return value->get<double>();
  }
  bool flag(const char* key, bool standard) const {
    const Json* value = find(key);
    if (value == nullptr) return standard;
    if (!value->is_boolean()) fault(key, "true or false");
    return value->get<bool>();
  }
  std::string text(const char* key, const std::optional<std::string>& standard) const {
    const Json* value = find(key);
    if (value == nullptr && standard) return *standard;
    if (value == nullptr || !value->is_string()) fault(key, "a string");
    return value->get<std::string>();
  }
  /// Refuses every value of an option but its neutral one.
  void refuse_unless(const char* key, const Json& neutral, const char* why) const {
    const Json* value = find(key);
    if (value != nullptr && *value != neutral) refuse(key, why);
  }

 private:
  const Json& object_;
  std::string where_;
};

}  // namespace detail

}  // namespace lora
