// Writes a file so that a crash leaves the old content or the new one.
#pragma once

#include <lora/core/random.hpp>
#include <lora/io/file.hpp>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace lora {

namespace detail {

// Rejects targets that a new file must not replace. rename() itself rejects a folder.
inline void refuse_special_target(const std::filesystem::path& path) {
  struct stat target {};
  struct stat link {};
  if (::stat(path.c_str(), &target) != 0 || S_ISREG(target.st_mode)) return;
  if (::lstat(path.c_str(), &link) != 0 || S_ISDIR(link.st_mode)) return;
  throw IoError(path.string() + ": is " + (S_ISLNK(link.st_mode) ? "a link to " : "") +
                (S_ISDIR(target.st_mode) ? "a folder" : "a device or pipe") +
                ", expected a file or nothing there");
}

/// Makes something under a new hidden name ".lora-<16 digits>.tmp" in `folder`. make(path) returns
/// 0 or an errno; after EEXIST it gets another name. Returns its last result, and sets `made` to
/// the path if that is 0. The name is independent of the target's, which may already have the
/// greatest length that the system allows.
template <class Make>
int make_temporary(const std::filesystem::path& folder, std::filesystem::path& made, Make&& make) {
  const auto now = std::chrono::steady_clock::now().time_since_epoch().count();
  std::uint64_t random =
      mix64(static_cast<std::uint64_t>(now) ^ mix64(static_cast<std::uint64_t>(::getpid())));
  int error = EEXIST;
  for (int attempt = 0; attempt < 16 && error == EEXIST; ++attempt) {
    random = mix64(random ^ reinterpret_cast<std::uintptr_t>(&made));
    char name[32];
    std::snprintf(name, sizeof name, ".lora-%016llx.tmp", static_cast<unsigned long long>(random));
    std::filesystem::path path = folder / name;
    error = make(path.c_str());
    if (error == 0) made = std::move(path);
  }
  return error;
}

}  // namespace detail

/// Writes a file all or nothing: into a hidden file ".lora-<16 digits>.tmp" beside the target,
/// which commit() syncs and renames over the target before it syncs the folder. A call that throws,
/// and the destructor without commit(), remove the hidden file and leave the target unchanged. The
/// exception is the final sync of the folder: its message says that the new file is in place but
/// might not survive a loss of power. An existing target passes on its permissions; a symbolic link
/// is replaced and its target not touched. A device, a pipe or a link to anything but a file is
/// rejected. A killed process leaves the hidden file behind. Use one object per thread.
class AtomicFile {
 public:
  /// Opens the hidden file.
  /// Throws: IoError if the folder cannot be opened or written, or the target is not a file.
  explicit AtomicFile(std::filesystem::path target) : target_(std::move(target)) {
    if (!target_.has_filename()) throw IoError(target_.string() + ": names no file to write");
    detail::refuse_special_target(target_);
    std::filesystem::path folder = target_.parent_path();
    if (folder.empty()) folder = ".";
    // Opened first: what can fail should fail before anything changes.
    folder_.reset(detail::again_if_interrupted([&] {
      return detail::file_calls().open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    }));
    if (!folder_.valid()) throw_io_error(target_, "open the folder of this file", errno);
    open_temporary(folder);
    struct stat old {};
    if (::lstat(target_.c_str(), &old) == 0 && S_ISREG(old.st_mode) &&
        detail::file_calls().fchmod(file_.get(), old.st_mode & 07777) != 0) {
      fail("set the permissions of the new file", errno);
    }
  }
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile() { discard(); }

  /// Appends; continues short and interrupted writes.
  /// Throws: IoError; Error after commit() or a failure.
  void write(std::span<const std::byte> bytes) {
    expect_open("write");
    while (!bytes.empty()) {
      const std::size_t count = std::min(bytes.size(), detail::largest_transfer);
      const ssize_t n = detail::again_if_interrupted(
          [&] { return detail::file_calls().write(file_.get(), bytes.data(), count); });
      if (n <= 0) fail("write", n < 0 ? errno : ENOSPC);  // 0 means no progress and no reason
      bytes = bytes.subspan(static_cast<std::size_t>(n));
      written_ += static_cast<off_t>(n);
    }
    start_writeback();
  }

  /// Makes the written bytes the content of the target.
  /// Throws: IoError; Error after commit() or a failure.
  void commit() {
    expect_open("commit");
    // Some file systems put the rename on disk before the content, so the content is synced first.
    if (detail::again_if_interrupted([&] { return detail::file_calls().fsync(file_.get()); }) != 0)
      fail("sync", errno);
    if (const int error = file_.close(); error != 0) fail("close", error);
    if (detail::file_calls().rename(temporary_.c_str(), target_.c_str()) != 0)
      fail("put the new file in place", errno);
    temporary_.clear();
    const int synced =
        detail::again_if_interrupted([&] { return detail::file_calls().fsync(folder_.get()); });
    // EINVAL and ENOTSUP: this file system has no sync for folders.
    if (synced != 0 && errno != EINVAL && errno != ENOTSUP) {
      throw_io_error(target_,
                     "sync the folder (the new file is in place, a loss of power could undo it)",
                     errno);
    }
  }

 private:
  /// Starts writing each 8 MiB of a long file to disk as soon as they exist, so that commit() waits
  /// for less. A hint: the result does not depend on it.
  void start_writeback() {
#if defined(__linux__)
    constexpr off_t part = off_t{8} << 20;
    if (written_ - started_ < part) return;
    ::sync_file_range(file_.get(), started_, written_ - started_, SYNC_FILE_RANGE_WRITE);
    started_ = written_;
#endif
  }
  void expect_open(const char* call) const {
    if (!file_.valid())
      throw Error(target_.string() + ": AtomicFile::" + call + " after commit or a failure");
  }
  void open_temporary(const std::filesystem::path& folder) {
    const int error = detail::make_temporary(folder, temporary_, [&](const char* path) {
      // O_EXCL follows no link and opens no file that someone else put there.
      file_.reset(detail::again_if_interrupted([&] {
        return detail::file_calls().open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
      }));
      return file_.valid() ? 0 : errno;
    });
    if (error != 0) fail("create a new file beside it", error);
  }
  void discard() {
    file_.close();
    if (!temporary_.empty()) detail::file_calls().unlink(temporary_.c_str());
    temporary_.clear();
  }
  [[noreturn]] void fail(const char* what, int error) {
    discard();
    throw_io_error(target_, what, error);
  }

  std::filesystem::path target_;
  std::filesystem::path temporary_;  // empty once renamed or removed
  detail::Descriptor folder_{-1}, file_{-1};
  off_t written_ = 0, started_ = 0;  // bytes written, bytes sent to disk
};

/// Replaces the content of `path` by `bytes`, all or nothing (see AtomicFile).
/// Throws: IoError.
inline void atomic_write(const std::filesystem::path& path, std::span<const std::byte> bytes) {
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
}
inline void atomic_write(const std::filesystem::path& path, std::string_view text) {
  atomic_write(path, std::as_bytes(std::span(text)));
}

}  // namespace lora
