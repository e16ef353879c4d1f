// The element types of safetensors: their names and widths, and conversion of those that make
// matrices.
#pragma once

#include <lora/core/error.hpp>
#include <lora/core/half.hpp>
#include <lora/core/printable.hpp>

#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

namespace lora {

/// The element types of the format, by their names in a file and in the order in which the
/// reference sorts them. F4, F6 and F8 are carried as bytes; F16, BF16, F32 and F64 make matrices.
enum class DType : std::uint8_t {
  BOOL,
  F4,
  F6_E2M3,
  F6_E3M2,
  U8,
  I8,
  F8_E5M2,
  F8_E4M3,
  F8_E8M0,
  F8_E4M3FNUZ,
  F8_E5M2FNUZ,
  I16,
  U16,
  F16,
  BF16,
  I32,
  U32,
  F32,
  C64,
  F64,
  I64,
  U64
};

struct DTypeInfo {
  DType dtype;
  std::string_view name;
  unsigned bits;  ///< bits of one element
};

/// All types. Row i describes the enumerator of value i.
inline constexpr std::array<DTypeInfo, 22> all_dtypes{{
    {DType::BOOL, "BOOL", 8},
    {DType::F4, "F4", 4},
    {DType::F6_E2M3, "F6_E2M3", 6},
    {DType::F6_E3M2, "F6_E3M2", 6},
    {DType::U8, "U8", 8},
    {DType::I8, "I8", 8},
    {DType::F8_E5M2, "F8_E5M2", 8},
    {DType::F8_E4M3, "F8_E4M3", 8},
    {DType::F8_E8M0, "F8_E8M0", 8},
    {DType::F8_E4M3FNUZ, "F8_E4M3FNUZ", 8},
    {DType::F8_E5M2FNUZ, "F8_E5M2FNUZ", 8},
    {DType::I16, "I16", 16},
    {DType::U16, "U16", 16},
    {DType::F16, "F16", 16},
    {DType::BF16, "BF16", 16},
    {DType::I32, "I32", 32},
    {DType::U32, "U32", 32},
    {DType::F32, "F32", 32},
    {DType::C64, "C64", 64},
    {DType::F64, "F64", 64},
    {DType::I64, "I64", 64},
    {DType::U64, "U64", 64},
}};

constexpr std::string_view dtype_name(DType dtype) {
  return all_dtypes[static_cast<std::size_t>(dtype)].name;
}
constexpr unsigned dtype_bits(DType dtype) {
  return all_dtypes[static_cast<std::size_t>(dtype)].bits;
}
constexpr std::optional<DType> dtype_from_name(std::string_view name) {
  for (const DTypeInfo& info : all_dtypes) {
    if (info.name == name) return info.dtype;
  }
  return std::nullopt;
}

/// Returns "[2, 3]".
inline std::string shape_text(std::span<const Index> shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i)
    text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return text + "]";
}

/// Returns the bytes of a tensor: the product of `shape` (1 if empty) times the width. Messages
/// begin with `where`.
/// Throws: E for a negative dimension, for more than 128 dimensions, if the dimensions other than 0
///   multiply to more than 64 bits of storage (so that any product of some of them is safe), and if
///   the last byte is not full.
template <class E>
std::uint64_t tensor_byte_count(DType dtype, std::span<const Index> shape,
                                const std::string& where) {
  constexpr std::size_t most_dimensions = 128;
  if (shape.size() > most_dimensions) {
    throw E(where + ": shape has " + std::to_string(shape.size()) + " dimensions, at most " +
            std::to_string(most_dimensions) + " are allowed");
  }
  std::uint64_t bits = dtype_bits(dtype);
  bool empty = false;
  for (const Index n : shape) {
    if (n < 0) throw E(where + ": shape " + shape_text(shape) + " has a negative dimension");
    if (n == 0) {
      empty = true;
    } else if (bits > std::numeric_limits<std::uint64_t>::max() / static_cast<std::uint64_t>(n)) {
      throw E(where + ": shape " + shape_text(shape) + " overflows 64 bits");
    } else {
      bits *= static_cast<std::uint64_t>(n);
    }
  }
  if (empty) return 0;
  if (bits % 8 != 0) {
    throw E(where + ": shape " + shape_text(shape) + " of " + std::string(dtype_name(dtype)) +
            " does not fill whole bytes");
  }
  return bits / 8;
}

constexpr bool is_matrix_dtype(DType dtype) {
  return dtype == DType::F16 || dtype == DType::BF16 || dtype == DType::F32 || dtype == DType::F64;
}

/// Returns "I8, expected F32, F64, BF16 or F16", the end of a message about any other type.
inline std::string matrix_dtype_fault(DType dtype) {
  return std::string(dtype_name(dtype)) + ", expected F32, F64, BF16 or F16";
}

namespace detail {

static_assert(std::endian::native == std::endian::little,
              "safetensors are little-endian, and so must this machine be");

// Rounds to odd: if d lies between two floats, returns the one whose last bit is 1. Rounding that
// to bf16 or f16, which have at least two bits fewer, gives the same as rounding d once; rounding d
// to the nearest float first would not.
inline float to_float_odd(double d) {
  const float f = static_cast<float>(d);
  if (static_cast<double>(f) == d || std::isnan(d)) return f;
  std::uint32_t u = std::bit_cast<std::uint32_t>(f);
  if (std::abs(static_cast<double>(f)) > std::abs(d)) --u;  // back to the neighbour closer to zero
  return std::bit_cast<float>(u | 1u);
}
inline float to_float_odd(float f) { return f; }

// Reads `values.size()` elements of type E from any address.
template <class E, class S, class Widen>
void decode_each(const std::byte* bytes, std::span<S> values, Widen widen) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    E element;
    std::memcpy(&element, bytes + i * sizeof(E), sizeof(E));
    values[i] = static_cast<S>(widen(element));
  }
}
template <class E, class S, class Narrow>
void encode_each(std::span<const S> values, std::byte* bytes, Narrow narrow) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    const E element = narrow(values[i]);
    std::memcpy(bytes + i * sizeof(E), &element, sizeof(E));
  }
}

}  // namespace detail

