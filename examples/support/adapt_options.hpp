// Parses the command line of adapt_digits.
#pragma once

#include "digit_tasks.hpp"

#include <CLI/CLI.hpp>

#include <cstdint>
#include <optional>
#include <set>

namespace examples {

struct AdaptOptions {
  DigitSources digits;
  std::vector<Index> ranks = {1, 2, 4, 8, 16};
  std::vector<Index> hidden = {256, 128};
  Index base_epochs = 8, epochs = 8;
  Index steps = 0;  ///< per adaptation; 0: determined by `epochs`
  Index batch_size = 64;
  double learning_rate = 5e-3, full_learning_rate = 3e-3, dropout = 0;
  std::filesystem::path output = "results", load, base;
  int threads = 0;  ///< 0: the library's choice
  bool quiet = false;
  std::string again;  ///< this command line, for running it again
};

namespace detail {

/// Quotes the command line for a shell.
inline std::string shell_words(int argc, char** argv) {
  constexpr std::string_view plain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=+:,./@%";
  std::string words;
  for (int i = 0; i < argc; ++i) {
    std::string word = argv[i];
    if (word.empty() || word.find_first_not_of(plain) != std::string::npos) {
      for (std::size_t at = 0; (at = word.find('\'', at)) != std::string::npos; at += 4) {
        word.replace(at, 1, "'\\''");
      }
      word = "'" + word + "'";
    }
    words += (i == 0 ? "" : " ") + word;
  }
  return words;
}

inline std::string check_shift(const std::string& text) {
  try {
    parse_shift(text);
    return {};
  } catch (const lora::ConfigError& error) {
    const std::string reason = error.what();
    return reason.substr(reason.find(": ") +
                         2);  // the option's name takes the place of the function's
  }
}

/// Checks a seed. CLI11 would accept -1 and truncate large values.
inline std::string check_seed(const std::string& text) {
  const bool good = text.find_first_not_of("0123456789") == std::string::npos && text.size() <= 18;
  return good && !text.empty() ? "" : "'" + text + "' is not an integer from 0 to 10^18 - 1";
}

/// Checks for a number that is at least `low` and below `high`. CLI::Range would accept NaN.
inline CLI::Validator number_check(double low, double high, const char* expected) {
  const auto check = [low, high, expected](const std::string& text) {
    double value = 0;
    const bool good = CLI::detail::lexical_cast(text, value) && value >= low && value < high;
    return good ? std::string() : "'" + text + "' is not " + expected;
  };
  return CLI::Validator(check, "");
}

/// Adds options of one group of --help, each with its argument, help text and default.
class OptionGroup {
 public:
  OptionGroup(CLI::App& app, std::string name) : app_(app), name_(std::move(name)) {}

  template <class Value>
  CLI::Option* add(const char* option, const char* given, Value& value, const std::string& words) {
    CLI::Option* added = app_.add_option(option, value, words)->group(name_)->option_text(given);
    return added->type_name("");
  }
  /// Adds an option with a check, and appends its current value as default to the help text.
  template <class Value>
  CLI::Option* add(const char* option, const char* given, Value& value, const std::string& words,
                   CLI::Validator check) {
    CLI::Option* added = add(option, given, value, words)->check(std::move(check));
    added->capture_default_str();
    const std::string standard = added->get_default_str();
    return added->description(words +
                              (standard[0] == '[' ? " " + standard : " [" + standard + "]"));
  }
  void add_flag(const char* option, bool& value, const char* words) {
    app_.add_flag(option, value, words)->group(name_);
  }

