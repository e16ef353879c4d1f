#include <lora/core/error.hpp>

#include <gtest/gtest.h>

#include <limits>

#include <stdexcept>
#include <string>

namespace error_test {
using namespace lora;

template <class Fn>
std::string shape_error(Fn fn) {
  try {
    fn();
  } catch (const ShapeError& e) {
    return e.what();
  }
  return "nothing thrown";
}

TEST(Error, OneFamilyUnderRuntimeError) {
  EXPECT_THROW(throw ShapeError("x"), Error);
  EXPECT_THROW(throw ConfigError("x"), Error);
  EXPECT_THROW(throw FormatError("x"), Error);
  EXPECT_THROW(throw IoError("x"), Error);
  EXPECT_THROW(throw Error("x"), std::runtime_error);
}

TEST(Error, TextFromFilesIsMadeReadable) {
  EXPECT_STREQ(FormatError("a \x1b[31m\x7f\r\n  b\t").what(), "a \\x1b[31m\\x7f\\x0d\n  b\\x09");
  EXPECT_STREQ(Error("x\n").what(), "x\n");
  EXPECT_STREQ(Error("").what(), "");
  EXPECT_STREQ(Error(std::string("a\0b", 3)).what(), "a\\x00b");
  std::string list = "missing:", kept = list;
  for (int i = 1; i <= 4060; ++i) {
    list += "\n  model.layers." + std::to_string(i);
    if (i == 47) kept = list;
  }
  EXPECT_EQ(ConfigError(list).what(), kept + "\n  ... and 4013 more lines");
  EXPECT_EQ(ConfigError(kept).what(), kept) << "48 lines are shown whole";
  EXPECT_EQ(Error(std::string(2001, 'a') + "\nb").what(), std::string(2000, 'a') + "...\nb");
  // What was made readable stays as it is when it is thrown on.
  EXPECT_STREQ(Error(Error("\x1b").what()).what(), "\\x1b");
}

TEST(Error, ShapeText) {
  EXPECT_EQ(shape_text(4, 6), "(4, 6)");
  EXPECT_EQ(shape_text(0, 0), "(0, 0)");
}

TEST(Error, CheckShape) {
  EXPECT_NO_THROW(check_shape(true, "f", "x", 4, 6, "(T, 7)"));
  EXPECT_EQ(shape_error([] { check_shape(false, "LoRALinear::forward", "x", 4, 6, "(T, 7)"); }),
            "LoRALinear::forward: x is (4, 6), expected (T, 7)");
}

TEST(Error, ExpectShape) {
  const Matrix<float> x = Matrix<float>::Zero(4, 6);
  EXPECT_NO_THROW(expect_shape("f", "x", x, 4, 6));
  EXPECT_NO_THROW(expect_shape("f", "x", x, -1, 6));
  EXPECT_NO_THROW(expect_shape("f", "x", x, -1, -1));
  EXPECT_EQ(shape_error([&] { expect_shape("f", "x", x, 4, 7); }),
            "f: x is (4, 6), expected (4, 7)");
  EXPECT_EQ(shape_error([&] { expect_shape("f", "x", x, 5, 6); }),
            "f: x is (4, 6), expected (5, 6)");
  EXPECT_EQ(shape_error([&] { expect_shape("f", "x", x, -1, 7); }),
            "f: x is (4, 6), expected (T, 7)");
}

TEST(Error, ExpectShapeTakesBlocksAndReferences) {
  const Matrix<double> x = Matrix<double>::Zero(4, 6);
  const Eigen::Ref<const Matrix<double>> part = x.middleCols(1, 3);
  EXPECT_NO_THROW(expect_shape("f", "x", part, 4, 3));
  EXPECT_EQ(shape_error([&] { expect_shape("f", "x", x.topRows(0), 1, 6); }),
            "f: x is (0, 6), expected (1, 6)");
}

TEST(Error, ProductOfSizes) {
  constexpr Index most = std::numeric_limits<Index>::max();
  EXPECT_EQ(product_of_sizes({}), 1);
  EXPECT_EQ(product_of_sizes({3, 4, 5}), 60);
  EXPECT_EQ(product_of_sizes({most, 1}), most);
  EXPECT_EQ(product_of_sizes({0, 7}), 0);
  EXPECT_EQ(product_of_sizes({-1, 0}), -1);
  EXPECT_EQ(product_of_sizes({3, -4}), -1);
  EXPECT_EQ(product_of_sizes({Index{1} << 32, Index{1} << 32}), -1) << "wraps around to 0";
  EXPECT_EQ(product_of_sizes({most / 2 + 1, 2}), -1);
}

}  // namespace error_test
