// The chat templates of Llama 2, Llama 3 to 3.2 and Mistral.
#pragma once

#include <lora/text/chat/chat_input.hpp>

#include <string>
#include <string_view>
#include <vector>

namespace lora {

namespace chat_formats {

/// Llama 2: [INST] around what the user says, with the system message as <<SYS>> in the first.
inline Rendered llama2(const ChatInput& in) {
  in.expect_no_tools();
  in.expect_no_thinking();
  Rendered out{{}, true};
  std::string system;
  for (std::size_t i = 0; i < in.messages().size(); ++i) {
    const Message& message = in.messages()[i];
    if (message.role == "system" && i == 0) {
      system = "<<SYS>>\n" + message.content + "\n<</SYS>>\n\n";
    } else if (message.role == "user") {
      out.add_begin(in.options.bos_token);
      out.add("[INST] " + system + std::string(stripped(said(message))) + " [/INST]");
      system.clear();
    } else if (message.role == "assistant") {
      out.add(" " + std::string(stripped(message.content)) + " ", message.is_trained());
      out.add_end(in.eos(), message.is_trained());
      system.clear();
    } else {
      in.refuse_role(message);
    }
  }
  return out;
}

inline void llama3_turn(std::string_view role, std::string_view content, bool trained,
                        Rendered& out) {
  out.add("<|start_header_id|>" + std::string(role) + "<|end_header_id|>\n\n");
  out.add(content, trained);
  out.add_end("<|eot_id|>", trained);
}

/// Llama 3: a header with the role, the text, <|eot_id|>.
inline Rendered llama3(const ChatInput& in) {
  in.expect_no_tools();
  in.expect_no_thinking();
  Rendered out{{}, true};
  out.add_begin(in.options.bos_token);
  for (const Message& message : in.messages()) {
    if (message.role == "text") in.refuse_role(message);
    llama3_turn(message.role, stripped(said(message)), message.is_trained(), out);
  }
  if (in.asks()) out.add("<|start_header_id|>assistant<|end_header_id|>\n\n");
  return out;
}

inline void llama31_turn(const ChatInput& in, const Message& message, Rendered& out) {
  if (const std::vector<ToolCall> calls = calls_of(in, message); !calls.empty()) {
    if (calls.size() > 1) in.refuse("This model only supports single tool-calls at once!");
    if (!message.content.empty()) in.refuse("content together with tool_calls is not supported");
    llama3_turn("assistant",
                "{\"name\": \"" + calls[0].name +
                    "\", \"parameters\": " + spelled_arguments(calls[0], out) + "}",
                message.is_trained(), out);
  } else if (message.role == "tool") {
    llama3_turn("ipython", jinja_json(Json(message.content)), false, out);
  } else if (message.role == "text") {
    in.refuse_role(message);
  } else {
    llama3_turn(message.role, stripped(said(message)), message.is_trained(), out);
  }
}

/// Llama 3.1 and 3.2: Llama 3 with dates in a system turn that is always present, and with
/// functions, which are described in the user's first turn.
inline Rendered llama31(const ChatInput& in) {
  in.expect_no_thinking();
  Rendered out{{}, true};
  const std::vector<Message>& messages = in.messages();
  const bool has_system = messages.front().role == "system";
  const bool has_tools = !in.conversation.tools.empty();
  std::string system = has_tools ? "Environment: ipython\n" : "";
  system += "Cutting Knowledge Date: December 2023\nToday Date: " +
            (in.conversation.date.empty() ? in.options.date : in.conversation.date) + "\n\n";
  if (has_system) system += stripped(messages.front().content);
  out.add_begin(in.options.bos_token);
  llama3_turn("system", system, false, out);
  std::size_t i = has_system ? 1 : 0;
  if (has_tools) {
    if (i == messages.size() || messages[i].role != "user")
      in.refuse("tools are described in the user's first turn, and the first turn is not a user's");
    std::string text =
        "Given the following functions, please respond with a JSON for a function call with its "
        "proper arguments that best answers the given prompt.\n\nRespond in the format {\"name\": "
        "function name, \"parameters\": dictionary of argument name and its value}.Do not use "
        "variables.\n\n";
    for (const Json& tool : tools_of(in)) text += jinja_json(tool, 4) + "\n\n";
    text += stripped(said(messages[i++]));
    llama3_turn("user", text, false, out);
  }
  for (; i < messages.size(); ++i) llama31_turn(in, messages[i], out);
  if (in.asks()) out.add("<|start_header_id|>assistant<|end_header_id|>\n\n");
  return out;
}

inline void expect_turns(const ChatInput& in, std::size_t first, const char* message) {
  for (std::size_t i = first; i < in.messages().size(); ++i) {
    if ((in.messages()[i].role == "user") != ((i - first) % 2 == 0)) in.refuse(message);
  }
}
inline constexpr const char* turns_alternate =
    "Conversation roles must alternate user/assistant/user/assistant/...";

/// Llama 2 as shipped with the chat models: as llama2(), but white space before what the user says
/// after a system message stays, and turns must alternate.
inline Rendered llama2_chat(const ChatInput& in) {
  const bool has_system = in.messages().front().role == "system";
  expect_turns(in, has_system ? 1 : 0, turns_alternate);
  Conversation joined = in.conversation;
  if (has_system && joined.messages.size() > 1) {
    Message& first = joined.messages[1];
    first.content = "<<SYS>>\n" + joined.messages[0].content + "\n<</SYS>>\n\n" + first.content;
    joined.messages.erase(joined.messages.begin());
  }
  return llama2({joined, in.options, in.name});
}

// [INST] with spaces, and `behind_answer` after each answer.
inline Rendered mistral_7b(const ChatInput& in, std::string_view behind_answer) {
  in.expect_no_tools();
  in.expect_no_thinking();
  expect_turns(in, 0, turns_alternate);
  Rendered out{{}, true};
  out.add_begin(in.options.bos_token);
  for (const Message& message : in.messages()) {
    if (message.role == "user") {
      out.add("[INST] " + said(message) + " [/INST]");
    } else if (message.role == "assistant") {
      out.add(message.content, message.is_trained());
      out.add_end(in.eos(), message.is_trained());
      out.add(behind_answer);
    } else {
      in.refuse("Only user and assistant roles are supported!");
    }
  }
  return out;
}
/// Mistral 7B Instruct v0.1 and Mixtral.
inline Rendered mistral_v01(const ChatInput& in) { return mistral_7b(in, " "); }
/// Mistral 7B Instruct v0.2.
inline Rendered mistral_v02(const ChatInput& in) { return mistral_7b(in, ""); }

/// Mistral Nemo: [INST] without spaces. As in the original, the system message precedes the last
/// user's turn, and only if that turn ends the conversation.
inline Rendered mistral(const ChatInput& in) {
  in.expect_no_tools();
  in.expect_no_thinking();
  Rendered out{{}, true};
  const std::vector<Message>& messages = in.messages();
  const std::size_t first = messages.front().role == "system" ? 1 : 0;
  expect_turns(in, first,
               "After the optional system message, conversation roles must alternate "
               "user/assistant/user/assistant/...");
  out.add_begin(in.options.bos_token);
  for (std::size_t i = first; i < messages.size(); ++i) {
    const Message& message = messages[i];
    if (message.role == "user") {
      const bool with_system = first == 1 && i + 1 == messages.size();
      out.add("[INST]" + (with_system ? messages.front().content + "\n\n" : "") + said(message) +
              "[/INST]");
    } else if (message.role == "assistant") {
      out.add(message.content, message.is_trained());
      out.add_end(in.eos(), message.is_trained());
    } else {
      in.refuse_role(message);
    }
  }
  return out;
}

}  // namespace chat_formats

}  // namespace lora
