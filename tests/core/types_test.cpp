#include <lora/core/types.hpp>

#include <gtest/gtest.h>

#include <utility>

namespace types_test {
using namespace lora;

// Element (i, j) is 10 i + j, so a wrong stride shows itself.
Matrix<double> numbered(Index rows, Index cols) {
  Matrix<double> m(rows, cols);
  for (Index i = 0; i < rows; ++i) {
    for (Index j = 0; j < cols; ++j) m(i, j) = double(10 * i + j);
  }
  return m;
}

template <class S>
S at(const View<S>& v, Index i, Index j) {
  return v.data[i * v.row_stride + j * v.col_stride];
}

void expect_same(const View<double>& v, const Matrix<double>& m) {
  ASSERT_EQ(v.rows, m.rows());
  ASSERT_EQ(v.cols, m.cols());
  for (Index i = 0; i < m.rows(); ++i) {
    for (Index j = 0; j < m.cols(); ++j) EXPECT_EQ(at(v, i, j), m(i, j)) << i << ", " << j;
  }
}

// As a function of the library sees what it was given.
const double* address(In<double> x) { return x.data(); }
View<double> view_of(In<double> x) { return View<double>(x); }

TEST(Matrix, BytesAreThoseOfARowMajorTensor) {
  const Matrix<double> m = numbered(2, 3);
  EXPECT_EQ(m.data()[1], 1);
  EXPECT_EQ(m.data()[3], 10);
}

TEST(In, TakesMatricesAndBlocksWithoutACopy) {
  const Matrix<double> m = numbered(4, 6);
  EXPECT_EQ(address(m), m.data());
  EXPECT_EQ(address(m.middleRows(1, 2)), m.data() + 6);
  EXPECT_EQ(address(m.middleCols(2, 3)), m.data() + 2);
  EXPECT_EQ(address(m.block(1, 2, 2, 3)), m.data() + 6 + 2);
}

TEST(View, LooksAtAMatrix) {
  const Matrix<double> m = numbered(3, 5);
  const View<double> v = m;
  EXPECT_EQ(v.data, m.data());
  expect_same(v, m);
}

TEST(View, LooksAtABlock) {
  Matrix<double> m = numbered(5, 7);
  const View<double> v = view_of(m.block(1, 2, 3, 4));
  EXPECT_EQ(v.row_stride, 7);
  expect_same(v, m.block(1, 2, 3, 4));
  Eigen::Ref<Matrix<double>> out = m.block(2, 1, 2, 5);
  expect_same(View<double>(out), m.block(2, 1, 2, 5));
}

TEST(View, LooksAtOneRowAndOneColumn) {
  const Matrix<double> m = numbered(5, 7);
  expect_same(view_of(m.middleRows(2, 1)), m.middleRows(2, 1));
  expect_same(view_of(m.middleCols(3, 1)), m.middleCols(3, 1));
  expect_same(view_of(m.block(2, 3, 1, 1)), m.block(2, 3, 1, 1));
}

TEST(View, TransposesWithoutACopy) {
  const Matrix<double> m = numbered(3, 5);
  const View<double> v = View<double>(m).transposed();
  EXPECT_EQ(v.data, m.data());
  expect_same(v, m.transpose());
  expect_same(v.transposed(), m);
}

TEST(View, TakesParts) {
  const Matrix<double> m = numbered(5, 7);
  const View<double> v = m;
  expect_same(v.middle_rows(1, 3), m.middleRows(1, 3));
  expect_same(v.middle_cols(2, 4), m.middleCols(2, 4));
  expect_same(v.middle_rows(1, 3).middle_cols(2, 4), m.block(1, 2, 3, 4));
  expect_same(v.middle_rows(5, 0), m.middleRows(5, 0));
  // Rows of the transpose are columns of the matrix.
  expect_same(v.transposed().middle_rows(2, 4), m.middleCols(2, 4).transpose());
  expect_same(v.transposed().middle_cols(1, 3), m.middleRows(1, 3).transpose());
}

TEST(View, EmptyOnes) {
  const View<double> none;
  EXPECT_EQ(none.data, nullptr);
  EXPECT_EQ(none.rows * none.cols, 0);
  const Matrix<double> no_tokens(0, 5);
  const View<double> v = no_tokens;
  EXPECT_EQ(v.rows, 0);
  EXPECT_EQ(v.cols, 5);
  EXPECT_EQ(v.transposed().rows, 5);
}

TEST(MutableView, WritesInPlace) {
  Matrix<double> m = numbered(4, 6);
  const MutableView<double> v = m;
  v.data[2 * v.row_stride + 3] = -1;
  EXPECT_EQ(m(2, 3), -1);
  EXPECT_EQ(v.rows, 4);
  EXPECT_EQ(v.cols, 6);
}

TEST(MutableView, WritesToPartsOfABlock) {
  Matrix<double> m = numbered(5, 7);
  Eigen::Ref<Matrix<double>> block = m.block(1, 2, 3, 4);
  const MutableView<double> v = block;
  EXPECT_EQ(v.row_stride, 7);
  const MutableView<double> part = v.middle_rows(1, 2).middle_cols(2, 1);
  EXPECT_EQ(part.rows, 2);
  EXPECT_EQ(part.cols, 1);
  part.data[part.row_stride] = -1;
  EXPECT_EQ(m(1 + 1 + 1, 2 + 2), -1);
  EXPECT_EQ((m - numbered(5, 7)).cwiseAbs().count(), 1);
}

TEST(SetSize, LeavesAMatrixEmptyWhereMemoryDoesNotSuffice) {
  Matrix<double> m = numbered(5, 7);
  const double* const values = m.data();
  set_size(m, 5, 7);
  EXPECT_EQ(m.data(), values);
  EXPECT_EQ(m, numbered(5, 7));
  EXPECT_THROW(set_size(m, Index{1} << 61, 1), std::bad_alloc);
  EXPECT_EQ(m.size(), 0);
  EXPECT_EQ(m.data(), nullptr);
  set_size(m, 2, 3);
  m.setOnes();
  EXPECT_EQ(m.sum(), 6);
}

TEST(SetZero, ReplacesValuesAndLeavesAMatrixEmptyWhereMemoryDoesNotSuffice) {
  Matrix<double> m = numbered(5, 7);
  const double* const values = m.data();
  set_zero(m, 5, 7);
  EXPECT_EQ(m.data(), values);
  EXPECT_EQ(m, Matrix<double>::Zero(5, 7));
  EXPECT_THROW(set_zero(m, Index{1} << 61, 1), std::bad_alloc);
  EXPECT_EQ(m.size(), 0);
  EXPECT_EQ(m.data(), nullptr);
  set_zero(m, 2, 3);
  EXPECT_EQ(m, Matrix<double>::Zero(2, 3));
}

}  // namespace types_test
