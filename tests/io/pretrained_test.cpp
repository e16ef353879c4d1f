// Models and PEFT's directories: saving, loading, and models that an error leaves as they were.
#include <lora/io/peft/pretrained.hpp>

#include <gtest/gtest.h>

#include <cerrno>
#include <filesystem>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "adapters/small_model.hpp"
#include "io/checkpoint.hpp"
#include "support/file_calls.hpp"
#include "support/golden.hpp"

namespace pretrained_test {
using namespace lora;
using namespace lora_test;
namespace fs = std::filesystem;
using Names = std::vector<std::string>;
using Small = SmallModel<float>;
using Model = LoRAModel<Small>;

std::string bytes_of(const fs::path& path) {
  const auto bytes = read_file(path, std::uint64_t{1} << 30);
  return std::string(as_text(bytes));
}
Names files(const fs::path& directory) {
  Names names;
  for (const auto& entry : fs::recursive_directory_iterator(directory)) {
    if (!entry.is_directory()) names.push_back(fs::relative(entry.path(), directory).string());
  }
  std::sort(names.begin(), names.end());
  return names;
}
LoRAConfig rich_config() {
  LoRAConfig config = config_for({"q", "c", "conv", "grouped"}, 4);
  config.bias = "all";
  config.modules_to_save = {"head", "embed"};
  config.rank_pattern = {{"c", 3}};
  config.alpha_pattern = {{"q", 7.5}};
  return config;
}
void fill_all(Model& model, const std::string& name = "default") {
  fill_adapter(model, name);
  for (const auto& [key, parameter] : adapter_tensors(model, name)) {
    if (key.ends_with("bias")) parameter->value = random_matrix<float>(1, parameter->size(), key);
  }
}
Model saved(const fs::path& directory, const LoRAConfig& config,
            const SavePretrainedOptions& options = {}) {
  Model model(Small{}, config);
  fill_all(model);
  save_pretrained(model, directory, options);
  return model;
}

// ---- PEFT's own adapters ----

TEST(Pretrained, GoldenAdaptersLoadOverTheirBaseAndAreWrittenAgainByteForByte) {
  for_each_golden_model([](const GoldenModel& golden) {
    const TemporaryFolder folder;
    const fs::path source = golden.adapter;
    auto [model, report] = from_pretrained(Checkpoint(golden.base), source);
    EXPECT_EQ(report.unknown_fields, Names{});
    EXPECT_EQ(report.warnings, Names{});
    EXPECT_EQ(report.matched.targets.size(), PeftAdapter::open(source).modules().size());
    EXPECT_EQ(model.active_adapters(), Names{"default"});
    EXPECT_EQ(model.get_nb_trainable_parameters().first, 0) << "inference_mode";
    const SafetensorsFile file = SafetensorsFile::open(source / peft_weights_file);
    EXPECT_EQ(adapter_tensors(model).size(), file.names().size());
    for (const auto& [key, parameter] : adapter_tensors(model))
      EXPECT_TRUE(same_bits(parameter->value, file.matrix<float>(key))) << key;
    const fs::path target = folder.path / golden.name;
    SavePretrainedOptions options;
    options.fields["default"] = report.fields;
    save_pretrained(model, target, options);
    for (const char* name : {peft_config_file, peft_weights_file})
      EXPECT_EQ(bytes_of(target / name), bytes_of(source / name)) << name;
    EXPECT_EQ(files(target), (Names{"README.md", peft_config_file, peft_weights_file}));
    LoadOptions trainable;
    trainable.is_trainable = true;
    auto [again, same] = from_pretrained(Checkpoint(golden.base), target, trainable);
    const Json numbers = read_golden_json(golden.folder / "golden.json");
    EXPECT_EQ(again.get_nb_trainable_parameters().first, numbers.at("trainable").get<Index>());
  });
}

TEST(Pretrained, GoldenAdaptersMergeToTheSumWithinOneRounding) {
  for_each_golden_model([](const GoldenModel& golden) {
    const Checkpoint base(golden.base);
    auto [model, report] = from_pretrained(base, golden.adapter);
    const PeftAdapter adapter = PeftAdapter::open(golden.adapter);
    Checkpoint merged = model.merge_and_unload();
    std::size_t checked = 0;
    for (const PeftModule& module : adapter.modules()) {
      const auto find = [&](const Checkpoint& c) -> const Checkpoint::Layer& {
        return *std::find_if(c.layers.begin(), c.layers.end(),
                             [&](const auto& layer) { return layer.name == module.name; });
      };
      const auto dense = [](const Checkpoint::Layer& layer) {
        return std::visit(
            [](const auto& l) {
              return Matrix<double>(l.weight().dense().template cast<double>());
            },
            layer.layer);
      };
      const Matrix<double> A = adapter.tensors().matrix<double>(module.a_key),
                           B = adapter.tensors().matrix<double>(module.b_key),
                           W = dense(find(base)), got = dense(find(merged));
      const Matrix<double> delta = module.scaling * (B * A);
      const bool turned = module.embedding;  // an embedding's table is (V, D)
      Matrix<double> sum = W + (turned ? Matrix<double>(delta.transpose()) : delta);
      // Rounding of the sum once, and of s and the float product of r terms.
      const double u = 0x1p-24, r = static_cast<double>(module.r);
      const Matrix<double> terms = std::abs(module.scaling) * (B.cwiseAbs() * A.cwiseAbs());
      Matrix<double> bound =
          u * sum.cwiseAbs() + (r + 3) * u * (turned ? Matrix<double>(terms.transpose()) : terms);
      if (!module.m_key.empty()) {  // DoRA: c ∘ the sum, and c is off by its float32 parts
        const Matrix<double> m = adapter.tensors().matrix<double>(module.m_key);
        for (Index j = 0; j < m.size(); ++j) {
          const auto scale = [&](auto&& of_sum, auto&& of_bound) {
            const double c = m.data()[j] / of_sum.norm();
            of_sum *= c;
            of_bound = (c * of_bound + 16 * u * of_sum.cwiseAbs()).eval();
          };
          turned ? scale(sum.col(j), bound.col(j)) : scale(sum.row(j), bound.row(j));
        }
      }
      EXPECT_TRUE(((got - sum).cwiseAbs().array() <= 1.001 * bound.array()).all()) << module.name;
      ++checked;
    }
    EXPECT_GT(checked, 0u);
  });
}

// ---- round trips of our own ----

TEST(Pretrained, EverythingComesBackBitForBit) {
  const TemporaryFolder folder;
  Model model = saved(folder.path, rich_config());
  auto [loaded, report] = from_pretrained(Small{}, folder.path);
  EXPECT_TRUE(same_bits(loaded.base().run(), model.base().run()));
  const auto a = adapter_tensors(model), b = adapter_tensors(loaded);
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].first, b[i].first);
    EXPECT_TRUE(same_bits(a[i].second->value, b[i].second->value)) << a[i].first;
    EXPECT_FALSE(b[i].second->trainable);
  }
  EXPECT_EQ(files(folder.path), (Names{"README.md", peft_config_file, peft_weights_file}));
  EXPECT_EQ(SafetensorsFile::open(folder.path / peft_weights_file).metadata(),
            (std::map<std::string, std::string>{{"format", "pt"}}));
}

