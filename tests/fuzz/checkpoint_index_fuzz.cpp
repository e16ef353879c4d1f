// model.safetensors.index.json beside two shards, with files outside of the folder and in one below
// it: what opens are shards in this very folder, every tensor is in the file that the index says,
// and a model that asks for the tensors gets them or says what is missing.
#include <lora/io/hf/checkpoint_weights.hpp>
#include <lora/io/safetensors/safetensors_writer.hpp>

#include "folder.hpp"
#include "fuzz.hpp"
#include "json_mutator.hpp"

namespace {
using namespace lora;
using lora_fuzz::expect;
namespace fs = std::filesystem;

/// checkpoint/ with two shards and what is not to be read: below, beside, hidden, of another name.
struct Folder {
  lora_fuzz::TemporaryFolder all;
  fs::path path = all.path / "checkpoint";

  Folder() {
    fs::create_directories(path / "below");
    const auto write = [](const fs::path& to, const std::vector<std::string>& names) {
      SafetensorsWriter writer;
      Matrix<float> values = Matrix<float>::Ones(2, 3);
      for (const std::string& name : names) writer.add(name, values, DType::F32);
      writer.write(to);
    };
    write(path / "model-00001-of-00002.safetensors", {"model.a.weight", "model.b.weight"});
    write(path / "model-00002-of-00002.safetensors", {"model.c.weight", "lm_head.weight"});
    write(path / "the.safetensors", {"model.a.weight"});
    for (const char* name : {"below/inner.safetensors", ".hidden.safetensors",
                             "../outside.safetensors", "model-00001-of-00002.safetensors.bak"})
      write(path / name, {"secret"});
  }
};

void check(const CheckpointFiles& files) {
  const Json& map = files.index()["weight_map"];
  expect(files.names().size() == map.size(), "not the tensors of the index");
  for (const CheckpointFiles::File& file : files.files()) {
    expect(fs::path(file.name).filename() == file.name && file.name[0] != '.', "a file elsewhere");
    for (const std::string& name : file.tensors.names())
      expect(map[name] == file.name, "in another file");
  }
  expect(!files.contains("secret"), "a file that is not the checkpoint's was read");
  for (const auto& [name, place] : files.names())
    expect(files.info(name).shape.size() == 2, "no shape");
}

// Twice, as load_model does.
void ask(const CheckpointFiles& files) {
  CheckpointCheck<float> check(files);
  for (const char* name : {"model.a.weight", "model.b.weight", "model.c.weight"})
    check.matrix(name, 2, 3, Layout::out_in);
  check.vector("model.norm.weight", 3);
  check.finish("model.a.weight");
}

void read(std::string_view index) {
  static const Folder folder;
  folder.all.write(folder.path / checkpoint_index_file, index);
  const CheckpointFiles files = CheckpointFiles::open(folder.path);
  check(files);
  lora_fuzz::try_input([&] { ask(files); });
  lora_fuzz::try_input([&] { files.file_of(std::string(index.substr(0, 40))); });
}

}  // namespace

std::span<const std::string_view> lora_fuzz::words() {
  static constexpr std::string_view all[] = {"weight_map",
                                             "metadata",
                                             "total_size",
                                             "model.a.weight",
                                             "model.b.weight",
                                             "model.c.weight",
                                             "lm_head.weight",
                                             "secret",
                                             "model-00001-of-00002.safetensors",
                                             "model-00002-of-00002.safetensors",
                                             "model-00003-of-00002.safetensors",
                                             "the.safetensors",
                                             "below/inner.safetensors",
                                             "below\\inner.safetensors",
                                             "../outside.safetensors",
                                             "./the.safetensors",
                                             ".hidden.safetensors",
                                             "..",
                                             "/",
                                             ".safetensors",
                                             "model-00001-of-00002.safetensors.bak"};
  return all;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::vector<std::byte> bytes = lora_fuzz::bytes_of(data, size);
  lora_fuzz::try_input([&] { read(as_text(bytes)); });
  return 0;
}
