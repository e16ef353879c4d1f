// Adapter files: PEFT's keys and shapes, its own files byte for byte, and what is refused.
#include <lora/io/peft/adapter_file.hpp>
#include <lora/io/peft/peft_config.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "adapters/small_model.hpp"
#include "io/checkpoint.hpp"
#include "support/golden.hpp"

namespace adapter_file_test {
using namespace lora;
using namespace lora_test;
using Names = std::vector<std::string>;
using Small = SmallModel<float>;
using Model = LoRAModel<Small>;

Names sorted(Names names) {
  std::sort(names.begin(), names.end());
  return names;
}
template <class M>
Names keys_of(M& model, const std::string& adapter = "default") {
  Names keys;
  for (const auto& [key, parameter] : adapter_tensors(model, adapter)) keys.push_back(key);
  return sorted(keys);
}
/// "key dtype shape" of each tensor in a file.
std::string inventory(const std::filesystem::path& path) {
  const SafetensorsFile file = SafetensorsFile::open(path);
  std::string text;
  for (const std::string& name : sorted(file.names())) {
    text += name + " " + std::string(dtype_name(file.info(name).dtype)) + " " +
            shape_text(file.info(name).shape) + "\n";
  }
  return text;
}
std::string bytes_of(const std::filesystem::path& path) {
  const auto bytes = read_file(path, std::uint64_t{1} << 30);
  return std::string(as_text(bytes));
}

// ---- keys ----

TEST(AdapterFile, KeysAndShapesArePefts) {
  LoRAConfig config = config_for({"embed", "q", "c", "default", "conv", "grouped"}, 4);
  config.modules_to_save = {"head"};
  Model model(Small{}, config, "conv");  // a module is called so too
  TemporaryFolder folder;
  const auto path = folder.path / "adapter_model.safetensors";
  save_adapter_file(model, path, "conv");
  EXPECT_EQ(inventory(path),
            "base_model.model.block.0.c.lora_A.weight F32 [4, 6]\n"
            "base_model.model.block.0.c.lora_B.weight F32 [7, 4]\n"
            "base_model.model.block.0.q.lora_A.weight F32 [4, 6]\n"
            "base_model.model.block.0.q.lora_B.weight F32 [6, 4]\n"
            "base_model.model.conv.lora_A.weight F32 [4, 2, 3, 2]\n"
            "base_model.model.conv.lora_B.weight F32 [3, 4, 1, 1]\n"
            "base_model.model.embed.lora_embedding_A F32 [4, 11]\n"
            "base_model.model.embed.lora_embedding_B F32 [6, 4]\n"
            "base_model.model.grouped.lora_A.weight F32 [4, 2, 3, 2]\n"
            "base_model.model.grouped.lora_B.weight F32 [4, 2, 1, 1]\n"
            "base_model.model.head.bias F32 [5]\n"
            "base_model.model.head.weight F32 [5, 7]\n"
            "base_model.model.lora_A.default.lora_A.weight F32 [4, 7]\n"
            "base_model.model.lora_A.default.lora_B.weight F32 [7, 4]\n");
  EXPECT_EQ(SafetensorsFile::open(path).metadata(),
            (std::map<std::string, std::string>{{"format", "pt"}}));
}

TEST(AdapterFile, TheAdaptersNameLeavesNoTrace) {
  LoRAConfig config = everything();
  config.modules_to_save = {"grouped"};
  TemporaryFolder folder;
  std::string first;
  for (const char* name : {"default", "q", "head", "lora_A", "weight", "bias", "block", "lora",
                           "modules_to_save", "base_layer"}) {
    SCOPED_TRACE(name);
    Model model(Small{}, config, name);
    model.for_each_layer(
        [&](const NamePath&, auto& layer) {  // values without the name in their stream
          if (auto* adapter = layer.adapters().find(name))
            adapter->A.value.setConstant(0.5f), adapter->B.value.setConstant(2);
        });
    save_adapter_file(model, folder.path / "a", name);
    if (first.empty()) first = bytes_of(folder.path / "a");
    EXPECT_EQ(bytes_of(folder.path / "a"), first);
    LoRAModel<Small> other(Small{}, config, "other");
    EXPECT_NO_THROW(load_adapter_file(other, folder.path / "a", "other"));
  }
}

TEST(AdapterFile, AnAdapterWhoseNameBeginsAnothersIsNotTakenForIt) {
  Model model(Small{}, config_for({"q"}, 2), "a");
  model.add_adapter("ab", config_for({"q", "v"}, 3));
  model.add_adapter("b", config_for({"embed"}, 3));
  EXPECT_EQ(keys_of(model, "a"), (Names{"base_model.model.block.0.q.lora_A.weight",
                                        "base_model.model.block.0.q.lora_B.weight"}));
  EXPECT_EQ(keys_of(model, "ab").size(), 4u);
  EXPECT_EQ(keys_of(model, "b"), (Names{"base_model.model.embed.lora_embedding_A",
                                        "base_model.model.embed.lora_embedding_B"}));
  for (const auto& [key, parameter] : adapter_tensors(model, "a")) {
    EXPECT_EQ(key.find("lora_A") != key.npos ? parameter->value.rows() : parameter->value.cols(), 2)
        << key;
  }
}

TEST(AdapterFile, LoraBiasIsPartOfTheFile) {
  LoRAConfig config = config_for({"q", "conv"});
  config.lora_bias = true;
  Model model(Small{}, config);
  TemporaryFolder folder;
  save_adapter_file(model, folder.path / "a");
  EXPECT_EQ(inventory(folder.path / "a"),
            "base_model.model.block.0.q.lora_A.weight F32 [2, 6]\n"
            "base_model.model.block.0.q.lora_B.bias F32 [6]\n"
            "base_model.model.block.0.q.lora_B.weight F32 [6, 2]\n"
            "base_model.model.conv.lora_A.weight F32 [2, 2, 3, 2]\n"
            "base_model.model.conv.lora_B.bias F32 [3]\n"
            "base_model.model.conv.lora_B.weight F32 [3, 2, 1, 1]\n");
}

TEST(AdapterFile, BiasesOfTheBaseByMode) {
  const auto biases = [](const std::string& mode, bool save_head) {
    LoRAConfig config = config_for({"q", "v"});
    config.bias = mode;
    if (save_head) config.modules_to_save = {"head"};
    Model model(Small{}, config);
    Names keys;
    for (const std::string& key : keys_of(model)) {
      if (key.ends_with("bias")) keys.push_back(key);
    }
    // What is trained is what is saved.
    EXPECT_EQ(adapter_tensors(model).size(), trained_names(model).size());
    for (const auto& [key, parameter] : adapter_tensors(model))
      EXPECT_TRUE(parameter->trainable) << key;
    return keys;
  };
  const std::string p = "base_model.model.";
  EXPECT_EQ(biases("none", false), Names{});
  EXPECT_EQ(biases("lora_only", false), Names{p + "block.0.q.base_layer.bias"});
  EXPECT_EQ(biases("all", false), (Names{p + "block.0.c.bias", p + "block.0.q.base_layer.bias",
                                         p + "conv.bias", p + "head.bias", p + "norm.bias"}));
  EXPECT_EQ(biases("none", true), Names{p + "head.bias"});
  EXPECT_EQ(biases("all", true), (Names{p + "block.0.c.bias", p + "block.0.q.base_layer.bias",
                                        p + "conv.bias", p + "head.bias", p + "norm.bias"}));
}

TEST(AdapterFile, KeysDoNotDependOnTheOtherAdapters) {
  LoRAConfig config = config_for({"q"});
  config.bias = "all";
  Model model(Small{}, config, "a");
  TemporaryFolder folder;
  save_adapter_file(model, folder.path / "a", "a");
  Model beside = model;
  beside.add_adapter("b", config_for({"c", "conv"}));
  EXPECT_EQ(keys_of(beside, "a"), keys_of(model, "a"));
  beside.base().c.bias().value.setConstant(7);
  load_adapter_file(beside, folder.path / "a", "a");
  EXPECT_TRUE(same_bits(beside.base().c.bias().value, model.base().c.bias().value));
}

/// A base with a plain tensor that is named like an adapter's.
struct Misleading : Small {
  Parameter<float> plain{Matrix<float>(1, 1)};
  template <class Fn>
  void for_each_parameter(const NamePath& prefix, Fn&& fn) {
    Small::for_each_parameter(prefix, fn);
    fn(NamePath(prefix, "x.lora_A.default.weight"), plain);
    fn(NamePath(prefix, "modules_to_save.default.weight"), plain);
  }
};
TEST(AdapterFile, ATensorOfTheBaseThatIsNamedLikeAnAdaptersStaysOut) {
  LoRAModel<Misleading> model(Misleading{}, config_for({"q"}));
  EXPECT_EQ(keys_of(model).size(), 2u);
}

TEST(AdapterFile, UnknownAdaptersAreRefused) {
  Model model(Small{}, config_for({"q"}), "a");
  TemporaryFolder folder;
  const auto path = folder.path / "a";
  EXPECT_TRUE(throws<ConfigError>([&] { (void)adapter_tensors(model); },
                                  {"no adapter is called \"default\"", "there are: a"}));
  EXPECT_TRUE(throws<ConfigError>([&] { save_adapter_file(model, path, "x"); },
                                  {"no adapter is called \"x\""}));
  EXPECT_TRUE(throws<ConfigError>([&] { load_adapter_file(model, path, "x"); },
                                  {"no adapter is called \"x\""}));
  EXPECT_FALSE(std::filesystem::exists(path));
}

// ---- values ----

LoRAConfig rich_config() {
  LoRAConfig config = config_for({"q", "c", "conv"}, 3);
  config.lora_bias = true;
  config.bias = "all";
  config.modules_to_save = {"head", "embed"};
  return config;
}
void fill_all(Model& model) {
  fill_adapter(model, "default");
  for (const auto& [key, parameter] : adapter_tensors(model)) {
    if (key.ends_with("bias")) parameter->value = random_matrix<float>(1, parameter->size(), key);
  }
}

TEST(AdapterFile, RoundTripIsBitForBit) {
  Model model(Small{}, rich_config());
  fill_all(model);
  model.base().q.adapters().get("default").A.value(0, 0) = -0.0f;
  model.base().q.adapters().get("default").A.value(0, 1) = std::numeric_limits<float>::denorm_min();
  model.base().q.adapters().get("default").A.value(0, 2) = std::numeric_limits<float>::max();
  TemporaryFolder folder;
  for (const DType dtype : {DType::F32, DType::F64}) {
    save_adapter_file(model, folder.path / "a", "default", dtype);
    Model fresh(Small{}, rich_config(), "default", 77);
    EXPECT_NE(snapshot(fresh), snapshot(model));
    load_adapter_file(fresh, folder.path / "a");
    EXPECT_EQ(snapshot(fresh), snapshot(model));
  }
  const std::string first = bytes_of(folder.path / "a");
  save_adapter_file(model, folder.path / "a", "default", DType::F64);
  EXPECT_EQ(bytes_of(folder.path / "a"), first);
}

TEST(AdapterFile, LoadedModelsComputeTheSame) {
  Model model(Small{}, rich_config());
  fill_all(model);
  TemporaryFolder folder;
  save_adapter_file(model, folder.path / "a");
  Model fresh(Small{});
  fresh.add_adapter("first", everything());
  fresh.add_adapter("loaded", rich_config(), 5);
  fresh.set_adapter("loaded");
  load_adapter_file(fresh, folder.path / "a", "loaded");
  EXPECT_TRUE(same_bits(fresh.base().run(), model.base().run()));
  EXPECT_EQ(trained_names(fresh).size(), trained_names(model).size());
  for (const auto& [key, parameter] : adapter_tensors(fresh, "loaded")) {
    EXPECT_EQ(parameter->grad.size(), parameter->value.size()) << key;  // training goes on
  }
}

TEST(AdapterFile, HalvesAreRoundedOnceToNearestEven) {
  Model model(Small{}, rich_config());
  fill_all(model);
  TemporaryFolder folder;
  struct Half {
    DType dtype;
    float (*round)(float);
  };
  const Half halves[] = {{DType::BF16, [](float x) { return bf16_to_float(float_to_bf16(x)); }},
                         {DType::F16, [](float x) { return f16_to_float(float_to_f16(x)); }}};
  for (const Half& half : halves) {
    save_adapter_file(model, folder.path / "h", "default", half.dtype);
    EXPECT_EQ(SafetensorsFile::open(folder.path / "h").info("base_model.model.head.weight").dtype,
              half.dtype);
    Model fresh(Small{}, rich_config());
    load_adapter_file(fresh, folder.path / "h");
    const auto exact = adapter_tensors(model), rounded = adapter_tensors(fresh);
    ASSERT_EQ(exact.size(), rounded.size());
    for (std::size_t i = 0; i < exact.size(); ++i) {
      const Matrix<float> expected = exact[i].second->value.unaryExpr(half.round);
      EXPECT_TRUE(same_bits(rounded[i].second->value, expected)) << exact[i].first;
    }
    // What was rounded already stays what it is.
    save_adapter_file(fresh, folder.path / "again", "default", half.dtype);
    EXPECT_EQ(bytes_of(folder.path / "again"), bytes_of(folder.path / "h"));
  }
}

TEST(AdapterFile, ADoubleModelReadsAndWritesBoth) {
  LoRAModel<SmallModel<double>> model(SmallModel<double>{}, everything());
  fill_adapter(model, "default");
  TemporaryFolder folder;
  save_adapter_file(model, folder.path / "f64", "default", DType::F64);
  LoRAModel<SmallModel<double>> fresh(SmallModel<double>{}, everything());
  load_adapter_file(fresh, folder.path / "f64");
  EXPECT_EQ(snapshot(fresh), snapshot(model));
  save_adapter_file(model, folder.path / "f32");
  load_adapter_file(fresh, folder.path / "f32");
  const auto& A = fresh.base().q.adapters().get("default").A.value;
  EXPECT_TRUE(same_bits(
      A, Matrix<double>(
             model.base().q.adapters().get("default").A.value.cast<float>().cast<double>())));
}

// ---- refusals ----

TEST(AdapterFile, AllThatDoesNotFitIsListedAtOnceAndNothingChanges) {
  Model writer(Small{}, config_for({"q", "v", "conv"}, 2)),
      model(Small{}, config_for({"q", "c", "conv"}, 3));
  fill_adapter(model, "default");
  const auto before = snapshot(model);
  TemporaryFolder folder;
  const auto path = folder.path / "other.safetensors";
  save_adapter_file(writer, path);
  EXPECT_TRUE(throws<FormatError>(
      [&] { load_adapter_file(model, path); },
      {"other.safetensors: does not hold adapter \"default\" of this model:",
       "\n  missing: base_model.model.block.0.c.lora_A.weight",
       "\n  missing: base_model.model.block.0.c.lora_B.weight",
       "\n  base_model.model.block.0.q.lora_A.weight: shape is [2, 6], expected [3, 6]",
       "\n  base_model.model.conv.lora_A.weight: shape is [2, 2, 3, 2], expected [3, 2, 3, 2]",
       "\n  unexpected: base_model.model.block.0.v.lora_A.weight",
       "\n  unexpected: base_model.model.block.0.v.lora_B.weight"}));
  EXPECT_EQ(snapshot(model), before);
}

TEST(AdapterFile, EachOneFaultIsEnoughToRefuse) {
  Model model(Small{}, config_for({"q", "v"}));
  fill_adapter(model, "default");
  const auto before = snapshot(model);
  const auto tensors = adapter_tensors(model);
  TemporaryFolder folder;
  const auto path = folder.path / "a";
  const std::string last = tensors.back().first;
  struct Fault {
    const char* message;
    std::function<void(SafetensorsWriter&)> last_tensor;
  };
  const Matrix<float> good = random_matrix<float>(6, 2, "good");
  const std::vector<std::byte> zeros(6 * 2 * 8);
  const std::vector<Fault> faults = {
      {"missing: base_model.model.block.0.v.lora_B.weight", [](SafetensorsWriter&) {}},
      {"lora_B.weight: shape is [2, 6], expected [6, 2]",
       [&](SafetensorsWriter& w) { w.add(last, Matrix<float>(good.transpose()), DType::F32); }},
      {"lora_B.weight: shape is [12], expected [6, 2]",
       [&](SafetensorsWriter& w) { w.add(last, good, DType::F32, {12}); }},
      {"lora_B.weight: dtype is I64, expected F32, F64, BF16 or F16",
       [&](SafetensorsWriter& w) {
         w.add(last, DType::I64, {6, 2}, zeros);
       }},
      {"unexpected: base_model.model.extra",
       [&](SafetensorsWriter& w) {
         w.add(last, good, DType::F32), w.add("base_model.model.extra", good, DType::F32);
       }},
      {"unexpected: block.0.v.lora_B.weight",  // without PEFT's prefix
       [&](SafetensorsWriter& w) { w.add("block.0.v.lora_B.weight", good, DType::F32); }},
      {"unexpected: a\\x1bb",
       [&](SafetensorsWriter& w) {
         w.add(last, good, DType::F32), w.add(
                                            "a\x1b"
                                            "b",
                                            good, DType::F32);
       }},
  };
  for (const Fault& fault : faults) {
    SafetensorsWriter writer;
    for (const auto& [key, parameter] : tensors) {
      if (key != last)
        writer.add(key, Matrix<float>(2 * parameter->value), DType::F32, parameter->shape);
    }
    fault.last_tensor(writer);
    writer.write(path);
    EXPECT_TRUE(throws<FormatError>([&] { load_adapter_file(model, path); }, {fault.message}));
    EXPECT_EQ(snapshot(model), before) << fault.message;
  }
}

TEST(AdapterFile, DamagedAndAbsentFiles) {
  Model model(Small{}, config_for({"q"}));
  TemporaryFolder folder;
  const auto path = folder.path / "cut.safetensors";
  save_adapter_file(model, path);
  const auto before = snapshot(model);
  const auto size = std::filesystem::file_size(path);
  for (const auto length :
       {size - 1, size / 2, std::uintmax_t{9}, std::uintmax_t{7}, std::uintmax_t{0}}) {
    std::filesystem::resize_file(path, length);
    EXPECT_TRUE(throws<FormatError>([&] { load_adapter_file(model, path); }, {"cut.safetensors"}))
        << length;
    EXPECT_EQ(snapshot(model), before);
  }
  EXPECT_TRUE(throws<IoError>([&] { load_adapter_file(model, folder.path / "absent"); },
                              {"absent", "open"}));
  EXPECT_TRUE(throws<IoError>([&] { save_adapter_file(model, folder.path / "no" / "folder"); },
                              {"folder"}));
  EXPECT_TRUE(throws<ConfigError>([&] { save_adapter_file(model, path, "default", DType::I32); },
                                  {"I32", "lora_A.weight"}));
  EXPECT_EQ(std::filesystem::file_size(path), 0u) << "a save that fails leaves the file alone";
}

TEST(AdapterFile, AMergedAdapterIsNotOverwritten) {
  Model model(Small{}, config_for({"q"}), "a");
  model.add_adapter("b", config_for({"v"}));
  TemporaryFolder folder;
  save_adapter_file(model, folder.path / "a", "a");
  save_adapter_file(model, folder.path / "b", "b");
  fill_adapter(model, "a");
  model.merge_adapter({"a"});
  const auto before = snapshot(model);
  EXPECT_TRUE(throws<Error>([&] { load_adapter_file(model, folder.path / "a", "a"); },
                            {"load_adapter_file: adapter \"a\" is merged; unmerge it first"}));
  EXPECT_EQ(snapshot(model), before);
  EXPECT_NO_THROW(load_adapter_file(model, folder.path / "b", "b"));
  EXPECT_NO_THROW(save_adapter_file(model, folder.path / "merged", "a"));
}

TEST(AdapterFile, BiasesThatAreLoadedWhileAnotherAdapterIsMergedAct) {
  LoRAConfig config = config_for({"q"});
  config.lora_bias = true;
  Model model(Small{}, config, "a");
  config = config_for({"v"});
  config.bias = "all";
  model.add_adapter("b", config);
  fill_adapter(model, "a");
  TemporaryFolder folder;
  Model source = model;
  source.base().q.bias().value.setConstant(5);
  source.base().head.bias().value.setConstant(3);
  save_adapter_file(source, folder.path / "b", "b");
  source.merge_adapter({"a"});
  model.merge_adapter({"a"});
  load_adapter_file(model, folder.path / "b", "b");
  EXPECT_TRUE(same_bits(model.base().run(), source.base().run()));
  EXPECT_TRUE(same_bits(model.merge_and_unload().run(), source.base().run()));
  model.unmerge_adapter();
  EXPECT_EQ(model.base().q.bias().value(0, 0), 5);
}

// ---- PEFT's own files ----

TEST(AdapterFile, GoldenFilesOfPeftAreReadCountedAndWrittenByteForByte) {
  for_each_golden_model([](const GoldenModel& one) {
    const TemporaryFolder folder;
    LoRAConfig config = read_peft_config(one.adapter / "adapter_config.json").config;
    config.inference_mode = false;
    LoRAModel<Checkpoint> model(Checkpoint(one.base), config);
    const Json golden = read_golden_json(one.folder / "golden.json");
    const auto [trained, all] = model.get_nb_trainable_parameters();
    EXPECT_EQ(trained, golden.at("trainable").get<Index>());
    EXPECT_EQ(all, golden.at("all").get<Index>());
    load_adapter_file(model, one.adapter / "adapter_model.safetensors");
    const SafetensorsFile file = SafetensorsFile::open(one.adapter / "adapter_model.safetensors");
    for (const auto& [key, parameter] : adapter_tensors(model)) {
      EXPECT_TRUE(same_bits(parameter->value, file.matrix<float>(key))) << key;
    }
    save_adapter_file(model, folder.path / "written");
    EXPECT_EQ(bytes_of(folder.path / "written"),
              bytes_of(one.adapter / "adapter_model.safetensors"));
  });
}

}  // namespace adapter_file_test
