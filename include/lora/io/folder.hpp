// Whether something is there, and syncing a folder to the disk.
#pragma once

#include <lora/io/file.hpp>

#include <cerrno>
#include <filesystem>
#include <system_error>

namespace lora::detail {

/// Whether `path` names something, a link that leads nowhere included.
inline bool file_exists(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::exists(std::filesystem::symlink_status(path, ignored));
}

/// The errno of syncing a folder, 0 also where folders have no sync.
inline int sync_folder(const std::filesystem::path& folder) {
  const Descriptor fd(again_if_interrupted(
      [&] { return file_calls().open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0); }));
  if (!fd.valid()) return errno;
  if (again_if_interrupted([&] { return file_calls().fsync(fd.get()); }) == 0) return 0;
  return errno == EINVAL || errno == ENOTSUP ? 0 : errno;
}

}  // namespace lora::detail
