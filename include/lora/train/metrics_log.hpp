// Writes the log of a run as JSON Lines, one object per line.
#pragma once

#include <lora/io/atomic_file.hpp>
#include <lora/train/callback.hpp>

#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

namespace lora {

/// Appends lines to a file of JSON Lines and flushes each at once.
class JsonLines {
 public:
  explicit JsonLines(std::filesystem::path path) : path_(std::move(path)) {}

  /// Opens the file and keeps only its lines whose "step" is at most `step`, so that a resumed run
  /// continues the log of the steps that it has. Drops lines that are not such objects, for instance
  /// one that a killed process half wrote. Creates folders.
  /// Throws: IoError; FormatError for a file of more than 1 GiB.
  void begin(Index step) {
    file_.close();
    std::error_code ignored;
    std::filesystem::create_directories(path_.parent_path(), ignored);
    std::string kept;
    if (step > 0 && std::filesystem::exists(path_, ignored)) {
      const auto bytes = read_file(path_, std::uint64_t{1} << 30);
      std::string_view text = as_text(bytes);
      while (!text.empty()) {
        const std::size_t end = std::min(text.find('\n'), text.size());
        if (keeps(text.substr(0, end), step)) kept.append(text.substr(0, end)).append("\n");
        text.remove_prefix(std::min(end + 1, text.size()));
      }
    }
    atomic_write(path_, kept);
    file_.open(path_, std::ios::app | std::ios::binary);
    check();
  }
  /// Throws: IoError.
  void write(const Json& line) {
    file_ << line.dump() << '\n' << std::flush;
    check();
  }

 private:
  static bool keeps(std::string_view line, Index step) {
    try {
      const Json json = parse_json(line, "line");
      return json.is_object() && json.contains("step") && json["step"].is_number_integer() &&
             json["step"].get<Index>() <= step;
    } catch (const FormatError&) {
      return false;
    }
  }
  void check() const {
    if (!file_) throw IoError(path_.string() + ": cannot write the log");
  }

  std::filesystem::path path_;
  std::ofstream file_;
};

/// Writes every entry of the log: {"step", "epoch", "loss", "grad_norm", "learning_rate",
/// "tokens_per_second"} of training, {"step", "epoch", "eval_loss", "eval_perplexity", …} of
/// evaluations, with null for non-finite numbers. An exception of JsonLines ends the run.
class JsonLinesLog : public TrainerCallback {
 public:
  explicit JsonLinesLog(std::filesystem::path path) : lines_(std::move(path)) {}

  void on_train_begin(const TrainerEvent& event) override { lines_.begin(event.state.global_step); }
  void on_log(const TrainerEvent&, const Json& entry) override { lines_.write(entry); }

 private:
  JsonLines lines_;
};

}  // namespace lora