TEST(Pretrained, IsTrainable) {
  const TemporaryFolder folder;
  Model model = saved(folder.path, rich_config());
  LoadOptions options;
  options.is_trainable = true;
  auto [loaded, report] = from_pretrained(Small{}, folder.path, options);
  EXPECT_EQ(trained_names(loaded), trained_names(model));
  EXPECT_FALSE(loaded.config().inference_mode);
  auto [frozen, same] = from_pretrained(Small{}, folder.path);
  EXPECT_EQ(trained_names(frozen), Names{});
  EXPECT_TRUE(frozen.config().inference_mode);
}

TEST(Pretrained, LoraBiasAndDouble) {
  const TemporaryFolder folder;
  LoRAConfig config = config_for({"q", "conv"});
  config.lora_bias = true;
  LoRAModel<SmallModel<double>> model(SmallModel<double>{}, config);
  fill_adapter(model, "default");
  save_pretrained(model, folder.path);
  const std::string key = "base_model.model.block.0.q.lora_B.bias";
  EXPECT_EQ(PeftAdapter::open(folder.path).tensors().info(key).dtype, DType::F64);
  auto [loaded, report] = from_pretrained(SmallModel<double>{}, folder.path);
  EXPECT_TRUE(same_bits(loaded.base().run(), model.base().run()));
}

TEST(Pretrained, Dtypes) {
  const TemporaryFolder folder;
  for (const DType dtype : {DType::F32, DType::F64, DType::BF16, DType::F16}) {
    SavePretrainedOptions options;
    options.dtype = dtype;
    Model model = saved(folder.path, rich_config(), options);
    const PeftAdapter adapter = PeftAdapter::open(folder.path);
    for (const std::string& name : adapter.tensors().names())
      EXPECT_EQ(adapter.tensors().info(name).dtype, dtype);
    auto [loaded, report] = from_pretrained(Small{}, folder.path);
    for (const auto& [key, parameter] : adapter_tensors(loaded))
      EXPECT_TRUE(same_bits(parameter->value, adapter.tensors().matrix<float>(key))) << key;
    // What was rounded once stays.
    const std::string first = bytes_of(folder.path / peft_weights_file);
    options.fields["default"] = report.fields;
    save_pretrained(loaded, folder.path, options);
    EXPECT_EQ(bytes_of(folder.path / peft_weights_file), first);
  }
  Model model(Small{}, config_for({"q"}));
  SavePretrainedOptions options;
  options.dtype = DType::I32;
  EXPECT_TRUE(
      throws<ConfigError>([&] { save_pretrained(model, folder.path / "x", options); }, {"I32"}));
  EXPECT_FALSE(fs::exists(folder.path / "x"));
}

