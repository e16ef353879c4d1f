#include <lora/text/tokenizer/text_steps.hpp>

#include <gtest/gtest.h>

namespace text_steps_test {

using lora::SteppedText;
using lora::TextStep;
using Kind = TextStep::Kind;

std::string applied(const std::vector<TextStep>& steps, std::string_view text, bool first = true) {
  SteppedText stepped(text);
  lora::TextWork work("t", text.size());
  stepped.apply(steps, first, work);
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
  const lora::TextPattern end("$");
  EXPECT_EQ(applied({{Kind::replace, "", "_", end}}, "a"), "a_");
  EXPECT_EQ(applied({{Kind::replace, "", "_", end}}, ""), "");
}

TEST(TextSteps, ATextGrowsOnlySoFar) {
  EXPECT_EQ(lora::largest_stepped_text(12), std::size_t{16} << 20);
  EXPECT_EQ(lora::largest_stepped_text(std::size_t{2} << 20), std::size_t{32} << 20);
  const std::vector<TextStep> steps(3, TextStep{Kind::replace, "a", "aaaa"});
  SteppedText enough("aa"), too_much("aa");
  lora::TextWork work("t", 2);
  enough.apply(steps, true, work, 128);
  EXPECT_EQ(enough.view().size(), 128u);
  EXPECT_THROW(too_much.apply(steps, true, work, 127), lora::FormatError);
}

TEST(TextSteps, ATextThatNothingChangesIsNotCopied) {
  const std::string text = "abc";
  SteppedText stepped(text);
  lora::TextWork work("t", text.size());
  stepped.apply({{Kind::nfc, "", ""}, {Kind::replace, " ", "_"}}, true, work);
  EXPECT_EQ(stepped.view().data(), text.data());
  EXPECT_EQ(stepped.before(3), 3u);
}

TEST(TextSteps, PlacesAreTracedBackThroughAllSteps) {
  SteppedText stepped("e\xCC\x81 b");
  lora::TextWork work("t", 5);
  stepped.apply(
      {{Kind::nfc, "", ""}, {Kind::prepend, "", "\u2581"}, {Kind::replace, " ", "\u2581"}}, true,
      work);
  EXPECT_EQ(stepped.view(),
            "\u2581\xC3\xA9\u2581"
            "b");
  std::vector<std::size_t> places;
  for (std::size_t i = 0; i <= stepped.view().size(); ++i) places.push_back(stepped.before(i));
  EXPECT_EQ(places, (std::vector<std::size_t>{0, 0, 0, 0, 0, 3, 3, 3, 4, 5}));
}

// How many bytes stand for the first character: NormalizedString's offsets in the tokenizers
// library.
std::size_t first_bytes(const std::vector<TextStep>& steps, std::string_view text) {
  SteppedText stepped(text);
  lora::TextWork work("t", text.size());
  stepped.apply(steps, true, work);
  std::size_t at = 0;
  while (stepped.is_first(at)) ++at;
  return at;
}

TEST(TextSteps, WhatReplacesSeveralCharactersStandsForTheLast) {
  EXPECT_EQ(first_bytes({}, "abc"), 1u);
  EXPECT_EQ(first_bytes({}, ""), 0u);
  EXPECT_EQ(first_bytes({}, "\u3000a"), 3u);
  EXPECT_EQ(first_bytes({{Kind::replace, "a", "xyz"}}, "abcd"), 3u);
  EXPECT_EQ(first_bytes({{Kind::replace, "ab", "xyz"}}, "abcd"), 0u);
  EXPECT_EQ(first_bytes({{Kind::replace, "bc", "xyz"}}, "abcd"), 1u);
  EXPECT_EQ(first_bytes({{Kind::replace, "a", ""}}, "abcd"), 0u);
  EXPECT_EQ(first_bytes({{Kind::replace, "\u00E9", "x"}},
                        "\u00E9"
                        "a"),
            1u);
  EXPECT_EQ(first_bytes({{Kind::prepend, "", "_"}, {Kind::replace, "_a", "xyz"}}, "abcd"), 3u);
  EXPECT_EQ(first_bytes({{Kind::replace, "ab", "x"}, {Kind::prepend, "", "_"}}, "abcd"), 0u);
  EXPECT_EQ(first_bytes({{Kind::replace, "", "xy", lora::TextPattern("^")}}, "abcd"), 3u);
  EXPECT_EQ(first_bytes({{Kind::replace, "", "xy", lora::TextPattern("(?<=a)")}}, "abcd"), 3u);
  EXPECT_EQ(first_bytes({{Kind::strip_left, "", ""}}, " a"), 0u);
  EXPECT_EQ(first_bytes({{Kind::strip_right, "", ""}}, "a "), 1u);
  EXPECT_EQ(first_bytes({{Kind::nfc, "", ""}}, "\u00B2\u0301"), 2u);
  EXPECT_EQ(first_bytes({{Kind::nfc, "", ""}}, "\u0958!"), 6u);  // becomes two characters
  EXPECT_EQ(first_bytes({{Kind::nfc, "", ""}},
                        "e\u0301"
                        "a"),
            2u);
}

TEST(TextSteps, TheWorkOfAllStepsTogetherIsBounded) {
  std::vector<TextStep> steps;
  for (int i = 0; i < 60; ++i) {
    steps.push_back({Kind::replace, "a", "b"});
    steps.push_back({Kind::replace, "b", "a"});
  }
  EXPECT_THROW(applied(steps, std::string(1000, 'a')), lora::FormatError);
  const std::vector<TextStep> searches(60,
                                       TextStep{Kind::replace, std::string(10000, 'a') + "b", ""});
  EXPECT_THROW(applied(searches, std::string(20000, 'a')), lora::FormatError);
  EXPECT_EQ(applied({{Kind::replace, "a", "b"}}, std::string(1000, 'a')), std::string(1000, 'b'));
}

}  // namespace text_steps_test
