#include <lora/text/tokenizer/text_pattern.hpp>

#include <gtest/gtest.h>

#include <chrono>

namespace text_pattern_test {

using lora::PatternScan;
using lora::TextPattern;

std::string matches(std::string_view regex, std::string_view text) {
  const TextPattern pattern(regex);
  std::string out;
  lora::TextWork work("dir/tokenizer.json", text.size());
  for (PatternScan scan(pattern, text, work);;) {
    const auto match = scan.next();
    if (!match) return out;
    out += "[" + std::string(text.substr(match->begin, match->end - match->begin)) + "]";
  }
}

// What Oniguruma gives through Split of the tokenizers library.
TEST(TextPattern, MeansWhatOnigurumaMeans) {
  EXPECT_EQ(matches("a|ab", "abab"), "[a][a]");
  EXPECT_EQ(matches("(?:a|ab)(?:c|bcd)*", "abcd abc"), "[abcd][a]");
  EXPECT_EQ(matches("^a", "a\na"), "[a][a]");
  EXPECT_EQ(matches("$", "a\nb\n"), "[][][]");
  EXPECT_EQ(matches(".+", "a\nb"), "[a][b]");
  EXPECT_EQ(matches("\\s+(?!\\S)|\\s+", "a   b  "), "[  ][ ][  ]");
  EXPECT_EQ(matches("\\s+$", "a  \n b "), "[  ][ ]");
  EXPECT_EQ(matches("(?<=a)b|(?<!a)c", "abcac"), "[b][c]");
  EXPECT_EQ(matches("[^(\\s|[.,!])]+", "a(b|c.d e"), "[a][b][c][d][e]");
  EXPECT_EQ(matches("\\p{Lu}\\p{Ll}*|\\P{L}", "AbC1"), "[Ab][C][1]");
  EXPECT_EQ(matches("[\\p{^L}&]+", "a1&b"), "[1&]");
  EXPECT_EQ(matches("(?i:'s|'re)", "'S'Re'\xC5\xBF"), "['S]['Re]['\xC5\xBF]");
  EXPECT_EQ(matches(" ?+a", " a a"), "[ a][ a]");
  EXPECT_EQ(matches("a?+a", "a"), "");
  EXPECT_EQ(matches("a*?b", "aab"), "[aab]");
  EXPECT_EQ(matches("a{2,3}", "aaaaaaa"), "[aaa][aaa]");
  EXPECT_EQ(matches("(ab){2}", "ababab"), "[abab]");
  EXPECT_EQ(matches("\\w+", "a\xC2\xB2-b"), "[a\xC2\xB2][b]");
  EXPECT_EQ(matches("a{,2}b|{", "aab{"), "[aab][{]");
}

TEST(TextPattern, WordsInASetHaveNoSuperscriptsAndFractions) {
  EXPECT_EQ(matches("[\\w'-]+", "x\xC2\xB2y'\xC2\xBDz"), "[x][y'][z]");
  EXPECT_EQ(matches("[^\\w]+", "x\xC2\xB2y"), "[\xC2\xB2]");
  EXPECT_EQ(matches("[\\W]+", "x\xC2\xB2y"), "[\xC2\xB2]");
  EXPECT_EQ(matches("[^\\W]+", "x\xC2\xB2y"), "[x][y]");
  EXPECT_EQ(matches("[[\\w]]+", "x\xC2\xB2y"), "[x][y]");
  EXPECT_EQ(matches("\\W+", "x\xC2\xB2y"), "");
  EXPECT_EQ(matches("x\\b", "x\xC2\xB2 x"), "[x]");
}

TEST(TextPattern, ClassesWithoutLettersKeepTheirMeaningInASetUnderI) {
  EXPECT_EQ(matches("(?i:[\\p{N}x])", "1Xa"), "[1][X]");
  EXPECT_EQ(matches("(?i:[^\\p{P}\\s\\d])+", "aB, 1k"), "[aB][k]");
  EXPECT_EQ(matches("(?i:\\p{Lu}+)", "abCD1ef"), "[CD]");  // no set
}

TEST(TextPattern, ShippedPatternsTakeLinearTime) {
  const std::string spaces(200'000, ' ');
  EXPECT_EQ(matches("\\s+$", spaces + "x").size(), 0u);
  EXPECT_EQ(matches("\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+", spaces + "x").size(), spaces.size() + 4);
}

std::string refusal(std::string_view regex, std::string_view text = "") {
  try {
    matches(regex, text);
  } catch (const lora::FormatError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(TextPattern, AnExponentialSearchIsGivenUp) {
  EXPECT_EQ(refusal("(?:a|aa)+$", std::string(100, 'a') + "b"),
            "dir/tokenizer.json: encoding a text of 101 bytes takes more than 1000 steps per byte; "
            "stopped at the regular expression \"(?:a|aa)+$\"");
}

TEST(TextPattern, AScanOfALittleTextIsPaidToo) {
  const TextPattern pattern("(?:ab){1000}");
  lora::TextWork work("t", 1);
  const std::size_t before = work.left();
  PatternScan(pattern, "x", work);
  EXPECT_GE(before - work.left(), 250u);
  std::string many = "[";
  for (char32_t c = 0x4E00; c < 0x4E00 + 3200; c += 2) lora::append_code_point(many, c);
  const TextPattern wide(many + "]");
  const std::size_t middle = work.left();
  PatternScan(wide, "\u4E01", work).next();
  EXPECT_GE(middle - work.left(), 100u);
}

}  // namespace text_pattern_test
