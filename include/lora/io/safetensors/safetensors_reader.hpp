// Reads safetensors files: their tensors as bytes, matrices and integers.
#pragma once

#include <lora/core/types.hpp>
#include <lora/io/dtype.hpp>
#include <lora/io/file.hpp>
#include <lora/io/safetensors/safetensors_header.hpp>

#include <algorithm>
#include <functional>
#include <limits>
#include <map>
#include <numeric>
#include <tuple>
#include <utility>
#include <variant>

namespace lora {

/// How SafetensorsFile::open holds the content: read at once (immune to later changes of the file),
/// or mapped (cheap for large base models; see MappedFile for files truncated in place).
enum class FileStorage { memory, mapped };

struct SafetensorsOptions {
  FileStorage storage = FileStorage::memory;
  std::uint64_t max_bytes = std::uint64_t{1} << 40;  ///< a larger file is rejected
};

/// The tensors of a safetensors file, in C order and little-endian, as huggingface/safetensors
/// defines the format.
///
/// A file that opens is complete and unambiguous: the header is strict UTF-8 JSON (parse_json)
/// without duplicate names, every size is checked, and the tensors cover the data exactly, without
/// holes, overlaps or trailing bytes. Accepts whitespace around the header, unknown fields of a
/// tensor, a null `__metadata__`, and any UTF-8 name, as the reference does. Rejects an empty name,
/// more than 128 dimensions, a dimension past 2^63 - 1, and duplicates that the reference
/// overlooks. Does not check values: a tensor may hold NaN. Never uses names as paths.
///
/// Move-only. Several threads may call const functions. Errors name file, tensor and field.
class SafetensorsFile {
 public:
  /// Opens a file. Throws: IoError, FormatError.
  /// Allocates: the file's size (FileStorage::memory) and the table of its tensors.
  static SafetensorsFile open(const std::filesystem::path& path, SafetensorsOptions options = {}) {
    if (options.storage == FileStorage::mapped)
      return SafetensorsFile(MappedFile(path, options.max_bytes), path.string());
    return SafetensorsFile(read_file(path, options.max_bytes), path.string());
  }
  /// Opens bytes in memory; `where` names them in errors. Throws: FormatError.
  static SafetensorsFile from_bytes(std::vector<std::byte> bytes, std::string where) {
    return SafetensorsFile(std::move(bytes), std::move(where));
  }

  const std::string& where() const { return where_; }
  /// All names, ordered by the position of their bytes.
  const std::vector<std::string>& names() const { return header_.names; }
  /// `__metadata__`, or an empty map.
  const std::map<std::string, std::string>& metadata() const { return header_.metadata; }
  bool contains(std::string_view name) const {
    return header_.tensors.find(name) != header_.tensors.end();
  }

  /// Throws: FormatError if there is no such tensor.
  const TensorInfo& info(std::string_view name) const {
    const auto found = header_.tensors.find(name);
    if (found == header_.tensors.end())
      throw FormatError(where_ + ": has no tensor " + in_quotes(name) + "; " + inventory());
    return found->second;
  }
  /// Returns the tensor's bytes, not aligned and valid as long as this object.
  /// Throws: as info().
  std::span<const std::byte> bytes(std::string_view name) const {
    const TensorInfo& tensor = info(name);
    return content().subspan(static_cast<std::size_t>(header_.data_begin + tensor.begin),
                             static_cast<std::size_t>(tensor.end - tensor.begin));
  }

  /// Renames tensors. Throws: FormatError if two would have one name; then nothing changes.
  void rename(const std::map<std::string, std::string>& names);

  /// The whole file, header and data, valid as long as this object.
  std::span<const std::byte> file_bytes() const { return content(); }

  /// For a mapped file, returns the memory of a part of bytes() to the system; see MappedFile.
  void forget(std::span<const std::byte> part) const {
    if (const auto* mapped = std::get_if<MappedFile>(&content_)) mapped->forget(part);
  }

  /// Returns the tensor as a matrix: (1, 1) for a scalar, (1, n) for a vector, (first, product of
  /// the rest) for more than two dimensions. F16, BF16 and F32 widen exactly; F64 to float rounds
  /// to nearest even.
  /// Throws: FormatError if the tensor does not exist or has another type.
  /// Allocates: the result.
  template <class S>
  Matrix<S> matrix(std::string_view name) const {
    const TensorInfo& tensor = info(name);
    if (!is_matrix_dtype(tensor.dtype)) {
      throw FormatError(about(name) + "dtype is " + matrix_dtype_fault(tensor.dtype));
    }
    const auto& shape = tensor.shape;
    const auto product = [](auto first, auto last) {
      // Cannot overflow: tensor_byte_count has multiplied all dimensions except those of 0.
      return std::accumulate(first, last, Index{1}, std::multiplies<>());
    };
    const Index rows = shape.size() < 2 ? 1 : shape.front();
    const Index cols = product(shape.begin() + (shape.size() < 2 ? 0 : 1), shape.end());
    Matrix<S> m(rows, cols);
    decode_elements(tensor.dtype, bytes(name).data(),
                    std::span<S>(m.data(), static_cast<std::size_t>(m.size())));
    return m;
  }

