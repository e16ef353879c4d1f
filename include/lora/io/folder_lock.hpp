// Keeps two processes from writing into one folder.
#pragma once

#include <lora/io/file.hpp>

#include <sys/file.h>

namespace lora {

/// Reserves a folder for one writer from construction to destruction. The lock is flock on the
/// folder itself: it leaves nothing in the folder and ends with the process, however that ends. It
/// binds only programs that ask for it; a file system without locks admits everyone. Neither
/// copyable nor movable.
class FolderLock {
 public:
  /// Creates the folder if it does not exist, and locks it.
  /// Throws: IoError if another FolderLock, of this or another process, holds it, or if it cannot
  ///   be created or opened.
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
