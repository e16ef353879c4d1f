// lora data: shows what finetune makes of each record: the rendered text, its ids, and which of
// them the loss counts.
#pragma once

#include "finetune_data.hpp"
#include "support/color.hpp"
#include "support/counted.hpp"
#include "support/program.hpp"

#include <lora/io/hf/hf_config.hpp>
#include <lora/serve/generate.hpp>
#include <lora/text/tokenizer/tokenizer_files.hpp>

#include <iostream>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace tools {

namespace detail {

/// The marks around text that the loss counts.
struct CountedMarks {
  std::string begin, end;
};
inline CountedMarks counted_marks(bool color) {
  return color ? CountedMarks{"\x1b[1;32m", "\x1b[0m"} : CountedMarks{"⟦", "⟧"};
}

/// Whether the loss scores the token. Nothing predicts the first one.
inline bool is_counted(const lora::TokenizedExample& example, std::size_t i) {
  return i > 0 && example.labels[i] != lora::ignored_label;
}

/// Calls fn(begin, end, counted) for each run of tokens that are all counted or all not.
template <class Fn>
void for_each_stretch(const lora::TokenizedExample& example, Fn&& fn) {
  for (std::size_t begin = 0, end = 0; begin < example.ids.size(); begin = end) {
    const bool counted = is_counted(example, begin);
    for (end = begin; end < example.ids.size() && is_counted(example, end) == counted;) ++end;
    fn(begin, end, counted);
  }
}

/// Returns the text of the ids, with counted text between marks. A mark ends with its line.
inline std::string marked_text(const lora::TokenizedExample& example,
                               const lora::Tokenizer& tokenizer, const CountedMarks& marks) {
  std::string text = "  ";
  for_each_stretch(example, [&](std::size_t begin, std::size_t end, bool counted) {
    std::string bytes, shown;
    for (std::size_t i = begin; i < end; ++i)
      bytes += tokenizer.decoder().piece(example.ids[i]).text;
    lora::append_repaired_utf8(bytes, lora::Input::complete, shown);
    if (counted) text += marks.begin;
    for (std::size_t at = 0;;) {
      const std::size_t line_end = std::min(shown.find('\n', at), shown.size());
      text += lora::printable(std::string_view(shown).substr(at, line_end - at), shown.size());
      if (line_end == shown.size()) break;
      text += "\\n" + (counted ? marks.end : "") + "\n  " + (counted ? marks.begin : "");
      at = line_end + 1;
    }
    if (counted) text += marks.end;
  });
  if (text.ends_with("\n  ")) text.resize(text.size() - 3);
  return text + "\n";
}

/// Returns the ids in lines of 100 columns, with counted ids between marks.
inline std::string marked_ids(const lora::TokenizedExample& example, const CountedMarks& marks) {
  std::string text;
  std::size_t column = 0;
  for_each_stretch(example, [&](std::size_t begin, std::size_t end, bool counted) {
    for (std::size_t i = begin; i < end; ++i) {
      const std::string id = std::to_string(example.ids[i]);
      const bool fresh = column == 0 || column + id.size() > 95;
      if (fresh) {
        if (counted && i > begin) text += marks.end;
        text += column == 0 ? "  ids " : "\n      ";
        column = 6;
      } else {
        text += " ";
      }
      if (counted && (i == begin || fresh)) text += marks.begin;
      text += id;
      column += id.size() + 1;
    }
    if (counted) text += marks.end;
  });
  return text + "\n";
}

/// Describes one record in lines, and adds its examples to `total`.
inline std::string record_text(const lora::Conversation& record, const RecordRules& rules,
                               const lora::Tokenizer& tokenizer, const CountedMarks& marks,
                               lora::TokenizeReport& total) {
  const lora::TokenizedData data = rules.examples_of(std::span(&record, 1), tokenizer);
  const lora::TokenizeReport& report = data.report;
  std::string text = "\n" + lora::printable(record.place, 400) + ": template " +
                     templates_text(report) + ", " + counted(report.tokens, "token") + ", " +
                     std::to_string(report.counted) + " counted by the loss with " +
                     counted(report.ends, "end token");
  if (report.truncated > 0)
    text += ", cut at " + std::to_string(rules.options.max_length) + " tokens";
  text += "\n";
  if (const std::string left_out = left_out_text(report); !left_out.empty())
    text += "  " + left_out + "\n";
  for (std::size_t i = 0; i < data.examples.size(); ++i) {
    if (data.examples.size() > 1)
      text += "  piece " + std::to_string(i + 1) + " of " + std::to_string(data.examples.size()) +
              ", " + std::to_string(data.examples[i].counted()) + " counted\n";
    text += marked_text(data.examples[i], tokenizer, marks) + marked_ids(data.examples[i], marks);
  }
  total.records += report.records;
  total.tokens += report.tokens;
  total.counted += report.counted;
  total.ends += report.ends;
  total.doubled += report.doubled;
  total.lacks_begin += report.lacks_begin;
  for (const auto& [name, records] : report.templates) total.templates[name] += records;
  return text;
}

/// Returns the model's vocabulary size and number of positions; without a config.json, the
/// tokenizer's size and no limit.
inline std::pair<Index, Index> model_limits(const std::filesystem::path& model,
                                            const lora::Tokenizer& tokenizer) {
  std::error_code ignored;
  if (!std::filesystem::exists(model / lora::hf_config_file, ignored))
    return {tokenizer.vocab_size(), std::numeric_limits<Index>::max()};
  const lora::CausalLMConfig config = lora::read_hf_config(model).model;
  const Index vocabulary = std::visit([](const auto& one) { return one.vocab_size; }, config);
  return {vocabulary, lora::position_limit(config)};
}

inline void show_data(const FinetuneOptions& options, Index records, bool color) {
  const lora::Tokenizer tokenizer = lora::Tokenizer::open(options.model);
  const auto [vocabulary, positions] = model_limits(options.model, tokenizer);
  const RecordRules rules(options, tokenizer, vocabulary, positions);
  const auto warn = [](const std::vector<std::string>& warnings) {
    for (const std::string& one : warnings) std::cerr << "lora data: " << one << "\n";
  };
  warn(lora::tokenizer_notices(tokenizer, vocabulary));
  std::string text;
  const std::vector<lora::Conversation> all = read_conversations(options.data, rules.options, text);
  std::cout << text;
  const CountedMarks marks = counted_marks(color);
  const std::size_t shown = std::min(all.size(), static_cast<std::size_t>(records));
  lora::TokenizeReport total;
  for (std::size_t i = 0; i < shown; ++i)
    std::cout << record_text(all[i], rules, tokenizer, marks, total) << std::flush;
  std::cout << "\n"
            << counted(shown, "record") << " of " << all.size() << ": "
            << counted(total.tokens, "token") << ", " << total.counted
            << " counted by the loss with " << counted(total.ends, "end token") << "; what counts "
            << "is "
            << (color ? marks.begin + "in this colour" + marks.end
                      : "between " + marks.begin + " and " + marks.end)
            << "\n";
  std::vector<std::string> warnings;
  add_warnings(total, tokenizer, warnings);
  warn(warnings);
}

}  // namespace detail

