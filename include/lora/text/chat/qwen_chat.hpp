// The chat templates of the Qwen family: ChatML, Qwen2, Qwen2.5, Qwen3.
#pragma once

#include <lora/text/chat/chat_input.hpp>

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

namespace lora {

namespace chat_formats {

inline void chatml_turn(Rendered& out, const Message& message) {
  const bool trained = message.is_trained();
  out.add("<|im_start|>" + message.role + "\n");
  out.add(said(message), trained);
  out.add_end("<|im_end|>", trained);
  out.add("\n");
}

/// ChatML: <|im_start|>role, the text, <|im_end|>.
inline Rendered chatml(const ChatInput& in) {
  in.expect_no_tools();
  in.expect_no_thinking();
  Rendered out{{}, true};
  for (const Message& message : in.messages()) {
    if (message.role == "text") in.refuse_role(message);
    chatml_turn(out, message);
  }
  if (in.asks()) out.add("<|im_start|>assistant\n");
  return out;
}

/// Qwen2: ChatML with a default system message.
inline Rendered qwen2(const ChatInput& in) {
  Conversation with_system = in.conversation;
  if (with_system.messages.front().role != "system") {
    with_system.messages.insert(with_system.messages.begin(),
                                {"system", "You are a helpful assistant.", "", {}});
  }
  return chatml({with_system, in.options, in.name});
}

// The system turn of Qwen2.5 and Qwen3 if functions may be called.
inline void qwen_tools(const ChatInput& in, const std::string& system, Rendered& out) {
  out.add("<|im_start|>system\n" + system +
          "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are "
          "provided with function signatures within <tools></tools> XML tags:\n<tools>");
  for (const Json& tool : tools_of(in)) out.add("\n" + jinja_json(tool));
  out.add(
      "\n</tools>\n\nFor each function call, return a json object with function name and arguments "
      "within <tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <function-name>, "
      "\"arguments\": <args-json-object>}\n</tool_call><|im_end|>\n");
}

// Renders a turn other than an assistant's, for Qwen2.5 and Qwen3.
inline void qwen_turn(const ChatInput& in, std::size_t i, Rendered& out) {
  const Message& message = in.messages()[i];
  const auto is_tool = [&](std::size_t k) {
    return k < in.messages().size() && in.messages()[k].role == "tool";
  };
  if (message.role == "user" || (message.role == "system" && i > 0)) {
    chatml_turn(out, message);
  } else if (message.role == "tool") {
    if (i == 0 || !is_tool(i - 1)) out.add("<|im_start|>user");
    out.add("\n<tool_response>\n" + message.content + "\n</tool_response>");
    if (!is_tool(i + 1)) out.add("<|im_end|>\n");
  } else if (message.role != "system") {
    in.refuse_role(message);
  }
}

inline std::string qwen_call(const ToolCall& call, const std::string& arguments) {
  return "<tool_call>\n{\"name\": \"" + call.name + "\", \"arguments\": " + arguments +
         "}\n</tool_call>";
}

inline void qwen25_answer(const ChatInput& in, const Message& message, Rendered& out) {
  std::string answer = message.content;
  for (const ToolCall& call : calls_of(in, message))
    answer += (answer.empty() ? "" : "\n") + qwen_call(call, spelled_arguments(call, out));
  out.add("<|im_start|>assistant\n");
  out.add(answer, message.is_trained());
  out.add_end("<|im_end|>", message.is_trained());
  out.add("\n");
}

/// Qwen2.5.
inline Rendered qwen25(const ChatInput& in) {
  in.expect_no_thinking();
  Rendered out{{}, true};
  const Message& first = in.messages().front();
  const std::string system =
      first.role == "system"
          ? first.content
          : "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.";
  if (in.conversation.tools.empty()) {
    out.add("<|im_start|>system\n" + system + "<|im_end|>\n");
  } else {
    qwen_tools(in, system + "\n\n", out);
  }
  for (std::size_t i = 0; i < in.messages().size(); ++i) {
    if (in.messages()[i].role == "assistant") {
      qwen25_answer(in, in.messages()[i], out);
    } else {
      qwen_turn(in, i, out);
    }
  }
  if (in.asks()) out.add("<|im_start|>assistant\n");
  return out;
}

inline std::string_view without_lines_before(std::string_view text) {
  return text.substr(std::min(text.find_first_not_of('\n'), text.size()));
}
inline std::string_view without_lines_behind(std::string_view text) {
  return text.substr(0, text.find_last_not_of('\n') + 1);
}

// An assistant's thinking: a field of its own, or the text before </think>.
struct Thought {
  std::string_view thinking, content;
};
inline Thought thought_of(const Message& message) {
  constexpr std::string_view open = "<think>", close = "</think>";
  const std::string_view content = message.content;
  if (message.thinking) return {*message.thinking, content};
  const std::size_t end = content.find(close);
  if (end == content.npos) return {{}, content};
  std::string_view thinking = without_lines_behind(content.substr(0, end));
  if (const std::size_t begin = thinking.rfind(open); begin != thinking.npos)
    thinking.remove_prefix(begin + open.size());
  return {without_lines_before(thinking),
          without_lines_before(content.substr(content.rfind(close) + close.size()))};
}

// Renders an assistant's turn. Omits the thinking of earlier rounds and always shows the last
// one's.
inline void qwen3_answer(const ChatInput& in, std::size_t i, std::size_t last_query,
                         Rendered& out) {
  const Message& message = in.messages()[i];
  const bool trained = message.is_trained();
  auto [thinking, content] = thought_of(message);
  out.add("<|im_start|>assistant\n");
  if (i > last_query && (i + 1 == in.messages().size() || !thinking.empty())) {
    thinking = without_lines_behind(without_lines_before(thinking));
    // A request without thinking puts the empty thought into the prompt.
    const bool asked = thinking.empty() && !in.conversation.enable_thinking.value_or(true);
    out.add("<think>\n" + std::string(thinking) + "\n</think>\n\n", trained && !asked);
    out.add(without_lines_before(content), trained);
  } else {
    if (!thinking.empty() && trained) ++out.left_out_thinking;
    out.add(content, trained);
  }
  bool begun = !content.empty();
  for (const ToolCall& call : calls_of(in, message)) {
    const bool text = call.arguments.is_string();
    out.add((begun ? "\n" : "") + qwen_call(call, text ? call.arguments.get<std::string>()
                                                       : jinja_json(call.arguments)),
            trained);
    begun = true;
  }
  out.add_end("<|im_end|>", trained);
  out.add("\n");
}

/// Qwen3.
inline Rendered qwen3(const ChatInput& in) {
  Rendered out{{}, true};
  const std::vector<Message>& messages = in.messages();
  const bool has_system = messages.front().role == "system";
  if (!in.conversation.tools.empty()) {
    qwen_tools(in, has_system ? messages.front().content + "\n\n" : "", out);
  } else if (has_system) {
    out.add("<|im_start|>system\n" + messages.front().content + "<|im_end|>\n");
  }
  std::size_t last_query = messages.size() - 1;
  for (std::size_t i = messages.size(); i-- > 0;) {
    const std::string_view text = messages[i].content;
    const bool response = text.substr(0, 15) == "<tool_response>" && text.size() >= 16 &&
                          text.substr(text.size() - 16) == "</tool_response>";
    if (messages[i].role != "user" || response) continue;
    last_query = i;
    break;
  }
  for (std::size_t i = 0; i < messages.size(); ++i) {
    if (messages[i].role == "assistant") {
      qwen3_answer(in, i, last_query, out);
    } else {
      qwen_turn(in, i, out);
    }
  }
  if (in.asks()) {
    out.add("<|im_start|>assistant\n");
    if (!in.conversation.enable_thinking.value_or(true)) out.add("<think>\n\n</think>\n\n");
  }
  return out;
}

}  // namespace chat_formats

}  // namespace lora
