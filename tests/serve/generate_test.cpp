// Generation against transformers' ids, alone and side by side, and what it promises for every
// model.
#include <lora/io/hf/hf_checkpoint.hpp>
#include <lora/io/hf/hf_generation_config.hpp>
#include <lora/io/peft/pretrained.hpp>
#include <lora/serve/generate.hpp>

#include <gtest/gtest.h>

#include <filesystem>
#include <numeric>
#include <string>
#include <vector>

#include "layers/layer_tools.hpp"
#include "support/golden.hpp"
#include "support/threads.hpp"
#include "text/small_tokenizer.hpp"

namespace generate_test {
using namespace lora;
using namespace lora_test;
namespace fs = std::filesystem;
using Ids = std::vector<std::int64_t>;
using Model = LoRAModel<CausalLM<float>>;

Ids whole(const Prompt& prompt, const Generated& generated) {
  Ids ids = prompt.ids;
  ids.insert(ids.end(), generated.ids.begin(), generated.ids.end());
  return ids;
}

// The texts of base and adapter, alone, after switching, in a batch.
void check_golden(const GoldenModel& golden) {
  const Json numbers = read_golden_json(golden.folder / "golden.json");
  const Ids expected[] = {numbers.at("base_generated").get<Ids>(),
                          numbers.at("adapter_generated").get<Ids>()};
  const auto begin = numbers.at("prompt_length").get<std::ptrdiff_t>();
  GenerationConfig config = read_generation_config(golden.base).generation;
  EXPECT_EQ(config.eos_token_id.size(), 1u);
  config.max_new_tokens =
      static_cast<Index>(std::max(expected[0].size(), expected[1].size())) - begin;
  std::vector<Prompt> prompts(2);
  for (std::size_t i = 0; i < 2; ++i)
    prompts[i].ids.assign(expected[i].begin(), expected[i].begin() + begin);
  const auto alone = [&](const auto& model, std::size_t i) {
    const std::vector<Generated> one = generate(model, std::span(prompts).subspan(i, 1), config);
    EXPECT_EQ(whole(prompts[i], one[0]), expected[i]);
  };
  alone(load_model<CausalLM<float>>(golden.base), 0);
  Model model = from_pretrained(load_model<CausalLM<float>>(golden.base), golden.adapter).model;
  alone(model, 1);
  if (model.config().bias == "none") {  // trained biases are the base's
    const auto off = model.disable_adapters();
    alone(model, 0);
  }
  alone(model, 1);
  if (model.base().embedding().adapters().empty()) {
    prompts[0].adapter_name = base_adapter_name;
    prompts[1].adapter_name = "default";
    for (const int threads : {1, 2}) {
      const Threads set(threads);
      const std::vector<Generated> both = generate(model, prompts, config);
      if (model.config().bias == "none") {
        EXPECT_EQ(whole(prompts[0], both[0]), expected[0]) << threads << " threads";
      }
      EXPECT_EQ(whole(prompts[1], both[1]), expected[1]) << threads << " threads";
    }
  }
}

TEST(Generate, GoldenIdsOfTransformers) { for_each_golden_model(check_golden); }

// A Llama with as many ids as the small tokenizers, and two adapters that change what it says.
LlamaConfig small_config(Index positions = 2000) {
  LlamaConfig config;
  config.vocab_size = 268;
  config.hidden_size = 12, config.intermediate_size = 20, config.num_hidden_layers = 2;
  config.num_attention_heads = 3, config.num_key_value_heads = 1, config.head_dim = 4;
  config.max_position_embeddings = positions;
  return config;
}
Model small_model(const CausalLMConfig& shape = small_config()) {
  Model model(CausalLM<float>(shape, RandomWeights<float>{5, 0.6}));
  LoRAConfig config;
  config.r = 3;
  config.init_lora_weights = false;  // B is not zero
  config.target_modules = "all-linear";
  if (shape.index() == 1) config.fan_in_fan_out = true;
  model.add_adapter("one", config, 1);
  model.add_adapter("two", config, 2);
  model.for_each_layer([](const NamePath&, auto& layer) {
    for (auto& adapter : layer.adapters().all()) adapter.B.value *= 20;
  });
  return model;
}
Ids some_ids(Index n, Index first = 0) {
  Ids ids;
  for (Index t = 0; t < n; ++t) ids.push_back((first + t * t * 7 + 3) % 256);
  return ids;
}
GenerationConfig drawing(Index tokens) {
  GenerationConfig config;
  config.max_new_tokens = tokens;
  config.do_sample = true;
  config.top_k = 0;
  return config;
}
Ids ids_of(const Model& model, const Prompt& prompt, const GenerationConfig& config) {
  return generate(model, {&prompt, 1}, config)[0].ids;
}
CausalLMConfig small_gpt2() {
  return GPT2Config{
      .vocab_size = 268, .n_positions = 2000, .n_embd = 12, .n_layer = 2, .n_head = 3};
}

// Prompts of all lengths, longer than what is read at once, texts that end early: each is what it
// is alone, for any number of threads.
TEST(Generate, ATextDoesNotDependOnThoseBesideIt) {
  for (const CausalLMConfig& shape : {CausalLMConfig(small_config()), small_gpt2()}) {
    const Model model = small_model(shape);
    GenerationConfig config = drawing(9);
    config.repetition_penalty = 1.2;
    for (std::int64_t id = 0; id < 30; ++id) config.eos_token_id.push_back(id);
    std::vector<Prompt> prompts;
    const char* names[] = {"one", "two", "__base__"};
    for (const Index n : {1, 5, 500, 30, 700, 2, 512, 1})
      prompts.push_back({some_ids(n, n), names[prompts.size() % 3], prompts.size() % 4});
    std::vector<Generated> together;
    {
      const Threads threads(2);
      together = generate(model, prompts, config);
    }
    const Threads threads(1);
    std::set<std::size_t> lengths;
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      EXPECT_EQ(ids_of(model, prompts[i], config), together[i].ids) << i;
      lengths.insert(together[i].ids.size());
      const bool ended = together[i].ids.back() < 30;
      EXPECT_EQ(together[i].reason, ended ? FinishReason::end_token : FinishReason::length);
      EXPECT_TRUE(ended || together[i].ids.size() == 9);
    }
    EXPECT_GT(lengths.size(), 1u);  // some did end early
  }
}

