// Keeps two processes from writing into one folder.
#pragma once

#include <lora/io/file.hpp>

#include <sys/file.h>

namespace lora {

/// Holds a folder for one writer from construction to destruction. The lock is the system's
/// (flock on the folder itself): nothing is left in the folder, and when a process ends, however it
/// does, its locks are gone. It binds those that ask for it, not other programs; a file system
/// without locks lets everybody in. Neither copied nor moved.
class FolderLock {
 public:
  /// Makes the folder when it is not there. Throws IoError when another FolderLock holds it, of this
  /// process or of another, and when the folder cannot be made or opened.
  explicit FolderLock(const std::filesystem::path& folder) : file_(-1) {
    std::error_code failed;
    std::filesystem::create_directories(folder, failed);
    if (failed) throw_io_error(folder, "make the folder", failed.value());
    file_.reset(detail::again_if_interrupted(
        [&] { return ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); }));
    if (!file_.valid()) throw_io_error(folder, "open the folder", errno);
    const int locked =
        detail::again_if_interrupted([&] { return ::flock(file_.get(), LOCK_EX | LOCK_NB); });
    if (locked != 0 && errno == EWOULDBLOCK) {
      throw IoError(folder.string() +
                    ": another run is writing into this folder; wait for its end or choose "
                    "another folder");
    }
  }

 private:
  detail::Descriptor file_;
};

}  // namespace lora
