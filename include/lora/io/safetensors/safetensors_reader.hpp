// Reading safetensors files, which are untrusted input: nothing in them is believed before it is
// checked.
#pragma once

#include <lora/core/types.hpp>
#include <lora/io/dtype.hpp>
#include <lora/io/file.hpp>
#include <lora/io/json.hpp>

#include <algorithm>
#include <functional>
#include <limits>
#include <map>
#include <numeric>
#include <tuple>
#include <utility>
#include <variant>

namespace lora {

/// The largest header of a safetensors file; a longer one is refused before anything is allocated
/// for it.
inline constexpr std::uint64_t safetensors_max_header = 100'000'000;

/// How SafetensorsFile::open holds the content: read at once (nothing can change it any more), or
/// mapped (cheap for large base models; see MappedFile for what happens when somebody cuts the file
/// short in place).
enum class FileStorage { memory, mapped };

struct SafetensorsOptions {
  FileStorage storage = FileStorage::memory;
  std::uint64_t max_bytes = std::uint64_t{1} << 40;  ///< a larger file is refused
};

/// What a file says of one tensor.
struct TensorInfo {
  DType dtype = DType::F32;
  std::vector<Index> shape;          ///< empty for a scalar
  std::uint64_t begin = 0, end = 0;  ///< its bytes, counted from the first byte after the header
};

/// The tensors of one safetensors file, in C order and little-endian, as huggingface/safetensors
/// defines the format.
///
/// A file that opens is whole and unambiguous: the header is strict UTF-8 JSON (parse_json) without
/// duplicate names, every size is checked, and the tensors cover the data exactly, without hole,
/// overlap or trailing byte. Where the format leaves room: whitespace around the header, unknown
/// fields of a tensor, a null `__metadata__`, and any name that is UTF-8 are accepted, as the
/// reference does; refused are an empty name, more than 128 dimensions, a dimension past 2^63 - 1,
/// and duplicates that the reference overlooks. Values are not checked: a tensor may hold NaN.
/// Names are never used as paths.
///
/// Move-only. const calls are safe from several threads. Errors name file, tensor and field.
class SafetensorsFile {
 public:
  /// Throws IoError or FormatError. Allocates the file's size (FileStorage::memory) and the table
  /// of its tensors.
  static SafetensorsFile open(const std::filesystem::path& path, SafetensorsOptions options = {}) {
    if (options.storage == FileStorage::mapped)
      return SafetensorsFile(MappedFile(path, options.max_bytes), path.string());
    return SafetensorsFile(read_file(path, options.max_bytes), path.string());
  }
  /// The same for bytes in memory; `where` names them in errors. Throws FormatError.
  static SafetensorsFile from_bytes(std::vector<std::byte> bytes, std::string where) {
    return SafetensorsFile(std::move(bytes), std::move(where));
  }

  const std::string& where() const { return where_; }
  /// All names, by the position of their bytes.
  const std::vector<std::string>& names() const { return names_; }
  /// `__metadata__`, empty when there is none.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  bool contains(std::string_view name) const { return tensors_.find(name) != tensors_.end(); }

  /// Throws FormatError when there is no such tensor.
  const TensorInfo& info(std::string_view name) const {
    const auto found = tensors_.find(name);
    if (found == tensors_.end())
      throw FormatError(where_ + ": has no tensor " + in_quotes(name) + "; " + inventory());
    return found->second;
  }
  /// The tensor's bytes, at any address (not aligned); good as long as this object. Throws as
  /// info().
  std::span<const std::byte> bytes(std::string_view name) const {
    const TensorInfo& tensor = info(name);
    return content().subspan(static_cast<std::size_t>(data_begin_ + tensor.begin),
                             static_cast<std::size_t>(tensor.end - tensor.begin));
  }

  /// Gives tensors other names. Throws FormatError, nothing changed, when two would have one.
  void rename(const std::map<std::string, std::string>& names);

  /// The whole file, header and data. Good as long as the object lives.
  std::span<const std::byte> file_bytes() const { return content(); }

  /// Of a mapped file: the memory of a part of bytes() goes back to the system, see MappedFile.
  void forget(std::span<const std::byte> part) const {
    if (const auto* mapped = std::get_if<MappedFile>(&content_)) mapped->forget(part);
  }

