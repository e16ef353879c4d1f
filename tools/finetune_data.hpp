// Reads the training data of lora finetune: instruction files, which it tokenizes, or token ids.
#pragma once

#include "finetune_options.hpp"
#include "support/counted.hpp"
#include "support/ids_file.hpp"

#include <lora/text/data/packing.hpp>
#include <lora/text/data/tokenized_example.hpp>
#include <lora/train/data_order.hpp>

#include <utility>

namespace tools {

struct FinetuneData {
  std::vector<lora::PackedRow> train, eval;
  std::vector<lora::Conversation> questions;  ///< evaluation records, for samples
  std::string text;                           ///< lines to print
  std::string templates;                      ///< templates in use, with numbers of records
  std::vector<std::string> warnings;          ///< probable mistakes
  std::optional<lora::RecordTemplates> record_templates;  ///< none for --ids
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
                                                     {"text", &data.fields.text},
                                                     {"segments", &data.fields.segments}};
  for (const auto& [name, column] : options.fields) {
    const auto known = names.find(name);
    if (known == names.end()) {
      std::string all;
      for (const auto& [one, ignored] : names) all += (all.empty() ? "" : ", ") + one;
      throw lora::ConfigError("fields: " + lora::in_quotes(name) + " is not a field; expected " +
                              all);
    }
    *known->second = column;
  }
  return data;
}

