#include <lora/text/tokenizer/text_set_reader.hpp>

#include <gtest/gtest.h>

namespace text_set_reader_test {

using lora::detail::TextSet;
using lora::detail::TextSetReader;

// The ASCII characters of a set, which is written as behind its [.
std::string members(std::string_view text) {
  TextSet set = TextSetReader(text).set_in_brackets(0);
  set.seal();
  std::string out;
  for (char32_t c = ' '; c < 127; ++c) {
    if (set.contains(c)) out += static_cast<char>(c);
  }
  return out;
}

TEST(TextSetReader, SetsWithRangesEscapesAndSets) {
  EXPECT_EQ(members("a-cx-]"), "-abcx");
  EXPECT_EQ(members("\\x41\\u0042\\]\\d]"), "0123456789AB]");
  EXPECT_EQ(members("(\\s|[.,])]"), " (),.|");
  EXPECT_EQ(members("^\\x20-\\x7a]"), "{|}~");
  EXPECT_EQ(members("\\p{Sm}\\p{^L}]"), members("^a-zA-Z]"));
  EXPECT_EQ(members("\\H]"), members("^0-9a-fA-F]"));
}

std::string refusal(const std::string& text) {
  try {
    TextSetReader reader(text);
    while (!reader.at_end()) {
      if (reader.take('[')) {
        reader.set_in_brackets(0);
      } else if (TextSet set; reader.peek() != '\\' || !reader.class_escape(set)) {
        reader.character();
      }
    }
  } catch (const lora::ConfigError& error) {
    const std::string message = error.what();
    return message.substr(message.find(", position") + 2);
  }
  return "accepted";
}

TEST(TextSetReader, RefusesByNameWhatItDoesNotKnow) {
  EXPECT_EQ(refusal("[a"), "position 2: missing ]");
  EXPECT_EQ(refusal("[]"), "position 1: an empty set is not supported");
  EXPECT_EQ(refusal("[a&&b]"), "position 2: && in a set is not supported");
  EXPECT_EQ(refusal("[[:alpha:]]"), "position 1: a bracket of POSIX is not supported");
  EXPECT_EQ(refusal("[b-a]"), "position 4: a range that is empty");
  EXPECT_EQ(refusal("\\p{Han}"), "position 7: \\p{Han} is not supported");
  EXPECT_EQ(refusal("\\x{41"), "position 5: this escape is not supported");
  EXPECT_EQ(refusal("\\"), "position 1: ends with a backslash");
  EXPECT_EQ(refusal("[a-[b]]"), "position 3: a range that ends in a set is not supported");
  EXPECT_EQ(refusal("[a-\\d]"), "position 3: a range that ends in a class is not supported");
  EXPECT_EQ(refusal(std::string(40, '[')), "position 34: sets are nested deeper than 32");
  EXPECT_EQ(refusal(std::string(20000, 'a')), "position 0: has more than 16384 bytes");
}

}  // namespace text_set_reader_test