/// Runs the command and reports errors on standard error. Returns the exit code.
inline int data_command(int argc, const char* const* argv) {
  CLI::App app("Shows what finetune learns from the records of a file.", "lora data");
  app.footer(
      "Options are those of finetune and mean the same; --config takes its file. Text that the\n"
      "loss counts is in colour on a terminal, and elsewhere between the brackets ⟦ and ⟧.\n"
      "Exit status: 0 done, 2 an error, with its reason on standard error.\n");
  return run_program({"lora data"}, [&] {
    FinetuneSettings settings(app, {"model", "data", "task", "template", "system", "max_length",
                                    "loss_on", "bad_record", "fields"});
    Index records = 3;
    std::string color = "auto";
    app.add_option("--records", records, "number of records to show, from the first [3]")
        ->option_text("N")
        ->check(CLI::Range(Index{1}, Index{1} << 40));
    app.add_option("--color", color, "in colour: auto, on a terminal unless NO_COLOR is set [auto]")
        ->option_text("auto|always|never")
        ->check(CLI::IsMember({"auto", "always", "never"}));
    if (const std::optional<int> code = parse_command_line(app, argc, argv)) return *code;
    const FinetuneOptions options = settings.options();
    if (options.model.empty())
      throw lora::ConfigError("--model is missing: a folder with a tokenizer");
    if (options.data.empty()) throw lora::ConfigError("--data is missing: what to learn from");
    detail::show_data(options, records, wants_color(color));
    return 0;
  });
}

}  // namespace tools
