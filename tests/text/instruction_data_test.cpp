#include <lora/text/data/instruction_data.hpp>

#include <gtest/gtest.h>

#include <fstream>

#include "support/golden.hpp"

namespace instruction_data_test {

using lora::DataOptions;
using lora::InstructionData;
using lora::RecordKind;
using lora_test::shared_dir;

InstructionData parse(std::string_view text, const DataOptions& options = {}) {
  return lora::parse_instruction_data(text, "data", options);
}

// "role=content(input){calls}<thinking>+" of each message, + and - where the record says so or has
// it in its prompt, tools behind.
std::string shown(const InstructionData& data) {
  std::string out;
  for (const lora::Conversation& conversation : data.conversations) {
    for (const lora::Message& message : conversation.messages) {
      out += message.role + "=" + message.content;
      if (!message.input.empty()) out += "(" + message.input + ")";
      if (!message.tool_calls.empty()) out += "{" + message.tool_calls + "}";
      if (message.thinking) out += "<" + *message.thinking + ">";
      if (message.trained || message.in_prompt) out += message.trained.value_or(false) ? "+" : "-";
      out += " ";
    }
    out += conversation.tools + "|";
  }
  return out;
}

std::string refusal(std::string_view text, const DataOptions& options = {}) {
  try {
    parse(text, options);
  } catch (const lora::FormatError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(InstructionData, Alpaca) {
  const InstructionData data = parse(R"([
    {"instruction": "A", "input": "", "output": "B", "id": 7},
    {"instruction": "A", "input": "I", "output": "B", "system": "S", "history": [["C", "D"]]},
    {"instruction": "", "input": "I", "output": "B"},
    {"instruction": "A", "output": "B", "input": null, "history": null}])");
  EXPECT_EQ(data.kind, RecordKind::alpaca);
  EXPECT_EQ(shown(data),
            "user=A assistant=B |system=S user=C assistant=D user=A(I) assistant=B |"
            "user=I assistant=B |user=A assistant=B |");
}

TEST(InstructionData, Messages) {
  const InstructionData data = parse(
      "{\"messages\": [{\"role\": \"system\", \"content\": \"S\"}, {\"role\": \"user\", "
      "\"content\": [{\"type\": \"text\", \"text\": \"A\"}, {\"type\": \"text\", \"value\": "
      "\"B\"}], \"loss_weight\": 0.0}, {\"role\": \"assistant\", \"content\": \"C\", \"weight\": "
      "1}]}\n"
      "{\"messages\": [{\"role\": \"user\", \"content\": \"A\"}, {\"role\": \"assistant\", "
      "\"content\": null, \"tool_calls\": [{\"function\": {\"name\": \"f\", \"arguments\": "
      "\"{\\\"x\\\": 1}\"}}, {\"function\": {\"name\": \"g\", \"arguments\": {}}}]}, {\"role\": "
      "\"tool\", \"content\": \"T\"}, {\"role\": \"assistant\", \"content\": \"C\"}], \"tools\": "
      "[{\"name\": \"f\"}]}\n");
  EXPECT_EQ(data.kind, RecordKind::messages);
  EXPECT_EQ(shown(data),
            "system=S user=AB- assistant=C+ |user=A assistant={[{\"name\":\"f\",\"arguments\":"
            "\"{\\\"x\\\": 1}\"},{\"name\":\"g\",\"arguments\":{}}]} tool=T assistant=C "
            "[{\"name\":\"f\"}]|");
}

TEST(InstructionData, ShareGpt) {
  const InstructionData data = parse(
      R"([{"conversations": [{"from": "human", "value": "A"},
          {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {}}"},
          {"from": "observation", "value": "O"}, {"from": "gpt", "value": "B"}],
          "system": "S", "tools": "[]"}])");
  EXPECT_EQ(data.kind, RecordKind::conversations);
  EXPECT_EQ(shown(data),
            "system=S user=A assistant={[{\"name\":\"f\",\"arguments\":{}}]} tool=O assistant=B |");
}

