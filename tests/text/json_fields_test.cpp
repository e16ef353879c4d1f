#include <lora/text/json_fields.hpp>

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
  EXPECT_EQ(fields.number("n"), 7u);
  EXPECT_TRUE(fields.flag("f", false));
  EXPECT_TRUE(fields.flag("absent", true));
  EXPECT_EQ(fields.object("o").text("t"), "y");
  EXPECT_EQ(fields.element("a", 0).number("n"), 1u);
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
  EXPECT_EQ(refusal([&] { fields.text("t"); }), "file: t: expected a string");
  EXPECT_EQ(refusal([&] { fields.text("u"); }), "file: u: is missing");
  EXPECT_EQ(refusal([&] { fields.number("n"); }),
            "file: n: expected a whole number from 0 to 2147483647");
  EXPECT_EQ(refusal([&] { fields.number("m"); }),
            "file: m: expected a whole number from 0 to 2147483647");
  EXPECT_EQ(refusal([&] { fields.flag("t", true); }), "file: t: expected true or false");
  EXPECT_EQ(refusal([&] { fields.array("t"); }), "file: t: expected an array");
  EXPECT_EQ(refusal([&] { fields.object("t"); }), "file: t: expected an object");
  EXPECT_EQ(refusal([&] { fields.element("o", 0); }), "file: o[0]: expected an object");
  EXPECT_EQ(refusal([&] { fields.object("z"); }), "file: z: is missing");
  EXPECT_EQ(refusal([&] { JsonFields(lora::Json(3), "file"); }), "file: expected an object");
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
  EXPECT_EQ(refusal([&] { fields.need("z"); }), "file: z: is missing");
  EXPECT_EQ(refusal([&] { fields.need("k"); }), "file: k: is missing");
}

}  // namespace json_fields_test
