// Conversations as ids with labels: what a training step reads.
#pragma once

#include <lora/text/chat_template.hpp>
#include <lora/text/instruction_data.hpp>
#include <lora/text/tokenizer.hpp>

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace LORA_NAMESPACE {

/// Ids and, at the same positions, what the loss is to see: the id itself or ignored_label. As in
/// transformers the labels are not shifted: the prediction at t is scored against labels[t + 1].
struct TokenizedExample {
  std::vector<std::int64_t> ids, labels;

  /// The number of labels that are scored: those from 1 on that are not ignored.
  Index counted() const {
    if (labels.empty()) return 0;
    return std::count_if(labels.begin() + 1, labels.end(),
                         [](std::int64_t label) { return label != ignored_label; });
  }
};

/// Which of the messages that may be trained the loss counts.
enum class LossOn { answers, last_answer, everything };
/// What to do with an example whose answer lies behind max_length as a whole.
enum class CutAnswer { skip, refuse };

struct TokenizeOptions {
  Index max_length = 0;  ///< longer examples are cut from the right; 0: no limit
  LossOn loss_on = LossOn::answers;
  CutAnswer cut_answer = CutAnswer::skip;
  std::string system;    ///< a system message for conversations that have none
  Index vocab_size = 0;  ///< of the model: ids from there on are refused; 0: not checked
  std::string date = RenderOptions{}.date;
};

/// What became of the records.
struct TokenizeReport {
  Index records = 0, truncated = 0, without_answer = 0;  ///< the last were left out
  Index tokens = 0, counted = 0, longest = 0;  ///< of the examples that were kept; counted: labels
};

struct TokenizedData {
  std::vector<TokenizedExample> examples;
  TokenizeReport report;
};

/// The options with which a template renders for this tokenizer. Throws ConfigError when the text
/// of its end token does not encode to the end token.
inline RenderOptions render_options(const Tokenizer& tokenizer) {
  RenderOptions options{tokenizer.bos_token().value_or(""), tokenizer.eos_token().value_or("")};
  if (!options.eos_token.empty() &&
      (!tokenizer.eos_id() || tokenizer.encode(options.eos_token, SpecialTokens::none) !=
                                  std::vector<std::int64_t>{*tokenizer.eos_id()})) {
    throw ConfigError("the tokenizer's end token " + in_quotes(options.eos_token) +
                      " is no added token: its text does not encode to one id");
  }
  return options;
}

/// The template that fits where none is named: the tokenizer's own for chats and instructions,
/// Alpaca's prompt for instructions without one, none for the rest. Throws ConfigError when the
/// tokenizer's is not a built-in one, or there is none for chats.
inline ChatTemplate default_template(RecordKind kind, const Tokenizer& tokenizer) {
  if (kind == RecordKind::prompt_completion || kind == RecordKind::text)
    return ChatTemplate::named("plain");
  if (!tokenizer.chat_template().empty())
    return ChatTemplate::recognised(tokenizer.chat_template(), "the tokenizer's files");
  if (kind == RecordKind::alpaca) return ChatTemplate::named("alpaca");
  throw ConfigError("the tokenizer's files hold no chat template; choose one by name: " +
                    ChatTemplate::names());
}

/// What a program says of a tokenizer before it is used with a model: its notices, and that it has
/// ids beyond the model's embedding. Such a tokenizer serves as long as none of these ids is used:
/// see expect_ids_below.
inline std::vector<std::string> tokenizer_notices(const Tokenizer& tokenizer, Index vocab_size) {
  std::vector<std::string> all = tokenizer.notices();
  if (tokenizer.vocab_size() > vocab_size) {
    all.push_back("the tokenizer has ids up to " + std::to_string(tokenizer.vocab_size() - 1) +
                  ", but the model's embedding ends at " + std::to_string(vocab_size - 1) +
                  "; a text that needs one beyond it is refused");
  }
  return all;
}

/// Throws ConfigError "where: id 7 at position 3 ..." for the first id that is not in
/// [0, vocab_size).
inline void expect_ids_below(std::span<const std::int64_t> ids, Index vocab_size,
                             const std::string& where) {
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < vocab_size) continue;
    throw ConfigError(where + ": id " + std::to_string(ids[i]) + " at position " +
                      std::to_string(i) + " is not below the model's vocabulary of " +
                      std::to_string(vocab_size));
  }
}