TEST(InstructionData, PromptAndCompletion) {
  const InstructionData data = parse(
      "{\"prompt\": \"A\", \"completion\": \"B\"}\n{\"prompt\": [{\"role\": \"user\", \"content\": "
      "\"C\"}], \"completion\": [{\"role\": \"assistant\", \"content\": \"D\"}]}");
  EXPECT_EQ(data.kind, RecordKind::prompt_completion);
  EXPECT_EQ(shown(data), "user=A- assistant=B |user=C- assistant=D |");
  EXPECT_EQ(data.conversations[0].kind, RecordKind::prompt_completion);
  EXPECT_EQ(data.conversations[1].kind, RecordKind::messages);
  // TRL: nothing of the prompt is trained, unless a message says so itself.
  EXPECT_EQ(shown(parse(R"([{"prompt": [{"role": "user", "content": "A"}, {"role": "assistant",
      "content": "B"}, {"role": "user", "content": "C", "train": true}], "completion": "D"}])")),
            "user=A- assistant=B- user=C+ assistant=D |");
}

TEST(InstructionData, PlainText) {
  EXPECT_EQ(shown(parse("{\"text\": \"A\"}")), "text=A |");
  DataOptions options;
  options.format = lora::DataFormat::text;
  const InstructionData data = parse("A\n\nB\n", options);
  EXPECT_EQ(data.kind, RecordKind::text);
  EXPECT_EQ(shown(data), "text=A\n\nB\n |");
  EXPECT_EQ(refusal("A\nB\xFF", options), "data: line 2: is not UTF-8");
}

TEST(InstructionData, FieldsMayHaveOtherNames) {
  DataOptions options;
  options.fields.instruction = "question";
  options.fields.output = "answer";
  EXPECT_EQ(shown(parse(R"([{"question": "A", "answer": "B"}])", options)), "user=A assistant=B |");
  options = {};
  options.fields.conversations = "turns";
  options.fields.from = "who";
  options.fields.value = "says";
  EXPECT_EQ(
      shown(parse(R"([{"turns": [{"who": "user", "says": "A"}, {"who": "bot", "says": "B"}]}])",
                  options)),
      "user=A assistant=B |");
}

TEST(InstructionData, TheKindMayBeNamed) {
  const char* const both = R"([{"text": "T", "prompt": "A", "completion": "B"}])";
  EXPECT_EQ(shown(parse(both)), "user=A- assistant=B |");
  DataOptions options;
  options.kind = RecordKind::text;
  EXPECT_EQ(shown(parse(both, options)), "text=T |");
}

TEST(InstructionData, EachRecordHasItsOwnKind) {
  const InstructionData data = parse(R"([{"text": "T"}, {"messages": [{"role": "user", "content":
      "A"}, {"role": "assistant", "content": "B"}]}, {"instruction": "A", "output": "B"},
      {"segments": [{"label": false, "text": "<s>A"}, {"label": true, "text": "B"}]},
      {"prompt": "A", "completion": "B"}])");
  EXPECT_EQ(
      shown(data),
      "text=T |user=A assistant=B |user=A assistant=B |text=<s>A- text=B+ |user=A- assistant=B |");
  EXPECT_EQ(data.kind, RecordKind::text);
  const RecordKind kinds[] = {RecordKind::text, RecordKind::messages, RecordKind::alpaca,
                              RecordKind::segments, RecordKind::prompt_completion};
  for (std::size_t i = 0; i < 5; ++i) EXPECT_EQ(data.conversations[i].kind, kinds[i]);
  EXPECT_EQ(data.conversations[2].place, "data: line 2");
}

std::string with_message(const std::string& fields) {
  return "{\"messages\": [{\"role\": \"user\", \"content\": \"A\"}, {\"role\": \"assistant\", "
         "\"content\": \"B\", " +
         fields + "}]}";
}
const std::string not_trained =
    "answer: is not trained, and nothing else of the record is: its weight, train or label is 0, "
    "or "
    "it stands in the prompt; leave the record out of the file";
std::string with_field(const std::string& field) {
  return "{\"prompt\": \"A\", \"completion\": \"B\", " + field + "}";
}

