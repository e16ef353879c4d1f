// Whether what is written lies apart from what is read: held against the elements themselves.
#include <lora/core/overlap.hpp>

#include <gtest/gtest.h>

#include "layers/layer_tools.hpp"

namespace overlap_test {
using namespace lora;
using namespace lora_test;

TEST(Overlap, BlocksOfOneMatrixOverlapWhenTheyShareAnElement) {
  Matrix<float> whole(4, 5);
  struct Block {
    Index row, col, rows, cols;
  };
  std::vector<Block> blocks;
  for (Index row = 0; row < 4; ++row) {
    for (Index col = 0; col < 5; ++col) {
      for (Index rows = 0; row + rows <= 4; ++rows) {
        for (Index cols = 0; col + cols <= 5; ++cols) blocks.push_back({row, col, rows, cols});
      }
    }
  }
  const auto view = [&](const Block& b) {
    return View<float>(whole.data() + b.row * 5 + b.col, b.rows, b.cols, 5, 1);
  };
  for (const Block& a : blocks) {
    for (const Block& b : blocks) {
      const Index rows = std::min(a.row + a.rows, b.row + b.rows) - std::max(a.row, b.row),
                  cols = std::min(a.col + a.cols, b.col + b.cols) - std::max(a.col, b.col);
      ASSERT_EQ(overlap(view(a), view(b)), rows > 0 && cols > 0)
          << a.row << a.col << a.rows << a.cols << " " << b.row << b.col << b.rows << b.cols;
    }
  }
}

TEST(Overlap, MatricesOfOtherShapes) {
  Matrix<double> one(3, 4), other(3, 4);
  const View<double> flat(one.data(), 1, 12, 12, 1);
  EXPECT_FALSE(overlap<double>(one, other));
  EXPECT_TRUE(overlap<double>(one, flat));
  EXPECT_TRUE(overlap<double>(flat, one));
  EXPECT_TRUE(overlap<double>(View<double>(one).middle_rows(2, 1), flat));
  EXPECT_FALSE(
      overlap<double>(View<double>(one).middle_rows(2, 1), View<double>(one.data(), 1, 8, 8, 1)));
}

TEST(Overlap, IsNamedWhenItIsRefused) {
  Matrix<double> one(3, 4), other(3, 4);
  EXPECT_NO_THROW(expect_apart<double>("f", "dx", one, "dy", other));
  EXPECT_TRUE(
      throws<Error>([&] { expect_apart<double>("f", "dx", one, "dy", one); },
                    {"f: dx overlaps dy, which is still read when it is written; expected a "
                     "matrix of its own"}));
}

TEST(Overlap, InPlaceIsTheWholeMatrixOrNothing) {
  Matrix<double> one(3, 4), other(3, 4);
  const View<double> all(one), top = all.middle_rows(0, 2), bottom = all.middle_rows(1, 2);
  EXPECT_NO_THROW(expect_same_or_apart<double>("f", "y", one, "x", other));
  EXPECT_NO_THROW(expect_same_or_apart<double>("f", "y", one, "x", one));
  EXPECT_NO_THROW(expect_same_or_apart<double>("f", "y", top, "x", top));
  EXPECT_NO_THROW(expect_same_or_apart<double>("f", "y", top, "x", all.middle_rows(2, 1)));
  // One row has no distance to the next.
  EXPECT_NO_THROW(expect_same_or_apart<double>("f", "y", View<double>(one.data(), 1, 4, 4, 1), "x",
                                               View<double>(one.data(), 1, 4, 9, 1)));
  const char* text =
      "f: y overlaps x in part, which is still read when it is written; expected x itself or a "
      "matrix of its own";
  for (const View<double>& x :
       {bottom, all, all.middle_cols(1, 3).middle_rows(0, 2), View<double>(one.data(), 2, 4, 2, 1)})
    EXPECT_TRUE(
        throws<Error>([&] { expect_same_or_apart<double>("f", "y", top, "x", x); }, {text}));
}

}  // namespace overlap_test
