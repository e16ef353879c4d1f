#include <lora/io/folder_lock.hpp>

#include <gtest/gtest.h>

#include "support/messages.hpp"
#include "support/shared.hpp"

#include <csignal>
#include <fstream>
#include <optional>

#include <sys/wait.h>

namespace folder_lock_test {
using namespace lora;
using namespace lora_test;

TEST(FolderLock, HoldsAFolderForOneAndMakesIt) {
  const TemporaryFolder folder;
  const std::filesystem::path output = folder.path / "a" / "b";
  std::optional<FolderLock> first(std::in_place, output);
  EXPECT_TRUE(std::filesystem::is_directory(output));
  EXPECT_HAS(message_of<IoError>([&] { FolderLock second(output); }),
             output.string() +
                 ": another run is writing into this folder; "
                 "wait for its end or choose another folder");
  EXPECT_NO_THROW(FolderLock(folder.path / "a")) << "another folder";
  first.reset();
  EXPECT_NO_THROW(FolderLock again(output));
  EXPECT_TRUE(std::filesystem::is_empty(output)) << "nothing is left in it";
}

TEST(FolderLock, EndsWithTheProcessThatIsKilled) {
  const TemporaryFolder folder;
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::alarm(60);
    try {
      const FolderLock held(folder.path);
      const char byte = 1;
      if (::write(ready[1], &byte, 1) == 1) ::pause();
    } catch (const IoError&) {
    }
    ::_exit(1);
  }
  ::close(ready[1]);
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  EXPECT_THROW(FolderLock{folder.path}, IoError);
  ::kill(child, SIGKILL);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_NO_THROW(FolderLock{folder.path});
  ::close(ready[0]);
}

TEST(FolderLock, SaysWhyAFolderCannotBe) {
  const TemporaryFolder folder;
  const std::filesystem::path file = folder.path / "file";
  std::ofstream(file) << "x";
  EXPECT_HAS(message_of<IoError>([&] { FolderLock lock(file); }), "cannot make the folder");
  EXPECT_HAS(message_of<IoError>([&] { FolderLock lock(file / "sub"); }), "cannot make the folder");
}

}  // namespace folder_lock_test
