// The chat templates of Gemma, Phi 3 and DeepSeek-R1's distillations, Alpaca's prompt, and plain
// text.
#pragma once

#include <lora/text/chat/chat_input.hpp>

#include <string>
#include <string_view>
#include <vector>

namespace lora {

namespace chat_formats {

/// Gemma 1 and 2.
inline Rendered gemma(const ChatInput& in) {
  in.expect_no_tools();
  in.expect_no_thinking();
  Rendered out{{}, true};
  if (in.messages().front().role == "system") in.refuse("System role not supported");
  out.add_begin(in.options.bos_token);
  for (std::size_t i = 0; i < in.messages().size(); ++i) {
    const Message& message = in.messages()[i];
    if ((message.role == "user") != (i % 2 == 0))
      in.refuse("Conversation roles must alternate user/assistant/user/assistant/...");
    if (message.role != "user" && message.role != "assistant") in.refuse_role(message);
    out.add(std::string("<start_of_turn>") + (message.role == "user" ? "user" : "model") + "\n");
    out.add(stripped(said(message)), message.is_trained());
    out.add_end("<end_of_turn>", message.is_trained());
    out.add("\n");
  }
  if (in.asks()) out.add("<start_of_turn>model\n");
  return out;
}

/// Phi 3.5.
inline Rendered phi3(const ChatInput& in) {
  in.expect_no_tools();
  in.expect_no_thinking();
  Rendered out{{}, true};
  for (const Message& message : in.messages()) {
    if (message.role != "system" && message.role != "user" && message.role != "assistant")
      in.refuse_role(message);
    if (message.role == "system" && message.content.empty()) continue;
    out.add("<|" + message.role + "|>\n");
    out.add(said(message), message.is_trained());
    out.add_end("<|end|>", message.is_trained());
    out.add("\n");
  }
  if (in.asks()) {
    out.add("<|assistant|>\n");
  } else {
    out.add_end(in.eos(), false);
  }
  return out;
}

/// DeepSeek-R1 distilled into Qwen or Llama.
inline Rendered deepseek_r1(const ChatInput& in) {
  in.expect_no_tools();
  in.expect_no_thinking();
  Rendered out{{}, true};
  std::string system;
  for (const Message& message : in.messages()) {
    if (message.role == "system") system = message.content;
  }
  out.add_begin(in.options.bos_token);
  out.add(system);
  for (const Message& message : in.messages()) {
    if (message.role == "user") {
      out.add("<｜User｜>" + said(message));
    } else if (message.role == "assistant") {
      constexpr std::string_view close = "</think>";
      const std::size_t thought = message.content.rfind(close);
      out.add("<｜Assistant｜>");
      out.add(std::string_view(message.content)
                  .substr(thought == std::string::npos ? 0 : thought + close.size()),
              message.is_trained());
      out.add_end("<｜end▁of▁sentence｜>", message.is_trained());
      if (thought != std::string::npos && message.is_trained()) ++out.left_out_thinking;
    } else if (message.role != "system") {
      in.refuse_role(message);
    }
  }
  if (in.asks()) out.add("<｜Assistant｜><think>\n");
  return out;
}

// Adds a text and the end token, unless the text already ends with it. As in TRL, white space after
// that token makes a second one necessary.
inline void add_ended(const ChatInput& in, std::string_view text, bool trained, Rendered& out) {
  const std::string& end = in.eos();
  if (text.ends_with(end)) {
    text.remove_suffix(end.size());
    out.brought_end = true;
  } else if (stripped(text).ends_with(end)) {
    out.spaced_end = true;
  }
  out.add(text, trained);
  out.add_end(end, trained);
}

/// The prompt of Stanford Alpaca (train.py). A system message replaces its first sentences. The
/// answer follows "### Response:" directly and ends with the end token.
inline Rendered alpaca(const ChatInput& in) {
  in.expect_no_tools();
  in.expect_no_thinking();
  in.eos();
  Rendered out;
  std::string intro;
  for (const Message& message : in.messages()) {
    if (message.role == "system" && &message == &in.messages().front()) {
      intro = message.content + "\n\n";
    } else if (message.role == "user") {
      const bool input = !message.input.empty();
      if (intro.empty()) {
        intro = input ? "Below is an instruction that describes a task, paired with an input that "
                        "provides further context. Write a response that appropriately completes "
                        "the request.\n\n"
                      : "Below is an instruction that describes a task. Write a response that "
                        "appropriately completes the request.\n\n";
      }
      out.add((out.pieces.empty() ? intro : "\n\n") + "### Instruction:\n" + message.content +
              (input ? "\n\n### Input:\n" + message.input : "") + "\n\n### Response:");
    } else if (message.role == "assistant") {
      add_ended(in, message.content, message.is_trained(), out);
    } else {
      in.refuse_role(message);
    }
  }
  return out;
}

/// axolotl's segments, which contain all tokens themselves.
inline Rendered segments(const ChatInput& in) {
  Rendered out{{}, true};
  for (const Message& message : in.messages()) {
    if (message.role != "text") in.refuse_role(message);
    out.add(message.content, message.is_trained());
  }
  return out;
}

/// No template: concatenates what was said. An answer or a document ends with the end token, unless
/// it has one already. Segments are unchanged.
inline Rendered plain(const ChatInput& in) {
  if (in.conversation.kind == RecordKind::segments) return segments(in);
  in.expect_no_tools();
  in.expect_no_thinking();
  in.eos();
  Rendered out;
  for (const Message& message : in.messages()) {
    const bool ends = message.role == "assistant" || message.role == "text";
    if (!ends && message.role != "user" && message.role != "system") in.refuse_role(message);
    if (ends) {
      add_ended(in, said(message), message.is_trained(), out);
    } else {
      out.add(said(message), message.is_trained());
    }
  }
  return out;
}

}  // namespace chat_formats

}  // namespace lora
