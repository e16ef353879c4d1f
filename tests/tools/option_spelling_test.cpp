// Options with - and _.
#include "../../tools/support/option_spelling.hpp"

#include <gtest/gtest.h>

namespace option_spelling_test {

std::vector<std::string> dashed(std::vector<std::string> words) {
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  auto out = tools::dashed_options(static_cast<int>(argv.size()), argv.data());
  std::reverse(out.begin(), out.end());
  return out;
}

TEST(OptionSpelling, NamesAndNotValues) {
  using Words = std::vector<std::string>;
  EXPECT_EQ(dashed({"my_program", "--max_new_tokens", "a_b", "--x_y=c_d", "-s_t", "e_f"}),
            (Words{"--max-new-tokens", "a_b", "--x-y=c_d", "-s_t", "e_f"}));
  EXPECT_EQ(dashed({"p", "--a_b", "--", "--c_d"}), (Words{"--a-b", "--", "--c_d"}));
  EXPECT_EQ(dashed({"p"}), Words());
  EXPECT_EQ(dashed({}), Words());
}

}  // namespace option_spelling_test
