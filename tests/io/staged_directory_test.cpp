#include <lora/io/staged_directory.hpp>

#include <gtest/gtest.h>

#include "support/file_calls.hpp"
#include "support/messages.hpp"
#include "support/shared.hpp"

namespace staged_directory_test {
using namespace lora;
using lora_test::message_of;
using lora_test::TemporaryFolder;
namespace fs = std::filesystem;

std::size_t entries(const fs::path& folder) {
  return static_cast<std::size_t>(
      std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

TEST(StagedDirectory, AppearsAtOnce) {
  const TemporaryFolder folder;
  for (const fs::path& target :
       {folder.path / "new", folder.path / "above" / "new/", folder.path / "empty"}) {
    if (target.filename() == "empty") fs::create_directory(target);
    StagedDirectory staged(target);
    atomic_write(staged.path() / "file", "content");
    EXPECT_FALSE(fs::exists(target / "file"));
    staged.commit();
    EXPECT_TRUE(fs::exists(target / "file"));
    EXPECT_HAS(message_of<Error>([&] { staged.commit(); }), "commit was called twice");
  }
  EXPECT_EQ(entries(folder.path), 3u);
}

TEST(StagedDirectory, LeavesNothingWithoutCommit) {
  const TemporaryFolder folder;
  {
    const StagedDirectory staged(folder.path / "new");
    atomic_write(staged.path() / "file", "content");
    EXPECT_EQ(staged.path().parent_path(), folder.path);
    EXPECT_EQ(entries(folder.path), 1u);
  }
  EXPECT_EQ(entries(folder.path), 0u);
}

TEST(StagedDirectory, RefusesATargetThatIsNotFree) {
  const TemporaryFolder folder;
  atomic_write(folder.path / "file", "content");
  EXPECT_HAS(message_of<ConfigError>([&] { StagedDirectory staged(folder.path); }), "is not empty");
  EXPECT_HAS(message_of<ConfigError>([&] { StagedDirectory staged(folder.path / "file"); }),
             "exists and is not a folder");
  EXPECT_HAS(message_of<IoError>([&] { StagedDirectory staged(folder.path / "file" / "new"); }),
             "cannot create");
  EXPECT_EQ(entries(folder.path), 1u);
}

TEST(StagedDirectory, AFailedRenameLeavesNothing) {
  const TemporaryFolder folder;
  StagedDirectory staged(folder.path / "new");
  fs::create_directory(folder.path / "new");
  atomic_write(folder.path / "new" / "file", "of somebody else");
  EXPECT_HAS(message_of<IoError>([&] { staged.commit(); }), "put the new folder in place");
  lora_test::FileCalls calls = lora_test::posix_calls();
  calls.fsync = [](int) {
    errno = EIO;
    return -1;
  };
  const fs::path target = folder.path / "unsynced";
  {
    const lora_test::WithFileCalls in_force(calls);
    StagedDirectory other(target);
    EXPECT_HAS(message_of<IoError>([&] { other.commit(); }), "sync the new folder");
  }
  EXPECT_FALSE(fs::exists(target));
}

TEST(StagedDirectory, ParentFoldersAreThoseOfTheSystem) {
  const TemporaryFolder folder;
  fs::create_directories(folder.path / "far" / "away");
  fs::create_directory_symlink(folder.path / "far" / "away", folder.path / "link");
  for (const char* target : {"link/../out", "link/.././more/", "link/../new/../last"}) {
    StagedDirectory staged(folder.path / target);
    EXPECT_EQ(staged.path().parent_path(), fs::canonical(folder.path / "far"));
    staged.commit();
    EXPECT_TRUE(fs::is_directory(folder.path / "link" / ".." /
                                 fs::path(target).lexically_normal().filename()))
        << target;
  }
  EXPECT_EQ(entries(folder.path), 2u);
  StagedDirectory staged(folder.path / "link" / "new" / ".");
  staged.commit();
  EXPECT_TRUE(fs::is_directory(folder.path / "far" / "away" / "new"));
  // A link is no new folder.
  EXPECT_HAS(message_of<ConfigError>([&] { StagedDirectory link(folder.path / "link"); }),
             "exists and is not a folder");
}

}  // namespace staged_directory_test
