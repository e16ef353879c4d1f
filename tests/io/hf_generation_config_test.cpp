// generation_config.json as checkpoints have it.
#include <lora/io/atomic_file.hpp>
#include <lora/io/hf/hf_generation_config.hpp>

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "support/shared.hpp"

namespace hf_generation_config_test {
using namespace lora;
using lora_test::TemporaryFolder;

HFGenerationConfig read(const std::string& text) {
  return parse_generation_config(parse_json(text, "g.json"), "g.json");
}
std::string refusal(const std::string& text) {
  try {
    read(text);
  } catch (const FormatError& error) {
    return error.what();
  }
  return "";
}

TEST(HFGenerationConfig, ReadsWhatItKnows) {
  const HFGenerationConfig one = read(R"({
    "bos_token_id": 1, "eos_token_id": [2, 7], "do_sample": true, "temperature": 0.6, "top_k": 20,
    "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.05, "max_length": 4096,
    "max_new_tokens": 64, "stop_strings": ["END"], "transformers_version": "5.0"})");
  GenerationConfig expected;
  expected.do_sample = true;
  expected.temperature = 0.6, expected.top_k = 20, expected.top_p = 0.9, expected.min_p = 0.05;
  expected.repetition_penalty = 1.05;
  expected.max_length = 4096, expected.max_new_tokens = 64;
  expected.eos_token_id = {2, 7};
  expected.stop_strings = {"END"};
  EXPECT_EQ(one.generation, expected);
  EXPECT_TRUE(one.warnings.empty());
}

TEST(HFGenerationConfig, NullIsAbsentAndAbsentIsTheDefault) {
  EXPECT_EQ(read("{}").generation, GenerationConfig());
  EXPECT_EQ(read(R"({"eos_token_id": null, "top_k": null, "max_length": null, "num_beams": null})")
                .generation,
            GenerationConfig());
  EXPECT_EQ(read(R"({"eos_token_id": 5, "stop_strings": "a"})").generation.eos_token_id,
            std::vector<std::int64_t>{5});
  EXPECT_EQ(read(R"({"stop_strings": "a"})").generation.stop_strings,
            std::vector<std::string>{"a"});
  EXPECT_EQ(read(R"({"temperature": 0.0})").generation.temperature, 1);
}

TEST(HFGenerationConfig, SaysWhatItDoesNotFollow) {
  const auto warnings =
      read(R"({"num_beams": 4, "no_repeat_ngram_size": 3, "typical_p": 1.0, "min_length": 0,
               "suppress_tokens": [], "bad_words_ids": [[1]]})")
          .warnings;
  const std::string end = ", which is not supported and does nothing";
  EXPECT_EQ(warnings, (std::vector<std::string>{"g.json: num_beams is 4" + end,
                                                "g.json: no_repeat_ngram_size is 3" + end,
                                                "g.json: bad_words_ids is [[1]]" + end}));
}

TEST(HFGenerationConfig, RefusesByName) {
  EXPECT_EQ(refusal("[]"), "g.json: is array, expected an object");
  EXPECT_EQ(refusal(R"({"top_k": 1.5})"),
            "g.json: top_k is 1.5, expected a whole number from 0 to 2147483648");
  EXPECT_EQ(refusal(R"({"top_p": 2})"), "g.json: top_p is 2, expected a number from 0 to 1");
  EXPECT_EQ(refusal(R"({"do_sample": 1})"), "g.json: do_sample is 1, expected true or false");
  EXPECT_EQ(refusal(R"({"do_sample": true, "temperature": 0})"),
            "g.json: temperature is 0, expected a positive number");
  const std::string ids = ", expected an id or an array of ids, each from 0 to 2^31";
  EXPECT_EQ(refusal(R"({"eos_token_id": "</s>"})"), "g.json: eos_token_id is \"</s>\"" + ids);
  EXPECT_EQ(refusal(R"({"eos_token_id": [2, -1]})"), "g.json: eos_token_id is [2,-1]" + ids);
  const std::string texts = ", expected a text or an array of texts, none of them empty";
  EXPECT_EQ(refusal(R"({"stop_strings": [1]})"), "g.json: stop_strings is [1]" + texts);
  EXPECT_EQ(refusal(R"({"stop_strings": ["a", ""]})"),
            "g.json: stop_strings is [\"a\",\"\"]" + texts);
}

TEST(HFGenerationConfig, OfAFolder) {
  const TemporaryFolder folder;
  EXPECT_EQ(read_generation_config(folder.path).generation, GenerationConfig());
  atomic_write(folder.path / "config.json", R"({"eos_token_id": 3, "top_k": 7})");
  EXPECT_EQ(read_generation_config(folder.path).generation.eos_token_id,
            std::vector<std::int64_t>{3});
  EXPECT_EQ(read_generation_config(folder.path).generation.top_k, 50);
  atomic_write(folder.path / "generation_config.json", R"({"top_k": 9})");
  EXPECT_EQ(read_generation_config(folder.path).generation.eos_token_id,
            std::vector<std::int64_t>{3});
  EXPECT_EQ(read_generation_config(folder.path).generation.top_k, 9);
  atomic_write(folder.path / "generation_config.json", R"({"eos_token_id": 4})");
  EXPECT_EQ(read_generation_config(folder.path).generation.eos_token_id,
            std::vector<std::int64_t>{4});
  atomic_write(folder.path / "generation_config.json", "{");
  try {
    read_generation_config(folder.path);
    ADD_FAILURE();
  } catch (const FormatError& error) {
    EXPECT_NE(std::string(error.what()).find("generation_config.json: not valid JSON"),
              std::string::npos);
  }
}

}  // namespace hf_generation_config_test
