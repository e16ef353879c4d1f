// Replacing an adapter's two files: writers that are killed at every call, and calls that fail.
#include <lora/io/peft/peft_adapter.hpp>

#include <gtest/gtest.h>

#include <sys/wait.h>

#include <atomic>
#include <filesystem>
#include <functional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "layers/layer_tools.hpp"
#include "support/file_calls.hpp"
#include "support/shared.hpp"

namespace peft_directory_test {
using namespace lora;
using namespace lora_test;
namespace fs = std::filesystem;

/// System calls of which the n-th ends the process or fails.
struct Faults {
  int countdown = -1;  // at 0; below: never
  int error = 0;       // 0: the process ends
  std::string kind = {};
  bool stays = false;  // every later call fails too
} faults;
bool fails(const char* kind) {
  if (!faults.kind.empty() && faults.kind != kind) return false;
  if (faults.countdown < 0) return false;
  if (faults.countdown > 0) return --faults.countdown, false;
  if (faults.error == 0) ::_exit(9);
  if (!faults.stays) faults.countdown = -1;
  errno = faults.error;
  return true;
}
constexpr std::size_t few = 300;  // bytes a call, so that there are many points within a file
const FileCalls faulty{
    [](const char* path, int flags, mode_t mode) {
      return fails((flags & O_CREAT) != 0 ? "create" : "open") ? -1 : ::open(path, flags, mode);
    },
    [](int fd, void* bytes, std::size_t count) -> ssize_t {
      return fails("read") ? -1 : ::read(fd, bytes, count);
    },
    [](int fd, const void* bytes, std::size_t count) -> ssize_t {
      return fails("write") ? -1 : ::write(fd, bytes, std::min(count, few));
    },
    [](int fd, mode_t mode) { return fails("fchmod") ? -1 : ::fchmod(fd, mode); },
    [](int) { return fails("fsync") ? -1 : 0; },  // a real one would take most of the time
    [](int fd) {
      const bool fail = fails("close");
      return ::close(fd) != 0 || fail ? -1 : 0;
    },
    [](const char* from, const char* to) { return fails("rename") ? -1 : std::rename(from, to); },
    [](const char* path) {
      if (faults.error == 0) fails("unlink");
      return ::unlink(path);
    }};

/// An adapter that differs from others in rank and values.
struct Sample {
  Json fields;
  SafetensorsWriter tensors;
};
Sample sample(Index r, const std::string& salt) {
  LoRAConfig config;
  config.r = r;
  config.lora_alpha = 3;
  config.target_modules = {"q"};
  Sample made;
  made.fields = peft_config_fields(config);
  made.tensors.set_metadata("format", "pt");
  made.tensors.add("base_model.model.q.lora_A.weight", random_matrix<float>(r, 40, "A" + salt),
                   DType::F32);
  made.tensors.add("base_model.model.q.lora_B.weight", random_matrix<float>(30, r, "B" + salt),
                   DType::F32);
  return made;
}
void save(const fs::path& directory, const Sample& one, const FileCalls& calls = faulty) {
  with_calls(calls, [&] { write_peft_adapter(directory, one.fields, one.tensors); });
}
/// Everything that a reader gets.
std::string content(const Sample& one) {
  const auto bytes = one.tensors.to_bytes();
  return peft_config_text(one.fields) + std::string(as_text(bytes));
}
std::string content(const fs::path& directory) {
  const PeftAdapter adapter = PeftAdapter::open(directory);
  const auto bytes = read_file(adapter.tensors().where(), 1 << 20);
  return peft_config_text(adapter.fields()) + std::string(as_text(bytes));
}
/// What a reader that knows nothing of hidden files gets.
std::string visible(const fs::path& directory) {
  const auto config = read_file(directory / peft_config_file, 1 << 20),
             weights = read_file(directory / peft_weights_file, 1 << 20);
  return std::string(as_text(config)) + std::string(as_text(weights));
}
std::set<std::string> listing(const fs::path& directory) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory))
    names.insert(entry.path().filename().string());
  return names;
}
const std::set<std::string> two_files = {peft_config_file, peft_weights_file};
bool staged_files(const fs::path& directory) {
  const auto names = listing(directory);
  return std::any_of(names.begin(), names.end(),
                     [](const std::string& n) { return n.starts_with(".lora-next-"); });
}

