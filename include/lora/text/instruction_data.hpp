// Instruction data: files of Alpaca, chat, ShareGPT, prompt and completion, or plain text.
#pragma once

#include <lora/text/conversation.hpp>
#include <lora/text/json_fields.hpp>
#include <lora/text/record_file.hpp>

#include <algorithm>
#include <array>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace LORA_NAMESPACE {

/// What a record is made of; automatic: what the fields of the first one show.
enum class RecordKind { automatic, alpaca, messages, conversations, prompt_completion, text };

/// What each field is called; the defaults are the usual names.
struct FieldNames {
  std::string instruction = "instruction", input = "input", output = "output";  // Alpaca
  std::string system = "system", history = "history", tools = "tools";
  std::string messages = "messages", role = "role", content = "content";
  std::string conversations = "conversations", from = "from", value = "value";  // ShareGPT
  std::string prompt = "prompt", completion = "completion", text = "text";
};

/// What to do about a record that cannot be read.
enum class BadRecord { stop, skip };

struct DataOptions {
  DataFormat format = DataFormat::automatic;
  RecordKind kind = RecordKind::automatic;
  FieldNames fields;
  BadRecord bad_record = BadRecord::stop;
  RecordLimits limits;
};

struct InstructionData {
  RecordKind kind = RecordKind::automatic;
  std::vector<Conversation> conversations;
  std::size_t skipped = 0;
  std::vector<std::string> problems;  ///< of the first 20 that were skipped: "file: line 3: ..."
};

namespace instruction_data {

/// The role that stands for one of the names in use.
inline std::string role_of(JsonFields& message, const std::string& field) {
  constexpr std::array<std::pair<std::string_view, std::string_view>, 13> roles = {
      {{"system", "system"},
       {"developer", "system"},
       {"user", "user"},
       {"human", "user"},
       {"assistant", "assistant"},
       {"gpt", "assistant"},
       {"model", "assistant"},
       {"bot", "assistant"},
       {"tool", "tool"},
       {"observation", "tool"},
       {"ipython", "tool"},
       {"function", "tool"},
       {"function_call", "function_call"}}};
  const std::string name = message.text(field);
  for (const auto& [known, role] : roles) {
    if (name == known) return std::string(role);
  }
  message.refuse(field, in_quotes(name) +
                            " is no role that is known: system, user (human), "
                            "assistant (gpt), tool (observation), function_call");
}

/// A text, or a list of {"type": "text", "text" or "value": ...}.
inline std::string content_of(JsonFields& message, const std::string& field) {
  const Json* const content = message.find(field);
  if (content == nullptr || !content->is_array()) return message.text(field);
  std::string all;
  for (std::size_t i = 0; i < content->size(); ++i) {
    JsonFields part = message.element(field, i);
    if (const std::string type = part.text("type"); type != "text")
      part.refuse("type", in_quotes(type) + " is not supported, only \"text\"");
    all += part.text(part.find("text") != nullptr ? "text" : "value");
  }
  return all;
}

/// Whether the loss counts a message, where the record says so: a weight of 0 or 1.
inline std::optional<bool> trained_of(JsonFields& message) {
  for (const char* name : {"loss_weight", "weight"}) {
    const Json* const weight = message.find(name);
    if (weight == nullptr) continue;
    if (!weight->is_number() || (*weight != 0 && *weight != 1))
      message.refuse(name, printable(weight->dump()) + " is not supported, only 0 and 1");
    return *weight == 1;
  }
  return std::nullopt;
}

/// OpenAI's tool_calls as function_call messages.
inline void add_calls(JsonFields& message, std::optional<bool> trained, Conversation& out) {
  for (std::size_t i = 0; i < message.array("tool_calls").size(); ++i) {
    JsonFields call = message.element("tool_calls", i).object("function");
    Json content;
    content["name"] = call.text("name");
    const Json& arguments = call.need("arguments");
    content["arguments"] = arguments.is_string()
                               ? parse_json(call.text("arguments"), call.path("arguments"))
                               : arguments;
    out.messages.push_back({"function_call", content.dump(), "", trained});
  }
}

inline void add_messages(JsonFields& record, const std::string& list, const std::string& role,
                         const std::string& content, Conversation& out) {
  for (std::size_t i = 0; i < record.array(list).size(); ++i) {
    JsonFields message = record.element(list, i);
    const std::string speaker = role_of(message, role);
    const std::optional<bool> trained = trained_of(message);
    if (message.find("tool_calls") != nullptr && !message.array("tool_calls").empty()) {
      if (message.find(content) != nullptr && !content_of(message, content).empty())
        message.refuse("tool_calls", "beside a text is not supported");
      add_calls(message, trained, out);
    } else {
      out.messages.push_back({speaker, content_of(message, content), "", trained});
    }
  }
}

inline void add_alpaca(JsonFields& record, const FieldNames& names, Conversation& out) {
  if (record.find(names.history) != nullptr) {
    for (const Json& round : record.array(names.history)) {
      if (!round.is_array() || round.size() != 2 || !round[0].is_string() || !round[1].is_string())
        record.refuse(names.history, "is no list of [instruction, answer]");
      out.messages.push_back({"user", round[0].get<std::string>(), "", {}});
      out.messages.push_back({"assistant", round[1].get<std::string>(), "", {}});
    }
  }
  Message asked{"user", record.text(names.instruction, ""), record.text(names.input, ""), {}};
  if (asked.content.empty()) asked.content.swap(asked.input);
  if (asked.content.empty())
    record.refuse(names.instruction, "is missing or empty, and so is " + names.input);
  out.messages.push_back(std::move(asked));
  out.messages.push_back({"assistant", record.text(names.output), "", {}});
}

inline void add_prompt(JsonFields& record, const FieldNames& names, Conversation& out) {
  for (const auto& [name, role] : {std::pair<const std::string&, const char*>{names.prompt, "user"},
                                   {names.completion, "assistant"}}) {
    if (record.need(name).is_array()) {
      add_messages(record, name, names.role, names.content, out);
    } else {
      out.messages.push_back({role, record.text(name), "", {}});
    }
  }
}

/// The kind that the fields of a record show.
inline RecordKind kind_of(JsonFields& record, const FieldNames& names, const Json& json) {
  const auto has = [&](const std::string& name) { return record.find(name) != nullptr; };
  if (has(names.messages)) return RecordKind::messages;
  if (has(names.conversations)) return RecordKind::conversations;
  if (has(names.output) && (has(names.instruction) || has(names.input))) return RecordKind::alpaca;
  if (has(names.prompt) && has(names.completion)) return RecordKind::prompt_completion;
  if (has(names.text)) return RecordKind::text;
  std::string fields;
  for (const auto& [name, value] : json.items())
    fields += (fields.empty() ? "" : ", ") + printable(name, 40);
  record.refuse("fields", "\"" + printable(fields) + "\" are none of " + names.messages + "; " +
                              names.conversations + "; " + names.instruction + " and " +
                              names.output + "; " + names.prompt + " and " + names.completion +
                              "; " + names.text);
}

/// One record. Throws FormatError naming the field.
inline Conversation conversation_of(JsonFields& record, RecordKind kind, const FieldNames& names) {
  Conversation out;
  if (const Json* const tools = record.find(names.tools); tools != nullptr) {
    const std::string text = tools->is_string() ? record.text(names.tools) : tools->dump();
    if (text != "[]") out.tools = text;
  }
  if (const std::string system = record.text(names.system, ""); !system.empty())
    out.messages.push_back({"system", system, "", {}});
  switch (kind) {
    case RecordKind::alpaca:
      add_alpaca(record, names, out);
      break;
    case RecordKind::messages:
      add_messages(record, names.messages, names.role, names.content, out);
      break;
    case RecordKind::conversations:
      add_messages(record, names.conversations, names.from, names.value, out);
      break;
    case RecordKind::prompt_completion:
      add_prompt(record, names, out);
      break;
    case RecordKind::text:
    case RecordKind::automatic:
      out.messages.push_back({"text", record.text(names.text), "", {}});
  }
  const auto counts = [](const Message& m) { return m.is_trained() && !m.content.empty(); };
  if (std::none_of(out.messages.begin(), out.messages.end(), counts))
    record.refuse("answer", "is missing: no message of the assistant that is not empty");
  return out;
}

}  // namespace instruction_data

