// Reads the optdigits files of the UCI repository ("Optical Recognition of Handwritten Digits",
// Alpaydin and Kaynak, 1998). A line has 64 numbers 0..16, the ink in each block of an 8 x 8 grid,
// and the digit, separated by commas.
#pragma once

#include "digit_set.hpp"
#include "input_file.hpp"

#include <array>
#include <charconv>
#include <fstream>
#include <string_view>

namespace examples {

/// The largest accepted optdigits file. The real ones have half a mebibyte.
inline constexpr std::uintmax_t kMaxOptdigitsBytes = std::uintmax_t{1} << 26;

namespace detail {

/// Formats untrusted text for a message: short, and printable on any terminal.
inline std::string quoted(std::string_view text) {
  std::string shown = "'";
  for (const char ch : text.substr(0, 20)) shown += (ch >= ' ' && ch <= '~') ? ch : '?';
  return shown + (text.size() > 20 ? "...'" : "'");
}

/// Parses the numbers of one line; `where` is "file:line".
inline std::array<int, 65> parse_optdigits_line(std::string_view line, const std::string& where) {
  std::array<int, 65> numbers{};
  std::size_t field = 0;
  for (std::string_view rest = line;; ++field) {
    const std::size_t comma = rest.find(',');
    const std::string_view text = rest.substr(0, comma);
    if (field < numbers.size()) {
      const int most = field < 64 ? 16 : 9;
      int value = -1;
      const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
      const bool whole = result.ec == std::errc{} && result.ptr == text.data() + text.size();
      if (!whole || value < 0 || value > most) {
        throw lora::FormatError(
            where + ": " + (field < 64 ? "block " + std::to_string(field + 1) : "class") + " is " +
            quoted(text) + ", expected an integer 0 to " + std::to_string(most));
      }
      numbers[field] = value;
    }
    if (comma == std::string_view::npos) break;
    rest.remove_prefix(comma + 1);
  }
  if (field + 1 == numbers.size()) return numbers;
  throw lora::FormatError(where + ": " + std::to_string(field + 1) +
                          " fields, expected 65 (64 blocks and the class)");
}

}  // namespace detail

/// Reads an optdigits text file into 8 x 8 images, with block counts divided by 16. Skips a first
/// line of column names and empty lines.
/// Throws: lora::IoError if the file cannot be read; lora::FormatError that names file, line and
///   field if something is wrong or there is no digit.
inline DigitSet read_optdigits(const std::filesystem::path& path) {
  const std::string name = path.string();
  const std::uintmax_t bytes = input_file_size(path);
  if (bytes > kMaxOptdigitsBytes) {
    throw lora::FormatError(name + ": the file has " + std::to_string(bytes) +
                            " bytes, expected at most " + std::to_string(kMaxOptdigitsBytes));
  }
  std::ifstream file(path);
  if (!file) throw lora::IoError(name + ": cannot be opened");

  std::vector<std::array<int, 65>> rows;
  std::string line;
  for (std::size_t number = 1; std::getline(file, line); ++number) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    const auto is_letter = [](char ch) {
      return (ch >= 'A' && ch <= 'Z') || (ch >= 'a' && ch <= 'z');
    };
    const bool column_names = number == 1 && !line.empty() && is_letter(line.front());
    if (line.empty() || column_names) continue;
    rows.push_back(detail::parse_optdigits_line(line, name + ":" + std::to_string(number)));
  }
  if (file.bad()) throw lora::IoError(name + ": cannot be read");
  if (rows.empty())
    throw lora::FormatError(name + ": no digit in the file, expected a line for each");

  DigitSet set{{}, {}, 8, 8, path.filename().string()};
  set.images.resize(static_cast<Index>(rows.size()), 64);
  set.labels.reserve(rows.size());
  for (std::size_t n = 0; n < rows.size(); ++n) {
    for (std::size_t i = 0; i < 64; ++i) {
      set.images(static_cast<Index>(n), static_cast<Index>(i)) =
          static_cast<float>(rows[n][i]) / 16.0f;
    }
    set.labels.push_back(rows[n][64]);
  }
  return set;
}

}  // namespace examples
