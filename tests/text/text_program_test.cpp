#include <lora/text/tokenizer/text_program.hpp>

#include <gtest/gtest.h>

namespace text_program_test {

using lora::detail::TextSet;

TEST(TextProgram, SetsOfRangesCategoriesAndSets) {
  TextSet letters;
  letters.categories = lora::Unicode::categories_of("L");
  TextSet set;
  set.ranges = {{'0', '4'}};
  set.within = {letters};
  set.seal();
  EXPECT_TRUE(set.contains('3'));
  EXPECT_FALSE(set.contains('5'));
  EXPECT_TRUE(set.contains(0x416));
  EXPECT_FALSE(set.contains(' '));
  set.negated = true;
  set.seal();
  EXPECT_TRUE(set.contains(' '));
  EXPECT_FALSE(set.contains(0x416));
}

TEST(TextProgram, WordsAreThoseOfOniguruma) {
  for (const char32_t c : {U'a', U'_', U'9', char32_t{0xB2}, char32_t{0xBE}, char32_t{0x301}})
    EXPECT_TRUE(lora::detail::is_regex_word(c));
  for (const char32_t c : {U'-', U' ', char32_t{0x200D}, char32_t{0x2460}})
    EXPECT_FALSE(lora::detail::is_regex_word(c));
}

TEST(TextProgram, PairsThatFoldAsOneCharacter) {
  EXPECT_TRUE(lora::detail::folds_as_pair('s', 'S'));
  EXPECT_TRUE(lora::detail::folds_as_pair('F', 'i'));
  EXPECT_FALSE(lora::detail::folds_as_pair('r', 'e'));
}

}  // namespace text_program_test