/// Reads the records of `text`; `where` names the file in messages. All in one piece: the text of
/// the conversations is copied. Throws FormatError "where: line 3: messages[1].role: ..." for a
/// record that is no JSON, not UTF-8, larger than the limit or without what its kind needs (unless
/// it is to be skipped), for a text without records, and when every record was skipped.
inline InstructionData parse_instruction_data(std::string_view text, const std::string& where,
                                              const DataOptions& options = {}) {
  InstructionData data;
  data.kind = options.kind;
  RecordScanner records(text, options.format, where);
  if (records.done()) throw FormatError(where + ": holds no record");
  if (records.format() == DataFormat::text) {
    const std::string_view all = records.next().text;
    if (const std::size_t bad = first_invalid_utf8(all); bad < all.size()) {
      throw FormatError(
          where + ": line " +
          std::to_string(
              1 + std::count(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(bad), '\n')) +
          ": is not UTF-8");
    }
    data.kind = RecordKind::text;
    data.conversations.push_back({{{"text", std::string(all), "", {}}}, ""});
    return data;
  }
  while (!records.done()) {
    const Record record = records.next();
    const std::string place = where + ": line " + std::to_string(record.line);
    try {
      if (record.text.size() > options.limits.record_bytes) {
        throw FormatError(place + ": the record has " + std::to_string(record.text.size()) +
                          " bytes, more than the limit of " +
                          std::to_string(options.limits.record_bytes));
      }
      const Json json = parse_json(record.text, place);
      JsonFields fields(json, place);
      if (data.kind == RecordKind::automatic)
        data.kind = instruction_data::kind_of(fields, options.fields, json);
      data.conversations.push_back(
          instruction_data::conversation_of(fields, data.kind, options.fields));
    } catch (const FormatError& error) {
      if (options.bad_record == BadRecord::stop) throw;
      if (++data.skipped <= 20) data.problems.emplace_back(error.what());
    }
  }
  if (data.conversations.empty())
    throw FormatError(where + ": every record was skipped; the first: " + data.problems.front());
  return data;
}

/// Reads a data file; see parse_instruction_data. Throws IoError too.
inline InstructionData read_instruction_data(const std::filesystem::path& path,
                                             DataOptions options = {}) {
  if (options.format == DataFormat::automatic) options.format = format_of_name(path);
  const std::vector<std::byte> bytes = read_file(path, options.limits.file_bytes);
  return parse_instruction_data(as_text(bytes), path.string(), options);
}

}  // namespace LORA_NAMESPACE
