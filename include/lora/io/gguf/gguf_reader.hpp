// Reads GGUF files (version 3, little-endian). They are untrusted input: everything in them is
// checked before use.
#pragma once

#include <lora/io/dtype.hpp>
#include <lora/io/file.hpp>
#include <lora/io/gguf/gguf_cursor.hpp>
#include <lora/io/gguf/gguf_types.hpp>

#include <algorithm>
#include <map>
#include <type_traits>
#include <utility>
#include <variant>

namespace lora {

/// The metadata and tensors of a GGUF file.
///
/// A file that opens is complete and unambiguous: keys and names are unique, UTF-8 and within their
/// limits, every count and length is checked against the rest of the file before anything is
/// allocated, a bool is 0 or 1, offsets are exactly the running sum of the padded sizes, padding is
/// zero, and the file ends with the padding of its last tensor. Allocations are at most about ten
/// times the bytes before the data. Does not check values: a tensor may hold NaN, a string any
/// bytes. Never uses names as paths. Rejects types of unknown size.
///
/// Move-only. Several threads may call const functions. Errors name the file, the key or tensor,
/// and the field.
/// Source: ggml's docs/gguf.md and gguf.cpp.
class GgufFile {
 public:
  /// Maps the file (see MappedFile for files truncated in place).
  /// Throws: IoError, FormatError.
  static GgufFile open(const std::filesystem::path& path,
                       std::uint64_t max_bytes = std::uint64_t{1} << 40) {
    return GgufFile(MappedFile(path, max_bytes), path.string());
  }
  /// Opens bytes in memory; `where` names them in errors.
  /// Throws: FormatError.
  static GgufFile from_bytes(std::vector<std::byte> bytes, std::string where) {
    return GgufFile(std::move(bytes), std::move(where));
  }

  const std::string& where() const { return where_; }
  std::uint32_t alignment() const { return alignment_; }
  /// All keys of the metadata, and all tensors, in the file's order.
  const std::vector<std::string>& keys() const { return keys_; }
  const std::vector<std::string>& names() const { return names_; }
  bool contains(std::string_view name) const { return tensors_.find(name) != tensors_.end(); }

  /// Returns the value of a key, or nullptr if there is none.
  const GgufValue* find(std::string_view key) const {
    const auto found = metadata_.find(key);
    return found == metadata_.end() ? nullptr : &found->second;
  }
  /// Returns the value of a key.
  /// Throws: FormatError unless the key exists and is a T.
  template <class T>
  const T& get(std::string_view key) const {
    const std::string_view expected = gguf_value_types[GgufValue(T()).index()];
    const GgufValue* value = find(key);
    if (value == nullptr) {
      throw FormatError(where_ + ": has no key " + in_quotes(key) + ", expected " +
                        std::string(expected));
    }
    const T* typed = std::get_if<T>(value);
    if (typed == nullptr) {
      throw FormatError(where_ + ": key " + in_quotes(key) + " is " +
                        std::string(gguf_value_types[value->index()]) + ", expected " +
                        std::string(expected));
    }
    return *typed;
  }

  /// Throws: FormatError if there is no such tensor.
  const GgufTensor& info(std::string_view name) const {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) throw FormatError(where_ + ": has no tensor " + in_quotes(name));
    return found->second;
  }
  /// Returns the tensor's bytes, valid as long as this object.
  /// Throws: as info().
  std::span<const std::byte> bytes(std::string_view name) const {
    const GgufTensor& tensor = info(name);
    return content().subspan(static_cast<std::size_t>(data_begin_ + tensor.begin),
                             static_cast<std::size_t>(tensor.end - tensor.begin));
  }
  /// Returns the tensor as a matrix: (1, 1) for a scalar, (1, n) for a vector, (first, product of
  /// the rest) for more than two dimensions, in PyTorch's order. Widening is exact.
  /// Throws: FormatError if the tensor does not exist or is neither F32 nor F16 nor BF16.
  /// Allocates: the result.
  template <class S>
  Matrix<S> matrix(std::string_view name) const {
    const GgufTensor& tensor = info(name);
    if (!tensor.type.dtype) {
      throw FormatError(about(name) + "type is " + std::string(tensor.type.name) +
                        ", expected F32, F16 or BF16");
    }
    // The product of all dimensions except those of 0 was checked against 64 bits.
    Index rows = 1, cols = 1;
    for (std::size_t i = 0; i < tensor.shape.size(); ++i)
      (i == 0 && tensor.shape.size() > 1 ? rows : cols) *= tensor.shape[i];
    Matrix<S> m(rows, cols);
    decode_elements(*tensor.type.dtype, bytes(name).data(),
                    std::span<S>(m.data(), static_cast<std::size_t>(m.size())));
    return m;
  }

