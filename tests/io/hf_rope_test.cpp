// The rotary embedding of config.json: its dialects, its types, and yarn's numbers.
#include <lora/io/hf/hf_config_fields.hpp>

#include <gtest/gtest.h>

#include "io/config_fields.hpp"

namespace hf_rope_test {
using namespace lora;

using lora_test::llama;
using lora_test::llama_fields;
using lora_test::message;
using lora_test::with;
using lora_test::without;

TEST(HFRope, ReadsThreeDialectsOfTheRotaryEmbedding) {
  const Json plain = without(llama_fields(), "rope_theta");
  const auto scaled = [&](const char* text) { return parse_json(text, "test"); };
  const Json old =
      with(llama_fields(), "rope_scaling", scaled(R"({"type":"linear","factor":2.0})"));
  const Json newer =
      with(llama_fields(), "rope_scaling", scaled(R"({"rope_type":"linear","factor":2.0})"));
  const Json newest = with(plain, "rope_parameters",
                           scaled(R"({"rope_type":"linear","factor":2.0,"rope_theta":500000.0})"));
  const Json beside = with(newest, "rope_scaling", Json::object());
  const Json behind = with(newer, "rope_parameters", Json::object());
  for (const Json& dialect : {old, newer, newest, beside, behind}) {
    EXPECT_EQ(llama(dialect), llama(old));
    EXPECT_EQ(llama(dialect).rope_scaling.type, RopeScaling::Type::linear);
    EXPECT_EQ(llama(dialect).rope_scaling.factor, 2);
    EXPECT_EQ(llama(dialect).rope_theta, 500000);
  }
  const LlamaConfig llama3 = llama(with(llama_fields(), "rope_scaling", scaled(R"({"rope_type":
      "llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,
      "original_max_position_embeddings":32})")));
  EXPECT_EQ(llama3.rope_scaling, (RopeScaling{RopeScaling::Type::llama3, 8, 1, 4, 32}));
  const LlamaConfig dynamic =
      llama(with(llama_fields(), "rope_scaling", scaled(R"({"type":"dynamic","factor":4.0})")));
  EXPECT_EQ(dynamic.rope_scaling, (RopeScaling{RopeScaling::Type::dynamic, 4, 1, 4, 0}));
}

TEST(HFRope, RefusesRotaryEmbeddingsItWouldGetWrong) {
  const auto scaled = [&](const char* text) {
    return with(llama_fields(), "rope_scaling", parse_json(text, "test"));
  };
  EXPECT_FAULT(FormatError, without(llama_fields(), "rope_theta"),
               "config.json: rope_theta is missing, here and in rope_parameters");
  EXPECT_FAULT(FormatError, with(llama_fields(), "rope_theta", nullptr), "rope_theta is missing");
  EXPECT_FAULT(FormatError, with(llama_fields(), "rope_theta", -1.0),
               "rope_theta is -1.0, expected a number from 1 to 1e+15");
  EXPECT_FAULT(ConfigError, scaled(R"({"type":"longrope","factor":4.0})"),
               "rope_scaling: type is \"longrope\", which is not supported: expected default, "
               "linear, dynamic, llama3 or yarn; only a checkpoint");
  EXPECT_FAULT(ConfigError, scaled(R"({"rope_type":"longrope","factor":4.0})"),
               "rope_type is \"longrope\"");
  EXPECT_FAULT(ConfigError,
               scaled(R"({"rope_type":"linear","factor":4.0,"partial_rotary_factor":0.5})"),
               "partial_rotary_factor is 0.5, which is not supported: only 1, which rotates whole");
  EXPECT_FAULT(ConfigError,
               with(scaled(R"({"rope_type":"linear","factor":4.0})"), "partial_rotary_factor", 0.5),
               "config.json: partial_rotary_factor is 0.5");
  EXPECT_FAULT(FormatError, scaled(R"({"rope_type":"linear"})"), "factor is missing");
  EXPECT_FAULT(FormatError, scaled(R"({"rope_type":"linear","factor":0})"), "factor is 0");
  EXPECT_FAULT(FormatError, scaled(R"({"rope_type":"linear","type":"dynamic","factor":2})"),
               "type is \"dynamic\", expected the same as rope_type, which is \"linear\"");
  EXPECT_FAULT(FormatError, scaled(R"({"rope_type":"llama3","factor":2,"low_freq_factor":4,
      "high_freq_factor":4,"original_max_position_embeddings":8})"),
               "high_freq_factor is 4, expected more than low_freq_factor");
  EXPECT_FAULT(FormatError, with(llama_fields(), "rope_scaling", 3), "rope_scaling is 3");
  const Json both = with(scaled(R"({"rope_type":"linear","factor":2.0})"), "rope_parameters",
                         parse_json(R"({"rope_type":"default"})", "test"));
  EXPECT_FAULT(FormatError, both, "no other values than those of rope_parameters");
  EXPECT_FAULT(FormatError,
               with(llama_fields(), "rope_parameters",
                    parse_json(R"({"rope_type":"default","rope_theta":1e4})", "test")),
               "rope_theta is 500000.0, expected the same as in rope_parameters, 10000");
  EXPECT_FAULT(ConfigError,
               with(llama_fields(), "rope_parameters",
                    parse_json(R"({"full_attention":
      {"rope_theta":1e4},"sliding_attention":{"rope_theta":1e6}})",
                               "test")),
               "models of type llama have one rotary embedding for all layers; expected rope_type "
               "and its options in this object, not in \"full_attention\"");
}

