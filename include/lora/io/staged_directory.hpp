// Writes a folder aside and makes it appear at once.
#pragma once

#include <lora/io/atomic_file.hpp>
#include <lora/io/folder.hpp>

#include <cerrno>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>

namespace lora {

/// A hidden folder ".lora-<16 digits>.tmp" beside `target`, to be filled with files; commit()
/// renames it to `target`. The destructor without commit() removes it and leaves only the parent
/// folders of the target, which are created if missing. A killed process leaves the hidden folder.
/// Use one object per thread.
class StagedDirectory {
 public:
  /// Creates the hidden folder.
  /// Throws: ConfigError unless `target` is free (absent or an empty folder); IoError.
  explicit StagedDirectory(const std::filesystem::path& target) : target_(resolved(target)) {
    expect_free();
    const std::filesystem::path parent = target_.parent_path();
    std::error_code failure;
    std::filesystem::create_directories(parent, failure);
    if (failure) throw_io_error(parent, "create this folder", failure.value());
    const int error = detail::make_temporary(parent, path_, [&](const char* path) {
      if (std::filesystem::create_directory(path, failure)) return 0;
      return failure ? failure.value() : EEXIST;
    });
    if (error != 0) throw_io_error(parent, "create a folder in it", error);
  }
  StagedDirectory(const StagedDirectory&) = delete;
  StagedDirectory& operator=(const StagedDirectory&) = delete;
  ~StagedDirectory() {
    std::error_code ignored;
    if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
  }

  /// The folder to fill until commit().
  const std::filesystem::path& path() const { return path_; }

  /// Renames the folder to the target.
  /// Throws: IoError, also if the target has been filled meanwhile; Error when called twice.
  void commit() {
    if (path_.empty()) throw Error(target_.string() + ": StagedDirectory::commit was called twice");
    if (const int error = detail::sync_folder(path_); error != 0)
      throw_io_error(target_, "sync the new folder", error);
    if (detail::file_calls().rename(path_.c_str(), target_.c_str()) != 0)
      throw_io_error(target_, "put the new folder in place", errno);
    path_.clear();
    if (const int error = detail::sync_folder(target_.parent_path()); error != 0) {
      throw_io_error(
          target_,
          "sync the folder around it (the new one is in place, a loss of power could undo it)",
          error);
    }
  }

 private:
  /// Returns the absolute path without "." and "..", which the system resolves: after a link, ".."
  /// is not the folder that precedes it in the path. A target that is a link stays one.
  static std::filesystem::path resolved(const std::filesystem::path& target) {
    std::error_code failure;
    std::filesystem::path path = std::filesystem::absolute(target, failure);
    if (failure) throw_io_error(target, "make this path absolute", failure.value());
    if (!path.has_filename()) path = path.parent_path();
    const std::filesystem::path name = path.filename();
    const bool whole = name == "." || name == "..";
    const std::filesystem::path found =
        std::filesystem::weakly_canonical(whole ? path : path.parent_path(), failure);
    if (failure) throw_io_error(target, "resolve this path", failure.value());
    if (!whole) return found / name;
    return found.has_filename() ? found : found.parent_path();
  }
  void expect_free() const {
    std::error_code failure;
    const auto status = std::filesystem::symlink_status(target_, failure);
    if (!std::filesystem::exists(status)) return;
    if (!std::filesystem::is_directory(status)) {
      throw ConfigError(target_.string() + ": exists and is not a folder, expected a new folder");
    }
    if (!std::filesystem::is_empty(target_, failure) || failure)
      throw ConfigError(target_.string() + ": is not empty, expected a new or an empty folder");
  }

  std::filesystem::path target_, path_;
};

}  // namespace lora