TEST(Pretrained, ManyAdaptersInSubFolders) {
  const TemporaryFolder folder;
  Model model(Small{}, config_for({"q"}, 2));
  model.add_adapter("other", config_for({"v", "embed"}, 3));
  model.add_adapter("third", config_for({"c"}, 1));
  fill_adapter(model, "default"), fill_adapter(model, "other"), fill_adapter(model, "third");
  save_pretrained(model, folder.path / "all");
  EXPECT_EQ(files(folder.path / "all"),
            (Names{"README.md", peft_config_file, peft_weights_file, "other/adapter_config.json",
                   "other/adapter_model.safetensors", "third/adapter_config.json",
                   "third/adapter_model.safetensors"}));
  SavePretrainedOptions options;
  options.selected_adapters = {"third"};
  options.model_card = Write::no;
  save_pretrained(model, folder.path / "one", options);
  EXPECT_EQ(files(folder.path / "one"),
            (Names{"third/adapter_config.json", "third/adapter_model.safetensors"}));
  Model loaded(Small{});
  load_adapter(loaded, folder.path / "all");
  load_adapter(loaded, folder.path / "all" / "other", "beside");
  load_adapter(loaded, folder.path / "one" / "third", "third");
  EXPECT_EQ(loaded.active_adapters(), Names{"default"});
  loaded.set_adapter({"default", "beside", "third"});
  model.set_adapter({"default", "other", "third"});
  EXPECT_TRUE(same_bits(loaded.base().run(), model.base().run()));
  options.selected_adapters = {"no"};
  EXPECT_TRUE(throws<ConfigError>([&] { save_pretrained(model, folder.path / "x", options); },
                                  {"no adapter is called \"no\""}));
  EXPECT_FALSE(fs::exists(folder.path / "x"));
}

TEST(Pretrained, NamesThatAreNoFolders) {
  const TemporaryFolder folder;
  for (const std::string& name :
       {std::string("a/b"), std::string("/etc"), std::string("a\0b", 3)}) {
    Model model(Small{}, config_for({"q"}), name);
    EXPECT_TRUE(
        throws<ConfigError>([&] { save_pretrained(model, folder.path / "x"); },
                            {"save_pretrained: the adapter's name ", "cannot be the name of its"}));
  }
  EXPECT_FALSE(fs::exists(folder.path / "x"));
  for (const char* name : {"", ".", ".."}) {
    EXPECT_TRUE(
        throws<ConfigError>([&] { detail::check_adapter_folder(name); }, {"cannot be the name"}));
  }
  Model none(Small{});
  EXPECT_TRUE(throws<ConfigError>([&] { save_pretrained(none, folder.path / "x"); },
                                  {"save_pretrained: the model has no adapter"}));
}

/// A second layer whose name ends as another's does.
struct Twice : Small {
  LoRALinear<float> q2 = Small::q;
  template <class Fn>
  void for_each_module(const NamePath& prefix, Fn&& fn) {
    Small::for_each_module(prefix, fn);
    fn(NamePath(prefix, "block.1.q"), q2);
  }
};
TEST(Pretrained, TargetsThatDependOnTheModelAreWrittenByName) {
  const TemporaryFolder folder;
  LoRAConfig config = config_for({}, 2);
  config.target_modules = "All-Linear";
  saved(folder.path, config);
  const auto targets = [&] {
    return read_peft_config(folder.path / peft_config_file).fields.at("target_modules").dump();
  };
  EXPECT_EQ(targets(), R"(["c","default","q","v"])");
  // Ends of names would take more than was adapted: whole names.
  config.exclude_modules = {"block.0.q"};
  LoRAModel<Twice> twice(Twice{}, config);
  save_pretrained(twice, folder.path);
  EXPECT_EQ(targets(), R"(["block.0.v","block.0.c","lora_A.default","block.1.q"])");
  config.exclude_modules = {};
  config.target_modules = ".*\\.q";
  saved(folder.path, config);
  EXPECT_EQ(targets(), R"(".*\\.q")");
}

TEST(Pretrained, WhatWasReadIsWrittenAgain) {
  const TemporaryFolder folder;
  Model model = saved(folder.path / "a", config_for({"q"}));
  Json fields = PeftAdapter::open(folder.path / "a").fields();
  fields["zz_new_in_2031"] = {{"deep", {1, 2.5}}};
  fields["lora_alpha"] = 3.0;
  fields.erase("kasa_config");
  atomic_write(folder.path / "a" / peft_config_file, peft_config_text(fields));
  auto [loaded, report] = from_pretrained(Small{}, folder.path / "a");
  EXPECT_EQ(report.unknown_fields, Names{"zz_new_in_2031"});
  SavePretrainedOptions options;
  options.fields["default"] = report.fields;
  save_pretrained(loaded, folder.path / "b", options);
  for (const char* name : {peft_config_file, peft_weights_file})
    EXPECT_EQ(bytes_of(folder.path / "a" / name), bytes_of(folder.path / "b" / name));
}