  /// Returns the elements of an integer or BOOL tensor in C order. Allocates the result.
  /// Throws: FormatError if the tensor does not exist or has another type, for a U64 past 2^63 - 1,
  ///   and for a BOOL other than 0 or 1.
  std::vector<std::int64_t> integers(std::string_view name) const;

 private:
  using Content = std::variant<std::vector<std::byte>, MappedFile>;

  SafetensorsFile(Content content, std::string where)
      : content_(std::move(content)),
        where_(std::move(where)),
        header_(detail::SafetensorsHeaderReader(this->content(), where_).read()) {}

  std::span<const std::byte> content() const {
    if (const auto* memory = std::get_if<std::vector<std::byte>>(&content_)) return *memory;
    return std::get<MappedFile>(content_).bytes();
  }
  std::string about(std::string_view name) const {
    return where_ + ": tensor " + in_quotes(name) + ": ";
  }
  std::string inventory() const;

  template <class E>
  void append_integers(std::string_view name, std::vector<std::int64_t>& values) const;

  Content content_;
  std::string where_;
  SafetensorsHeader header_;
};

inline void SafetensorsFile::rename(const std::map<std::string, std::string>& names) {
  auto renamed = header_.names;
  decltype(header_.tensors) tensors;
  for (std::string& name : renamed) {
    const TensorInfo& tensor = info(name);
    if (names.count(name) != 0) name = names.at(name);
    if (!tensors.emplace(name, tensor).second)
      throw FormatError(where_ + ": two tensors would have the name " + in_quotes(name));
  }
  header_.names = std::move(renamed);
  header_.tensors = std::move(tensors);
}

inline std::string SafetensorsFile::inventory() const {
  constexpr std::size_t shown = 8;
  std::string text = "it holds " + std::to_string(header_.names.size()) + " tensors";
  for (std::size_t i = 0; i < std::min(shown, header_.names.size()); ++i) {
    text += (i == 0 ? ": " : ", ") + in_quotes(header_.names[i]);
  }
  return header_.names.size() > shown ? text + ", ..." : text;
}

template <class E>
void SafetensorsFile::append_integers(std::string_view name,
                                      std::vector<std::int64_t>& values) const {
  const std::span<const std::byte> from = bytes(name);
  values.resize(from.size() / sizeof(E));
  for (std::size_t i = 0; i < values.size(); ++i) {
    E element;
    std::memcpy(&element, from.data() + i * sizeof(E), sizeof(E));
    if (!std::in_range<std::int64_t>(element)) {
      throw FormatError(about(name) + "element " + std::to_string(i) + " is " +
                        std::to_string(element) + ", which overflows a signed integer of 64 bits");
    }
    values[i] = static_cast<std::int64_t>(element);
  }
}

inline std::vector<std::int64_t> SafetensorsFile::integers(std::string_view name) const {
  std::vector<std::int64_t> values;
  switch (const DType dtype = info(name).dtype) {
    case DType::I8:
      append_integers<std::int8_t>(name, values);
      break;
    case DType::BOOL:
    case DType::U8:
      append_integers<std::uint8_t>(name, values);
      break;
    case DType::I16:
      append_integers<std::int16_t>(name, values);
      break;
    case DType::U16:
      append_integers<std::uint16_t>(name, values);
      break;
    case DType::I32:
      append_integers<std::int32_t>(name, values);
      break;
    case DType::U32:
      append_integers<std::uint32_t>(name, values);
      break;
    case DType::I64:
      append_integers<std::int64_t>(name, values);
      break;
    case DType::U64:
      append_integers<std::uint64_t>(name, values);
      break;
    default:
      throw FormatError(about(name) + "dtype is " + std::string(dtype_name(dtype)) +
                        ", expected integers or BOOL");
  }
  if (info(name).dtype == DType::BOOL) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (values[i] > 1) {
        throw FormatError(about(name) + "element " + std::to_string(i) + " is " +
                          std::to_string(values[i]) + ", expected 0 or 1");
      }
    }
  }
  return values;
}

}  // namespace lora