TEST(InstructionData, WhatOtherProgramsCallTheSameThing) {
  // TRL takes from and value for role and content in either list, and the reverse.
  EXPECT_EQ(shown(parse(R"([{"conversations": [{"role": "user", "content": "A"},
                           {"role": "assistant", "content": "B"}]}])")),
            "user=A assistant=B |");
  EXPECT_EQ(shown(parse(R"([{"messages": [{"from": "human", "value": "A"},
                           {"from": "gpt", "value": "B"}]}])")),
            "user=A assistant=B |");
  for (const char* name : {"reasoning_content", "thinking", "reasoning"}) {
    EXPECT_EQ(shown(parse(with_message("\"" + std::string(name) + "\": \"T\""))),
              "user=A assistant=B<T> |");
  }
  for (const char* flag : {"\"weight\": 1", "\"train\": true", "\"training\": true",
                           "\"loss\": true", "\"loss_weight\": 1.0"}) {
    EXPECT_EQ(shown(parse(with_message(flag))), "user=A assistant=B+ |") << flag;
  }
  EXPECT_EQ(refusal(with_message("\"train\": false")), "data: line 1: " + not_trained);
  // OpenAI's functions and function_call are tools and a tool call.
  EXPECT_EQ(shown(parse(R"([{"messages": [{"role": "user", "content": "A"}, {"role": "assistant",
      "content": null, "function_call": {"name": "f", "arguments": "{}"}}], "functions":
      [{"name": "f"}]}])")),
            "user=A assistant={[{\"name\":\"f\",\"arguments\":\"{}\"}]} "
            "[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]|");
  // A developer is not the system: templates show the two differently.
  EXPECT_EQ(shown(parse(R"([{"messages": [{"role": "developer", "content": "D"},
                           {"role": "assistant", "content": "B"}]}])")),
            "developer=D assistant=B |");
  // A text and calls in one turn.
  EXPECT_EQ(shown(parse(with_message(
                "\"tool_calls\": [{\"id\": \"1\", \"type\": \"function\", \"function\": "
                "{\"name\": \"f\", \"arguments\": {}}}]"))),
            "user=A assistant=B{[{\"name\":\"f\",\"arguments\":{}}]} |");
}

TEST(InstructionData, WhatChangesTheTrainingIsFollowedOrRefused) {
  const std::pair<const char*, const char*> messages[] = {
      {"\"weight\": 0.5", "weight: 0.5 is not supported, only 0 and 1"},
      {"\"weight\": 1, \"train\": false", "train: contradicts another field"},
      {"\"train_detail\": [{\"begin_offset\": 0}]",
       "train_detail: is not supported, only whole messages are left out (\"train\")"},
      {"\"reasoning_content\": 3", "reasoning_content is 3, expected a string"},
      {"\"reasoning_content\": \"x\", \"thinking\": \"y\"", "thinking: contradicts another field"},
      {"\"tool_calls\": [{\"name\": \"f\", \"arguments\": {}}], \"function_call\": {\"name\": "
       "\"f\"}",
       "function_call: is not supported together with tool_calls"}};
  for (const auto& [fields, reason] : messages)
    EXPECT_EQ(refusal(with_message(fields)), "data: line 1: messages[1]." + std::string(reason));
  const std::pair<const char*, const char*> records[] = {
      {"\"images\": [\"a.png\"]", "images: is not supported, only text is"},
      {"\"audio\": \"a.wav\"", "audio: is not supported, only text is"},
      {"\"thinking\": \"T\"", "thinking: is not supported here, only in an assistant's message"},
      {"\"weight\": 0", "weight: 0 is not supported for a whole record: remove it from the file"},
      {"\"sample_weight\": 0.3", "sample_weight: 0.3 is not supported, only 0 and 1"},
      {"\"train_on_inputs\": true",
       "train_on_inputs: is not supported for one record, only loss_on for all"},
      {"\"chat_template\": \"{{ x }}\"",
       "chat_template: is not supported for one record, only one template for all"},
      {"\"chat_template_kwargs\": {\"builtin_tools\": []}",
       "chat_template_kwargs.builtin_tools: is not supported"},
      {"\"tools\": \"{}\"", "tools is \"{}\", expected an array"},
      {"\"tools\": [1], \"functions\": [2]", "functions: is not supported together with tools"}};
  for (const auto& [field, reason] : records)
    EXPECT_EQ(refusal(with_field(field)), "data: line 1: " + std::string(reason));
  EXPECT_EQ(refusal(R"([{"system": "S", "messages": [{"role": "system", "content": "R"},
                        {"role": "assistant", "content": "B"}]}])"),
            "data: line 1: system: is not supported together with another system message");
  EXPECT_EQ(refusal(R"({"text": "T", "tools": [1]})"),
            "data: line 1: tools: is not supported together with a text");
  EXPECT_EQ(refusal(R"({"segments": [{"text": "T"}]})"),
            "data: line 1: segments[0].label is missing");
  // What says nothing is no reason to stop.
  EXPECT_EQ(
      refusal(with_field("\"images\": [], \"thinking\": \"\", \"weight\": 1.0, \"tools\": \"\", "
                         "\"chat_template_kwargs\": {}, \"train_on_inputs\": false")),
      "accepted");
  const InstructionData data = parse(with_field(
      "\"chat_template_kwargs\": {\"enable_thinking\": false, \"date_string\": \"1 May 2025\"}"));
  EXPECT_EQ(data.conversations[0].enable_thinking, false);
  EXPECT_EQ(data.conversations[0].date, "1 May 2025");
}