TEST(Pretrained, BaseModelNameAndReadme) {
  const TemporaryFolder folder;
  SavePretrainedOptions options;
  options.base_model_name_or_path = "some/base";
  saved(folder.path, config_for({"q"}), options);
  EXPECT_EQ(PeftAdapter::open(folder.path).config().base_model_name_or_path, "some/base");
  EXPECT_NE(bytes_of(folder.path / "README.md").find("base_model: some/base\n"), std::string::npos);
  atomic_write(folder.path / "README.md", "mine");
  saved(folder.path, config_for({"v"}));
  EXPECT_EQ(bytes_of(folder.path / "README.md"), "mine");
}

TEST(Pretrained, KeysWithoutThePrefixAreAccepted) {
  const TemporaryFolder folder;
  Model model = saved(folder.path, rich_config());
  const PeftAdapter adapter = PeftAdapter::open(folder.path);
  SafetensorsWriter bare;
  for (const std::string& name : adapter.tensors().names())
    bare.add(name.substr(17), adapter.tensors().info(name).dtype,
             adapter.tensors().info(name).shape, adapter.tensors().bytes(name));
  write_peft_adapter(folder.path / "bare", adapter.fields(), bare);
  auto [loaded, report] = from_pretrained(Small{}, folder.path / "bare");
  EXPECT_TRUE(same_bits(loaded.base().run(), model.base().run()));
}

/// The adapter of a folder again, with base weights of `model` beside it: keys, and what they hold.
void add_base_weights(const fs::path& from, const fs::path& to, DType dtype,
                      const std::vector<std::pair<std::string, Matrix<float>>>& copies) {
  const PeftAdapter adapter = PeftAdapter::open(from);
  SafetensorsWriter writer;
  for (const std::string& key : adapter.tensors().names())
    writer.add(key, adapter.tensors().info(key).dtype, adapter.tensors().info(key).shape,
               adapter.tensors().bytes(key));
  for (const auto& [key, values] : copies) writer.add("base_model.model." + key, values, dtype);
  write_peft_adapter(to, adapter.fields(), writer);
}

TEST(Pretrained, CopiesOfTheBaseAreNothingWhenEqualAndElseTakeItsPlace) {
  // What PEFT's save_embedding_layers leaves: the adapted embedding's own weight, and the head's.
  const TemporaryFolder folder;
  Model model = saved(folder.path / "plain", config_for({"embed", "q"}));
  const Matrix<float> embed = model.base().embed.weight().stored();
  const Matrix<float> head = model.base().head.weight().stored();
  const auto load = [&](const std::vector<std::pair<std::string, Matrix<float>>>& copies) {
    add_base_weights(folder.path / "plain", folder.path / "copy", DType::F32, copies);
    return from_pretrained(Small{}, folder.path / "copy");
  };
  auto [same, nothing] = load({{"embed.base_layer.weight", embed}, {"head.weight", head}});
  EXPECT_TRUE(same_bits(same.base().run(), model.base().run()));
  EXPECT_EQ(nothing.warnings, Names{});
  EXPECT_EQ(nothing.replaced, Names{});
  EXPECT_TRUE(same.base().embed.weight().stored() == embed);

  const Matrix<float> other = embed.array() + 0.125f;
  auto [loaded, report] = load({{"embed.base_layer.weight", other}, {"head.weight", head}});
  EXPECT_EQ(report.replaced, Names{"embed"});
  EXPECT_EQ(report.warnings,
            Names{"base_model.model.embed.base_layer.weight is not the base's weight of \"embed\": "
                  "the adapter's copy replaces it, as in PEFT"});
  EXPECT_TRUE(loaded.base().embed.weight().stored() == other);
  // As a base that had this embedding from the beginning.
  Small changed;
  changed.embed = LoRAEmbedding<float>(FrozenWeight<float>(other));
  auto [expected, none] = from_pretrained(changed, folder.path / "plain");
  EXPECT_TRUE(same_bits(loaded.base().run(), expected.base().run()));
  EXPECT_FALSE(same_bits(loaded.base().run(), model.base().run()));

  EXPECT_TRUE(throws<FormatError>(
      [&] {
        load({{"embed.weight", other}});
      },
      {"\n  base_model.model.embed.weight: is a base weight that differs from this model's, under "
       "a "
       "name that PEFT ignores: the module is adapted, expected \".base_layer.weight\""}));
  EXPECT_TRUE(throws<FormatError>(
      [&] {
        load({{"head.base_layer.weight", head * 2}});
      },
      {"the module is not adapted, expected \".weight\""}));
  EXPECT_TRUE(throws<FormatError>(
      [&] {
        load({{"embed.base_layer.weight", embed.topRows(2)}});
      },
      {"base_model.model.embed.base_layer.weight: shape is [2, ", ", as in the base's weight"}));
  EXPECT_NO_THROW(load({{"embed.weight", embed}}));
}