// What it does by the shortest way: every logit from the whole text.
TEST(Generate, IsTheModelWithoutACache) {
  const Model model = small_model();
  const Prompt prompt{some_ids(7)};
  GenerationConfig config;
  EXPECT_EQ(ids_of(model, prompt, config).size(), 20u);  // transformers' default
  config.max_new_tokens = 12;
  config.repetition_penalty = 1.1;
  Ids ids = prompt.ids;
  Sampler<float> sampler(config);
  for (int i = 0; i < 12; ++i) {
    const Matrix<float> y = model.base().logits({ids}).bottomRows(1);
    ids.push_back(sampler.next({y.data(), static_cast<std::size_t>(y.size())}, ids, 0));
  }
  EXPECT_EQ(ids_of(model, prompt, config), Ids(ids.begin() + 7, ids.end()));
}

TEST(Generate, SameSeedSameText) {
  const Model model = small_model();
  const auto of_seed = [&](std::uint64_t seed) {
    return ids_of(model, {some_ids(4), "", seed}, drawing(16));
  };
  EXPECT_EQ(of_seed(1), of_seed(1));
  EXPECT_NE(of_seed(1), of_seed(2));
}

TEST(Generate, AdaptersAreSwitchedBetweenTwoPrompts) {
  Model model = small_model();
  GenerationConfig config;
  config.max_new_tokens = 10;
  const Prompt active{some_ids(6)};
  std::vector<Ids> texts;
  for (const char* name : {"one", "two"}) {
    model.set_adapter(name);
    texts.push_back(ids_of(model, active, config));
    EXPECT_EQ(ids_of(model, {some_ids(6), name}, config), texts.back());
  }
  {
    const auto off = model.disable_adapters();
    texts.push_back(ids_of(model, active, config));
  }
  EXPECT_EQ(ids_of(model, {some_ids(6), "__base__"}, config), texts[2]);
  EXPECT_NE(texts[0], texts[1]);
  EXPECT_NE(texts[0], texts[2]);
  EXPECT_NE(texts[1], texts[2]);
}

TEST(Generate, EndsWhereLengthAndPositionsEnd) {
  const Model model = small_model(small_config(12));
  const std::vector<Prompt> prompts = {{some_ids(7)}, {some_ids(12)}, {some_ids(2)}};
  GenerationConfig config;
  config.max_new_tokens = 8;
  const std::vector<Generated> all = generate(model, prompts, config);
  EXPECT_EQ(all[0].ids.size(), 6u);  // the last one is not read again
  EXPECT_EQ(all[0].reason, FinishReason::positions);
  EXPECT_EQ(all[1].ids.size(), 1u);
  EXPECT_EQ(all[1].reason, FinishReason::positions);
  EXPECT_EQ(all[2].ids.size(), 8u);
  EXPECT_EQ(all[2].reason, FinishReason::length);
  config.max_length = 1;  // max_new_tokens goes before it
  EXPECT_EQ(ids_of(model, prompts[2], config).size(), 8u);
  config.max_new_tokens = 0;
  EXPECT_EQ(ids_of(model, prompts[2], config).size(), 0u);
  config.max_new_tokens = {}, config.max_length = 5;
  EXPECT_EQ(ids_of(model, prompts[2], config).size(), 3u);
  EXPECT_EQ(generate(model, std::span<const Prompt>(), config).size(), 0u);
  LlamaConfig dynamic = small_config(12);
  dynamic.rope_scaling.type = RopeScaling::Type::dynamic;
  dynamic.rope_scaling.factor = 2;
  EXPECT_EQ(position_limit(dynamic), 24);
  dynamic.rope_scaling = {RopeScaling::Type::yarn, 4, 1, 4, 12};
  EXPECT_EQ(position_limit(dynamic), 48);
  EXPECT_EQ(position_limit(small_config(12)), 12);
  EXPECT_EQ(position_limit(small_gpt2()), 2000);
}