TEST(HFRope, FindsTheOriginalPositionsBesideWithinOrNowhere) {
  const char* key = "original_max_position_embeddings";
  const auto original = [&](const char* type, const Json& inside, const Json& outside) {
    Json rope = parse_json(R"({"factor":2,"low_freq_factor":1,"high_freq_factor":4})", "test");
    rope["rope_type"] = type;
    rope[key] = inside;  // null is absent
    return llama(with(with(llama_fields(), "rope_scaling", rope), key, outside))
        .rope_scaling.original_max_position_embeddings;
  };
  for (const char* type : {"llama3", "yarn"}) {
    EXPECT_EQ(original(type, nullptr, nullptr), 64) << type;
    EXPECT_EQ(original(type, 16, nullptr), 16) << type;
    EXPECT_EQ(original(type, nullptr, 32), 32) << type;
    EXPECT_EQ(original(type, 16, 32), 32) << type;
  }
  const Json both = with(with(llama_fields(), "rope_scaling",
                              parse_json(R"({"rope_type":"llama3","factor":2,"low_freq_factor":1,
      "high_freq_factor":4,"original_max_position_embeddings":16})",
                                         "test")),
                         key, 32);
  const std::vector<std::string> warnings = parse_hf_config(both, "config.json").warnings;
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_EQ(
      warnings[0],
      "config.json: rope_scaling: original_max_position_embeddings is 16, which does nothing: "
      "the 32 outside the object is used");
}

// Frequencies and attention factors that transformers 5.24's _compute_yarn_parameters gives for
// eight pairs.
struct YarnCase {
  const char* options;
  double theta;
  Index positions;
  double attention;
  double frequencies[8];
};
constexpr YarnCase yarn_cases[] = {
    {R"("factor":4.0,"original_max_position_embeddings":32)",
     1e4,
     64,
     1.13862944,
     {1, 0.197642356, 0.0250000004, 0.00790569466, 0.00249999994, 0.000790569466, 0.000250000012,
      7.90569466e-05}},
    {R"("factor":4.0,"original_max_position_embeddings":32,"truncate":false)",
     1e4,
     64,
     1.13862944,
     {1, 0.14849025, 0.0250000004, 0.00790569466, 0.00249999994, 0.000790569466, 0.000250000012,
      7.90569466e-05}},
    {R"("factor":4.0,"original_max_position_embeddings":32,"truncate":null)",
     1e4,
     64,
     1.13862944,
     {1, 0.14849025, 0.0250000004, 0.00790569466, 0.00249999994, 0.000790569466, 0.000250000012,
      7.90569466e-05}},
    {R"("factor":4.0,"original_max_position_embeddings":32768,"attention_factor":0.75)",
     1e6,
     32768,
     0.75,
     {1, 0.177827939, 0.0316227786, 0.00421755994, 0.000500000024, 4.44569851e-05, 7.90569356e-06,
      1.40585337e-06}},
    {R"("factor":4.0,"original_max_position_embeddings":32768,"beta_fast":64,"beta_slow":2,
        "mscale":0.707,"mscale_all_dim":1.5,"truncate":false)",
     1e6,
     32768,
     0.908991535,
     {1, 0.177827939, 0.0316227786, 0.00467375852, 0.000457407965, 4.44569851e-05, 7.90569356e-06,
      1.40585337e-06}},
    {R"("factor":null,"original_max_position_embeddings":1024)",
     1e6,
     4096,
     1.13862944,
     {1, 0.133370951, 0.0158113893, 0.00140585331, 0.000250000012, 4.44569851e-05, 7.90569356e-06,
      1.40585337e-06}},
    {R"("factor":8.0)",
     1e6,
     4096,
     1.20794415,
     {1, 0.177827939, 0.0223994683, 0.00234308885, 0.000125000006, 2.22284925e-05, 3.95284678e-06,
      7.02926684e-07}},
    {R"("factor":1.0,"original_max_position_embeddings":64,"beta_fast":0,"beta_slow":0)",
     1e4,
     64,
     1,
     {1, 0.316227764, 0.100000001, 0.0316227786, 0.00999999978, 0.00316227786, 0.00100000005,
      0.000316227786}},
    {R"("factor":2.0,"original_max_position_embeddings":4)",
     1e4,
     64,
     1.06931472,
     {1, 0.158113882, 0.0500000007, 0.0158113893, 0.00499999989, 0.00158113893, 0.000500000024,
      0.000158113893}},
};

