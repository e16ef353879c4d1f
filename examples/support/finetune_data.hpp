// What finetune learns from: instruction files as token ids, or ids as they are.
#pragma once

#include "finetune_options.hpp"
#include "ids_file.hpp"

#include <lora/text/packing.hpp>
#include <lora/text/tokenized_example.hpp>
#include <lora/train/data_order.hpp>

#include <utility>

namespace examples {

struct FinetuneData {
  std::vector<lora::PackedRow> train, eval;
  std::vector<lora::Conversation> questions;  ///< of the evaluation, for samples
  std::string text;                           ///< lines for a person
};

namespace detail {

inline lora::DataOptions data_options(const FinetuneOptions& options) {
  lora::DataOptions data;
  data.bad_record = options.bad_record;
  const std::map<std::string, std::string*> names = {{"instruction", &data.fields.instruction},
                                                     {"input", &data.fields.input},
                                                     {"output", &data.fields.output},
                                                     {"system", &data.fields.system},
                                                     {"history", &data.fields.history},
                                                     {"tools", &data.fields.tools},
                                                     {"messages", &data.fields.messages},
                                                     {"role", &data.fields.role},
                                                     {"content", &data.fields.content},
                                                     {"conversations", &data.fields.conversations},
                                                     {"from", &data.fields.from},
                                                     {"value", &data.fields.value},
                                                     {"prompt", &data.fields.prompt},
                                                     {"completion", &data.fields.completion},
                                                     {"text", &data.fields.text}};
  for (const auto& [name, column] : options.fields) {
    const auto known = names.find(name);
    if (known == names.end()) {
      std::string all;
      for (const auto& [one, ignored] : names) all += (all.empty() ? "" : ", ") + one;
      throw lora::ConfigError("fields: " + lora::in_quotes(name) + " is no field, expected " + all);
    }
    *known->second = column;
  }
  return data;
}

/// Conversations of several files, and the kind of the first.
inline std::pair<std::vector<lora::Conversation>, lora::RecordKind> read_conversations(
    const std::vector<std::string>& paths, const FinetuneOptions& options, std::string& text) {
  std::vector<lora::Conversation> all;
  lora::RecordKind kind = lora::RecordKind::automatic;
  for (const std::string& path : paths) {
    lora::InstructionData data = lora::read_instruction_data(path, data_options(options));
    if (kind == lora::RecordKind::automatic) kind = data.kind;
    text += "data         " + path + ": " + std::to_string(data.conversations.size()) + " records";
    if (data.skipped > 0) text += ", " + std::to_string(data.skipped) + " skipped";
    text += "\n";
    for (const std::string& problem : data.problems) text += "  skipped " + problem + "\n";
    std::move(data.conversations.begin(), data.conversations.end(), std::back_inserter(all));
  }
  return {std::move(all), kind};
}

inline lora::TokenizeOptions tokenize_options(const FinetuneOptions& options, Index vocab_size) {
  lora::TokenizeOptions tokenize;
  tokenize.max_length = options.max_length;
  tokenize.loss_on = options.loss_on;
  tokenize.system = options.system;
  tokenize.vocab_size = vocab_size;
  return tokenize;
}

inline std::vector<lora::PackedRow> rows_of(std::vector<lora::TokenizedExample> examples,
                                            const FinetuneOptions& options) {
  if (options.packing) return lora::pack(examples, options.max_length);
  std::vector<lora::PackedRow> rows;
  for (lora::TokenizedExample& one : examples) {
    const auto length = static_cast<Index>(one.ids.size());
    rows.push_back({std::move(one.ids), std::move(one.labels), {length}});
  }
  return rows;
}

inline std::string tokenized_text(const char* what, const lora::TokenizeReport& report,
                                  std::size_t rows) {
  char line[200];
  std::snprintf(line, sizeof line,
                "%-12s %td records in %zu rows, %td tokens, %td counted by the loss, longest %td",
                what, report.records - report.without_answer, rows, report.tokens, report.counted,
                report.longest);
  std::string text = line;
  if (report.truncated > 0) text += ", " + std::to_string(report.truncated) + " cut";
  if (report.without_answer > 0)
    text += ", " + std::to_string(report.without_answer) + " left out whose answer was cut whole";
  return text + "\n";
}

}  // namespace detail

/// The rows of a file of ids, in the order stored; `batch` becomes the rows of a micro-batch.
inline FinetuneData read_finetune_ids(const std::string& path, Index vocab_size, Index positions,
                                      Index& batch) {
  const IdsFile file = read_ids(path);
  if (file.tokens > positions) {
    throw lora::ConfigError(path + ": rows have " + std::to_string(file.tokens) +
                            " tokens, the model has " + std::to_string(positions) + " positions");
  }
  for (std::size_t i = 0; i < file.labels.size(); ++i) {
    const std::int64_t label = file.labels[i];
    if (label == lora::ignored_label || (label >= 0 && label < vocab_size)) continue;
    throw lora::ConfigError(path + ": labels: element " + std::to_string(i) + " is " +
                            std::to_string(label) + ", expected -100 or 0 to " +
                            std::to_string(vocab_size - 1));
  }
  lora::expect_ids_below(file.ids, vocab_size, path + ": input_ids");
  batch = file.rows;
  FinetuneData data;
  for (auto at = file.ids.begin(); at != file.ids.end(); at += file.tokens) {
    const auto label = file.labels.begin() + (at - file.ids.begin());
    data.train.push_back({{at, at + file.tokens}, {label, label + file.tokens}, {file.tokens}});
  }
  data.text = "data         " + path + ": " + std::to_string(file.micro_batches) +
              " micro-batches of " + lora::shape_text(file.rows, file.tokens) + "\n";
  return data;
}

/// The template that renders the data: the named one, or what fits.
inline lora::ChatTemplate chosen_template(const FinetuneOptions& options, lora::RecordKind kind,
                                          const lora::Tokenizer& tokenizer) {
  if (!options.chat_template.empty()) return lora::ChatTemplate::named(options.chat_template);
  return lora::default_template(kind, tokenizer);
}

/// Reads and tokenizes everything, no example longer than the model's positions. `chat` becomes the
/// template in use.
inline FinetuneData read_finetune_data(FinetuneOptions options, const lora::Tokenizer& tokenizer,
                                       Index vocab_size, Index positions,
                                       std::optional<lora::ChatTemplate>& chat) {
  for (const std::string& notice : lora::tokenizer_notices(tokenizer, vocab_size))
    std::cerr << "finetune: " << notice << "\n";
  FinetuneData data;
  if (options.max_length == 0 || options.max_length > positions) {
    options.max_length = positions;
    data.text =
        "max_length   " + std::to_string(positions) + ", as many positions as the model has\n";
  }
  auto [train, kind] = detail::read_conversations(options.data, options, data.text);
  chat = chosen_template(options, kind, tokenizer);
  std::vector<lora::Conversation> held_out;
  if (!options.eval_data.empty()) {
    held_out = detail::read_conversations(options.eval_data, options, data.text).first;
  } else if (options.validation_share > 0 && train.size() > 1) {
    const auto n = static_cast<Index>(train.size());
    const Index count = std::min(lora::share_of(n, options.validation_share), n - 1);
    const lora::DataSplit split = lora::split_by_seed(n, count, options.training.seed);
    std::vector<lora::Conversation> rest;
    for (const Index i : split.training) rest.push_back(train[static_cast<std::size_t>(i)]);
    for (const Index i : split.validation) held_out.push_back(train[static_cast<std::size_t>(i)]);
    train = std::move(rest);
  }
  const lora::TokenizeOptions tokenize = detail::tokenize_options(options, vocab_size);
  lora::TokenizedData first = lora::tokenize_all(train, *chat, tokenizer, tokenize);
  lora::TokenizedData second = lora::tokenize_all(held_out, *chat, tokenizer, tokenize);
  data.train = detail::rows_of(std::move(first.examples), options);
  data.eval = detail::rows_of(std::move(second.examples), options);
  data.text += detail::tokenized_text("training", first.report, data.train.size());
  if (!held_out.empty())
    data.text += detail::tokenized_text("evaluation", second.report, data.eval.size());
  data.questions = std::move(held_out);
  return data;
}

}  // namespace examples
