#include <lora/text/tokenizer/text_cut.hpp>

#include <gtest/gtest.h>

namespace text_cut_test {

using lora::TextCut;
using Behavior = TextCut::Behavior;
using Find = TextCut::Find;

std::string pieces(const TextCut& cut, std::string_view text) {
  std::string out;
  lora::TextWork work("t", text.size());
  for (const lora::TextRange& range : lora::cut_text(cut, text, work))
    out += "[" + std::string(text.substr(range.begin, range.end - range.begin)) + "]";
  return out;
}
std::string split(Behavior behavior, bool invert = false) {
  TextCut cut;
  cut.find = Find::pattern;
  cut.pattern.emplace("-");
  cut.behavior = behavior;
  cut.invert = invert;
  return pieces(cut, "the-final--countdown");
}

// The examples of the tokenizers library's own documentation.
TEST(TextCut, EachBehavior) {
  EXPECT_EQ(split(Behavior::removed), "[the][final][countdown]");
  EXPECT_EQ(split(Behavior::isolated), "[the][-][final][-][-][countdown]");
  EXPECT_EQ(split(Behavior::with_previous), "[the-][final-][-][countdown]");
  EXPECT_EQ(split(Behavior::with_next), "[the][-final][-][-countdown]");
  EXPECT_EQ(split(Behavior::contiguous), "[the][-][final][--][countdown]");
  EXPECT_EQ(split(Behavior::removed, true), "[-][-][-]");
}

TEST(TextCut, EachKindOfMatch) {
  TextCut cut;
  cut.find = Find::digit;
  EXPECT_EQ(pieces(cut, "a12\xC2\xB2"), "[a][1][2][\xC2\xB2]");
  EXPECT_EQ(pieces(cut, "a\U00011DE0"), "[a][\U00011DE0]");
  cut.behavior = Behavior::contiguous;
  EXPECT_EQ(pieces(cut, "a12b3"), "[a][12][b][3]");
  cut.find = Find::punctuation;
  EXPECT_EQ(pieces(cut, "a$.b\u3002 c"), "[a][$.][b][\u3002][ c]");
  // Signs of currency are none, and the library knows no punctuation younger than Unicode 8.
  EXPECT_EQ(pieces(cut, "a\u20ACb\u09FDc"), "[a\u20ACb\u09FDc]");
  cut.find = Find::space;
  cut.behavior = Behavior::removed;
  EXPECT_EQ(pieces(cut, " a\u3000b "), "[a][b]");
  cut.find = Find::word;
  cut.invert = true;
  EXPECT_EQ(pieces(cut, "ab, c!?"), "[ab][,][c][!?]");
  cut.find = Find::literal;
  cut.literal = "th";
  EXPECT_EQ(pieces(cut, "the truth"), "[th][th]");
  EXPECT_EQ(pieces(cut, ""), "");
}

TEST(TextCut, EachCutIsPaid) {
  TextCut cut;
  cut.find = Find::literal;
  cut.literal = std::string(640, 'a');
  const std::string text(100, 'a');
  lora::TextWork work("t", text.size());
  const std::size_t before = work.left();
  lora::cut_text(cut, text, work);
  EXPECT_GE(before - work.left(), 1000u);
  lora::TextWork none("t", 0);
  EXPECT_THROW(while (true) lora::cut_text(cut, "", none), lora::FormatError);
}

}  // namespace text_cut_test