/// Saves in another process, which ends at its n-th call. Whether it came to its end.
bool killed_save(const fs::path& directory, const Sample& one, int n) {
  const pid_t child = ::fork();
  if (child == 0) {
    faults = {.countdown = n};
    try {
      save(directory, one, faulty);
    } catch (...) {
      ::_exit(8);
    }
    ::_exit(0);
  }
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 9))
      << status;
  return WEXITSTATUS(status) == 0;
}
void fresh(const fs::path& directory, const Sample& old) {
  fs::remove_all(directory);
  save(directory, old);
}

// ---- kills ----

TEST(PeftDirectory, AWriterKilledAnywhereLeavesTheOldAdapterOrTheNew) {
  const TemporaryFolder folder;
  const fs::path dir = folder.path / "adapter";
  const Sample old = sample(2, "old"), third = sample(3, "third");
  for (const Sample& next : {sample(4, "other rank"), sample(2, "same configuration")}) {
    const bool same_config = next.fields == old.fields;
    int n = 0, olds = 0, news = 0, mixed = 0;
    for (bool done = false; !done; ++n) {
      SCOPED_TRACE("killed at call " + std::to_string(n));
      ASSERT_LT(n, 1000);
      fresh(dir, old);
      done = killed_save(dir, next, n);
      const std::string found = content(dir);
      ASSERT_TRUE(found == content(old) || found == content(next));
      ++(found == content(next) ? news : olds);
      const std::string seen = visible(dir);
      if (seen != content(old) && seen != content(next)) ++mixed;
      if (done) {
        EXPECT_EQ(listing(dir), two_files);
      }
      // The next save works whatever was left, and leaves nothing of it but an unfinished file.
      save(dir, third);
      ASSERT_EQ(content(dir), content(third));
      ASSERT_EQ(visible(dir), content(third));
      EXPECT_FALSE(staged_files(dir));
    }
    EXPECT_GT(olds, 10);
    EXPECT_GT(news, 1);
    // What PEFT would see: both files at once, but between the two renames, with the calls there.
    EXPECT_EQ(mixed, same_config ? 0 : 4);
  }
}

TEST(PeftDirectory, AWriterKilledAfterOneThatWasKilledLeavesTheAdapterThatWasThere) {
  const TemporaryFolder folder;
  const fs::path dir = folder.path / "adapter";
  const Sample old = sample(2, "old"), next = sample(4, "next"), third = sample(3, "third");
  int interrupted = 0;
  for (int n = 0;; ++n) {
    fresh(dir, old);
    const bool done = killed_save(dir, next, n);
    if (done) break;
    if (!staged_files(dir)) continue;
    ++interrupted;
    fs::remove_all(folder.path / "interrupted");
    fs::copy(dir, folder.path / "interrupted");
    for (int m = 0;; ++m) {
      SCOPED_TRACE("killed at call " + std::to_string(n) + ", then " + std::to_string(m));
      fs::remove_all(dir);
      fs::copy(folder.path / "interrupted", dir);
      const std::string before = content(dir);
      const bool finished = killed_save(dir, third, m);
      const std::string found = content(dir);
      ASSERT_TRUE(found == before || found == content(third));
      if (finished) {
        EXPECT_EQ(found, content(third));
        EXPECT_FALSE(staged_files(dir));
        break;
      }
    }
  }
  EXPECT_GT(interrupted, 5);
}