 private:
  using Content = std::variant<std::vector<std::byte>, MappedFile>;

  GgufFile(Content held, std::string where) : content_(std::move(held)), where_(std::move(where)) {
    check_magic();
    detail::Cursor cursor(content().subspan(8), where_);
    // A tensor's info has at least a length, one byte of name, the number of dimensions, type and
    // offset; a key has a length, one byte, a type and a value of one byte.
    const std::uint64_t tensors = cursor.count("number of tensors", 25);
    const std::uint64_t keys = cursor.count("number of keys", 14);
    for (std::uint64_t i = 0; i < keys; ++i) read_key(cursor);
    read_alignment();
    data_size_ = 0;
    for (std::uint64_t i = 0; i < tensors; ++i) read_tensor(cursor);
    check_data(8 + cursor.at());
  }

  std::span<const std::byte> content() const {
    if (const auto* memory = std::get_if<std::vector<std::byte>>(&content_)) return *memory;
    return std::get<MappedFile>(content_).bytes();
  }
  std::string about(std::string_view name) const {
    return where_ + ": tensor " + in_quotes(name) + ": ";
  }

  void check_magic() const;
  void read_key(detail::Cursor& cursor);
  void read_alignment();
  void read_tensor(detail::Cursor& cursor);
  std::uint64_t byte_count(const GgufTensor& tensor, const std::string& name) const;
  void check_data(std::uint64_t header);
  void check_zeros(std::uint64_t begin, std::uint64_t end, const std::string& what) const;

  Content content_;
  std::string where_;
  std::uint32_t alignment_ = gguf_default_alignment;
  std::uint64_t data_begin_ = 0, data_size_ = 0;
  std::vector<std::string> keys_, names_;
  std::map<std::string, GgufValue, std::less<>> metadata_;
  std::map<std::string, GgufTensor, std::less<>> tensors_;
};

inline void GgufFile::check_magic() const {
  const std::span<const std::byte> file = content();
  refuse_git_lfs_pointer(file, where_);
  if (file.size() < 8 || as_text(file).substr(0, 4) != "GGUF") {
    throw FormatError(where_ + ": begins with " + in_quotes(as_text(file).substr(0, 4)) + " of " +
                      std::to_string(file.size()) + " bytes, expected \"GGUF\" and a version");
  }
  std::uint32_t version = 0;
  std::memcpy(&version, file.data() + 4, 4);
  if (version == gguf_version) return;
  throw FormatError(where_ + ": version is " + std::to_string(version) + ", expected " +
                    std::to_string(gguf_version) +
                    (version != 0 && (version & 0xFFFFu) == 0
                         ? ": it looks like a big-endian file, which is not supported"
                         : ""));
}

inline void GgufFile::read_key(detail::Cursor& cursor) {
  const std::string place = "key " + std::to_string(keys_.size());
  const std::string key = cursor.text(place);
  detail::check_name<FormatError>(key, gguf_longest_key, where_ + ": " + place);
  if (!metadata_.try_emplace(key, cursor.value("key " + in_quotes(key))).second)
    throw FormatError(where_ + ": key " + in_quotes(key) + " appears twice");
  keys_.push_back(key);
}

inline void GgufFile::read_alignment() {
  if (find("general.alignment") == nullptr) return;
  alignment_ = get<std::uint32_t>("general.alignment");
  if (!std::has_single_bit(alignment_)) {
    throw FormatError(where_ + ": key \"general.alignment\" is " + std::to_string(alignment_) +
                      ", expected a power of two");
  }
}

