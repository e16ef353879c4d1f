// Checks whether a file exists, and syncs folders to disk.
#pragma once

#include <lora/io/file.hpp>

#include <cerrno>
#include <filesystem>
#include <system_error>

namespace lora::detail {

/// Whether `path` names anything, including a dangling link.
inline bool file_exists(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::exists(std::filesystem::symlink_status(path, ignored));
}

/// Syncs a folder and returns the errno, or 0, also on file systems without a sync for folders.
inline int sync_folder(const std::filesystem::path& folder) {
  const Descriptor fd(again_if_interrupted(
      [&] { return file_calls().open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0); }));
  if (!fd.valid()) return errno;
  if (again_if_interrupted([&] { return file_calls().fsync(fd.get()); }) == 0) return 0;
  return errno == EINVAL || errno == ENOTSUP ? 0 : errno;
}

}  // namespace lora::detail