TEST(Pretrained, ACopyThatDiffersIsRefusedWhileItsPlaceIsMergedInto) {
  const TemporaryFolder folder;
  saved(folder.path / "plain", config_for({"embed", "q"}));
  const Matrix<float> other = Small{}.embed.weight().stored().array() + 1.0f;
  add_base_weights(folder.path / "plain", folder.path / "copy", DType::F32,
                   {{"embed.base_layer.weight", other}});
  Model model(Small{});
  load_adapter(model, folder.path / "plain", "first");
  model.merge_adapter();
  const Matrix<float> before = model.base().run();
  EXPECT_TRUE(throws<FormatError>([&] { load_adapter(model, folder.path / "copy", "second"); },
                                  {"cannot be replaced while an adapter is merged into it"}));
  EXPECT_TRUE(same_bits(model.base().run(), before));
  EXPECT_EQ(model.adapter_names(), Names{"first"});
  model.unmerge_adapter();
  EXPECT_EQ(load_adapter(model, folder.path / "copy", "second").replaced, Names{"embed"});
}

TEST(Pretrained, WeightsOfTheBaseAreFoundBesideOtherAdapters) {
  const TemporaryFolder folder;
  const Small base;
  const Matrix<float> embed = base.embed.weight().stored(), head = base.head.weight().stored();
  for (const char* target : {"embed", "head"}) {
    const bool on_embed = std::string(target) == "embed";
    saved(folder.path / "plain" / target, config_for({target}));
    add_base_weights(folder.path / "plain" / target, folder.path / target, DType::F32,
                     {{on_embed ? "embed.base_layer.weight" : "embed.weight", embed},
                      {on_embed ? "head.weight" : "head.base_layer.weight", head}});
  }
  for (const auto& [first, second] : {std::pair("embed", "head"), {"head", "embed"}}) {
    Model model(Small{});
    EXPECT_NO_THROW(load_adapter(model, folder.path / first, "first")) << first;
    EXPECT_NO_THROW(load_adapter(model, folder.path / second, "second")) << second;
    EXPECT_EQ(model.adapter_names(), (Names{"first", "second"}));
  }
}

TEST(Pretrained, WeightsOfTheBaseMayBeRoundedToTheNarrowerType) {
  const TemporaryFolder folder;
  saved(folder.path / "plain", config_for({"embed", "q"}));
  const Small plain;
  const Matrix<float> embed = plain.embed.weight().stored();
  const auto with = [&](const Matrix<float>& copy, DType dtype) {
    add_base_weights(folder.path / "plain", folder.path / "copy", dtype,
                     {{"embed.base_layer.weight", copy}});
    return folder.path / "copy";
  };
  Small rounded;
  rounded.embed = LoRAEmbedding<float>(FrozenWeight<float>::pack(embed, Precision::bfloat16));
  Matrix<float> other = embed;
  other(3, 2) *= 1.02f;
  const auto replaced = [](const Small& base, const fs::path& path) {
    return !from_pretrained(base, path).report.replaced.empty();
  };
  for (const DType dtype : {DType::F32, DType::F64, DType::BF16, DType::F16}) {
    SCOPED_TRACE(dtype_name(dtype));
    for (const Small& base : {plain, rounded}) {
      EXPECT_FALSE(replaced(base, with(embed, dtype)));
      EXPECT_TRUE(replaced(base, with(other, dtype)));
    }
  }
  // A checkpoint in halves that is held as bfloat16: the copy was rounded once, the model twice.
  std::vector<std::uint16_t> halves;
  for (const float x : embed.reshaped<Eigen::RowMajor>()) halves.push_back(float_to_f16(x));
  Small from_halves;
  from_halves.embed = LoRAEmbedding<float>(FrozenWeight<float>::pack(
      halves.data(), HalfFormat::float16, embed.rows(), embed.cols(), Precision::bfloat16));
  EXPECT_FALSE(replaced(from_halves, with(embed, DType::F16)));
  EXPECT_TRUE(replaced(from_halves, with(other, DType::F16)));
  Matrix<float> near = embed;
  near(3, 2) = std::nextafter(near(3, 2), 9.0f);
  EXPECT_TRUE(replaced(plain, with(near, DType::F32)));
  EXPECT_FALSE(replaced(rounded, with(near, DType::F32)));
}

// ---- warnings ----

