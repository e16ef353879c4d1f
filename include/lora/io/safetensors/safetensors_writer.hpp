// Writes safetensors files as the reference does, all or nothing.
#pragma once

#include <lora/core/types.hpp>
#include <lora/io/atomic_file.hpp>
#include <lora/io/dtype.hpp>
#include <lora/io/json.hpp>
#include <lora/io/safetensors/safetensors_reader.hpp>

#include <deque>
#include <functional>
#include <map>

namespace lora {

/// Collects tensors and writes them as one file that others can read: the header is padded with
/// spaces to a multiple of 8, the widest types come first (the reference's order), and names are
/// sorted within a type, so that every tensor is aligned to its element. The bytes do not depend on
/// the order of adding. Use one object per thread.
class SafetensorsWriter {
 public:
  /// Adds a tensor whose bytes the caller keeps unchanged until after the last write.
  /// Throws: ConfigError for a name that is empty, `__metadata__`, not UTF-8 or already present;
  ///   ShapeError for an invalid shape or a wrong number of bytes. Nothing is added then.
  void add(const std::string& name, DType dtype, std::vector<Index> shape,
           std::span<const std::byte> bytes) {
    insert(name, dtype, std::move(shape), bytes);
  }
  /// Adds a tensor and takes ownership of its bytes.
  void add(const std::string& name, DType dtype, std::vector<Index> shape,
           std::vector<std::byte>&& bytes) {
    insert(name, dtype, std::move(shape), bytes);
    owned_.push_back(std::move(bytes));  // moving keeps the address that insert has stored
  }
  /// Adds float or double values as `dtype` (F16, BF16, F32 or F64), rounded once to nearest even,
  /// or copied bit for bit if the type is the same. `shape` is PyTorch's, by default {rows, cols}.
  /// Copies the values.
  /// Throws: as above; ConfigError for another dtype.
  template <class Derived>
  void add(const std::string& name, const Eigen::MatrixBase<Derived>& values, DType dtype) {
    add(name, values, dtype, {values.rows(), values.cols()});
  }
  template <class Derived>
  void add(const std::string& name, const Eigen::MatrixBase<Derived>& values, DType dtype,
           std::vector<Index> shape) {
    using S = typename Derived::Scalar;
    if (!is_matrix_dtype(dtype)) {
      throw ConfigError(about(name) + "dtype is " + matrix_dtype_fault(dtype));
    }
    const Matrix<S> m = values;
    std::vector<std::byte> bytes(static_cast<std::size_t>(m.size()) * (dtype_bits(dtype) / 8));
    encode_elements(dtype, std::span<const S>(m.data(), static_cast<std::size_t>(m.size())),
                    bytes.data());
    insert(name, dtype, std::move(shape), bytes);
    owned_.push_back(std::move(bytes));  // moving keeps the address that insert has stored
  }
  /// Receives the next bytes of a tensor.
  using ByteSink = std::function<void(std::span<const std::byte>)>;
  /// Adds a tensor that is not in memory: whenever the file is written, `produce` passes its bytes
  /// to the sink in order, in any number of parts. Its exceptions pass through write(), which
  /// throws Error if the number of bytes is wrong; the old file stays then.
  /// Throws: as add().
  void add_computed(const std::string& name, DType dtype, std::vector<Index> shape,
                    std::function<void(const ByteSink&)> produce) {
    insert(name, dtype, std::move(shape), {}, std::move(produce));
  }
  /// Sets an entry of `__metadata__`.
  /// Throws: ConfigError if key or value is not UTF-8.
  void set_metadata(const std::string& key, const std::string& value) {
    json_string(key, "SafetensorsWriter: metadata key");
    json_string(value, "SafetensorsWriter: metadata " + in_quotes(key));
    metadata_[key] = value;
  }

  /// Calls fn(name, dtype, shape) for every tensor, in the order of the file.
  template <class Fn>
  void for_each_tensor(Fn&& fn) const {
    for (const auto& [key, tensor] : tensors_) fn(key.name, key.dtype, tensor.shape);
  }

