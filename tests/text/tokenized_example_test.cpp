#include <lora/text/data/tokenized_example.hpp>
#include <lora/text/tokenizer/tokenizer_files.hpp>

#include <gtest/gtest.h>

#include "support/shared.hpp"
#include "text/small_tokenizer.hpp"

namespace tokenized_example_test {

using lora::ChatTemplate;
using lora::Conversation;
using lora::Index;
using lora::LossOn;
using lora::TokenizedData;
using lora::TokenizedExample;
using lora::TokenizeOptions;
using lora::Tokenizer;
using lora_test::shared_dir;
using Ids = std::vector<std::int64_t>;

Conversation chat(const std::string& question, const std::string& answer) {
  return {{{"user", question, "", {}}, {"assistant", answer, "", {}}}, ""};
}

// The text of the trained tokens of an example, [ ] around each run.
std::string trained(const TokenizedExample& example, const Tokenizer& tokenizer) {
  std::string out;
  for (std::size_t i = 0; i < example.ids.size();) {
    Ids run;
    for (; i < example.ids.size() && example.labels[i] == example.ids[i]; ++i)
      run.push_back(example.ids[i]);
    if (!run.empty()) out += "[" + tokenizer.decode(run) + "]";
    for (; i < example.ids.size() && example.labels[i] == lora::ignored_label; ++i) {
    }
  }
  return out;
}

TEST(TokenizedExample, TheAnswerAndItsEndTokenAreLabelled) {
  const Tokenizer tokenizer(lora_test::byte_level_spec());
  const TokenizedExample example =
      lora::tokenize(ChatTemplate::named("chatml").render(chat("x", "yz"), {}), tokenizer);
  EXPECT_EQ(example.ids, tokenizer.encode("<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n"
                                          "yz<|im_end|>\n"));
  EXPECT_EQ(trained(example, tokenizer), "[yz<|im_end|>]");
  EXPECT_EQ(example.counted(), 3);
}

TEST(TokenizedExample, ATokenThatReachesIntoTheAnswerCounts) {
  const Tokenizer tokenizer(lora_test::byte_level_spec());
  const lora::Rendered rendered{{{"xa", false}, {"bc", true}, {"a", true}, {"b", false}}, true};
  const TokenizedExample example = lora::tokenize(rendered, tokenizer);
  EXPECT_EQ(example.ids, (Ids{'x', 256, 'c', 256}));
  EXPECT_EQ(example.labels, (Ids{-100, 256, 'c', 256}));
  const lora::Rendered behind{{{"a", true}, {"bx", false}, {"y", true}}, true};
  EXPECT_EQ(lora::tokenize(behind, tokenizer).labels, (Ids{256, -100, 'y'}));
}

TEST(TokenizedExample, TheBeginningTokenComesFromTheTemplateOrTheTokenizer) {
  const Tokenizer tokenizer(lora_test::sentencepiece_spec());
  const auto options = lora::render_options(tokenizer);
  const auto ids = [&](const char* name) {
    return lora::tokenize(ChatTemplate::named(name).render(chat("the", "the"), options), tokenizer)
        .ids;
  };
  EXPECT_EQ(ids("plain"), tokenizer.encode("thethe</s>"));
  EXPECT_EQ(ids("plain").front(), 1);
  EXPECT_EQ(ids("llama2").front(), 1);
  EXPECT_NE(ids("llama2")[1], 1);
}

// Every kind of data with the tokenizer and template that fit, against the definition: the ids are
// those of the whole text, and a label stands where the token's bytes touch a trained stretch.
void expect_masks(const std::filesystem::path& data_file, const std::string& tokenizer_dir,
                  const char* chat_name, std::size_t most) {
  const Tokenizer tokenizer = Tokenizer::open(shared_dir() / "data/tokenizers" / tokenizer_dir);
  lora::InstructionData data = lora::read_instruction_data(data_file);
  data.conversations.resize(std::min(data.conversations.size(), most));
  const ChatTemplate chat = ChatTemplate::named(chat_name);
  const lora::RenderOptions options = lora::render_options(tokenizer);
  for (const Conversation& conversation : data.conversations) {
    const lora::Rendered rendered = chat.render(conversation, options);
    const TokenizedExample example = lora::tokenize(rendered, tokenizer);
    ASSERT_EQ(example.ids,
              tokenizer.encode(rendered.text(), rendered.has_bos ? lora::SpecialTokens::none
                                                                 : lora::SpecialTokens::before));
    std::string answers;
    for (const lora::RenderedPiece& piece : rendered.pieces)
      if (piece.trained) answers += "[" + piece.text + "]";
    ASSERT_EQ(trained(example, tokenizer), answers);
  }
}

TEST(TokenizedExample, MasksOfTheSharedData) {
  LORA_NEEDS_SHARED("data/sft");
  LORA_NEEDS_SHARED("data/tokenizers/qwen2");
  const auto sft = shared_dir() / "data/sft";
  expect_masks(sft / "alpaca_zh_demo.json", "qwen2", "qwen2.5", 300);
  expect_masks(sft / "glaive_toolcall_en_demo.json", "qwen2", "qwen3", 100);
  expect_masks(sft / "v1_sft_demo.jsonl", "qwen2", "chatml", 300);
  expect_masks(sft / "chat_tiny.json", "qwen2", "qwen2", 1);
}

TEST(TokenizedExample, LossOnOtherMessages) {
  const Tokenizer tokenizer(lora_test::byte_level_spec());
  const Conversation two{{{"user", "A", "", {}},
                          {"assistant", "B", "", {}},
                          {"user", "C", "", {}},
                          {"assistant", "D", "", {}}},
                         ""};
  const auto trained_with = [&](LossOn loss_on) {
    TokenizeOptions options;
    options.loss_on = loss_on;
    const TokenizedData data =
        lora::tokenize_all(std::vector{two}, ChatTemplate::named("plain"), tokenizer, options);
    return trained(data.examples.at(0), tokenizer);
  };
  EXPECT_EQ(trained_with(LossOn::answers), "[B<|end|>][D<|end|>]");
  EXPECT_EQ(trained_with(LossOn::last_answer), "[D<|end|>]");
  EXPECT_EQ(trained_with(LossOn::everything), "[AB<|end|>CD<|end|>]");
}

// What is trained of one record with the loss on everything, or why it is refused.
std::string everything_of(const std::string& record, const char* name, const Tokenizer& tokenizer) {
  TokenizeOptions options;
  options.loss_on = LossOn::everything;
  try {
    const auto data = lora::parse_instruction_data(record, "data");
    return trained(
        lora::tokenize_all(data.conversations, ChatTemplate::named(name), tokenizer, options)
            .examples.at(0),
        tokenizer);
  } catch (const lora::ConfigError& error) {
    return error.what();
  }
}

TEST(TokenizedExample, WhatARecordLeavesOutIsLeftOutOfEverythingToo) {
  const Tokenizer tokenizer(lora_test::byte_level_spec());
  const auto chat_of = [](const std::string& user, const std::string& assistant) {
    return R"({"messages": [{"role": "user", "content": "A")" + user +
           R"(}, {"role": "assistant", "content": "B")" + assistant +
           R"(}, {"role": "user", "content": "C"}, {"role": "assistant", "content": "D"}]})";
  };
  const std::string no = ", \"train\": false";
  EXPECT_EQ(everything_of(chat_of("", no), "plain", tokenizer), "[A][CD<|end|>]");
  EXPECT_EQ(everything_of(chat_of(", \"weight\": 0", ""), "plain", tokenizer),
            "[B<|end|>CD<|end|>]");
  EXPECT_EQ(
      everything_of(chat_of("", no), "chatml", tokenizer),
      "[<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\n][\n<|im_start|>user\nC<|im_end|>\n"
      "<|im_start|>assistant\nD<|im_end|>\n]");
  // A prompt is not trained by default only.
  const std::string turns = R"([{"role": "assistant", "content": "B"}])";
  EXPECT_EQ(everything_of("{\"prompt\": " + turns + ", \"completion\": \"D\"}", "plain", tokenizer),
            "[B<|end|>D<|end|>]");
  EXPECT_EQ(everything_of(R"([{"segments": [{"label": 1, "text": "xx"}, {"label": 0, "text": "yy"},
                              {"label": 1, "text": "zz"}]}])",
                          "plain", tokenizer),
            "[xx][zz]");
}

