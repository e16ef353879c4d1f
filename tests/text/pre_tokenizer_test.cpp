#include <lora/text/tokenizer/pre_tokenizer.hpp>

#include <gtest/gtest.h>

#include <random>

namespace pre_tokenizer_test {

using lora::WordSplit;

std::string words(WordSplit split, std::string_view text) {
  std::string out;
  for (lora::WordScanner scanner(split, text); !scanner.done();)
    out += "[" + std::string(scanner.next()) + "]";
  return out;
}

TEST(PreTokenizer, WordsOfGpt2) {
  EXPECT_EQ(words(WordSplit::gpt2, "Hello  world, it's 123 o'clock!"),
            "[Hello][ ][ world][,][ it]['s][ 123][ o]['][clock][!]");
  EXPECT_EQ(words(WordSplit::gpt2, "we'll WE'LL they've 'd 'm 're 't"),
            "[we]['ll][ WE]['][LL][ they]['ve][ '][d][ '][m][ '][re][ '][t]");
  EXPECT_EQ(words(WordSplit::gpt2, "'d'm'x"), "['d]['m]['][x]");
  EXPECT_EQ(words(WordSplit::gpt2, "a \n\n b\n"), "[a][ \n\n][ b][\n]");
  EXPECT_EQ(words(WordSplit::gpt2, "x  "), "[x][  ]");
  EXPECT_EQ(words(WordSplit::gpt2, "\xE4\xB8\xAD\xE6\x96\x87\xEF\xBC\x8C\xC2\xBD \xE3\x80\x80y"),
            "[\xE4\xB8\xAD\xE6\x96\x87][\xEF\xBC\x8C][\xC2\xBD][ ][\xE3\x80\x80][y]");
  EXPECT_EQ(words(WordSplit::gpt2, "' s"), "['][ s]");
}

TEST(PreTokenizer, WordsOfLlama3) {
  EXPECT_EQ(words(WordSplit::llama3, "Hello  world, it'S 12345 o'clock!\n\nx"),
            "[Hello][ ][ world][,][ it]['S][ ][123][45][ o]['clock][!\n\n][x]");
  EXPECT_EQ(words(WordSplit::llama3, "we'LL I'\xC5\xBF 'Re"), "[we]['LL][ I]['\xC5\xBF][ '][Re]");
  EXPECT_EQ(words(WordSplit::llama3, "I'\xC5\xBFx I'Sx"), "[I]['\xC5\xBF][x][ I]['S][x]");
  EXPECT_EQ(words(WordSplit::llama3, "a \n \r\n  b"), "[a][ \n \r\n][ ][ b]");
  EXPECT_EQ(words(WordSplit::llama3, "a\tb\t\tc"), "[a][\tb][\t][\tc]");
  EXPECT_EQ(words(WordSplit::llama3, "\nab (cd) "), "[\n][ab][ (][cd][)][ ]");
  EXPECT_EQ(words(WordSplit::llama3, " ?\r\n? "), "[ ?\r\n][?][ ]");
}

TEST(PreTokenizer, Qwen2TakesDigitsOneByOne) {
  EXPECT_EQ(words(WordSplit::qwen2, "in 123"), "[in][ ][1][2][3]");
  EXPECT_EQ(words(WordSplit::qwen2, "it'd"), "[it]['d]");
}

TEST(PreTokenizer, NoneAndBeforeMarks) {
  EXPECT_EQ(words(WordSplit::none, "a b"), "[a b]");
  EXPECT_EQ(words(WordSplit::none, ""), "");
  EXPECT_EQ(words(WordSplit::before_mark, "a\u2581\u2581b c"), "[a][\u2581][\u2581b c]");
  EXPECT_EQ(words(WordSplit::before_mark, "\u2581\u2581"), "[\u2581][\u2581]");
}

TEST(PreTokenizer, RegularExpressionsAreKnownByTheirText) {
  for (const WordSplit split : {WordSplit::gpt2, WordSplit::llama3, WordSplit::qwen2})
    EXPECT_EQ(lora::split_of_regex(lora::regex_of(split)), split);
  EXPECT_EQ(lora::split_of_regex(""), std::nullopt);
  EXPECT_EQ(lora::split_of_regex("\\s+"), std::nullopt);
  EXPECT_EQ(lora::regex_of(WordSplit::none), "");
  EXPECT_EQ(lora::regex_of(WordSplit::before_mark), "");
}

TEST(PreTokenizer, TheWordsAreTheTextWhateverTheBytes) {
  std::mt19937 random(11);
  const std::string common = "ab1 \n\r\t'sS.\xE4\xB8\xAD\xFF\xC2\x80";
  for (int round = 0; round < 20'000; ++round) {
    std::string text;
    for (auto n = random() % 12; n > 0; --n) text += common[random() % common.size()];
    for (const WordSplit split : {WordSplit::none, WordSplit::gpt2, WordSplit::llama3,
                                  WordSplit::qwen2, WordSplit::before_mark}) {
      std::string joined;
      for (lora::WordScanner scanner(split, text); !scanner.done();) {
        const std::string_view word = scanner.next();
        ASSERT_FALSE(word.empty());
        joined += word;
      }
      ASSERT_EQ(joined, text);
    }
  }
}

}  // namespace pre_tokenizer_test
