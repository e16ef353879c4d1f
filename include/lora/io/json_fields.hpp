// Reads a JSON object field by field: checks each value as it is read, and finds the fields that
// nothing read.
#pragma once

#include <lora/core/number_text.hpp>
#include <lora/io/json.hpp>

#include <cmath>
#include <concepts>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace lora {

/// The value of one field. Each reader throws FormatError for a value of another kind: "FILE: a.b
/// is 3, expected a string", "FILE: a.b is missing, expected a string". Holds references to the
/// constructor's arguments, which must outlive it.
class JsonField {
 public:
  /// Begins messages with `prefix` and `name`. `value` is null if the field is absent.
  JsonField(std::string_view prefix, std::string_view name, const Json* value)
      : prefix_(prefix), name_(name), value_(value) {}

  /// Returns "FILE: a.b".
  std::string path() const { return std::string(prefix_) + printable(name_); }
  /// Returns "FILE: a.b is 3" or "FILE: a.b is missing".
  std::string said() const {
    return path() + (value_ == nullptr ? " is missing" : " is " + printable(value_->dump(), 80));
  }
  [[noreturn]] void fault(const std::string& expected) const {
    throw FormatError(said() + ", expected " + expected);
  }

  /// Returns the value, of any kind. Throws: FormatError if the field is absent.
  const Json& value() const {
    if (value_ == nullptr) throw FormatError(said());
    return *value_;
  }
  bool flag() const {
    if (value_ == nullptr || !value_->is_boolean()) fault("true or false");
    return value_->get<bool>();
  }
  std::string text(const char* expected = "a string") const {
    if (value_ == nullptr || !value_->is_string()) fault(expected);
    return value_->get<std::string>();
  }
  std::vector<std::string> texts(const char* expected = "an array of strings") const {
    std::vector<std::string> all;
    for (const Json& one : array(expected)) {
      if (!one.is_string()) fault(expected);
      all.push_back(one.get<std::string>());
    }
    return all;
  }
  double number(const char* expected = "a number") const {
    if (value_ == nullptr || !value_->is_number()) fault(expected);
    return value_->get<double>();
  }
  /// Returns a finite number of [low, high].
  double number(double low, double high) const {
    const bool fits = value_ != nullptr && value_->is_number() &&
                      std::isfinite(value_->get<double>()) && value_->get<double>() >= low &&
                      value_->get<double>() <= high;
    if (!fits) fault("a number from " + number_text(low) + " to " + number_text(high));
    return value_->get<double>();
  }
  /// Returns an integer of [low, high] that is written without a decimal point.
  template <std::integral T = std::int64_t>
  T integer(std::type_identity_t<T> low, std::type_identity_t<T> high) const {
    if (!holds_integer<T>(low, high))
      fault("a whole number from " + std::to_string(low) + " to " + std::to_string(high));
    return value_->get<T>();
  }
  template <std::integral T>
  bool holds_integer(T low, T high) const {
    if (value_ == nullptr || !value_->is_number_integer()) return false;
    const auto within = [&](auto n) {
      return std::cmp_less_equal(low, n) && std::cmp_less_equal(n, high);
    };
    return value_->is_number_unsigned() ? within(value_->get<std::uint64_t>())
                                        : within(value_->get<std::int64_t>());
  }
  const Json& array(const char* expected = "an array") const {
    if (value_ == nullptr || !value_->is_array()) fault(expected);
    return *value_;
  }
  const Json& object(const char* expected = "an object") const {
    if (value_ == nullptr || !value_->is_object()) fault(expected);
    return *value_;
  }

 private:
  std::string_view prefix_, name_;
  const Json* value_;
};

/// Returns `json`. Throws: FormatError "FILE: is array, expected an object" unless it is an object.
inline const Json& expect_object(const Json& json, const std::string& where) {
  if (!json.is_object())
    throw FormatError(where + ": is " + json.type_name() + ", expected an object");
  return json;
}

/// An object of a file and the set of its fields that were read. A field that is null counts as
/// absent. Every error is a FormatError that names the file and the path in it (see JsonField),
/// unless noted. Holds a reference to the JSON value, which must outlive it.
class JsonFields {
 public:
  /// Reads the top-level value of `file`. Throws: FormatError unless it is an object.
  JsonFields(const Json& object, const std::string& file) : JsonFields(object, file, file + ": ") {}

