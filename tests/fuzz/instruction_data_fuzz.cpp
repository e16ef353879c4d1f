// Instruction data, then, behind a zero byte, letters that choose options. What is read is UTF-8 and
// every chat template renders it and makes examples of it, the same ones each time, or says why not;
// skipping bad records reads no fewer than stopping at them.
#include <lora/io/file.hpp>
#include <lora/text/data/tokenized_example.hpp>
#include <lora/text/unicode.hpp>

#include "fuzz.hpp"
#include "json_mutator.hpp"

namespace {
using namespace lora;
using lora_fuzz::expect;

/// Bytes, a few words and the marks of the templates.
const Tokenizer& small_tokenizer() {
  static const Tokenizer tokenizer = [] {
    TokenizerSpec spec;
    spec.model.where = "small";
    for (std::uint32_t byte = 0; byte < 256; ++byte)
      spec.model.vocab.emplace_back(
          ByteSpelling::instance().spelling(static_cast<std::uint8_t>(byte)), byte);
    const auto merge = [&](const char* left, const char* right) {
      spec.model.vocab.emplace_back(std::string(left) + right,
                                    static_cast<std::uint32_t>(spec.model.vocab.size()));
      spec.model.merges.emplace_back(left, right);
    };
    merge("t", "h");
    merge("th", "e");
    merge("u", "s");
    merge(">",
          "\xC4\x8A");  // with a line end, so that a token reaches from one piece into the next
    spec.split = WordSplit::none;
    auto id = static_cast<std::uint32_t>(spec.model.vocab.size());
    for (const char* mark : {"<|im_start|>", "<|im_end|>", "<s>", "</s>", "[INST]", "<|eot_id|>"}) {
      AddedToken token;
      token.id = id++;
      token.content = mark;
      token.special = true;
      spec.added.push_back(token);
    }
    spec.bos_token = "<s>";
    spec.eos_token = "</s>";
    spec.before = {spec.added[2].id};
    return Tokenizer(std::move(spec));
  }();
  return tokenizer;
}

std::vector<ChatTemplate> all_templates() {
  std::vector<ChatTemplate> all;
  const std::string list = ChatTemplate::names();
  for (std::size_t from = 0, to = 0; to != std::string::npos; from = to + 2) {
    to = list.find(", ", from);
    all.push_back(ChatTemplate::named(list.substr(from, to == std::string::npos ? to : to - from)));
  }
  return all;
}

void expect_utf8(std::string_view text) {
  expect(first_invalid_utf8(text) == text.size(), "not UTF-8");
}

void check(const TokenizedData& data, std::size_t records, const TokenizeOptions& options) {
  const TokenizeReport& report = data.report;
  expect(report.records == static_cast<Index>(records), "not every record was seen");
  Index tokens = 0, counted = 0;
  for (const TokenizedExample& one : data.examples) {
    expect(one.ids.size() == one.labels.size(), "not one label an id");
    expect(options.max_length == 0 || static_cast<Index>(one.ids.size()) <= options.max_length,
           "longer than asked");
    for (std::size_t i = 0; i < one.ids.size(); ++i) {
      expect(one.ids[i] >= 0 && one.ids[i] < small_tokenizer().vocab_size(), "an id that is none");
      expect(one.labels[i] == ignored_label || one.labels[i] == one.ids[i],
             "a label that is not the id");
    }
    tokens += static_cast<Index>(one.ids.size());
    counted += one.counted();
    expect(one.counted() > 0, "an example that teaches nothing");
  }
  expect(tokens == report.tokens && counted == report.counted, "a report that does not add up");
}

struct Choice {
  DataOptions data;
  TokenizeOptions tokens;
  std::size_t twice;  // the template that is tried twice