TEST(Pretrained, Warnings) {
  const TemporaryFolder folder;
  const auto warnings = [&](const LoRAConfig& config, bool filled,
                            const LoadOptions& options = {}) {
    Model model(Small{}, config);
    if (filled) fill_adapter(model, "default");
    save_pretrained(model, folder.path);
    return from_pretrained(Small{}, folder.path, options).report.warnings;
  };
  LoRAConfig config = config_for({"q", "embed"});
  EXPECT_EQ(warnings(config, true), Names{});
  EXPECT_EQ(warnings(config, false),
            Names{"every B (of an embedding: A) is zero, so the adapter changes nothing"});
  config.base_model_name_or_path = "a/b";
  LoadOptions options;
  EXPECT_EQ(warnings(config, true, options), Names{});
  options.base_model_name_or_path = "a/b";
  EXPECT_EQ(warnings(config, true, options), Names{});
  options.base_model_name_or_path = "a/c";
  EXPECT_EQ(warnings(config, true, options),
            Names{"base_model_name_or_path is \"a/b\", the model is \"a/c\""});
  config.lora_alpha = 0.25;
  EXPECT_EQ(
      warnings(config, true),
      Names{"the scale of \"block.0.q\" and others is 0.125 (alpha 0.25, r 2): was lora_alpha "
            "left at its default?"});
  config.lora_alpha = 3;
  config.alpha_pattern = {{"q", 0.1}, {"nothing", 1}};
  const Names two = warnings(config, true);
  ASSERT_EQ(two.size(), 2u);
  EXPECT_NE(two[0].find("alpha_pattern: \"nothing\" matches no adapted module"), std::string::npos);
  EXPECT_NE(two[1].find("the scale of \"block.0.q\" is 0.05"), std::string::npos) << two[1];
  LoRAConfig bias = config_for({"q"});
  bias.lora_bias = true;
  Model model(Small{}, bias);
  model.base().q.adapters().get("default").bias.value.setConstant(1);
  save_pretrained(model, folder.path);
  EXPECT_EQ(from_pretrained(Small{}, folder.path).report.warnings, Names{}) << "the bias acts";
}

// ---- errors leave the model as it was ----

TEST(Pretrained, AllThatDoesNotFitIsListedAndTheModelIsAsBefore) {
  const TemporaryFolder folder;
  saved(folder.path, config_for({"q", "v", "conv"}, 2));
  const PeftAdapter good = PeftAdapter::open(folder.path);
  SafetensorsWriter writer;
  const std::string p = "base_model.model.";
  for (const std::string& name : good.tensors().names()) {
    if (name.find(".v.") != name.npos) continue;
    writer.add(name, good.tensors().info(name).dtype, good.tensors().info(name).shape,
               good.tensors().bytes(name));
  }
  const auto add = [&](const std::string& name, Index rows, Index cols) {
    writer.add(p + name, random_matrix<float>(rows, cols, name), DType::F32);
  };
  add("block.0.c.lora_A.weight", 2, 6), add("block.0.c.lora_B.weight", 7, 2);
  add("block.0.v.lora_A.weight", 2, 5), add("block.0.v.lora_B.weight", 6, 2);
  add("block.0.q.weight", 6, 6);          // the base's own weight
  add("embed.base_layer.weight", 11, 6);  // of a layer that has no adapter
  write_peft_adapter(folder.path / "bad", good.fields(), writer);
  LoRAConfig trained = config_for({"head"}, 3);
  trained.bias = "all";
  const std::function<Model()> models[] = {[] { return Model(Small{}); },
                                           [&] { return Model(Small{}, trained, "there"); },
                                           [&] {  // none active, one trained all the same
                                             Model model(Small{}, config_for({"q"}), "there");
                                             model.set_adapter(Names{});
                                             model.set_requires_grad({"there"});
                                             return model;
                                           },
                                           [&] {
                                             Model model(Small{}, config_for({"q"}), "there");
                                             fill_adapter(model, "there");
                                             model.merge_adapter();
                                             model.base().head.bias().set_trainable(true);
                                             return model;
                                           }};
  for (const auto& make : models) {
    Model model = make();
    const auto before = snapshot(model);
    const auto out = model.base().run();
    EXPECT_TRUE(throws<FormatError>(
        [&] { load_adapter(model, folder.path / "bad", "x"); },
        {"adapter_model.safetensors: does not hold adapter \"x\" of this model:",
         "\n  base_model.model.block.0.v.lora_A.weight: shape is [2, 5], expected [2, 6]",
         "\n  unexpected: base_model.model.block.0.c.lora_A.weight",
         "\n  unexpected: base_model.model.block.0.c.lora_B.weight",
         "\n  base_model.model.block.0.q.weight: is a base weight",
         "\n  base_model.model.embed.base_layer.weight: is a base weight"}));
    EXPECT_EQ(snapshot(model), before);
    EXPECT_TRUE(same_bits(model.base().run(), out));
  }
}

