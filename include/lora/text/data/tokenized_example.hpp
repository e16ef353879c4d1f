// Turns conversations into ids with labels, the input of a training step.
#pragma once

#include <lora/text/data/instruction_data.hpp>
#include <lora/text/data/template_fit.hpp>

#include <algorithm>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace lora {

/// Ids and their labels: the id itself, or ignored_label. As in transformers, labels are not
/// shifted: the prediction at t is scored against labels[t + 1].
struct TokenizedExample {
  std::vector<std::int64_t> ids, labels;
  Index ends = 0;          ///< counted labels that end an answer
  std::size_t record = 0;  ///< index of its conversation, from 0 on

  /// Returns the number of scored labels: those from 1 on that are not ignored.
  Index counted() const {
    if (labels.empty()) return 0;
    return std::count_if(labels.begin() + 1, labels.end(),
                         [](std::int64_t label) { return label != ignored_label; });
  }
};

/// Which of the messages that may be trained the loss counts. everything: all except what a record
/// excludes itself (train: false).
enum class LossOn { answers, last_answer, everything };
/// What to do with an example whose whole answer lies beyond max_length.
enum class CutAnswer { skip, refuse };

struct TokenizeOptions {
  Index max_length = 0;  ///< longer examples are cut from the right; 0: no limit
  LossOn loss_on = LossOn::answers;
  CutAnswer cut_answer = CutAnswer::skip;
  std::string system;    ///< a system message for conversations that have none
  Index vocab_size = 0;  ///< the model's; rejects larger ids; 0: not checked
  std::string date = RenderOptions{}.date;
};

/// Statistics of tokenizing records.
struct TokenizeReport {
  Index records = 0, truncated = 0, without_answer = 0;  ///< the last were omitted
  Index without_label = 0;  ///< omitted too: nothing counts in them, although nothing was cut
  Index tokens = 0, counted = 0, longest = 0;  ///< totals of the kept examples; counted: labels
  Index ends = 0;                              ///< counted labels that end an answer
  /// Records whose text already begins or ends with the tokens to be added; they get no second one.
  Index brought_begin = 0, brought_end = 0;
  Index spaced = 0;  ///< records in which white space beside such a token caused a second one
  /// Records in which a chat template's own begin or end token occurs twice in a row.
  Index doubled = 0;
  Index lacks_begin = 0;        ///< records whose template writes a begin token that is not named
  Index left_out_thinking = 0;  ///< answers whose thinking the template does not show
  Index quoted_arguments = 0;   ///< tool calls whose arguments are a string, written in quotes
  Index unused_settings = 0;    ///< records whose chat_template_kwargs are not read
  std::map<std::string, Index> templates;  ///< records by the template that rendered them
};

struct TokenizedData {
  std::vector<TokenizedExample> examples;
  TokenizeReport report;

  /// Recomputes tokens, labels and ends of the report from the current examples.
  void recount() {
    report.tokens = report.counted = report.ends = report.longest = 0;
    for (const TokenizedExample& one : examples) {
      const auto length = static_cast<Index>(one.ids.size());
      report.tokens += length;
      report.counted += one.counted();
      report.ends += one.ends;
      report.longest = std::max(report.longest, length);
    }
  }
};

/// Returns what a program should report about a tokenizer before it is used with a model: its
/// notices, and whether it has ids beyond the model's embedding. Such a tokenizer works as long as
/// none of these ids is used: see expect_ids_below().
inline std::vector<std::string> tokenizer_notices(const Tokenizer& tokenizer, Index vocab_size) {
  std::vector<std::string> all = tokenizer.notices();
  if (tokenizer.vocab_size() > vocab_size) {
    all.push_back("the tokenizer has ids up to " + std::to_string(tokenizer.vocab_size() - 1) +
                  ", but the model's embedding ends at " + std::to_string(vocab_size - 1) +
                  "; a text that needs a larger id is rejected");
  }
  return all;
}

