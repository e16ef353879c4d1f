#include <lora/io/hf/checkpoint_files.hpp>
#include <lora/io/safetensors/safetensors_writer.hpp>

#include <gtest/gtest.h>

#include "support/messages.hpp"
#include "support/shared.hpp"

namespace checkpoint_files_test {
using namespace lora;
using lora_test::TemporaryFolder;

void write_tensors(const std::filesystem::path& path, const std::vector<std::string>& names) {
  SafetensorsWriter writer;
  for (const std::string& name : names)
    writer.add(name, Matrix<float>::Constant(2, 3, 1.5f), DType::F32);
  writer.write(path);
}

// What opening the folder says.
std::string verdict(const std::filesystem::path& folder) {
  try {
    CheckpointFiles::open(folder);
    return "accepted";
  } catch (const Error& error) {
    return error.what();
  }
}

// Two shards and an index of this weight_map.
struct Sharded {
  TemporaryFolder folder;
  explicit Sharded(const std::string& map) {
    write_tensors(folder.path / "model-1.safetensors", {"a", "b"});
    write_tensors(folder.path / "model-2.safetensors", {"c"});
    atomic_write(folder.path / checkpoint_index_file, "{\"weight_map\":" + map + "}");
  }
  std::string verdict() const { return checkpoint_files_test::verdict(folder.path); }
};
constexpr const char* fitting =
    R"({"a":"model-1.safetensors","b":"model-1.safetensors","c":"model-2.safetensors"})";

TEST(CheckpointFiles, OneFile) {
  const TemporaryFolder folder;
  write_tensors(folder.path / checkpoint_file, {"x.weight", "y.weight"});
  const CheckpointFiles files = CheckpointFiles::open(folder.path);
  EXPECT_TRUE(files.index().is_null());
  EXPECT_TRUE(files.contains("x.weight"));
  EXPECT_EQ(files.info("y.weight").shape, (std::vector<Index>{2, 3}));
  try {
    files.file_of("z.weight");
    FAIL();
  } catch (const FormatError& error) {
    EXPECT_HAS(std::string(error.what()), "has no tensor \"z.weight\"; similar: x.weight");
  }
}

TEST(CheckpointFiles, ShardsAreFoundThroughTheIndex) {
  const Sharded sharded(fitting);
  const CheckpointFiles files = CheckpointFiles::open(sharded.folder.path);
  ASSERT_EQ(files.files().size(), 2u);
  EXPECT_EQ(files.files()[1].name, "model-2.safetensors");
  EXPECT_TRUE(files.file_of("c").contains("c"));
  EXPECT_EQ(files.names().size(), 3u);
}

TEST(CheckpointFiles, RefusesAnIndexThatLies) {
  EXPECT_HAS(Sharded("{}").verdict(), "weight_map is missing or empty");
  EXPECT_HAS(Sharded("3").verdict(), "weight_map is missing or empty");
  for (const char* path :
       {"\"../model-1.safetensors\"", "\"/x/model.safetensors\"", "\"a/model-1.safetensors\"",
        "\".hidden0.safetensors\"", "\"model-1.bin.......\"", "\"a\\\\b0000.safetensors\"",
        "\"mod\\u0000el.safetensors\"", "\"\\u001b[31m.safetensors\"", "7"}) {
    EXPECT_HAS(Sharded(std::string("{\"a\":") + path + "}").verdict(),
               "weight_map: the file of \"a\" is ");
  }
  const std::string lies = Sharded(R"({"a":"model-2.safetensors","b":"model-1.safetensors",
                                       "d":"model-1.safetensors"})")
                               .verdict();
  EXPECT_HAS(lies, "a: is not in model-2.safetensors");
  EXPECT_HAS(lies, "d: is not in model-1.safetensors");
  EXPECT_HAS(lies, "c: is in model-2.safetensors, but not in weight_map");
  EXPECT_HAS(Sharded(R"({"a":"model-3.safetensors"})").verdict(), "No such file");
}

TEST(CheckpointFiles, RefusesATensorInTwoShards) {
  const Sharded sharded(fitting);
  write_tensors(sharded.folder.path / "model-2.safetensors", {"c", "a"});
  EXPECT_HAS(sharded.verdict(),
             "tensor \"a\" is in \"model-1.safetensors\" and in \"model-2.safetensors\"");
}

TEST(CheckpointFiles, SaysWhyThereIsNone) {
  const TemporaryFolder folder;
  EXPECT_HAS(verdict(folder.path / "no"), "No such file");
  EXPECT_HAS(verdict(folder.path), "has neither model.safetensors nor");
  atomic_write(folder.path / "pytorch_model.bin", "x");
  EXPECT_HAS(verdict(folder.path), "pytorch_model.bin is a Python pickle");
  EXPECT_HAS(verdict(folder.path / "pytorch_model.bin"), "is a file, expected the folder");
  atomic_write(folder.path / checkpoint_file, "12345678");
  EXPECT_HAS(verdict(folder.path), checkpoint_file);
}

}  // namespace checkpoint_files_test