TEST(HFRope, ReadsYarnAsTransformersComputesIt) {
  for (const YarnCase& one : yarn_cases) {
    SCOPED_TRACE(one.options);
    Json fields = with(without(llama_fields(), "rope_theta"), "head_dim", 16);
    fields["max_position_embeddings"] = one.positions;
    const Json rope = parse_json(std::string("{") + one.options + "}", "test");
    Json newer = rope;
    newer["rope_type"] = "yarn";
    newer["rope_theta"] = one.theta;
    const LlamaConfig config = llama(with(fields, "rope_parameters", newer));
    Json older = with(fields, "rope_theta", one.theta);
    older["rope_scaling"] = rope;
    older["rope_scaling"]["type"] = "yarn";
    EXPECT_EQ(llama(older), config);
    ASSERT_EQ(config.rope_scaling.type, RopeScaling::Type::yarn);
    EXPECT_NEAR(rope_attention_factor(config.rope_scaling), one.attention, 1e-8);
    for (Index i = 0; i < 8; ++i)  // theirs are float32, in a few operations
      EXPECT_NEAR(rope_frequency(config.rope(), i, 7), one.frequencies[i],
                  one.frequencies[i] * 0x1p-21)
          << i;
    const Index lengths[] = {3};
    RotaryTable<double> table;
    table.prepare(config.rope(), lengths);
    EXPECT_NEAR(table.cosine(0, 5), one.attention, 1e-6);
    EXPECT_NEAR(table.sine(2, 0), one.attention * std::sin(2.0), 1e-6);
    // What is written is read as the same.
    EXPECT_EQ(llama(hf_config_fields(config, DType::F32)), config);
  }
}

TEST(HFRope, ReadsTruncateAsPythonDoes) {
  const auto truncate = [](const char* value) {
    Json rope = parse_json(R"({"rope_type":"yarn","factor":2.0})", "test");
    rope["truncate"] = parse_json(value, "test");
    return llama(with(llama_fields(), "rope_scaling", rope)).rope_scaling.truncate;
  };
  for (const char* value : {"true", "1", "2.5"}) EXPECT_TRUE(truncate(value)) << value;
  for (const char* value : {"false", "0", "0.0", "null"}) EXPECT_FALSE(truncate(value)) << value;
}

TEST(HFRope, SaysWhichOptionsDoNothing) {
  const auto warnings = [](const char* text) {
    return parse_hf_config(with(llama_fields(), "rope_scaling", parse_json(text, "test")),
                           "config.json")
        .warnings;
  };
  EXPECT_TRUE(warnings(R"({"rope_type":"linear","factor":4.0,"mscale":null})").empty());
  EXPECT_EQ(warnings(R"({"rope_type":"linear","factor":4.0,"mscale":2})"),
            (std::vector<std::string>{"config.json: rope_scaling: mscale is 2, which does nothing: "
                                      "rope_type \"linear\" has no such option"}));
  EXPECT_EQ(warnings(R"({"rope_type":"default","factor":4.0,"\u001b[31m":2})").size(), 2u);
  EXPECT_EQ(warnings(R"({"rope_type":"default","\u001b[31m":2})")[0].find('\x1b'),
            std::string::npos);
}

TEST(HFRope, RefusesYarnThatCannotBe) {
  const auto scaled = [&](const char* text) {
    return with(llama_fields(), "rope_scaling", parse_json(text, "test"));
  };
  EXPECT_FAULT(FormatError, scaled(R"({"type":"yarn"})"), "factor is missing");
  EXPECT_FAULT(FormatError, scaled(R"({"type":"yarn","factor":2.0,"beta_fast":-1})"),
               "beta_fast is -1, expected a number from 0");
  EXPECT_FAULT(FormatError, scaled(R"({"type":"yarn","factor":2.0,"attention_factor":0})"),
               "attention_factor is 0");
  EXPECT_FAULT(FormatError, scaled(R"({"type":"yarn","factor":2.0,"truncate":"1"})"),
               "truncate is \"1\", expected true or false");
  EXPECT_FAULT(FormatError, with(scaled(R"({"type":"yarn","factor":2.0})"), "rope_theta", 1.0),
               "rope_theta is 1.0, expected more than 1 with rope_type \"yarn\"");
}

}  // namespace hf_rope_test
