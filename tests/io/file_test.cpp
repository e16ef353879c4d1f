#include <lora/io/atomic_file.hpp>

#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <new>
#include <thread>

#include <sys/wait.h>
#include "support/file_calls.hpp"
#include "support/messages.hpp"
#include "support/shared.hpp"

namespace {
using lora_test::message_of;
std::size_t allocation_limit = SIZE_MAX;
}  // namespace

// So that a test can ask for more memory than there is.
// Not inlined, since g++ then takes malloc and delete for a mismatch.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  void* memory = bytes > allocation_limit ? nullptr : std::malloc(bytes == 0 ? 1 : bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace {

namespace fs = std::filesystem;

std::string content(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}
void put(const fs::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

std::vector<std::string> listing(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

// System calls of which the n-th (n-th of one kind, or of all) fails.
struct Faults {
  std::string kind{};  // "open", ... or "" for any
  int countdown = -1;  // fails when it reaches 0; below: never
  int error = EIO;
  std::size_t largest_transfer = SIZE_MAX;
  int opened = 0, closed = 0;
  std::string trace{};
} faults;

bool fails(const char* kind) {
  faults.trace += std::string(kind) + " ";
  if (!faults.kind.empty() && faults.kind != kind) return false;
  if (faults.countdown < 0 || faults.countdown-- != 0) return false;
  errno = faults.error;
  return true;
}

const lora_test::FileCalls faulty{
    [](const char* path, int flags, mode_t mode) {
      if (fails("open")) return -1;
      const int fd = ::open(path, flags, mode);
      if (fd >= 0) ++faults.opened;
      return fd;
    },
    [](int fd, void* bytes, std::size_t count) -> ssize_t {
      return fails("read") ? -1 : ::read(fd, bytes, std::min(count, faults.largest_transfer));
    },
    [](int fd, const void* bytes, std::size_t count) -> ssize_t {
      return fails("write") ? -1 : ::write(fd, bytes, std::min(count, faults.largest_transfer));
    },
    [](int fd, mode_t mode) { return fails("fchmod") ? -1 : ::fchmod(fd, mode); },
    [](int fd) { return fails("fsync") ? -1 : ::fsync(fd); },
    [](int fd) {
      ++faults.closed;
      const int result = ::close(fd);
      return fails("close") ? -1 : result;
    },
    [](const char* from, const char* to) { return fails("rename") ? -1 : std::rename(from, to); },
    [](const char* path) { return ::unlink(path); }};

TEST(ReadFile, ReadsWholeFiles) {
  const lora_test::TemporaryFolder folder;
  const fs::path path = folder.path / "file";
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{1}, std::size_t{4097}, std::size_t{300'000}}) {
    std::string text(size, 'x');
    for (std::size_t i = 0; i < size; ++i) text[i] = static_cast<char>(i * 31);
    put(path, text);
    EXPECT_EQ(lora::as_text(lora::read_file(path, size)), text);
    EXPECT_EQ(lora::as_text(lora::MappedFile(path).bytes()), text);
    faults = {.largest_transfer = 1000};
    EXPECT_EQ(
        lora::as_text(lora_test::with_calls(faulty, [&] { return lora::read_file(path, size); })),
        text)
        << "short reads";
    faults = {.kind = "read", .countdown = 0, .error = EINTR};
    EXPECT_EQ(
        lora::as_text(lora_test::with_calls(faulty, [&] { return lora::read_file(path, size); })),
        text)
        << "interrupted read";
    EXPECT_EQ(faults.opened, faults.closed);
  }
}

TEST(ReadFile, SaysWhatIsWrong) {
  const lora_test::TemporaryFolder folder;
  const fs::path path = folder.path / "file";
  const auto read = [&](const fs::path& from) { return [from] { lora::read_file(from, 10); }; };
  const auto map = [&](const fs::path& from) { return [from] { lora::MappedFile(from, 10); }; };
  EXPECT_HAS(message_of<lora::IoError>(read(path)),
             path.string() + ": cannot open for reading: No such file");
  EXPECT_HAS(message_of<lora::IoError>(map(path)),
             path.string() + ": cannot open for reading: No such file");
  EXPECT_HAS(message_of<lora::IoError>(read(folder.path)),
             folder.path.string() + ": is a folder, expected a file");
  const fs::path pipe = folder.path / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_HAS(message_of<lora::IoError>(read(pipe)),
             pipe.string() + ": is a device or pipe, expected a file");
  put(path, std::string(11, 'x'));
  EXPECT_HAS(message_of<lora::FormatError>(read(path)),
             path.string() + ": has 11 bytes, more than the limit of 10");
  EXPECT_HAS(message_of<lora::FormatError>(map(path)),
             path.string() + ": has 11 bytes, more than the limit of 10");
  faults = {.kind = "read", .countdown = 0};
  EXPECT_HAS(message_of<lora::IoError>([&] {
               lora_test::with_calls(faulty, [&] { return lora::read_file(path, 100); });
             }),
             path.string() + ": cannot read: Input/output error");
  EXPECT_EQ(faults.opened, faults.closed);
}

TEST(ReadFile, NoticesThatTheFileChangesMeanwhile) {
  const lora_test::TemporaryFolder folder;
  static fs::path path;
  path = folder.path / "file";
  lora_test::FileCalls calls = lora_test::posix_calls();
  put(path, "0123456789");
  calls.read = [](int fd, void* bytes, std::size_t count) {
    fs::resize_file(path, 5);
    return ::read(fd, bytes, count);
  };
  EXPECT_HAS(message_of<lora::IoError>(
                 [&] { lora_test::with_calls(calls, [&] { return lora::read_file(path, 100); }); }),
             path.string() + ": became shorter while it was read");
  put(path, "0123456789");
  calls.read = [](int fd, void* bytes, std::size_t count) {
    fs::resize_file(path, 11);
    return ::read(fd, bytes, count);
  };
  EXPECT_HAS(message_of<lora::IoError>(
                 [&] { lora_test::with_calls(calls, [&] { return lora::read_file(path, 100); }); }),
             path.string() + ": became longer while it was read");
}

TEST(ReadFile, SaysWhenMemoryIsMissing) {
  const lora_test::TemporaryFolder folder;
  const fs::path path = folder.path / "file";
  put(path, "");
  fs::resize_file(path, 1 << 24);
  allocation_limit = 1 << 20;
  const std::string message = message_of<lora::IoError>([&] { lora::read_file(path, UINT64_MAX); });
  allocation_limit = SIZE_MAX;
  EXPECT_HAS(message, path.string() + ": not enough memory for its 16777216 bytes");
}

TEST(MappedFile, MovesAndOutlivesTheFile) {
  const lora_test::TemporaryFolder folder;
  const fs::path path = folder.path / "file";
  put(path, "first");
  lora::MappedFile a(path);
  lora::MappedFile b = std::move(a);
  EXPECT_TRUE(a.bytes().empty());  // NOLINT: what a move leaves behind is part of the contract
  lora::atomic_write(path, "other");
  EXPECT_EQ(lora::as_text(b.bytes()), "first");
  a = lora::MappedFile(path);
  b = std::move(a);
  EXPECT_EQ(lora::as_text(b.bytes()), "other");
  EXPECT_TRUE(lora::MappedFile().bytes().empty());
}

TEST(AtomicWrite, WritesAndReplaces) {
  const lora_test::TemporaryFolder folder;
  const fs::path path = folder.path / "file";
  for (const std::string& text : {std::string("a"), std::string(), std::string(100'000, 'b')}) {
    lora::atomic_write(path, text);
    EXPECT_EQ(content(path), text);
    EXPECT_EQ(listing(folder.path), std::vector<std::string>{"file"});
  }
  lora::AtomicFile file(path);
  file.write(std::as_bytes(std::span("ab", 2)));
  EXPECT_EQ(listing(folder.path).size(), 2u) << "the new file lies beside the old one";
  EXPECT_EQ(content(path), std::string(100'000, 'b'));
  file.write(std::as_bytes(std::span("c", 1)));
  file.commit();
  EXPECT_EQ(content(path), "abc");
  const fs::path longest = folder.path / std::string(255, 'n');
  lora::atomic_write(longest, "x");
  EXPECT_EQ(content(longest), "x");
}

TEST(AtomicWrite, WithoutCommitNothingHappens) {
  const lora_test::TemporaryFolder folder;
  const fs::path path = folder.path / "file";
  put(path, "old");
  {
    lora::AtomicFile file(path);
    file.write(std::as_bytes(std::span("new", 3)));
  }
  EXPECT_EQ(content(path), "old");
  EXPECT_EQ(listing(folder.path), std::vector<std::string>{"file"});
}

TEST(AtomicWrite, KeepsPermissionsAndReplacesLinks) {
  const lora_test::TemporaryFolder folder;
  const fs::path path = folder.path / "file", link = folder.path / "link";
  put(path, "old");
  fs::permissions(path, fs::perms::owner_read | fs::perms::owner_write);
  lora::atomic_write(path, "new");
  EXPECT_EQ(fs::status(path).permissions(), fs::perms::owner_read | fs::perms::owner_write);
  fs::create_symlink(path, link);
  lora::atomic_write(link, "instead of the link");
  EXPECT_EQ(content(path), "new");
  EXPECT_EQ(content(link), "instead of the link");
  EXPECT_FALSE(fs::is_symlink(link));
}

TEST(AtomicWrite, SyncsBeforeItRenamesAndTheFolderAfterwards) {
  const lora_test::TemporaryFolder folder;
  const fs::path path = folder.path / "file";
  faults = {.largest_transfer = 4};
  lora_test::with_calls(faulty, [&] { return lora::atomic_write(path, "0123456789"); });
  EXPECT_EQ(faults.trace, "open open write write write fsync close rename fsync close ");
  EXPECT_EQ(content(path), "0123456789");
}

// Lets every single call fail with every errno, with an old file and without one.
TEST(AtomicWrite, AnyFailureLeavesTheOldFileOrTheNewOneAndNoLitter) {
  for (const int error : {EIO, ENOSPC, EINTR, EDQUOT, EACCES, EINVAL}) {
    for (const bool old_exists : {true, false}) {
      for (int n = 0;; ++n) {
        SCOPED_TRACE("call " + std::to_string(n) + " fails with " + std::strerror(error));
        const lora_test::TemporaryFolder folder;
        const fs::path path = folder.path / "file";
        if (old_exists) put(path, "old");
        faults = {.countdown = n, .error = error, .largest_transfer = 3};
        std::string message;  // empty: no error
        try {
          lora_test::with_calls(faulty, [&] { return lora::atomic_write(path, "the new one"); });
        } catch (const lora::IoError& thrown) {
          message = thrown.what();
        }
        EXPECT_EQ(faults.opened, faults.closed) << faults.trace;
        const bool in_place =
            message.empty() || message.find("the new file is in place") != std::string::npos;
        if (!message.empty()) {
          EXPECT_HAS(message, path.string() + ": cannot ");
          EXPECT_HAS(message, std::strerror(error));
        }
        if (in_place) {
          EXPECT_EQ(content(path), "the new one");
          EXPECT_EQ(listing(folder.path), std::vector<std::string>{"file"});
        } else {
          EXPECT_EQ(listing(folder.path),
                    old_exists ? std::vector<std::string>{"file"} : std::vector<std::string>{});
          EXPECT_EQ(content(path), old_exists ? "old" : "");
        }
        if (faults.countdown >= 0) {  // the call number n was not reached: all have failed once
          EXPECT_EQ(message, "");
          EXPECT_GE(n, 11);
          break;
        }
      }
    }
  }
}

TEST(AtomicWrite, EachFailureHasItsMessage) {
  const lora_test::TemporaryFolder folder;
  const fs::path path = folder.path / "file";
  put(path, "old");
  struct Row {
    const char* kind;
    int n, error;
    const char* part;
  };
  const Row rows[] = {
      {"open", 0, EACCES, "cannot open the folder of this file: Permission denied"},
      {"open", 1, EROFS, "cannot create a new file beside it: Read-only file system"},
      {"fchmod", 0, EPERM, "cannot set the permissions of the new file: Operation not permitted"},
      {"write", 1, ENOSPC, "cannot write: No space left on device"},
      {"fsync", 0, EIO, "cannot sync: Input/output error"},
      {"close", 0, EIO, "cannot close: Input/output error"},
      {"rename", 0, EPERM, "cannot put the new file in place: Operation not permitted"},
      {"fsync", 1, EIO, "cannot sync the folder (the new file is in place"}};
  for (const Row& row : rows) {
    faults = {.kind = row.kind, .countdown = row.n, .error = row.error, .largest_transfer = 2};
    EXPECT_HAS(message_of<lora::IoError>([&] {
                 lora_test::with_calls(faulty, [&] { return lora::atomic_write(path, "new"); });
               }),
               path.string() + ": " + row.part);
  }
  lora_test::FileCalls stuck = lora_test::posix_calls();
  stuck.write = [](int, const void*, std::size_t) -> ssize_t { return 0; };
  EXPECT_HAS(message_of<lora::IoError>([&] {
               lora_test::with_calls(stuck, [&] { return lora::atomic_write(path, "new"); });
             }),
             "No space left");
  EXPECT_HAS(message_of<lora::IoError>([&] { lora::atomic_write(folder.path / "", "new"); }),
             "names no file to write");
  EXPECT_HAS(
      message_of<lora::IoError>([&] { lora::atomic_write(folder.path / "no" / "file", "new"); }),
      "cannot open the folder of this file: No such file or directory");
  fs::create_directory(folder.path / "taken");
  EXPECT_HAS(message_of<lora::IoError>([&] { lora::atomic_write(folder.path / "taken", "new"); }),
             "cannot put the new file in place: Is a directory");
  EXPECT_EQ(listing(folder.path), (std::vector<std::string>{"file", "taken"}));
}

TEST(AtomicWrite, TriesAnotherNameWhenOneIsTakenAndInterruptionsDoNotFail) {
  const lora_test::TemporaryFolder folder;
  const fs::path path = folder.path / "file";
  faults = {.kind = "open", .countdown = 1, .error = EEXIST};
  lora_test::with_calls(faulty, [&] { return lora::atomic_write(path, "new"); });
  EXPECT_EQ(faults.trace.substr(0, 20), "open open open write");
  for (const char* kind : {"open", "write", "fsync", "close"}) {
    faults = {.kind = kind, .countdown = 0, .error = EINTR};
    EXPECT_NO_THROW(lora_test::with_calls(faulty, [&] { return lora::atomic_write(path, kind); }))
        << kind;
    EXPECT_EQ(content(path), kind);
  }
}

TEST(AtomicFile, IsOfNoUseAfterItsEnd) {
  const lora_test::TemporaryFolder folder;
  lora::AtomicFile file(folder.path / "file");
  file.commit();
  EXPECT_HAS(message_of<lora::Error>([&] { file.write({}); }),
             "AtomicFile::write after commit or a failure");
  EXPECT_HAS(message_of<lora::Error>([&] { file.commit(); }),
             "AtomicFile::commit after commit or a failure");
  EXPECT_EQ(content(folder.path / "file"), "");
}

TEST(AtomicWrite, SurvivesBeingKilledAtAnyMoment) {
  const lora_test::TemporaryFolder folder;
  const fs::path path = folder.path / "file";
  lora::atomic_write(path, std::string(200'000, 'a'));
  for (int round = 0; round < 40; ++round) {
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      for (int i = 0;; ++i)
        lora::atomic_write(path, std::string(200'000, static_cast<char>('a' + i % 26)));
    }
    std::this_thread::sleep_for(std::chrono::microseconds(500 + 373 * round));
    ::kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status));
    const std::string text = content(path);
    ASSERT_EQ(text.size(), 200'000u);
    ASSERT_EQ(text, std::string(200'000, text.front()));
  }
}

TEST(GitLfs, PointersAreRecognised) {
  const std::string pointer =
      "version https://git-lfs.github.com/spec/v1\noid sha256:" + std::string(64, '0') +
      "\nsize 1234\n";
  const auto is_pointer = [](const std::string& text) {
    return lora::is_git_lfs_pointer(std::as_bytes(std::span(text)));
  };
  EXPECT_TRUE(is_pointer(pointer));
  EXPECT_FALSE(is_pointer(""));
  EXPECT_FALSE(is_pointer("version https://"));
  EXPECT_FALSE(is_pointer("x" + pointer));
  EXPECT_FALSE(is_pointer(pointer + std::string(1024, ' ')));
}

TEST(AtomicFile, RefusesAPipeAndALinkToAnythingButAFile) {
  const lora_test::TemporaryFolder folder;
  const fs::path pipe = folder.path / "pipe", link = folder.path / "link",
                 to_folder = folder.path / "to folder";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  fs::create_symlink("pipe", link);
  fs::create_symlink(".", to_folder);
  const std::string expected = ", expected a file or nothing there";
  const auto message = [](const fs::path& path) {
    return message_of<lora::IoError>([&] { lora::atomic_write(path, "new"); });
  };
  EXPECT_EQ(message(pipe), pipe.string() + ": is a device or pipe" + expected);
  EXPECT_EQ(message(link), link.string() + ": is a link to a device or pipe" + expected);
  EXPECT_EQ(message(to_folder), to_folder.string() + ": is a link to a folder" + expected);
  EXPECT_EQ(listing(folder.path), (std::vector<std::string>{"link", "pipe", "to folder"}));
  EXPECT_TRUE(fs::is_fifo(pipe));
  fs::remove(pipe);  // a link to nothing is replaced
  lora::atomic_write(link, "new");
  EXPECT_EQ(content(link), "new");
}

}  // namespace
