#include <lora/io/json.hpp>

#include <gtest/gtest.h>

#include <random>

namespace json_test {

using lora::Json;
using lora::parse_json;

std::string message_of(std::string_view text, lora::JsonLimits limits = {}) {
  try {
    parse_json(text, "some/file.json", limits);
  } catch (const lora::FormatError& error) {
    return error.what();
  }
  return "accepted";
}

void expect_refused(std::string_view text, const std::string& part, lora::JsonLimits limits = {}) {
  const std::string message = message_of(text, limits);
  EXPECT_NE(message.find(part), std::string::npos) << message << "\n  expected: " << part;
  EXPECT_EQ(message.find("some/file.json: not valid JSON: "), 0u) << message;
  EXPECT_NE(message.find("byte "), std::string::npos) << message;
}

TEST(Json, AcceptsWhatTheStandardDefinesAndKeepsTheOrderOfKeys) {
  const Json value = parse_json(
      " \t\r\n{\"z\": [1, -2, 3.5, 1e2, true, false, null, {}], \"a\": "
      "\"\\u00fc\\ud83d\\ude00\\n\xC3\xBC\", \"\": \"\\u0000\"} ",
      "text");
  EXPECT_EQ(value.begin().key(), "z");
  EXPECT_EQ(value.size(), 3u);
  EXPECT_EQ(value.at("z").size(), 8u);
  EXPECT_TRUE(value.at("z")[0].is_number_unsigned());
  EXPECT_EQ(value.at("z")[1].get<int>(), -2);
  EXPECT_EQ(value.at("z")[3].get<double>(), 100.0);
  EXPECT_EQ(value.at("a").get<std::string>(), "\xC3\xBC\xF0\x9F\x98\x80\n\xC3\xBC");
  EXPECT_EQ(value.at("").get<std::string>(), std::string(1, '\0'));
  for (const char* text :
       {"0", "-0", "\"\"", "[]", "{}", "null", "[[],[[]]]", "1e-400", "0.1E+2"}) {
    EXPECT_NO_THROW(parse_json(text, "text")) << text;
  }
}

TEST(Json, IntegersKeepTheirKind) {
  EXPECT_EQ(parse_json("18446744073709551615", "text").get<std::uint64_t>(), UINT64_MAX);
  for (const char* text : {"18446744073709551616", "1.0", "1e0", "-1", "-0"}) {
    EXPECT_FALSE(parse_json(text, "text").is_number_unsigned()) << text;
  }
}

TEST(Json, RefusesWhatIsNotJson) {
  for (const char* text :
       {"",          " ",         "{",         "[",       "{\"a\":1,}", "[1,]",
        "[1 2]",     "{\"a\" 1}", "{a:1}",     "{'a':1}", "{\"a\":1}}", "{}{}",
        "[] x",      "01",        "+1",        ".5",      "1.",         "1e",
        "0x10",      "NaN",       "Infinity",  "-",       "tru",        "True",
        "// c\n{}",  "{}/* c */", "# c\n1",    "\"\t\"",  "\"a\nb\"",   "\"\\x41\"",
        "\"\\u12\"", "\"abc",     "[\"a\":1]", "{1:2}",   "1e400",      "-1e400",
        ",",         "{,}",       "\v1",       "\f1",     "\xC2\xA0[]", "\"\\a\""}) {
    expect_refused(text, "not valid JSON");
  }
}

TEST(Json, RefusesInvalidUtf8AndHalfSurrogates) {
  const std::string bad[] = {"\x80",
                             "\xC0\x80",
                             "\xC1\xBF",
                             "\xE0\x80\x80",
                             "\xED\xA0\x80",
                             "\xF0\x80\x80\x80",
                             "\xF4\x90\x80\x80",
                             "\xF5\x80\x80\x80",
                             "\xFF",
                             "\xE2\x82",
                             "\xC3"};
  for (const std::string& bytes : bad) {
    expect_refused("[\"" + bytes + "\"]", "UTF-8");
    expect_refused("{\"" + bytes + "\":1}", "UTF-8");
  }
  for (const char* text :
       {"\"\\ud800\"", "\"\\udc00\"", "\"\\ud800\\ud800\"", "\"\\ud800x\"", "{\"\\ud83d\":1}"}) {
    expect_refused(text, "surrogate");
  }
}

TEST(Json, RefusesByteOrderMarkAndNul) {
  expect_refused("\xEF\xBB\xBF{}", "byte 0: begins with a byte order mark");
  // The parser underneath takes NUL for the end and would accept all of these.
  expect_refused(std::string_view("{}\0", 3), "byte 2: a NUL byte");
  expect_refused(std::string_view("{}\0garbage", 10), "byte 2: a NUL byte");
  expect_refused(std::string_view("\"a\0b\"", 5), "byte 2: a NUL byte");
}

TEST(Json, SaysAtWhichByte) {
  expect_refused("[1,x]", "byte 3: syntax error");
  expect_refused("[1,2", "byte 4: syntax error");
  expect_refused("{\"a\":1,\"a\":2}", "before byte 10: key \"a\" appears twice");
  expect_refused("[\"\xFF\"]", "byte 2: ");
  expect_refused("[1e999]", "byte 5: number overflow");
}

TEST(Json, RefusesDuplicateKeysAfterUnescapingAndOnlyWithinOneObject) {
  expect_refused("{\"ab\":1,\"a\\u0062\":1}", "key \"ab\" appears twice");
  expect_refused("[{\"x\":{\"k\":1,\"l\":[],\"k\":1}}]", "key \"k\" appears twice");
  expect_refused("{\"\":1,\"\":1}", "key \"\" appears twice");
  EXPECT_NO_THROW(parse_json("{\"k\":{\"k\":{\"k\":1}},\"l\":[{\"k\":1},{\"k\":2}]}", "text"));
  // A key of a closed object must not count for its parent.
  expect_refused("{\"k\":{\"l\":1},\"l\":1,\"k\":2}", "key \"k\" appears twice");
}

TEST(Json, BoundsDepthWithoutRecursion) {
  EXPECT_NO_THROW(parse_json(std::string(64, '[') + std::string(64, ']'), "text"));
  expect_refused(std::string(65, '[') + std::string(65, ']'), "nested deeper than 64 levels");
  expect_refused(std::string(50'000'000, '['), "nested deeper than 64 levels");
  std::string objects;
  for (int i = 0; i < 1000; ++i) objects += "{\"a\":";
  expect_refused(objects, "nested deeper than 64 levels");
  expect_refused("[[]]", "nested deeper than 1 levels", {.depth = 1});
  // Deep where it is allowed: building and destroying must not use the stack of the processor for
  // it.
  const std::size_t deep = 200'000;
  EXPECT_NO_THROW(
      parse_json(std::string(deep, '[') + std::string(deep, ']'), "text", {.depth = deep}));
}

TEST(Json, BoundsTheNumberOfValues) {
  EXPECT_NO_THROW(parse_json("[1,[2],{\"a\":3}]", "text", {.values = 6}));
  expect_refused("[1,[2],{\"a\":3}]", "more than 5 values", {.values = 5});
  expect_refused("[[[]]]", "more than 2 values", {.values = 2});
}

TEST(Json, ManyKeysTakeNoQuadraticTime) {
  std::string text = "{";
  for (int i = 0; i < 200'000; ++i)
    text += (i == 0 ? "\"" : ",\"") + std::to_string(i) + "\":[0,\"x\"]";
  text += "}";
  // Linear search over the keys would be 2e10 comparisons: past the test's time limit.
  EXPECT_EQ(parse_json(text, "text").size(), 200'000u);
}

TEST(Json, EveryMutantIsAcceptedOrRefusedByOurError) {
  const std::string seed =
      "{\"a\":[1,-2.5e3,true,null,\"\\u00fc\\ud83d\\ude00\"],\"b\":{\"c\":\"\xC3\xBC\"}}";
  std::mt19937 random(7);
  int accepted = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::string text = seed;
    for (auto edits = 1 + random() % 3; edits > 0; --edits) {
      const std::size_t at = random() % text.size();
      switch (random() % 4) {
        case 0:
          text[at] = static_cast<char>(random());
          break;
        case 1:
          text.erase(at, 1 + random() % 3);
          break;
        case 2:
          text.insert(at, text.substr(random() % text.size(), random() % 8));
          break;
        default:
          text[at] = "{}[]\",:\\u0-"[random() % 11];
      }
      if (text.empty()) text = "x";
    }
    const std::string message = message_of(text);
    if (message == "accepted") {
      ++accepted;
      EXPECT_NO_THROW(parse_json(parse_json(text, "text").dump(), "text")) << text;
    }
  }
  EXPECT_GT(accepted, 100);
}

TEST(Json, TextInMessagesIsShortAndWithoutControlCharacters) {
  EXPECT_EQ(lora::in_quotes(std::string_view("a\n\x1B[31m\0\x7F", 9)),
            "\"a\\x0a\\x1b[31m\\x00\\x7f\"");
  EXPECT_EQ(lora::printable("\xC3\xBC\xC3\xBC", 3), "\xC3\xBC...");
  EXPECT_EQ(lora::printable("\x80\x80\x80\x80", 2), "...");
  EXPECT_EQ(lora::printable("abc", 3), "abc");
  const std::string message = message_of("{\"" + std::string(1'000'000, 'k') + "\": x}");
  EXPECT_LT(message.size(), 400u);
  EXPECT_LT(message_of("[" + std::string(1'000'000, '1') + "x]").size(), 400u);
}

TEST(Json, StringsAreWrittenEscaped) {
  EXPECT_EQ(lora::json_string("a\"\\\n\xC3\xBC", "name"), "\"a\\\"\\\\\\n\xC3\xBC\"");
  EXPECT_EQ(lora::json_string(std::string_view("\0", 1), "name"), "\"\\u0000\"");
  try {
    lora::json_string("a\xFF", "tensor name");
    ADD_FAILURE() << "accepted";
  } catch (const lora::ConfigError& error) {
    EXPECT_STREQ(error.what(), "tensor name: \"a\\xff\" is not valid UTF-8");
  }
}

}  // namespace json_test