TEST(InstructionData, PreferencesAreNotLearnedAsGoodAnswers) {
  const std::string bad =
      ": false marks a bad answer, which would be learned as a good one: leave the record out of "
      "the file";
  const std::string list = R"("conversations": [{"from": "gpt", "value": "B"}], )",
                    alpaca = R"("instruction": "A", "output": "B", )";
  for (const std::string field : {"\"label\": false", "\"kto_tag\": false"}) {
    const std::string reason = "data: line 1: " + field.substr(1, field.find(':') - 2) + bad;
    EXPECT_EQ(refusal(with_field(field)), reason);
    EXPECT_EQ(refusal("{" + list + field + "}"), reason);
    EXPECT_EQ(refusal("{" + alpaca + field + "}"), reason);
  }
  EXPECT_EQ(refusal(with_field("\"label\": 0")), "data: line 1: label" + bad);
  EXPECT_EQ(refusal(with_field("\"kto_tag\": 0.5")),
            "data: line 1: kto_tag: 0.5 is not supported, only 0 and 1");
  EXPECT_TRUE(
      parse(with_field("\"label\": true, \"kto_tag\": true, \"chosen\": \"\", \"rejected\": []"))
          .unused_fields.empty());
  // A label that names a class does not mark a bad answer.
  const std::map<std::string, std::size_t> label = {{"label", 1}};
  EXPECT_EQ(parse("{" + alpaca + "\"label\": 0}").unused_fields, label);
  EXPECT_EQ(parse("{\"text\": \"T\", \"label\": false}").unused_fields, label);
  const std::string two = R"("chosen": {"from": "gpt", "value": "C"}, "rejected": "D"})",
                    reason = "data: line 1: chosen: is not supported: preferences are not learned";
  EXPECT_EQ(refusal("{" + list + two), reason);
  EXPECT_EQ(refusal("{" + alpaca + two), reason);
  EXPECT_EQ(refusal("{\"prompt\": \"A\", " + two), reason);
  EXPECT_EQ(refusal("{\"text\": \"A\", " + two), reason);
  EXPECT_EQ(refusal(with_field("\"rejected\": \"D\"")),
            "data: line 1: rejected: is not supported: preferences are not learned");
  DataOptions options;
  options.fields.completion = "chosen";
  EXPECT_EQ(shown(parse(R"({"prompt": "A", "chosen": "C", "rejected": "D"})", options)),
            "user=A- assistant=C |");
}

