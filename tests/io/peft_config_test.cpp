// adapter_config.json: PEFT's own files byte for byte, every field both ways, and what is refused.
#include <lora/io/atomic_file.hpp>
#include <lora/io/peft/peft_config.hpp>

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "layers/layer_tools.hpp"
#include "support/golden_sets.hpp"

namespace peft_config_test {
using namespace lora;
using namespace lora_test;
using Names = std::vector<std::string>;

PeftConfig parse(const std::string& text) { return parse_peft_config(text, "dir/file.json"); }
/// A configuration of the given fields and peft_type.
PeftConfig with(const std::string& fields) {
  return parse(R"({"peft_type": "LORA", )" + fields + "}");
}

TEST(PeftConfig, GoldenFilesAreWrittenByteForByte) {
  for_each_golden_model([](const GoldenModel& golden) {
    const auto path = golden.adapter / "adapter_config.json";
    const PeftConfig read = read_peft_config(path);
    const auto bytes = read_file(path, 1 << 20);
    EXPECT_EQ(read.unknown_fields, Names{});
    EXPECT_EQ(peft_config_text(peft_config_fields(read.config, read.fields)), as_text(bytes));
    // The config alone, without the fields that were read, says everything.
    EXPECT_EQ(peft_config_text(peft_config_fields(read.config)), as_text(bytes));
  });
}

TEST(PeftConfig, TheListOfFieldsIsLoRAConfigs) {
  std::vector<std::string_view> listed, declared;
  LoRAConfig config;
  detail::visit_peft_fields(config, [&](const char* name, auto&&) { listed.push_back(name); });
  for (const ConfigField& field : lora_config_fields()) declared.push_back(field.name);
  EXPECT_EQ(listed, declared);
}

TEST(PeftConfig, AFreshConfigHasPeftsDefaultsInOrder) {
  LoRAConfig config;
  config.target_modules = {"v_proj", "q_proj"};
  const Json fields = peft_config_fields(config);
  Names names;
  for (const auto& [name, value] : fields.items()) names.push_back(name);
  EXPECT_EQ(names.size(), lora_config_fields().size() - 1);
  EXPECT_TRUE(std::is_sorted(names.begin(), names.end()));
  EXPECT_FALSE(fields.contains("runtime_config"));
  for (const ConfigField& field : lora_config_fields()) {
    const std::string name(field.name);
    if (name == "runtime_config" || name == "target_modules") continue;
    SCOPED_TRACE(name);
    const std::string expected = name == "inference_mode" ? "true"
                                 : name == "peft_version"
                                     ? "\"" + std::string(peft_fields_version) + "\""
                                     : std::string(field.standard);
    EXPECT_EQ(python_json(fields.at(name), name), expected);
  }
  EXPECT_EQ(fields.at("target_modules").dump(), R"(["v_proj","q_proj"])");
}

/// Every field with a value that is not its default, as PEFT would write it.
const char* const other_values = R"({
  "alora_invocation_tokens": null,
  "alpha_pattern": {
    "q_proj": 7,
    "v_proj": 22.627416997969522
  },
  "arrow_config": null,
  "auto_mapping": {
    "base_model_class": "Net",
    "parent_library": "__main__"
  },
  "base_model_name_or_path": "some/\u6a21\u578b",
  "bias": "lora_only",
  "corda_config": null,
  "ensure_weight_tying": false,
  "eva_config": null,
  "exclude_modules": "lm_head",
  "fan_in_fan_out": true,
  "inference_mode": true,
  "init_lora_weights": "gaussian",
  "kasa_config": null,
  "layer_replication": null,
  "layers_pattern": [
    "layers",
    "h"
  ],
  "layers_to_transform": [
    0,
    2
  ],
  "loftq_config": {},
  "lora_alpha": 1.5,
  "lora_bias": false,
  "lora_dropout": 0.05,
  "lora_ga_config": null,
  "megatron_config": null,
  "megatron_core": null,
  "modules_to_save": [
    "lm_head"
  ],
  "monteclora_config": null,
  "peft_type": "LORA",
  "peft_version": "0.20.1.dev0@UNKNOWN",
  "qalora_group_size": 32,
  "r": 3,
  "rank_pattern": {
    "z": 2,
    "a": 5
  },
  "revision": "main",
  "target_modules": [
    "q_proj"
  ],
  "target_parameters": null,
  "task_type": "CAUSAL_LM",
  "trainable_token_indices": null,
  "use_bdlora": null,
  "use_dora": false,
  "use_qalora": false,
  "use_rslora": true,
  "velora_config": null
})";

