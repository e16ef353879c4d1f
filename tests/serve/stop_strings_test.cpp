// Stop strings in texts that come in pieces of every size.
#include <lora/serve/stop_strings.hpp>

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace stop_strings_test {
using lora::StopStrings;

// What passes of `text` given in pieces of n bytes, and whether a stop string was found.
std::string passed(const std::vector<std::string>& stops, const std::string& text, std::size_t n) {
  StopStrings filter(stops);
  std::string out;
  for (std::size_t at = 0; at < text.size() && !filter.found(); at += n)
    out += filter.push(text.substr(at, n));
  out += filter.finish();
  return out + (filter.found() ? "|" : "");
}

void expect_passed(const std::vector<std::string>& stops, const std::string& text,
                   const std::string& expected) {
  for (std::size_t n = 1; n <= text.size() + 1; ++n)
    EXPECT_EQ(passed(stops, text, n), expected) << "in pieces of " << n;
}

TEST(StopStrings, EndTheTextBeforeThem) {
  expect_passed({}, "all of it", "all of it");
  expect_passed({"User:"}, "Hi.\nUser: what", "Hi.\n|");
  expect_passed({"User:"}, "Use Us User", "Use Us User");
  expect_passed({"aab"}, "aaaab", "aa|");
  expect_passed({"x"}, "x", "|");
  expect_passed({"\n\n", "。"}, "好。再", "好|");
}

TEST(StopStrings, TheOneThatEndsFirstCountsAndOfThoseTheLongest) {
  expect_passed({"abc", "b"}, "xabc", "xa|");
  expect_passed({"c", "abc"}, "xabc", "x|");
  expect_passed({"abc", "c"}, "xabc", "x|");
  expect_passed({"abc", "bd"}, "abd", "a|");
}

TEST(StopStrings, ShowAllThatIsCertain) {
  StopStrings filter({"END", "E!"});
  EXPECT_EQ(filter.push("one E"), "one ");
  EXPECT_EQ(filter.push("N"), "");
  EXPECT_EQ(filter.push("E"), "EN");
  EXPECT_FALSE(filter.found());
  EXPECT_EQ(filter.push("!"), "");
  EXPECT_TRUE(filter.found());
  EXPECT_EQ(filter.push("more"), "");
  EXPECT_EQ(filter.finish(), "");
}

}  // namespace stop_strings_test
