// Writes GGUF files (version 3, little-endian), all or nothing.
#pragma once

#include <lora/core/types.hpp>
#include <lora/io/atomic_file.hpp>
#include <lora/io/dtype.hpp>
#include <lora/io/gguf/gguf_types.hpp>

#include <set>
#include <type_traits>
#include <utility>

namespace lora {

/// Collects metadata and tensors and writes them as one file, both in the order in which they were
/// added, each tensor padded with zeros to gguf_default_alignment. The same calls give the same
/// bytes. Use one object per thread.
class GgufWriter {
 public:
  /// Adds an entry of the metadata.
  /// Throws: ConfigError for a key that is empty, too long, not UTF-8 or already present, for
  ///   `general.alignment` (the writer uses the default), for a string that is not UTF-8 or holds
  ///   NUL, and for arrays deeper than gguf_deepest_array. Nothing is added then.
  void set(const std::string& key, const GgufValue& value) {
    detail::check_name<ConfigError>(key, gguf_longest_key, "GgufWriter: key");
    const std::string about = "GgufWriter: key " + in_quotes(key);
    if (key == "general.alignment")
      throw ConfigError(about + " is not set by callers: tensors are aligned to the default");
    std::string bytes;
    append_text(bytes, key);
    append_number(bytes, static_cast<std::uint32_t>(value.index()));
    std::visit([&](const auto& one) { append(bytes, one, about, 1); }, value);
    if (!keys_.insert(key).second) throw ConfigError(about + " set twice");
    metadata_ += bytes;
  }

  /// Adds a tensor of F32, F16 or BF16; `shape` is PyTorch's, with the contiguous dimension last.
  /// Takes ownership of the bytes.
  /// Throws: ConfigError for another type and for a name that is empty, longer than
  ///   gguf_longest_name, not UTF-8 or already present; ShapeError for a shape that has more than
  ///   gguf_most_dimensions, is invalid or takes another number of bytes. Nothing is added then.
  void add(const std::string& name, DType dtype, std::span<const Index> shape,
           std::vector<std::byte> bytes) {
    detail::check_name<ConfigError>(name, gguf_longest_name, "GgufWriter: tensor name");
    const std::string about = "GgufWriter: tensor " + in_quotes(name);
    const auto type = gguf_type_from_dtype(dtype);
    if (!type) {
      throw ConfigError(about + ": dtype is " + std::string(dtype_name(dtype)) +
                        ", expected F32, F16 or BF16");
    }
    if (shape.size() > gguf_most_dimensions) {
      throw ShapeError(about + ": shape " + shape_text(shape) + " has " +
                       std::to_string(shape.size()) + " dimensions, expected at most " +
                       std::to_string(gguf_most_dimensions));
    }
    const std::uint64_t needed = tensor_byte_count<ShapeError>(dtype, shape, about);
    if (needed != bytes.size()) {
      throw ShapeError(about + ": " + std::to_string(bytes.size()) + " bytes given, expected " +
                       std::to_string(needed) + " for shape " + shape_text(shape) + " of " +
                       std::string(dtype_name(dtype)));
    }
    if (!names_.insert(name).second) throw ConfigError(about + " added twice");
    append_text(infos_, name);
    append_number(infos_, static_cast<std::uint32_t>(shape.size()));
    for (std::size_t i = shape.size(); i-- > 0;)
      append_number(infos_, static_cast<std::uint64_t>(shape[i]));
    append_number(infos_, type->id);
    append_number(infos_, data_size_);
    data_size_ += detail::padded(bytes.size(), gguf_default_alignment);
    data_.push_back(std::move(bytes));
  }

  /// Writes the file atomically (see AtomicFile).
  /// Throws: IoError.
  void write(const std::filesystem::path& path) const {
    AtomicFile file(path);
    for_each_piece([&](std::span<const std::byte> piece) { file.write(piece); });
    file.commit();
  }
  /// Returns the bytes that write() would write.
  std::vector<std::byte> to_bytes() const {
    std::vector<std::byte> bytes;
    for_each_piece([&](std::span<const std::byte> piece) {
      bytes.insert(bytes.end(), piece.begin(), piece.end());
    });
    return bytes;
  }

 private:
  template <class T>
  static void append_number(std::string& to, T number) {
    char bytes[sizeof(T)];
    std::memcpy(bytes, &number, sizeof(T));
    to.append(bytes, sizeof(T));
  }
  static void append_text(std::string& to, const std::string& text) {
    append_number(to, std::uint64_t{text.size()});
    to += text;
  }
  template <class T>
  static void append(std::string& to, const T& value, const std::string& about, int depth) {
    if constexpr (std::is_same_v<T, std::string>) {
      if (!value.empty()) {
        detail::check_name<ConfigError>(value, value.size(), about + ": value");
      }
      append_text(to, value);
    } else if constexpr (std::is_same_v<T, GgufArray>) {
      if (depth > gguf_deepest_array) {
        throw ConfigError(about + ": arrays are nested deeper than " +
                          std::to_string(gguf_deepest_array) + " levels");
      }
      append_number(to, static_cast<std::uint32_t>(value.values.index()));
      std::visit(
          [&]<class E>(const std::vector<E>& elements) {
            append_number(to, std::uint64_t{elements.size()});
            for (const E& element : elements) append(to, element, about, depth + 1);
          },
          value.values);
    } else if constexpr (std::is_same_v<T, bool>) {
      append_number(to, static_cast<std::uint8_t>(value ? 1 : 0));
    } else {
      append_number(to, value);
    }
  }

  template <class Write>
  void for_each_piece(Write write) const {
    std::string head = "GGUF";
    append_number(head, gguf_version);
    append_number(head, std::uint64_t{names_.size()});
    append_number(head, std::uint64_t{keys_.size()});
    head += metadata_ + infos_;
    head.resize(detail::padded(head.size(), gguf_default_alignment));
    write(std::as_bytes(std::span(head)));
    constexpr std::byte zeros[gguf_default_alignment]{};
    for (const std::vector<std::byte>& bytes : data_) {
      write(std::span<const std::byte>(bytes));
      write(std::span(zeros).first(detail::padded(bytes.size(), gguf_default_alignment) -
                                   bytes.size()));
    }
  }

  std::set<std::string> keys_, names_;
  std::string metadata_, infos_;  // as in the file
  std::uint64_t data_size_ = 0;
  std::vector<std::vector<std::byte>> data_;
};

}  // namespace lora
