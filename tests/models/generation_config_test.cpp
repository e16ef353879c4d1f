// What a generation may be asked.
#include <lora/models/generation_config.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <string>

namespace generation_config_test {
using lora::GenerationConfig;

template <class Change>
std::string refusal(Change change) {
  GenerationConfig config;
  change(config);
  try {
    check_config(config);
  } catch (const lora::ConfigError& error) {
    return error.what();
  }
  return "";
}

TEST(GenerationConfig, DefaultsOfTransformers) {
  const GenerationConfig config;
  EXPECT_FALSE(config.do_sample);
  EXPECT_EQ(config.temperature, 1);
  EXPECT_EQ(config.top_k, 50);
  EXPECT_EQ(config.top_p, 1);
  EXPECT_EQ(config.min_p, 0);
  EXPECT_EQ(config.repetition_penalty, 1);
  EXPECT_EQ(refusal([](GenerationConfig&) {}), "");
  EXPECT_EQ(refusal([](GenerationConfig& c) { c.top_p = c.min_p = 0, c.top_k = 0; }), "");
  EXPECT_EQ(refusal([](GenerationConfig& c) { c.top_p = c.min_p = 1; }), "");
}

TEST(GenerationConfig, RefusesByName) {
  const std::string begin = "GenerationConfig: ";
  const auto expect = [&](auto change, const std::string& text) {
    EXPECT_EQ(refusal(change), begin + text);
  };
  using C = GenerationConfig;
  expect([](C& c) { c.max_new_tokens = -1; }, "max_new_tokens is -1, expected at least 0");
  expect([](C& c) { c.max_length = -2; }, "max_length is -2, expected at least 0");
  expect([](C& c) { c.top_k = -3; }, "top_k is -3, expected at least 0");
  const std::string greedy = "; do_sample = false takes the most probable token";
  expect([](C& c) { c.temperature = 0; }, "temperature is 0, expected a positive number" + greedy);
  expect([](C& c) { c.temperature = std::nan(""); },
         "temperature is nan, expected a positive number" + greedy);
  expect([](C& c) { c.temperature = HUGE_VAL; },
         "temperature is inf, expected a positive number" + greedy);
  expect([](C& c) { c.repetition_penalty = 0; },
         "repetition_penalty is 0, expected a positive number");
  expect([](C& c) { c.top_p = 1.5; }, "top_p is 1.5, expected a number from 0 to 1");
  expect([](C& c) { c.top_p = std::nan(""); }, "top_p is nan, expected a number from 0 to 1");
  expect([](C& c) { c.min_p = -0.1; }, "min_p is -0.1, expected a number from 0 to 1");
  expect([](C& c) { c.eos_token_id = {2, -1}; }, "eos_token_id[1] is -1, expected at least 0");
  expect([](C& c) { c.stop_strings = {""}; }, "stop_strings[0] is empty, expected a text");
}

}  // namespace generation_config_test
