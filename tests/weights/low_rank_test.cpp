#include <lora/weights/low_rank.hpp>

#include <gtest/gtest.h>

#include <type_traits>

namespace low_rank_test {
using namespace lora;

TEST(LowRank, IsMadeOfViewsAndBeginsAtRowZero) {
  const Matrix<float> u = Matrix<float>::Random(5, 2), b = Matrix<float>::Random(3, 2);
  const LowRank<float> term{u, View<float>(b).transposed()};
  EXPECT_EQ(term.first_row, 0);
  EXPECT_EQ(term.left.data, u.data());  // the caller's memory, not a copy
  EXPECT_EQ(term.right.data, b.data());
  EXPECT_EQ(term.left.rows, 5);
  EXPECT_EQ(term.left.cols, 2);
  EXPECT_EQ(term.right.rows, 2);
  EXPECT_EQ(term.right.cols, 3);
  EXPECT_EQ(term.right.row_stride, 1);
  EXPECT_EQ(term.right.col_stride, 2);
}

TEST(LowRank, ATermOfSomeRows) {
  const Matrix<double> u = Matrix<double>::Random(9, 2), b = Matrix<double>::Random(2, 3);
  const LowRank<double> term{View<double>(u).middle_rows(4, 3), b, 4};
  EXPECT_EQ(term.first_row, 4);
  EXPECT_EQ(term.left.rows, 3);
  EXPECT_EQ(term.left.data, u.data() + 8);
}

TEST(LowRank, EmptyByDefault) {
  const LowRank<double> term{};
  EXPECT_EQ(term.left.rows, 0);
  EXPECT_EQ(term.right.cols, 0);
}

TEST(LowRankDelta, HoldsAScaleBesideItsViews) {
  const Matrix<float> b = Matrix<float>::Random(4, 2), a = Matrix<float>::Random(2, 6);
  const LowRankDelta<float> delta{0.5f, b, a};
  EXPECT_EQ(delta.scale, 0.5f);
  EXPECT_EQ(delta.left.data, b.data());
  EXPECT_EQ(delta.right.data, a.data());
}

// A list of them is handed through a hot path: no owner, nothing to copy but numbers.
TEST(LowRank, CopiesLikeNumbers) {
  EXPECT_TRUE(std::is_trivially_copyable_v<LowRank<float>>);
  EXPECT_TRUE(std::is_trivially_copyable_v<LowRankDelta<double>>);
}

}  // namespace low_rank_test
