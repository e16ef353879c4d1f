// The headers of the library as text, for the tests of how the house is built.
#pragma once

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace lora_test {

/// One header: where it lies below include/lora/ ("core/types.hpp"), and its text.
struct Header {
  std::string path, text;

  /// The first folder of its path, or for an umbrella header the file's name itself.
  std::string folder() const { return path.substr(0, path.find('/')); }
  std::string name() const { return std::filesystem::path(path).stem().string(); }
};

inline std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    lines.push_back(line);
  }
  return lines;
}

/// The text with comments and the insides of literals blanked out, line ends kept.
inline std::string code_of(const std::string& text) {
  std::string code;
  enum { plain, line_comment, block_comment, string, character } state = plain;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i], next = i + 1 < text.size() ? text[i + 1] : '\0';
    const bool after_digit = i > 0 && std::isxdigit(static_cast<unsigned char>(text[i - 1])) != 0;
    if (state == plain) {
      if (c == '/' && next == '/') state = line_comment;
      if (c == '/' && next == '*') state = block_comment;
      if (c == '"') state = string;
      if (c == '\'' && !after_digit) state = character;  // not the separator of 1'000
      code += state == plain || c == '"' || c == '\'' ? c : ' ';
      if (state == block_comment) code += ' ', ++i;
      continue;
    }
    if (state == line_comment && c == '\n') state = plain;
    if (state == block_comment && c == '*' && next == '/') code += ' ', ++i, state = plain;
    if ((state == string || state == character) && c == '\\' && next != '\0') {
      code += "  ";
      ++i;
      continue;
    }
    const bool ends = (state == string && c == '"') || (state == character && c == '\'');
    if (ends) state = plain;
    code += c == '\n' || ends ? c : ' ';
  }
  return code;
}

/// Every header below include/lora/, in order of path.
inline std::vector<Header> all_headers() {
  const std::filesystem::path root = std::filesystem::path(LORA_SOURCE_DIR) / "include" / "lora";
  std::vector<Header> headers;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) {
    if (!entry.is_regular_file()) continue;
    std::ifstream in(entry.path(), std::ios::binary);
    if (!in) throw std::runtime_error("cannot read " + entry.path().string());
    headers.push_back({entry.path().lexically_relative(root).generic_string(),
                       std::string(std::istreambuf_iterator<char>(in), {})});
  }
  std::sort(headers.begin(), headers.end(),
            [](const Header& a, const Header& b) { return a.path < b.path; });
  return headers;
}

/// Whether the header only includes others: nothing of its own to compile or to test.
inline bool only_includes(const Header& header) {
  for (const std::string& line : lines_of(code_of(header.text))) {
    const std::size_t begin = line.find_first_not_of(" \t");
    if (begin != std::string::npos && line[begin] != '#') return false;
  }
  return true;
}

/// Faults one a line, for a test's message.
inline std::string joined(const std::vector<std::string>& faults) {
  std::string text;
  for (const std::string& fault : faults) text += "\n  " + fault;
  return text;
}

}  // namespace lora_test
