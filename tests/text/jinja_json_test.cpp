#include <lora/text/chat/jinja_json.hpp>

#include <gtest/gtest.h>

namespace jinja_json_test {

std::string spelled(const char* text, std::size_t indent = 0) {
  return lora::jinja_json(lora::parse_json(text, "text"), indent);
}

// What Python's json.dumps(..., ensure_ascii=False) prints.
TEST(JinjaJson, OnOneLine) {
  EXPECT_EQ(spelled("{\"b\":[1,-2,2.50,1e20,true,null],\"a\":{}}"),
            "{\"b\": [1, -2, 2.5, 1e+20, true, null], \"a\": {}}");
  EXPECT_EQ(spelled("\"\\u00fc\\n\\u0001\\u007f\\\"\""), "\"\xC3\xBC\\n\\u0001\x7F\\\"\"");
  EXPECT_EQ(spelled("[]"), "[]");
  EXPECT_EQ(spelled("[[],[1]]"), "[[], [1]]");
}

TEST(JinjaJson, Indented) {
  EXPECT_EQ(spelled("{\"b\":[1,{\"c\":2}],\"a\":[]}", 4),
            "{\n    \"b\": [\n        1,\n        {\n            \"c\": 2\n        }\n    ],\n"
            "    \"a\": []\n}");
}

}  // namespace jinja_json_test
