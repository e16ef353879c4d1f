// lora tokenize: shows the ids and pieces of a text, or the text of ids.
#pragma once

#include "support/command_line.hpp"
#include "support/counted.hpp"
#include "support/program.hpp"

#include <lora/io/file.hpp>
#include <lora/io/json.hpp>
#include <lora/text/tokenizer/tokenizer_files.hpp>

#include <charconv>
#include <filesystem>
#include <iostream>
#include <iterator>
#include <optional>
#include <string>
#include <vector>

namespace tools {

struct TokenizeRequest {
  std::filesystem::path model, file;
  std::vector<std::string> texts;
  bool decode = false, json = false, special = true, skip_special = false;
};

namespace detail {

/// Returns the text of one id, with U+FFFD for incomplete characters.
inline std::string piece_text(const lora::Tokenizer& tokenizer, std::int64_t id) {
  std::string out;
  lora::append_repaired_utf8(tokenizer.decoder().piece(id).text, lora::Input::complete, out);
  return out;
}

/// Parses the ids in a text: integers separated by white space, commas or brackets.
inline std::vector<std::int64_t> ids_in(const std::string& text, lora::Index vocab_size) {
  std::vector<std::int64_t> ids;
  const char* const between = " \t\r\n,[]";
  for (std::size_t at = 0; (at = text.find_first_not_of(between, at)) != text.npos;) {
    const std::size_t end = std::min(text.find_first_of(between, at), text.size());
    const std::string word = text.substr(at, end - at);
    std::int64_t id = -1;
    const auto [last, failed] = std::from_chars(word.data(), word.data() + word.size(), id);
    if (failed != std::errc() || last != word.data() + word.size() || id < 0 || id >= vocab_size)
      throw lora::ConfigError("--decode: " + lora::in_quotes(word) +
                              " is not an id of this tokenizer, expected 0 to " +
                              std::to_string(vocab_size - 1));
    ids.push_back(id);
    at = end;
  }
  return ids;
}

/// Returns a line for each token: its id, the bytes of the text that it covers, and its piece.
inline std::string token_lines(const lora::Tokenizer& tokenizer, const lora::Encoding& encoding) {
  std::string lines;
  std::size_t begin = 0;
  for (std::size_t i = 0; i < encoding.ids.size(); ++i) {
    const std::string id = std::to_string(encoding.ids[i]),
                      span = std::to_string(begin) + "-" + std::to_string(encoding.ends[i]);
    const auto padded = [](const std::string& text, std::size_t width) {
      return std::string(width - std::min(width, text.size()), ' ') + text;
    };
    lines += padded(id, 8) + padded(span, 12) + "  " +
             lora::in_quotes(tokenizer.decoder().piece(encoding.ids[i]).text) + "\n";
    begin = encoding.ends[i];
  }
  return lines;
}

inline lora::Json token_json(const lora::Tokenizer& tokenizer, const lora::Encoding& encoding) {
  lora::Json json = lora::Json::object();
  json["ids"] = encoding.ids;
  json["pieces"] = lora::Json::array();
  for (const std::int64_t id : encoding.ids) json["pieces"].push_back(piece_text(tokenizer, id));
  json["ends"] = encoding.ends;
  return json;
}

inline void show_text(const TokenizeRequest& request, const lora::Tokenizer& tokenizer,
                      const std::string& text) {
  if (request.decode) {
    const std::string decoded =
        tokenizer.decode(ids_in(text, tokenizer.vocab_size()),
                         request.skip_special ? lora::SkipSpecial::yes : lora::SkipSpecial::no);
    std::cout << (request.json ? lora::Json(decoded).dump() : decoded) << "\n";
    return;
  }
  const lora::Encoding encoding = tokenizer.encode_with_ends(
      text, request.special ? lora::SpecialTokens::add : lora::SpecialTokens::none);
  if (request.json) {
    std::cout << token_json(tokenizer, encoding).dump() << "\n";
    return;
  }
  std::cout << token_lines(tokenizer, encoding) << std::flush;
  std::cerr << "[" << counted(encoding.ids.size(), "token") << ", " << counted(text.size(), "byte")
            << "]\n";
}

/// Returns the texts given; if none, the file's text or standard input without its final newline.
inline std::vector<std::string> texts_of(const TokenizeRequest& request) {
  if (!request.texts.empty() && !request.decode) return request.texts;
  if (!request.texts.empty()) {  // ids are separate words of one text
    std::string all;
    for (const std::string& text : request.texts) all += text + " ";
    return {all};
  }
  if (!request.file.empty()) {
    const auto bytes = lora::read_file(request.file, std::uint64_t{1} << 31);
    return {std::string(lora::as_text(bytes))};
  }
  std::string text(std::istreambuf_iterator<char>(std::cin), {});
  if (text.ends_with('\n')) text.pop_back();
  return {text};
}

}  // namespace detail

/// Parses the command line. Returns an exit code if the program should end.
inline std::optional<int> parse_tokenize_options(int argc, const char* const* argv,
                                                 TokenizeRequest& request) {
  CLI::App app("Shows the ids and pieces of a text, or the text of ids.", "lora tokenize");
  app.get_formatter()->column_width(34);
  const auto add = [&](const char* name, const char* given, auto& value, const char* words) {
    return app.add_option(name, value, words)->option_text(given)->type_name("");
  };
  add("--model", "DIR", request.model, "a folder with a tokenizer")->required();
  CLI::Option* text =
      add("text", "TEXT...", request.texts, "texts, or with --decode ids [standard input]");
  add("--file", "FILE", request.file, "read the text, or the ids, from a file")->excludes(text);
  app.add_flag("--decode", request.decode, "from ids to text");
  app.add_flag("--add-special-tokens,!--no-add-special-tokens", request.special,
               "put the tokenizer's own tokens around a text (<s>) [yes]");
  app.add_flag("--skip-special-tokens", request.skip_special,
               "with --decode: leave special tokens out");
  app.add_flag("--json", request.json, "a line of JSON for each text");
  app.footer(
      "Prints a line for each token: its id, the bytes of the text that it covers, and its piece.\n"
      "Bytes that are not a printable character are written as \\xNN.\n"
      "--json: {\"ids\", \"pieces\", \"ends\"}, or with --decode a string.\n"
      "Exit status: 0 done, 2 an error, with its reason on standard error.\n");
  return parse_command_line(app, argc, argv);
}

/// Runs the command and reports errors on standard error. Returns the exit code.
inline int tokenize_command(int argc, const char* const* argv) {
  return run_program({"lora tokenize"}, [&] {
    TokenizeRequest request;
    if (const std::optional<int> code = parse_tokenize_options(argc, argv, request)) return *code;
    const lora::Tokenizer tokenizer = lora::Tokenizer::open(request.model);
    for (const std::string& notice : tokenizer.notices())
      std::cerr << "lora tokenize: " << notice << "\n";
    const std::vector<std::string> texts = detail::texts_of(request);
    for (const std::string& text : texts) {
      if (texts.size() > 1 && !request.json)
        std::cout << "== " << lora::printable(text, 60) << "\n";
      detail::show_text(request, tokenizer, text);
    }
    return 0;
  });
}

}  // namespace tools