TEST(Pretrained, EachOneFaultIsEnough) {
  const TemporaryFolder folder;
  LoRAConfig config = config_for({"q"}, 2);
  config.bias = "lora_only";
  config.modules_to_save = {"head"};
  saved(folder.path, config);
  const PeftAdapter good = PeftAdapter::open(folder.path);
  const std::string p = "base_model.model.";
  struct Fault {
    std::string left_out, added;
    const char* message;
  };
  for (const Fault& fault :
       {Fault{"head.weight", "", "\n  missing: base_model.model.head.weight"},
        {"block.0.q.base_layer.bias", "",
         "\n  missing: base_model.model.block.0.q.base_layer.bias"},
        {"head.bias", "", "\n  missing: base_model.model.head.bias"},
        {"", "block.0.q.lora_E", "\n  unexpected: base_model.model.block.0.q.lora_E"},
        {"", "conv.bias", "\n  unexpected: base_model.model.conv.bias"}}) {
    SafetensorsWriter writer;
    for (const std::string& name : good.tensors().names()) {
      if (name == p + fault.left_out) continue;
      writer.add(name, good.tensors().info(name).dtype, good.tensors().info(name).shape,
                 good.tensors().bytes(name));
    }
    if (!fault.added.empty())
      writer.add(p + fault.added, random_matrix<float>(1, 3, "x"), DType::F32, {3});
    write_peft_adapter(folder.path / "bad", good.fields(), writer);
    Model model(Small{});
    const auto before = snapshot(model);
    EXPECT_TRUE(
        throws<FormatError>([&] { load_adapter(model, folder.path / "bad"); }, {fault.message}));
    EXPECT_EQ(snapshot(model), before);
  }
  // The same name twice, with and without the prefix.
  SafetensorsWriter writer;
  for (const std::string& name : good.tensors().names())
    writer.add(name, good.tensors().info(name).dtype, good.tensors().info(name).shape,
               good.tensors().bytes(name));
  writer.add("head.bias", random_matrix<float>(1, 5, "x"), DType::F32, {5});
  write_peft_adapter(folder.path / "bad", good.fields(), writer);
  EXPECT_TRUE(throws<FormatError>([&] { from_pretrained(Small{}, folder.path / "bad"); },
                                  {"head.bias: means the same tensor as "}));
}

TEST(Pretrained, OtherErrors) {
  const TemporaryFolder folder;
  saved(folder.path, config_for({"q"}));
  Model model(Small{}, config_for({"v"}));
  const auto before = snapshot(model);
  EXPECT_TRUE(throws<ConfigError>([&] { load_adapter(model, folder.path); },
                                  {"adapter \"default\" already exists"}));
  EXPECT_TRUE(
      throws<ConfigError>([&] { load_adapter(model, folder.path, "a.b"); }, {"a.b", "dot"}));
  EXPECT_TRUE(
      throws<IoError>([&] { load_adapter(model, folder.path / "no", "x"); }, {"no: cannot"}));
  Json fields = PeftAdapter::open(folder.path).fields();
  fields["target_modules"] = {"nowhere"};
  atomic_write(folder.path / peft_config_file, peft_config_text(fields));
  EXPECT_TRUE(
      throws<ConfigError>([&] { load_adapter(model, folder.path, "x"); }, {"matches none of"}));
  EXPECT_EQ(snapshot(model), before);
}

TEST(Pretrained, ValuesThatTheTypeCannotHoldAreRefused) {
  const TemporaryFolder folder;
  Model model(Small{}, config_for({"q"}, 2));
  fill_all(model);
  model.base().q.adapters().get("default").A.value(1, 2) = 70000;
  SavePretrainedOptions half;
  half.dtype = DType::F16;
  EXPECT_TRUE(throws<ConfigError>([&] { save_pretrained(model, folder.path / "half", half); },
                                  {"saving base_model.model.block.0.q.lora_A.weight as F16",
                                   "element 8 is 70000, which would become an infinity"}));
  EXPECT_FALSE(fs::exists(folder.path / "half"));
  model.base().q.adapters().get("default").A.value(1, 2) = 65519;
  EXPECT_NO_THROW(save_pretrained(model, folder.path / "half", half));
}

TEST(Pretrained, ARankThatTheFileHasNotIsRefusedBeforeItIsAllocated) {
  const TemporaryFolder folder;
  saved(folder.path, config_for({"q"}, 2));
  const PeftAdapter good = PeftAdapter::open(folder.path);
  SafetensorsWriter tensors;
  for (const std::string& name : good.tensors().names())
    tensors.add(name, good.tensors().info(name).dtype, good.tensors().info(name).shape,
                good.tensors().bytes(name));
  Json fields = good.fields();
  fields["r"] = 1 << 20;
  fields["rank_pattern"] = {{"q", 2}};
  fields["target_modules"] = {"q", "v", "head"};
  write_peft_adapter(folder.path / "huge", fields, tensors);
  Model model(Small{});
  EXPECT_TRUE(throws<FormatError>([&] { load_adapter(model, folder.path / "huge", "x"); },
                                  {"does not hold adapter \"x\" of this model:",
                                   "missing: A and B of block.0.v", "missing: A and B of head"}));
  EXPECT_TRUE(model.adapter_names().empty());
}