/// Checks that all ids are in [0, vocab_size). With a tokenizer, the message names the begin or end
/// token.
/// Throws: ConfigError "where: id 7 at position 3 ..." for the first other id.
inline void expect_ids_below(std::span<const std::int64_t> ids, Index vocab_size,
                             const std::string& where, const Tokenizer* tokenizer = nullptr) {
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < vocab_size) continue;
    std::string name;
    if (tokenizer != nullptr && tokenizer->eos_id() == ids[i])
      name = ", the tokenizer's end token " + in_quotes(*tokenizer->eos_token()) + ",";
    else if (tokenizer != nullptr && tokenizer->bos_id() == ids[i])
      name = ", the tokenizer's beginning token " + in_quotes(*tokenizer->bos_token()) + ",";
    throw ConfigError(where + ": id " + std::to_string(ids[i]) + " at position " +
                      std::to_string(i) + name + " is not below the model's vocabulary of " +
                      std::to_string(vocab_size));
  }
}

namespace detail {

// Whether the range is exactly this one token.
inline bool is_one_token(const Encoding& encoding, const TextPart& part) {
  const auto at = std::lower_bound(encoding.ends.begin(), encoding.ends.end(), part.end);
  if (at == encoding.ends.end()) return false;
  const auto i = static_cast<std::size_t>(at - encoding.ends.begin());
  return encoding.ids[i] == std::int64_t{part.id} && (i == 0 || encoding.ends[i - 1] <= part.begin);
}

// Encodes a rendered text without the ids that the tokenizer puts before a text. Each range that
// the template writes as one token becomes that token if it exists: a token that is searched in the
// normalised text is found only at some places.
inline Encoding encode_rendered(const Rendered& rendered, const std::string& text,
                                const Tokenizer& tokenizer) {
  Encoding encoding = tokenizer.encode_with_ends(text, SpecialTokens::none);
  std::vector<TextPart> fixed;
  bool whole = true;
  for (const RenderedToken& token : rendered.tokens) {
    const auto id =
        tokenizer.id_of(std::string_view(text).substr(token.begin, token.end - token.begin));
    if (!id) continue;
    fixed.push_back({token.begin, token.end, static_cast<std::uint32_t>(*id)});
    whole = whole && is_one_token(encoding, fixed.back());
  }
  return whole ? encoding : tokenizer.encode_with_ends(text, SpecialTokens::none, fixed);
}

inline bool begins_with(const std::vector<std::int64_t>& ids,
                        const std::vector<std::uint32_t>& first) {
  return !first.empty() && ids.size() >= first.size() &&
         std::equal(first.begin(), first.end(), ids.begin(),
                    [](std::uint32_t a, std::int64_t b) { return std::int64_t{a} == b; });
}

// See tokenize(). Sets `brought_begin` to whether the text itself begins with the begin token.
inline TokenizedExample tokenize_rendered(const Rendered& rendered, const Tokenizer& tokenizer,
                                          bool& brought_begin) {
  Encoding encoding = encode_rendered(rendered, rendered.text(), tokenizer);
  const std::vector<std::uint32_t>& before = tokenizer.ids_before();
  brought_begin = !rendered.has_bos && begins_with(encoding.ids, before);
  if (!rendered.has_bos && !brought_begin) {
    encoding.ids.insert(encoding.ids.begin(), before.begin(), before.end());
    encoding.ends.insert(encoding.ends.begin(), before.size(), 0);
  }
  TokenizedExample example;
  example.ids = std::move(encoding.ids);
  example.labels.assign(example.ids.size(), ignored_label);
  std::size_t first = 0, begin = 0;  // the first token that reaches into the piece
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

}  // namespace detail

/// Returns the ids of a rendered conversation, exactly those of its whole text. A label is the id
/// itself if the id covers a byte of a trained piece. So a token that reaches from a prompt into
/// the answer counts, and no token is trained that the whole text would not have. The tokenizer's
/// begin token is put before a text that does not begin with it. The template's own tokens are one
/// id each if the tokenizer has them, whatever their flags.
inline TokenizedExample tokenize(const Rendered& rendered, const Tokenizer& tokenizer) {
  bool brought_begin = false;
  return detail::tokenize_rendered(rendered, tokenizer, brought_begin);
}

/// Returns the ids of a text to be continued, with the tokenizer's begin token before them unless
/// the text has it.
inline std::vector<std::int64_t> prompt_ids(std::string_view text, const Tokenizer& tokenizer) {
  std::vector<std::int64_t> ids = tokenizer.encode(text, SpecialTokens::none);
  const std::vector<std::uint32_t>& before = tokenizer.ids_before();
  if (!detail::begins_with(ids, before)) ids.insert(ids.begin(), before.begin(), before.end());
  return ids;
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

// Rejects a choice that the template cannot follow: a turn other than an assistant's that is to be
// trained, or with LossOn::everything to be excluded, if the template does not show where that turn
// is.
inline void expect_choice(const ChatTemplate& chat, const Conversation& conversation,
                          const RenderOptions& render, bool trained) {
  for (const char* role : {"system", "developer", "user", "tool"}) {
    const auto chosen = [&](const Message& message) {
      return message.role == role && message.trained == trained &&
             !chat_formats::stripped(message.content).empty();
    };
    if (std::none_of(conversation.messages.begin(), conversation.messages.end(), chosen)) continue;
    Conversation only = conversation;
    for (Message& message : only.messages) message.trained = chosen(message);
    const Rendered rendered = chat.render(only, render);
    if (std::any_of(rendered.pieces.begin(), rendered.pieces.end(),
                    [](const RenderedPiece& piece) { return piece.trained; }))
      continue;
    throw ConfigError("chat template " + std::string(chat.name()) + ": a message of role " +
                      in_quotes(role) + (trained ? " cannot be trained" : " cannot be left out") +
                      " (weight, train)");
  }
}

// Renders a conversation and marks the pieces that the loss counts.
inline Rendered rendered_for(const Conversation& conversation, const ChatTemplate& chat,
                             const RenderOptions& render, const TokenizeOptions& options) {
  Conversation ready = prepared(conversation, options);
  Rendered rendered = chat.render(ready, render);
  const bool everything = options.loss_on == LossOn::everything;
  expect_choice(chat, ready, render, !everything);
  if (!everything) return rendered;
  for (Message& message : ready.messages) message.trained = message.trained == false;
  rendered.pieces = chat.render(ready, render).pieces;  // marks the excluded ones
  for (RenderedPiece& piece : rendered.pieces) piece.trained = !piece.trained;
  return rendered;
}

// Keeps an example of at most max_length ids, or counts it as omitted.
inline void keep(TokenizedExample example, std::optional<std::int64_t> end,
                 const TokenizeOptions& options, const Tokenizer& tokenizer,
                 const std::string& where, TokenizedData& data) {
  const auto length = static_cast<Index>(example.ids.size());
  if (options.vocab_size > 0) expect_ids_below(example.ids, options.vocab_size, where, &tokenizer);
  if (options.max_length > 0 && length > options.max_length) {
    ++data.report.truncated;
    example.ids.resize(static_cast<std::size_t>(options.max_length));
    example.labels.resize(static_cast<std::size_t>(options.max_length));
  }
  if (example.counted() == 0 && length == static_cast<Index>(example.ids.size())) {
    ++data.report.without_label;
    return;
  }
  if (example.counted() == 0) {
    if (options.cut_answer == CutAnswer::refuse) {
      throw ConfigError(where + ": the answer begins after the " +
                        std::to_string(options.max_length) + " tokens that are kept of " +
                        std::to_string(length));
    }
    ++data.report.without_answer;
    return;
  }
  if (end) example.ends = std::count(example.labels.begin() + 1, example.labels.end(), *end);
  data.examples.push_back(std::move(example));
}

// Adds what is notable about a record to the report.
inline void note(const Conversation& conversation, const ChatTemplate& chat,
                 const Rendered& rendered, const TokenizedExample& example, bool brought_begin,
                 const Tokenizer& tokenizer, TokenizeReport& report) {
  const auto twice = [&](std::optional<std::int64_t> id) {
    return id && std::adjacent_find(example.ids.begin(), example.ids.end(),
                                    [&](std::int64_t a, std::int64_t b) {
                                      return a == *id && b == *id;
                                    }) != example.ids.end();
  };
  ++report.templates[std::string(chat.name())];
  report.left_out_thinking += rendered.left_out_thinking;
  report.quoted_arguments += rendered.quoted_arguments;
  const bool other_thinking = conversation.enable_thinking && chat.setting() != "enable_thinking";
  const bool other_date = !conversation.date.empty() && chat.setting() != "date_string";
  if (other_thinking || other_date) ++report.unused_settings;
  const bool gets_begin = !rendered.has_bos && !brought_begin && !tokenizer.ids_before().empty();
  const bool spaced_begin =
      gets_begin && tokenizer.bos_token() && !rendered.pieces.empty() &&
      chat_formats::stripped(rendered.pieces.front().text).starts_with(*tokenizer.bos_token());
  if (rendered.spaced_end || spaced_begin) ++report.spaced;
  if (brought_begin) ++report.brought_begin;
  if (rendered.brought_end) ++report.brought_end;
  if (rendered.lacks_begin) ++report.lacks_begin;
  if (rendered.has_bos && (twice(tokenizer.bos_id()) || twice(tokenizer.eos_id())))
    ++report.doubled;
}

}  // namespace detail

/// Renders and encodes conversations in order, each with the template of its kind; a ChatTemplate
/// given instead applies to all records with turns. Conversations longer than max_length are cut
/// from the right; those that keep no answer are omitted and counted, or rejected. A document (a
/// "text" message) is divided into examples of max_length instead. What a record says about a
/// message (train, weight) overrides loss_on, or is rejected if the template cannot follow it.
/// Throws: ConfigError that names the record (its place, or its number from 1 on), for what the
///   template rejects and for an id that the model does not have.
inline TokenizedData tokenize_all(std::span<const Conversation> conversations,
                                  const RecordTemplates& templates, const Tokenizer& tokenizer,
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
    const Conversation& conversation = conversations[i];
    const std::string where =
        conversation.place.empty() ? "record " + std::to_string(i + 1) : conversation.place;
    TokenizedExample example;
    std::optional<std::int64_t> end;
    try {
      const ChatTemplate chat = templates.of(conversation);
      const Rendered rendered = detail::rendered_for(conversation, chat, render, options);
      bool brought_begin = false;
      example = detail::tokenize_rendered(rendered, tokenizer, brought_begin);
      // Nothing follows segments: they end with their own text.
      end = conversation.kind == RecordKind::segments ? tokenizer.eos_id()
                                                      : answer_end(chat, tokenizer).id;
      detail::note(conversation, chat, rendered, example, brought_begin, tokenizer, data.report);
    } catch (const Error& error) {
      throw ConfigError(where + ": " + error.what());
    }
    const auto size = static_cast<std::ptrdiff_t>(example.ids.size());
    if (size == 0) ++data.report.without_label;
    const bool document =
        conversation.messages.size() == 1 && conversation.messages[0].role == "text";
    const std::ptrdiff_t step =
        document && options.max_length > 0 ? std::ptrdiff_t{options.max_length} : size;
    for (std::ptrdiff_t from = 0; from < size; from += step) {
      const std::ptrdiff_t to = std::min(from + step, size);
      if (from > 0 && to - from == 1) break;  // nothing predicts a single token
      detail::keep({{example.ids.begin() + from, example.ids.begin() + to},
                    {example.labels.begin() + from, example.labels.begin() + to},
                    0,
                    i},
                   end, options, tokenizer, where, data);
    }
  }
  data.recount();
  return data;
}

}  // namespace lora
