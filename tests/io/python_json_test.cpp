// JSON in Python's spelling: every expectation here was printed by Python's json.dumps(indent=2).
#include <lora/io/python_json.hpp>

#include <gtest/gtest.h>

#include <limits>
#include <string>

#include "layers/layer_tools.hpp"

namespace python_json_test {
using namespace lora;
using namespace lora_test;

TEST(PythonJson, Floats) {
  const std::pair<double, const char*> rows[] = {
      {0.0, "0.0"},
      {-0.0, "-0.0"},
      {1.0, "1.0"},
      {0.05, "0.05"},
      {0.1 + 0.2, "0.30000000000000004"},
      {1e-4, "0.0001"},
      {1.5e-4, "0.00015"},
      {1e-5, "1e-05"},
      {-2.5e-7, "-2.5e-07"},
      {5e-324, "5e-324"},
      {22.627416997969522, "22.627416997969522"},
      {9007199254740993.0, "9007199254740992.0"},
      {9999999999999998.0, "9999999999999998.0"},
      {1e16, "1e+16"},
      {123456789012345678.0, "1.2345678901234568e+17"},
      {1.7976931348623157e308, "1.7976931348623157e+308"},
      {5e-5, "5e-05"},
      {2.0 / 3, "0.6666666666666666"}};
  for (const auto& [x, text] : rows) EXPECT_EQ(python_float(x), text);
}

TEST(PythonJson, Values) {
  const Json value = parse_json(
      R"({"b": [], "a": {}, "list": [1, -2.0, "x", [true, null], {"k": 1e-5}], "é\u0000\u007f/\"\\\n\t\b\f\r": "日本 😀"})",
      "test");
  EXPECT_EQ(
      python_json(value, "test"),
      "{\n  \"b\": [],\n  \"a\": {},\n  \"list\": [\n    1,\n    -2.0,\n    \"x\",\n    [\n"
      "      true,\n      null\n    ],\n    {\n      \"k\": 1e-05\n    }\n  ],\n"
      "  \"\\u00e9\\u0000\\u007f/\\\"\\\\\\n\\t\\b\\f\\r\": \"\\u65e5\\u672c \\ud83d\\ude00\"\n}");
  EXPECT_EQ(python_json(Json(), "test"), "null");
  EXPECT_EQ(python_json(Json(0.5), "test"), "0.5");
  EXPECT_EQ(python_json(Json::array(), "test"), "[]");
}

TEST(PythonJson, WhatJsonCannotSayIsRefused) {
  EXPECT_TRUE(throws<ConfigError>([] { python_json(Json("\xff"), "here"); },
                                  {"here: holds text that is not valid UTF-8"}));
  EXPECT_TRUE(throws<ConfigError>(
      [] {
        python_json(Json{{"\xc3", 1}}, "here");
      },
      {"here: holds text that is not valid UTF-8"}));
  for (const double x : {std::numeric_limits<double>::quiet_NaN(), HUGE_VAL, -HUGE_VAL}) {
    EXPECT_TRUE(throws<ConfigError>(
        [&] {
          python_json(Json{{"a", {1, x}}}, "here");
        },
        {"here: ", " is not a number of JSON"}));
  }
}

std::string spelled(const char* text, std::size_t indent = 0) {
  return json_dumps(parse_json(text, "text"), {.indent = indent, .ensure_ascii = false});
}

// What Python's json.dumps(..., ensure_ascii=False) prints.
TEST(PythonJson, OnOneLineBeyondAscii) {
  EXPECT_EQ(spelled("{\"b\":[1,-2,2.50,1e20,true,null],\"a\":{}}"),
            "{\"b\": [1, -2, 2.5, 1e+20, true, null], \"a\": {}}");
  EXPECT_EQ(spelled("\"\\u00fc\\n\\u0001\\u007f\\\"\""), "\"\xC3\xBC\\n\\u0001\x7F\\\"\"");
  EXPECT_EQ(spelled("[]"), "[]");
  EXPECT_EQ(spelled("[[],[1]]"), "[[], [1]]");
}

TEST(PythonJson, IndentedByFour) {
  EXPECT_EQ(spelled("{\"b\":[1,{\"c\":2}],\"a\":[]}", 4),
            "{\n    \"b\": [\n        1,\n        {\n            \"c\": 2\n        }\n    ],\n"
            "    \"a\": []\n}");
}

TEST(PythonJson, OnOneLineInAscii) {
  EXPECT_EQ(json_dumps(parse_json("{\"\u00fc\":[1,\"\u00fc\"]}", "text")),
            "{\"\\u00fc\": [1, \"\\u00fc\"]}");
}

}  // namespace python_json_test
