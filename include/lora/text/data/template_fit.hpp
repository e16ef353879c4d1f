// Matches chat templates to records and to a tokenizer.
#pragma once

#include <lora/text/chat/chat_template.hpp>
#include <lora/text/tokenizer/tokenizer.hpp>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lora {

/// Returns the options with which a template renders for this tokenizer.
/// Throws: ConfigError if the tokenizer's end token is not in its vocabulary.
inline RenderOptions render_options(const Tokenizer& tokenizer) {
  RenderOptions options{tokenizer.bos_token().value_or(""), tokenizer.eos_token().value_or("")};
  if (!options.eos_token.empty() && !tokenizer.eos_id())
    throw ConfigError("the tokenizer's end token " + in_quotes(options.eos_token) +
                      " is not in its vocabulary");
  return options;
}

/// Chooses the template of a record: the one that was named, or the one for the record's kind. By
/// kind, chats and instructions take the tokenizer's own template, instructions without one take
/// Alpaca's prompt, and a prompt and a completion that are texts stay unchanged. Documents have no
/// turns and always stay unchanged.
class RecordTemplates {
 public:
  /// Uses `named` for all records with turns.
  RecordTemplates(const ChatTemplate& named) : named_(named) {}
  /// Chooses by kind. Reads the tokenizer's template now and rejects it when a record needs it.
  explicit RecordTemplates(const Tokenizer& tokenizer) {
    if (tokenizer.chat_template().empty()) return;
    try {
      own_ = ChatTemplate::recognised(tokenizer.chat_template(), "the tokenizer's files");
    } catch (const ConfigError& error) {
      reason_ = error.what();
    }
  }

  /// Returns the template for a kind.
  /// Throws: ConfigError if the tokenizer's template is not a built-in one, or if it has none and
  ///   the record is a chat.
  ChatTemplate of(RecordKind kind) const {
    if (kind == RecordKind::text || kind == RecordKind::segments)
      return ChatTemplate::named("plain");
    if (named_) return *named_;
    if (kind == RecordKind::prompt_completion) return ChatTemplate::named("plain");
    if (own_) return *own_;
    if (!reason_.empty()) throw ConfigError(reason_);
    if (kind == RecordKind::alpaca) return ChatTemplate::named("alpaca");
    throw ConfigError("the tokenizer's files hold no chat template; choose one by name: " +
                      ChatTemplate::names());
  }
  ChatTemplate of(const Conversation& conversation) const {
    const bool document = !conversation.messages.empty() && conversation.messages[0].role == "text";
    return of(document && conversation.kind != RecordKind::segments ? RecordKind::text
                                                                    : conversation.kind);
  }

 private:
  std::optional<ChatTemplate> named_, own_;
  std::string reason_;
};

/// Returns the template for a kind of record if none is named; see RecordTemplates.
inline ChatTemplate default_template(RecordKind kind, const Tokenizer& tokenizer) {
  return RecordTemplates(tokenizer).of(kind);
}

/// The text that a template writes after an answer, and its id if the tokenizer has one.
struct AnswerEnd {
  std::string text;
  std::optional<std::int64_t> id;
};

/// Returns the end of an answer.
/// Throws: ConfigError if the template ends an answer with the tokenizer's end token and there is
///   none.
inline AnswerEnd answer_end(const ChatTemplate& chat, const Tokenizer& tokenizer) {
  const Conversation sample{{{"user", "x", "", {}}, {"assistant", "y", "", {}}}, ""};
  const Rendered rendered = chat.render(sample, render_options(tokenizer));
  const std::string text = rendered.text();
  AnswerEnd end;
  std::size_t answer = 0;
  for (const RenderedPiece& piece : rendered.pieces) {
    if (piece.trained) break;
    answer += piece.text.size();
  }
  for (const RenderedToken& token : rendered.tokens) {
    if (end.text.empty() && token.ends_turn && token.begin > answer)
      end.text = text.substr(token.begin, token.end - token.begin);
  }
  end.id = tokenizer.id_of(end.text);
  return end;
}

/// Returns the template's markers that do not encode to one token each within other text. A model
/// learns such a marker letter by letter.
inline std::vector<std::string> missing_markers(const ChatTemplate& chat,
                                                const Tokenizer& tokenizer) {
  std::vector<std::string> missing;
  for (const std::string_view marker : chat.markers()) {
    const std::optional<std::int64_t> id = tokenizer.id_of(marker);
    const auto ids = tokenizer.encode("x" + std::string(marker) + "x", SpecialTokens::none);
    if (!id || std::count(ids.begin(), ids.end(), *id) != 1) missing.emplace_back(marker);
  }
  return missing;
}

}  // namespace lora
