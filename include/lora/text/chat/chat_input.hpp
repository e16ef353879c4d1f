// What the built-in chat templates share: their input and its checks.
#pragma once

#include <lora/core/error.hpp>
#include <lora/io/python_json.hpp>
#include <lora/text/chat/conversation.hpp>
#include <lora/text/unicode.hpp>

#include <string>
#include <string_view>
#include <vector>

namespace lora {

/// The input of every renderer. `name` is the name of the template, for messages.
struct ChatInput {
  const Conversation& conversation;
  const RenderOptions& options;
  std::string_view name;

  const std::vector<Message>& messages() const { return conversation.messages; }
  bool asks() const { return options.generation_prompt == GenerationPrompt::yes; }
  [[noreturn]] void refuse(const std::string& what) const {
    throw ConfigError("chat template " + std::string(name) + ": " + what);
  }
  [[noreturn]] void refuse_role(const Message& message) const {
    refuse("role " + in_quotes(message.role) + " is not supported at this place");
  }
  void expect_no_tools() const {
    if (!conversation.tools.empty()) refuse("tools are not supported");
    for (const Message& message : messages()) {
      if (!message.tool_calls.empty()) refuse("tool_calls are not supported");
    }
  }
  /// For templates that do not show an assistant's thinking.
  void expect_no_thinking() const {
    for (const Message& message : messages()) {
      if (!message.thinking.value_or("").empty())
        refuse("reasoning_content (thinking) is not supported: the template does not show it");
    }
  }
  /// Returns the end token, which is trained after an answer.
  const std::string& eos() const {
    if (options.eos_token.empty())
      refuse("ends an answer with the tokenizer's end token, and the tokenizer names none");
    return options.eos_token;
  }
};

namespace chat_formats {

/// Returns the text without white space at its ends, like Python's str.strip().
inline std::string_view stripped(std::string_view text) {
  const auto is_space = [](char32_t c) {
    return Unicode::instance().class_of(c) == CharClass::space || (c >= 0x1C && c <= 0x1F);
  };
  while (!text.empty()) {
    std::size_t end = 0;
    if (!is_space(detail::next_code_point(text, end))) break;
    text.remove_prefix(end);
  }
  while (!text.empty()) {
    std::size_t begin = text.size() - 1;
    while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xC0u) == 0x80u) --begin;
    std::size_t end = begin;
    if (!is_space(detail::next_code_point(text, end)) || end != text.size()) break;
    text.remove_suffix(text.size() - begin);
  }
  return text;
}

/// Returns what a user says; Alpaca's input follows the instruction.
inline std::string said(const Message& message) {
  return message.input.empty() ? message.content : message.content + "\n" + message.input;
}

/// A call of a function.
struct ToolCall {
  std::string name;
  Json arguments;  ///< a JSON object, or a string that holds one
};

/// Returns the calls in an assistant's message, possibly none.
inline std::vector<ToolCall> calls_of(const ChatInput& in, const Message& message) {
  std::vector<ToolCall> calls;
  if (message.tool_calls.empty()) return calls;
  const Json list =
      parse_json(message.tool_calls, "chat template " + std::string(in.name) + ": tool_calls");
  if (!list.is_array()) in.refuse("tool_calls is not a JSON array");
  for (const Json& call : list) {
    if (!call.is_object() || !call.contains("name") || !call["name"].is_string() ||
        !call.contains("arguments"))
      in.refuse("a tool call is not a JSON object with name and arguments: " +
                printable(call.dump()));
    calls.push_back({call["name"].get<std::string>(), call["arguments"]});
  }
  return calls;
}

/// Formats `value` as the filter tojson does.
inline std::string jinja_json(const Json& value, std::size_t indent = 0) {
  return json_dumps(value, {.indent = indent, .ensure_ascii = false});
}

/// Returns the arguments of a call as the filter tojson writes them. A string gets quotes, which
/// `out` counts.
inline std::string spelled_arguments(const ToolCall& call, Rendered& out) {
  if (call.arguments.is_string()) ++out.quoted_arguments;
  return jinja_json(call.arguments);
}

inline Json tools_of(const ChatInput& in) {
  Json tools =
      parse_json(in.conversation.tools, "chat template " + std::string(in.name) + ": tools");
  if (!tools.is_array()) in.refuse("tools is not a JSON array");
  return tools;
}

}  // namespace chat_formats

}  // namespace lora
