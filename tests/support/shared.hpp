// Where golden numbers and data lie; tests that need them skip with a message when they are absent.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <string>

namespace lora_test {

inline std::filesystem::path shared_dir() { return LORA_SHARED_DIR; }

/// Skips the running test unless shared/<path> is there.
#define LORA_NEEDS_SHARED(path)                                                                   \
  if (!std::filesystem::exists(lora_test::shared_dir() / (path)))                                 \
  GTEST_SKIP() << "needs " << (path) << " in " << lora_test::shared_dir() << " (LORA_SHARED_DIR)"

/// A fresh folder for one test, removed at the end of its life.
struct TemporaryFolder {
  std::filesystem::path path;
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "lora_test_XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp failed: " + pattern);
    path = pattern;
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
};

}  // namespace lora_test
