// Adapter directories without a model: what opens, and what is refused with which words.
#include <lora/io/peft/peft_adapter.hpp>

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "layers/layer_tools.hpp"
#include "support/golden_sets.hpp"

namespace peft_adapter_test {
using namespace lora;
using namespace lora_test;
namespace fs = std::filesystem;
using Names = std::vector<std::string>;
using Shape = std::vector<Index>;

const std::string p = "base_model.model.";

LoRAConfig config_for(Index r = 2, double alpha = 3) {
  LoRAConfig config;
  config.r = r;
  config.lora_alpha = alpha;
  config.target_modules = {"q", "embed"};
  return config;
}
/// Tensors of these names and shapes.
SafetensorsWriter writer_of(const std::vector<std::pair<std::string, Shape>>& tensors,
                            DType dtype = DType::F32) {
  SafetensorsWriter writer;
  writer.set_metadata("format", "pt");
  for (const auto& [name, shape] : tensors) {
    Index size = 1;
    for (const Index n : shape) size *= n;
    writer.add(name, random_matrix<float>(1, size, name), dtype, shape);
  }
  return writer;
}
/// A directory with these two files, whatever they hold.
void put(const fs::path& directory, const LoRAConfig& config, const SafetensorsWriter& tensors) {
  fs::create_directories(directory);
  tensors.write(directory / peft_weights_file);
  atomic_write(directory / peft_config_file, peft_config_text(peft_config_fields(config)));
}
const std::vector<std::pair<std::string, Shape>> q_pair = {{p + "block.0.q.lora_A.weight", {2, 6}},
                                                           {p + "block.0.q.lora_B.weight", {5, 2}}};
std::string bytes_of(const fs::path& path) {
  const auto bytes = read_file(path, std::uint64_t{1} << 30);
  return std::string(as_text(bytes));
}

TEST(PeftAdapter, ListsModulesWithRankAlphaAndScale) {
  const TemporaryFolder folder;
  LoRAConfig config = config_for(2, 3);
  config.rank_pattern = {{"conv", 4}, {"block.1.q", 3}};
  config.alpha_pattern = {{"embed", 5}};
  put(folder.path, config,
      writer_of({{p + "block.0.q.lora_A.weight", {2, 6}},
                 {p + "block.0.q.lora_B.weight", {5, 2}},
                 {p + "block.0.q.lora_B.bias", {5}},
                 {p + "block.1.q.lora_A.weight", {3, 6}},
                 {p + "block.1.q.lora_B.weight", {5, 3}},
                 {p + "conv.lora_A.weight", {4, 2, 3, 2}},
                 {p + "conv.lora_B.weight", {6, 2, 1, 1}},  // two groups
                 {p + "embed.lora_embedding_A", {2, 11}},
                 {p + "embed.lora_embedding_B", {6, 2}},
                 {p + "head.weight", {5, 7}}}));
  const PeftAdapter adapter = PeftAdapter::open(folder.path);
  std::string text;
  for (const PeftModule& m : adapter.modules()) {
    text += m.name + (m.embedding ? " embedding " : " ") + m.a_key.substr(p.size()) + " " +
            m.b_key.substr(p.size()) + " " + std::to_string(m.r) + " " + number_text(m.alpha) +
            " " + number_text(m.scaling) + "\n";
  }
  EXPECT_EQ(text,
            "block.0.q block.0.q.lora_A.weight block.0.q.lora_B.weight 2 3 1.5\n"
            "block.1.q block.1.q.lora_A.weight block.1.q.lora_B.weight 3 3 1\n"
            "conv conv.lora_A.weight conv.lora_B.weight 4 3 0.75\n"
            "embed embedding embed.lora_embedding_A embed.lora_embedding_B 2 5 2.5\n");
  EXPECT_EQ(adapter.other_tensors(), (Names{p + "block.0.q.lora_B.bias", p + "head.weight"}));
  EXPECT_EQ(adapter.config().r, 2);
  EXPECT_EQ(adapter.fields().at("lora_alpha"), Json(3));
  EXPECT_EQ(adapter.unknown_fields(), Names{});
  EXPECT_TRUE(same_bits(
      adapter.tensors().matrix<float>(p + "head.weight"),
      Matrix<float>(
          random_matrix<float>(1, 35, p + "head.weight").reshaped<Eigen::RowMajor>(5, 7))));
}

TEST(PeftAdapter, RsLoRAScales) {
  const TemporaryFolder folder;
  LoRAConfig config = config_for(2, 3);
  config.use_rslora = true;
  put(folder.path, config, writer_of(q_pair));
  EXPECT_EQ(PeftAdapter::open(folder.path).modules().at(0).scaling, 3 / std::sqrt(2.0));
}

TEST(PeftAdapter, ConfigurationOfTargetsAndLayersDoesNotHideWhatTheFileHolds) {
  const TemporaryFolder folder;
  LoRAConfig config = config_for();
  config.target_modules = {"other"};
  config.layers_to_transform = {7};
  config.exclude_modules = {"q"};
  config.task_type = "SEQ_CLS";
  config.modules_to_save = {"block"};
  put(folder.path, config, writer_of(q_pair));
  EXPECT_EQ(PeftAdapter::open(folder.path).modules().size(), 1u);
}

TEST(PeftAdapter, KeysMayLackThePrefix) {
  const TemporaryFolder folder;
  put(folder.path, config_for(),
      writer_of({{"block.0.q.lora_A.weight", {2, 6}}, {"block.0.q.lora_B.weight", {5, 2}}}));
  const PeftAdapter adapter = PeftAdapter::open(folder.path);
  EXPECT_EQ(adapter.modules().at(0).name, "block.0.q");
  EXPECT_EQ(adapter.modules().at(0).a_key, "block.0.q.lora_A.weight");
}

// As a model's state_dict has them: PEFT loads "default", and others under their own name only.
TEST(PeftAdapter, KeysMayHoldTheAdaptersName) {
  const auto files = [](const std::string& name) {
    return writer_of({{p + "block.0.q.lora_A." + name + ".weight", {2, 6}},
                      {p + "block.0.q.lora_B." + name + ".weight", {5, 2}},
                      {p + "block.0.q.lora_B." + name + ".bias", {5}},
                      {p + "embed.lora_embedding_A." + name, {2, 7}},
                      {p + "embed.lora_embedding_B." + name, {4, 2}},
                      {p + "head.modules_to_save." + name + ".weight", {3, 3}},
                      {p + "head.modules_to_save." + name + ".dense.bias", {3}}});
  };
  const TemporaryFolder folder;
  for (const char* name : {"default", "weight", "my_adapter"}) {
    SCOPED_TRACE(name);
    put(folder.path, config_for(), files(name));
    const PeftAdapter adapter = PeftAdapter::open(folder.path);
    ASSERT_EQ(adapter.modules().size(), 2u);
    EXPECT_EQ(adapter.modules()[0].a_key, p + "block.0.q.lora_A.weight");
    EXPECT_EQ(adapter.modules()[1].b_key, p + "embed.lora_embedding_B");
    EXPECT_TRUE(adapter.modules()[1].embedding);
    EXPECT_EQ(adapter.other_tensors(),
              (Names{p + "block.0.q.lora_B.bias", p + "head.dense.bias", p + "head.weight"}));
    EXPECT_EQ(adapter.tensors().matrix<float>(adapter.modules()[0].a_key).size(), 12);
    EXPECT_EQ(adapter.warnings(),
              name == std::string("default")
                  ? Names{}
                  : Names{"the keys hold the name of the adapter, \"" + std::string(name) +
                          "\", which is removed; PEFT would load it under that name only"});
  }
  put(folder.path, config_for(),
      writer_of({{p + "q.lora_A.a.weight", {2, 6}},
                 {p + "q.lora_B.a.weight", {5, 2}},
                 {p + "q.lora_A.b.weight", {2, 6}},
                 {p + "q.lora_B.b.weight", {5, 2}}}));
  EXPECT_TRUE(throws<FormatError>(
      [&] { PeftAdapter::open(folder.path); },
      {"the keys hold the names of several adapters, \"a\" and \"b\", expected one"}));
  put(folder.path, config_for(),
      writer_of({{p + "q.lora_A.weight", {2, 6}},
                 {p + "q.lora_B.weight", {5, 2}},
                 {p + "q.lora_A.default.weight", {2, 6}}}));
  EXPECT_TRUE(throws<FormatError>(
      [&] { PeftAdapter::open(folder.path); },
      {"two tensors would have the name \"base_model.model.q.lora_A.weight\""}));
}

TEST(PeftAdapter, FieldsThatAreNotKnownAreAWarning) {
  const TemporaryFolder folder;
  put(folder.path, config_for(), writer_of(q_pair));
  Json fields = peft_config_fields(config_for());
  EXPECT_TRUE(PeftAdapter::open(folder.path).warnings().empty());
  fields["use_megalora"] = true;
  atomic_write(folder.path / peft_config_file, peft_config_text(fields));
  EXPECT_EQ(PeftAdapter::open(folder.path).warnings(),
            (Names{"adapter_config.json: \"use_megalora\" is true, which is not known here and is "
                   "ignored"}));
}

TEST(PeftAdapter, AnAdapterOfMlxIsNamed) {
  const TemporaryFolder folder;
  atomic_write(folder.path / peft_config_file,
               R"({"fine_tune_type":"lora","num_layers":2,"lora_parameters":{"rank":4}})");
  atomic_write(folder.path / "adapters.safetensors", "x");
  EXPECT_TRUE(throws<FormatError>([&] { PeftAdapter::open(folder.path); },
                                  {"adapters.safetensors exists: that is the format of mlx-lm"}));
  writer_of(q_pair).write(folder.path / peft_weights_file);
  EXPECT_TRUE(throws<FormatError>([&] { PeftAdapter::open(folder.path); },
                                  {"this is a configuration of mlx-lm"}));
}

TEST(PeftAdapter, ModulesMayBeCalledLikeTensors) {
  const TemporaryFolder folder;
  put(folder.path, config_for(),
      writer_of({{p + "lora_A.weight.lora_A.weight", {2, 6}},
                 {p + "lora_A.weight.lora_B.weight", {5, 2}},
                 {p + "lora_A.weight", {3}},
                 {"lora_B.weight", {3}}}));
  const PeftAdapter adapter = PeftAdapter::open(folder.path);
  ASSERT_EQ(adapter.modules().size(), 1u);
  EXPECT_EQ(adapter.modules()[0].name, "lora_A.weight");
  EXPECT_EQ(adapter.other_tensors(), (Names{p + "lora_A.weight", "lora_B.weight"}));
}

TEST(PeftAdapter, HalvesOpen) {
  const TemporaryFolder folder;
  for (const DType dtype : {DType::BF16, DType::F16, DType::F64}) {
    put(folder.path, config_for(), writer_of(q_pair, dtype));
    const PeftAdapter adapter = PeftAdapter::open(folder.path);
    EXPECT_EQ(adapter.tensors().info(q_pair[0].first).dtype, dtype);
  }
}

// ---- refusals ----

TEST(PeftAdapter, AllFaultsOfTheTensorsAreNamedAtOnce) {
  const TemporaryFolder folder;
  LoRAConfig config = config_for(2);
  config.rank_pattern = {{"v", 3}};
  auto tensors = writer_of({{p + "a.lora_A.weight", {2, 6}},
                            {p + "b.lora_B.weight", {5, 2}},
                            {p + "c.lora_A.weight", {2, 6}},
                            {p + "c.lora_B.weight", {5, 3}},
                            {p + "d.lora_A.weight", {4, 6}},
                            {p + "d.lora_B.weight", {5, 4}},
                            {p + "e.lora_embedding_A", {2, 6}},
                            {p + "f.lora_A.weight", {2, 6, 1}},
                            {p + "f.lora_B.weight", {5, 2}},
                            {p + "g.lora_A.weight", {2}},
                            {p + "g.lora_B.weight", {2}},
                            {p + "h.lora_A.weight", {2, 6}},
                            {p + "h.lora_B.weight", {5, 2}},
                            {"h.lora_A.weight", {2, 6}},
                            {p + "i.lora_A.weight", {2, 6}},
                            {p + "i.lora_embedding_B", {5, 2}},
                            {p + "k.lora_A.weight", {0, 6}},
                            {p + "k.lora_B.weight", {5, 0}},
                            {p + "v.lora_A.weight", {2, 6}},
                            {p + "v.lora_B.weight", {5, 2}},
                            {p + "conv.lora_A.weight", {4, 6, 3, 3}},
                            {p + "conv.lora_B.weight", {6, 3, 1, 1}}});
  tensors.add(p + "j.lora_A.weight", DType::I8, {2, 6}, std::vector<std::byte>(12));
  tensors.add(p + "j.lora_B.weight", DType::I8, {5, 2}, std::vector<std::byte>(10));
  put(folder.path, config, tensors);
  const auto parts = {
      "adapter_model.safetensors: does not hold the adapter of its configuration:\n",
      "\n  base_model.model.a.lora_A.weight: has no lora_B beside it",
      "\n  base_model.model.b.lora_B.weight: has no lora_A beside it",
      "\n  base_model.model.c.lora_A.weight is [2, 6] and base_model.model.c.lora_B.weight is [5, "
      "3], "
      "expected the same rank in both",
      "\n  base_model.model.d.lora_A.weight: has rank 4, expected 2 (r)",
      "\n  base_model.model.e.lora_embedding_A: has no lora_embedding_B beside it",
      "\n  base_model.model.f.lora_A.weight is [2, 6, 1] and base_model.model.f.lora_B.weight is "
      "[5, "
      "2], expected (r, in) and (out, r), or with a kernel (r, in, ...) and (out, r, ...)",
      "\n  base_model.model.g.lora_A.weight is [2] and base_model.model.g.lora_B.weight is [2], "
      "expected (r, in)",
      "h.lora_A.weight: means the same tensor as ",
      ": the module has tensors of an embedding and of another layer",
      "\n  base_model.model.j.lora_A.weight: dtype is I8, expected F32, F64, BF16 or F16",
      "\n  base_model.model.k.lora_A.weight is [0, 6] and",
      "\n  base_model.model.v.lora_A.weight: has rank 2, expected 3 (rank_pattern)",
      "\n  base_model.model.conv.lora_A.weight is [4, 6, 3, 3] and"};
  EXPECT_TRUE(throws<FormatError>([&] { PeftAdapter::open(folder.path); }, parts));
  // The same words before anything is written.
  const fs::path target = folder.path / "other";
  EXPECT_TRUE(throws<FormatError>(
      [&] { write_peft_adapter(target, peft_config_fields(config), tensors); }, parts));
  EXPECT_FALSE(fs::exists(target));
}

TEST(PeftAdapter, FilesThatHoldNoAdapter) {
  const TemporaryFolder folder;
  put(folder.path, config_for(), writer_of({}));
  EXPECT_EQ(fs::file_size(folder.path / peft_weights_file), 40u);
  EXPECT_TRUE(throws<FormatError>([&] { PeftAdapter::open(folder.path); },
                                  {"adapter_model.safetensors: holds no tensors"}));
  EXPECT_TRUE(throws<FormatError>(
      [&] {
        write_peft_adapter(folder.path / "x", peft_config_fields(config_for()), writer_of({}));
      },
      {"holds no tensors"}));
  put(folder.path, config_for(), writer_of({{p + "head.weight", {5, 7}}}));
  EXPECT_TRUE(throws<FormatError>([&] { PeftAdapter::open(folder.path); },
                                  {"no lora_A and lora_B of any layer"}));
}

TEST(PeftAdapter, FoldersThatAreNoAdapter) {
  const TemporaryFolder folder;
  EXPECT_TRUE(throws<IoError>([&] { PeftAdapter::open(folder.path / "no"); },
                              {"no: cannot open this folder: No such file or directory"}));
  EXPECT_TRUE(throws<FormatError>([&] { PeftAdapter::open(folder.path); },
                                  {": has no adapter_config.json, expected an adapter"}));
  put(folder.path / "second", config_for(), writer_of(q_pair));
  put(folder.path / "first", config_for(), writer_of(q_pair));
  EXPECT_TRUE(throws<FormatError>(
      [&] { PeftAdapter::open(folder.path); },
      {"adapter_config.json", "; there are adapters in the folders \"first\", \"second\""}));
  EXPECT_TRUE(
      throws<FormatError>([&] { PeftAdapter::open(folder.path / "first" / peft_config_file); },
                          {"adapter_config.json: is a file, expected the folder with"}));
  EXPECT_EQ(PeftAdapter::open(folder.path / "first").modules().size(), 1u);
}

TEST(PeftAdapter, WeightsThatAreNotThere) {
  const TemporaryFolder folder;
  put(folder.path, config_for(), writer_of(q_pair));
  const fs::path weights = folder.path / peft_weights_file;
  fs::resize_file(weights, 0);
  EXPECT_TRUE(throws<FormatError>([&] { PeftAdapter::open(folder.path); },
                                  {"adapter_model.safetensors: is empty: a download or a save"}));
  atomic_write(weights,
               "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n");
  EXPECT_TRUE(
      throws<FormatError>([&] { PeftAdapter::open(folder.path); },
                          {"adapter_model.safetensors: is a Git LFS pointer", "git lfs pull"}));
  fs::remove(weights);
  EXPECT_TRUE(
      throws<FormatError>([&] { PeftAdapter::open(folder.path); },
                          {"adapter_model.safetensors: is missing, though adapter_config"}));
  atomic_write(folder.path / "adapter_model.bin", "PK");
  EXPECT_TRUE(
      throws<FormatError>([&] { PeftAdapter::open(folder.path); },
                          {"adapter_model.safetensors: is missing; adapter_model.bin is a Python",
                           "pickle", "safe_serialization=True"}));
  fs::create_directory(weights);
  EXPECT_TRUE(
      throws<IoError>([&] { PeftAdapter::open(folder.path); }, {"is a folder, expected a file"}));
}

TEST(PeftAdapter, ConfigurationsThatAreNotThere) {
  const TemporaryFolder folder;
  put(folder.path, config_for(), writer_of(q_pair));
  const fs::path config = folder.path / peft_config_file;
  fs::resize_file(config, 0);
  EXPECT_TRUE(throws<FormatError>([&] { PeftAdapter::open(folder.path); },
                                  {"adapter_config.json: is empty"}));
  atomic_write(config, R"({"peft_type": "LORA", "use_qalora": true})");
  EXPECT_TRUE(throws<ConfigError>([&] { PeftAdapter::open(folder.path); },
                                  {"adapter_config.json: LoRAConfig: use_qalora = true"}));
  fs::remove(config);
  fs::create_directory(config);
  EXPECT_TRUE(
      throws<IoError>([&] { PeftAdapter::open(folder.path); }, {"is a folder, expected a file"}));
}

TEST(PeftAdapter, APatternThatCostsTooMuchIsRefusedWithTheFilesName) {
  const TemporaryFolder folder;
  LoRAConfig config = config_for();
  config.rank_pattern = {{"(", 2}};
  put(folder.path, config, writer_of(q_pair));
  EXPECT_TRUE(throws<ConfigError>([&] { PeftAdapter::open(folder.path); },
                                  {"adapter_config.json: LoRAConfig: rank_pattern: "}));
}

// ---- files of the shared data, through this door ----

TEST(PeftAdapter, EverySafetensorsFileOfTheManifestIsJudgedAsItSays) {
  LORA_NEEDS_SHARED("data/safetensors/vectors/manifest.json");
  const fs::path vectors = shared_dir() / "data" / "safetensors" / "vectors";
  const Json manifest = parse_json(bytes_of(vectors / "manifest.json"), "manifest.json");
  const TemporaryFolder folder;
  put(folder.path, config_for(), writer_of(q_pair));
  const fs::path weights = folder.path / peft_weights_file;
  const auto message = [&](const fs::path& file) -> std::string {
    fs::remove(weights);
    fs::copy_file(file, weights);
    try {
      PeftAdapter::open(folder.path);
    } catch (const FormatError& error) {
      return error.what();
    }
    return "opened";
  };
  const auto opens = [](const fs::path& file) {
    try {
      SafetensorsFile::open(file);
    } catch (const FormatError&) {
      return false;
    }
    return true;
  };
  std::size_t accepted = 0, refused = 0;
  std::vector<fs::path> files;
  for (const Json& row : manifest) files.push_back(vectors / row.at("file").get<std::string>());
  for (const auto& entry : fs::recursive_directory_iterator(vectors.parent_path())) {
    if (entry.path().extension() == ".safetensors" && entry.path().parent_path() != vectors)
      files.push_back(entry.path());
  }
  for (const fs::path& file : files) {
    SCOPED_TRACE(file.string());
    const std::string text = message(file);
    EXPECT_EQ(text.find(weights.string() + ": "), 0u) << text;
    // What the format allows is no adapter all the same, and that is what is said.
    const bool no_adapter = text.find("does not hold the adapter") != text.npos ||
                            text.find("holds no tensors") != text.npos;
    EXPECT_EQ(no_adapter, opens(file)) << text;
    ++(no_adapter ? accepted : refused);
  }
  for (const Json& row : manifest) {
    const std::string expect = row.at("expect").get<std::string>();
    const bool ok = opens(vectors / row.at("file").get<std::string>());
    if (expect == "accept" || expect == "reject") {
      EXPECT_EQ(ok, expect == "accept") << row.dump();
    }
  }
  EXPECT_GT(accepted, 10u);
  EXPECT_GT(refused, 30u);
}

TEST(PeftAdapter, GoldenAdaptersAreWrittenAgainByteForByte) {
  for_each_golden_model([](const GoldenModel& golden) {
    const TemporaryFolder folder;
    const PeftAdapter adapter = PeftAdapter::open(golden.adapter);
    SafetensorsWriter writer;
    const SafetensorsFile& file = adapter.tensors();
    for (const auto& [key, value] : file.metadata()) writer.set_metadata(key, value);
    for (const std::string& name : file.names())
      writer.add(name, file.info(name).dtype, file.info(name).shape, file.bytes(name));
    const fs::path target = folder.path / golden.name;
    write_peft_adapter(target, peft_config_fields(adapter.config(), adapter.fields()), writer);
    for (const char* name : {peft_config_file, peft_weights_file})
      EXPECT_EQ(bytes_of(target / name), bytes_of(golden.adapter / name)) << name;
    EXPECT_EQ(PeftAdapter::open(target).modules().size(), adapter.modules().size());
  });
}

}  // namespace peft_adapter_test