/// The ids of a rendered conversation, exactly those of its whole text, and as label each id that
/// covers a byte of a stretch that is trained. So a token that reaches from a prompt into the
/// answer counts, and none that the whole text would not have is ever trained.
inline TokenizedExample tokenize(const Rendered& rendered, const Tokenizer& tokenizer) {
  Encoding encoding = tokenizer.encode_with_ends(
      rendered.text(), rendered.has_bos ? SpecialTokens::none : SpecialTokens::before);
  TokenizedExample example;
  example.ids = std::move(encoding.ids);
  example.labels.assign(example.ids.size(), ignored_label);
  std::size_t first = 0, begin = 0;  // the first token that reaches into the stretch
  for (const RenderedPiece& piece : rendered.pieces) {
    const std::size_t end = begin + piece.text.size();
    while (first < example.ids.size() && encoding.ends[first] <= begin) ++first;
    for (std::size_t i = first; piece.trained && i < example.ids.size(); ++i) {
      if (i > 0 && encoding.ends[i - 1] >= end) break;
      example.labels[i] = example.ids[i];
    }
    begin = end;
  }
  return example;
}

namespace detail {

inline Conversation prepared(const Conversation& conversation, const TokenizeOptions& options) {
  Conversation out = conversation;
  const auto is_document = [](const Message& message) { return message.role == "text"; };
  if (!options.system.empty() && !out.messages.empty() && out.messages[0].role != "system" &&
      std::none_of(out.messages.begin(), out.messages.end(), is_document)) {
    out.messages.insert(out.messages.begin(), {"system", options.system, "", {}});
  }
  bool last_seen = false;
  for (auto message = out.messages.rbegin(); message != out.messages.rend(); ++message) {
    const bool trained = message->is_trained();
    if (options.loss_on == LossOn::last_answer) message->trained = trained && !last_seen;
    last_seen = last_seen || trained;
  }
  return out;
}

// Keeps an example of at most max_length ids, or counts it as left out.
inline void keep(TokenizedExample example, const TokenizeOptions& options, const std::string& where,
                 TokenizedData& data) {
  const auto length = static_cast<Index>(example.ids.size());
  if (options.vocab_size > 0) expect_ids_below(example.ids, options.vocab_size, where);
  if (options.max_length > 0 && length > options.max_length) {
    ++data.report.truncated;
    example.ids.resize(static_cast<std::size_t>(options.max_length));
    example.labels.resize(static_cast<std::size_t>(options.max_length));
  }
  if (example.counted() == 0) {
    if (options.cut_answer == CutAnswer::refuse) {
      throw ConfigError(where + ": the answer lies behind the " +
                        std::to_string(options.max_length) + " tokens that are kept of " +
                        std::to_string(length));
    }
    ++data.report.without_answer;
    return;
  }
  data.report.tokens += static_cast<Index>(example.ids.size());
  data.report.counted += example.counted();
  data.report.longest = std::max(data.report.longest, static_cast<Index>(example.ids.size()));
  data.examples.push_back(std::move(example));
}

}  // namespace detail

/// Renders and encodes conversations in order. Longer ones than max_length are cut from the right;
/// those that keep no answer are left out and counted, or refused. A document (a "text" message) is
/// not cut but divided into examples of max_length. Throws ConfigError naming the record (from 1
/// on): what the template refuses, an id that the model does not have.
inline TokenizedData tokenize_all(std::span<const Conversation> conversations,
                                  const ChatTemplate& chat, const Tokenizer& tokenizer,
                                  const TokenizeOptions& options = {}) {
  if (options.max_length < 0 || options.max_length == 1) {
    throw ConfigError("max_length is " + std::to_string(options.max_length) +
                      ", expected 0 (no limit) or at least 2");
  }
  RenderOptions render = render_options(tokenizer);
  render.date = options.date;
  TokenizedData data;
  for (std::size_t i = 0; i < conversations.size(); ++i) {
    ++data.report.records;
    const std::string where = "record " + std::to_string(i + 1);
    TokenizedExample example;
    try {
      Rendered rendered = chat.render(detail::prepared(conversations[i], options), render);
      for (RenderedPiece& piece : rendered.pieces)
        piece.trained = piece.trained || options.loss_on == LossOn::everything;
      example = tokenize(rendered, tokenizer);
    } catch (const Error& error) {
      throw ConfigError(where + ": " + error.what());
    }
    const auto size = static_cast<std::ptrdiff_t>(example.ids.size());
    const bool document =
        conversations[i].messages.size() == 1 && conversations[i].messages[0].role == "text";
    const std::ptrdiff_t step =
        document && options.max_length > 0 ? std::ptrdiff_t{options.max_length} : size;
    for (std::ptrdiff_t from = 0; from < size; from += step) {
      const std::ptrdiff_t to = std::min(from + step, size);
      detail::keep({{example.ids.begin() + from, example.ids.begin() + to},
                    {example.labels.begin() + from, example.labels.begin() + to}},
                   options, where, data);
    }
  }
  return data;
}

}  // namespace LORA_NAMESPACE
