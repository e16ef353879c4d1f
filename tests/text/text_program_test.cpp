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

TEST(TextProgram, WordsInASetHaveNoSuperscripts) {
  for (const char32_t c : {U'a', U'_', U'9', char32_t{0x301}})
    EXPECT_TRUE(lora::detail::is_set_word(c));
  for (const char32_t c : {char32_t{0xB2}, char32_t{0xBE}, char32_t{0x200D}, char32_t{0x2460}})
    EXPECT_FALSE(lora::detail::is_set_word(c));
}

TEST(TextProgram, ALargeSetCostsMore) {
  TextSet set, inner;
  for (char32_t c = 0; c < 64; ++c) inner.ranges.emplace_back(1000 + 2 * c, 1000 + 2 * c);
  set.within = {inner, inner};
  set.seal();
  EXPECT_EQ(set.cost('a'), 1u);
  EXPECT_EQ(set.cost(1000), 1 + 131u / 16);
}

TEST(TextProgram, PairsThatFoldAsOneCharacter) {
  EXPECT_TRUE(lora::detail::folds_as_pair('s', 'S'));
  EXPECT_TRUE(lora::detail::folds_as_pair('F', 'i'));
  EXPECT_FALSE(lora::detail::folds_as_pair('r', 'e'));
}

}  // namespace text_program_test
