// Reads files of a POSIX system completely, maps them, and explains files that cannot be read.
// Writing is in atomic_file.hpp.
#pragma once

#include <lora/core/error.hpp>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
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
/// POSIX function of that name.
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

/// Returns the calls of the running system.
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

/// Returns the calls of this thread, by default those of POSIX. Tests replace them to let the n-th
/// call fail.
inline const FileCalls*& file_calls_in_force() {
  thread_local const FileCalls* calls = &posix_calls();
  return calls;
}
inline const FileCalls& file_calls() { return *file_calls_in_force(); }

}  // namespace detail

/// Throws: IoError "path: cannot do: what the system says". `error` is an errno.
[[noreturn]] inline void throw_io_error(const std::filesystem::path& path, const char* what,
                                        int error) {
  throw IoError(path.string() + ": cannot " + std::string(what) + ": " +
                std::generic_category().message(error));
}

namespace detail {

// The most bytes of a single call: Linux transfers at most 2^31 - 4096, other systems reject more
// than 2^31 - 1.
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
  /// Closes and returns the errno, or 0. An interrupted close has closed: calling it again could
  /// close another file.
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

// Opens without blocking, so that a named pipe is rejected below instead of waiting for its writer.
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

}  // namespace detail

/// Returns the content of a regular file of at most `max_bytes`.
/// Throws: IoError (absent, not a file, not readable, changed while reading, not enough memory);
///   FormatError (larger than the limit).
/// Allocates: the size of the file, after checking it against the limit.
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

/// The content of a file as read-only memory that the system reads on access; move-only. Renaming
/// another file over it is safe (AtomicFile does that). If another program truncates the file in
/// place, touching the lost part ends the process with SIGBUS, so use read_file for small files.
/// Threads may share it.
class MappedFile {
 public:
  MappedFile() = default;
  /// Throws: as read_file, except for memory.
  explicit MappedFile(const std::filesystem::path& path, std::uint64_t max_bytes = UINT64_MAX) {
    const detail::Descriptor file(detail::open_to_read(path));
    const std::size_t size = detail::regular_size(path, file.get(), max_bytes);
    if (size == 0) return;  // mmap rejects a length of 0
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

  /// Returns the memory of `part`, a part of bytes(), to the system, which reads it again on
  /// access: the pages that begin in it, not the one that it ends in. For readers that go from the
  /// beginning to the end. Allocates nothing and cannot fail.
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

/// Views the bytes as text.
inline std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// Whether these are the lines that Git stores in place of a large file that git-lfs did not fetch.
inline bool is_git_lfs_pointer(std::span<const std::byte> bytes) {
  return as_text(bytes).substr(0, 15) == "version https:/" && bytes.size() < 1024 &&
         as_text(bytes).find("\noid sha256:") != std::string_view::npos;
}
/// Returns why a file of torch's own format is not read, and how `library` writes it anew.
inline std::string pickle_note(const std::string& file, const std::string& library) {
  return file +
         " is a Python pickle, which runs code of whoever wrote it when it is read, and is " +
         "not read here: load it in " + library +
         ", if you trust it, and call save_pretrained(..., safe_serialization=True)";
}
/// Rejects the lines of a Git LFS pointer.
/// Throws: FormatError that begins with `where` and says what to do.
inline void refuse_git_lfs_pointer(std::span<const std::byte> bytes, const std::string& where) {
  if (!is_git_lfs_pointer(bytes)) return;
  throw FormatError(where +
                    ": is a Git LFS pointer (three lines of text in place of the real file): "
                    "run `git lfs pull` in the repository it came from, or download the file "
                    "itself");
}

}  // namespace lora