  /// The tensor as a matrix: (1, 1) for a scalar, (1, n) for a vector, (first, product of the rest)
  /// for more than two dimensions. F16, BF16 and F32 widen exactly, F64 into float rounds to
  /// nearest even. Allocates the result. Throws FormatError when there is no such tensor, or of
  /// another type.
  template <class S>
  Matrix<S> matrix(std::string_view name) const {
    const TensorInfo& tensor = info(name);
    if (!is_matrix_dtype(tensor.dtype)) {
      throw FormatError(about(name) + "dtype is " + matrix_dtype_fault(tensor.dtype));
    }
    const auto& shape = tensor.shape;
    const auto product = [](auto first, auto last) {
      // Cannot overflow: tensor_byte_count has multiplied all dimensions that are not 0.
      return std::accumulate(first, last, Index{1}, std::multiplies<>());
    };
    const Index rows = shape.size() < 2 ? 1 : shape.front();
    const Index cols = product(shape.begin() + (shape.size() < 2 ? 0 : 1), shape.end());
    Matrix<S> m(rows, cols);
    decode_elements(tensor.dtype, bytes(name).data(),
                    std::span<S>(m.data(), static_cast<std::size_t>(m.size())));
    return m;
  }

  /// The elements of an integer or BOOL tensor in C order. Allocates the result. Throws FormatError
  /// when there is no such tensor, for another type, for a U64 past 2^63 - 1 and for a BOOL that is
  /// neither 0 nor 1.
  std::vector<std::int64_t> integers(std::string_view name) const;

 private:
  using Content = std::variant<std::vector<std::byte>, MappedFile>;

  SafetensorsFile(Content content, std::string where)
      : content_(std::move(content)), where_(std::move(where)) {
    read_header();
    check_coverage();
  }

  std::span<const std::byte> content() const {
    if (const auto* memory = std::get_if<std::vector<std::byte>>(&content_)) return *memory;
    return std::get<MappedFile>(content_).bytes();
  }
  std::string about(std::string_view name) const {
    return where_ + ": tensor " + in_quotes(name) + ": ";
  }
  std::string inventory() const;

  std::string_view header_text();
  void read_header();
  void read_metadata(const Json& value);
  TensorInfo read_tensor(const std::string& name, const Json& value) const;
  std::uint64_t read_unsigned(const std::string& name, const char* field, const Json& value) const;
  void check_coverage();

  template <class E>
  void append_integers(std::string_view name, std::vector<std::int64_t>& values) const;

  Content content_;
  std::string where_;
  std::uint64_t data_begin_ = 0;
  std::vector<std::string> names_;
  std::map<std::string, TensorInfo, std::less<>> tensors_;
  std::map<std::string, std::string> metadata_;
};

inline void SafetensorsFile::rename(const std::map<std::string, std::string>& names) {
  auto renamed = names_;
  decltype(tensors_) tensors;
  for (std::string& name : renamed) {
    const TensorInfo& tensor = info(name);
    if (names.count(name) != 0) name = names.at(name);
    if (!tensors.emplace(name, tensor).second)
      throw FormatError(where_ + ": two tensors stand for " + in_quotes(name));
  }
  names_ = std::move(renamed);
  tensors_ = std::move(tensors);
}

inline std::string SafetensorsFile::inventory() const {
  constexpr std::size_t shown = 8;
  std::string text = "it holds " + std::to_string(names_.size()) + " tensors";
  for (std::size_t i = 0; i < std::min(shown, names_.size()); ++i) {
    text += (i == 0 ? ": " : ", ") + in_quotes(names_[i]);
  }
  return names_.size() > shown ? text + ", ..." : text;
}

// The header, after its length was held against the limit and against the file. Sets data_begin_.
inline std::string_view SafetensorsFile::header_text() {
  const std::span<const std::byte> file = content();
  const std::string_view text = as_text(file);
  refuse_git_lfs_pointer(file, where_);
  if (file.size() < 8) {
    throw FormatError(where_ + ": has " + std::to_string(file.size()) +
                      " bytes, expected at least the 8 of the header's length");
  }
  std::uint64_t length = 0;
  std::memcpy(&length, file.data(), 8);
  if (length > safetensors_max_header || length > file.size() - 8) {
    std::string message =
        where_ + ": header length is " + std::to_string(length) + ", expected at most " +
        std::to_string(std::min<std::uint64_t>(safetensors_max_header, file.size() - 8)) +
        (length > safetensors_max_header ? " (limit of the format)" : " (rest of the file)");
    const auto is_text = [](char ch) {
      return (ch >= 0x20 && ch < 0x7F) || ch == '\n' || ch == '\r' || ch == '\t';
    };
    if (std::all_of(text.begin(), text.begin() + 8, is_text)) {
      message += "; the file begins like text, " + in_quotes(text.substr(0, 60)) +
                 ": a web page, or a link that was stored as text, in place of the file?";
    }
    throw FormatError(message);
  }
  data_begin_ = 8 + length;
  return text.substr(8, static_cast<std::size_t>(length));
}

inline void SafetensorsFile::read_header() {
  const Json header = parse_json(header_text(), where_ + ": header");
  if (!header.is_object()) throw FormatError(where_ + ": header is not a JSON object");
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__") {
      read_metadata(value);
    } else if (name.empty()) {
      throw FormatError(where_ + ": a tensor has an empty name");
    } else {
      tensors_.emplace(name, read_tensor(name, value));
    }
  }
}