TEST(Generate, StreamsTheTextOfEachPrompt) {
  const Model model = small_model();
  const Tokenizer tokenizer(byte_level_spec());
  const std::vector<Prompt> prompts = {{tokenizer.encode("ab"), "one", 3},
                                       {tokenizer.encode(" a b"), "two", 4}};
  std::vector<std::string> texts(2);
  std::vector<Ids> ids(2);
  const std::vector<Generated> all = generate(
      model, prompts, drawing(30),
      {.tokenizer = &tokenizer, .on_token = [&](const NewToken& token) {
         texts[token.prompt] += token.text;
         ids[token.prompt].push_back(token.id);
         EXPECT_EQ(first_invalid_utf8(token.text), token.text.size());  // no half characters
         return Streaming::go_on;
       }});
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(all[i].text, texts[i]);
    EXPECT_EQ(all[i].ids, ids[i]);
    EXPECT_EQ(all[i].text, tokenizer.decode(ids[i], SkipSpecial::yes));
    EXPECT_EQ(all[i].text.find("<|"), std::string::npos);
  }
  EXPECT_EQ(generate(model, prompts, drawing(3))[0].text, "");
}

// Spaces at the beginning of what is new stay, characters of which the prompt has a part are whole.
TEST(Generate, TheTextGoesOnFromThePrompts) {
  const Model model = small_model();
  for (const TokenizerSpec& spec : {sentencepiece_spec(), byte_level_spec()}) {
    const Tokenizer tokenizer(spec);
    ASSERT_LE(tokenizer.vocab_size(), 268);
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
      const Prompt prompt{tokenizer.encode("cat the"), "", seed};
      const Generated one = generate(model, {&prompt, 1}, drawing(4), {.tokenizer = &tokenizer})[0];
      StreamingDecoder decoder(tokenizer);
      std::string all;
      for (const std::int64_t id : whole(prompt, one)) all += decoder.push(id);
      EXPECT_EQ("cat the" + one.text, all + decoder.finish());
    }
  }
}

TEST(Generate, ACallbackEndsOneTextAndNotTheOthers) {
  const Model model = small_model();
  const Tokenizer tokenizer(byte_level_spec());
  const std::vector<Prompt> prompts = {{some_ids(3)}, {some_ids(4)}};
  std::size_t calls = 0;
  const auto all =
      generate(model, prompts, drawing(9), {.on_token = [&](const NewToken& token) {
                 ++calls;
                 return token.prompt == 0 && calls > 4 ? Streaming::stop : Streaming::go_on;
               }});
  EXPECT_EQ(all[0].reason, FinishReason::callback);
  EXPECT_EQ(all[0].ids.size(), 3u);
  EXPECT_EQ(all[1].reason, FinishReason::length);
  EXPECT_EQ(all[1].ids.size(), 9u);
  EXPECT_EQ(calls, 12u);
}

TEST(Generate, StopStringsEndTheTextBeforeThem) {
  const Model model = small_model();
  const Tokenizer tokenizer(byte_level_spec());
  const Prompt prompt{some_ids(5), "", 7};
  GenerationConfig config = drawing(40);
  const Generated free = generate(model, {&prompt, 1}, config, {.tokenizer = &tokenizer})[0];
  ASSERT_GT(free.text.size(), 30u);
  // Letters from the middle of the text, which some tokens make together.
  std::size_t at = 12;
  while (static_cast<unsigned char>(free.text[at]) >= 0x80) ++at;
  config.stop_strings = {"\xFF never", free.text.substr(at, 9)};
  const std::size_t expected = free.text.find(config.stop_strings[1]);
  std::string streamed;
  const Generated stopped =
      generate(model, {&prompt, 1}, config,
               {.tokenizer = &tokenizer, .on_token = [&](const NewToken& token) {
                  streamed += token.text;
                  return Streaming::go_on;
                }})[0];
  EXPECT_EQ(stopped.reason, FinishReason::stop_string);
  EXPECT_EQ(stopped.text, free.text.substr(0, expected));
  EXPECT_EQ(streamed, stopped.text);
  EXPECT_LT(stopped.ids.size(), free.ids.size());
  EXPECT_TRUE(std::equal(stopped.ids.begin(), stopped.ids.end(), free.ids.begin()));
  // One that begins at the end of the text and never comes is text.
  config.stop_strings = {free.text.substr(free.text.size() - 3) + "more"};
  EXPECT_EQ(generate(model, {&prompt, 1}, config, {.tokenizer = &tokenizer})[0].text, free.text);
}

