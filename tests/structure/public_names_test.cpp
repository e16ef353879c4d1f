// The programs of tools/ and examples/ are built on what a user may rely on.
#include <gtest/gtest.h>

#include "structure/source_tree.hpp"

namespace public_names_test {
using namespace lora_test;

/// The lines of a source that name what may change without notice.
std::vector<std::string> private_lines(const std::string& path, const std::string& text) {
  std::vector<std::string> faults;
  const std::vector<std::string> lines = lines_of(text);
  for (std::size_t i = 0; i < lines.size(); ++i) {
    for (const char* name : {"lora::detail::", "<lora/kernels/", "lora::kernels::"}) {
      if (lines[i].find(name) != std::string::npos)
        faults.push_back(path + ":" + std::to_string(i + 1) + ": " + lines[i]);
    }
  }
  return faults;
}

TEST(PublicNames, ProgramsUseNoOthers) {
  std::vector<std::string> faults;
  int files = 0;
  for (const char* folder : {"tools", "examples"}) {
    const std::filesystem::path root = std::filesystem::path(LORA_SOURCE_DIR) / folder;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) {
      const std::string extension = entry.path().extension().string();
      if (extension != ".hpp" && extension != ".cpp") continue;
      std::ifstream in(entry.path(), std::ios::binary);
      const std::string text(std::istreambuf_iterator<char>(in), {});
      for (const std::string& fault : private_lines(entry.path().string(), text))
        faults.push_back(fault);
      ++files;
    }
  }
  EXPECT_GT(files, 30);
  EXPECT_EQ(joined(faults), "");
}

TEST(PublicNames, ReaderFindsThem) {
  EXPECT_EQ(joined(private_lines("a", "x\nlora::detail::f();\n#include <lora/kernels/avx2.hpp>")),
            "\n  a:2: lora::detail::f();\n  a:3: #include <lora/kernels/avx2.hpp>");
  EXPECT_EQ(joined(private_lines("a", "tools::detail::f();\n#include <lora/core/types.hpp>")), "");
}

}  // namespace public_names_test
