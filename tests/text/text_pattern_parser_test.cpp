#include <lora/text/tokenizer/text_pattern_parser.hpp>

#include <gtest/gtest.h>

namespace text_pattern_parser_test {

// What is wrong with a pattern, behind the pattern.
std::string refusal(const std::string& regex) {
  try {
    lora::detail::TextPatternParser{regex};
  } catch (const lora::ConfigError& error) {
    const std::string message = error.what();
    return message.substr(message.find(", position") + 2);
  }
  return "accepted";
}

TEST(TextPatternParser, RefusesByNameWhatItDoesNotKnow) {
  EXPECT_EQ(refusal("(?>a)"), "position 1: a group of this kind is not supported");
  EXPECT_EQ(refusal("(a"), "position 2: missing )");
  EXPECT_EQ(refusal("a)"), "position 1: unbalanced )");
  EXPECT_EQ(refusal("(a)\\1"), "position 4: this escape is not supported");
  EXPECT_EQ(refusal("a**"), "position 2: a quantifier after a quantifier is not supported");
  EXPECT_EQ(refusal("a{2}+"), "position 4: a quantifier after a quantifier is not supported");
  EXPECT_EQ(refusal("*"), "position 0: nothing to repeat");
  EXPECT_EQ(refusal("(?:ab)++"), "position 8: a possessive group is not supported");
  EXPECT_EQ(refusal("(?:a*)*"), "position 7: a repeated part that may be empty is not supported");
  EXPECT_EQ(refusal("(?!ab)"),
            "position 6: look-around of more than one character is not supported");
  EXPECT_EQ(refusal("(?i:ss)"), "position 5: ss, st, ff, fi and fl under (?i) are not supported");
  EXPECT_EQ(refusal("(?i:\xC3\xA9)"),
            "position 5: a character beyond ASCII under (?i) is not supported");
  for (const char* escape : {"\\p{Lu}", "\\p{L}", "\\p{M}", "\\P{N}", "\\w", "\\W", "\\D", "\\H"}) {
    for (const char* begin : {"(?i:[", "(?i:[x", "(?i:[^", "(?i:[^a[b"}) {
      const std::string text = std::string(begin) + escape;
      EXPECT_EQ(refusal(text + "])"),
                "position " + std::to_string(text.size()) +
                    ": a class with letters or marks within a set under (?i) is not supported");
    }
  }
  EXPECT_EQ(refusal("(?i:[a[^b]])"),
            "position 7: a negated set within a set under (?i) is not supported");
  EXPECT_EQ(refusal("(?:(?:ab){90}){90}"), "position 18: compiles to more than 4096 steps");
  EXPECT_EQ(refusal(std::string(40, '(')), "position 33: groups are nested deeper than 32");
}

TEST(TextPatternParser, ASingleCharacterIsOneStep) {
  const auto program = lora::detail::TextPatternParser("a{2,5}[bc]*").program();
  ASSERT_EQ(program.code.size(), 3u);
  EXPECT_EQ(program.code[0].least, 2u);
  EXPECT_EQ(program.code[0].most, 5u);
  EXPECT_EQ(program.sets.size(), 2u);
}

}  // namespace text_pattern_parser_test
