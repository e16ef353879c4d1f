#include <lora/text/data/record_file.hpp>

#include <gtest/gtest.h>

#include <random>

namespace record_file_test {

using lora::DataFormat;
using lora::RecordScanner;

// "line:text" of each record.
std::string records(std::string_view text, DataFormat format = DataFormat::automatic) {
  std::string out;
  for (RecordScanner scanner(text, format, "data.json"); !scanner.done();) {
    const lora::Record record = scanner.next();
    out += std::to_string(record.line) + ":" + std::string(record.text) + "|";
  }
  return out;
}

std::string refusal(std::string_view text, DataFormat format = DataFormat::automatic) {
  try {
    records(text, format);
  } catch (const lora::FormatError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(RecordFile, ElementsOfAnArray) {
  EXPECT_EQ(records(" [\n {\"a\": [1, {}]} ,\n\n\"x\\\"],\",3\n]\n"),
            "2:{\"a\": [1, {}]} |4:\"x\\\"],\"|4:3\n|");
  EXPECT_EQ(records("[]"), "");
  EXPECT_EQ(records("[ \n ]\n"), "");
  EXPECT_EQ(records("[{}]"), "1:{}|");
  EXPECT_EQ(records("\xEF\xBB\xBF[{},\r\n{}]"), "1:{}|2:{}|");
  EXPECT_EQ(records("[{\"a\":\"x\ny\"},\n1]"),
            "1:{\"a\":\"x\ny\"}|3:1|");  // the parser's to refuse
}

TEST(RecordFile, Lines) {
  EXPECT_EQ(records("{\"a\":1}\r\n\n  \n{\"b\":2}\nx"), "1:{\"a\":1}\r|4:{\"b\":2}|5:x|");
  EXPECT_EQ(records("[1]\n[2]", DataFormat::json_lines), "1:[1]|2:[2]|");
  EXPECT_EQ(records(""), "");
  EXPECT_EQ(records(" \n"), "");
  EXPECT_EQ(records("\n\n{}"), "3:{}|");
}

TEST(RecordFile, AWholeTextIsOneRecord) {
  EXPECT_EQ(records("\xEF\xBB\xBF a\n[", DataFormat::text), "1: a\n[|");
  EXPECT_EQ(records(" \n", DataFormat::text), "");
}

TEST(RecordFile, RefusesWhatHasNoEndOrBeginning) {
  EXPECT_EQ(refusal("[{},\n{\"a\":\n"),
            "data.json: line 2: the record that begins here, or the array, does not end");
  EXPECT_EQ(refusal("[{}"),
            "data.json: line 1: the record that begins here, or the array, does not end");
  EXPECT_EQ(refusal("[{},\n"), "data.json: line 2: the array does not end");
  EXPECT_EQ(refusal("["), "data.json: line 1: the array does not end");
  EXPECT_EQ(refusal("[\n\"a"),
            "data.json: line 2: a text of the record that begins here does not end");
  EXPECT_EQ(refusal("[{}]\n]"), "data.json: line 2: there is text after the array: \"]\"");
  EXPECT_EQ(refusal("{}", DataFormat::json), "data.json: line 1: is not a JSON array");
  EXPECT_EQ(
      refusal("\nname,age"),
      "data.json: line 2: is neither a JSON array nor JSON Lines: it begins with "
      "\"name,age\"; expected one of these, or plain text in a file whose name ends in .txt or "
      ".md");
  const auto refusal_of = [](std::string_view text, const char* name) {
    try {
      RecordScanner(text, DataFormat::automatic, name);
    } catch (const lora::FormatError& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  const auto says = [](const std::string& text, const char* part) {
    return text.find(part) != text.npos && text.find('\x1f') == text.npos;
  };
  EXPECT_TRUE(says(refusal_of("a,b\n1,2", "x.csv"), "\"a,b\\x0a1,2\" and is a table by its name"));
  EXPECT_TRUE(says(refusal_of("PAR1\x15", "x.parquet"), "as Parquet files do"));
  EXPECT_TRUE(says(refusal_of("\x1f\x8b\x08", "x.json.gz"), "as compressed files do"));
}

TEST(RecordFile, TheNameMayShowTheFormat) {
  EXPECT_EQ(lora::format_of_name("a/b.txt"), DataFormat::text);
  EXPECT_EQ(lora::format_of_name("b.md"), DataFormat::text);
  EXPECT_EQ(lora::format_of_name("b.jsonl"), DataFormat::json_lines);
  EXPECT_EQ(lora::format_of_name("b.json"), DataFormat::automatic);
  EXPECT_EQ(lora::format_of_name("b"), DataFormat::automatic);
}

TEST(RecordFile, AnyBytesEndInRecordsOrOurError) {
  std::mt19937 random(1);
  for (int round = 0; round < 50'000; ++round) {
    std::string text = "[";
    for (auto n = random() % 12; n > 0; --n) text += "[]{}\",\\ \n1a"[random() % 11];
    const std::string message =
        refusal(text, random() % 2 ? DataFormat::json : DataFormat::json_lines);
    ASSERT_TRUE(message == "accepted" || message.substr(0, 9) == "data.json") << text;
  }
}

}  // namespace record_file_test