TEST(PeftDirectory, AFirstSaveKilledAnywhereLeavesNoConfigurationWithoutWeights) {
  const TemporaryFolder folder;
  const fs::path dir = folder.path / "new" / "adapter";
  const Sample next = sample(2, "next");
  for (int n = 0;; ++n) {
    fs::remove_all(folder.path / "new");
    const bool done = killed_save(dir, next, n);
    if (fs::exists(dir / peft_config_file)) {
      EXPECT_EQ(content(dir), content(next));
    } else {
      EXPECT_TRUE(
          throws<FormatError>([&] { PeftAdapter::open(dir); }, {"has no adapter_config.json"}));
    }
    if (!done) continue;
    EXPECT_EQ(listing(dir), two_files);
    EXPECT_GT(n, 10);
    break;
  }
}

TEST(PeftDirectory, FilesThatWaitForAnotherConfigurationAreNotLookedAt) {
  const TemporaryFolder folder;
  const Sample old = sample(2, "old"), next = sample(4, "next"), peft = sample(3, "PEFT's");
  bool interrupted = false;
  for (int n = 0; !interrupted; ++n) {
    fresh(folder.path / "a", old);
    ASSERT_FALSE(killed_save(folder.path / "a", next, n));
    interrupted = content(folder.path / "a") == content(next);
  }
  ASSERT_TRUE(staged_files(folder.path / "a"));
  // Another program saves here, without knowing of hidden files.
  peft.tensors.write(folder.path / "a" / peft_weights_file);
  atomic_write(folder.path / "a" / peft_config_file, peft_config_text(peft.fields));
  EXPECT_EQ(content(folder.path / "a"), content(peft));
  save(folder.path / "a", old);
  EXPECT_EQ(listing(folder.path / "a").count(peft_config_file), 1u);
  EXPECT_FALSE(staged_files(folder.path / "a"));
}

// ---- errors ----

TEST(PeftDirectory, AnyCallThatFailsLeavesTheOldAdapterAndNoHiddenFile) {
  const TemporaryFolder folder;
  const fs::path dir = folder.path / "adapter";
  const Sample old = sample(2, "old");
  const auto try_to_save = [&](const Sample& next, const Faults& with) -> std::string {
    fresh(dir, old);
    faults = with;
    std::string message;
    try {
      save(dir, next, faulty);
    } catch (const IoError& failure) {
      message = failure.what();
    }
    return message;
  };
  for (const Sample& next : {sample(4, "other rank"), sample(2, "same configuration")}) {
    constexpr int never = 100000;
    EXPECT_EQ(try_to_save(next, {.countdown = never, .error = EIO}), "");
    const int calls = never - faults.countdown;
    EXPECT_GE(calls, 20);
    int in_place = 0;
    for (const int error : {ENOSPC, EROFS, EIO, EACCES}) {
      for (int n = 0; n < 2 * calls; ++n) {
        SCOPED_TRACE(std::to_string(error) + " at call " + std::to_string(n / 2));
        const std::string message =
            try_to_save(next, {.countdown = n / 2, .error = error, .stays = n % 2 == 1});
        faults = {};
        const auto says = [&](const char* part) { return message.find(part) != message.npos; };
        const bool waits = says("the adapter is the new one; its configuration waits"),
                   unsynced = says("a loss of power could undo it") &&
                              !says("the adapter that was there stays"),
                   kept = !message.empty() && !waits && !unsynced;
        in_place += waits || unsynced;
        // A folder that fails to close is no failure: nothing was written through it.
        if (message.empty()) {
          EXPECT_EQ(visible(dir), content(next));
        } else {
          EXPECT_EQ(message.find(dir.string()), 0u) << message;
        }
        EXPECT_EQ(content(dir), content(kept ? old : next)) << message;
        if (!waits) {
          EXPECT_EQ(listing(dir), two_files) << message;
          EXPECT_EQ(visible(dir), content(kept ? old : next)) << message;
        }
      }
    }
    EXPECT_GT(in_place, 0);
  }
}