inline void SafetensorsFile::read_metadata(const Json& value) {
  if (value.is_null()) return;
  if (!value.is_object())
    throw FormatError(where_ + ": __metadata__ is " + value.type_name() + ", expected an object");
  for (const auto& [key, text] : value.items()) {
    if (!text.is_string()) {
      throw FormatError(where_ + ": __metadata__: " + in_quotes(key) + " is " + text.type_name() +
                        ", expected a string");
    }
    metadata_.emplace(key, text.get_ref<const std::string&>());
  }
}

inline std::uint64_t SafetensorsFile::read_unsigned(const std::string& name, const char* field,
                                                    const Json& value) const {
  // The kind of the number decides: 2.0, 2e0 and -0 are not unsigned integers, and 2^64 is a
  // double.
  if (!value.is_number_unsigned()) {
    throw FormatError(about(name) + field + " holds " + printable(value.dump(), 40) +
                      ", expected an unsigned integer of 64 bits");
  }
  return value.get<std::uint64_t>();
}

inline TensorInfo SafetensorsFile::read_tensor(const std::string& name, const Json& value) const {
  if (!value.is_object())
    throw FormatError(about(name) + "is " + value.type_name() + ", expected an object");
  const auto field = [&](const char* key, bool (Json::*is_kind)() const noexcept,
                         const char* kind) -> const Json& {
    const auto found = value.find(key);
    if (found == value.end()) throw FormatError(about(name) + key + " is missing");
    if (!((*found).*is_kind)()) {
      throw FormatError(about(name) + key + " is " + found->type_name() + ", expected " + kind);
    }
    return *found;
  };
  TensorInfo tensor;
  const auto& dtype = field("dtype", &Json::is_string, "a string").get_ref<const std::string&>();
  if (const auto known = dtype_from_name(dtype)) {
    tensor.dtype = *known;
  } else {
    throw FormatError(about(name) + "dtype is " + in_quotes(dtype) +
                      ", which is not one of the format's");
  }
  for (const Json& dimension : field("shape", &Json::is_array, "an array")) {
    const std::uint64_t n = read_unsigned(name, "shape", dimension);
    if (n > static_cast<std::uint64_t>(std::numeric_limits<Index>::max())) {
      throw FormatError(about(name) + "shape holds " + std::to_string(n) +
                        ", which overflows 63 bits");
    }
    tensor.shape.push_back(static_cast<Index>(n));
  }
  const Json& offsets = field("data_offsets", &Json::is_array, "an array");
  if (offsets.size() != 2) {
    throw FormatError(about(name) + "data_offsets has " + std::to_string(offsets.size()) +
                      " numbers, expected [begin, end]");
  }
  tensor.begin = read_unsigned(name, "data_offsets", offsets[0]);
  tensor.end = read_unsigned(name, "data_offsets", offsets[1]);
  return tensor;
}

// In the order of their offsets, each tensor begins where the one before ended, the last ends with
// the file, and each has as many bytes as its shape and type take.
inline void SafetensorsFile::check_coverage() {
  std::vector<const decltype(tensors_)::value_type*> order;
  for (const auto& entry : tensors_) order.push_back(&entry);
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return std::tie(a->second.begin, a->second.end, a->first) <
           std::tie(b->second.begin, b->second.end, b->first);
  });
  const std::uint64_t size = content().size() - data_begin_;
  std::uint64_t expected = 0;
  for (const auto* entry : order) {
    const auto& [name, tensor] = *entry;
    const std::string range = "data_offsets is [" + std::to_string(tensor.begin) + ", " +
                              std::to_string(tensor.end) + "]";
    if (tensor.end < tensor.begin) {
      throw FormatError(about(name) + range + ", expected not to end before it begins");
    }
    if (tensor.begin != expected) {
      throw FormatError(about(name) + range + ", expected to begin at " + std::to_string(expected) +
                        ", where the tensor before ends: no hole and no overlap");
    }
    if (tensor.end > size) {
      throw FormatError(about(name) + range + ", but the file has only " + std::to_string(size) +
                        " bytes after the header");
    }
    const auto needed = tensor_byte_count<FormatError>(tensor.dtype, tensor.shape,
                                                       where_ + ": tensor " + in_quotes(name));
    if (tensor.end - tensor.begin != needed) {
      throw FormatError(about(name) + range + ", expected " + std::to_string(needed) +
                        " bytes for shape " + shape_text(tensor.shape) + " of " +
                        std::string(dtype_name(tensor.dtype)));
    }
    expected = tensor.end;
    names_.push_back(name);
  }
  if (expected != size) {
    throw FormatError(where_ + ": the tensors end at byte " + std::to_string(expected) +
                      " after the header, expected " + std::to_string(size) +
                      ", the end of the file");
  }
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
