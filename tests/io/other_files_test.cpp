#include <lora/io/hf/other_files.hpp>

#include <gtest/gtest.h>

#include <set>

#include "support/shared.hpp"

namespace other_files_test {
using namespace lora;
namespace fs = std::filesystem;

TEST(OtherFiles, AreCopiedWithoutWeightsAndConfiguration) {
  const lora_test::TemporaryFolder from, to;
  for (const char* name :
       {"tokenizer.json", "generation_config.json", "LICENSE", "merges.txt", "empty"})
    atomic_write(from.path / name, name == std::string("empty") ? "" : name);
  for (const char* name :
       {"config.json", "README.md", "adapter_config.json", "model.safetensors", "pytorch_model.bin",
        "model.gguf", "model.safetensors.index.json", ".gitattributes"})
    atomic_write(from.path / name, "no");
  fs::create_directory(from.path / "folder");
  copy_other_files(from.path, to.path);
  std::set<std::string> copied;
  for (const auto& entry : fs::directory_iterator(to.path))
    copied.insert(entry.path().filename().string());
  EXPECT_EQ(copied, (std::set<std::string>{"tokenizer.json", "generation_config.json", "LICENSE",
                                           "merges.txt", "empty"}));
  EXPECT_EQ(as_text(read_file(to.path / "merges.txt", 100)), "merges.txt");
}

TEST(OtherFiles, OfNoFolderAreAnError) {
  const lora_test::TemporaryFolder to;
  try {
    copy_other_files(to.path / "no", to.path);
    FAIL();
  } catch (const IoError& error) {
    EXPECT_NE(std::string(error.what()).find("cannot list this folder: No such file"),
              std::string::npos);
  }
}

}  // namespace other_files_test
