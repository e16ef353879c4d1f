// The parts of a GGUF file: element types, metadata values, limits.
#pragma once

#include <lora/core/code_points.hpp>
#include <lora/core/error.hpp>
#include <lora/core/printable.hpp>
#include <lora/core/types.hpp>
#include <lora/io/dtype.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace lora {

inline constexpr std::uint32_t gguf_version = 3;
/// The alignment of the data and of each tensor in it, unless `general.alignment` says otherwise.
inline constexpr std::uint32_t gguf_default_alignment = 32;
/// The longest name of a tensor and the longest key of the metadata, in bytes.
inline constexpr std::size_t gguf_longest_name = 63, gguf_longest_key = 65535;
inline constexpr std::uint32_t gguf_most_dimensions = 4;
/// The deepest nesting of arrays. llama.cpp reads one level.
inline constexpr int gguf_deepest_array = 4;
/// The most bytes before the data. A longer file head is rejected.
inline constexpr std::uint64_t gguf_max_header = std::uint64_t{1} << 26;

/// An element type of tensors: `block` elements take `block_bytes` bytes.
struct GgufType {
  std::uint32_t id = 0;
  std::string_view name;
  std::uint64_t block = 1, block_bytes = 4;
  std::optional<DType> dtype = {};  ///< if it can make matrices
};

/// The types in files whose size is known here (ggml's GGML_TYPE_*).
inline constexpr auto all_gguf_types = std::to_array<GgufType>({{0, "F32", 1, 4, DType::F32},
                                                                {1, "F16", 1, 2, DType::F16},
                                                                {2, "Q4_0", 32, 18},
                                                                {3, "Q4_1", 32, 20},
                                                                {6, "Q5_0", 32, 22},
                                                                {7, "Q5_1", 32, 24},
                                                                {8, "Q8_0", 32, 34},
                                                                {10, "Q2_K", 256, 84},
                                                                {11, "Q3_K", 256, 110},
                                                                {12, "Q4_K", 256, 144},
                                                                {13, "Q5_K", 256, 176},
                                                                {14, "Q6_K", 256, 210},
                                                                {16, "IQ2_XXS", 256, 66},
                                                                {17, "IQ2_XS", 256, 74},
                                                                {18, "IQ3_XXS", 256, 98},
                                                                {19, "IQ1_S", 256, 50},
                                                                {20, "IQ4_NL", 32, 18},
                                                                {21, "IQ3_S", 256, 110},
                                                                {22, "IQ2_S", 256, 82},
                                                                {23, "IQ4_XS", 256, 136},
                                                                {24, "I8", 1, 1},
                                                                {25, "I16", 1, 2},
                                                                {26, "I32", 1, 4},
                                                                {27, "I64", 1, 8},
                                                                {28, "F64", 1, 8},
                                                                {29, "IQ1_M", 256, 56},
                                                                {30, "BF16", 1, 2, DType::BF16},
                                                                {34, "TQ1_0", 256, 54},
                                                                {35, "TQ2_0", 256, 66},
                                                                {39, "MXFP4", 32, 17}});

constexpr std::optional<GgufType> gguf_type_from_id(std::uint32_t id) {
  for (const GgufType& type : all_gguf_types) {
    if (type.id == id) return type;
  }
  return std::nullopt;
}
constexpr std::optional<GgufType> gguf_type_from_dtype(DType dtype) {
  for (const GgufType& type : all_gguf_types) {
    if (type.dtype == dtype) return type;
  }
  return std::nullopt;
}

/// An array of the metadata. The index of the alternative is the code of the element type.
struct GgufArray {
  std::variant<std::vector<std::uint8_t>, std::vector<std::int8_t>, std::vector<std::uint16_t>,
               std::vector<std::int16_t>, std::vector<std::uint32_t>, std::vector<std::int32_t>,
               std::vector<float>, std::vector<bool>, std::vector<std::string>,
               std::vector<GgufArray>, std::vector<std::uint64_t>, std::vector<std::int64_t>,
               std::vector<double>>
      values;
};

/// A value of the metadata. The index of the alternative is the code of its type in the file.
using GgufValue = std::variant<std::uint8_t, std::int8_t, std::uint16_t, std::int16_t,
                               std::uint32_t, std::int32_t, float, bool, std::string, GgufArray,
                               std::uint64_t, std::int64_t, double>;

/// The names of the alternatives in messages.
inline constexpr std::array<std::string_view, std::variant_size_v<GgufValue>> gguf_value_types{
    "u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"};

/// The description of a tensor in a file.
struct GgufTensor {
  GgufType type;
  std::vector<Index> shape;          ///< PyTorch's order: the contiguous dimension last
  std::uint64_t begin = 0, end = 0;  ///< its bytes, counted from the first byte of the data
};

namespace detail {

/// Checks that a name has 1 to `longest` bytes of UTF-8 without NUL.
/// Throws: E "where is ...".
template <class E>
void check_name(std::string_view name, std::size_t longest, const std::string& where) {
  if (name.empty()) throw E(where + " is empty");
  if (name.size() > longest) {
    throw E(where + " " + in_quotes(name) + " has " + std::to_string(name.size()) +
            " bytes, expected at most " + std::to_string(longest));
  }
  std::vector<char32_t> points;
  detail::decode_utf8(name, points);
  const auto bad = [](char32_t c) { return c == 0 || (c >= 0xDC00 && c <= 0xDCFF); };
  if (std::any_of(points.begin(), points.end(), bad))
    throw E(where + " " + in_quotes(name) + " is not UTF-8 without NUL");
}

/// Rounds `bytes` up to a multiple of `alignment`, a power of two. The sum must not overflow.
constexpr std::uint64_t padded(std::uint64_t bytes, std::uint64_t alignment) {
  return (bytes + alignment - 1) & ~(alignment - 1);
}

}  // namespace detail

}  // namespace lora
