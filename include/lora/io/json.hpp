// Parses strict JSON: RFC 8259 only, without duplicate keys, bounded in depth and number of values.
#pragma once

#include <lora/core/error.hpp>
#include <lora/core/printable.hpp>

#if defined(__has_include) && !__has_include(<nlohmann/json.hpp>)
#error "lora/io/ needs nlohmann/json; on Debian or Ubuntu: apt-get install nlohmann-json3-dev"
#endif
#include <nlohmann/json.hpp>

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora {

/// A JSON value whose objects keep the order of their keys. Looking up a key takes time linear in
/// the object.
using Json = nlohmann::ordered_json;

/// The limits of a text.
struct JsonLimits {
  std::size_t depth = 64;  ///< open arrays and objects
  std::size_t values = std::size_t{1}
                       << 23;  ///< all values together; one takes about 16 bytes, a key 100
};

/// Formats `text` as a JSON string with quotes, keeping non-ASCII characters.
/// Throws: ConfigError that names `where` if `text` is not UTF-8.
inline std::string json_string(std::string_view text, const std::string& where) {
  try {
    return Json(std::string(text)).dump();
  } catch (const Json::exception&) {
    throw ConfigError(where + ": " + in_quotes(text) + " is not valid UTF-8");
  }
}

namespace detail {

// Records how far the parser has read, which its callbacks are not told.
struct CountingIterator {
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  const char* at = nullptr;
  const char** reached = nullptr;

  reference operator*() const { return *at; }
  CountingIterator& operator++() {
    *reached = ++at;
    return *this;
  }
  CountingIterator operator++(int) {
    const CountingIterator before = *this;
    ++*this;
    return before;
  }
  bool operator==(const CountingIterator& other) const { return at == other.at; }
  bool operator!=(const CountingIterator& other) const { return at != other.at; }
};

// Builds the value from the parser's events. The parser keeps its state in a vector of bits, so
// neither recurses. A callback that returns false stops the parser; `error` then gives the reason.
class Builder {
 public:
  Builder(std::string_view text, JsonLimits limits)
      : reached(text.data()), text_(text), limits_(limits) {}

  bool null() { return place(nullptr); }
  bool boolean(bool value) { return place(value); }
  bool number_integer(Json::number_integer_t value) { return place(value); }
  bool number_unsigned(Json::number_unsigned_t value) { return place(value); }
  bool number_float(Json::number_float_t value, const std::string&) { return place(value); }
  bool string(std::string& value) { return place(std::move(value)); }
  bool binary(Json::binary_t&) { return fail("binary values do not exist in JSON"); }

  bool start_object(std::size_t) { return open(Json::object()); }
  bool start_array(std::size_t) { return open(Json::array()); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }

  bool key(std::string& name) {
    if (!open_.back().keys.insert(name).second)
      return fail("key " + in_quotes(name) + " appears twice");
    key_ = std::move(name);
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const Json::exception& cause) {
    const std::string_view what =
        cause.what();  // "[json.exception...] parse error at line ...: the reason"
    const std::size_t reason = what.find("syntax error"), bracket = what.find("] ");
    error = "byte " + std::to_string(position == 0 ? 0 : position - 1) + ": " +
            printable(what.substr(reason != what.npos    ? reason
                                  : bracket != what.npos ? bracket + 2
                                                         : 0));
    return false;
  }

  const char* reached;
  std::string error;
  Json root;

 private:
  struct Frame {
    Json* container;
    std::set<std::string> keys;  // not a hash set: untrusted keys could be made to collide
  };

  bool fail(const std::string& reason) {
    error = "before byte " + std::to_string(reached - text_.data()) + ": " + reason;
    return false;
  }
  // Inserts a value at the parser's position. Its address stays valid while the value is open,
  // because its container does not grow until it is closed.
  template <class V>
  Json* put(V&& value) {
    if (open_.empty()) return &(root = Json(std::forward<V>(value)));
    Json& container = *open_.back().container;
    if (container.is_array()) {
      return &container.get_ref<Json::array_t&>().emplace_back(std::forward<V>(value));
    }
    // The map's emplace would search all keys first, which is quadratic; the set has searched
    // already.
    auto& object = static_cast<Json::object_t::Container&>(container.get_ref<Json::object_t&>());
    return &object.emplace_back(std::move(key_), Json(std::forward<V>(value))).second;
  }
  template <class V>
  bool place(V&& value) {
    if (++values_ > limits_.values)
      return fail("more than " + std::to_string(limits_.values) + " values");
    put(std::forward<V>(value));
    return true;
  }
  bool open(Json container) {
    if (open_.size() >= limits_.depth) {
      return fail("nested deeper than " + std::to_string(limits_.depth) + " levels");
    }
    if (++values_ > limits_.values)
      return fail("more than " + std::to_string(limits_.values) + " values");
    open_.push_back(Frame{put(std::move(container)), {}});
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  std::string_view text_;
  JsonLimits limits_;
  std::vector<Frame> open_;
  std::string key_;
  std::size_t values_ = 0;
};

}  // namespace detail

/// Parses `text` (UTF-8, one value, whitespace around it allowed). `where` names the source.
/// Rejects, beyond RFC 8259, a byte order mark, a duplicate key in an object (after unescaping),
/// half of a surrogate pair, a number that overflows a double, and whatever exceeds `limits`.
/// Integers beyond 64 bits become doubles: check is_number_unsigned() to require an integer. Takes
/// O(n log n) time and does not recurse.
/// Throws: FormatError "where: byte N: reason".
inline Json parse_json(std::string_view text, const std::string& where, JsonLimits limits = {}) {
  const auto refuse = [&where](const std::string& reason) {
    throw FormatError(where + ": not valid JSON: " + reason);
  };
  if (text.substr(0, 3) == "\xEF\xBB\xBF") refuse("byte 0: begins with a byte order mark");
  // The parser takes NUL for the end of its input and would ignore the rest.
  if (const std::size_t nul = text.find('\0'); nul != text.npos) {
    refuse("byte " + std::to_string(nul) + ": a NUL byte");
  }
  detail::Builder builder(text, limits);
  const detail::CountingIterator first{text.data(), &builder.reached};
  const detail::CountingIterator last{text.data() + text.size(), &builder.reached};
  if (!Json::sax_parse(first, last, &builder)) refuse(builder.error);
  return std::move(builder.root);
}

}  // namespace lora
