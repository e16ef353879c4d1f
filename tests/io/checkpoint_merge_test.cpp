#include <lora/io/hf/checkpoint_merge.hpp>
#include <lora/io/hf/hf_checkpoint.hpp>
#include <lora/io/hf/save_model.hpp>
#include <lora/io/peft/pretrained.hpp>

#include <gtest/gtest.h>

#include <limits>

#include "io/peft_folder.hpp"
#include "support/file_calls.hpp"
#include "support/golden.hpp"
#include "support/messages.hpp"

namespace checkpoint_merge_test {
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
// the type; f16 has a spacing of 2^-24 below 2^-14. With m (of a DoRA adapter) each output has the
// length that m says; the norm is off by the rounding of its float32 parts.
void expect_sum(const Wide& merged, const Wide& W, const Wide& B, const Wide& A, double s,
                bool turned, DType dtype, const std::string& name, const Wide& m = {}) {
  Wide delta = s * (B * A), size = std::abs(s) * (B.cwiseAbs() * A.cwiseAbs());
  if (turned) {
    delta.transposeInPlace();
    size.transposeInPlace();
  }
  Wide c = Wide::Ones(1, turned ? W.cols() : W.rows());
  if (m.size() != 0) {
    const Wide sum = W + delta;
    for (Index j = 0; j < c.size(); ++j)
      c(0, j) = m.data()[j] / (turned ? sum.col(j).norm() : sum.row(j).norm());
  }
  const double norm_error = m.size() == 0 ? 0 : 16 * 0x1p-24;
  ASSERT_EQ(merged.size(), W.size());
  ASSERT_EQ(delta.size(), W.size());
  const double floor = dtype == DType::F16 ? 0x1p-25 : 0;
  for (Index i = 0; i < W.size(); ++i) {
    const double by = c(0, turned ? i % W.cols() : i / W.cols());
    const double exact = by * (W.data()[i] + delta.data()[i]);
    const double sums = (static_cast<double>(A.rows() + 3) * 0x1p-24 + norm_error) * by *
                        (size.data()[i] + std::abs(W.data()[i]));
    const double error = std::abs(merged.data()[i] - exact);
    ASSERT_TRUE(error <= (1 + 0x1p-20) * (unit_roundoff(dtype) * std::abs(exact) + sums) + floor)
        << name << " element " << i << ": " << merged.data()[i] << ", expected " << exact;
  }
}

TEST(CheckpointMerge, OfEveryGoldenAdapterIsTheSum) {
  lora_test::for_each_golden_model([](const lora_test::GoldenModel& golden) {
    const TemporaryFolder folder;
    const bool conv1d = std::holds_alternative<GPT2Config>(read_hf_config(golden.base).model);
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
      const bool turned = module.embedding || conv1d;
      expect_sum(merged.file_of(name).matrix<double>(name), base.file_of(name).matrix<double>(name),
                 adapter.tensors().matrix<double>(module.b_key),
                 adapter.tensors().matrix<double>(module.a_key), module.scaling, turned,
                 base.info(name).dtype, name,
                 module.m_key.empty() ? Wide() : adapter.tensors().matrix<double>(module.m_key));
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
  });
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
  lora_test::FileCalls calls = lora_test::posix_calls();
  calls.write = [](int, const void*, std::size_t) -> ssize_t {
    errno = ENOSPC;
    return -1;
  };
  EXPECT_HAS(lora_test::with_calls(
                 calls, [&] { return failure<IoError>(base, adapter, folder.path / "out"); }),
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

TEST(CheckpointMerge, CorrectsTheSizeInTheIndexOfGoldenShards) {
  int sharded = 0;
  lora_test::for_each_golden_model([&](const lora_test::GoldenModel& golden) {
    if (!fs::exists(golden.base / checkpoint_index_file)) return;
    ++sharded;
    const TemporaryFolder folder;
    const auto before = CheckpointFiles::open(golden.base);
    merge_checkpoint(before, PeftAdapter::open(golden.adapter), folder.path, {.dtype = DType::F32});
    const auto after = CheckpointFiles::open(folder.path);
    EXPECT_EQ(after.index().at("weight_map"), before.index().at("weight_map"));
    EXPECT_EQ(after.files().size(), before.files().size());
    std::uint64_t numbers = 0;
    for (const auto& [name, place] : before.names())
      numbers += before.file_of(name).bytes(name).size() * 8 / dtype_bits(before.info(name).dtype);
    EXPECT_EQ(after.index().at("metadata").at("total_size").get<std::uint64_t>(), 4 * numbers);
    EXPECT_NE(after.index().at("metadata"), before.index().at("metadata"));
  });
  EXPECT_GE(sharded, 1);
}

// ---- what is merged is what was trained ----

using LM = CausalLM<float>;

CausalLMConfig small_model(const std::string& type, bool tied) {
  if (type == "gpt2") {
    GPT2Config config{30, 16, 8, 0, 2};
    config.n_layer = 2;
    config.tie_word_embeddings = tied;
    return config;
  }
  LlamaConfig config;
  config.model_type = type;
  config.vocab_size = 30;
  config.hidden_size = 8;
  config.intermediate_size = 12;
  config.num_hidden_layers = 2;
  config.num_attention_heads = 2;
  config.num_key_value_heads = 1;
  config.head_dim = 4;
  config.max_position_embeddings = 16;
  config.qkv_bias = type == "qwen2";
  config.qk_norm = type == "qwen3";
  config.tie_word_embeddings = tied;
  return config;
}

Matrix<float> logits_of(const LM& model) {
  const std::vector<std::int64_t> ids{3, 0, 29, 7, 7};
  const std::vector<Index> lengths{5};
  return model.logits({ids, lengths});
}

// Every number trained: A, B, biases and copies get values of their own.
void fill(LoRAModel<LM>& model) {
  for (const auto& [key, parameter] : adapter_tensors(model)) {
    Matrix<float> change = Matrix<float>::Zero(parameter->value.rows(), parameter->value.cols());
    fill_normal(change, RandomStream(11, key), 0.2);
    parameter->value += change;
  }
}

struct Case {
  const char* what;
  std::vector<std::string> targets, saved;
  const char* bias = "none";
};

TEST(CheckpointMerge, LoadsAsWhatWasTrained) {
  for (const std::string type : {"llama", "mistral", "qwen2", "qwen3", "gpt2"}) {
    const bool gpt2 = type == "gpt2";
    const std::string table = gpt2 ? "wte" : "embed_tokens", square = gpt2 ? "c_proj" : "q_proj";
    const std::vector<std::string> linear =
        gpt2 ? std::vector<std::string>{"c_attn", "c_proj", "c_fc"}
             : std::vector<std::string>{"q_proj", "k_proj", "o_proj", "up_proj", "down_proj"};
    const std::vector<Case> cases{{"linear", linear, {}},
                                  {"biases", linear, {}, "all"},
                                  {"head", {square, "lm_head"}, {}},
                                  {"embedding", {table}, {}},
                                  {"both", {table, "lm_head"}, {}},
                                  {"saved head", {square}, {"lm_head"}},
                                  {"saved embedding", {square}, {table}},
                                  {"saved both", {square}, {table, "lm_head"}}};
    for (const bool tied : {false, true}) {
      const TemporaryFolder folder;
      LM base(small_model(type, tied), RandomWeights<float>{5, 0.4});
      save_pretrained(base, folder.path / "base",
                      {.max_shard_size = tied ? std::uint64_t{1500} : std::uint64_t{1} << 30});
      for (const Case& one : cases) {
        SCOPED_TRACE(type + (tied ? " tied, " : " untied, ") + one.what);
        LoRAConfig config;
        config.r = 2;
        config.lora_alpha = 3;
        config.target_modules = one.targets;
        config.bias = one.bias;
        if (!one.saved.empty()) config.modules_to_save = one.saved;
        config.fan_in_fan_out = gpt2 != (one.what == std::string("linear"));  // wrong once
        LoRAModel<LM> model(load_causal_lm<float>(folder.path / "base"), config);
        fill(model);
        const fs::path adapter = folder.path / "adapter" / one.what,
                       merged = folder.path / "merged" / one.what,
                       saved = folder.path / "saved" / one.what;
        save_pretrained(model, adapter);
        const auto files = CheckpointFiles::open(folder.path / "base");
        const auto report = merge_checkpoint(files, PeftAdapter::open(adapter), merged);
        const Matrix<float> trained = logits_of(model.base());
        const double most = static_cast<double>(trained.cwiseAbs().maxCoeff());
        const auto far = [&](const LM& other) {
          return static_cast<double>((logits_of(other) - trained).cwiseAbs().maxCoeff()) / most;
        };
        EXPECT_LE(far(load_causal_lm<float>(merged)), 1e-5);
        EXPECT_GE(far(base), 1e-3) << "the adapter does something";
        auto [again, loaded] =
            from_pretrained(load_causal_lm<float>(folder.path / "base"), adapter);
        EXPECT_EQ(far(again.base()), 0);
        // The model in memory, merged and saved, is the same.
        LM unloaded = model.merge_and_unload();
        EXPECT_LE(far(unloaded), 1e-5);
        save_pretrained(unloaded, saved);
        EXPECT_LE(far(load_causal_lm<float>(saved)), 1e-5);
        // What the file's plan says is known of the model before it is trained.
        const MergePlan early = plan_merge(files, model),
                        late = plan_merge(files, PeftAdapter::open(adapter));
        EXPECT_EQ(early.untied, late.untied);
        EXPECT_EQ(early.warnings.size(), report.warnings.size());
        EXPECT_EQ(early.untied, tied && std::string_view("linear biases").find(one.what) ==
                                            std::string_view::npos);
        ASSERT_EQ(early.tensors.size(), late.tensors.size());
        for (const auto& [name, tensor] : late.tensors) {
          ASSERT_EQ(early.tensors.count(name), 1u) << name;
          EXPECT_EQ(early.tensors.at(name).layout, tensor.layout) << name;
        }
      }
    }
  }
}

// The adapter of a folder again with copies of weights beside it.
void add_copies(const fs::path& from, const fs::path& to,
                const std::vector<std::pair<std::string, Matrix<float>>>& copies) {
  const PeftAdapter adapter = PeftAdapter::open(from);
  SafetensorsWriter writer;
  for (const std::string& key : adapter.tensors().names())
    writer.add(key, adapter.tensors().info(key).dtype, adapter.tensors().info(key).shape,
               adapter.tensors().bytes(key));
  for (const auto& [key, values] : copies)
    writer.add("base_model.model." + key, values, DType::F32);
  write_peft_adapter(to, adapter.fields(), writer);
}

TEST(CheckpointMerge, CopiesOfTheBaseActMergedAsLoaded) {
  for (const bool tied : {false, true}) {
    const TemporaryFolder folder;
    LM base(small_model("llama", tied), RandomWeights<float>{5, 0.4});
    save_pretrained(base, folder.path / "base");
    const auto files = CheckpointFiles::open(folder.path / "base");
    const Matrix<float> table = files.file_of("model.embed_tokens.weight")
                                    .matrix<float>("model.embed_tokens.weight"),
                        other = table.array() * 1.5f + 0.1f;
    for (const std::string target : {"q_proj", "embed_tokens", "lm_head"}) {
      SCOPED_TRACE(target + (tied ? ", tied" : ""));
      LoRAConfig config;
      config.r = 2;
      config.target_modules = {"q_proj", target};
      if (target == "q_proj") config.target_modules = {target};
      LoRAModel<LM> model(load_causal_lm<float>(folder.path / "base"), config);
      fill(model);
      const fs::path plain = folder.path / "plain" / target, copy = folder.path / "copy" / target;
      save_pretrained(model, plain);
      const std::string embed = target == "embed_tokens" ? "model.embed_tokens.base_layer.weight"
                                                         : "model.embed_tokens.weight",
                        head = target == "lm_head" ? "lm_head.base_layer.weight" : "lm_head.weight";
      for (const std::string& key : {embed, head}) {
        fs::remove_all(copy);
        add_copies(plain, copy, {{key, other}});
        auto [loaded, report] = from_pretrained(load_causal_lm<float>(folder.path / "base"), copy);
        EXPECT_EQ(report.replaced.size(), 1u);
        const fs::path out = folder.path / "out" / target / key;
        const auto merged = merge_checkpoint(files, PeftAdapter::open(copy), out);
        EXPECT_EQ(report.warnings[0], merged.warnings[0]);
        const Matrix<float> expected = logits_of(loaded.base());
        const float most = expected.cwiseAbs().maxCoeff();
        EXPECT_LE((logits_of(load_causal_lm<float>(out)) - expected).cwiseAbs().maxCoeff(),
                  1e-5f * most);
        EXPECT_GE((logits_of(model.base()) - expected).cwiseAbs().maxCoeff(), 1e-3f * most);
        // Of a tied pair the copy is both, as in PEFT, whose parameters are one.
        EXPECT_EQ(CheckpointFiles::open(out).contains("lm_head.weight"),
                  !(tied && target == "q_proj"));
      }
      if (!tied) continue;
      fs::remove_all(copy);
      add_copies(plain, copy, {{embed, other}, {head, table * 2}});
      EXPECT_THROW(from_pretrained(load_causal_lm<float>(folder.path / "base"), copy), FormatError);
      EXPECT_THROW(plan_merge(files, PeftAdapter::open(copy)), FormatError);
    }
  }
}

TEST(CheckpointMerge, OfAModelIsRefusedBeforeItIsTrained) {
  const TemporaryFolder folder;
  LM base(small_model("llama", true), RandomWeights<float>{5, 0.4});
  save_pretrained(base, folder.path / "base");
  LoRAConfig config;
  config.target_modules = {"q_proj"};
  config.lora_bias = true;
  LoRAModel<LM> model(load_causal_lm<float>(folder.path / "base"), config);
  try {
    plan_merge(CheckpointFiles::open(folder.path / "base"), model);
    FAIL();
  } catch (const FormatError& error) {
    EXPECT_HAS(std::string(error.what()), "adapter \"default\": does not fit the base ");
    EXPECT_HAS(std::string(error.what()),
               "q_proj.lora_B.bias: the base has no tensor "
               "\"model.layers.0.self_attn.q_proj.bias\"");
  }
  EXPECT_THROW(plan_merge(CheckpointFiles::open(folder.path / "base"), model, "x"), ConfigError);
}

}  // namespace checkpoint_merge_test