/// Returns the index of the first finite element that encode_elements would turn into an infinity
/// in `dtype` (is_matrix_dtype), or nullopt.
/// Allocates: nothing.
template <class S>
std::optional<std::size_t> first_overflow(DType dtype, std::span<const S> values) {
  // Halfway between the largest number and the next power of two: ties round to even, which is
  // infinity.
  const double least = dtype == DType::F16    ? 65520
                       : dtype == DType::BF16 ? 0x1.FFp127
                       : dtype == DType::F32 && !std::is_same_v<S, float>
                           ? 0x1.FFFFFFp127
                           : std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < values.size() && std::isfinite(least); ++i) {
    const double x = std::abs(static_cast<double>(values[i]));
    if (x >= least && std::isfinite(x)) return i;
  }
  return std::nullopt;
}

/// Reads values.size() elements of `dtype` (is_matrix_dtype) into float or double. Widening is
/// exact; F64 to float rounds to nearest even and overflows to infinity. The same type is copied
/// bit for bit.
/// Allocates: nothing.
template <class S>
void decode_elements(DType dtype, const std::byte* bytes, std::span<S> values) {
  static_assert(std::is_same_v<S, float> || std::is_same_v<S, double>);
  if (values.empty()) return;
  if (dtype == (std::is_same_v<S, float> ? DType::F32 : DType::F64)) {
    std::memcpy(values.data(), bytes, values.size_bytes());
  } else if (dtype == DType::F32) {
    detail::decode_each<float>(bytes, values, [](float v) { return v; });
  } else if (dtype == DType::F64) {
    detail::decode_each<double>(bytes, values, [](double v) { return v; });
  } else if (dtype == DType::F16) {
    detail::decode_each<std::uint16_t>(bytes, values, f16_to_float);
  } else if (dtype == DType::BF16) {
    detail::decode_each<std::uint16_t>(bytes, values, bf16_to_float);
  } else {
    throw ConfigError("decode_elements: " + matrix_dtype_fault(dtype));
  }
}

/// Writes `values` as `dtype` (is_matrix_dtype), rounded once to nearest even; overflow gives
/// infinity. The same type is copied bit for bit.
/// Allocates: nothing.
template <class S>
void encode_elements(DType dtype, std::span<const S> values, std::byte* bytes) {
  static_assert(std::is_same_v<S, float> || std::is_same_v<S, double>);
  if (values.empty()) return;
  if (dtype == (std::is_same_v<S, float> ? DType::F32 : DType::F64)) {
    std::memcpy(bytes, values.data(), values.size_bytes());
  } else if (dtype == DType::F32) {
    detail::encode_each<float>(values, bytes, [](S v) { return static_cast<float>(v); });
  } else if (dtype == DType::F64) {
    detail::encode_each<double>(values, bytes, [](S v) { return static_cast<double>(v); });
  } else if (dtype == DType::F16) {
    detail::encode_each<std::uint16_t>(values, bytes,
                                       [](S v) { return float_to_f16(detail::to_float_odd(v)); });
  } else if (dtype == DType::BF16) {
    detail::encode_each<std::uint16_t>(values, bytes,
                                       [](S v) { return float_to_bf16(detail::to_float_odd(v)); });
  } else {
    throw ConfigError("encode_elements: " + matrix_dtype_fault(dtype));
  }
}

namespace detail {

// Whether x rounds to y in `dtype`. A tie may round either way, since x may itself be the result of
// rounding.
inline bool rounds_to(double x, DType dtype, double y) {
  if (dtype == DType::F64) return x == y;
  for (const double end : {x, -HUGE_VAL, HUGE_VAL}) {
    const double near = std::nextafter(x, end);
    std::byte bytes[4];
    double rounded = 0;
    encode_elements(dtype, std::span<const double>(&near, 1), bytes);
    decode_elements(dtype, bytes, std::span<double>(&rounded, 1));
    if (rounded == y) return true;
  }
  return false;
}

}  // namespace detail

/// Whether x of one type and y of another (is_matrix_dtype) may be the same number: equal after
/// rounding to the narrower type. A NaN equals nothing.
/// Allocates: nothing.
inline bool same_when_rounded(double x, DType x_dtype, double y, DType y_dtype) {
  return x == y || detail::rounds_to(x, y_dtype, y) || detail::rounds_to(y, x_dtype, x);
}

/// An element of a tensor.
struct ElementAt {
  std::size_t index;
  double value;
};

/// Formats an element that first_overflow_of_read found, for messages.
inline std::string overflow_text(const ElementAt& element) {
  return "element " + std::to_string(element.index) + " is " + number_text(element.value) +
         ", too large for F32, which the model computes in";
}

/// Returns the first finite element of `count` that decode_elements<S> would turn into an infinity,
/// or nullopt. Only F64 read into float can have one.
/// Allocates: nothing.
template <class S>
std::optional<ElementAt> first_overflow_of_read(DType dtype, const std::byte* bytes,
                                                std::size_t count) {
  if (dtype != DType::F64 || std::is_same_v<S, double>) return std::nullopt;
  for (std::size_t i = 0; i < count; ++i) {
    double value = 0;
    std::memcpy(&value, bytes + i * sizeof value, sizeof value);
    if (first_overflow(DType::F32, std::span<const double>(&value, 1))) return ElementAt{i, value};
  }
  return std::nullopt;
}

}  // namespace lora
