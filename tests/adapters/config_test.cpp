#include <lora/adapters/config.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <set>
#include <string>

namespace config_test {

using lora::ConfigError;
using lora::FieldSupport;
using lora::Index;
using lora::LoRAConfig;

std::string refusal(const std::function<void(LoRAConfig&)>& change) {
  LoRAConfig config;
  change(config);
  try {
    config.validate();
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "accepted";
}

#define CHANGE(...) [](LoRAConfig& c) { __VA_ARGS__; }

void expect_refused(const std::function<void(LoRAConfig&)>& change, const std::string& part) {
  const std::string said = refusal(change);
  EXPECT_EQ(said.rfind("LoRAConfig: " + part, 0), 0u) << said;
}

TEST(LoRAConfig, DefaultsArePefts) {
  const LoRAConfig c;
  EXPECT_EQ(c.peft_type, "LORA");
  EXPECT_FALSE(c.task_type || c.base_model_name_or_path || c.revision || c.auto_mapping ||
               c.peft_version);
  EXPECT_FALSE(c.inference_mode);
  EXPECT_EQ(c.r, 8);
  EXPECT_EQ(c.lora_alpha, 8);
  EXPECT_EQ(c.lora_dropout, 0);
  EXPECT_TRUE(c.target_modules.is_null() && c.exclude_modules.is_null() &&
              c.layers_pattern.is_null());
  EXPECT_TRUE(c.layers_to_transform.indices().empty());
  EXPECT_EQ(c.bias, "none");
  EXPECT_FALSE(c.fan_in_fan_out || c.use_rslora || c.lora_bias || c.use_dora || c.use_qalora ||
               c.ensure_weight_tying);
  EXPECT_FALSE(c.modules_to_save || c.target_parameters || c.loftq_config || c.layer_replication);
  EXPECT_EQ(c.init_lora_weights, lora::InitSelection(true));
  EXPECT_TRUE(c.rank_pattern.empty() && c.alpha_pattern.empty());
  EXPECT_EQ(c.megatron_core, "megatron.core");
  EXPECT_EQ(c.qalora_group_size, 16);
  EXPECT_NO_THROW(c.validate());
}

TEST(LoRAConfig, ListsEachFieldOnce) {
  std::set<std::string_view> names;
  for (const lora::ConfigField& field : lora::lora_config_fields())
    EXPECT_TRUE(names.insert(field.name).second) << field.name;
  EXPECT_EQ(names.size(), 42u);  // 7 of PeftConfig and 35 of LoraConfig
}

// Every field that the list calls refused has a row here, and no other.
TEST(LoRAConfig, RefusesEachUnsupportedFieldByNameAndValue) {
  const std::map<std::string_view, std::pair<std::function<void(LoRAConfig&)>, std::string>> away =
      {
          {"megatron_config",
           {[](LoRAConfig& c) { c.megatron_config = "{\"a\": 1}"; }, "{\"a\": 1}"}},
          {"trainable_token_indices",
           {[](LoRAConfig& c) { c.trainable_token_indices = "[3, 4]"; }, "[3, 4]"}},
          {"loftq_config",
           {[](LoRAConfig& c) { c.loftq_config = "{\"loftq_bits\": 4}"; }, "{\"loftq_bits\": 4}"}},
          {"eva_config",
           {[](LoRAConfig& c) { c.eva_config = "{\"rho\": 2.0}"; }, "{\"rho\": 2.0}"}},
          {"corda_config", {[](LoRAConfig& c) { c.corda_config = "{}"; }, "{}"}},
          {"lora_ga_config",
           {[](LoRAConfig& c) { c.lora_ga_config = "{\"scale\": \"unit\"}"; },
            "{\"scale\": \"unit\"}"}},
          {"velora_config", {[](LoRAConfig& c) { c.velora_config = "{}"; }, "{}"}},
          {"kasa_config",
           {[](LoRAConfig& c) { c.kasa_config = "{\"beta\": 1}"; }, "{\"beta\": 1}"}},
          {"monteclora_config", {[](LoRAConfig& c) { c.monteclora_config = "{}"; }, "{}"}},
          {"alora_invocation_tokens",
           {[](LoRAConfig& c) { c.alora_invocation_tokens = "[1]"; }, "[1]"}},
          {"arrow_config",
           {[](LoRAConfig& c) { c.arrow_config = "{\"top_k\": 3}"; }, "{\"top_k\": 3}"}},
          {"use_bdlora",
           {[](LoRAConfig& c) { c.use_bdlora = "{\"nblocks\": 2}"; }, "{\"nblocks\": 2}"}},
          {"use_qalora", {[](LoRAConfig& c) { c.use_qalora = true; }, "true"}},
          {"layer_replication",
           {[](LoRAConfig& c) { c.layer_replication = "[[0, 4]]"; }, "[[0, 4]]"}},
          {"runtime_config",
           {[](LoRAConfig& c) { c.runtime_config = "{\"ephemeral_gpu_offload\": true}"; },
            "offload\": true}"}},
          {"target_parameters",
           {[](LoRAConfig& c) { c.target_parameters = {"experts.w"}; }, "[\"experts.w\", ...]"}},
          {"ensure_weight_tying", {[](LoRAConfig& c) { c.ensure_weight_tying = true; }, "true"}},
      };
  std::size_t refused = 0;
  for (const lora::ConfigField& field : lora::lora_config_fields()) {
    if (field.support != FieldSupport::refused) {
      EXPECT_EQ(away.count(field.name), 0u) << field.name;
      continue;
    }
    ++refused;
    const auto row = away.find(field.name);
    ASSERT_NE(row, away.end()) << field.name;
    const std::string said = refusal(row->second.first);
    EXPECT_EQ(said.rfind("LoRAConfig: " + std::string(field.name) + " = ", 0), 0u) << said;
    EXPECT_NE(said.find(row->second.second + " is not supported; leave it at its default, "),
              said.npos)
        << said;
  }
  EXPECT_EQ(refused, away.size());
}

TEST(LoRAConfig, TakesDefaultsWrittenOutAndInertFields) {
  EXPECT_EQ(refusal(CHANGE(c.loftq_config = "{ }"; c.eva_config = "null";
                           c.runtime_config = "{\"ephemeral_gpu_offload\": false}")),
            "accepted");
  EXPECT_EQ(refusal(CHANGE(c.target_parameters = std::vector<std::string>{})), "accepted");
  EXPECT_EQ(refusal(CHANGE(c.megatron_core = std::nullopt; c.qalora_group_size = 32;
                           c.inference_mode = true)),
            "accepted");
  EXPECT_EQ(refusal(CHANGE(c.auto_mapping = "{}"; c.peft_version = "0.18.0";
                           c.base_model_name_or_path = "x"; c.revision = "main")),
            "accepted");
}

TEST(LoRAConfig, ShortensLongValuesInMessages) {
  const std::string said = refusal([](LoRAConfig& c) { c.eva_config = std::string(100000, 'x'); });
  EXPECT_LT(said.size(), 250u);
}

TEST(LoRAConfig, ShowsNoControlCharacters) {
  expect_refused(CHANGE(c.bias = "a\x1b[2J"), "bias = \"a\\x1b[2J\" is not valid");
  expect_refused(CHANGE(c.eva_config = "{\"a\":\r1}"), "eva_config = {\"a\":\\x0d1} is not");
  expect_refused(CHANGE(c.target_parameters = {"a\nb"}), "target_parameters = [\"a\\x0ab\", ...]");
}

TEST(LoRAConfig, ChecksRanges) {
  expect_refused(CHANGE(c.r = 0), "r = 0 is not valid; expected a rank from 1");
  expect_refused(CHANGE(c.r = -3), "r = -3 is not valid");
  expect_refused(CHANGE(c.r = (1 << 20) + 1), "r = 1048577 is not valid");
  expect_refused(CHANGE(c.lora_alpha = std::nan("")),
                 "lora_alpha = nan is not valid; expected a number that is finite");
  expect_refused(CHANGE(c.lora_alpha = std::numeric_limits<double>::infinity()),
                 "lora_alpha = inf is not valid");
  expect_refused(CHANGE(c.lora_alpha = 1e308),
                 "lora_alpha = 1e+308 is not valid; expected a number that is finite in float32");
  expect_refused(CHANGE((c.alpha_pattern = {{"q_proj", -1e39}})),
                 "alpha_pattern[\"q_proj\"] = -1e+39 is not valid");
  expect_refused(CHANGE(c.lora_dropout = 1),
                 "lora_dropout = 1 is not valid; expected a probability in [0, 1)");
  expect_refused(CHANGE(c.lora_dropout = -0.5), "lora_dropout = -0.5 is not valid");
  expect_refused(CHANGE(c.lora_dropout = std::nan("")), "lora_dropout = nan is not valid");
  expect_refused(CHANGE(c.lora_dropout = -1e-7), "lora_dropout = -1e-07 is not valid");
  EXPECT_EQ(refusal(CHANGE(c.lora_dropout = 0.999; c.lora_alpha = -2.5; c.r = 1)), "accepted");
  expect_refused(CHANGE(c.rank_pattern = {{"q", 4}, {"v", 0}}),
                 "rank_pattern[\"v\"] = 0 is not valid; expected a rank");
  expect_refused(CHANGE(c.rank_pattern = {{"q", 4}, {"q", 5}}),
                 "rank_pattern = \"q\" twice is not valid; expected each key once");
  expect_refused(CHANGE(c.rank_pattern = {{"", 4}}), "rank_pattern = an empty key is not valid");
  expect_refused(CHANGE(c.alpha_pattern = {{"q", std::nan("")}}),
                 "alpha_pattern[\"q\"] = nan is not valid");
  expect_refused(CHANGE(c.alpha_pattern = {{"q", 1}, {"v", 1}, {"q", 2}}),
                 "alpha_pattern = \"q\" twice is not valid");
  expect_refused(CHANGE(c.alpha_pattern = {{"", 4}}), "alpha_pattern = an empty key is not valid");
}

TEST(LoRAConfig, ChecksNames) {
  expect_refused(CHANGE(c.peft_type = "LOHA"),
                 "peft_type = \"LOHA\" is not supported; leave it at its default, \"LORA\"");
  expect_refused(CHANGE(c.bias = "some"),
                 "bias = \"some\" is not valid; expected \"none\", \"all\" or \"lora_only\"");
  expect_refused(CHANGE(c.task_type = "CHAT"),
                 "task_type = \"CHAT\" is not valid; expected null, SEQ_CLS");
  EXPECT_EQ(refusal(CHANGE(c.task_type = "CAUSAL_LM"; c.bias = "lora_only")), "accepted");
  expect_refused(CHANGE(c.target_modules = ""), "target_modules = \"\" is not valid");
  expect_refused(CHANGE(c.target_modules = std::vector<std::string>{}),
                 "target_modules = [] is not valid; expected at least one");
  expect_refused(CHANGE(c.target_modules = {"q", ""}),
                 "target_modules = a list with an empty string is not valid");
  expect_refused(CHANGE(c.exclude_modules = {"q", ""}),
                 "exclude_modules = a list with an empty string is not valid");
  expect_refused(CHANGE(c.modules_to_save = {""}),
                 "modules_to_save = a list with an empty string is not valid");
  EXPECT_EQ(refusal(CHANGE(c.target_modules = {"q", "q"})), "accepted");  // PEFT holds a set
  EXPECT_EQ(refusal(CHANGE(c.exclude_modules = ""; c.modules_to_save = std::vector<std::string>{})),
            "accepted");
}

TEST(LoRAConfig, ChecksLayers) {
  expect_refused(
      CHANGE(c.target_modules = "x"; c.layers_to_transform = 1),
      "layers_to_transform = a value with the string target_modules = \"x\" is not valid");
  expect_refused(CHANGE(c.target_modules = "x"; c.layers_pattern = "h"),
                 "layers_pattern = a value with the string target_modules = \"x\" is not valid");
  expect_refused(CHANGE(c.target_modules = {"x"}; c.layers_pattern = "h"),
                 "layers_pattern = a value without layers_to_transform is not valid");
  expect_refused(CHANGE(c.target_modules = {"x"}; c.layers_pattern = {"h"};
                        c.layers_to_transform = std::vector<Index>{}),
                 "layers_pattern = a value without layers_to_transform is not valid");
  expect_refused(CHANGE(c.layers_to_transform = {0, -1}),
                 "layers_to_transform = -1 is not valid; expected layer indices from 0");
  expect_refused(CHANGE(c.layers_to_transform = 1; c.layers_pattern = {"h", ""}),
                 "layers_pattern = a list with an empty string");
  EXPECT_EQ(
      refusal(CHANGE(c.target_modules = {"x"}; c.layers_pattern = "h"; c.layers_to_transform = 0)),
      "accepted");
  EXPECT_EQ(refusal(CHANGE(c.target_modules = {"x"}; c.layers_pattern = "";
                           c.layers_to_transform = {1, 2})),
            "accepted");
  EXPECT_EQ(
      refusal(CHANGE(c.target_modules = {"x"}; c.layers_pattern = std::vector<std::string>{})),
      "accepted");
}

TEST(LoRAConfig, ChecksInitialisation) {
  for (const char* name : {"eva", "olora", "pissa", "pissa_niter_4", "corda", "loftq", "mica",
                           "lora_ga", "Gaussian", ""}) {
    const std::string said =
        refusal([&](LoRAConfig& c) { c.init_lora_weights = std::string(name); });
    EXPECT_NE(said.find("init_lora_weights = \"" + std::string(name) +
                        "\" is not supported; supported are true"),
              said.npos)
        << said;
  }
  EXPECT_EQ(refusal(CHANGE(c.init_lora_weights = false)), "accepted");
  EXPECT_EQ(refusal(CHANGE(c.init_lora_weights = "gaussian"; c.r = 3)), "accepted");
  EXPECT_EQ(refusal(CHANGE(c.init_lora_weights = "orthogonal"; c.r = 4)), "accepted");
  expect_refused(CHANGE(c.init_lora_weights = "orthogonal"; c.r = 3),
                 "r = 3 is not valid; expected an even rank");
  expect_refused(CHANGE(c.init_lora_weights = "orthogonal"; c.rank_pattern = {{"q", 5}}),
                 "rank_pattern[\"q\"] = 5 is not valid; expected an even rank");
  expect_refused(CHANGE(c.lora_bias = true; c.init_lora_weights = "gaussian"),
                 "lora_bias = true with init_lora_weights = \"gaussian\" is not valid");
  EXPECT_EQ(refusal(CHANGE(c.lora_bias = true; c.init_lora_weights = false)), "accepted");
}

TEST(LoRAConfig, AssignsNamesAsOneWouldWriteThem) {
  LoRAConfig c;
  c.target_modules = {"q_proj"};
  ASSERT_NE(c.target_modules.list(), nullptr);
  EXPECT_EQ(*c.target_modules.list(), std::vector<std::string>{"q_proj"});
  c.target_modules = {"q_proj", "v_proj"};
  EXPECT_EQ(c.target_modules.list()->size(), 2u);
  c.target_modules = "q_proj";
  ASSERT_NE(c.target_modules.pattern(), nullptr);
  EXPECT_EQ(*c.target_modules.pattern(), "q_proj");
  c.target_modules = {};
  EXPECT_TRUE(c.target_modules.is_null());
  c.layers_to_transform = {2};
  EXPECT_TRUE(c.layers_to_transform.is_list());
  c.layers_to_transform = 2;
  EXPECT_FALSE(c.layers_to_transform.is_list());
  EXPECT_EQ(c.layers_to_transform.indices(), std::vector<Index>{2});
  c.init_lora_weights = "gaussian";
  EXPECT_EQ(*c.init_lora_weights.name(), "gaussian");
}

TEST(LoRAConfig, AddsTheHeadsOfTheTask) {
  using Names = std::vector<std::string>;
  LoRAConfig c;
  EXPECT_EQ(c.effective_modules_to_save(), Names{});
  c.modules_to_save = {"norm", "score", "norm"};
  EXPECT_EQ(c.effective_modules_to_save(), (Names{"norm", "score"}));
  c.task_type = "SEQ_CLS";
  EXPECT_EQ(c.effective_modules_to_save(), (Names{"norm", "score", "classifier"}));
  c.modules_to_save = std::nullopt;
  c.task_type = "TOKEN_CLS";
  EXPECT_EQ(c.effective_modules_to_save(), (Names{"classifier", "score"}));
  c.task_type = "QUESTION_ANS";
  EXPECT_EQ(c.effective_modules_to_save(), Names{"qa_outputs"});
  c.task_type = "CAUSAL_LM";
  EXPECT_EQ(c.effective_modules_to_save(), Names{});
}

TEST(LoRAConfig, ScalesByRankOrItsRoot) {
  EXPECT_EQ(lora::scaling(16, 8, false), 2.0);
  EXPECT_EQ(lora::scaling(5, 3, false), 5.0 / 3.0);
  EXPECT_EQ(lora::scaling(16, 64, true), 2.0);
  EXPECT_EQ(lora::scaling(0.5, 4, true), 0.25);
}

TEST(LoRAConfig, DoRAGoesWithAllButABiasOnB) {
  LoRAConfig config;
  config.use_dora = true;
  config.use_rslora = true;
  EXPECT_NO_THROW(config.validate());
  EXPECT_EQ(
      refusal([](LoRAConfig& c) { c.use_dora = c.lora_bias = true; }),
      "LoRAConfig: lora_bias = true with use_dora = true is not valid; expected one of the two "
      "to be false");
}

}  // namespace config_test