TEST(PeftConfig, EveryFieldIsReadAndWritten) {
  const PeftConfig read = parse(other_values);
  const LoRAConfig& c = read.config;
  EXPECT_EQ(c.peft_type, "LORA");
  EXPECT_EQ(c.task_type, "CAUSAL_LM");
  EXPECT_EQ(c.base_model_name_or_path, "some/模型");
  EXPECT_EQ(c.revision, "main");
  EXPECT_TRUE(c.inference_mode);
  EXPECT_EQ(c.auto_mapping, R"({"base_model_class":"Net","parent_library":"__main__"})");
  EXPECT_EQ(c.peft_version, "0.20.1.dev0@UNKNOWN");
  EXPECT_EQ(c.r, 3);
  EXPECT_EQ(c.target_modules, NameSelection(Names{"q_proj"}));
  EXPECT_EQ(c.exclude_modules, NameSelection("lm_head"));
  EXPECT_EQ(c.lora_alpha, 1.5);
  EXPECT_EQ(c.lora_dropout, 0.05);
  EXPECT_TRUE(c.fan_in_fan_out);
  EXPECT_EQ(c.bias, "lora_only");
  EXPECT_TRUE(c.use_rslora);
  EXPECT_EQ(c.modules_to_save, Names{"lm_head"});
  EXPECT_EQ(c.init_lora_weights, InitSelection("gaussian"));
  EXPECT_EQ(c.layers_to_transform, LayerSelection({0, 2}));
  EXPECT_EQ(c.layers_pattern, NameSelection(Names{"layers", "h"}));
  EXPECT_EQ(c.rank_pattern, (std::vector<std::pair<std::string, Index>>{{"z", 2}, {"a", 5}}))
      << "in the file's order: the first key that matches wins";
  EXPECT_EQ(c.alpha_pattern, (std::vector<std::pair<std::string, double>>{
                                 {"q_proj", 7}, {"v_proj", 22.627416997969522}}));
  EXPECT_EQ(c.megatron_core, std::nullopt);
  EXPECT_EQ(c.qalora_group_size, 32);
  EXPECT_FALSE(c.lora_bias);
  EXPECT_EQ(peft_config_text(peft_config_fields(c)), other_values);
  EXPECT_EQ(peft_config_text(peft_config_fields(c, read.fields)), other_values);
  const LoRAConfig bias = with(R"("lora_bias": true, "target_modules": ["a"])").config;
  EXPECT_TRUE(bias.lora_bias);
  EXPECT_EQ(peft_config_fields(bias).at("lora_bias"), Json(true));
}

TEST(PeftConfig, MissingFieldsHaveTheirDefaults) {
  const PeftConfig read = parse(R"({"peft_type": "LORA"})");
  EXPECT_EQ(peft_config_fields(read.config), peft_config_fields(LoRAConfig()));
  EXPECT_EQ(read.unknown_fields, Names{});
}