/// Reads the conversations of several files.
inline std::vector<lora::Conversation> read_conversations(const std::vector<std::string>& paths,
                                                          const FinetuneOptions& options,
                                                          std::string& text) {
  std::vector<lora::Conversation> all;
  for (const std::string& path : paths) {
    lora::InstructionData data = lora::read_instruction_data(path, data_options(options));
    text += "data         " + path + ": " + counted(data.conversations.size(), "record");
    if (data.skipped > 0) text += ", " + std::to_string(data.skipped) + " skipped";
    text += "\n";
    for (const std::string& problem : data.problems) text += "  skipped " + problem + "\n";
    std::string unused;
    for (const auto& [name, records] : data.unused_fields)
      unused += (unused.empty() ? "" : ", ") + name + " (" + std::to_string(records) + ")";
    if (!unused.empty()) text += "  fields not used (of records): " + unused + "\n";
    std::move(data.conversations.begin(), data.conversations.end(), std::back_inserter(all));
  }
  return all;
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

/// Returns "2 left out because the whole answer was cut", or an empty string.
inline std::string left_out_text(const lora::TokenizeReport& report) {
  std::string text;
  if (report.without_answer > 0)
    text += std::to_string(report.without_answer) + " left out because the whole answer was cut";
  if (report.without_label > 0)
    text += (text.empty() ? "" : ", ") + std::to_string(report.without_label) +
            " left out because nothing counts";
  return text;
}

/// Formats the summary of one data set. `pieces` counts the pieces of divided documents.
inline std::string tokenized_text(const char* what, const lora::TokenizeReport& report,
                                  std::size_t rows, std::size_t pieces = 0) {
  std::string text = what;
  text.resize(std::max<std::size_t>(text.size(), 12), ' ');
  const Index records = report.records - report.without_answer - report.without_label;
  if (records > 0 || pieces == 0) text += " " + counted(records, "record");
  if (pieces > 0)
    text += (records > 0 ? " and " : " ") + counted(pieces, "piece") + " of documents";
  text += " in " + counted(rows, "row") + ", " + counted(report.tokens, "token") + ", " +
          std::to_string(report.counted) + " counted by the loss with " +
          counted(report.ends, "end token") + ", longest " + std::to_string(report.longest);
  if (report.truncated > 0) text += ", " + std::to_string(report.truncated) + " cut";
  const std::string left_out = left_out_text(report);
  text += (left_out.empty() ? "" : ", " + left_out) + "\n";
  const auto note = [&](Index number, const char* one, const char* several) {
    if (number > 0) text += "  " + std::to_string(number) + (number == 1 ? one : several) + "\n";
  };
  note(report.brought_begin, " record begins with the beginning token and gets no second one",
       " records begin with the beginning token and get no second one");
  note(report.brought_end, " record ends with the end token and gets no second one",
       " records end with the end token and get no second one");
  note(report.spaced,
       " record has white space before its beginning token or after its end token and gets a "
       "second one, as in TRL",
       " records have white space before their beginning token or after their end token and get "
       "a second one, as in TRL");
  note(report.left_out_thinking, " answer loses its thinking, which the template leaves out",
       " answers lose their thinking, which the template leaves out");
  note(report.quoted_arguments,
       " tool call has a string as arguments: the template quotes it, as transformers does "
       "(use an object to avoid the quotes)",
       " tool calls have a string as arguments: the template quotes it, as transformers does "
       "(use an object to avoid the quotes)");
  note(report.unused_settings, " record has chat_template_kwargs that the template ignores",
       " records have chat_template_kwargs that the template ignores");
  return text;
}

/// Appends warnings about probable mistakes in the data and in the templates in use.
inline void add_warnings(const lora::TokenizeReport& report, const lora::Tokenizer& tokenizer,
                         std::vector<std::string>& warnings) {
  if (report.doubled > 0)
    warnings.push_back("in " + counted(report.doubled, "record") +
                       " the beginning or end token occurs twice in a row: the data contains "
                       "it, and the template adds it as well");
  if (report.lacks_begin > 0)
    warnings.push_back(
        "the template begins with the tokenizer's beginning token, but the "
        "tokenizer has none");
  if (report.ends == 0 && report.counted > 0)
    warnings.push_back(
        "no end token counts: nothing in the training data teaches the model to stop");
  for (const auto& [name, records] : report.templates) {
    std::string missing;
    for (const std::string& marker :
         lora::missing_markers(lora::ChatTemplate::named(name), tokenizer))
      missing += (missing.empty() ? "" : ", ") + marker;
    if (!missing.empty())
      warnings.push_back("the tokenizer has no token for " + missing + " of the template " + name +
                         ": they are learned letter by letter");
  }
}

/// Returns "qwen2.5" or, for several, "qwen2.5 (4 records), plain (1 record)".
inline std::string templates_text(const lora::TokenizeReport& report) {
  if (report.templates.size() == 1) return report.templates.begin()->first;
  std::string text;
  for (const auto& [name, records] : report.templates)
    text += (text.empty() ? "" : ", ") + name + " (" + counted(records, "record") + ")";
  return text;
}

/// Returns the records at these indices.
template <class T>
std::vector<T> chosen(const std::vector<T>& all, const std::vector<Index>& indices) {
  std::vector<T> some;
  for (const Index i : indices) some.push_back(all[static_cast<std::size_t>(i)]);
  return some;
}

/// Moves a random share of `all`, drawn by the seed, into the result: at least one, but not all.
template <class T>
std::vector<T> hold_out(std::vector<T>& all, const FinetuneOptions& options) {
  const auto n = static_cast<Index>(all.size());
  if (n < 2) return {};
  const Index count = std::min(lora::share_of(n, options.validation_share), n - 1);
  const lora::DataSplit split = lora::split_by_seed(n, count, options.training.seed);
  std::vector<T> held = chosen(all, split.validation);
  all = chosen(all, split.training);
  return held;
}

inline bool is_document(const lora::Conversation& one) {
  return one.kind == lora::RecordKind::text;
}

/// Whether to hold out pieces of documents, because one document is more than the share.
inline bool shares_pieces(const std::vector<lora::Conversation>& all,
                          const FinetuneOptions& options) {
  const auto documents = std::count_if(all.begin(), all.end(), is_document);
  return documents > 0 && static_cast<double>(documents) * options.validation_share < 1;
}

/// Moves a share of the records into the result; with `by_pieces` no documents, see
/// hold_out_pieces.
inline std::vector<lora::Conversation> hold_out_records(std::vector<lora::Conversation>& all,
                                                        bool by_pieces,
                                                        const FinetuneOptions& options) {
  if (!by_pieces) return hold_out(all, options);
  const auto documents = std::stable_partition(
      all.begin(), all.end(), [](const lora::Conversation& one) { return !is_document(one); });
  std::vector<lora::Conversation> others(std::make_move_iterator(all.begin()),
                                         std::make_move_iterator(documents));
  all.erase(all.begin(), documents);
  std::vector<lora::Conversation> held = hold_out(others, options);
  all.insert(all.begin(), std::make_move_iterator(others.begin()),
             std::make_move_iterator(others.end()));
  return held;
}

/// Moves a share of the pieces of documents from one set of examples, made from `records`, to the
/// other. Returns how many.
inline std::size_t hold_out_pieces(const std::vector<lora::Conversation>& records,
                                   lora::TokenizedData& from, lora::TokenizedData& to,
                                   const FinetuneOptions& options) {
  std::vector<lora::TokenizedExample> others, pieces;
  for (lora::TokenizedExample& one : from.examples)
    (is_document(records[one.record]) ? pieces : others).push_back(std::move(one));
  std::vector<lora::TokenizedExample> held = hold_out(pieces, options);
  from.examples = std::move(others);
  std::move(pieces.begin(), pieces.end(), std::back_inserter(from.examples));
  std::move(held.begin(), held.end(), std::back_inserter(to.examples));
  from.recount();
  to.recount();
  return held.size();
}

}  // namespace detail

