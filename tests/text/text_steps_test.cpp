#include <lora/text/tokenizer/text_steps.hpp>

#include <gtest/gtest.h>

namespace text_steps_test {

using lora::SteppedText;
using lora::TextStep;
using Kind = TextStep::Kind;

std::string applied(const std::vector<TextStep>& steps, std::string_view text, bool first = true) {
  SteppedText stepped(text);
  stepped.apply(steps, first);
  return std::string(stepped.view());
}

TEST(TextSteps, EachKind) {
  EXPECT_EQ(applied({{Kind::prepend, "", "_"}}, "a"), "_a");
  EXPECT_EQ(applied({{Kind::prepend, "", "_"}}, "_a"), "__a");
  EXPECT_EQ(applied({{Kind::prepend, "", "_"}}, ""), "");
  EXPECT_EQ(applied({{Kind::prepend_unless_there, "", "_"}}, "_a"), "_a");
  EXPECT_EQ(applied({{Kind::prepend_unless_there, "", "_"}}, "a", false), "_a");
  EXPECT_EQ(applied({{Kind::prepend_first, "", "_"}}, "a"), "_a");
  EXPECT_EQ(applied({{Kind::prepend_first, "", "_"}}, "a", false), "a");
  EXPECT_EQ(applied({{Kind::replace, " ", "<>"}}, " a  b"), "<>a<><>b");
  EXPECT_EQ(applied({{Kind::replace, "ab", ""}}, "aabb"), "ab");
  EXPECT_EQ(applied({{Kind::nfc, "", ""}}, "e\xCC\x81"), "\xC3\xA9");
  EXPECT_EQ(applied({{Kind::strip_left, "", ""}}, " \xE3\x80\x80 a "), "a ");
  EXPECT_EQ(applied({{Kind::strip_right, "", ""}}, " a \xE3\x80\x80\n"), " a");
  EXPECT_EQ(applied({{Kind::strip_right, "", ""}}, "\xE3\x80\x80\n"), "");
  const lora::TextPattern spaces("\\s{2,}");
  EXPECT_EQ(applied({{Kind::replace, "", "_", spaces}}, "a  b c \n"), "a_b c_");
}

TEST(TextSteps, ATextGrowsOnlySoFar) {
  EXPECT_EQ(lora::largest_stepped_text(12), std::size_t{16} << 20);
  EXPECT_EQ(lora::largest_stepped_text(std::size_t{2} << 20), std::size_t{32} << 20);
  const std::vector<TextStep> steps(3, TextStep{Kind::replace, "a", "aaaa"});
  SteppedText enough("aa"), too_much("aa");
  enough.apply(steps, true, 128);
  EXPECT_EQ(enough.view().size(), 128u);
  EXPECT_THROW(too_much.apply(steps, true, 127), lora::FormatError);
}

TEST(TextSteps, ATextThatNothingChangesIsNotCopied) {
  const std::string text = "abc";
  SteppedText stepped(text);
  stepped.apply({{Kind::nfc, "", ""}, {Kind::replace, " ", "_"}}, true);
  EXPECT_EQ(stepped.view().data(), text.data());
  EXPECT_EQ(stepped.before(3), 3u);
}

TEST(TextSteps, PlacesAreTracedBackThroughAllSteps) {
  SteppedText stepped("e\xCC\x81 b");
  stepped.apply(
      {{Kind::nfc, "", ""}, {Kind::prepend, "", "\u2581"}, {Kind::replace, " ", "\u2581"}}, true);
  EXPECT_EQ(stepped.view(),
            "\u2581\xC3\xA9\u2581"
            "b");
  std::vector<std::size_t> places;
  for (std::size_t i = 0; i <= stepped.view().size(); ++i) places.push_back(stepped.before(i));
  EXPECT_EQ(places, (std::vector<std::size_t>{0, 0, 0, 0, 0, 3, 3, 3, 4, 5}));
}

}  // namespace text_steps_test