TEST(TokenizedExample, ATurnThatTheTemplateHasNoChoiceForIsRefused) {
  const Tokenizer tokenizer(lora_test::sentencepiece_spec());
  const auto record = [](const char* user) {
    return R"({"messages": [{"role": "user", "content": "the", )" + std::string(user) +
           R"(}, {"role": "assistant", "content": "the"}]})";
  };
  EXPECT_EQ(
      everything_of(record("\"train\": false"), "mistral-v0.1", tokenizer),
      "data: line 1: chat template mistral-v0.1: a message of role \"user\" cannot be left out "
      "(weight, train)");
  EXPECT_EQ(everything_of(record("\"weight\": 1"), "mistral-v0.1", tokenizer).front(), '[');
  const auto answers = [&](const char* user, const char* name) {
    const auto data = lora::parse_instruction_data(record(user), "data");
    try {
      lora::tokenize_all(data.conversations, ChatTemplate::named(name), tokenizer);
    } catch (const lora::ConfigError& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  EXPECT_EQ(
      answers("\"weight\": 1", "mistral-v0.1"),
      "data: line 1: chat template mistral-v0.1: a message of role \"user\" cannot be trained "
      "(weight, train)");
  EXPECT_EQ(answers("\"weight\": 0", "mistral-v0.1"), "accepted");
  EXPECT_EQ(answers("\"weight\": 1", "gemma"), "accepted");
}

TEST(TokenizedExample, TruncationIsFromTheRightAndCounted) {
  const Tokenizer tokenizer(lora_test::byte_level_spec());
  TokenizeOptions options;
  options.max_length = 5;
  const std::vector<Conversation> all = {chat("xx", "y"), chat("xx", "yyyy"), chat("xxxxx", "y"),
                                         chat("xxxx", "yyy")};
  const TokenizedData data =
      lora::tokenize_all(all, ChatTemplate::named("plain"), tokenizer, options);
  ASSERT_EQ(data.examples.size(), 3u);
  EXPECT_EQ(data.examples[0].ids, (Ids{'x', 'x', 'y', 258}));
  EXPECT_EQ(data.examples[1].ids, (Ids{'x', 'x', 'y', 'y', 'y'}));
  EXPECT_EQ(data.examples[2].labels, (Ids{-100, -100, -100, -100, 'y'}));
  EXPECT_EQ(data.report.records, 4);
  EXPECT_EQ(data.report.truncated, 3);
  EXPECT_EQ(data.report.without_answer, 1);
  EXPECT_EQ(data.report.tokens, 14);
  EXPECT_EQ(data.report.counted, 2 + 3 + 1);
  EXPECT_EQ(data.report.longest, 5);
}

TEST(TokenizedExample, ADocumentIsDivided) {
  const Tokenizer tokenizer(lora_test::byte_level_spec());
  TokenizeOptions options;
  options.max_length = 3;
  options.system = "S";
  const std::vector<Conversation> documents = {{{{"text", "xxxxxx", "", {}}}, ""}};
  const TokenizedData data =
      lora::tokenize_all(documents, ChatTemplate::named("plain"), tokenizer, options);
  // The third piece would be the end token alone, which nothing predicts.
  ASSERT_EQ(data.examples.size(), 2u);
  EXPECT_EQ(data.report.ends, 0);
  EXPECT_EQ(data.examples[0].labels, (Ids{'x', 'x', 'x'}));
  EXPECT_EQ(data.report.truncated, 0);
  EXPECT_EQ(data.report.without_answer, 0);
  EXPECT_EQ(data.report.without_label, 0);
  EXPECT_EQ(data.report.counted, 4);
}

TEST(TokenizedExample, ExamplesKnowTheirRecordAndTheirEndsAndAreCountedAnew) {
  const Tokenizer tokenizer(lora_test::byte_level_spec());
  TokenizeOptions options;
  options.max_length = 3;
  const std::vector<Conversation> all = {
      chat("x", "y"), {{{"text", "<|end|>", "", {}}}, ""}, {{{"text", "xxxx", "", {}}}, ""}};
  TokenizedData data = lora::tokenize_all(all, ChatTemplate::named("plain"), tokenizer, options);
  ASSERT_EQ(data.examples.size(), 3u);
  const std::size_t records[] = {0, 2, 2};
  const Index ends[] = {1, 0, 1};
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(data.examples[i].record, records[i]);
    EXPECT_EQ(data.examples[i].ends, ends[i]);
  }
  EXPECT_EQ(data.report.without_label, 1);  // a single token; nothing was cut
  EXPECT_EQ(data.report.without_answer, 0);
  EXPECT_EQ(data.report.ends, 2);
  EXPECT_EQ(data.report.tokens, 8);
  EXPECT_EQ(data.report.counted, 2 + 2 + 1);
  data.examples.erase(data.examples.begin(), data.examples.begin() + 2);
  data.recount();
  EXPECT_EQ(data.report.ends, 1);
  EXPECT_EQ(data.report.tokens, 2);
  EXPECT_EQ(data.report.counted, 1);
  EXPECT_EQ(data.report.longest, 2);
}

TEST(TokenizedExample, SegmentsNeedNoEndToken) {
  lora::TokenizerSpec spec = lora_test::byte_level_spec();
  const auto data = lora::parse_instruction_data(
      R"({"segments": [{"label": 0, "text": "x"}, {"label": 1, "text": "y<|end|>"}]})", "data");
  const lora::RecordTemplates plain(ChatTemplate::named("plain"));
  EXPECT_EQ(lora::tokenize_all(data.conversations, plain, Tokenizer(spec)).report.ends, 1);
  spec.eos_token.reset();
  const TokenizedData none = lora::tokenize_all(data.conversations, plain, Tokenizer(spec));
  EXPECT_EQ(none.examples.at(0).labels, (Ids{-100, 'y', 258}));
  EXPECT_EQ(none.report.ends, 0);
}

TEST(TokenizedExample, ASystemMessageIsAddedWhereThereIsNone) {
  const Tokenizer tokenizer(lora_test::byte_level_spec());
  TokenizeOptions options;
  options.system = "S";
  std::vector<Conversation> all = {chat("x", "y"), chat("x", "y")};
  all[1].messages.insert(all[1].messages.begin(), {"system", "T", "", {}});
  const TokenizedData data =
      lora::tokenize_all(all, ChatTemplate::named("plain"), tokenizer, options);
  EXPECT_EQ(data.examples[0].ids, (Ids{'S', 'x', 'y', 258}));
  EXPECT_EQ(data.examples[1].ids, (Ids{'T', 'x', 'y', 258}));
}

std::string refusal(auto&& call) {
  try {
    call();
  } catch (const lora::ConfigError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(TokenizedExample, RefusalsNameTheRecord) {
  const Tokenizer tokenizer(lora_test::byte_level_spec());
  const auto refused = [&](const Conversation& second, const TokenizeOptions& options,
                           const char* name = "plain") {
    return refusal([&] {
      lora::tokenize_all(std::vector{chat("x", "y"), second}, ChatTemplate::named(name), tokenizer,
                         options);
    });
  };
  TokenizeOptions options;
  options.max_length = 4;
  options.cut_answer = lora::CutAnswer::refuse;
  EXPECT_EQ(refused(chat("xxxx", "y"), options),
            "record 2: the answer begins after the 4 tokens that are kept of 6");
  options = {};
  options.vocab_size = 256;
  EXPECT_EQ(refused(chat("x", "y"), options),
            "record 1: id 258 at position 2, the tokenizer's end token \"<|end|>\", is not below "
            "the model's vocabulary of 256");
  options.vocab_size = 'y';
  EXPECT_EQ(refused(chat("x", "y"), options),
            "record 1: id 121 at position 1 is not below the model's vocabulary of 121");
  options.vocab_size = 256;
  EXPECT_EQ(refused({}, {}), "record 2: chat template plain: the conversation is empty");
  options.max_length = 1;
  EXPECT_EQ(refused({}, options), "max_length is 1, expected 0 (no limit) or at least 2");
  options.max_length = -1;
  EXPECT_EQ(refused({}, options), "max_length is -1, expected 0 (no limit) or at least 2");
}

TEST(TokenizedExample, IdsBeyondTheEmbeddingAreANoticeAndEachIdIsChecked) {
  const Tokenizer tokenizer(lora_test::byte_level_spec());
  EXPECT_EQ(lora::tokenizer_notices(tokenizer, 260),
            std::vector<std::string>{
                "the tokenizer has ids up to 260, but the model's embedding ends at 259; a text "
                "that needs a larger id is rejected"});
  EXPECT_TRUE(lora::tokenizer_notices(tokenizer, 261).empty());
  EXPECT_NO_THROW(lora::expect_ids_below(Ids{0, 4}, 5, "ids"));
  EXPECT_EQ(refusal([&] {
              lora::expect_ids_below(Ids{0, 5}, 5, "ids");
            }),
            "ids: id 5 at position 1 is not below the model's vocabulary of 5");
  EXPECT_EQ(refusal([&] { lora::expect_ids_below(Ids{-1}, 5, "ids"); }),
            "ids: id -1 at position 0 is not below the model's vocabulary of 5");
  const Tokenizer begins(lora_test::sentencepiece_spec());
  EXPECT_EQ(refusal([&] { lora::expect_ids_below(Ids{1}, 1, "ids", &begins); }),
            "ids: id 1 at position 0, the tokenizer's beginning token \"<s>\", is not below the "
            "model's vocabulary of 1");
}

TEST(TokenizedExample, AnEndTokenOutsideTheVocabularyIsRefused) {
  lora::TokenizerSpec spec = lora_test::byte_level_spec();
  spec.eos_token = "xy";
  EXPECT_EQ(refusal([&] { lora::render_options(Tokenizer(spec)); }),
            "the tokenizer's end token \"xy\" is not in its vocabulary");
  spec.eos_token.reset();
  EXPECT_EQ(lora::render_options(Tokenizer(spec)).eos_token, "");
}

// The first conversions of Llama: the special tokens are searched in the normalised text, where
// "</s>" has a mark before it at the beginning of a text only.
Tokenizer with_normalized_tokens() {
  lora::TokenizerSpec spec = lora_test::sentencepiece_spec();
  for (lora::AddedToken& token : spec.added) token.normalized = true;
  return Tokenizer(spec);
}

TEST(TokenizedExample, TheEndOfAnAnswerIsOneIdWhateverItsFlags) {
  const Tokenizer usual(lora_test::sentencepiece_spec()), normalized = with_normalized_tokens();
  ASSERT_NE(normalized.encode("the</s>").back(), 2);
  Conversation two = chat("the", "the cat");
  for (const lora::Message& message : chat("cat", "the").messages) two.messages.push_back(message);
  for (const char* name :
       {"plain", "alpaca", "mistral", "mistral-v0.1", "mistral-v0.2", "llama2"}) {
    const ChatTemplate chat_template = ChatTemplate::named(name);
    const auto ids = [&](const Tokenizer& tokenizer) {
      const TokenizedData data = lora::tokenize_all(std::vector{two}, chat_template, tokenizer);
      EXPECT_EQ(data.report.ends, 2) << name;
      EXPECT_EQ(std::count(data.examples[0].labels.begin(), data.examples[0].labels.end(), 2), 2);
      return data.examples[0];
    };
    EXPECT_EQ(ids(normalized).ids, ids(usual).ids) << name;
    EXPECT_EQ(ids(normalized).labels, ids(usual).labels) << name;
    EXPECT_EQ(lora::answer_end(chat_template, normalized).id, 2) << name;
  }
}

TEST(TokenizedExample, AMarkerInTheVocabularyEndsAnAnswerAlsoWhereItIsNoAddedToken) {
  lora::TokenizerSpec spec = lora_test::byte_level_spec();
  spec.added.pop_back();
  spec.model.vocab.emplace_back("<|im_end|>", 260);
  const Tokenizer tokenizer(spec);
  const TokenizedExample example =
      lora::tokenize(ChatTemplate::named("chatml").render(chat("x", "y"), {}), tokenizer);
  EXPECT_EQ(trained(example, tokenizer), "[y<|im_end|>]");
  EXPECT_EQ(std::count(example.labels.begin(), example.labels.end(), 260), 1);
  EXPECT_EQ(lora::missing_markers(ChatTemplate::named("chatml"), tokenizer),
            std::vector<std::string>{"<|im_end|>"});
}

TEST(TokenizedExample, TheEndOfEveryTemplate) {
  const Tokenizer tokenizer(lora_test::byte_level_spec());
  const std::pair<const char*, const char*> ends[] = {{"chatml", "<|im_end|>"},
                                                      {"qwen2", "<|im_end|>"},
                                                      {"qwen2.5", "<|im_end|>"},
                                                      {"qwen3", "<|im_end|>"},
                                                      {"llama2", "<|end|>"},
                                                      {"llama2-chat", "<|end|>"},
                                                      {"llama3", "<|eot_id|>"},
                                                      {"llama3.1", "<|eot_id|>"},
                                                      {"llama3.2", "<|eot_id|>"},
                                                      {"mistral", "<|end|>"},
                                                      {"mistral-v0.1", "<|end|>"},
                                                      {"mistral-v0.2", "<|end|>"},
                                                      {"gemma", "<end_of_turn>"},
                                                      {"phi3", "<|end|>"},
                                                      {"deepseek-r1", "<｜end▁of▁sentence｜>"},
                                                      {"alpaca", "<|end|>"},
                                                      {"plain", "<|end|>"}};
  std::string names;
  for (const auto& [name, text] : ends) {
    names += (names.empty() ? "" : ", ") + std::string(name);
    const lora::AnswerEnd end = lora::answer_end(ChatTemplate::named(name), tokenizer);
    EXPECT_EQ(end.text, text) << name;
    EXPECT_EQ(end.id, tokenizer.id_of(text)) << name;
  }
  EXPECT_EQ(names, ChatTemplate::names());
  EXPECT_TRUE(lora::missing_markers(ChatTemplate::named("chatml"), tokenizer).empty());
  EXPECT_EQ(lora::missing_markers(ChatTemplate::named("gemma"), tokenizer),
            (std::vector<std::string>{"<start_of_turn>", "<end_of_turn>"}));
}

TEST(TokenizedExample, ATextThatBringsItsTokensGetsNoSecond) {
  const Tokenizer tokenizer(lora_test::sentencepiece_spec());
  const lora::InstructionData data = lora::parse_instruction_data(
      "{\"text\": \"<s>the</s>\"}\n{\"prompt\": \"<s>the\", \"completion\": \" the</s>\"}\n"
      "{\"prompt\": \"the\", \"completion\": \" the\"}\n"
      "{\"segments\": [{\"label\": 0, \"text\": \"the\"}, {\"label\": 1, \"text\": \" the\"}]}",
      "data");
  const TokenizedData out =
      lora::tokenize_all(data.conversations, lora::RecordTemplates(tokenizer), tokenizer);
  const std::int64_t the = *tokenizer.id_of("\u2581the");
  EXPECT_EQ(out.examples[0].ids, (Ids{1, the, 2}));
  EXPECT_EQ(out.examples[1].ids, (Ids{1, the, the, 2}));
  EXPECT_EQ(out.examples[1].labels, (Ids{-100, -100, the, 2}));
  EXPECT_EQ(out.examples[2].ids, (Ids{1, the, the, 2}));
  EXPECT_EQ(out.examples[3].ids, (Ids{the, the}));
  EXPECT_EQ(out.examples[3].labels, (Ids{-100, the}));
  EXPECT_EQ(out.report.brought_begin, 2);
  EXPECT_EQ(out.report.brought_end, 2);
  EXPECT_EQ(out.report.ends, 3);
  EXPECT_EQ(out.report.doubled, 0);
  EXPECT_EQ(lora::prompt_ids("<s>the", tokenizer), (Ids{1, the}));
  EXPECT_EQ(lora::prompt_ids("the", tokenizer), (Ids{1, the}));
  EXPECT_EQ(out.report.spaced, 0);
  // White space beside them makes them none, as in TRL: that is counted.
  const lora::InstructionData spaced = lora::parse_instruction_data(
      "{\"text\": \" <s>the\"}\n{\"prompt\": \"the\", \"completion\": \"the</s>\\n\"}\n"
      "{\"segments\": [{\"label\": 1, \"text\": \" <s>the</s>\\n\"}]}\n{\"text\": \" the\\n\"}",
      "data");
  const TokenizedData both =
      lora::tokenize_all(spaced.conversations, lora::RecordTemplates(tokenizer), tokenizer);
  EXPECT_EQ(both.report.spaced, 2);
  EXPECT_EQ(both.report.brought_begin + both.report.brought_end, 0);
  EXPECT_EQ(std::count(both.examples[0].ids.begin(), both.examples[0].ids.end(), 1), 2);
  EXPECT_EQ(std::count(both.examples[1].ids.begin(), both.examples[1].ids.end(), 2), 2);
  // A chat template renders what transformers renders; that it stands there twice is counted.
  const TokenizedData twice =
      lora::tokenize_all(std::vector{chat("the", "the</s>"), chat("the", "the")},
                         ChatTemplate::named("mistral"), tokenizer);
  EXPECT_EQ(twice.report.doubled, 1);
}

TEST(TokenizedExample, EachRecordIsRenderedByItsOwnKind) {
  lora::TokenizerSpec spec = lora_test::byte_level_spec();
  spec.chat_template =
      "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + "
      "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ "
      "'<|im_start|>assistant\n' }}{% endif %}";
  const Tokenizer tokenizer(spec);
  const std::string list = R"([{"role": "user", "content": "x"}])",
                    answer = R"([{"role": "assistant", "content": "y"}])";
  std::string records[] = {
      R"({"text": "x"})", R"({"prompt": "x", "completion": "y"})",
      "{\"prompt\": " + list + ", \"completion\": " + answer + "}",
      R"({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]})"};
  const std::string rendered =
      "<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\ny<|im_end|>\n";
  const std::string texts[] = {"x<|end|>", "xy<|end|>", rendered, rendered};
  for (const std::vector<std::size_t>& order :
       {std::vector<std::size_t>{0, 1, 2, 3}, {3, 2, 1, 0}}) {
    std::string file;
    for (const std::size_t i : order) file += records[i] + "\n";
    const auto data = lora::parse_instruction_data(file, "data");
    const TokenizedData out =
        lora::tokenize_all(data.conversations, lora::RecordTemplates(tokenizer), tokenizer);
    for (std::size_t i = 0; i < 4; ++i)
      EXPECT_EQ(tokenizer.decode(out.examples[i].ids), texts[order[i]]);
    EXPECT_EQ(out.report.templates, (std::map<std::string, Index>{{"chatml", 2}, {"plain", 2}}));
    // A document has no turns: a template that was named does not change it.
    const TokenizedData named =
        lora::tokenize_all(data.conversations, ChatTemplate::named("chatml"), tokenizer);
    EXPECT_EQ(named.report.templates, (std::map<std::string, Index>{{"chatml", 3}, {"plain", 1}}));
  }
  Conversation setting = chat("x", "y");
  setting.enable_thinking = true;
  setting.place = "f: line 7";
  EXPECT_EQ(lora::tokenize_all(std::vector{setting}, ChatTemplate::named("chatml"), tokenizer)
                .report.unused_settings,
            1);
  setting.messages[1].thinking = "T";
  EXPECT_EQ(refusal([&] {
              lora::tokenize_all(std::vector{setting}, ChatTemplate::named("chatml"), tokenizer);
            }),
            "f: line 7: chat template chatml: reasoning_content (thinking) is not supported: the "
            "template does not show it");
}

TEST(TokenizedExample, TheDefaultTemplate) {
  using lora::RecordKind;
  lora::TokenizerSpec spec = lora_test::byte_level_spec();
  const auto name = [&](RecordKind kind) {
    return std::string(lora::default_template(kind, Tokenizer(spec)).name());
  };
  EXPECT_EQ(name(RecordKind::alpaca), "alpaca");
  EXPECT_EQ(name(RecordKind::text), "plain");
  EXPECT_EQ(name(RecordKind::prompt_completion), "plain");
  EXPECT_EQ(refusal([&] { name(RecordKind::messages); }).substr(0, 82),
            "the tokenizer's files hold no chat template; choose one by name: chatml, qwen2, qw");
  spec.chat_template =
      "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + "
      "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ "
      "'<|im_start|>assistant\n' }}{% endif %}";
  EXPECT_EQ(name(RecordKind::messages), "chatml");
  EXPECT_EQ(name(RecordKind::alpaca), "chatml");
  spec.chat_template = "{{ x }}";
  EXPECT_EQ(refusal([&] { name(RecordKind::alpaca); }).substr(0, 58),
            "the tokenizer's files: the chat template is none of the bu");
}

}  // namespace tokenized_example_test
