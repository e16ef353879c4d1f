// A folder in memory for the readers that want a folder.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>

#include <fcntl.h>
#include <unistd.h>

namespace lora_fuzz {

/// Removed at the end, unless the run is aborted. Not on a disk where there is /dev/shm.
class TemporaryFolder {
 public:
  std::filesystem::path path;

  TemporaryFolder() {
    const bool memory = ::access("/dev/shm", W_OK) == 0;
    std::string name = std::string(memory ? "/dev/shm" : "/tmp") + "/lora_fuzz.XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) std::abort();
    path = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  /// With plain calls: millions of times.
  static void write(const std::filesystem::path& to, std::string_view content) {
    const int file = ::open(to.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (file < 0) std::abort();
    if (::write(file, content.data(), content.size()) != static_cast<ssize_t>(content.size()))
      std::abort();
    ::close(file);
  }
};

}  // namespace lora_fuzz
