// The patterns of configurations against Python's `re`: the tables below were made with python3's
// re.fullmatch and re.match.
#include <lora/regex/pattern.hpp>

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

namespace pattern_test {

using lora::ConfigError;
using lora::Pattern;

// For each pattern one digit a text: 1 if re.fullmatch matches, plus 2 if re.match does.
struct Table {
  std::vector<std::string> texts;
  std::vector<std::pair<std::string, std::string>> patterns;
};

const std::vector<Table>& tables() {
  static const std::vector<Table> all = {
      {{"", "a", "b", "ab", "aab", "x"},
       {{"", "322222"},
        {"a|b", "033220"},
        {"ab|", "322322"},
        {"|x", "322223"},
        {"()", "322222"},
        {"(?:)", "322222"},
        {"a(?#note)b", "000300"},
        {"a(?#note)*", "332222"}}},
      {{"", "q_proj", "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.Q_PROJ",
        "vision.q_proj", "model.layers.0.mlp.down_proj", "abab", "aB"},
       {{"^(?!vision).*q_proj", "03300000"},
        {"(?!.*vision).*proj", "03300300"},
        {"(?i)q_proj", "03000000"},
        {"(?i).*Q_proj", "03333000"},
        {".*\\.(?i:Q)_proj", "00303000"},
        {"(?i:a(?-i:b)).*", "00000030"},
        {"(?=.*self_attn).*proj", "00300000"},
        {"model(?=\\.layers\\.0).*", "00300300"},
        {"(?:(?!mlp).)*", "33323233"},
        {"(?=(?:ab)+$)a.*", "00000030"},
        {"a(?!b)|a(?=b)bab", "00000032"},
        {"(?=a(?!c)b)ab(?=ab)ab", "00000030"},
        {"(?i)[^A]*", "33223222"},
        {"(?i)[m-o]odel.*", "00330300"},
        {"(?i)[Z-a]B", "00000023"},
        {"(?=)a.*", "00000033"},
        {"(?!)a.*", "00000000"},
        {"(?:(?=a)ab)*", "32222232"},
        {".*(?=proj$)proj", "03303300"},
        {".*(?!q)_proj", "03303300"},
        {"(?i)\\w+", "03222233"},
        {"(?=x)*q.*", "03000000"},
        {"(?=.*$)model.*", "00330300"},
        {".*\\b(?=q).*", "03303000"}}},
      {{"q_proj", "model.layers.0.self_attn.q_proj", "model.layers.12.mlp.down_proj",
        "model.layers.x.q_proj", "layers_q_proj"},
       {{"q_proj", "30000"},
        {".*q_proj", "33033"},
        {".*\\.(q|v)_proj", "03030"},
        {"model\\.layers\\.\\d+\\..*", "03300"},
        {".*\\.(?:0|12)\\..*_proj$", "03300"},
        {"^model.*", "03330"},
        {".*layers\\.[02]\\..*down_proj", "00000"},
        {".*\\.[^.]*\\.(\\d+)\\..*", "03300"},
        {"(?:.*\\.)?(?P<which>q|k|down)_proj", "33330"},
        {"model(\\.\\w+)+", "03330"},
        {"(.*\\.)?(layers.12.mlp.down_proj)$", "00300"},
        {"(^|.*\\.)mlp($|\\..*)", "00300"},
        {"model\\.layers\\.(?:[0-9]|1[0-9])\\.(?:self_attn|mlp)\\.(?:(?:q|k|v|o|gate|up|down)_"
         "proj)",
         "03300"}}},
      {{"", "a", "aa", "aaa", "aaaa", "b", "ab", "abab", "aab", "abcd", "aac"},
       {{"a*", "33333222222"},        {"a+", "03333022222"},
        {"a?", "33222222222"},        {"a{2}", "00322000202"},
        {"a{2,}", "00333000202"},     {"a{,2}", "33322222222"},
        {"a{1,3}", "03332022222"},    {"a{0}", "32222222222"},
        {"a{,}", "33333222222"},      {"a*?", "33333222222"},
        {"a+?", "03333022222"},       {"a??", "33222222222"},
        {"a{2,3}?", "00332000202"},   {"(ab)*", "32222233222"},
        {"(?:ab){2}", "00000003000"}, {"(a|b){2,3}", "00332032322"},
        {"(a*)*b", "00000332320"},    {"(a+)+$", "03333000000"},
        {"(a|a)*$", "33333000000"},   {"(a|ab)(c|bcd)(d*)", "00000000030"}}},
      {{"a{", "a{}", "a{b}", "a{1", "{a}", "a{1,b}", "a{-1}", "x}", "]", "a", ""},
       {{"a{", "32220220000"},
        {"a{}", "03000000000"},
        {"a{b}", "00300000000"},
        {"a{1", "00030200000"},
        {"{a}", "00003000000"},
        {"a{1,b}", "00000300000"},
        {"a{-1}", "00000030000"},
        {"x}", "00000003000"},
        {"]", "00000000300"}}},
      {{"", "a", "\n", "a\n", "a\n\n", "ba", "ab", "\na"},
       {{".", "03022220"},
        {".*", "33222332"},
        {"a$", "03020000"},
        {"a^", "00000000"},
        {"^a", "03022020"},
        {"^", "32222222"},
        {"$", "30200000"},
        {"a\\Z", "03000000"},
        {"\\Aa", "03022020"},
        {"a$\\n", "00030000"},
        {"$\\n", "00300000"},
        {"(^a)", "03022020"},
        {"(?:^|b)a", "03022320"},
        {"a(?:$|b)", "03020030"},
        {"^a?$", "33220000"}}},
      {{"foo", "foo bar", "007", "a-b.c", " \011\013", "_", "\034\037", "-oo", "foo_1", ""},
       {{"\\d+", "0030000000"},
        {"\\D+", "3303333320"},
        {"\\w+", "3232030030"},
        {"\\W+", "0000303200"},
        {"\\s+", "0000303000"},
        {"\\S+", "3233030330"},
        {"\\bfoo\\b", "3200000000"},
        {"\\Bo", "0000000000"},
        {".*\\boo", "0000000300"},
        {".*\\Boo", "3200000020"},
        {"\\b", "2222020020"},
        {"\\B", "0000202200"},
        {"foo\\b.*", "3300000000"},
        {"[\\w.]+", "3232030030"},
        {"[\\d-]+", "0030000200"},
        {"[^\\s]+", "3233030330"},
        {"[\\W_]+", "0000333200"}}},
      {{"a", "b", "abc", "]", "]a]", "-", "a-", "^", "d", "*", "+.*", "\010", "|", "()", "{}", "$",
        ""},
       {{"[abc]", "33200020000000000"},
        {"[a-c]+", "33300020000000000"},
        {"[^a-c]+", "00032303333333330"},
        {"[]a]+", "30233020000000000"},
        {"[^]a]+", "03000303333333330"},
        {"[a-]+", "30200330000000000"},
        {"[-a]+", "30200330000000000"},
        {"[a^]+", "30200023000000000"},
        {"[.*+]+", "00000000033000000"},
        {"[a\\]b]+", "33233020000000000"},
        {"[\\x61-\\x63]", "33200020000000000"},
        {"[\\b]", "00000000000300000"},
        {"[|]", "00000000000030000"},
        {"[(][)]", "00000000000003000"},
        {"[a-a]", "30200020000000000"},
        {"[{}]{2}", "00000000000000300"},
        {"[$]", "00000000000000030"}}},
      {{".", "\\", "\n", "\011", "A", "-", "_", "/", " ", "()", "*", "\007\014\015\013", "[]", "x"},
       {{"\\.", "30000000000000"},
        {"\\\\", "03000000000000"},
        {"\\n", "00300000000000"},
        {"\\t", "00030000000000"},
        {"\\x41", "00003000000000"},
        {"\\u0041", "00003000000000"},
        {"\\U00000041", "00003000000000"},
        {"\\-", "00000300000000"},
        {"\\_", "00000030000000"},
        {"\\/", "00000003000000"},
        {"\\ ", "00000000300000"},
        {"\\(\\)", "00000000030000"},
        {"\\*", "00000000003000"},
        {"\\a\\f\\r\\v", "00000000000300"},
        {"\\[\\]", "00000000000030"}}},
      {{"\303\251", "\303\251e", "\303\251\303\251", "\346\227\245", "\346\227\245\346\234\254",
        "\360\237\230\200", "\303\274", "a", ""},
       {{".", "322323330"},
        {".{2}", "033030000"},
        {"[\303\251]", "322000000"},
        {"[\303\240-\303\274]+", "323000300"},
        {"\303\251*", "323222223"},
        {"[^a]", "322323300"},
        {"\\u00e9", "322000000"},
        {"\\xe9", "322000000"},
        {"\346\227\245.", "000030000"},
        {"[\346\227\245-\346\234\210]", "000320000"},
        {"\360\237\230\200?", "222223223"}}},
  };
  return all;
}

std::string refusal(const std::string& pattern) {
  try {
    const Pattern p(pattern);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(Pattern, AnswersAsPython) {
  std::size_t rows = 0;
  for (const Table& table : tables()) {
    for (const auto& [text, answers] : table.patterns) {
      ASSERT_EQ(answers.size(), table.texts.size()) << text;
      const Pattern pattern(text);
      for (std::size_t i = 0; i < answers.size(); ++i, ++rows) {
        const std::string& subject = table.texts[i];
        const int answer = int(pattern.full_match(subject)) + 2 * int(pattern.match(subject));
        EXPECT_EQ(answer, answers[i] - '0') << text << " on " << subject;
      }
    }
  }
  EXPECT_EQ(rows, 1512u);
}

TEST(Pattern, RefusesByNameAndPosition) {
  const std::pair<std::string, std::string> cases[] = {
      {"(a)\\1", "position 3: back-references and octal escapes are not supported"},
      {"\\012", "position 0: back-references and octal escapes are not supported"},
      {"[\\1]", "position 1: back-references and octal escapes are not supported"},
      {"(?P<a>x)(?P=a)", "position 8: back-references are not supported"},
      {"(?<=a)b", "position 0: look-behind is not supported; write the text before it"},
      {"(?<!a)b", "position 0: look-behind is not supported; write the text before it"},
      {"(a)(?(1)b|c)", "position 3: conditional groups are not supported"},
      {"(?>a)", "position 0: atomic groups are not supported"},
      {"(?s)a", "position 0: inline flags other than i and other (?...) extensions are not"},
      {"(?is:a)", "position 0: inline flags other than i and other"},
      {"a(?i)", "position 1: flags for the whole pattern must stand at its start; write (?i:...)"},
      {"(?i)\u00e9", "(?i) is supported for ASCII only"},
      {"(?=(a))", "position 3: the first capturing group is in a look-ahead; write (?:...)"},
      {"(?=a", "position 0: group without its )"},
      {"a*+", "position 1: possessive quantifiers are not supported"},
      {"a{2}+", "position 1: possessive quantifiers are not supported"},
      {"*a", "position 0: nothing to repeat"},
      {"a|*", "position 2: nothing to repeat"},
      {"(|*)", "position 2: nothing to repeat"},
      {"^*", "position 1: nothing to repeat"},
      {"\\b+", "position 2: nothing to repeat"},
      {"a**", "position 2: multiple repeat"},
      {"a{2}{3}", "position 4: multiple repeat"},
      {"a*??", "position 3: multiple repeat"},
      {"a{3,1}", "position 1: the least number of repeats is above the largest"},
      {"(a", "position 0: group without its )"},
      {"a)b", "position 1: unbalanced )"},
      {"(?#a", "position 0: comment without its )"},
      {"x[ab", "position 1: [ without its ]"},
      {"[]", "position 0: [ without its ]"},
      {"[a\\", "position 0: [ without its ]"},
      {"[z-a]", "position 1: bad character range"},
      {"[\\w-a]", "position 1: bad character range"},
      {"[a-\\d]", "position 1: bad character range"},
      {"ab\\", "position 2: a backslash ends the pattern"},
      {"\\q", "position 0: unknown escape \\q"},
      {"\\N{DASH}", "position 0: unknown escape \\N"},
      {"[\\A]", "position 1: unknown escape \\A"},
      {"\\x4", "position 0: needs 2 hexadecimal digits"},
      {"\\u12g4", "position 0: needs 4 hexadecimal digits"},
      {"\\U00110000", "position 0: is above the last code point"},
      {"(?P<1a>x)", "position 0: bad group name"},
      {"(?P<>x)", "position 0: bad group name"},
      {"(?P<a", "position 0: bad group name"},
      {"(?P<a>x)(?P<a>y)", "position 8: the group name a is used twice"},
      {"(?Px)", "position 0: unknown extension (?P"},
      {"a\xff", "is not valid UTF-8"},
      {"\xed\xa0\x80", "is not valid UTF-8"},
  };
  for (const auto& [pattern, reason] : cases) {
    const std::string said = refusal(pattern);
    EXPECT_NE(said.find(reason), said.npos) << pattern << " gave: " << said;
    EXPECT_EQ(said.rfind("regular expression \"", 0), 0u) << said;
  }
}

TEST(Pattern, BoundsWhatAStrangerMayAskFor) {
  EXPECT_NE(refusal(std::string(4097, 'a')).find("has 4097 bytes, at most 4096 are allowed"),
            std::string::npos);
  EXPECT_EQ(refusal(std::string(4096, 'a')), "accepted");
  for (const char* large :
       {"a{100000}", "a{0,100000}", "(a{100}){100}", "((a{30}){30}){30}", "(){9999999999}"}) {
    EXPECT_NE(refusal(large).find("compiles to more than 8192 steps"), std::string::npos) << large;
  }
  EXPECT_EQ(refusal("(?:(?:){999999}){999999}"), "accepted");  // repeats of nothing are nothing
  EXPECT_EQ(refusal("a{4000}"), "accepted");
  EXPECT_NE(refusal(std::string(65, '(') + "a" + std::string(65, ')'))
                .find("groups are nested deeper than 64"),
            std::string::npos);
  EXPECT_NE(refusal(std::string(4000, '(')).find("groups are nested deeper than 64"),
            std::string::npos);
  EXPECT_EQ(refusal(std::string(64, '(') + "a" + std::string(64, ')')), "accepted");
  std::string many = "a";
  while (many.size() < 4090) many += "|a";
  EXPECT_EQ(refusal(many), "accepted");
}

TEST(Pattern, WorkGrowsWithSizeTimesTextOnly) {
  const std::string text(5000, 'a');
  for (const char* hard : {"(a*)*b", "(a+)+$b", "(a|a)*b", "(a|aa)+b", "(?:a?){50}a{50}b",
                           "(.*)*(.*)*(.*)*b", "((a*)*)*\\Zb"}) {
    const Pattern pattern(hard);
    Pattern::Scratch scratch;
    EXPECT_FALSE(pattern.full_match(text, scratch)) << hard;
    EXPECT_FALSE(pattern.match(text, scratch)) << hard;
    // A step is entered at most once a position from each of two predecessors, and looked at once
    // more when it consumes.
    EXPECT_LE(scratch.steps, 2 * 3 * pattern.size() * (text.size() + 1)) << hard;
  }
  EXPECT_TRUE(Pattern("(a|a)*$").full_match(text));
}

// One scratch for many patterns in turn, large and small: none sees what another left behind.
TEST(Pattern, ScratchIsSharedWithoutClearing) {
  Pattern::Scratch shared;
  const Pattern patterns[] = {Pattern("(a|b)*c"), Pattern("a{300}"), Pattern("c"),
                              Pattern("(?:a?b){9}c*")};
  for (const char* text : {"abababababababababc", "c", "b", "", "ab", "c", "abc"}) {
    for (int twice = 0; twice < 2; ++twice) {
      for (const Pattern& pattern : patterns) {
        EXPECT_EQ(pattern.full_match(text, shared), pattern.full_match(text))
            << pattern.text() << " on " << text;
        EXPECT_EQ(pattern.match(text, shared), pattern.match(text))
            << pattern.text() << " on " << text;
      }
    }
  }
  Pattern::Scratch fresh;
  Pattern("a{8000}").match("b", fresh);
  EXPECT_EQ(fresh.steps, 2u);  // of the 8001 steps only the first is entered and tried
}

TEST(Pattern, DollarStandsBeforeAFinalNewline) {
  EXPECT_TRUE(Pattern("a$").match("a\n"));
  EXPECT_FALSE(Pattern("a$").full_match("a\n"));
  EXPECT_FALSE(Pattern("a$").match("a\nb"));
  EXPECT_FALSE(Pattern("a\\Z").match("a\n"));
}

TEST(Pattern, CountsCodePointsAndNeverHalfOfOne) {
  EXPECT_TRUE(Pattern(".").full_match("\xc3\xa9"));
  EXPECT_FALSE(Pattern("..").full_match("\xc3\xa9"));
  EXPECT_TRUE(Pattern("..").full_match("\xff\xfe"));  // bytes that are not UTF-8 count one each
  EXPECT_TRUE(Pattern("..").full_match("\xe6\x97"));
  EXPECT_TRUE(Pattern("[^a]").full_match("\xf0\x9f\x98\x80"));
}

TEST(Pattern, RefusesUnicodeClassesInsteadOfGuessing) {
  for (const char* p : {"\\w+", "[\\W]+", ".*\\b", "\\B.*", "\\d*", "\\D*", "\\s*"}) {
    const Pattern pattern(p);
    try {
      pattern.full_match("caf\xc3\xa9");
      FAIL() << p;
    } catch (const ConfigError& error) {
      EXPECT_NE(std::string(error.what())
                    .find("are supported for ASCII text only, not for \"caf\xc3\xa9\""),
                std::string::npos);
    }
  }
  EXPECT_TRUE(Pattern("[a-z]+.").full_match("caf\xc3\xa9"));
}

// The group's place as Python's match.span(1) gives it.
TEST(Pattern, GroupFollowsGreedAndLaziness) {
  Pattern::Scratch scratch;
  const auto span = [&](const char* pattern, const char* text) {
    const auto found = Pattern(pattern).match_group(text, scratch);
    return found ? std::to_string(found->first) + "-" + std::to_string(found->second)
                 : std::string("none");
  };
  const std::string path = "model.layers.1.experts.22.w1";
  EXPECT_EQ(span(".*?\\.[^.]*\\.(\\d+)\\.", path.c_str()), "13-14");
  EXPECT_EQ(span(".*\\.[^.]*\\.(\\d+)\\.", path.c_str()), "23-25");
  EXPECT_EQ(span("(a|ab)(c|bcd)", "abcd"), "0-1");
  EXPECT_EQ(span("(a+?)a*", "aaa"), "0-1");
  EXPECT_EQ(span("(a+)a*", "aaa"), "0-3");
  EXPECT_EQ(span("(a)|b", "b"), "none");
  EXPECT_EQ(span("(a)", "b"), "none");
  EXPECT_EQ(span("\xc3\xa9(b)",
                 "\xc3\xa9"
                 "b"),
            "1-2");  // code points
}

TEST(Pattern, TellsWhatItHolds) {
  EXPECT_EQ(Pattern("(a)(?:b)(?P<c>d)").captures(), 2);
  EXPECT_TRUE(Pattern("a|b").top_alternation());
  EXPECT_FALSE(Pattern("(a|b)").top_alternation());
  EXPECT_TRUE(Pattern("(a)*").repeats_group());
  EXPECT_TRUE(Pattern("x(?:(?:a)?)").repeats_group());
  EXPECT_FALSE(Pattern("(a*)b+").repeats_group());
  EXPECT_EQ(Pattern("a.b").text(), "a.b");
}

}  // namespace pattern_test
