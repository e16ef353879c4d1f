#include <lora/text/tokenizer/added_tokens.hpp>

#include <gtest/gtest.h>

namespace added_tokens_test {

using lora::AddedToken;
using lora::AddedTokenFinder;

AddedToken token(std::uint32_t id, std::string content) {
  AddedToken out;
  out.id = id;
  out.content = std::move(content);
  return out;
}

// "text(7:token)text"
std::string split(const AddedTokenFinder& finder, std::string_view text) {
  std::vector<lora::TextPart> parts;
  lora::TextWork work("t", text.size());
  finder.split(text, parts, work);
  std::string out;
  for (const lora::TextPart& part : parts) {
    const std::string piece(text.substr(part.begin, part.end - part.begin));
    out += part.id == lora::no_token ? piece : "(" + std::to_string(part.id) + ":" + piece + ")";
  }
  return out;
}

TEST(AddedTokens, OfThoseThatBeginAtOnePlaceTheLongestIsTaken) {
  const AddedTokenFinder finder(
      {token(1, "<a>"), token(2, "<a><b>"), token(3, "<b>"), token(4, "<a><b><c>x")});
  EXPECT_EQ(split(finder, "x<a>y<a><b>z<b><b>"), "x(1:<a>)y(2:<a><b>)z(3:<b>)(3:<b>)");
  EXPECT_EQ(split(finder, "<a><b><c>"), "(2:<a><b>)<c>");
  EXPECT_EQ(split(finder, "<<a>>"), "<(1:<a>)>");
  EXPECT_EQ(split(finder, ""), "");
  EXPECT_EQ(split(finder, "<a"), "<a");
  EXPECT_EQ(split(AddedTokenFinder(), "<a>"), "<a>");
  EXPECT_TRUE(AddedTokenFinder().empty());
  EXPECT_FALSE(finder.empty());
}

TEST(AddedTokens, OfTwoWithOneContentTheFirstIsTaken) {
  EXPECT_EQ(split(AddedTokenFinder({token(1, "x"), token(2, "x")}), "axb"), "a(1:x)b");
}

TEST(AddedTokens, WhiteSpaceGoesToTheTokenThatStripsIt) {
  AddedToken left = token(1, "<l>"), right = token(2, "<r>");
  left.lstrip = right.rstrip = true;
  const AddedTokenFinder finder({left, right});
  EXPECT_EQ(split(finder, "a \u3000\n<l> b"), "a(1: \u3000\n<l>) b");
  EXPECT_EQ(split(finder,
                  "a <r> \t\xC2\xA0"
                  "b"),
            "a (2:<r> \t\xC2\xA0)b");
  EXPECT_EQ(split(finder, "  <l>"), "(1:  <l>)");
  EXPECT_EQ(split(finder, "<r>  "), "(2:<r>  )");
  EXPECT_EQ(split(finder, "<r>  <l>"), "(2:<r>  )(1:<l>)");  // the spaces are taken already
}

TEST(AddedTokens, WhiteSpaceThatIsATokenItselfIsTakenTwice) {
  AddedToken right = token(1, "<r>"), both = token(3, "\n\n"), space = token(4, " x");
  right.rstrip = both.rstrip = both.lstrip = space.lstrip = true;
  EXPECT_EQ(split(AddedTokenFinder({right, token(2, "\n\n")}), "a<r>\n\n\nb"),
            "a(1:<r>\n\n\n)(2:\n\n)\nb");
  EXPECT_EQ(split(AddedTokenFinder({right, token(2, "\n\n")}), "<r> \n\n  b"),
            "(1:<r> \n\n  )(2:\n\n)  b");
  EXPECT_EQ(split(AddedTokenFinder({both}), "a\n\n\n\nb"), "a(3:\n\n\n\n)b");
  EXPECT_EQ(split(AddedTokenFinder({both, right}), "<r>\n\n"), "(1:<r>\n\n)");
  EXPECT_EQ(split(AddedTokenFinder({right, space}), "<r>  xb"), "(1:<r>  )(4:x)b");
}

TEST(AddedTokens, TheSearchIsBounded) {
  std::vector<lora::TextPart> parts;
  const AddedTokenFinder finder({token(1, std::string(2000, 'a') + "b")});
  const std::string text(4000, 'a');
  lora::TextWork work("t", text.size());
  EXPECT_THROW(finder.split(text, parts, work), lora::FormatError);
  AddedToken line = token(1, "\n");  // its white space is looked at once
  line.rstrip = true;
  const std::string lines(200'000, '\n');
  lora::TextWork enough("t", lines.size());
  AddedTokenFinder({line}).split(lines, parts, enough);
  EXPECT_EQ(parts.size(), lines.size());
}

TEST(AddedTokens, ASingleWordIsNotAPartOfOne) {
  AddedToken word = token(1, "cat");
  word.single_word = true;
  const AddedTokenFinder finder({word});
  EXPECT_EQ(split(finder, "cat, cat"), "(1:cat), (1:cat)");
  EXPECT_EQ(split(finder,
                  "cats concat _cat cat1 \xC3\xA9"
                  "cat cat\xCC\x81"),
            "cats concat _cat cat1 \xC3\xA9"
            "cat cat\xCC\x81");
  EXPECT_EQ(split(finder,
                  "\xE2\x80\x94"
                  "cat\xE3\x80\x82"),
            "\xE2\x80\x94(1:cat)\xE3\x80\x82");
}

}  // namespace added_tokens_test