  explicit Choice(std::string_view letters) {
    const auto at = [&](std::size_t i) {
      return i < letters.size() ? static_cast<unsigned char>(letters[i]) : 0u;
    };
    constexpr DataFormat formats[] = {DataFormat::automatic, DataFormat::json,
                                      DataFormat::json_lines, DataFormat::text};
    data.format = formats[at(0) % 4];
    constexpr LossOn losses[] = {LossOn::answers, LossOn::last_answer, LossOn::everything};
    tokens.loss_on = losses[at(1) % 3];
    constexpr Index lengths[] = {0, 2, 7, 100};
    tokens.max_length = lengths[at(2) % 4];
    if (at(3) % 4 == 1) tokens.system = "s";
    if (at(3) % 4 == 2) tokens.cut_answer = CutAnswer::refuse;
    twice = at(4);
  }
};

void tokenize_with_all(const std::vector<Conversation>& conversations, const Choice& choice) {
  static const std::vector<ChatTemplate> templates = all_templates();
  for (std::size_t i = 0; i < templates.size(); ++i) {
    lora_fuzz::try_input([&] {
      const TokenizedData once =
          tokenize_all(conversations, templates[i], small_tokenizer(), choice.tokens);
      check(once, conversations.size(), choice.tokens);
      if (i != choice.twice % templates.size()) return;
      const TokenizedData again =
          tokenize_all(conversations, templates[i], small_tokenizer(), choice.tokens);
      expect(again.examples.size() == once.examples.size(), "other examples the second time");
      for (std::size_t k = 0; k < once.examples.size(); ++k)
        expect(again.examples[k].ids == once.examples[k].ids &&
                   again.examples[k].labels == once.examples[k].labels,
               "another example the second time");
    });
    lora_fuzz::try_input([&] {
      for (const RenderedPiece& piece : templates[i].render(conversations.front(), {}).pieces)
        expect_utf8(piece.text);
    });
  }
}

void read(std::string_view text, const Choice& choice) {
  DataOptions options = choice.data;
  options.bad_record = BadRecord::skip;
  const InstructionData data = parse_instruction_data(text, "fuzz", options);
  expect(data.kind != RecordKind::automatic && !data.conversations.empty(), "nothing was read");
  for (const std::string& problem : data.problems) lora_fuzz::expect_text(problem);
  for (const Conversation& conversation : data.conversations) {
    for (const Message& message : conversation.messages) expect_utf8(message.content);
  }
  options.bad_record = BadRecord::stop;
  try {
    const InstructionData strict = parse_instruction_data(text, "fuzz", options);
    expect(data.skipped == 0 && strict.conversations.size() == data.conversations.size(),
           "skipping reads another number of records");
  } catch (const FormatError& error) {
    lora_fuzz::expect_message(error);
    expect(data.skipped > 0, "a record is bad only when it is not skipped");
  }
  tokenize_with_all(data.conversations, choice);
}

}  // namespace

std::span<const std::string_view> lora_fuzz::words() {
  static constexpr std::string_view all[] = {"instruction",
                                             "input",
                                             "output",
                                             "system",
                                             "history",
                                             "tools",
                                             "messages",
                                             "role",
                                             "content",
                                             "conversations",
                                             "from",
                                             "value",
                                             "prompt",
                                             "completion",
                                             "text",
                                             "type",
                                             "user",
                                             "human",
                                             "assistant",
                                             "gpt",
                                             "model",
                                             "tool",
                                             "observation",
                                             "function",
                                             "function_call",
                                             "developer",
                                             "tool_calls",
                                             "name",
                                             "arguments",
                                             "weight",
                                             "loss_weight",
                                             "train",
                                             "thinking",
                                             "reasoning_content",
                                             "chosen",
                                             "rejected",
                                             "image_url",
                                             "id",
                                             "parameters",
                                             "<think>",
                                             "</think>",
                                             "<tool_response>",
                                             "</tool_response>",
                                             "<|im_end|>",
                                             "<s>",
                                             "</s>",
                                             "{\"name\":\"f\"}",
                                             "the user",
                                             "enable_thinking",
                                             "chat_template_kwargs"};
  return all;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::vector<std::byte> bytes = lora_fuzz::bytes_of(data, size);
  lora_fuzz::Parts parts(as_text(bytes));
  const std::string_view text = parts.next();
  const Choice choice(parts.rest());
  lora_fuzz::try_input([&] { read(text, choice); });
  return 0;
}
