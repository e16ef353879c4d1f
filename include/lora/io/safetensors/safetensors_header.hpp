// Reads the header of a safetensors file. The header is untrusted input: every value is checked
// before it is used.
#pragma once

#include <lora/core/types.hpp>
#include <lora/io/dtype.hpp>
#include <lora/io/file.hpp>
#include <lora/io/json.hpp>

#include <algorithm>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

namespace lora {

/// The largest header of a safetensors file. A longer one is rejected before any allocation for it.
inline constexpr std::uint64_t safetensors_max_header = 100'000'000;

/// The description of a tensor in a file.
struct TensorInfo {
  DType dtype = DType::F32;
  std::vector<Index> shape;          ///< empty for a scalar
  std::uint64_t begin = 0, end = 0;  ///< offsets of its bytes from the first byte after the header
};

/// The descriptions of all tensors of a file. A plain value.
struct SafetensorsHeader {
  std::uint64_t data_begin = 0;    ///< the first byte after the header
  std::vector<std::string> names;  ///< ordered by the position of their bytes
  std::map<std::string, TensorInfo, std::less<>> tensors;
  std::map<std::string, std::string> metadata;
};

namespace detail {

/// Reads and checks the header of a complete file; SafetensorsFile lists what it rejects. `where`
/// begins the messages.
class SafetensorsHeaderReader {
 public:
  SafetensorsHeaderReader(std::span<const std::byte> file, const std::string& where)
      : file_(file), where_(where) {}

  SafetensorsHeader read() {
    read_header();
    check_coverage();
    return std::move(header_);
  }

 private:
  std::string about(std::string_view name) const {
    return where_ + ": tensor " + in_quotes(name) + ": ";
  }

  // Returns the header after checking its length against the limit and the file. Sets data_begin.
  std::string_view header_text() {
    const std::string_view text = as_text(file_);
    refuse_git_lfs_pointer(file_, where_);
    if (file_.size() < 8) {
      throw FormatError(where_ + ": has " + std::to_string(file_.size()) +
                        " bytes, expected at least the 8 of the header's length");
    }
    std::uint64_t length = 0;
    std::memcpy(&length, file_.data(), 8);
    if (length > safetensors_max_header || length > file_.size() - 8) {
      std::string message =
          where_ + ": header length is " + std::to_string(length) + ", expected at most " +
          std::to_string(std::min<std::uint64_t>(safetensors_max_header, file_.size() - 8)) +
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
    header_.data_begin = 8 + length;
    return text.substr(8, static_cast<std::size_t>(length));
  }

  void read_header() {
    const Json header = parse_json(header_text(), where_ + ": header");
    if (!header.is_object()) throw FormatError(where_ + ": header is not a JSON object");
    for (const auto& [name, value] : header.items()) {
      if (name == "__metadata__") {
        read_metadata(value);
      } else if (name.empty()) {
        throw FormatError(where_ + ": a tensor has an empty name");
      } else {
        header_.tensors.emplace(name, read_tensor(name, value));
      }
    }
  }

  void read_metadata(const Json& value) {
    if (value.is_null()) return;
    if (!value.is_object())
      throw FormatError(where_ + ": __metadata__ is " + value.type_name() + ", expected an object");
    for (const auto& [key, text] : value.items()) {
      if (!text.is_string()) {
        throw FormatError(where_ + ": __metadata__: " + in_quotes(key) + " is " + text.type_name() +
                          ", expected a string");
      }
      header_.metadata.emplace(key, text.get_ref<const std::string&>());
    }
  }

  std::uint64_t read_unsigned(const std::string& name, const char* field, const Json& value) const {
    // The JSON type decides: 2.0, 2e0 and -0 are not unsigned integers, and 2^64 is a double.
    if (!value.is_number_unsigned()) {
      throw FormatError(about(name) + field + " holds " + printable(value.dump(), 40) +
                        ", expected an unsigned integer of 64 bits");
    }
    return value.get<std::uint64_t>();
  }

  TensorInfo read_tensor(const std::string& name, const Json& value) const {
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

  // Checks that, in the order of their offsets, each tensor begins where the one before ends, the
  // last ends with the file, and each has the bytes of its shape and type.
  void check_coverage() {
    std::vector<const decltype(header_.tensors)::value_type*> order;
    for (const auto& entry : header_.tensors) order.push_back(&entry);
    std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
      return std::tie(a->second.begin, a->second.end, a->first) <
             std::tie(b->second.begin, b->second.end, b->first);
    });
    const std::uint64_t size = file_.size() - header_.data_begin;
    std::uint64_t expected = 0;
    for (const auto* entry : order) {
      const auto& [name, tensor] = *entry;
      const std::string range = "data_offsets is [" + std::to_string(tensor.begin) + ", " +
                                std::to_string(tensor.end) + "]";
      if (tensor.end < tensor.begin) {
        throw FormatError(about(name) + range + ", expected not to end before it begins");
      }
      if (tensor.begin != expected) {
        throw FormatError(about(name) + range + ", expected to begin at " +
                          std::to_string(expected) +
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
      header_.names.push_back(name);
    }
    if (expected != size) {
      throw FormatError(where_ + ": the tensors end at byte " + std::to_string(expected) +
                        " after the header, expected " + std::to_string(size) +
                        ", the end of the file");
    }
  }

  std::span<const std::byte> file_;
  const std::string& where_;
  SafetensorsHeader header_;
};

}  // namespace detail

}  // namespace lora