TEST(PeftDirectory, AFirstSaveThatFailsLeavesNothing) {
  const TemporaryFolder folder;
  const Sample next = sample(2, "next");
  for (const char* kind : {"create", "write", "rename"}) {
    for (int n = 0; n < 2; ++n) {
      SCOPED_TRACE(kind + std::to_string(n));
      const fs::path dir = folder.path / (kind + std::to_string(n));
      faults = {.countdown = n, .error = ENOSPC, .kind = kind};
      EXPECT_TRUE(throws<IoError>([&] { save(dir, next, faulty); }, {"No space left on device"}));
      faults = {};
      EXPECT_EQ(listing(dir), std::set<std::string>{});
    }
  }
}

TEST(PeftDirectory, Messages) {
  const TemporaryFolder folder;
  const Sample old = sample(2, "old"), next = sample(4, "next");
  const fs::path dir = folder.path / "adapter";
  struct Row {
    const char* kind;
    int n, error;
    const char *part, *end;
  };
  for (const Row& row :
       {Row{"write", 3, ENOSPC, "cannot write: No space left on device",
            "; the adapter that was there stays"},
        {"create", 0, EROFS, "cannot create a new file beside it: Read-only file",
         "; the adapter that was there stays"},
        {"rename", 2, EPERM, "adapter_model.safetensors: cannot put the new file in",
         "; the adapter that was there stays"},
        {"rename", 3, EIO,
         "adapter_config.json: cannot put the new file in place (the "
         "adapter is the new one; its configuration waits as .lora-",
         "for the next save): Input/output error"},
        {"fsync", 5, EIO, "adapter: cannot sync the folder (the new adapter is in place",
         "a loss of power could undo it): Input/output error"}}) {
    fresh(dir, old);
    faults = {.countdown = row.n, .error = row.error, .kind = row.kind};
    EXPECT_TRUE(throws<IoError>([&] { save(dir, next, faulty); }, {row.part, row.end}));
    faults = {};
  }
  atomic_write(folder.path / "file", "x");
  EXPECT_TRUE(throws<IoError>([&] { save(folder.path / "file" / "adapter", next); },
                              {"adapter: cannot create this folder: Not a directory"}));
}

TEST(PeftDirectory, AConfigurationThatWaitsIsPutInPlaceByTheNextSave) {
  const TemporaryFolder folder;
  const Sample old = sample(2, "old"), next = sample(4, "next");
  fresh(folder.path / "a", old);
  faults = {.countdown = 3, .error = EIO, .kind = "rename"};
  EXPECT_THROW(save(folder.path / "a", next, faulty), IoError);
  faults = {};
  EXPECT_EQ(content(folder.path / "a"), content(next));
  EXPECT_NE(visible(folder.path / "a"), content(next));
  save(folder.path / "a", next);
  EXPECT_EQ(visible(folder.path / "a"), content(next));
  EXPECT_EQ(listing(folder.path / "a"), two_files);
}

TEST(PeftDirectory, PermissionsAndLinksAndOtherFiles) {
  const TemporaryFolder folder;
  const fs::path dir = folder.path / "adapter";
  fresh(dir, sample(2, "old"));
  for (const char* name : {peft_config_file, peft_weights_file})
    fs::permissions(dir / name, fs::perms::owner_read | fs::perms::owner_write);
  atomic_write(dir / "notes.txt", "mine");
  save(dir, sample(4, "next"));
  for (const char* name : {peft_config_file, peft_weights_file}) {
    EXPECT_EQ(fs::status(dir / name).permissions(), fs::perms::owner_read | fs::perms::owner_write);
  }
  EXPECT_EQ(as_text(read_file(dir / "notes.txt", 10)), "mine");
  // A cache of downloads holds links; what they point to stays.
  const fs::path cache = folder.path / "cache";
  fs::create_directory(cache);
  for (const char* name : {peft_config_file, peft_weights_file})
    fs::create_symlink(dir / name, cache / name);
  EXPECT_EQ(content(cache), content(dir));
  save(cache, sample(3, "third"));
  EXPECT_EQ(content(cache), content(sample(3, "third")));
  EXPECT_EQ(content(dir), content(sample(4, "next")));
}