TEST(Generate, GoesOnFromACache) {
  const Model model = small_model();
  const GenerationConfig config = drawing(6);
  std::vector<GenerationCache<float>> cache(1);
  const auto check = [&](const Prompt& prompt) {
    const Ids fresh = ids_of(model, prompt, config);
    EXPECT_EQ(generate(model, {&prompt, 1}, config, {.caches = cache})[0].ids, fresh);
    EXPECT_EQ(cache[0].keys.length(), static_cast<Index>(cache[0].ids.size()));
    EXPECT_EQ(cache[0].ids.size(), prompt.ids.size() + 5);  // the last one was not read
    Ids longer = prompt.ids;
    longer.insert(longer.end(), fresh.begin(), fresh.end());
    return longer;
  };
  Ids ids = check({some_ids(20), "one"});
  ids.push_back(9);
  ids = check({ids, "one"});
  ids = check({ids, "two"});  // begins anew
  ids.resize(11);
  check({ids, "two"});  // shorter, and the same once more
  check({ids, "two"});
}

TEST(Generate, Refuses) {
  const Model model = small_model(small_config(8));
  GenerationConfig config;
  const auto refused = [&](const std::vector<Prompt>& prompts, const char* text,
                           const GenerateOptions<float>& options = {}) {
    EXPECT_TRUE(throws<ConfigError>([&] { generate(model, prompts, config, options); }, {text}));
  };
  refused({{{1}}, {{}}}, "generate: prompts[1] is empty, expected at least one id");
  refused({{some_ids(9)}}, "generate: prompts[0] has 9 tokens, the model has 8 positions");
  refused({{{1, 268}}}, "generate: prompts[0].ids[1] is 268, expected 0 to 267");
  refused({{{-1}}}, "generate: prompts[0].ids[0] is -1, expected 0 to 267");
  refused({{{1}, "one"}, {{1}, "three"}},
          "generate: prompts[1].adapter_name is \"three\", expected one of \"__base__\", \"one\", "
          "\"two\"");
  refused({{{1}, "one"}, {{1}}},
          "generate: prompts[1] names no adapter, but others do; use \"__base__\" for none");
  refused({{{1}}, {{1}, "one"}}, "generate: prompts[1] names an adapter, but others do not");
  std::vector<GenerationCache<float>> caches(2);
  refused({{{1}}}, "generate: there are 2 caches, expected one for each of 1 prompts",
          {.caches = caches});
  config.stop_strings = {"x"};
  refused({{{1}}}, "generate: stop_strings need a tokenizer");
  config = {};
  config.max_length = 3;
  refused({{some_ids(3)}}, "generate: prompts[0] has 3 tokens, expected less than max_length, 3");
  config.top_p = 2;
  refused({{{1}}}, "GenerationConfig: top_p is 2, expected a number from 0 to 1");
}

// LoRAEmbedding has no adapters for each row.
TEST(Generate, RefusesNamedAdaptersOnAnEmbedding) {
  Model model = small_model();
  LoRAConfig config;
  config.target_modules = {"embed_tokens"};
  model.add_adapter("table", config);
  const Prompt prompt{{1}, "one"};
  EXPECT_TRUE(throws<Error>(
      [&] {
        generate(model, {&prompt, 1}, {});
      },
      {"LoRAEmbedding::forward: adapter_names is not supported"}));
}

TEST(Generate, WhatACallbackThrowsLeavesTheCacheGood) {
  const Model model = small_model();
  std::vector<GenerationCache<float>> cache(1);
  const Prompt prompt{some_ids(5)};
  int calls = 0;
  EXPECT_THROW(generate(model, {&prompt, 1}, drawing(9),
                        {.on_token = [&](const NewToken&) -> Streaming {
                           if (++calls == 3) throw std::runtime_error("enough");
                           return Streaming::go_on;
                         },
                         .caches = cache}),
               std::runtime_error);
  EXPECT_EQ(cache[0].keys.length(), 7);
  EXPECT_EQ(cache[0].ids.size(), 7u);
  EXPECT_EQ(generate(model, {&prompt, 1}, drawing(9), {.caches = cache})[0].ids,
            ids_of(model, prompt, drawing(9)));
}

}  // namespace generate_test
