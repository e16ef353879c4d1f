#include <lora/io/json_fields.hpp>

#include <gtest/gtest.h>

#include <ctime>

namespace json_fields_test {

using lora::JsonFields;

std::string refusal(auto&& call) {
  try {
    call();
  } catch (const lora::FormatError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(JsonFields, ReadsEachKind) {
  const lora::Json json = lora::parse_json(
      "{\"t\":\"x\",\"n\":7,\"f\":true,\"o\":{\"t\":\"y\"},\"a\":[{\"n\":1}],\"z\":null}", "file");
  JsonFields fields(json, "file");
  EXPECT_EQ(fields.text("t"), "x");
  EXPECT_EQ(fields.text("absent", "else"), "else");
  EXPECT_EQ(fields.text("z", "else"), "else");
  EXPECT_EQ(fields.integer("n", 0, 7), 7);
  EXPECT_TRUE(fields.flag("f", false));
  EXPECT_TRUE(fields.flag("absent", true));
  EXPECT_EQ(fields.object("o").text("t"), "y");
  EXPECT_EQ(fields.element("a", 0).integer<std::uint32_t>("n", 0, 9), 1u);
  EXPECT_EQ(fields.array("a").size(), 1u);
  EXPECT_EQ(fields.find("z"), nullptr);
  EXPECT_EQ(fields.path("x"), "file: x");
  EXPECT_EQ(fields.object("o").path("x"), "file: o.x");
  EXPECT_EQ(fields.element("a", 0).path("x"), "file: a[0].x");
  EXPECT_NO_THROW(fields.expect_no_more());
}

TEST(JsonFields, RefusalsNameThePath) {
  const lora::Json json =
      lora::parse_json("{\"t\":1,\"n\":2147483648,\"m\":-1,\"o\":[3],\"z\":null}", "file");
  JsonFields fields(json, "file");
  EXPECT_EQ(refusal([&] { fields.text("t"); }), "file: t is 1, expected a string");
  EXPECT_EQ(refusal([&] { fields.text("u"); }), "file: u is missing, expected a string");
  EXPECT_EQ(refusal([&] { fields.integer("n", 0, 2147483647); }),
            "file: n is 2147483648, expected a whole number from 0 to 2147483647");
  EXPECT_EQ(refusal([&] { fields.integer("m", 0, 2147483647); }),
            "file: m is -1, expected a whole number from 0 to 2147483647");
  EXPECT_EQ(refusal([&] { fields.flag("t", true); }), "file: t is 1, expected true or false");
  EXPECT_EQ(refusal([&] { fields.array("t"); }), "file: t is 1, expected an array");
  EXPECT_EQ(refusal([&] { fields.object("t"); }), "file: t is 1, expected an object");
  EXPECT_EQ(refusal([&] { fields.element("o", 0); }), "file: o[0] is 3, expected an object");
  EXPECT_EQ(refusal([&] { fields.object("z"); }), "file: z is null, expected an object");
  EXPECT_EQ(refusal([&] { JsonFields(lora::Json(3), "file"); }),
            "file: is number, expected an object");
}

TEST(JsonFields, WhatNobodyAskedForIsRefusedUnlessItIsNull) {
  const lora::Json json = lora::parse_json("{\"a\":1,\"b\":null,\"c\\n\":2}", "file");
  JsonFields fields(json, "file");
  fields.ignore("a");
  std::string others;
  fields.for_each_other([&](const std::string& name) { others += name + ";"; });
  EXPECT_EQ(others, "c\n;");
  EXPECT_EQ(refusal([&] { fields.expect_no_more(); }), "file: c\\x0a: is not supported");
  fields.ignore("c\n");
  EXPECT_EQ(refusal([&] { fields.expect_no_more(); }), "accepted");
}

TEST(JsonFields, NumbersHaveLimits) {
  const lora::Json json = lora::parse_json(
      R"({"half":0.5,"two":2.0,"most":18446744073709551615,"least":-9223372036854775808})", "file");
  const JsonFields fields(json, "file");
  EXPECT_EQ(fields.number("half", 0, 0.5), 0.5);
  EXPECT_EQ(fields.number("absent", 3, 0, 1), 3) << "the standard is the caller's";
  EXPECT_EQ(refusal([&] { fields.number("half", 1, 2); }),
            "file: half is 0.5, expected a number from 1 to 2");
  EXPECT_EQ(refusal([&] { fields.integer("two", 0, 9); }),
            "file: two is 2.0, expected a whole number from 0 to 9");
  EXPECT_TRUE(fields.field("most").holds_integer<std::uint64_t>(0, UINT64_MAX));
  EXPECT_FALSE(fields.field("most").holds_integer<std::int64_t>(INT64_MIN, INT64_MAX));
  EXPECT_TRUE(fields.field("least").holds_integer<std::int64_t>(INT64_MIN, INT64_MAX));
  EXPECT_FALSE(fields.field("least").holds_integer<std::uint64_t>(0, UINT64_MAX));
}

TEST(JsonFields, ListsOfTextsAndOptions) {
  const lora::Json json =
      lora::parse_json(R"({"list":["a","b"],"mixed":["a",1],"on":true})", "file");
  const JsonFields fields(json, "file");
  EXPECT_EQ(fields.field("list").texts(), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(refusal([&] { fields.field("mixed").texts(); }),
            "file: mixed is [\"a\",1], expected an array of strings");
  fields.unsupported_unless("on", true, "always on");
  fields.unsupported_unless("absent", true, "always on");
  EXPECT_THROW(fields.unsupported_unless("on", false, "always off"), lora::ConfigError);
}

// Json looks a key up by looking at all before it.
TEST(JsonFields, ManyQuestionsToALargeObjectTakeLinearTime) {
  std::string text = "{";
  for (int i = 0; i < 40'000; ++i) text += "\"k" + std::to_string(i) + "\":{},";
  const lora::Json json = lora::parse_json(text + "\"list\":[{\"n\":1}],\"z\":null}", "file");
  JsonFields fields(json, "file");
  const std::clock_t began = std::clock();
  for (int i = 0; i < 40'000; ++i) {
    fields.object("k" + std::to_string(i));
    fields.element("list", 0);
  }
  EXPECT_LT(static_cast<double>(std::clock() - began) / CLOCKS_PER_SEC, 1.5);
  EXPECT_EQ(refusal([&] { fields.need("z"); }), "file: z is null");
  EXPECT_EQ(refusal([&] { fields.need("k"); }), "file: k is missing");
}

}  // namespace json_fields_test