TEST(InstructionData, FieldsThatNothingLooksAtAreNamedWithTheirRecords) {
  const InstructionData data = parse(with_message("\"name\": \"n\", \"refusal\": null") + "\n" +
                                     R"({"text": "T", "id": 1, "system": "S"})"
                                     "\n"
                                     R"({"text": "T", "id": 2, "label": null})");
  const std::map<std::string, std::size_t> unused = {
      {"id", 2}, {"messages[].name", 1}, {"system", 1}};
  EXPECT_EQ(data.unused_fields, unused);
  std::string many;
  for (int i = 0; i < 70; ++i) many += "{\"text\": \"A\", \"k" + std::to_string(i) + "\": 1}\n";
  EXPECT_EQ(parse(many).unused_fields.size(), 65u);
  EXPECT_EQ(parse(many).unused_fields.at("..."), 6u);
}

TEST(InstructionData, ABadRecordIsNamedByFileLineAndField) {
  const std::string good = "{\"instruction\": \"A\", \"output\": \"B\"}\n";
  EXPECT_EQ(refusal(good + "{\"instruction\": \"A\"}"),
            "data: line 2: output is missing, expected a string");
  EXPECT_EQ(refusal("{\"prompt\": \"A\"}"), "data: line 1: completion is missing");
  EXPECT_EQ(refusal(good + "{\"output\": \"B\"}"),
            "data: line 2: instruction: is missing or empty, and so is input");
  EXPECT_EQ(refusal(good + "{\"instruction\": 3, \"output\": \"B\"}"),
            "data: line 2: instruction is 3, expected a string");
  EXPECT_EQ(refusal(good + "{\"instruction\": \"A\", \"output\": \"\"}"),
            "data: line 2: answer: is missing: no message of the assistant that is not empty");
  EXPECT_EQ(refusal(good + "{\"instruction\": \"A\", \"output\": \"B\", \"history\": [[\"x\"]]}"),
            "data: line 2: history: expected a list of [instruction, answer]");
  EXPECT_EQ(refusal(good + "[1]"), "data: line 2: is array, expected an object");
  EXPECT_EQ(refusal(good + "{\"instruction\": \"A\", \"output\": \"\xFF\"}").substr(0, 46),
            "data: line 2: not valid JSON: byte 32: syntax ");
  EXPECT_EQ(refusal(good + "{\"instruction\"").substr(0, 29), "data: line 2: not valid JSON:");
  const std::string chat = "{\"messages\": [{\"role\": \"user\", \"content\": \"A\"}, ";
  EXPECT_EQ(refusal(chat + "{\"role\": \"robot\", \"content\": \"B\"}]}"),
            "data: line 1: messages[1].role: \"robot\" is not a known role; expected system, "
            "developer, user (human), assistant (gpt), tool (observation), function_call");
  EXPECT_EQ(refusal(chat + "{\"role\": \"assistant\"}]}"),
            "data: line 1: messages[1].content is missing, expected a string");
  EXPECT_EQ(refusal(chat + "{\"role\": \"assistant\", \"content\": [{\"type\": \"image\"}]}]}"),
            "data: line 1: messages[1].content[0].type: \"image\" is not supported, only \"text\"");
  EXPECT_EQ(refusal(chat + "{\"role\": \"assistant\", \"content\": \"B\", \"weight\": 0.5}]}"),
            "data: line 1: messages[1].weight: 0.5 is not supported, only 0 and 1");
  EXPECT_EQ(refusal(chat + "{\"role\": \"assistant\", \"content\": \"B\", \"tool_calls\": [{}]}]}"),
            "data: line 1: messages[1].tool_calls[0].name is missing, expected a string");
  EXPECT_EQ(refusal(chat + "{\"role\": \"assistant\", \"content\": \"B\", \"weight\": 0}]}"),
            "data: line 1: " + not_trained);
  EXPECT_EQ(refusal(chat + "{\"role\": \"assistant\", \"content\": \"\", \"weight\": 0}]}"),
            "data: line 1: answer: is missing: no message of the assistant that is not empty");
  EXPECT_EQ(refusal(R"({"segments": [{"label": false, "text": "A"}]})"),
            "data: line 1: " + not_trained);
  EXPECT_EQ(refusal(R"([{"prompt": [{"role": "assistant", "content": "A"}],
                         "completion": [{"role": "user", "content": "B"}]}])"),
            "data: line 1: " + not_trained);
  EXPECT_EQ(refusal("{\"question\": \"A\", \"answer\": \"B\"}"),
            "data: line 1: fields: \"question, answer\" are none of messages; conversations; "
            "instruction and output; prompt and completion; text; segments");
}

