#include <lora/text/tokenizer/text_work.hpp>

#include <gtest/gtest.h>

namespace text_work_test {

using lora::TextWork;

TEST(TextWork, IsSpentAndThenRefused) {
  TextWork work("dir/tokenizer.json", 20);
  EXPECT_EQ(work.left(), 120'000u);
  work.spend(100'000, "one");
  EXPECT_TRUE(work.take(15'000));
  EXPECT_FALSE(work.take(5'001));
  EXPECT_EQ(work.left(), 5'000u);
  work.spend(5'000, "two");
  try {
    work.spend(1, "cutting it");
    ADD_FAILURE() << "accepted";
  } catch (const lora::FormatError& error) {
    EXPECT_STREQ(
        error.what(),
        "dir/tokenizer.json: encoding a text of 20 bytes takes more than 1000 steps per byte; "
        "stopped at cutting it");
  }
}

TEST(TextWork, ALongLiteralIsSearchedForMore) {
  EXPECT_EQ(lora::search_steps("abc", ""), 3u);
  EXPECT_EQ(lora::search_steps("abc", std::string(63, 'a')), 3u);
  EXPECT_EQ(lora::search_steps("abc", std::string(640, 'a')), 33u);
}

}  // namespace text_work_test
