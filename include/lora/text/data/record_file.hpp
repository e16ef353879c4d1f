// Iterates over the records of a data file, each with its line number.
#pragma once

#include <lora/core/error.hpp>
#include <lora/core/printable.hpp>
#include <lora/io/file.hpp>
#include <lora/text/unicode.hpp>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace lora {

/// The format of a data file: a JSON array, a JSON value on each line, or text without records.
/// automatic: text if the name ends in .txt or .md, otherwise as the first character shows.
enum class DataFormat { automatic, json, json_lines, text };

/// The largest accepted sizes of a data file.
struct RecordLimits {
  std::uint64_t file_bytes = std::uint64_t{8} << 30;
  std::size_t record_bytes = std::size_t{16} << 20;  ///< limit of one JSON record
};

/// The unparsed text of a record.
struct Record {
  std::string_view text;
  std::size_t line;  ///< from 1 on
};

/// Iterates over the records of a text in linear time. Reports only errors that hide where the next
/// record begins, as a FormatError "where: line 3: ..."; the reader of a record finds errors inside
/// it. Refers to the text, which must outlive it.
class RecordScanner {
 public:
  /// `where` names the file. With DataFormat::text, the whole text is one record.
  RecordScanner(std::string_view text, DataFormat format, std::string where)
      : text_(text), format_(format), where_(std::move(where)) {
    if (text_.substr(0, 3) == "\xEF\xBB\xBF") text_.remove_prefix(3);  // a byte order mark
    skip_space();
    if (format_ == DataFormat::automatic) {
      if (!done() && text_[at_] != '[' && text_[at_] != '{') {
        refuse("is neither a JSON array nor JSON Lines: it begins with " +
               in_quotes(text_.substr(at_, 20)) + other_format(text_.substr(at_)) +
               "; expected one of these, or plain text in a file whose name ends in .txt or .md");
      }
      format_ = !done() && text_[at_] == '[' ? DataFormat::json : DataFormat::json_lines;
    }
    if (format_ == DataFormat::json && !done()) {
      if (text_[at_] != '[') refuse("is not a JSON array");
      ++at_;
      skip_space();
      if (done()) refuse("the array does not end");
      if (text_[at_] == ']') end_array();
    }
  }

  DataFormat format() const { return format_; }
  bool done() const { return at_ == text_.size(); }
  /// Returns the next record. There is one unless done().
  Record next() {
    if (format_ == DataFormat::text) {
      at_ = text_.size();
      return {text_, 1};
    }
    return format_ == DataFormat::json ? next_element() : next_line();
  }

 private:
  /// Guesses the format of a file that is not JSON.
  std::string other_format(std::string_view text) const {
    constexpr std::string_view gzip("\x1f\x8b"), zip("PK\x03\x04"), parquet("PAR1"),
        zstandard("\x28\xb5\x2f\xfd");
    if (text.starts_with(gzip) || text.starts_with(zip) || text.starts_with(zstandard))
      return ", as compressed files do, which are not read here: decompress it first";
    if (text.starts_with(parquet)) return ", as Parquet files do: write it as JSON Lines first";
    if (where_.ends_with(".csv") || where_.ends_with(".tsv"))
      return " and is a table by its name: write it as JSON Lines first";
    return "";
  }
  [[noreturn]] void refuse(const std::string& what) const {
    throw FormatError(where_ + ": line " + std::to_string(line_) + ": " + what);
  }
  void skip_space() {
    for (; !done(); ++at_) {
      const char c = text_[at_];
      if (c == '\n') ++line_;
      if (c != ' ' && c != '\t' && c != '\r' && c != '\n') break;
    }
  }
  Record next_line() {
    const std::size_t end = std::min(text_.find('\n', at_), text_.size());
    const Record record{text_.substr(at_, end - at_), line_};
    at_ = end;
    skip_space();
    return record;
  }
  // Reads up to the comma or bracket that ends the element. Only counts brackets and quotes.
  Record next_element() {
    const std::size_t begin = at_, line = line_;
    std::size_t depth = 0;
    bool quoted = false;
    for (; !done(); ++at_) {
      const char c = text_[at_];
      if (c == '\n') ++line_;
      if (quoted) {
        if (c == '\\' && at_ + 1 < text_.size()) {
          ++at_;
        } else {
          quoted = c != '"';
        }
      } else if (c == '"') {
        quoted = true;
      } else if (c == '{' || c == '[') {
        ++depth;
      } else if (depth > 0 && (c == '}' || c == ']')) {
        --depth;
      } else if (depth == 0 && (c == ',' || c == ']')) {
        break;
      }
    }
    if (done()) {
      line_ = line;
      refuse(quoted ? "a text of the record that begins here does not end"
                    : "the record that begins here, or the array, does not end");
    }
    const Record record{text_.substr(begin, at_ - begin), line};
    if (text_[at_] == ']') {
      end_array();
    } else {
      ++at_;
      skip_space();
      if (done()) refuse("the array does not end");
    }
    return record;
  }
  void end_array() {
    ++at_;
    skip_space();
    if (!done()) refuse("there is text after the array: " + in_quotes(text_.substr(at_, 20)));
  }

  std::string_view text_;
  DataFormat format_;
  std::string where_;
  std::size_t at_ = 0, line_ = 1;
};

/// Returns the format that the file name indicates, or automatic.
inline DataFormat format_of_name(const std::filesystem::path& path) {
  const std::string ending = path.extension().string();
  if (ending == ".txt" || ending == ".md") return DataFormat::text;
  return ending == ".jsonl" ? DataFormat::json_lines : DataFormat::automatic;
}

}  // namespace lora
