#include <lora/core/printable.hpp>

#include <gtest/gtest.h>

#include <limits>
#include <string>

namespace printable_test {

using lora::duration_text;
using lora::in_quotes, lora::printable;

TEST(Printable, EscapesControlCharacters) {
  EXPECT_EQ(printable(std::string_view("a\n\x1B[31m\0\x7F", 9)), "a\\x0a\\x1b[31m\\x00\\x7f");
  EXPECT_EQ(printable("q \\d \"x\" \xC3\xBC"), "q \\d \"x\" \xC3\xBC");
  EXPECT_EQ(printable(""), "");
}

TEST(Printable, EscapesWhatATerminalDoesNotShow) {
  EXPECT_EQ(printable("a\xC2\x9B"
                      "31m"),
            "a\\xc2\\x9b31m");
  EXPECT_EQ(printable("\x9B[\xFF"), "\\x9b[\\xff");
  EXPECT_EQ(printable("\xE2\x80\xAE\xE2\x81\xA6"), "\\xe2\\x80\\xae\\xe2\\x81\\xa6");
  // Escapes ALM, LRM, RLM and a deprecated mark. Keeps the zero-width joiner, which emoji need.
  EXPECT_EQ(printable("\xD8\x9C|\xE2\x80\x8E|\xE2\x80\x8F|\xE2\x81\xAF"),
            "\\xd8\\x9c|\\xe2\\x80\\x8e|\\xe2\\x80\\x8f|\\xe2\\x81\\xaf");
  EXPECT_EQ(printable("\xE2\x80\x8D"), "\xE2\x80\x8D");
  EXPECT_EQ(printable("\xE2\x80\xA6\xF0\x9F\x98\x80"), "\xE2\x80\xA6\xF0\x9F\x98\x80");
}

TEST(Printable, CutsWhereACharacterBegins) {
  EXPECT_EQ(printable("abc", 3), "abc");
  EXPECT_EQ(printable("abcd", 3), "abc...");
  EXPECT_EQ(printable("\xC3\xBC\xC3\xBC", 3), "\xC3\xBC...");
  EXPECT_EQ(printable("\x80\x80\x80\x80", 2), "...");
  EXPECT_EQ(printable(std::string(1000, 'k')), std::string(160, 'k') + "...");
}

TEST(InQuotes, IsPrintable) {
  EXPECT_EQ(in_quotes("a\tb"), "\"a\\x09b\"");
  EXPECT_EQ(in_quotes(std::string(1000, 'k')), '"' + std::string(160, 'k') + "...\"");
}

TEST(DurationText, IsRoundedToSeconds) {
  EXPECT_EQ(duration_text(0), "0:00");
  EXPECT_EQ(duration_text(7), "0:07");
  EXPECT_EQ(duration_text(59.6), "1:00");
  EXPECT_EQ(duration_text(750), "12:30");
  EXPECT_EQ(duration_text(3723), "1:02:03");
  for (const double bad : {-1.0, 1e99, std::numeric_limits<double>::quiet_NaN(),
                           std::numeric_limits<double>::infinity()}) {
    EXPECT_EQ(duration_text(bad), "?");
  }
}

}  // namespace printable_test
