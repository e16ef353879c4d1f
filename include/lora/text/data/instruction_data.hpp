// Reads instruction data: files of Alpaca, chat, ShareGPT, prompt and completion, or plain text.
#pragma once

#include <lora/text/data/message_fields.hpp>
#include <lora/text/data/record_file.hpp>

#include <algorithm>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora {

/// What to do with a record that cannot be read.
enum class BadRecord { stop, skip };

struct DataOptions {
  DataFormat format = DataFormat::automatic;
  RecordKind kind = RecordKind::automatic;
  FieldNames fields;
  BadRecord bad_record = BadRecord::stop;
  RecordLimits limits;
};

struct InstructionData {
  RecordKind kind = RecordKind::automatic;  ///< kind of the first record; each record has its own
  std::vector<Conversation> conversations;
  std::size_t skipped = 0;
  std::vector<std::string> problems;  ///< the first 20 skipped records: "file: line 3: ..."
  /// Fields that are not read, as "id" or "messages[].name", with the number of records that have
  /// them. At most 64; the others are counted under "...".
  std::map<std::string, std::size_t> unused_fields;
};

namespace instruction_data {

inline void add_alpaca(JsonFields& record, const FieldNames& names, Conversation& out) {
  if (record.find(names.history) != nullptr) {
    for (const Json& round : record.array(names.history)) {
      if (!round.is_array() || round.size() != 2 || !round[0].is_string() || !round[1].is_string())
        record.refuse(names.history, "expected a list of [instruction, answer]");
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

/// Adds a prompt and a completion that are texts or lists of messages. Messages of the prompt are
/// not trained unless they say so.
inline void add_prompt(JsonFields& record, const FieldNames& names, Conversation& out,
                       UnusedFields& unused) {
  for (const auto& [name, role] : {std::pair<const std::string&, const char*>{names.prompt, "user"},
                                   {names.completion, "assistant"}}) {
    const std::size_t begin = out.messages.size();
    if (record.need(name).is_array()) {
      out.kind = RecordKind::messages;
      add_messages(record, name, names, out, unused);
    } else {
      out.messages.push_back({role, record.text(name), "", {}});
    }
    for (std::size_t i = begin; name == names.prompt && i < out.messages.size(); ++i)
      out.messages[i].in_prompt = true;
  }
}

/// Adds axolotl's input_output: texts with a label each.
inline void add_segments(JsonFields& record, const FieldNames& names, Conversation& out) {
  for (std::size_t i = 0; i < record.array(names.segments).size(); ++i) {
    JsonFields segment = record.element(names.segments, i);
    segment.need("label");
    out.messages.push_back({"text", segment.text("text"), "", zero_or_one(segment, "label")});
  }
}

/// Returns the kind that the fields of a record show. If no kind fits fully, returns one that lacks
/// a field.
inline RecordKind kind_of(JsonFields& record, const FieldNames& names, const Json& json) {
  const auto has = [&](const std::string& name) {
    const auto found = json.find(name);
    return found != json.end() && !found->is_null();
  };
  if (has(names.messages)) return RecordKind::messages;
  if (has(names.conversations)) return RecordKind::conversations;
  if (has(names.segments)) return RecordKind::segments;
  if (has(names.output) && (has(names.instruction) || has(names.input))) return RecordKind::alpaca;
  if (has(names.prompt) && has(names.completion)) return RecordKind::prompt_completion;
  if (has(names.text)) return RecordKind::text;
  if (has(names.output) || has(names.instruction)) return RecordKind::alpaca;
  if (has(names.prompt) || has(names.completion)) return RecordKind::prompt_completion;
  std::string fields;
  for (const auto& [name, value] : json.items())
    fields += (fields.empty() ? "" : ", ") + printable(name, 40);
  record.refuse("fields", "\"" + printable(fields) + "\" are none of " + names.messages + "; " +
                              names.conversations + "; " + names.instruction + " and " +
                              names.output + "; " + names.prompt + " and " + names.completion +
                              "; " + names.text + "; " + names.segments);
}

/// Reads or rejects the fields that concern the whole record and change what is learned.
inline void read_settings(JsonFields& record, Conversation& out) {
  for (const char* name : {"images", "image", "videos", "video", "audios", "audio"}) {
    if (!says_nothing(record.find(name))) record.refuse(name, "is not supported, only text is");
  }
  for (const char* name : {"reasoning_content", "thinking"}) {
    if (!says_nothing(record.find(name)))
      record.refuse(name, "is not supported here, only in an assistant's message");
  }
  for (const char* name : {"weight", "loss_weight", "sample_weight"}) {
    if (record.find(name) != nullptr && !zero_or_one(record, name))
      record.refuse(name, "0 is not supported for a whole record: remove it from the file");
  }
  if (record.flag("train_on_inputs", false))
    record.refuse("train_on_inputs", "is not supported for one record, only loss_on for all");
  if (!says_nothing(record.find("chat_template")))
    record.refuse("chat_template", "is not supported for one record, only one template for all");
  if (record.find("enable_thinking") != nullptr)
    out.enable_thinking = record.flag("enable_thinking", true);
  if (says_nothing(record.find("chat_template_kwargs"))) return;
  JsonFields settings = record.object("chat_template_kwargs");
  if (settings.find("enable_thinking") != nullptr)
    out.enable_thinking = settings.flag("enable_thinking", true);
  out.date = settings.text("date_string", "");
  settings.expect_no_more();
}

/// Rejects preference records, whose answer may be a bad one: an answer marked as bad (KTO), or two
/// to compare (DPO) unless `names` says which of them is the answer.
inline void refuse_preferences(JsonFields& record, RecordKind kind, const FieldNames& names,
                               UnusedFields& unused) {
  constexpr const char* bad_answer =
      "false marks a bad answer, which would be learned as a good one: leave the record out of the "
      "file";
  if (record.find("kto_tag") != nullptr && !zero_or_one(record, "kto_tag"))
    record.refuse("kto_tag", bad_answer);
  // Elsewhere, a label is a class: of a text, or a number.
  if (const Json* const label = kind == RecordKind::text ? nullptr : record.find("label")) {
    if (*label == false || (kind == RecordKind::prompt_completion && *label == 0))
      record.refuse("label", bad_answer);
    if (!label->is_boolean()) unused.insert("label");
  }
  for (const std::string& name : {names.output, names.completion, names.messages,
                                  names.conversations, names.segments, names.text}) {
    if (name == "chosen" || name == "rejected") return;
  }
  for (const char* name : {"chosen", "rejected"}) {
    if (!says_nothing(record.find(name)))
      record.refuse(name, "is not supported: preferences are not learned");
  }
}

/// Reads the callable functions: "tools", or OpenAI's older "functions".
inline void read_tools(JsonFields& record, const FieldNames& names, Conversation& out) {
  const bool older = !says_nothing(record.find("functions"));
  const Json* const tools = record.find(names.tools);
  if (older && !says_nothing(tools))
    record.refuse("functions", "is not supported together with tools");
  if (older) {
    Json list = Json::array();
    for (const Json& function : record.array("functions"))
      list.push_back({{"type", "function"}, {"function", function}});
    out.tools = list.dump();
  } else if (!says_nothing(tools)) {
    const Json list = tools->is_string()
                          ? parse_json(record.text(names.tools), record.path(names.tools))
                          : *tools;
    if (!list.is_array()) record.fault(names.tools, "an array");
    if (!list.empty()) out.tools = list.dump();
  }
}

/// Adds a system message given beside the messages, before them.
inline void add_system(JsonFields& record, const FieldNames& names, Conversation& out) {
  const std::string system = record.text(names.system, "");
  if (system.empty()) return;
  if (!out.messages.empty() && out.messages[0].role == "system") {
    if (out.messages[0].content != system)
      record.refuse(names.system, "is not supported together with another system message");
    return;
  }
  out.messages.insert(out.messages.begin(), {"system", system, "", {}});
}

/// Rejects a record in which nothing is trained.
inline void expect_answer(const JsonFields& record, const Conversation& conversation) {
  bool left_out = false;
  for (const Message& message : conversation.messages) {
    if ((message.content + message.tool_calls + message.thinking.value_or("")).empty()) continue;
    if (message.is_trained()) return;
    left_out = left_out || message.role == "assistant" || message.role == "text";
  }
  if (!left_out)
    record.refuse("answer", "is missing: no message of the assistant that is not empty");
  record.refuse("answer",
                "is not trained, and nothing else of the record is: its weight, train or label is "
                "0, or it stands in the prompt; leave the record out of the file");
}

/// Reads one record.
/// Throws: FormatError that names the field.
inline Conversation conversation_of(JsonFields& record, RecordKind kind, const FieldNames& names,
                                    UnusedFields& unused) {
  Conversation out;
  out.kind = kind;
  read_tools(record, names, out);
  read_settings(record, out);
  refuse_preferences(record, kind, names, unused);
  switch (kind) {
    case RecordKind::alpaca:
      add_alpaca(record, names, out);
      break;
    case RecordKind::messages:
      add_messages(record, names.messages, names, out, unused);
      break;
    case RecordKind::conversations:
      add_messages(record, names.conversations, names, out, unused);
      break;
    case RecordKind::prompt_completion:
      add_prompt(record, names, out, unused);
      break;
    case RecordKind::segments:
      add_segments(record, names, out);
      break;
    case RecordKind::text:
    case RecordKind::automatic:
      out.messages.push_back({"text", record.text(names.text), "", {}});
  }
  if (kind == RecordKind::text || kind == RecordKind::segments) {
    if (!out.tools.empty()) record.refuse(names.tools, "is not supported together with a text");
  } else {
    add_system(record, names, out);
  }
  record.for_each_other([&](const std::string& name) { unused.insert(name); });
  expect_answer(record, out);
  return out;
}

inline void count_unused(const UnusedFields& unused, InstructionData& data) {
  constexpr std::size_t most = 64;
  for (const std::string& name : unused) {
    const std::string shown = printable(name, 80);
    const bool room = data.unused_fields.size() < most || data.unused_fields.count(shown) != 0;
    ++data.unused_fields[room ? shown : "..."];
  }
}

}  // namespace instruction_data

/// Reads the records of `text`, each by its own kind; `where` names the file in messages. Copies
/// the text of the conversations. Fields that change what is learned are followed or rejected; the
/// names of other fields are listed in `unused_fields`.
/// Throws: FormatError "where: line 3: messages[1].role: ..." for a record that is not JSON or
///   UTF-8, exceeds the limit or lacks what its kind needs, unless bad records are skipped; for a
///   text without records; and if every record was skipped.
inline InstructionData parse_instruction_data(std::string_view text, const std::string& where,
                                              const DataOptions& options = {}) {
  InstructionData data;
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
    data.conversations.push_back(
        {{{"text", std::string(all), "", {}}}, "", RecordKind::text, where});
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
      const RecordKind kind = options.kind == RecordKind::automatic
                                  ? instruction_data::kind_of(fields, options.fields, json)
                                  : options.kind;
      instruction_data::UnusedFields unused;
      data.conversations.push_back(
          instruction_data::conversation_of(fields, kind, options.fields, unused));
      data.conversations.back().place = place;
      instruction_data::count_unused(unused, data);
    } catch (const FormatError& error) {
      if (options.bad_record == BadRecord::stop) throw;
      if (++data.skipped <= 20) data.problems.emplace_back(error.what());
    }
  }
  if (data.conversations.empty())
    throw FormatError(where + ": every record was skipped; the first: " + data.problems.front());
  data.kind = data.conversations.front().kind;
  return data;
}

/// Reads a data file. See parse_instruction_data().
/// Throws: also IoError.
inline InstructionData read_instruction_data(const std::filesystem::path& path,
                                             DataOptions options = {}) {
  if (options.format == DataFormat::automatic) options.format = format_of_name(path);
  const std::vector<std::byte> bytes = read_file(path, options.limits.file_bytes);
  return parse_instruction_data(as_text(bytes), path.string(), options);
}

}  // namespace lora
