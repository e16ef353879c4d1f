// Sums over rows and columns: against plain loops, their order, and any number of threads.
#include <lora/nn/rows.hpp>

#include <gtest/gtest.h>

#include "layers/layer_tools.hpp"
#include "support/messages.hpp"
#include "support/threads.hpp"

namespace rows_test {
using namespace lora;
using namespace lora_test;

TEST(Rows, SumsOfEveryLength) {
  const Matrix<double> x = random_matrix(1, 70, "x"), y = random_matrix(1, 70, "y");
  for (const Index n : {0, 1, 15, 16, 17, 31, 32, 70}) {
    double expected = 0;
    for (Index i = 0; i < n; ++i) expected += x(0, i) * y(0, i);
    EXPECT_NEAR(dot_product(n, x.data(), y.data()), expected, 1e-13) << n;
  }
  const Matrix<Complex> z = Matrix<Complex>::Constant(1, 3, Complex(0, 1));
  EXPECT_EQ(dot_product(3, z.data(), z.data()), Complex(-3)) << "without conjugation";
}

TEST(Rows, FloatsAreAddedInDouble) {
  Matrix<float> x = Matrix<float>::Ones(1, 16);
  x(0, 3) = 0x1.0p30f;
  EXPECT_EQ(sum_over<float>(16, [&](Index i) { return x(0, i); }), 0x1.0p30 + 15);
}

TEST(Rows, MapsInPlaceAndPastTheLastSixteen) {
  for (const Index n : {0, 1, 16, 37}) {
    Matrix<float> x = random_matrix<float>(1, 37, "x"), y = x;
    map_row(n, y.data(), [&](Index i) { return 2 * y(0, i) + x(0, i); });
    for (Index i = 0; i < 37; ++i) EXPECT_EQ(y(0, i), i < n ? 3 * x(0, i) : x(0, i));
  }
}

TEST(Rows, AddsMatricesAndColumnsWithAnyNumberOfThreads) {
  const Matrix<float> x = random_matrix<float>(300, 90, "x"),
                      y = random_matrix<float>(300, 90, "y");
  Matrix<float> one_sum, one_column;
  for (const int threads : {1, 2, 5}) {
    const Threads use(threads);
    Matrix<float> sum = y, column = Matrix<float>::Ones(1, 90);
    add_rows<float>(x, sum);
    add_column_sums(300, 90, column.data(), [&](Index t, Index j) { return x(t, j); });
    EXPECT_TRUE(same_bits(sum, Matrix<float>(y + x)));
    if (threads == 1) one_column = column;
    EXPECT_TRUE(same_bits(column, one_column));
  }
  const Matrix<float> expected = x.colwise().sum().array() + 1;
  EXPECT_TRUE(one_column.isApprox(expected, 300 * 0x1.0p-23f));
  Matrix<float> none(0, 90);
  add_rows<float>(Matrix<float>(0, 90), none);
  Matrix<float> wrong(3, 4);
  EXPECT_TRUE(throws<ShapeError>([&] { add_rows<float>(x, wrong); },
                                 {"add_rows: x is (300, 90), expected (3, 4)"}));
}

TEST(Rows, AddingAShiftedPartIsRefused) {
  Matrix<double> all = Matrix<double>::Ones(4, 3);
  EXPECT_HAS(message_of<Error>([&] { add_rows<double>(all.topRows(3), all.bottomRows(3)); }),
             "add_rows: y overlaps x in part");
  EXPECT_EQ(all, Matrix<double>::Ones(4, 3));
  add_rows<double>(all, all);
  EXPECT_EQ(all, Matrix<double>::Constant(4, 3, 2));
}

}  // namespace rows_test
