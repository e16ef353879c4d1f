// Files of a POSIX system: reading whole, mapping, and writing so that a crash leaves the old file
// or the new one.
#pragma once

#include <lora/core/error.hpp>
#include <lora/core/random.hpp>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <new>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace lora {

namespace detail {

/// The system calls that read and write files. Each has the meaning, return value and errno of the
/// POSIX function of its name.
struct FileCalls {
  int (*open)(const char* path, int flags, mode_t mode);
  ssize_t (*read)(int fd, void* bytes, std::size_t count);
  ssize_t (*write)(int fd, const void* bytes, std::size_t count);
  int (*fchmod)(int fd, mode_t mode);
  int (*fsync)(int fd);
  int (*close)(int fd);
  int (*rename)(const char* from, const char* to);
  int (*unlink)(const char* path);
};

/// The calls of the running system.
inline const FileCalls& posix_calls() {
  static const FileCalls calls{
      [](const char* path, int flags, mode_t mode) { return ::open(path, flags, mode); },
      [](int fd, void* bytes, std::size_t count) { return ::read(fd, bytes, count); },
      [](int fd, const void* bytes, std::size_t count) { return ::write(fd, bytes, count); },
      [](int fd, mode_t mode) { return ::fchmod(fd, mode); },
      [](int fd) { return ::fsync(fd); },
      [](int fd) { return ::close(fd); },
      [](const char* from, const char* to) { return std::rename(from, to); },
      [](const char* path) { return ::unlink(path); }};
  return calls;
}

/// The calls that this thread makes: POSIX's. A test puts others there to let the n-th one fail.
inline const FileCalls*& file_calls_in_force() {
  thread_local const FileCalls* calls = &posix_calls();
  return calls;
}
inline const FileCalls& file_calls() { return *file_calls_in_force(); }

}  // namespace detail

/// Throws IoError "path: cannot do: what the system says". `error` is an errno.
[[noreturn]] inline void throw_io_error(const std::filesystem::path& path, const char* what,
                                        int error) {
  throw IoError(path.string() + ": cannot " + std::string(what) + ": " +
                std::generic_category().message(error));
}

namespace detail {

// No single call is asked for more: Linux moves at most 2^31 - 4096 bytes, other systems refuse
// more than 2^31 - 1.
inline constexpr std::size_t largest_transfer = std::size_t{1} << 30;

// Owns an open file descriptor.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() { close(); }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  void reset(int fd) {
    close();
    fd_ = fd;
  }
  /// The errno of closing, or 0. An interrupted close has closed: calling again could close another
  /// file.
  int close() {
    if (fd_ < 0) return 0;
    const int result = file_calls().close(std::exchange(fd_, -1));
    return result == 0 || errno == EINTR ? 0 : errno;
  }

 private:
  int fd_;
};

template <class Call>
auto again_if_interrupted(Call&& call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

// Opened without blocking, so that a named pipe is refused below instead of waiting for its writer.
inline int open_to_read(const std::filesystem::path& path) {
  const int fd = again_if_interrupted(
      [&] { return file_calls().open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK, 0); });
  if (fd < 0) throw_io_error(path, "open for reading", errno);
  return fd;
}

inline std::size_t regular_size(const std::filesystem::path& path, int fd,
                                std::uint64_t max_bytes) {
  struct stat status {};
  if (::fstat(fd, &status) != 0) throw_io_error(path, "ask for its size", errno);
  if (!S_ISREG(status.st_mode)) {
    throw IoError(path.string() + ": is " +
                  (S_ISDIR(status.st_mode) ? "a folder" : "a device or pipe") +
                  ", expected a file");
  }
  const auto size = static_cast<std::uint64_t>(status.st_size);
  if (size > max_bytes || size > SIZE_MAX / 2) {
    throw FormatError(path.string() + ": has " + std::to_string(size) +
                      " bytes, more than the limit of " + std::to_string(max_bytes));
  }
  return static_cast<std::size_t>(size);
}

// Refuses what a new file must not take the place of. A folder itself is refused by rename().
inline void refuse_special_target(const std::filesystem::path& path) {
  struct stat target {};
  struct stat link {};
  if (::stat(path.c_str(), &target) != 0 || S_ISREG(target.st_mode)) return;
  if (::lstat(path.c_str(), &link) != 0 || S_ISDIR(link.st_mode)) return;
  throw IoError(path.string() + ": is " + (S_ISLNK(link.st_mode) ? "a link to " : "") +
                (S_ISDIR(target.st_mode) ? "a folder" : "a device or pipe") +
                ", expected a file or nothing there");
}

}  // namespace detail

/// The whole content of a regular file of at most `max_bytes`. Allocates the file's size, and not
/// before the size is known to be within the limit. Throws IoError (absent, not a file, not
/// readable, changed while it was read, not enough memory) or FormatError (larger than the limit).
inline std::vector<std::byte> read_file(const std::filesystem::path& path,
                                        std::uint64_t max_bytes) {
  const detail::Descriptor file(detail::open_to_read(path));
  const std::size_t size = detail::regular_size(path, file.get(), max_bytes);
  std::vector<std::byte> bytes;
  try {
    bytes.resize(size);
  } catch (const std::bad_alloc&) {
    throw IoError(path.string() + ": not enough memory for its " + std::to_string(size) + " bytes");
  }
  const auto read_some = [&](void* to, std::size_t count) {
    const ssize_t n = detail::again_if_interrupted(
        [&] { return detail::file_calls().read(file.get(), to, count); });
    if (n < 0) throw_io_error(path, "read", errno);
    return static_cast<std::size_t>(n);
  };
  for (std::size_t done = 0; done < size;) {
    const std::size_t n =
        read_some(bytes.data() + done, std::min(size - done, detail::largest_transfer));
    if (n == 0) throw IoError(path.string() + ": became shorter while it was read");
    done += n;
  }
  std::byte beyond{};
  if (read_some(&beyond, 1) != 0)
    throw IoError(path.string() + ": became longer while it was read");
  return bytes;
}