TEST(PeftConfig, FieldsOfSeveralTypes) {
  EXPECT_EQ(with(R"("init_lora_weights": false)").config.init_lora_weights, InitSelection(false));
  EXPECT_EQ(with(R"("init_lora_weights": "orthogonal")").config.init_lora_weights,
            InitSelection("orthogonal"));
  EXPECT_EQ(with(R"("target_modules": "a.*b")").config.target_modules, NameSelection("a.*b"));
  EXPECT_TRUE(with(R"("target_modules": null)").config.target_modules.is_null());
  EXPECT_EQ(with(R"("layers_to_transform": 3)").config.layers_to_transform, LayerSelection(3));
  EXPECT_EQ(with(R"("layers_to_transform": [])").config.layers_to_transform,
            LayerSelection(std::vector<Index>{}));
  EXPECT_TRUE(with(R"("layers_to_transform": null)").config.layers_to_transform.is_null());
  EXPECT_EQ(with(R"("layers_pattern": "h", "layers_to_transform": 1)").config.layers_pattern,
            NameSelection("h"));
  EXPECT_EQ(with(R"("lora_alpha": 16)").config.lora_alpha, 16);
  EXPECT_EQ(with(R"("lora_alpha": 16.0)").config.lora_alpha, 16);
  EXPECT_EQ(with(R"("lora_dropout": 0)").config.lora_dropout, 0);
  EXPECT_EQ(with(R"("r": 4.0, "rank_pattern": {"a": 2.0})").config.rank_pattern.at(0).second, 2);
  EXPECT_EQ(with(R"("rank_pattern": null, "alpha_pattern": null, "loftq_config": null)").config.r,
            8);
  EXPECT_EQ(with(R"("target_parameters": [], "runtime_config": null)").config.r, 8);
  const PeftConfig runtime = with(R"("runtime_config": {"ephemeral_gpu_offload": true})");
  EXPECT_FALSE(runtime.config.runtime_config.has_value()) << "of the process that wrote the file";
  EXPECT_EQ(runtime.unknown_fields, std::vector<std::string>{"runtime_config"});
  const auto spelling = [](const char* fields, const char* name) {
    return peft_config_fields(with(fields).config).at(name).dump();
  };
  EXPECT_EQ(spelling(R"("layers_to_transform": 3)", "layers_to_transform"), "3");
  EXPECT_EQ(spelling(R"("layers_to_transform": [3])", "layers_to_transform"), "[3]");
  EXPECT_EQ(spelling(R"("layers_to_transform": [])", "layers_to_transform"), "[]");
  EXPECT_EQ(spelling(R"("lora_alpha": 16.0)", "lora_alpha"), "16");
  EXPECT_EQ(spelling(R"("lora_alpha": 16.5)", "lora_alpha"), "16.5");
  EXPECT_EQ(spelling(R"("lora_dropout": 0)", "lora_dropout"), "0.0");
  EXPECT_EQ(spelling(R"("alpha_pattern": {"a": 2.0})", "alpha_pattern"), R"({"a":2})");
  EXPECT_EQ(spelling(R"("modules_to_save": [])", "modules_to_save"), "[]");
  EXPECT_EQ(spelling(R"("loftq_config": null)", "loftq_config"), "{}");
}

// ---- what was read is written ----

TEST(PeftConfig, AnOlderOrNewerFileKeepsItsFieldsAndSpelling) {
  // Few fields, two that no LoRAConfig has, a float where PEFT has an integer.
  const std::string text =
      "{\n  \"base_model_name_or_path\": \"x\",\n  \"enable_lora\": null,\n  \"inference_mode\": "
      "true,\n  \"lora_alpha\": 16.0,\n  \"peft_type\": \"LORA\",\n  \"r\": 8,\n"
      "  \"target_modules\": [\n    \"q\"\n  ],\n  \"zeta_config\": {\n    \"b\": [],\n    \"a\": "
      "1e-05\n  }\n}";
  const PeftConfig read = parse(text);
  EXPECT_EQ(read.unknown_fields, (Names{"enable_lora", "zeta_config"}));
  EXPECT_EQ(peft_config_text(read.fields), text);
  EXPECT_EQ(peft_config_text(peft_config_fields(read.config, read.fields)), text);
}

TEST(PeftConfig, WhatWasChangedIsWrittenChanged) {
  PeftConfig read = with(R"("r": 8, "lora_alpha": 16.0, "future": [1], "target_modules": ["q"])");
  read.config.lora_alpha = 12;
  read.config.use_rslora = true;
  const Json fields = peft_config_fields(read.config, read.fields);
  EXPECT_EQ(fields.dump(),
            R"({"future":[1],"inference_mode":true,"lora_alpha":12,"peft_type":"LORA","r":8,)"
            R"("target_modules":["q"],"use_rslora":true})");
}

