// What the built-in chat templates share: the conversation they render and what they say of it.
#pragma once

#include <lora/core/error.hpp>
#include <lora/text/conversation.hpp>
#include <lora/text/jinja_json.hpp>
#include <lora/text/unicode.hpp>

#include <string>
#include <string_view>
#include <utility>

namespace LORA_NAMESPACE {

/// What every renderer gets; `name` is the template's, for messages.
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
  }
};

namespace chat_formats {

/// Python's str.strip(): the text without white space at its ends.
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

/// What a user says; Alpaca's input goes below the instruction.
inline std::string said(const Message& message) {
  return message.input.empty() ? message.content : message.content + "\n" + message.input;
}

/// The name and arguments of a function_call.
inline std::pair<std::string, std::string> call_of(const ChatInput& in, const Message& message) {
  const Json call = parse_json(
      message.content, "chat template " + std::string(in.name) + ": content of a function_call");
  if (!call.is_object() || !call.contains("name") || !call["name"].is_string() ||
      !call.contains("arguments"))
    in.refuse("content of a function_call is no JSON object with name and arguments: " +
              printable(message.content));
  const Json& arguments = call["arguments"];
  return {call["name"].get<std::string>(),
          arguments.is_string() ? arguments.get<std::string>() : jinja_json(arguments)};
}

inline Json tools_of(const ChatInput& in) {
  Json tools =
      parse_json(in.conversation.tools, "chat template " + std::string(in.name) + ": tools");
  if (!tools.is_array()) in.refuse("tools are no JSON array");
  return tools;
}

}  // namespace chat_formats

}  // namespace LORA_NAMESPACE