 private:
  CLI::App& app_;
  std::string name_;
};

inline void add_digit_options(CLI::App& app, DigitSources& digits, std::string& shift) {
  OptionGroup group(app, "Digits (without files they are drawn)");
  const char* files = "FILE [FILE]";
  auto* images = group.add("--mnist-images", files, digits.mnist_images,
                           "IDX images, also .gz; a second file is held out");
  auto* labels = group.add("--mnist-labels", files, digits.mnist_labels, "their IDX labels");
  images->needs(labels)->expected(1, 2);
  labels->needs(images)->expected(1, 2);
  group
      .add("--optdigits", files, digits.optdigits,
           "UCI's optdigits; a second file is held out; with MNIST they are task B")
      ->expected(1, 2);
  group.add_flag("--drawn-first", digits.drawn_first,
                 "task A is drawn digits, task B those of the files");
  group
      .add("--shift", "SHIFT", shift,
           "how task B is changed: none, rotate[:degrees], invert, noise[:deviation], "
           "several joined by commas [rotate:45, or none if the tasks have different digits]")
      ->check(CLI::Validator(check_shift, ""));
  group.add("--images", "N", digits.images, "maximum number of training images",
            CLI::Range(10, 200000));
}

/// Adds the training options. Returns those that --short changes if they are not given.
inline std::vector<CLI::Option*> add_training_options(CLI::App& app, AdaptOptions& options) {
  OptionGroup group(app, "Training");
  auto* ranks = group.add("--ranks", "R,R,...", options.ranks, "of the adapters, 1 to 4096",
                          CLI::Range(1, 4096));
  auto* hidden = group.add("--hidden", "N,N,...", options.hidden, "widths of the hidden layers",
                           CLI::Range(1, 8192));
  ranks->delimiter(',')->expected(1, 16);
  hidden->delimiter(',')->expected(1, 8);
  auto* base = group.add("--base-epochs", "N", options.base_epochs, "times through task A",
                         CLI::Range(1, 100000));
  auto* epochs =
      group.add("--epochs", "N", options.epochs, "times through task B", CLI::Range(1, 100000));
  group.add("--steps", "N", options.steps, "on task B, instead of epochs")
      ->check(CLI::Range(1, 100000000))
      ->excludes(epochs);
  group.add("--batch-size", "N", options.batch_size, "images per step", CLI::Range(1, 100000));
  const CLI::Validator rates = number_check(1e-12, 1e6, "a number from 1e-12 to a million");
  group.add("--learning-rate", "X", options.learning_rate, "of the adapters", rates);
  group.add("--full-learning-rate", "X", options.full_learning_rate,
            "of the base network and of full fine-tuning", rates);
  group.add("--dropout", "P", options.dropout, "on the adapters' input, less than 1",
            number_check(0, 1, "a number at least 0 and less than 1"));
  group.add("--seed", "N", options.digits.seed, "of everything random",
            CLI::Validator(check_seed, ""));
  group.add("--threads", "N", options.threads, "number of threads; does not change results")
      ->check(CLI::Range(1, 1024));
  return {ranks, hidden, base, epochs};
}

inline void add_file_options(CLI::App& app, AdaptOptions& options) {
  OptionGroup group(app, "Files");
  group.add("--output", "DIR", options.output, "folder of the results [results]");
  group.add("--base", "FILE", options.base, "take this network instead of training one");
  group.add("--load", "FILE", options.load,
            "only evaluate this adapter, on --base or on the base.safetensors next to it");
}

}  // namespace detail

/// Parses the command line. Returns an exit code if the program should end: 0 after --help, 2 after
/// a one-line message about an invalid option.
inline std::optional<int> parse_adapt_options(int argc, char** argv, AdaptOptions& options) {
  CLI::App app(
      "Trains a network on handwritten digits (task A), freezes it, and adapts it to a shifted "
      "task (B)\nwith LoRA at several ranks. Compares with full fine-tuning and no tuning.",
      "adapt_digits");
  std::string shift;
  bool brief = false;
  detail::add_digit_options(app, options.digits, shift);
  const std::vector<CLI::Option*> shortened = detail::add_training_options(app, options);
  detail::add_file_options(app, options);
  app.add_flag("--short", brief, "a run of a few seconds: fewer images, ranks, layers and epochs");
  app.add_flag("--quiet", options.quiet, "only the table at the end");
  app.footer("Exit status: 0 done, 1 something failed, 2 the command line is invalid.\n");
  app.failure_message([](const CLI::App*, const CLI::Error& error) {
    return std::string("adapt_digits: ") + error.what() + " (see --help)\n";
  });
  try {
    app.parse(argc, argv);
    const std::set<Index> different(options.ranks.begin(), options.ranks.end());
    if (different.size() != options.ranks.size()) {
      throw CLI::ValidationError("--ranks", "a rank is given twice");
    }
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  if (!shift.empty()) {
    options.digits.shift = parse_shift(shift);
    options.digits.shift->seed = options.digits.seed;
  }
  if (brief) {
    const auto given = [&shortened](std::size_t i) { return shortened[i]->count() > 0; };
    options.digits.images = std::min<Index>(options.digits.images, 1600);
    if (!given(0)) options.ranks = {1, 4};
    if (!given(1)) options.hidden = {64};
    if (!given(2)) options.base_epochs = 4;
    if (!given(3)) options.epochs = 4;
  }
  options.again = detail::shell_words(argc, argv);
  return std::nullopt;
}

}  // namespace examples