/// Reads the rows of a file of ids, in stored order. Sets `batch` to the rows of a micro-batch.
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
              (file.micro_batches == 1 ? " micro-batch of " : " micro-batches of ") +
              lora::shape_text(file.rows, file.tokens) + "\n";
  return data;
}

/// The rules that turn records into examples, for the commands finetune and data.
struct RecordRules {
  FinetuneOptions options;  ///< with the effective max_length
  lora::RecordTemplates templates;
  lora::TokenizeOptions tokenize;

  /// Uses the named template, or one that fits each record. Limits examples to `positions`.
  RecordRules(FinetuneOptions given, const lora::Tokenizer& tokenizer, Index vocab_size,
              Index positions)
      : options(std::move(given)),
        templates(options.chat_template.empty()
                      ? lora::RecordTemplates(tokenizer)
                      : lora::RecordTemplates(lora::ChatTemplate::named(options.chat_template))) {
    if (options.max_length == 0 || options.max_length > positions) options.max_length = positions;
    tokenize.max_length = options.max_length;
    tokenize.loss_on = options.loss_on;
    tokenize.system = options.system;
    tokenize.vocab_size = vocab_size;
  }

  lora::TokenizedData examples_of(std::span<const lora::Conversation> records,
                                  const lora::Tokenizer& tokenizer) const {
    return lora::tokenize_all(records, templates, tokenizer, tokenize);
  }
};

/// Reads and tokenizes all data. No example is longer than the model's positions.
inline FinetuneData read_finetune_data(const FinetuneOptions& given,
                                       const lora::Tokenizer& tokenizer, Index vocab_size,
                                       Index positions) {
  FinetuneData data;
  data.warnings = lora::tokenizer_notices(tokenizer, vocab_size);
  const RecordRules rules(given, tokenizer, vocab_size, positions);
  const FinetuneOptions& options = rules.options;
  if (options.max_length != given.max_length)
    data.text =
        "max_length   " + std::to_string(positions) + ", as many positions as the model has\n";
  auto train = detail::read_conversations(options.data, options, data.text);
  const bool evaluates = options.eval_data.empty() && options.validation_share > 0;
  const bool by_pieces = evaluates && detail::shares_pieces(train, options);
  std::vector<lora::Conversation> held_out;
  if (!options.eval_data.empty()) {
    held_out = detail::read_conversations(options.eval_data, options, data.text);
  } else if (evaluates) {
    held_out = detail::hold_out_records(train, by_pieces, options);
  }
  data.record_templates = rules.templates;
  lora::TokenizedData first = rules.examples_of(train, tokenizer);
  lora::TokenizedData second = rules.examples_of(held_out, tokenizer);
  const std::size_t pieces = by_pieces ? detail::hold_out_pieces(train, first, second, options) : 0;
  data.train = detail::rows_of(std::move(first.examples), options);
  data.eval = detail::rows_of(std::move(second.examples), options);
  data.text += detail::tokenized_text("training", first.report, data.train.size());
  if (!held_out.empty() || pieces > 0)
    data.text += detail::tokenized_text("evaluation", second.report, data.eval.size(), pieces);
  if (evaluates && held_out.empty() && data.eval.empty())
    data.text += "evaluation   none: there is too little to hold some of it out\n";
  if (data.train.empty())
    throw lora::ConfigError("there is nothing to learn: no example is left of " +
                            counted(first.report.records, "record") + "; " +
                            detail::left_out_text(first.report) + " (max_length " +
                            std::to_string(options.max_length) + ")");
  if (!held_out.empty() && data.eval.empty())
    data.warnings.push_back("nothing is left to evaluate: every answer was cut completely");
  lora::TokenizeReport& both = first.report;
  both.doubled += second.report.doubled;
  both.lacks_begin += second.report.lacks_begin;
  for (const auto& [name, records] : second.report.templates) both.templates[name] += records;
  data.templates = detail::templates_text(both);
  detail::add_warnings(both, tokenizer, data.warnings);
  data.questions = std::move(held_out);
  return data;
}

}  // namespace tools
