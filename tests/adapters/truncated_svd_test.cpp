// The truncated SVD of a matrix and of a product of two factors.
#include <lora/adapters/truncated_svd.hpp>

#include <gtest/gtest.h>

#include <limits>

#include "layers/layer_tools.hpp"

namespace truncated_svd_test {
using namespace lora;
using namespace lora_test;
using SVD = TruncatedSVD<double>;

Matrix<double> product_of(const SVD& svd) {
  return svd.U * svd.sigma.row(0).asDiagonal() * svd.V.transpose();
}
/// Backward error of an SVD: a modest multiple of the unit roundoff and the dimensions.
double bound(const Matrix<double>& X) {
  return 10 * static_cast<double>(X.rows() + X.cols()) * 0x1.0p-53 * X.norm();
}
void expect_svd(const SVD& svd, Index k, const std::string& what) {
  ASSERT_EQ(svd.sigma.cols(), k) << what;
  ASSERT_EQ(svd.U.cols(), k) << what;
  ASSERT_EQ(svd.V.cols(), k) << what;
  const Matrix<double> one = Matrix<double>::Identity(k, k);
  const double tolerance = 10 * static_cast<double>(svd.U.rows() + svd.V.rows()) * 0x1.0p-53;
  EXPECT_LE((svd.U.transpose() * svd.U - one).norm(), tolerance) << what;
  EXPECT_LE((svd.V.transpose() * svd.V - one).norm(), tolerance) << what;
  for (Index i = 0; i < k; ++i) {
    EXPECT_GE(svd.sigma(0, i), 0) << what;
    if (i > 0) {
      EXPECT_LE(svd.sigma(0, i), svd.sigma(0, i - 1)) << what;
    }
    Index largest = 0;
    svd.V.col(i).cwiseAbs().maxCoeff(&largest);
    EXPECT_GT(svd.V(largest, i), 0) << what << ": the sign is fixed";
  }
}

TEST(TruncatedSVD, IsExactWithAllValues) {
  for (const auto& [O, D] : {std::pair<Index, Index>{1, 1}, {1, 6}, {7, 1}, {5, 9}, {23, 19}}) {
    const Matrix<double> X = random_matrix<double>(O, D, "X");
    const SVD svd = truncated_svd<double>(X, 100);
    const std::string what = shape_text(O, D);
    expect_svd(svd, std::min(O, D), what);
    EXPECT_LE((product_of(svd) - X).norm(), bound(X)) << what;
    EXPECT_NEAR(svd.energy, X.squaredNorm(), 0) << what;
    EXPECT_NEAR(svd.energy_kept(), 1, 1e-13) << what;
  }
}

// Eckart and Young: what is missing has the energy of the values left out.
TEST(TruncatedSVD, TheErrorIsTheTail) {
  const Matrix<double> X = random_matrix<double>(13, 17, "X");
  const SVD all = truncated_svd<double>(X, 13);
  for (const Index k : {1, 4, 12}) {
    const SVD svd = truncated_svd<double>(X, k);
    expect_svd(svd, k, std::to_string(k));
    const double tail = all.sigma.rightCols(13 - k).norm();
    EXPECT_NEAR((product_of(svd) - X).norm(), tail, bound(X)) << k;
    EXPECT_NEAR(svd.energy_kept(), 1 - tail * tail / X.squaredNorm(), 1e-13) << k;
  }
}

TEST(TruncatedSVD, OfAProductIsThatOfTheFormedMatrix) {
  for (const auto& [O, D, R] : {std::array<Index, 3>{31, 23, 4},
                                {23, 31, 1},
                                {6, 40, 5},
                                {40, 6, 6},
                                {6, 40, 9},
                                {1, 5, 3},
                                {9, 1, 2}}) {
    const Matrix<double> B = random_matrix<double>(O, R, "B"), A = random_matrix<double>(R, D, "A");
    const Matrix<double> X = B * A;
    const std::string what = shape_text(O, D) + " R " + std::to_string(R);
    for (const Index rank : {Index{1}, Index{3}, Index{50}}) {
      const SVD low = truncated_svd_of_product<double>(B, A, rank),
                full = truncated_svd<double>(X, std::min(rank, R));
      expect_svd(low, std::min({rank, O, D, R}), what);
      EXPECT_LE((low.sigma - full.sigma).norm(), bound(X)) << what;
      EXPECT_NEAR(low.energy, full.energy, bound(X) * X.norm()) << what;
      // The gap between the values bounds how the kept part may turn.
      const SVD all = truncated_svd<double>(X, 50);
      const Index k = low.sigma.cols();
      const double gap =
          k < all.sigma.cols() ? all.sigma(0, k - 1) - all.sigma(0, k) : all.sigma(0, k - 1);
      EXPECT_LE((product_of(low) - product_of(full)).norm(), bound(X) * (1 + X.norm() / gap))
          << what;
    }
  }
}

TEST(TruncatedSVD, ZerosKeepAllOfNothing) {
  const SVD svd = truncated_svd<double>(Matrix<double>::Zero(4, 3), 2);
  EXPECT_EQ(svd.sigma.norm(), 0);
  EXPECT_EQ(svd.energy_kept(), 1);
  EXPECT_TRUE(svd.U.allFinite() && svd.V.allFinite());
  const SVD product =
      truncated_svd_of_product<double>(Matrix<double>::Zero(7, 2), Matrix<double>::Zero(2, 9), 2);
  EXPECT_EQ(product.sigma.norm(), 0);
  EXPECT_TRUE(product.U.allFinite() && product.V.allFinite());
}

// A matrix of low rank has values that are rounding errors; they do no harm.
TEST(TruncatedSVD, AMatrixOfLowRankIsExact) {
  const Matrix<double> X =
      random_matrix<double>(20, 2, "B") * random_matrix<double>(2, 25, "A") * 1e-20;
  const SVD svd = truncated_svd<double>(X, 2);
  EXPECT_LE((product_of(svd) - X).norm(), bound(X));
  EXPECT_NEAR(svd.energy_kept(), 1, 1e-13);
}

TEST(TruncatedSVD, Errors) {
  Matrix<double> X = random_matrix<double>(4, 3, "X");
  EXPECT_TRUE(throws<ConfigError>([&] { truncated_svd<double>(X, 0); },
                                  {"truncated_svd: rank is 0, expected at least 1"}));
  EXPECT_TRUE(throws<ShapeError>([&] { truncated_svd<double>(Matrix<double>(0, 3), 1); },
                                 {"truncated_svd: X is (0, 3), expected a matrix with elements"}));
  EXPECT_TRUE(throws<ConfigError>([&] { truncated_svd_of_product<double>(X, X, -1); },
                                  {"truncated_svd_of_product: rank is -1"}));
  EXPECT_TRUE(throws<ShapeError>([&] { truncated_svd_of_product<double>(X, X, 1); },
                                 {"truncated_svd_of_product: B is (4, 3), expected (4, 4)"}));
  Matrix<double> A = random_matrix<double>(1, 5, "A"), B = random_matrix<double>(6, 1, "B");
  B(5, 0) = std::numeric_limits<double>::infinity();
  EXPECT_TRUE(throws<Error>([&] { truncated_svd_of_product<double>(B, A, 1); },
                            {"truncated_svd_of_product: a factor has values that are not finite"}));
  X(3, 2) = std::nan("");
  EXPECT_TRUE(throws<Error>([&] { truncated_svd<double>(X, 1); },
                            {"truncated_svd: X has values that are not finite"}));
}

}  // namespace truncated_svd_test
