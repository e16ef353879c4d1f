#include <lora/text/text_steps.hpp>

#include <gtest/gtest.h>

namespace {

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

}  // namespace