TEST(Pretrained, FieldsOfAnAdapterThatIsNotThereAreRefused) {
  const TemporaryFolder folder;
  Model model(Small{}, config_for({"q"}, 2));
  SavePretrainedOptions options;
  options.fields["defualt"] = Json::object();
  EXPECT_TRUE(
      throws<ConfigError>([&] { save_pretrained(model, folder.path, options); },
                          {"fields for \"defualt\", which is not an adapter of the model"}));
}

TEST(Pretrained, AFullDiskLeavesTheOldAdapter) {
  const TemporaryFolder folder;
  saved(folder.path, config_for({"q"}, 2));
  const std::string weights = bytes_of(folder.path / peft_weights_file),
                    config = bytes_of(folder.path / peft_config_file);
  FileCalls full = posix_calls();
  full.write = [](int, const void*, std::size_t) -> ssize_t {
    errno = ENOSPC;
    return -1;
  };
  SavePretrainedOptions options;
  const WithFileCalls in_force(full);
  EXPECT_TRUE(throws<IoError>(
      [&] {
        saved(folder.path, config_for({"q", "v"}, 3), options);
      },
      {"No space left on device"}));
  EXPECT_EQ(bytes_of(folder.path / peft_weights_file), weights);
  EXPECT_EQ(bytes_of(folder.path / peft_config_file), config);
  EXPECT_EQ(files(folder.path), (Names{"README.md", peft_config_file, peft_weights_file}));
}

FileCalls failing;  // the calls of the system, of which some fail for one file
std::string failing_file;
const FileCalls& failing_rename_to(const char* file) {
  failing_file = file;
  failing = posix_calls();
  failing.rename = [](const char* from, const char* to) {
    if (fs::path(to).filename() != failing_file) return std::rename(from, to);
    errno = EPERM;
    return -1;
  };
  return failing;
}

TEST(Pretrained, AModelCardThatFailsLeavesTheOldAdapter) {
  const TemporaryFolder folder;
  SavePretrainedOptions options;
  options.model_card = Write::no;
  saved(folder.path, config_for({"q"}, 2), options);
  const std::string weights = bytes_of(folder.path / peft_weights_file),
                    config = bytes_of(folder.path / peft_config_file);
  options.model_card = Write::yes;
  const WithFileCalls in_force(failing_rename_to("README.md"));
  EXPECT_TRUE(throws<IoError>(
      [&] {
        saved(folder.path, config_for({"q", "v"}, 3), options);
      },
      {"README.md: cannot put the new file in place"}));
  EXPECT_EQ(bytes_of(folder.path / peft_weights_file), weights);
  EXPECT_EQ(bytes_of(folder.path / peft_config_file), config);
  EXPECT_EQ(files(folder.path), (Names{peft_config_file, peft_weights_file}));
}

TEST(Pretrained, AnAdapterThatFailsLeavesNoModelCard) {
  const TemporaryFolder folder;
  SavePretrainedOptions options;
  const auto save = [&] {
    const WithFileCalls in_force(failing_rename_to(peft_weights_file));
    saved(folder.path, config_for({"q"}, 2), options);
  };
  EXPECT_TRUE(throws<IoError>(save, {"adapter_model.safetensors: cannot put the new file"}));
  EXPECT_EQ(files(folder.path), Names{});
  atomic_write(folder.path / "README.md", "mine");
  EXPECT_TRUE(throws<IoError>(save, {"adapter_model.safetensors: cannot put the new file"}));
  EXPECT_EQ(bytes_of(folder.path / "README.md"), "mine");
  EXPECT_EQ(files(folder.path), Names{"README.md"});
}

TEST(Pretrained, NumbersTooLargeForTheModelAreRefused) {
  const TemporaryFolder folder;
  LoRAModel<SmallModel<double>> wide(SmallModel<double>{}, config_for({"q"}, 2));
  wide.base().q.adapters().get("default").B.value(2, 1) = -1e300;
  save_pretrained(wide, folder.path);
  Model model(Small{}), there(Small{}, config_for({"q"}, 2));
  const auto before = snapshot(model), before_there = snapshot(there);
  const char* const part =
      "\n  base_model.model.block.0.q.lora_B.weight: element 5 is -1e+300, too large for F32";
  EXPECT_TRUE(throws<FormatError>([&] { load_adapter(model, folder.path); }, {part}));
  EXPECT_TRUE(throws<FormatError>(
      [&] { load_adapter_file(there, folder.path / peft_weights_file); }, {part}));
  EXPECT_EQ(snapshot(model), before);
  EXPECT_EQ(snapshot(there), before_there);
  EXPECT_NO_THROW(from_pretrained(SmallModel<double>{}, folder.path));
  wide.base().q.adapters().get("default").B.value(2, 1) = -HUGE_VAL;  // was no number before
  save_pretrained(wide, folder.path);
  EXPECT_NO_THROW(from_pretrained(Small{}, folder.path));
}

}  // namespace pretrained_test
