// Extraction of an adapter from a tuned weight.
#include <lora/adapters/extract.hpp>

#include <gtest/gtest.h>

#include <limits>

#include "layers/layer_tools.hpp"

namespace extract_test {
using namespace lora;
using namespace lora_test;

TEST(Extract, FullRankIsTheDifference) {
  const Matrix<double> base = random_matrix<double>(7, 5, "base"),
                       tuned = random_matrix<double>(7, 5, "tuned");
  const auto [factors, kept] = extract_factors(tuned, base, 9);
  EXPECT_EQ(factors.rank(), 5);
  EXPECT_EQ(factors.scaling, 1);
  EXPECT_EQ(factors.groups, 1);
  EXPECT_LE((factors.delta() - (tuned - base)).norm(), 120 * 0x1.0p-53 * (tuned - base).norm());
  EXPECT_NEAR(kept, 1, 1e-14);
}

TEST(Extract, ALowRankChangeIsFoundWithAllItsEnergy) {
  const Matrix<float> base = random_matrix<double>(13, 11, "base").cast<float>();
  Matrix<double> change =
      random_matrix<double>(13, 2, "B", 0.1) * random_matrix<double>(2, 11, "A", 0.1);
  const Matrix<float> tuned = (base.cast<double>() + change).cast<float>();
  const auto [factors, kept] = extract_factors(tuned, base, 2);
  // tuned is rounded to float at the size of base + change, and so are A and B.
  const double rounding = 0x1.0p-24 * tuned.cast<double>().norm();
  EXPECT_LE((factors.delta().cast<double>() - change).norm(), 4 * rounding);
  EXPECT_GE(kept, 1 - std::pow(2 * rounding / change.norm(), 2));
  EXPECT_LE(kept, 1);
}

TEST(Extract, TheEnergyKeptTellsTheError) {
  const Matrix<double> base = random_matrix<double>(9, 14, "base"),
                       tuned = random_matrix<double>(9, 14, "tuned"), change = tuned - base;
  double before = 0;
  for (const Index rank : {1, 2, 5, 8, 9}) {
    const auto [factors, kept] = extract_factors(tuned, base, rank);
    EXPECT_EQ(factors.rank(), rank);
    const double error = (factors.delta() - change).squaredNorm();
    EXPECT_NEAR(error / change.squaredNorm(), 1 - kept, 1e-14) << rank;
    EXPECT_GT(kept, before);
    before = kept;
    // No other factors do better: here the projection on another basis. At full rank both errors
    // are rounding.
    const Matrix<double> basis = truncated_svd<double>(base, rank).U;
    const double other = (change - basis * (basis.transpose() * change)).norm();
    EXPECT_LE(std::sqrt(error), other + 10 * (9 + 14) * 0x1.0p-53 * change.norm());
  }
}

TEST(Extract, BothFactorsHaveTheSameNorm) {
  const Matrix<double> base = random_matrix<double>(9, 14, "base"),
                       tuned = random_matrix<double>(9, 14, "tuned");
  const auto factors = extract_factors(tuned, base, 3).factors;
  for (Index k = 0; k < 3; ++k)
    EXPECT_NEAR(factors.A.row(k).norm(), factors.B.col(k).norm(), 1e-14);
}

TEST(Extract, NoChangeAndOddShapes) {
  const Matrix<double> base = random_matrix<double>(4, 6, "base");
  const auto none = extract_factors(base, base, 2);
  EXPECT_EQ(none.factors.delta().norm(), 0);
  EXPECT_EQ(none.energy_kept, 1);
  EXPECT_TRUE(none.factors.finite());
  for (const auto& [O, D] : {std::pair<Index, Index>{1, 1}, {1, 8}, {8, 1}}) {
    const Matrix<double> tuned = random_matrix<double>(O, D, "tuned");
    const auto one = extract_factors<double>(tuned, Matrix<double>::Zero(O, D), 3);
    EXPECT_EQ(one.factors.rank(), 1);
    EXPECT_LE((one.factors.delta() - tuned).norm(), 1e-14 * tuned.norm());
  }
}

TEST(Extract, Errors) {
  Matrix<double> base = random_matrix<double>(4, 6, "base");
  EXPECT_TRUE(
      throws<ShapeError>([&] { extract_factors(Matrix<double>(base.transpose()), base, 1); },
                         {"extract_factors: tuned is (6, 4), expected (4, 6)"}));
  EXPECT_TRUE(throws<ShapeError>([&] { extract_factors(Matrix<double>(), Matrix<double>(), 1); },
                                 {"extract_factors: base is (0, 0), expected a matrix with"}));
  EXPECT_TRUE(throws<ConfigError>([&] { extract_factors(base, base, 0); },
                                  {"extract_factors: rank is 0, expected at least 1"}));
  Matrix<double> tuned = base;
  tuned(3, 5) = std::numeric_limits<double>::infinity();
  EXPECT_TRUE(throws<Error>([&] { extract_factors(tuned, base, 1); },
                            {"extract_factors: tuned - base has values that are not finite"}));
}

}  // namespace extract_test
