// Ids and texts of the strings in a JSON array, one JSON object a line, for check.py.
//   encode DIRECTORY TEXTS.json
#include <lora/io/file.hpp>
#include <lora/text/tokenizer/tokenizer_files.hpp>

#include <iostream>

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  try {
    const lora::Tokenizer tokenizer = lora::Tokenizer::open(argv[1]);
    const auto bytes = lora::read_file(argv[2], std::uint64_t{1} << 30);
    for (const lora::Json& text : lora::parse_json(lora::as_text(bytes), argv[2])) {
      const auto string = text.get<std::string>();
      lora::Json row;
      row["ids"] = tokenizer.encode(string);
      row["raw"] = tokenizer.encode(string, lora::SpecialTokens::none);
      const auto ids = row["ids"].get<std::vector<std::int64_t>>();
      row["decoded"] = tokenizer.decode(ids);
      row["without_special"] = tokenizer.decode(ids, lora::SkipSpecial::yes);
      std::cout << row.dump() << "\n";
    }
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
