// Reads what precedes the data of a GGUF file, front to back, without a step past the end.
#pragma once

#include <lora/core/error.hpp>
#include <lora/io/file.hpp>
#include <lora/io/gguf/gguf_types.hpp>

#include <algorithm>
#include <cstring>
#include <span>
#include <type_traits>
#include <utility>

namespace lora {

namespace detail {

/// Reads what precedes the data, front to back.
class Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, const std::string& where)
      : bytes_(bytes.first(
            static_cast<std::size_t>(std::min<std::uint64_t>(bytes.size(), gguf_max_header)))),
        cut_(bytes_.size() < bytes.size()),
        where_(where) {}

  std::uint64_t at() const { return at_; }

  template <class T>
  T number(const std::string& what) {
    static_assert(std::is_arithmetic_v<T> && !std::is_same_v<T, bool>);
    if (sizeof(T) > rest()) too_short(what, sizeof(T));
    T value;
    std::memcpy(&value, bytes_.data() + at_, sizeof(T));
    at_ += sizeof(T);
    return value;
  }
  std::string text(const std::string& what) {
    const auto length = number<std::uint64_t>(what + ": length");
    if (length > rest()) too_short(what, length);
    const std::string_view found = as_text(bytes_).substr(at_, static_cast<std::size_t>(length));
    at_ += found.size();
    return std::string(found);
  }
  /// Reads a number of items of at least `least` bytes each and checks that the rest has room for
  /// them.
  std::uint64_t count(const std::string& what, std::uint64_t least) {
    const auto n = number<std::uint64_t>(what);
    if (n > rest() / least) {
      throw FormatError(where_ + ": " + what + " is " + std::to_string(n) + ", but the " +
                        std::to_string(rest()) + " bytes that follow have room for " +
                        std::to_string(rest() / least) + " at most");
    }
    return n;
  }
  GgufValue value(const std::string& what) {
    const auto type = number<std::uint32_t>(what + ": type");
    return alternative<GgufValue>(
        type, what, [&](auto kind) { return one<typename decltype(kind)::type>(what, 1); });
  }

 private:
  std::size_t rest() const { return bytes_.size() - at_; }

  [[noreturn]] void too_short(const std::string& what, std::uint64_t needed) const {
    throw FormatError(
        where_ + ": " + what + " takes " + std::to_string(needed) + " bytes, but " +
        std::to_string(rest()) + " are left" +
        (cut_ ? " within the limit of " + std::to_string(gguf_max_header) + " before the data"
              : " in the file"));
  }
  template <class Variant, class Read>
  Variant alternative(std::uint32_t type, const std::string& what, Read read) {
    Variant value;
    const bool known = [&]<std::size_t... I>(std::index_sequence<I...>) {
      return ((I == type && (value.template emplace<I>(read(
                                 std::type_identity<std::variant_alternative_t<I, Variant>>())),
                             true)) ||
              ...);
    }
    (std::make_index_sequence<std::variant_size_v<Variant>>());
    if (!known) {
      throw FormatError(where_ + ": " + what + ": type is " + std::to_string(type) +
                        ", expected at most " + std::to_string(std::variant_size_v<Variant> - 1));
    }
    return value;
  }
  template <class T>
  T one(const std::string& what, int depth) {
    if constexpr (std::is_same_v<T, std::string>) {
      return text(what);
    } else if constexpr (std::is_same_v<T, GgufArray>) {
      return array(what, depth);
    } else if constexpr (std::is_same_v<T, bool>) {
      const auto byte = number<std::uint8_t>(what);
      if (byte > 1) {
        throw FormatError(where_ + ": " + what + " is a bool of " + std::to_string(byte) +
                          ", expected 0 or 1");
      }
      return byte == 1;
    } else {
      return number<T>(what);
    }
  }
  GgufArray array(const std::string& what, int depth) {
    if (depth > gguf_deepest_array) {
      throw FormatError(where_ + ": " + what + ": arrays are nested deeper than " +
                        std::to_string(gguf_deepest_array) + " levels");
    }
    const auto type = number<std::uint32_t>(what + ": type of the elements");
    return {alternative<decltype(GgufArray::values)>(type, what, [&](auto kind) {
      typename decltype(kind)::type elements;
      using T = typename decltype(elements)::value_type;
      constexpr std::uint64_t least = std::is_same_v<T, std::string> ? 8
                                      : std::is_same_v<T, GgufArray> ? 12
                                                                     : sizeof(T);
      const std::uint64_t n = count(what + ": number of elements", least);
      for (std::uint64_t i = 0; i < n; ++i) elements.push_back(one<T>(what, depth + 1));
      return elements;
    })};
  }

  std::span<const std::byte> bytes_;
  bool cut_;
  const std::string& where_;
  std::size_t at_ = 0;
};

}  // namespace detail

}  // namespace lora
