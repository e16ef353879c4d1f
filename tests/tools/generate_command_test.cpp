// generate through its command line: texts of a small trained model, chats, and what it refuses.
#include "../../tools/generate_options.hpp"

#include <gtest/gtest.h>

#include <iostream>
#include <sstream>

#include "support/messages.hpp"
#include "support/shared.hpp"
#include "tools/ran.hpp"

namespace generate_command_test {

using namespace lora_test;
using lora::Index;

Ran generate(const std::vector<std::string>& words, const std::string& input = "") {
  return run_command(tools::run_generate, words, input);
}
void expect_refused(const std::vector<std::string>& words, const std::string& reason) {
  const Ran run = generate(words);
  EXPECT_EQ(run.code, 2);
  EXPECT_EQ(run.out, "");
  EXPECT_TRUE(run.err.starts_with("lora generate: ")) << run.err;
  EXPECT_HAS(run.err, reason);
}
std::string stories() { return (shared_dir() / "data" / "stories260K-hf").string(); }
std::string adapter(const char* name) {
  return (shared_dir() / "golden" / "models" / name / "adapter").string();
}
#define NEEDS_STORIES() LORA_NEEDS_SHARED("data/stories260K-hf")

TEST(GenerateProgram, WritesWhatFollows) {
  NEEDS_STORIES();
  const std::string text = ", there was a little girl named Lily. She loved to play";
  const Ran run =
      generate({"--model", stories(), "--prompt", "Once upon a time", "--max-new-tokens", "200"});
  EXPECT_EQ(run.code, 0) << run.err;
  EXPECT_TRUE(run.out.starts_with(text)) << run.out;
  EXPECT_TRUE(run.out.ends_with("\n"));
  EXPECT_HAS(run.err, "[stopped after 200 tokens]\n[prompt: 5 tokens, ");
  EXPECT_HAS(run.err, " tokens/s]\n");
  // From standard input, an option with _, another storage, and a text that ends the text.
  const Ran short_run = generate(
      {"--model", stories(), "--dtype=bfloat16", "--stop_strings", "Lily", "--threads", "1"},
      "Once upon a time\n");
  EXPECT_EQ(short_run.out, ", there was a little girl named \n");
  EXPECT_EQ(short_run.err.find("stopped"), std::string::npos);
}

TEST(GenerateProgram, ABeginningTokenInThePromptIsNotPutThereAgain) {
  NEEDS_STORIES();
  const auto of = [](const char* prompt) {
    return generate({"--model", stories(), "--prompt", prompt, "--max-new-tokens", "3"});
  };
  EXPECT_HAS(of("<s>Once upon a time").err, "[prompt: 5 tokens, ");
  EXPECT_EQ(of("<s>Once upon a time").out, of("Once upon a time").out);
}

TEST(GenerateProgram, AnEndWithoutATokenIsAStopString) {
  NEEDS_STORIES();
  const Ran run = generate({"--model", stories(), "--chat", "--template", "chatml", "--prompt",
                            "Once", "--max-new-tokens", "3"});
  EXPECT_EQ(run.code, 0) << run.err;
  EXPECT_HAS(run.err,
             "the tokenizer has no token for <|im_end|>, which ends an answer of the "
             "template chatml: generation stops before these characters\n");
}

TEST(GenerateProgram, DrawsBySeed) {
  NEEDS_STORIES();
  const auto of = [](const std::vector<std::string>& more) {
    std::vector<std::string> words{"--model", stories(),          "--prompt",
                                   "Tom",     "--max-new-tokens", "30"};
    words.insert(words.end(), more.begin(), more.end());
    const Ran run = generate(words);
    EXPECT_EQ(run.code, 0) << run.err;
    return run.out;
  };
  EXPECT_EQ(of({"--temperature", "0.9", "--seed", "5"}), of({"--temperature=0.9", "--seed=5"}));
  EXPECT_NE(of({"--temperature", "0.9", "--seed", "5"}), of({"--temperature", "0.9"}));
  EXPECT_EQ(of({"--temperature", "0"}), of({}));
  EXPECT_EQ(of({"--temperature", "0.9", "--greedy"}), of({}));
  EXPECT_NE(of({"--do_sample"}), of({}));
  EXPECT_NE(of({"--temperature", "1.5"}), of({}));
}

TEST(GenerateProgram, EveryPromptWithEveryAdapter) {
  LORA_NEEDS_SHARED("golden/models/stories260K_r4_qv");
  NEEDS_STORIES();
  const std::vector<std::string> names{"all=" + adapter("stories260K_r8_all"),
                                       "qv=" + adapter("stories260K_r4_qv")};
  const auto alone = [&](const std::string& name, const char* prompt) {
    return generate({"--model", stories(), "--adapter", name, "--prompt", prompt,
                     "--max-new-tokens", "12"})
        .out;
  };
  const Ran run = generate({"--model", stories(), "--adapter", names[0], "--adapter", names[1],
                            "--prompt", "Once", "--prompt", "Lily and", "--max-new-tokens", "12"});
  EXPECT_EQ(run.code, 0) << run.err;
  EXPECT_EQ(run.out, "== Once [all]\n" + alone(names[0], "Once") + "== Once [qv]\n" +
                         alone(names[1], "Once") + "== Lily and [all]\n" +
                         alone(names[0], "Lily and") + "== Lily and [qv]\n" +
                         alone(names[1], "Lily and"));
  EXPECT_NE(alone(names[0], "Once"), alone(names[1], "Once"));
  const std::string odd = "\x1B[2J=" + adapter("stories260K_r8_all");
  EXPECT_HAS(generate({"--model", stories(), "--adapter", odd, "--adapter", names[1], "--prompt",
                       "Once", "--max-new-tokens", "1"})
                 .out,
             "== Once [\\x1b[2J]\n");
  EXPECT_HAS(
      generate({"--model", stories(), "--chat", "--template", "plain", "--adapter", odd}, "/what\n")
          .err,
      "there are: \\x1b[2J\n");
  expect_refused({"--model", stories(), "--prompt", "x", "--adapter", names[0], "--adapter",
                  "all=" + adapter("stories260K_r4_qv")},
                 "two adapters are called \"all\"; give this one another name: --adapter NAME=");
}

TEST(GenerateProgram, ChatsLineByLine) {
  LORA_NEEDS_SHARED("golden/models/stories260K_r4_qv");
  NEEDS_STORIES();
  const std::vector<std::string> words{"--model",
                                       stories(),
                                       "--chat",
                                       "--template",
                                       "plain",
                                       "--adapter",
                                       "qv=" + adapter("stories260K_r4_qv"),
                                       "--max-new-tokens",
                                       "15"};
  const auto chat = [&](const std::string& lines) {
    const Ran run = generate(words, lines);
    EXPECT_EQ(run.code, 0);
    return run;
  };
  const std::string first = chat("Once\n").out;
  const Ran two = chat("Once\nThen\n");
  EXPECT_TRUE(two.out.starts_with(first));
  EXPECT_GT(two.out.size(), first.size());
  // Nothing remains of what came before /reset and of the adapter when it is off.
  EXPECT_EQ(chat("Then\n/reset\nOnce\n").out, chat("Then\n").out + first);
  const std::string base = chat("/adapter __base__\nOnce\n").out;
  EXPECT_NE(base, first);
  EXPECT_EQ(chat("Once\n/reset\n/adapter __base__\nOnce\n/reset\n/adapter qv\nOnce\n").out,
            first + base + first);
  const Ran odd = chat("/adapter nope\n/what\n\nOnce\n/quit\nOnce\n");
  EXPECT_EQ(odd.out, first);
  EXPECT_HAS(odd.err, "no adapter is called \"nope\"; there are: qv");
  EXPECT_HAS(odd.err,
             "/adapter NAME  answer with this adapter from now on, __base__: with none; "
             "there are: qv\n");
  // A line that is too long leaves the conversation as it was.
  const Ran too_long = chat(std::string(3000, 'x') + "\nOnce\n");
  EXPECT_HAS(too_long.err, "tokens, the model has 512 positions");
  EXPECT_EQ(too_long.out, first);
}

TEST(GenerateProgram, Refuses) {
  expect_refused({"--prompt", "x"}, "--model is required (see --help)");
  expect_refused({"--model", "nowhere", "--prompt", "x"}, "nowhere: no tokenizer.json");
  expect_refused({"--model", "m", "--dtype", "int8"}, "--dtype");
  expect_refused({"--model", "m", "--top_q", "1"}, "--top-q");
  expect_refused({"--model", "m", "--greedy", "--do-sample"}, "--do-sample excludes --greedy");
  expect_refused({"--model", "m", "--template", "llama3"},
                 "--template and --system are for --chat");
  EXPECT_EQ(generate({"--help"}).code, 0);
  EXPECT_HAS(generate({"--help"}).out, "Exit status: 0 ");
  NEEDS_STORIES();
  expect_refused({"--model", stories(), "--prompt", "x", "--top-p", "3"},
                 "GenerationConfig: top_p is 3, expected a number from 0 to 1");
  expect_refused({"--model", stories(), "--chat"},
                 "the tokenizer's files hold no chat template; choose one by name: ");
  expect_refused({"--model", stories(), "--chat", "--template", "lama"}, "\"lama\" is not known");
  expect_refused({"--model", stories(), "--prompt", "x", "--adapter", "nowhere"}, "nowhere");
}

TEST(GenerateProgram, LostOutputIsAnError) {
  const auto lost = [](const std::vector<std::string>& words) {
    const Ran run = run_onto_full(tools::run_generate, words);
    EXPECT_EQ(run.code, 2);
    EXPECT_HAS(run.err, "lora generate: standard output: could not be written completely");
    return run;
  };
  lost({"--help"});
  NEEDS_STORIES();
  const Ran run = lost({"--model", stories(), "--prompt", "Once", "--max-new-tokens", "200"});
  EXPECT_EQ(run.err.find("text: 200 tokens"), std::string::npos) << "nobody reads the rest";
}

TEST(GenerateProgram, TheCommandLineGoesBeforeTheModelsDefaults) {
  lora::GenerationConfig own;
  own.do_sample = true, own.temperature = 0.6, own.top_k = 20, own.eos_token_id = {2};
  tools::GenerateRequest request;
  lora::GenerationConfig expected = own;
  expected.max_new_tokens = 256;
  EXPECT_EQ(generation_config(request, own), expected);
  own.max_length = 4096;  // of prompt and text, as in transformers
  expected = own;
  EXPECT_EQ(generation_config(request, own), expected);
  request.max_new_tokens = 7, expected.max_new_tokens = 7;
  EXPECT_EQ(generation_config(request, own), expected);
  request.max_new_tokens = {};
  own.max_new_tokens = 9;
  expected.max_new_tokens = 9;
  EXPECT_EQ(generation_config(request, own), expected);
  request.greedy = true;
  expected.do_sample = false;
  EXPECT_EQ(generation_config(request, own), expected);
  request.greedy = false;
  request.temperature = 0, request.eos_token_id = {3, 4}, request.max_length = 30;
  request.min_p = 0.1, request.repetition_penalty = 1.1, request.stop_strings = {"x"};
  expected.eos_token_id = {3, 4}, expected.max_length = 30;
  expected.max_new_tokens = {}, expected.min_p = 0.1, expected.repetition_penalty = 1.1;
  expected.stop_strings = {"x"};
  EXPECT_EQ(generation_config(request, own), expected);
  request.temperature = {}, expected.do_sample = true;  // because of min_p
  EXPECT_EQ(generation_config(request, own), expected);
  request.temperature = -1;
  EXPECT_EQ(message_of<lora::ConfigError>([&] { generation_config(request, own); }),
            "--temperature is -1, expected 0, which takes the most probable token, or a positive "
            "number up to 1e30");
  request.temperature = {};
  request.top_p = -1;
  EXPECT_THROW(generation_config(request, own), lora::ConfigError);
}

TEST(GenerateProgram, NamesOfAdapters) {
  const auto name = [](const char* text) { return tools::adapter_argument(text).first; };
  EXPECT_EQ(name("a=b/c"), "a");
  EXPECT_EQ(name("out/chat/"), "chat");
  EXPECT_EQ(name("out/v1.2"), "v1_2");
  EXPECT_EQ(name("out/x=y"), "x=y");
  EXPECT_EQ(tools::adapter_argument("a=b/c").second, "b/c");
}

}  // namespace generate_command_test
