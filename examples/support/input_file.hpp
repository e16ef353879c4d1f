// Checks a file before it is read.
#pragma once

#include <lora/core/error.hpp>

#include <cstdint>
#include <filesystem>

namespace examples {

/// Returns the length of a file in bytes.
/// Throws: lora::IoError unless it is a regular file. A pipe or a device could block or never end,
///   and has no length to check a header against.
inline std::uintmax_t input_file_size(const std::filesystem::path& path) {
  std::error_code failed;
  const std::filesystem::file_status status = std::filesystem::status(path, failed);
  if (status.type() == std::filesystem::file_type::not_found) {
    throw lora::IoError(path.string() + ": no such file");
  }
  if (failed) throw lora::IoError(path.string() + ": " + failed.message());
  if (!std::filesystem::is_regular_file(status)) {
    throw lora::IoError(path.string() + ": not a regular file");
  }
  const std::uintmax_t bytes = std::filesystem::file_size(path, failed);
  if (failed) throw lora::IoError(path.string() + ": " + failed.message());
  return bytes;
}

}  // namespace examples