inline void GgufFile::read_tensor(detail::Cursor& cursor) {
  const std::string place = "tensor " + std::to_string(names_.size());
  const std::string name = cursor.text(place + ": name");
  detail::check_name<FormatError>(name, gguf_longest_name, where_ + ": " + place + ": name");
  const std::string what = "tensor " + in_quotes(name) + ": ";
  const auto dimensions = cursor.number<std::uint32_t>(what + "number of dimensions");
  if (dimensions > gguf_most_dimensions) {
    throw FormatError(about(name) + "has " + std::to_string(dimensions) +
                      " dimensions, expected at most " + std::to_string(gguf_most_dimensions));
  }
  GgufTensor tensor;
  for (std::uint32_t i = 0; i < dimensions; ++i) {
    const auto n = cursor.number<std::uint64_t>(what + "dimension");
    if (!std::in_range<Index>(n)) {
      throw FormatError(about(name) + "dimension " + std::to_string(i) + " is " +
                        std::to_string(n) + ", which overflows 63 bits");
    }
    tensor.shape.insert(tensor.shape.begin(), static_cast<Index>(n));
  }
  const auto id = cursor.number<std::uint32_t>(what + "type");
  const auto type = gguf_type_from_id(id);
  if (!type) {
    throw FormatError(about(name) + "type is " + std::to_string(id) + ", whose size is not known");
  }
  tensor.type = *type;
  tensor.begin = cursor.number<std::uint64_t>(what + "offset");
  if (tensor.begin != data_size_) {
    throw FormatError(about(name) + "offset is " + std::to_string(tensor.begin) + ", expected " +
                      std::to_string(data_size_) + ", where the tensor before ends with its " +
                      "padding");
  }
  const std::uint64_t size = byte_count(tensor, name);
  const std::uint64_t room = content().size() - data_size_;  // data_size_ never exceeds the file
  if (size > room || detail::padded(size, alignment_) > room) {
    throw FormatError(about(name) + "takes " + std::to_string(size) + " bytes at offset " +
                      std::to_string(tensor.begin) + " of the data, more than the file of " +
                      std::to_string(content().size()) + " has");
  }
  tensor.end = tensor.begin + size;
  data_size_ += detail::padded(size, alignment_);
  if (!tensors_.emplace(name, std::move(tensor)).second)
    throw FormatError(where_ + ": tensor " + in_quotes(name) + " appears twice");
  names_.push_back(name);
}

// Returns the bytes of all elements. The product of the dimensions that are not 0 must fit into 63
// bits.
inline std::uint64_t GgufFile::byte_count(const GgufTensor& tensor, const std::string& name) const {
  std::uint64_t elements = 1;
  bool empty = false;
  for (const Index n : tensor.shape) {
    const auto size = static_cast<std::uint64_t>(n);
    if (size == 0) {
      empty = true;
    } else if (elements > static_cast<std::uint64_t>(std::numeric_limits<Index>::max()) / size) {
      throw FormatError(about(name) + "shape " + shape_text(tensor.shape) + " overflows 63 bits");
    } else {
      elements *= size;
    }
  }
  const std::uint64_t row =
      tensor.shape.empty() ? 1 : static_cast<std::uint64_t>(tensor.shape.back());
  if (row % tensor.type.block != 0) {
    throw FormatError(about(name) + "a row has " + std::to_string(row) +
                      " elements, expected a multiple of " + std::to_string(tensor.type.block) +
                      ", the block of " + std::string(tensor.type.name));
  }
  if (empty) return 0;
  const std::uint64_t blocks = elements / tensor.type.block;
  if (blocks > std::numeric_limits<std::uint64_t>::max() / tensor.type.block_bytes) {
    throw FormatError(about(name) + "shape " + shape_text(tensor.shape) + " of " +
                      std::string(tensor.type.name) + " overflows 64 bits");
  }
  return blocks * tensor.type.block_bytes;
}

// Checks that the file has `header` bytes, the padding, the data and nothing else.
inline void GgufFile::check_data(std::uint64_t header) {
  const std::uint64_t size = content().size();
  // ggml ends a file without tensors at the header; other writers pad it.
  const bool bare = names_.empty() && size == header;
  data_begin_ = bare ? header : detail::padded(header, alignment_);
  if (size != data_begin_ + data_size_) {
    throw FormatError(where_ + ": has " + std::to_string(size) + " bytes, expected " +
                      std::to_string(data_begin_ + data_size_) + ": " +
                      std::to_string(data_begin_) + " before the data and " +
                      std::to_string(data_size_) + " of tensors with their padding");
  }
  check_zeros(header, data_begin_, "the padding before the data");
  for (const std::string& name : names_) {
    const std::uint64_t end = tensors_.find(name)->second.end;
    check_zeros(data_begin_ + end, data_begin_ + detail::padded(end, alignment_),
                "the padding after tensor " + in_quotes(name));
  }
}

inline void GgufFile::check_zeros(std::uint64_t begin, std::uint64_t end,
                                  const std::string& what) const {
  for (std::uint64_t i = begin; i < end; ++i) {
    if (content()[static_cast<std::size_t>(i)] == std::byte{0}) continue;
    throw FormatError(where_ + ": " + what + " is not zero at byte " + std::to_string(i));
  }
}

}  // namespace lora
