// Data outside the repository, found when the tests run, and folders for single tests.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <string>

namespace lora_test {

/// Returns the folder that LORA_SHARED_DIR names in the environment, or "" without it.
inline std::filesystem::path shared_dir() {
  const char* const named = std::getenv("LORA_SHARED_DIR");
  return named == nullptr ? "" : named;
}
inline bool has_shared(const std::string& path) {
  return !shared_dir().empty() && std::filesystem::exists(shared_dir() / path);
}

/// Skips the running test unless <path> is in that folder.
#define LORA_NEEDS_SHARED(path)       \
  if (!lora_test::has_shared((path))) \
  GTEST_SKIP() << "needs " << (path) << " in the folder that LORA_SHARED_DIR names"

/// A new folder for one test, removed by the destructor.
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