TEST(InstructionData, BadRecordsMayBeSkippedAndAreReported) {
  DataOptions options;
  options.bad_record = lora::BadRecord::skip;
  const InstructionData data = parse("x\n{\"text\": \"A\"}\n{\"text\": 3}\n{\"text\": \"B\"}", [&] {
    DataOptions lines = options;
    lines.format = lora::DataFormat::json_lines;
    return lines;
  }());
  EXPECT_EQ(shown(data), "text=A |text=B |");
  EXPECT_EQ(data.skipped, 2u);
  ASSERT_EQ(data.problems.size(), 2u);
  EXPECT_EQ(data.problems[1], "data: line 3: text is 3, expected a string");
  EXPECT_EQ(
      refusal("{\"text\": 3}", options),
      "data: every record was skipped; the first: data: line 1: text is 3, expected a string");
  std::string many = "{\"text\": \"A\"}\n";
  for (int i = 0; i < 30; ++i) many += "{}\n";
  EXPECT_EQ(parse(many, options).skipped, 30u);
  EXPECT_EQ(parse(many, options).problems.size(), 20u);
}

TEST(InstructionData, AFileWithoutRecordsIsRefused) {
  for (const char* text : {"", " \n\n", "[]", "\xEF\xBB\xBF"})
    EXPECT_EQ(refusal(text), "data: holds no record");
}

TEST(InstructionData, ARecordOfTenMegabytesIsReadAndOneBeyondTheLimitRefused) {
  const std::string text(10'000'000, 'x');
  EXPECT_EQ(parse("{\"text\": \"" + text + "\"}").conversations[0].messages[0].content, text);
  DataOptions options;
  options.limits.record_bytes = 9'000'000;
  EXPECT_EQ(refusal("\n{\"text\": \"" + text + "\"}", options),
            "data: line 2: the record has 10000012 bytes, more than the limit of 9000000");
}

TEST(InstructionData, ReadsFiles) {
  lora_test::TemporaryFolder folder;
  const auto file = folder.path / "a.txt";
  std::ofstream(file) << "[no json";
  EXPECT_EQ(shown(lora::read_instruction_data(file)), "text=[no json |");
  DataOptions options;
  options.limits.file_bytes = 3;
  EXPECT_THROW(lora::read_instruction_data(file, options), lora::FormatError);
  EXPECT_THROW(lora::read_instruction_data(folder.path / "b.json"), lora::IoError);
}

TEST(InstructionData, ReadsTheSharedFiles) {
  LORA_NEEDS_SHARED("data/sft");
  const std::pair<const char*, std::pair<RecordKind, std::size_t>> files[] = {
      {"alpaca_en_demo.json", {RecordKind::alpaca, 999}},
      {"alpaca_zh_demo.json", {RecordKind::alpaca, 1000}},
      {"chat_tiny.json", {RecordKind::conversations, 1}},
      {"glaive_toolcall_en_demo.json", {RecordKind::conversations, 300}},
      {"identity.json", {RecordKind::alpaca, 91}},
      {"instruction-data.json", {RecordKind::alpaca, 1100}},
      {"v1_sft_demo.jsonl", {RecordKind::messages, 500}}};
  for (const auto& [name, expected] : files) {
    const InstructionData data = lora::read_instruction_data(shared_dir() / "data/sft" / name);
    EXPECT_EQ(data.kind, expected.first) << name;
    EXPECT_EQ(data.conversations.size(), expected.second) << name;
  }
}

}  // namespace instruction_data_test
