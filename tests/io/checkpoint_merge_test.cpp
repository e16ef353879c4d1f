#include <lora/io/checkpoint_merge.hpp>

#include <gtest/gtest.h>

#include <limits>

#include "io/peft_folder.hpp"
#include "support/golden.hpp"
#include "support/messages.hpp"

namespace {
using namespace lora;
using lora_test::numbered;
using lora_test::PeftFolder;
using lora_test::TemporaryFolder;
namespace fs = std::filesystem;
using Wide = Matrix<double>;

double unit_roundoff(DType dtype) {
  return dtype == DType::BF16 ? 0x1p-8 : dtype == DType::F16 ? 0x1p-11 : 0x1p-24;
}
std::vector<std::byte> content(const fs::path& path) { return read_file(path, 1 << 30); }

// Whether merged is W + s B A: the float32 sum of r products, times s, added, and rounded once to
// the type; f16 has a spacing of 2^-24 below 2^-14.
void expect_sum(const Wide& merged, const Wide& W, const Wide& B, const Wide& A, double s,
                bool turned, DType dtype, const std::string& name) {
  Wide delta = s * (B * A), size = std::abs(s) * (B.cwiseAbs() * A.cwiseAbs());
  if (turned) {
    delta.transposeInPlace();
    size.transposeInPlace();
  }
  ASSERT_EQ(merged.size(), W.size());
  ASSERT_EQ(delta.size(), W.size());
  const double floor = dtype == DType::F16 ? 0x1p-25 : 0;
  for (Index i = 0; i < W.size(); ++i) {
    const double exact = W.data()[i] + delta.data()[i];
    const double sums =
        static_cast<double>(A.rows() + 3) * 0x1p-24 * (size.data()[i] + std::abs(W.data()[i]));
    const double error = std::abs(merged.data()[i] - exact);
    ASSERT_TRUE(error <= (1 + 0x1p-20) * (unit_roundoff(dtype) * std::abs(exact) + sums) + floor)
        << name << " element " << i << ": " << merged.data()[i] << ", expected " << exact;
  }
}

TEST(CheckpointMerge, OfEveryGoldenAdapterIsTheSum) {
  LORA_NEEDS_SHARED("golden/models");
  std::size_t adapters = 0;
  for (const auto& golden : lora_test::golden_adapters()) {
    SCOPED_TRACE(golden.name);
    const TemporaryFolder folder;
    const auto base = CheckpointFiles::open(golden.base);
    const auto adapter = PeftAdapter::open(golden.adapter);
    const auto report = merge_checkpoint(base, adapter, folder.path);
    EXPECT_EQ(report.changed, adapter.modules().size());
    EXPECT_EQ(report.replaced, adapter.other_tensors().size());
    const auto merged = CheckpointFiles::open(folder.path);
    std::set<std::string> changed;
    for (const PeftModule& module : adapter.modules()) {
      const std::string name = module.name + ".weight";
      changed.insert(name);
      const bool turned = module.embedding || adapter.config().fan_in_fan_out;
      expect_sum(merged.file_of(name).matrix<double>(name), base.file_of(name).matrix<double>(name),
                 adapter.tensors().matrix<double>(module.b_key),
                 adapter.tensors().matrix<double>(module.a_key), module.scaling, turned,
                 base.info(name).dtype, name);
    }
    ASSERT_EQ(merged.names().size(), base.names().size());
    for (const auto& [name, place] : base.names()) {
      EXPECT_EQ(merged.info(name).dtype, base.info(name).dtype);
      EXPECT_EQ(merged.info(name).shape, base.info(name).shape);
      std::string saved = "base_model.model." + name;
      if (name.ends_with(".bias") && !adapter.tensors().contains(saved))
        saved.replace(saved.size() - 5, 5, ".base_layer.bias");
      const auto& source =
          adapter.tensors().contains(saved) ? adapter.tensors() : base.file_of(name);
      if (changed.count(name) == 0) {
        EXPECT_EQ(merged.file_of(name).matrix<double>(name),
                  source.matrix<double>(&source == &adapter.tensors() ? saved : name))
            << name;
      }
    }
    for (const char* file : {"config.json", "generation_config.json", checkpoint_index_file}) {
      if (fs::exists(golden.base / file)) {
        EXPECT_EQ(content(folder.path / file), content(golden.base / file)) << file;
      }
    }
    ++adapters;
  }
  EXPECT_GT(adapters, 10u);
}

// A base of one linear layer with a bias, a mask and a table of integers; q_proj is (5, 3).
struct Small {
  TemporaryFolder folder;
  explicit Small(DType dtype = DType::F32,
                 const Matrix<double>& weight = numbered(5, 3).cast<double>()) {
    const float infinite = std::numeric_limits<float>::infinity();
    SafetensorsWriter base;
    base.set_metadata("format", "pt");
    base.add("m.q_proj.weight", weight, dtype);
    base.add("m.q_proj.bias", numbered(1, 5), DType::F32, {5});
    base.add("m.mask", Matrix<float>::Constant(1, 2, -infinite), DType::F32);
    base.add("m.other", numbered(2, 2), DType::F32);
    base.add("m.ids", DType::I64, {1}, std::vector<std::byte>(8, std::byte{1}));
    base.write(folder.path / checkpoint_file);
    atomic_write(folder.path / "config.json", R"({"model_type": "x", "torch_dtype": "float32"})");
    atomic_write(folder.path / "tokenizer.json", "{}");
    atomic_write(folder.path / "README.md", "of the base");
    atomic_write(folder.path / "adapter_config.json", "of another adapter");
    atomic_write(folder.path / "pytorch_model.bin", "weights");
    atomic_write(folder.path / ".hidden", "x");
    fs::create_directory(folder.path / "sub");
  }
  CheckpointFiles open() const { return CheckpointFiles::open(folder.path); }
};
struct SmallAdapter : PeftFolder {
  SmallAdapter() { pair("m.q_proj", 2, 3, 5); }
};
template <class E>
std::string failure(const Small& base, const PeftFolder& adapter, const fs::path& output,
                    const CheckpointMergeOptions& options = {}) {
  try {
    merge_checkpoint(base.open(), adapter.open(), output, options);
  } catch (const E& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST(CheckpointMerge, CopiesWhatBelongsToTheModel) {
  const Small base;
  const TemporaryFolder folder;
  const auto report = merge_checkpoint(base.open(), SmallAdapter().open(), folder.path / "out");
  EXPECT_EQ(report.changed, 1u);
  EXPECT_EQ(report.untouched, 4u);
  EXPECT_EQ(report.bytes, 4u * (15 + 5 + 2 + 4) + 8);
  std::set<std::string> files;
  for (const auto& entry : fs::directory_iterator(folder.path / "out"))
    files.insert(entry.path().filename().string());
  EXPECT_EQ(files, (std::set<std::string>{"config.json", "model.safetensors", "tokenizer.json"}));
  const auto merged = CheckpointFiles::open(folder.path / "out");
  EXPECT_EQ(merged.files()[0].tensors.metadata().at("format"), "pt");
  EXPECT_EQ(merged.info("m.q_proj.bias").shape, (std::vector<Index>{5}));
}

TEST(CheckpointMerge, InDoubleIsExactToDouble) {
  const Matrix<double> W = Matrix<double>::Random(5, 3);
  const Small base(DType::F64, W);
  const TemporaryFolder folder;
  const SmallAdapter folder_of_adapter;
  const PeftAdapter adapter = folder_of_adapter.open();
  merge_checkpoint(base.open(), adapter, folder.path);
  const auto file = CheckpointFiles::open(folder.path);
  const Wide exact = W + 2.0 * (adapter.tensors().matrix<double>(adapter.modules()[0].b_key) *
                                adapter.tensors().matrix<double>(adapter.modules()[0].a_key));
  const Wide merged = file.file_of("m.q_proj.weight").matrix<double>("m.q_proj.weight");
  lora_test::expect_close(merged, exact, 5 * 0x1p-53);
}

TEST(CheckpointMerge, InAnotherTypeChangesConfigurationAndNumbersOnly) {
  const SmallAdapter adapter;
  for (const auto& [dtype, name] : {std::pair{DType::BF16, "bfloat16"},
                                    {DType::F16, "float16"},
                                    {DType::F64, "float64"},
                                    {DType::F32, "float32"}}) {
    for (const DType own : {DType::F32, DType::F16, DType::BF16, DType::F64}) {
      const Small base(own);
      const TemporaryFolder folder;
      merge_checkpoint(base.open(), adapter.open(), folder.path, {.dtype = dtype});
      const auto merged = CheckpointFiles::open(folder.path);
      EXPECT_EQ(merged.info("m.q_proj.weight").dtype, dtype);
      EXPECT_EQ(merged.info("m.other").dtype, dtype);
      EXPECT_EQ(merged.info("m.ids").dtype, DType::I64);
      EXPECT_TRUE(std::isinf(merged.file_of("m.mask").matrix<float>("m.mask")(0, 0)));
      const auto config = content(folder.path / "config.json");
      EXPECT_HAS(std::string(as_text(config)), std::string("\"torch_dtype\": \"") + name);
      const auto opened = adapter.open();
      const auto& module = opened.modules()[0];
      expect_sum(merged.file_of("m.q_proj.weight").matrix<double>("m.q_proj.weight"),
                 base.open().file_of("m.q_proj.weight").matrix<double>("m.q_proj.weight"),
                 opened.tensors().matrix<double>(module.b_key),
                 opened.tensors().matrix<double>(module.a_key), 2, false, dtype, name);
    }
  }
}

TEST(CheckpointMerge, AddsTheBiasOfB) {
  const Small base;
  PeftFolder adapter(R"({"lora_bias": true})");
  adapter.pair("m.q_proj", 2, 3, 5);
  const TemporaryFolder folder;
  SafetensorsWriter tensors;
  const auto opened = adapter.open();
  for (const std::string& name : opened.tensors().names())
    tensors.add(name, DType::F32, opened.tensors().info(name).shape, opened.tensors().bytes(name));
  tensors.add("base_model.model.m.q_proj.lora_B.bias", numbered(1, 5, 7), DType::F32, {5});
  write_peft_adapter(folder.path / "adapter", opened.fields(), tensors);
  merge_checkpoint(base.open(), PeftAdapter::open(folder.path / "adapter"), folder.path / "out");
  const auto merged = CheckpointFiles::open(folder.path / "out");
  EXPECT_EQ(merged.file_of("m.q_proj.bias").matrix<float>("m.q_proj.bias"),
            numbered(1, 5) + 2.0f * numbered(1, 5, 7));  // exact in float
}

TEST(CheckpointMerge, FollowsAShapeOfFourDimensions) {
  const TemporaryFolder folder;
  const Matrix<float> W = Matrix<float>::Random(4, 18), A = Matrix<float>::Random(2, 18),
                      B = Matrix<float>::Random(4, 2);
  SafetensorsWriter base, tensors;
  base.add("m.conv.weight", W, DType::F32, {4, 2, 3, 3});
  base.write(folder.path / checkpoint_file);
  tensors.add("base_model.model.m.conv.lora_A.weight", A, DType::F32, {2, 2, 3, 3});
  tensors.add("base_model.model.m.conv.lora_B.weight", B, DType::F32, {4, 2, 1, 1});
  write_peft_adapter(folder.path / "adapter",
                     parse_json(R"({"peft_type":"LORA","r":2,"lora_alpha":1})", "fields"), tensors);
  merge_checkpoint(CheckpointFiles::open(folder.path), PeftAdapter::open(folder.path / "adapter"),
                   folder.path / "out");
  const auto merged = CheckpointFiles::open(folder.path / "out");
  EXPECT_EQ(merged.info("m.conv.weight").shape, (std::vector<Index>{4, 2, 3, 3}));
  expect_sum(merged.file_of("m.conv.weight").matrix<double>("m.conv.weight"), W.cast<double>(),
             B.cast<double>(), A.cast<double>(), 0.5, false, DType::F32, "conv");
}

TEST(CheckpointMerge, InPartsIsTheSameAsAtOnce) {
  const Index O = 700, D = 900;  // more than one part of a MiB, in each type
  const TemporaryFolder folder;
  SafetensorsWriter base;
  const Matrix<float> W = Matrix<float>::Random(O, D);
  base.set_metadata("odd", "x");
  base.add("a", DType::U8, {1}, std::vector<std::byte>(1));
  for (const DType dtype : {DType::F32, DType::BF16, DType::F16})
    base.add("m." + std::string(dtype_name(dtype)) + ".weight", W, dtype);
  base.write(folder.path / checkpoint_file);
  PeftFolder adapter(R"({"r": 3, "target_modules": ["F32", "BF16", "F16"]})");
  for (const char* module : {"m.F32", "m.BF16", "m.F16"}) {
    adapter.add(std::string(module) + ".lora_A.weight", Matrix<float>::Random(3, D));
    adapter.add(std::string(module) + ".lora_B.weight", Matrix<float>::Random(O, 3));
  }
  const PeftAdapter opened = adapter.open();
  std::uint64_t told = 0, all = 0;
  CheckpointMergeOptions options;
  options.progress = [&](std::uint64_t done, std::uint64_t total) {
    EXPECT_GT(done, told);
    told = done;
    all = total;
  };
  const auto file = CheckpointFiles::open(folder.path);
  const auto report = merge_checkpoint(file, opened, folder.path / "out", options);
  EXPECT_EQ(told, all);
  EXPECT_EQ(told, report.bytes);
  const auto merged = CheckpointFiles::open(folder.path / "out");
  for (const PeftModule& module : opened.modules()) {
    const std::string name = module.name + ".weight";
    expect_sum(merged.file_of(name).matrix<double>(name), file.file_of(name).matrix<double>(name),
               opened.tensors().matrix<double>(module.b_key),
               opened.tensors().matrix<double>(module.a_key), module.scaling, false,
               file.info(name).dtype, name);
  }
}

TEST(CheckpointMerge, RefusesNumbersThatAreNotFiniteAndWritesNothing) {
  const TemporaryFolder folder;
  const fs::path output = folder.path / "out";
  Matrix<double> large = numbered(5, 3).cast<double>();
  large(4, 1) = 65504;
  const Small base(DType::F16, large);
  PeftFolder adapter;
  adapter.add("m.q_proj.lora_A.weight", Matrix<float>::Constant(2, 3, 8));
  adapter.add("m.q_proj.lora_B.weight", Matrix<float>::Constant(5, 2, 8));
  EXPECT_HAS(failure<Error>(base, adapter, output),
             "tensor \"m.q_proj.weight\": element 13 would be inf in F16 (it was 65504)");
  PeftFolder broken;
  broken.add("m.q_proj.lora_A.weight", Matrix<float>::Constant(2, 3, std::nanf("")));
  broken.add("m.q_proj.lora_B.weight", Matrix<float>::Constant(5, 2, 0));
  EXPECT_HAS(failure<Error>(Small(), broken, output),
             "tensor \"m.q_proj.weight\": element 0 would be nan in F32");
  const Small wide(DType::F32, Matrix<double>::Constant(5, 3, 1e5));
  EXPECT_HAS(failure<Error>(wide, SmallAdapter(), output, {.dtype = DType::F16}), "inf in F16");
  EXPECT_TRUE(fs::is_empty(folder.path));
}

TEST(CheckpointMerge, AnErrorLeavesNothing) {
  const TemporaryFolder folder;
  const Small base;
  const SmallAdapter adapter;
  FileCalls calls = posix_calls();
  calls.write = [](int, const void*, std::size_t) -> ssize_t {
    errno = ENOSPC;
    return -1;
  };
  EXPECT_HAS(failure<IoError>(base, adapter, folder.path / "out", {.calls = &calls}),
             "No space left on device");
  EXPECT_HAS(failure<ConfigError>(base, adapter, folder.path / "out", {.dtype = DType::I8}),
             "merge_checkpoint: dtype is I8, expected F32, F64, BF16 or F16");
  EXPECT_TRUE(fs::is_empty(folder.path));
  EXPECT_HAS(failure<ConfigError>(base, adapter, base.folder.path), "is not empty");
  atomic_write(base.folder.path / "config.json", "[]");
  EXPECT_HAS(failure<FormatError>(base, adapter, folder.path / "out", {.dtype = DType::F16}),
             "config.json: is array, expected an object");
  EXPECT_TRUE(fs::is_empty(folder.path));
}

TEST(CheckpointMerge, CorrectsTheSizeInTheIndex) {
  LORA_NEEDS_SHARED("golden/models/llama_bf16_sharded");
  const fs::path golden = lora_test::shared_dir() / "golden/models/llama_bf16_sharded";
  const TemporaryFolder folder;
  merge_checkpoint(CheckpointFiles::open(golden / "base"), PeftAdapter::open(golden / "adapter"),
                   folder.path, {.dtype = DType::F32});
  const auto before = CheckpointFiles::open(golden / "base"),
             after = CheckpointFiles::open(folder.path);
  EXPECT_EQ(after.index().at("weight_map"), before.index().at("weight_map"));
  EXPECT_EQ(after.index().at("metadata").at("total_size").get<std::uint64_t>(),
            2 * before.index().at("metadata").at("total_size").get<std::uint64_t>());
  EXPECT_EQ(after.files().size(), 4u);
}

}  // namespace
