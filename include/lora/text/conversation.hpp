// What an instruction record says, whatever its file called the fields.
#pragma once

#include <lora/core/namespace.hpp>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace LORA_NAMESPACE {

/// One turn. Roles: "system", "user", "assistant", "tool" (what a function returned),
/// "function_call" (an assistant's turn that is a JSON object with name and arguments), "text" (a
/// document without turns).
struct Message {
  std::string role, content;
  std::string input;            ///< of a user's turn in Alpaca's records; empty where there is none
  std::optional<bool> trained;  ///< whether the loss counts it; by default where the model speaks

  bool is_trained() const {
    return trained.value_or(role == "assistant" || role == "function_call" || role == "text");
  }
};

struct Conversation {
  std::vector<Message> messages;
  std::string tools;  ///< a JSON array of the functions that may be called; empty: none
};

/// A stretch of rendered text.
struct RenderedPiece {
  std::string text;
  bool trained = false;  ///< whether the loss counts it
};

/// A conversation as the text that a model reads, in stretches.
struct Rendered {
  std::vector<RenderedPiece> pieces;
  bool has_bos = false;  ///< whether the template decides on the beginning token itself

  /// Appends, joining neighbours of one kind.
  void add(std::string_view text, bool trained = false) {
    if (text.empty()) return;
    if (pieces.empty() || pieces.back().trained != trained) pieces.push_back({"", trained});
    pieces.back().text += text;
  }
  std::string text() const {
    std::string all;
    for (const RenderedPiece& piece : pieces) all += piece.text;
    return all;
  }
};

/// Whether a rendering ends with what asks the model to answer.
enum class GenerationPrompt { no, yes };

/// What a chat template needs to know besides the conversation.
struct RenderOptions {
  std::string bos_token, eos_token;
  GenerationPrompt generation_prompt = GenerationPrompt::no;
  std::string date = "26 Jul 2024";  ///< "Today Date" of Llama 3.1 and 3.2
};

}  // namespace LORA_NAMESPACE