  /// Writes the file atomically (see AtomicFile), so a file may be overwritten while it is open for
  /// reading.
  /// Throws: IoError; ConfigError if the header exceeds safetensors_max_header.
  /// Allocates: the header.
  void write(const std::filesystem::path& path) const {
    const std::string head = header();
    AtomicFile file(path);
    file.write(std::as_bytes(std::span(head)));
    for (const auto& [key, tensor] : tensors_)
      emit(key.name, tensor, [&](std::span<const std::byte> bytes) { file.write(bytes); });
    file.commit();
  }
  /// Returns the bytes that write() would write.
  std::vector<std::byte> to_bytes() const {
    const std::string head = header();
    const auto head_bytes = std::as_bytes(std::span(head));
    std::vector<std::byte> bytes(head_bytes.begin(), head_bytes.end());
    for (const auto& [key, tensor] : tensors_) {
      emit(key.name, tensor, [&](std::span<const std::byte> part) {
        bytes.insert(bytes.end(), part.begin(), part.end());
      });
    }
    return bytes;
  }

 private:
  struct Key {
    DType dtype;
    std::string name;
    bool operator<(const Key& other) const {
      return dtype != other.dtype ? dtype > other.dtype : name < other.name;
    }
  };
  struct Tensor {
    std::vector<Index> shape;
    std::uint64_t size;
    std::span<const std::byte> bytes;
    std::function<void(const ByteSink&)> produce;  // instead of bytes
  };

  static std::string about(const std::string& name) {
    return "SafetensorsWriter: tensor " + in_quotes(name) + ": ";
  }

  static void emit(const std::string& name, const Tensor& tensor, const ByteSink& sink) {
    if (!tensor.produce) return sink(tensor.bytes);
    std::uint64_t left = tensor.size;
    const auto expect = [&](bool good, const char* what) {
      if (good) return;
      throw Error(about(name) + "was computed with " + what + " than the " +
                  std::to_string(tensor.size) + " bytes of its shape");
    };
    tensor.produce([&](std::span<const std::byte> part) {
      expect(part.size() <= left, "more");
      sink(part);
      left -= part.size();
    });
    expect(left == 0, "fewer");
  }

  void insert(const std::string& name, DType dtype, std::vector<Index> shape,
              std::span<const std::byte> bytes,
              std::function<void(const ByteSink&)> produce = nullptr) {
    if (name.empty() || name == "__metadata__") {
      throw ConfigError(about(name) + "the format allows no tensor of this name");
    }
    json_string(name, "SafetensorsWriter: tensor name");
    const std::uint64_t needed =
        tensor_byte_count<ShapeError>(dtype, shape, "SafetensorsWriter: tensor " + in_quotes(name));
    if (!produce && needed != bytes.size()) {
      throw ShapeError(about(name) + std::to_string(bytes.size()) + " bytes given, expected " +
                       std::to_string(needed) + " for shape " + shape_text(shape) + " of " +
                       std::string(dtype_name(dtype)));
    }
    if (!names_.insert(name).second) throw ConfigError(about(name) + "added twice");
    tensors_.emplace(Key{dtype, name}, Tensor{std::move(shape), needed, bytes, std::move(produce)});
  }

  // Returns the length, the JSON and its padding.
  std::string header() const;

  std::map<Key, Tensor> tensors_;
  std::set<std::string> names_;
  std::map<std::string, std::string> metadata_;
  std::deque<std::vector<std::byte>> owned_;
};

inline std::string SafetensorsWriter::header() const {
  std::string text(8, '\0');
  const char* separator = "{";
  if (!metadata_.empty()) {
    text += "{\"__metadata__\":";
    for (const auto& [key, value] : metadata_) {
      text += separator + json_string(key, "") + ":" + json_string(value, "");
      separator = ",";
    }
    text += "}";
  }
  std::uint64_t begin = 0;
  for (const auto& [key, tensor] : tensors_) {
    const std::uint64_t end = begin + tensor.size;
    text += separator + json_string(key.name, "") + ":{\"dtype\":\"" +
            std::string(dtype_name(key.dtype)) + "\",\"shape\":[";
    for (std::size_t i = 0; i < tensor.shape.size(); ++i) {
      if (i > 0) text += ',';
      text += std::to_string(tensor.shape[i]);
    }
    text += "],\"data_offsets\":[" + std::to_string(begin) + "," + std::to_string(end) + "]}";
    separator = ",";
    begin = end;
  }
  text += metadata_.empty() && tensors_.empty() ? "{}" : "}";
  text.append((8 - text.size() % 8) % 8, ' ');
  const std::uint64_t length = text.size() - 8;
  if (length > safetensors_max_header) {
    throw ConfigError("SafetensorsWriter: the header has " + std::to_string(length) +
                      " bytes, the format allows " + std::to_string(safetensors_max_header));
  }
  std::memcpy(text.data(), &length, 8);
  return text;
}

}  // namespace lora