  const Json& json() const { return *object_; }
  const std::string& where() const { return where_; }
  std::string path(std::string_view name) const { return prefix_ + printable(name); }
  /// Throws: FormatError "FILE: a.b: what".
  [[noreturn]] void refuse(std::string_view name, const std::string& what) const {
    throw FormatError(path(name) + ": " + what);
  }
  [[noreturn]] void fault(std::string_view name, const std::string& expected) const {
    field(name).fault(expected);
  }
  /// Throws: ConfigError for a value that is valid but not supported.
  [[noreturn]] void unsupported(std::string_view name, const std::string& why) const {
    throw ConfigError(field(name).said() + ", which is not supported: " + why);
  }
  /// Rejects every value of an option except its neutral one. Throws: ConfigError.
  void unsupported_unless(std::string_view name, const Json& neutral, const char* why) const {
    const Json* const value = find(name);
    if (value != nullptr && *value != neutral) unsupported(name, why);
  }

  /// Returns the field, or null if it is absent or null.
  const Json* find(std::string_view name) const {
    const Json* const found = look_up(name);
    return found == nullptr || found->is_null() ? nullptr : found;
  }
  JsonField field(std::string_view name) const { return {prefix_, name, look_up(name)}; }

  const Json& need(std::string_view name) const {
    if (find(name) == nullptr) throw FormatError(field(name).said());
    return field(name).value();
  }
  const Json& array(std::string_view name) const { return field(name).array(); }
  JsonFields object(std::string_view name) const {
    const std::string where = path(name);
    return {field(name).object(), where, where + "."};
  }
  /// Returns object i of an array of objects.
  JsonFields element(std::string_view name, std::size_t i) const {
    const std::string in_array = std::string(name) + "[" + std::to_string(i) + "]";
    const std::string where = path(in_array);
    return {JsonField(prefix_, in_array, &array(name).at(i)).object(), where, where + "."};
  }
  std::string text(std::string_view name) const { return field(name).text(); }
  /// Returns the text, or `standard` if the field is absent.
  std::string text(std::string_view name, std::string standard) const {
    return find(name) == nullptr ? std::move(standard) : text(name);
  }
  bool flag(std::string_view name, bool standard) const {
    return find(name) == nullptr ? standard : field(name).flag();
  }
  template <std::integral T = std::int64_t>
  T integer(std::string_view name, std::type_identity_t<T> low,
            std::type_identity_t<T> high) const {
    return field(name).integer<T>(low, high);
  }
  template <std::integral T = std::int64_t>
  T integer(std::string_view name, std::type_identity_t<T> standard, std::type_identity_t<T> low,
            std::type_identity_t<T> high) const {
    return find(name) == nullptr ? standard : integer<T>(name, low, high);
  }
  double number(std::string_view name, double low, double high) const {
    return field(name).number(low, high);
  }
  double number(std::string_view name, double standard, double low, double high) const {
    return find(name) == nullptr ? standard : number(name, low, high);
  }
  /// Marks a field that does not matter as read.
  void ignore(std::string_view name) const { asked_.emplace(name); }

  /// Calls fn(name) for each field that was not read, unless it is null.
  template <class Fn>
  void for_each_other(Fn&& fn) const {
    for (const auto& [name, value] : object_->items()) {
      if (!value.is_null() && asked_.count(name) == 0) fn(name);
    }
  }
  /// Rejects the first field that was not read, unless it is null.
  void expect_no_more() const {
    for_each_other([&](const std::string& name) { refuse(name, "is not supported"); });
  }

 private:
  JsonFields(const Json& object, std::string where, std::string prefix)
      : object_(&expect_object(object, where)),
        where_(std::move(where)),
        prefix_(std::move(prefix)) {}

  // Json searches its keys linearly; in a large object, many look-ups would take quadratic time.
  const Json* look_up(std::string_view asked) const {
    const std::string& name = *asked_.emplace(asked).first;
    if (object_->size() <= 32) {
      const auto found = object_->find(name);
      return found == object_->end() ? nullptr : &*found;
    }
    if (index_.empty()) {
      for (const auto& [key, value] : object_->items()) index_.emplace(key, &value);
    }
    const auto found = index_.find(name);
    return found == index_.end() ? nullptr : found->second;
  }

  const Json* object_;
  std::string where_, prefix_;
  // The fields that were read, and an index of a large object. Both record the reading; the value
  // does not depend on them.
  mutable std::map<std::string_view, const Json*> index_;
  mutable std::set<std::string, std::less<>> asked_;
};

}  // namespace lora