TEST(PeftConfig, InferenceModeIsTrueAndRuntimeConfigIsNotWritten) {
  const PeftConfig read =
      with(R"("inference_mode": false, "runtime_config": {"ephemeral_gpu_offload": false})");
  EXPECT_FALSE(read.config.inference_mode);
  EXPECT_EQ(read.unknown_fields, Names{});
  for (const Json& fields :
       {peft_config_fields(read.config, read.fields), peft_config_fields(read.config)}) {
    EXPECT_EQ(fields.at("inference_mode"), Json(true));
    EXPECT_FALSE(fields.contains("runtime_config"));
  }
}

// ---- refusals ----

TEST(PeftConfig, EachFieldRefusesAnotherType) {
  struct Row {
    const char *fields, *message;
  };
  const Row rows[] = {
      {R"("r": "8")", R"(r is "8", expected an integer)"},
      {R"("r": 8.5)", "r is 8.5, expected an integer"},
      {R"("r": 1e300)", "r is 1e+300, expected an integer"},
      {R"("r": 99999999999999999999)", "r is 1e+20, expected an integer"},
      {R"("r": true)", "r is true, expected an integer"},
      {R"("r": null)", "r is null, expected an integer"},
      {R"("lora_alpha": "16")", R"(lora_alpha is "16", expected a number)"},
      {R"("lora_dropout": null)", "lora_dropout is null, expected a number"},
      {R"("bias": null)", "bias is null, expected a string"},
      {R"("use_rslora": 1)", "use_rslora is 1, expected true or false"},
      {R"("inference_mode": "true")", R"(inference_mode is "true", expected true or false)"},
      {R"("task_type": 3)", "task_type is 3, expected a string or null"},
      {R"("target_modules": 3)",
       "target_modules is 3, expected a list of strings, a string or null"},
      {R"("target_modules": ["a", 3])", R"(target_modules is ["a",3], expected a list of strings)"},
      {R"("exclude_modules": {})",
       "exclude_modules is {}, expected a list of strings, a string or"},
      {R"("modules_to_save": "head")",
       R"(modules_to_save is "head", expected a list of strings or)"},
      {R"("target_parameters": [null])", "target_parameters is [null], expected a list of strings"},
      {R"("init_lora_weights": null)",
       "init_lora_weights is null, expected true, false or a string"},
      {R"("layers_to_transform": "1")", "expected an integer, a list of integers or null"},
      {R"("layers_to_transform": [1, 0.5])", "layers_to_transform is [1,0.5], expected an integer"},
      {R"("rank_pattern": [])", "rank_pattern is [], expected an object of integers"},
      {R"("rank_pattern": {"a": "2"})",
       R"(rank_pattern is {"a":"2"}, expected an object of integ)"},
      {R"("alpha_pattern": {"a": []})", "expected an object of numbers"},
      {R"("qalora_group_size": [])", "qalora_group_size is [], expected an integer"},
      {R"("peft_version": 0.2)", "peft_version is 0.2, expected a string or null"}};
  for (const Row& row : rows) {
    EXPECT_TRUE(throws<FormatError>([&] { with(row.fields); }, {"dir/file.json: ", row.message}));
  }
  const std::string many = R"("target_modules": [)" + std::string(100, '1') + R"(])";
  EXPECT_TRUE(throws<FormatError>([&] { with(many); }, {"expected a list of strings"}));
}

