#include <lora/text/unicode.hpp>

#include <gtest/gtest.h>

#include <map>
#include <random>

namespace unicode_test {

using lora::CharClass;

std::string utf8(std::u32string_view text) {
  std::string out;
  for (const char32_t c : text) lora::append_code_point(out, c);
  return out;
}

std::string nfc(std::u32string_view text) { return lora::to_nfc(utf8(text)).text; }

TEST(Unicode, ClassesOfCodePoints) {
  const lora::Unicode& unicode = lora::Unicode::instance();
  const std::map<char32_t, CharClass> expected = {
      {'a', CharClass::letter},    {'Z', CharClass::letter},     {'_', CharClass::other},
      {'7', CharClass::number},    {' ', CharClass::space},      {'\n', CharClass::space},
      {0x1C, CharClass::other},    {0x85, CharClass::space},     {0xA0, CharClass::space},
      {0xAA, CharClass::letter},   {0xB2, CharClass::number},    {0xD7, CharClass::other},
      {0x0301, CharClass::other},  {0x4E2D, CharClass::letter},  {0x3007, CharClass::number},
      {0x3000, CharClass::space},  {0x200B, CharClass::other},   {0x2028, CharClass::space},
      {0x1F600, CharClass::other}, {0x31350, CharClass::letter}, {0x323AF, CharClass::letter},
      {0x323B0, CharClass::other}, {0xE0100, CharClass::other},  {0x10FFFF, CharClass::other},
      {0x1C89, CharClass::letter}, {0x10D40, CharClass::number}, {0xFEFF, CharClass::other},
      {0xDC80, CharClass::other}};
  for (const auto& [c, kind] : expected)
    EXPECT_EQ(unicode.class_of(c), kind) << std::hex << std::uint32_t{c};
}

// How many code points of each kind Unicode 16 has: a table read wrongly has another number.
TEST(Unicode, CountsOfClasses) {
  std::map<CharClass, int> counts;
  for (char32_t c = 0; c < 0x110000; ++c) ++counts[lora::Unicode::instance().class_of(c)];
  EXPECT_EQ(counts[CharClass::letter], 141028);
  EXPECT_EQ(counts[CharClass::number], 1911);
  EXPECT_EQ(counts[CharClass::space], 25);
}

TEST(Unicode, NormalisationFormC) {
  EXPECT_EQ(nfc(U"e\u0301"), utf8(U"\u00E9"));
  EXPECT_EQ(nfc(U"q\u0307\u0323"), utf8(U"q\u0323\u0307"));  // reordered, nothing joins
  EXPECT_EQ(nfc(U"\u1E0B\u0323"), utf8(U"\u1E0D\u0307"));    // taken apart and joined anew
  EXPECT_EQ(nfc(U"\u212B"), utf8(U"\u00C5"));                // Angstrom sign
  EXPECT_EQ(nfc(U"\u0344"), utf8(U"\u0308\u0301"));          // excluded from composing
  EXPECT_EQ(nfc(U"\u0958"), utf8(U"\u0915\u093C"));          // excluded by script
  EXPECT_EQ(nfc(U"\u1100\u1161\u11A8"), utf8(U"\uAC01"));    // Hangul
  EXPECT_EQ(nfc(U"\uAC00\u11A8"), utf8(U"\uAC01"));
  EXPECT_EQ(nfc(U"\uAC00\u11A7"), utf8(U"\uAC00\u11A7"));   // not a trailing consonant
  EXPECT_EQ(nfc(U"\uAC01\u11A8"), utf8(U"\uAC01\u11A8"));   // has one already
  EXPECT_EQ(nfc(U"a\u0301\u0301"), utf8(U"\u00E1\u0301"));  // the second mark is blocked
  EXPECT_EQ(nfc(U"a\u0315\u0300\u05AE\u0316b"), utf8(U"\u00E0\u0316\u05AE\u0315b"));
  EXPECT_EQ(nfc(U"\u0B47\u0300\u0B3E"), utf8(U"\u0B47\u0300\u0B3E"));  // a mark lies between
  EXPECT_EQ(nfc(U"\U0001D15E"), utf8(U"\U0001D157\U0001D165"));
  EXPECT_EQ(nfc(U"\u0301e"), utf8(U"\u0301e"));
  // Younger than the tables of the tokenizers library: U+09FE has class 230 since Unicode 11.
  EXPECT_EQ(nfc(U"\u09FE\u0334"), utf8(U"\u09FE\u0334"));
  EXPECT_EQ(nfc(U"\u08D4\u0334"), utf8(U"\u0334\u08D4"));
  EXPECT_EQ(nfc(U""), "");
}

TEST(Unicode, NormalisingTwiceIsNormalisingOnceAndTheQuickCheckNeverLies) {
  std::mt19937 random(3);
  const std::u32string common = U"aeoAOI\u0301\u0323\u0308\u0300\u1100\u1161\u11A8\uAC00 \u212B";
  for (int round = 0; round < 20'000; ++round) {
    std::string text;
    for (auto n = random() % 8; n > 0; --n) {
      const auto any = static_cast<char32_t>(random() % 0x30000);
      const bool surrogate = any >= 0xD800 && any < 0xE000;
      lora::append_code_point(
          text, random() % 4 == 0 && !surrogate ? any : common[random() % common.size()]);
    }
    const lora::ChangedText once = lora::to_nfc(text);
    ASSERT_EQ(once.origin.size(), once.text.size());
    ASSERT_TRUE(std::is_sorted(once.origin.begin(), once.origin.end()));
    ASSERT_EQ(lora::to_nfc(once.text).text, once.text);
    if (lora::is_surely_nfc(text)) {
      ASSERT_EQ(once.text, text);
    }
  }
}

TEST(Unicode, OriginsAreTheRunsThatWereComposed) {
  const lora::ChangedText changed = lora::to_nfc(utf8(U"ae\u0301b"));
  EXPECT_EQ(changed.text, utf8(U"a\u00E9b"));
  EXPECT_EQ(changed.origin, (std::vector<std::size_t>{0, 1, 1, 4}));
}

TEST(Unicode, BytesThatAreNoUtf8Stay) {
  const std::string bytes =
      "a\xFF"
      "e\xCC\x81\xE2\x82\xC3";
  EXPECT_FALSE(lora::is_surely_nfc(bytes));
  EXPECT_EQ(lora::to_nfc(bytes).text, "a\xFF\xC3\xA9\xE2\x82\xC3");
  EXPECT_EQ(lora::first_invalid_utf8(bytes), 1u);
  EXPECT_EQ(lora::first_invalid_utf8("\xF0\x9F\x98\x80\xC3\xA9x"), 7u);
  EXPECT_EQ(lora::first_invalid_utf8("abc\xED\xA0\x80"), 3u);
  EXPECT_EQ(lora::first_invalid_utf8(""), 0u);
}

TEST(Unicode, CodePointsInUtf8) {
  EXPECT_EQ(utf8(U"a\u00E9\u4E2D\U0001F600"), "a\xC3\xA9\xE4\xB8\xAD\xF0\x9F\x98\x80");
}

}  // namespace unicode_test