/// A file's content as read-only memory that the system reads when it is touched; move-only.
/// Renaming another file over it is safe (that is how AtomicFile writes); when another program cuts
/// the file short in place, touching the lost part ends the process with SIGBUS, so read_file is
/// the choice for small files. Sharing between threads is safe.
class MappedFile {
 public:
  MappedFile() = default;
  /// Throws as read_file does, except for memory.
  explicit MappedFile(const std::filesystem::path& path, std::uint64_t max_bytes = UINT64_MAX) {
    const detail::Descriptor file(detail::open_to_read(path));
    const std::size_t size = detail::regular_size(path, file.get(), max_bytes);
    if (size == 0) return;  // mmap refuses a length of 0
    void* address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.get(), 0);
    if (address == MAP_FAILED) throw_io_error(path, "map into memory", errno);
    bytes_ = {static_cast<const std::byte*>(address), size};
  }
  MappedFile(MappedFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~MappedFile() {
    if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
  }

  std::span<const std::byte> bytes() const { return bytes_; }

  /// Gives the memory of these bytes, a part of bytes(), back to the system, which reads them again
  /// when they are touched: of the pages that begin in it, not of the one that it ends in. For a
  /// reader that goes from the beginning to the end. Allocates nothing, and cannot fail.
  void forget(std::span<const std::byte> part) const {
    const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    const auto floor = [&](const std::byte* at) {
      return static_cast<std::size_t>(at - bytes_.data()) / page * page;
    };
    if (part.empty()) return;
    const std::size_t first = floor(part.data()), last = floor(part.data() + part.size());
    if (first == last) return;
    ::madvise(const_cast<std::byte*>(bytes_.data()) + first, last - first, MADV_DONTNEED);
  }

 private:
  std::span<const std::byte> bytes_;
};

/// Writes a file all or nothing: into a hidden file ".lora-<16 digits>.tmp" beside the target,
/// which commit() syncs and renames over the target before it syncs the folder. Any call that
/// throws, and a destructor without commit(), removes the hidden file and leaves the target as it
/// was; the one exception is the folder's sync at the very end, whose message says that the new
/// file is in place but might not survive a loss of power. An existing target hands its permissions
/// on; a symbolic link is replaced, and what it points to is not touched. A device, a pipe or a
/// link to anything but a file is refused. A process that is killed half way leaves the hidden file
/// behind. One thread an object.
class AtomicFile {
 public:
  /// Throws IoError when the folder cannot be opened or written, or the target is no file.
  explicit AtomicFile(std::filesystem::path target) : target_(std::move(target)) {
    if (!target_.has_filename()) throw IoError(target_.string() + ": names no file to write");
    detail::refuse_special_target(target_);
    std::filesystem::path folder = target_.parent_path();
    if (folder.empty()) folder = ".";
    // Opened first: what can fail should fail while nothing has changed.
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

  /// Appends; short and interrupted writes are continued. Throws IoError, or Error after commit()
  /// or a failure.
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

  /// Makes what was written the target's content. Throws IoError, or Error after commit() or a
  /// failure.
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
  /// Of a long file the disk gets each 8 MiB as soon as they are there, instead of all of them when
  /// commit() waits for it. A hint: whether it is taken changes nothing.
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
  // The name says nothing of the target's, which may already have the greatest length that the
  // system allows.
  void open_temporary(const std::filesystem::path& folder) {
    const auto now = std::chrono::steady_clock::now().time_since_epoch().count();
    std::uint64_t random =
        mix64(static_cast<std::uint64_t>(now) ^ mix64(static_cast<std::uint64_t>(::getpid())));
    int error = EEXIST;
    for (int attempt = 0; attempt < 16 && error == EEXIST; ++attempt) {
      random = mix64(random ^ reinterpret_cast<std::uintptr_t>(this));
      char name[32];
      std::snprintf(name, sizeof name, ".lora-%016llx.tmp",
                    static_cast<unsigned long long>(random));
      std::filesystem::path path = folder / name;
      // O_EXCL follows no link and takes no file that somebody else laid there.
      const int fd = detail::again_if_interrupted([&] {
        return detail::file_calls().open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC,
                                         0666);
      });
      if (fd >= 0) {
        file_.reset(fd);
        temporary_ = std::move(path);
        return;
      }
      error = errno;
    }
    fail("create a new file beside it", error);
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
  off_t written_ = 0, started_ = 0;  // of which the disk was given so many
};

/// Replaces the content of `path` by `bytes`, all or nothing (see AtomicFile). Throws IoError.
inline void atomic_write(const std::filesystem::path& path, std::span<const std::byte> bytes) {
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
}
inline void atomic_write(const std::filesystem::path& path, std::string_view text) {
  atomic_write(path, std::as_bytes(std::span(text)));
}

/// The bytes as text, in place.
inline std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// Whether these are the few lines that Git leaves in place of a large file when git-lfs did not
/// fetch it.
inline bool is_git_lfs_pointer(std::span<const std::byte> bytes) {
  return as_text(bytes).substr(0, 15) == "version https:/" && bytes.size() < 1024 &&
         as_text(bytes).find("\noid sha256:") != std::string_view::npos;
}

}  // namespace lora
