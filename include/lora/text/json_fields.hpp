// Reading a JSON object field by field, so that none is overlooked.
#pragma once

#include <lora/io/json.hpp>

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>

namespace lora {

/// One object of a file, and which of its fields were asked for. Every refusal is a FormatError
/// that names the file and the path in it: "dir/tokenizer.json: model.vocab: is missing". Looks at
/// the JSON value, which must live as long.
class JsonFields {
 public:
  /// The whole of `file`.
  JsonFields(const Json& object, const std::string& file) : JsonFields(object, file, file + ": ") {}

  std::string path(std::string_view name) const { return prefix_ + printable(name); }
  [[noreturn]] void refuse(std::string_view name, const std::string& what) const {
    throw FormatError(path(name) + ": " + what);
  }

  /// The field, or null where it is absent or null.
  const Json* find(const std::string& name) {
    asked_.insert(name);
    const Json* const found = look_up(name);
    return found == nullptr || found->is_null() ? nullptr : found;
  }
  const Json& need(const std::string& name) {
    const Json* const field = find(name);
    if (field == nullptr) refuse(name, "is missing");
    return *field;
  }
  JsonFields object(const std::string& name) { return {need(name), path(name), path(name) + "."}; }
  /// Object i of an array of objects.
  JsonFields element(const std::string& name, std::size_t i) {
    const std::string where = path(name) + "[" + std::to_string(i) + "]";
    return {array(name).at(i), where, where + "."};
  }
  const Json& array(const std::string& name) {
    const Json& field = need(name);
    if (!field.is_array()) refuse(name, "expected an array");
    return field;
  }
  std::string text(const std::string& name) {
    const Json& field = need(name);
    if (!field.is_string()) refuse(name, "expected a string");
    return field.get<std::string>();
  }
  /// The text, or `fallback` where there is none.
  std::string text(const std::string& name, std::string fallback) {
    return find(name) == nullptr ? std::move(fallback) : text(name);
  }
  bool flag(const std::string& name, bool fallback) {
    const Json* const field = find(name);
    if (field == nullptr) return fallback;
    if (!field->is_boolean()) refuse(name, "expected true or false");
    return field->get<bool>();
  }
  std::uint32_t number(const std::string& name) {
    const Json& field = need(name);
    if (!field.is_number_unsigned() || field.get<std::uint64_t>() > 0x7FFFFFFFu)
      refuse(name, "expected a whole number from 0 to 2147483647");
    return field.get<std::uint32_t>();
  }
  /// A field that is known not to matter.
  void ignore(const std::string& name) { asked_.insert(name); }

  /// fn(path) for each field that nothing asked for, unless it is null.
  template <class Fn>
  void for_each_other(Fn&& fn) const {
    for (const auto& [name, value] : object_->items()) {
      if (!value.is_null() && asked_.count(name) == 0) fn(name);
    }
  }
  /// Refuses the first field that nothing asked for, unless it is null.
  void expect_no_more() const {
    for (const auto& [name, value] : object_->items()) {
      if (!value.is_null() && asked_.count(name) == 0) refuse(name, "is not supported");
    }
  }

 private:
  JsonFields(const Json& object, const std::string& where, std::string prefix)
      : object_(&object), prefix_(std::move(prefix)) {
    if (!object.is_object()) throw FormatError(where + ": expected an object");
  }

  // Json looks at one key after another: in a large object, asked for much, that would be quadratic.
  const Json* look_up(const std::string& name) {
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
  std::map<std::string_view, const Json*> index_;  // of a large object's fields, once asked for
  std::string prefix_;
  std::set<std::string> asked_;
};

}  // namespace lora
