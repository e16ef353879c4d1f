// Reads the messages of instruction data in the forms of TRL, LLaMA-Factory, axolotl and OpenAI.
#pragma once

#include <lora/io/json_fields.hpp>
#include <lora/text/chat/conversation.hpp>

#include <algorithm>
#include <array>
#include <set>
#include <string>
#include <string_view>
#include <utility>

namespace lora {

/// The names of the fields. The defaults are the usual names.
struct FieldNames {
  std::string instruction = "instruction", input = "input", output = "output";  // Alpaca
  std::string system = "system", history = "history", tools = "tools";
  std::string messages = "messages", role = "role", content = "content";
  std::string conversations = "conversations", from = "from", value = "value";  // ShareGPT
  std::string prompt = "prompt", completion = "completion", text = "text";
  std::string segments = "segments";  // axolotl
};

namespace instruction_data {

/// The names of fields that were not read, as "id" or "messages[].name".
using UnusedFields = std::set<std::string>;

/// Returns the role for one of the names in use.
inline std::string role_of(JsonFields& message, const std::string& field) {
  constexpr std::array<std::pair<std::string_view, std::string_view>, 13> roles = {
      {{"system", "system"},
       {"developer", "developer"},
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
                            " is not a known role; expected system, developer, user (human), "
                            "assistant (gpt), tool (observation), function_call");
}

/// Reads a text, or a list of {"type": "text", "text" or "value": ...}.
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

/// Whether a field says nothing: it is absent, null, "", [] or {}.
inline bool says_nothing(const Json* field) {
  return field == nullptr || (field->is_string() && field->get_ref<const std::string&>().empty()) ||
         (field->is_structured() && field->empty());
}

/// Reads true, false, 1 or 0.
/// Throws: FormatError for any other value, such as a weight between 0 and 1.
inline bool zero_or_one(JsonFields& fields, const std::string& name) {
  const Json& value = fields.need(name);
  if (value.is_boolean()) return value.get<bool>();
  if (!value.is_number() || (value != 0 && value != 1))
    fields.refuse(name, printable(value.dump()) + " is not supported, only 0 and 1");
  return value == 1;
}

/// Returns whether the loss counts a message, if the record says so.
inline std::optional<bool> trained_of(JsonFields& message) {
  std::optional<bool> trained;
  for (const char* name : {"weight", "loss_weight", "train", "training", "loss"}) {
    if (message.find(name) == nullptr) continue;
    const bool value = zero_or_one(message, name);
    if (trained && *trained != value) message.refuse(name, "contradicts another field");
    trained = value;
  }
  for (const char* name : {"train_detail", "training_detail", "mask"}) {
    if (!says_nothing(message.find(name)))
      message.refuse(name, "is not supported, only whole messages are left out (\"train\")");
  }
  return trained;
}

/// Reads the thinking of an assistant's message, under the names that transformers knows.
inline std::optional<std::string> thinking_of(JsonFields& message) {
  std::optional<std::string> thinking;
  for (const char* name : {"reasoning_content", "thinking", "reasoning"}) {
    if (message.find(name) == nullptr) continue;
    const std::string text = message.text(name);
    if (thinking && *thinking != text) message.refuse(name, "contradicts another field");
    thinking = text;
  }
  return thinking;
}

/// Reads {"name", "arguments"}. Arguments given as a string must be JSON too.
inline Json read_call(JsonFields call) {
  Json out;
  out["name"] = call.text("name");
  const Json& arguments = call.need("arguments");
  if (arguments.is_string()) parse_json(call.text("arguments"), call.path("arguments"));
  out["arguments"] = arguments;
  return out;
}

/// Reads OpenAI's tool_calls, or its older function_call.
inline std::string tool_calls_of(JsonFields& message) {
  Json calls = Json::array();
  if (!says_nothing(message.find("tool_calls"))) {
    for (std::size_t i = 0; i < message.array("tool_calls").size(); ++i) {
      JsonFields call = message.element("tool_calls", i);
      calls.push_back(read_call(call.find("function") != nullptr ? call.object("function") : call));
    }
  }
  if (!says_nothing(message.find("function_call"))) {
    if (!calls.empty())
      message.refuse("function_call", "is not supported together with tool_calls");
    calls.push_back(read_call(message.object("function_call")));
  }
  return calls.empty() ? "" : calls.dump();
}

/// Reads ShareGPT's function_call turn: a JSON object, or a list of them, as text.
inline std::string spelled_calls(JsonFields& message, const std::string& field) {
  const std::string where = message.path(field), text = content_of(message, field);
  const Json parsed = parse_json(text, where);
  Json list = parsed.is_array() ? parsed : Json::array({parsed});
  Json calls = Json::array();
  for (const Json& call : list) calls.push_back(read_call(JsonFields(call, where)));
  if (calls.empty()) message.refuse(field, "holds no call");
  return calls.dump();
}

/// Reads the messages of a list, with "role" and "content" or "from" and "value" in either kind.
inline void add_messages(JsonFields& record, const std::string& list, const FieldNames& names,
                         Conversation& out, UnusedFields& unused) {
  for (std::size_t i = 0; i < record.array(list).size(); ++i) {
    JsonFields message = record.element(list, i);
    const bool sharegpt = list == names.conversations;
    const auto pick = [&](const std::string& usual, const std::string& other) {
      return message.find(usual) == nullptr && message.find(other) != nullptr ? other : usual;
    };
    const std::string role = sharegpt ? pick(names.from, names.role) : pick(names.role, names.from);
    const std::string content =
        sharegpt ? pick(names.value, names.content) : pick(names.content, names.value);
    Message read{role_of(message, role), "", "", trained_of(message)};
    if (read.role == "function_call") {
      read.role = "assistant";
      read.tool_calls = spelled_calls(message, content);
      message.ignore(content);
    } else {
      if (read.role == "assistant") read.tool_calls = tool_calls_of(message);
      if (read.tool_calls.empty() || !says_nothing(message.find(content)))
        read.content = content_of(message, content);
    }
    if (read.role == "assistant") read.thinking = thinking_of(message);
    if (read.role == "tool") message.ignore("tool_call_id");
    message.for_each_other([&](const std::string& name) { unused.insert(list + "[]." + name); });
    out.messages.push_back(std::move(read));
  }
}

}  // namespace instruction_data

}  // namespace lora