TEST(PeftDirectory, APipeInPlaceOfTheWeightsIsRefused) {
  const TemporaryFolder folder;
  for (const Sample& next : {sample(2, "same configuration"), sample(4, "another")}) {
    fresh(folder.path, sample(2, "old"));
    const fs::path pipe = folder.path / peft_weights_file;
    fs::remove(pipe);
    ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
    EXPECT_TRUE(
        throws<IoError>([&] { PeftAdapter::open(folder.path); },
                        {"adapter_model.safetensors: is a device or pipe, expected a file"}));
    EXPECT_TRUE(
        throws<IoError>([&] { save(folder.path, next); },
                        {"adapter_model.safetensors: is a device or pipe, expected a file"}));
    EXPECT_TRUE(fs::is_fifo(pipe));
  }
}

TEST(PeftDirectory, AnOpenAdapterKeepsItsTensorsWhileItIsReplaced) {
  const TemporaryFolder folder;
  const Sample old = sample(2, "old");
  fresh(folder.path / "a", old);
  const PeftAdapter adapter = PeftAdapter::open(folder.path / "a");
  save(folder.path / "a", sample(4, "next"));
  EXPECT_TRUE(same_bits(adapter.tensors().matrix<float>("base_model.model.q.lora_A.weight"),
                        random_matrix<float>(2, 40, "Aold")));
}

TEST(PeftDirectory, APairLeftByAKilledSaveDoesNotHideWhatIsPutThereLater) {
  const Sample a = sample(2, "a"), b = sample(3, "b"), c = sample(2, "c");  // c: a's configuration
  const TemporaryFolder folder;
  for (int calls = 0;; ++calls) {
    const fs::path directory = folder.path / std::to_string(calls), other = folder.path / "c";
    save(directory, a);
    if (calls == 0) save(other, c);
    const pid_t child = ::fork();
    if (child == 0) {
      faults = {calls, 0};
      save(directory, b);
      ::_exit(0);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    const bool waiting = staged_files(directory);
    // As PEFT, or a copy, would do it.
    for (const char* name : {peft_weights_file, peft_config_file})
      fs::copy_file(other / name, directory / name, fs::copy_options::overwrite_existing);
    EXPECT_EQ(content(directory), content(c)) << "killed at call " << calls;
    save(directory, b);
    EXPECT_EQ(content(directory), content(b));
    EXPECT_FALSE(staged_files(directory));
    if (WEXITSTATUS(status) == 0) {
      EXPECT_FALSE(waiting);
      break;
    }
  }
}

TEST(PeftDirectory, AReaderSeesOneAdapterOrTheOtherWhileTheyAreSaved) {
  const Sample a = sample(2, "a"), b = sample(3, "b");
  const TemporaryFolder folder;
  save(folder.path, a);
  const std::set<std::string> valid = {content(a), content(b)};
  std::atomic<bool> done = false;
  std::thread writer([&] {
    for (int i = 0; i < 150; ++i) save(folder.path, i % 2 == 0 ? b : a);
    done = true;
  });
  int reads = 0, wrong = 0;
  std::string error;
  for (; !done && error.empty(); ++reads) try {
      const PeftAdapter adapter = PeftAdapter::open(folder.path);
      SafetensorsWriter tensors;
      tensors.set_metadata("format", "pt");
      for (const std::string& name : adapter.tensors().names())
        tensors.add(name, adapter.tensors().info(name).dtype, adapter.tensors().info(name).shape,
                    adapter.tensors().bytes(name));
      const auto bytes = tensors.to_bytes();
      wrong += valid.count(peft_config_text(adapter.fields()) + std::string(as_text(bytes))) == 0;
    } catch (const Error& caught) {
      error = caught.what();
    }
  writer.join();
  EXPECT_EQ(error, "");
  EXPECT_EQ(wrong, 0) << "of " << reads;
  EXPECT_GT(reads, 0);
}

}  // namespace peft_directory_test