TEST(PeftConfig, UnsupportedAndInvalidValuesAreRefusedWithFileFieldAndValue) {
  struct Row {
    const char *fields, *message;
  };
  const Row rows[] = {
      {R"("use_qalora": true)", "LoRAConfig: use_qalora = true is not supported"},
      {R"("use_dora": true, "lora_bias": true)",
       "LoRAConfig: lora_bias = true with use_dora = true is not valid"},
      {R"("eva_config": {"rho": 2.0})", R"(eva_config = {"rho":2.0} is not supported)"},
      {R"("loftq_config": {"loftq_bits": 4})",
       R"(loftq_config = {"loftq_bits":4} is not supported)"},
      {R"("layer_replication": [[0, 4]])", "layer_replication = [[0,4]] is not supported"},
      {R"("trainable_token_indices": [1])", "trainable_token_indices = [1] is not supported"},
      {R"("trainable_token_indices": {"e": [1]})", "trainable_token_indices = {"},
      {R"("init_lora_weights": "pissa")", R"(init_lora_weights = "pissa" is not supported)"},
      {R"("target_parameters": ["experts"])", "target_parameters = [\"experts\""},
      {R"("r": 0)", "r = 0 is not valid"},
      {R"("bias": "some")", R"(bias = "some" is not valid)"}};
  for (const Row& row : rows) {
    EXPECT_TRUE(throws<ConfigError>([&] { with(row.fields); },
                                    {"dir/file.json: LoRAConfig: ", row.message}));
  }
  EXPECT_TRUE(throws<ConfigError>([] { parse(R"({"peft_type": "LOHA"})"); },
                                  {R"(peft_type = "LOHA" is not supported)"}));
}

TEST(PeftConfig, TextsThatAreNoConfiguration) {
  EXPECT_TRUE(throws<FormatError>([] { parse(""); }, {"dir/file.json: is empty"}));
  EXPECT_TRUE(
      throws<FormatError>([] { parse("[]"); }, {"dir/file.json: is array, expected an object"}));
  EXPECT_TRUE(
      throws<FormatError>([] { parse("{}"); }, {"peft_type is missing, expected \"LORA\""}));
  EXPECT_TRUE(
      throws<FormatError>([] { parse("{'r': 8}"); }, {"dir/file.json: not valid JSON: byte 1"}));
  EXPECT_TRUE(throws<FormatError>([] { parse(R"({"peft_type": "LORA", "lora_alpha": NaN})"); },
                                  {"not valid JSON"}));
  EXPECT_TRUE(throws<FormatError>([] { parse(R"({"peft_type": "LORA", "r": 8, "r": 9})"); },
                                  {"key \"r\" appears twice"}));
  EXPECT_TRUE(throws<FormatError>(
      [] { parse("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"); },
      {"dir/file.json: is a Git LFS pointer", "git lfs pull"}));
  EXPECT_TRUE(throws<FormatError>([] { parse(std::string(100, '[')); }, {"nested deeper than 32"}));
  std::string many = R"({"peft_type": "LORA", "x": [0)";
  for (int i = 0; i < 200'000; ++i) many += ",0";
  EXPECT_TRUE(throws<FormatError>([&] { parse(many + "]}"); }, {"more than 200000 values"}));
}

TEST(PeftConfig, Files) {
  const TemporaryFolder folder;
  const auto path = folder.path / "adapter_config.json";
  EXPECT_TRUE(throws<IoError>([&] { read_peft_config(path); }, {"adapter_config.json", "open"}));
  atomic_write(path, std::string(peft_config_max_bytes + 1, ' '));
  EXPECT_TRUE(
      throws<FormatError>([&] { read_peft_config(path); }, {"more than the limit of 4194304"}));
  atomic_write(path, peft_config_text(peft_config_fields(LoRAConfig())));
  EXPECT_EQ(read_peft_config(path).config.r, 8);
}

TEST(PeftConfig, AFieldWhoseTextIsNoJsonIsNotWritten) {
  LoRAConfig config;
  config.auto_mapping = "{base";
  EXPECT_TRUE(throws<ConfigError>([&] { peft_config_fields(config); },
                                  {"LoRAConfig: auto_mapping: not valid JSON"}));
  config.auto_mapping = std::nullopt;
  config.base_model_name_or_path = "\xff";
  EXPECT_TRUE(throws<ConfigError>([&] { peft_config_text(peft_config_fields(config)); },
                                  {"adapter_config.json: holds text that is not valid UTF-8"}));
}

}  // namespace peft_config_test
