// The content of an instruction record, independent of the field names of its file.
#pragma once

#include <lora/core/types.hpp>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lora {

/// The kind of a record; automatic: as its fields show. A prompt and a completion that are lists of
/// messages are read by prompt_completion and become a conversation of kind messages. Segments are
/// axolotl's input_output: pieces of text with a label each.
enum class RecordKind {
  automatic,
  alpaca,
  messages,
  conversations,
  prompt_completion,
  text,
  segments
};

/// One turn. Roles: "system", "developer" (which few templates show), "user", "assistant", "tool"
/// (what a function returned), "text" (a document without turns, or a piece of one).
struct Message {
  std::string role, content;
  std::string input;            ///< the input of a user's turn in Alpaca records; otherwise empty
  std::optional<bool> trained;  ///< whether the loss counts it; default: if the model speaks
  std::optional<std::string> thinking = {};  ///< before an assistant's text: "reasoning_content"
  std::string tool_calls = {};  ///< an assistant's calls: a JSON array of {"name", "arguments"}
  bool in_prompt = false;       ///< part of a record's prompt, not trained by default

  bool is_trained() const {
    return trained.value_or(!in_prompt && (role == "assistant" || role == "text"));
  }
};

struct Conversation {
  std::vector<Message> messages;
  std::string tools;  ///< a JSON array of the callable functions; empty: none
  RecordKind kind = RecordKind::messages;
  std::string place = {};                    ///< its origin, for messages: "data.jsonl: line 3"
  std::optional<bool> enable_thinking = {};  ///< from chat_template_kwargs; only Qwen3 reads it
  std::string date = {};                     ///< date_string of chat_template_kwargs
};

/// A piece of rendered text.
struct RenderedPiece {
  std::string text;
  bool trained = false;  ///< whether the loss counts it
};

/// A range of the rendered text that the template means as one token.
struct RenderedToken {
  std::size_t begin, end;  ///< bytes
  bool ends_turn;          ///< whether a model ends its turn with it
};

/// A conversation as the text that a model reads, in pieces.
struct Rendered {
  std::vector<RenderedPiece> pieces;
  bool has_bos = false;  ///< whether the template itself decides on the begin token
  std::vector<RenderedToken> tokens = {};  ///< in order
  std::size_t size = 0;                    ///< bytes that were added
  bool brought_end = false;     ///< an answer had the end token already and got no second one
  bool spaced_end = false;      ///< white space followed the end token, so a second one was added
  bool lacks_begin = false;     ///< the template writes a begin token, but the tokenizer names none
  Index left_out_thinking = 0;  ///< answers whose thinking the template does not show
  Index quoted_arguments = 0;   ///< calls whose arguments are a string, which the template quotes

  /// Appends a piece and joins it to a preceding piece of the same kind.
  void add(std::string_view text, bool trained = false) {
    if (text.empty()) return;
    if (pieces.empty() || pieces.back().trained != trained) pieces.push_back({"", trained});
    pieces.back().text += text;
    size += text.size();
  }
  /// Appends the begin token, or notes that there is none.
  void add_begin(std::string_view text) {
    lacks_begin = lacks_begin || text.empty();
    put_token(text, false, false);
  }
  /// Appends the token that ends a turn, or the whole text.
  void add_end(std::string_view text, bool trained) { put_token(text, trained, true); }
  std::string text() const {
    std::string all;
    for (const RenderedPiece& piece : pieces) all += piece.text;
    return all;
  }

 private:
  void put_token(std::string_view text, bool trained, bool ends_turn) {
    if (!text.empty()) tokens.push_back({size, size + text.size(), ends_turn});
    add(text, trained);
  }
};

/// Whether a rendering ends with the prompt for an answer.
enum class GenerationPrompt { no, yes };

/// What a chat template needs to know besides the conversation.
struct RenderOptions {
  std::string bos_token, eos_token;
  GenerationPrompt generation_prompt = GenerationPrompt::no;
  std::string date = "26 Jul 2024";  ///< "Today Date" of Llama 3.1 and 3.2
};

}  // namespace lora
