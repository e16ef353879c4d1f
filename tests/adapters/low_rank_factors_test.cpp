// LowRankFactors and their stacking, groups included.
#include <lora/adapters/low_rank_factors.hpp>

#include <gtest/gtest.h>

#include <vector>

#include "layers/layer_tools.hpp"

namespace low_rank_factors_test {
using namespace lora;
using namespace lora_test;
using Factors = LowRankFactors<double>;

Factors factors(Index O, Index D, Index r, const std::string& name, double scaling = 1,
                Index groups = 1) {
  return {random_matrix<double>(r, D, "A of " + name),
          random_matrix<double>(O, r / groups, "B of " + name), scaling, groups};
}
double distance(const Matrix<double>& a, const Matrix<double>& b) {
  return (a - b).cwiseAbs().maxCoeff();
}

TEST(LowRankFactors, DeltaIsScalingTimesBTimesA) {
  const Factors f = factors(5, 7, 3, "f", -1.5);
  Matrix<double> expected = Matrix<double>::Zero(5, 7);
  for (Index o = 0; o < 5; ++o) {
    for (Index d = 0; d < 7; ++d) {
      for (Index k = 0; k < 3; ++k) expected(o, d) += -1.5 * f.B(o, k) * f.A(k, d);
    }
  }
  EXPECT_LE(distance(f.delta(), expected), 3 * 8 * 0x1.0p-53);
  EXPECT_EQ(f.rank(), 3);
}

TEST(LowRankFactors, DeltaOfFloatsIsRoundedOnce) {
  const Factors wide = factors(5, 7, 3, "f", 0.3);
  const LowRankFactors<float> f{wide.A.cast<float>(), wide.B.cast<float>(), 0.3};
  const Factors same{f.A.cast<double>(), f.B.cast<double>(), 0.3};
  EXPECT_TRUE(same_bits<float>(f.delta(), same.delta().cast<float>()));
}

// Group g of the convolution gives rows g·O/groups … from its own rows of A.
TEST(LowRankFactors, GroupsHaveTheirOwnRowsOfA) {
  const Factors f = factors(6, 5, 4, "f", 2, 2);
  const Matrix<double> delta = f.delta();
  for (Index g = 0; g < 2; ++g) {
    EXPECT_LE(distance(delta.middleRows(3 * g, 3),
                       2 * f.B.middleRows(3 * g, 3) * f.A.middleRows(2 * g, 2)),
              1e-15);
  }
}

TEST(LowRankFactors, FiniteLooksAtAllThree) {
  const double inf = std::numeric_limits<double>::infinity();
  Factors f = factors(2, 3, 1, "f");
  EXPECT_TRUE(f.finite());
  f.scaling = inf;
  EXPECT_FALSE(f.finite());
  f = factors(2, 3, 1, "f");
  f.A(0, 2) = std::nan("");
  EXPECT_FALSE(f.finite());
  f = factors(2, 3, 1, "f");
  f.B(1, 0) = inf;
  EXPECT_FALSE(f.finite());
}

TEST(LowRankFactors, StackedIsTheSumOfTheProducts) {
  for (const Index groups : {1, 2}) {
    const std::vector<Factors> parts = {factors(6, 5, 2, "a", 1, groups),
                                        factors(6, 5, 4, "b", 1, groups),
                                        factors(6, 5, 2, "c", 1, groups)};
    const Factors sum = stacked<double>(parts);
    EXPECT_EQ(sum.rank(), 8);
    EXPECT_EQ(sum.groups, groups);
    EXPECT_EQ(sum.B.cols(), 8 / groups);
    const Matrix<double> expected = parts[0].delta() + parts[1].delta() + parts[2].delta();
    EXPECT_LE(distance(sum.delta(), expected), 8 * 8 * 0x1.0p-53) << groups;
  }
}

TEST(LowRankFactors, StackingLeavesScalingsOut) {
  const std::vector<Factors> parts = {factors(3, 2, 1, "a", 7)};
  const Factors sum = stacked<double>(parts);
  EXPECT_EQ(sum.scaling, 1);
  EXPECT_TRUE(same_bits(sum.A, parts[0].A));
  EXPECT_TRUE(same_bits(sum.B, parts[0].B));
}

TEST(ProductNorm, OfGroupsIsThatOfTheirParts) {
  const Matrix<double> A = Matrix<double>::Random(6, 7), B = Matrix<double>::Random(8, 3);
  const double exact =
      std::hypot((B.topRows(4) * A.topRows(3)).norm(), (B.bottomRows(4) * A.bottomRows(3)).norm());
  EXPECT_LE(std::abs(product_norm(A, B) - exact), 1e-14 * exact);
  EXPECT_EQ(product_norm(Matrix<double>(0, 7), Matrix<double>(8, 0)), 0);
  EXPECT_THROW(product_norm(A, Matrix<double>(8, 4)), ShapeError);
  EXPECT_THROW(product_norm(A, Matrix<double>(7, 3)), ShapeError);
  EXPECT_THROW(product_norm(A, Matrix<double>(8, 0)), ShapeError);
}

TEST(LowRankFactors, ErrorsNameTheShapes) {
  Factors f = factors(6, 5, 4, "f");
  f.groups = 0;
  EXPECT_TRUE(throws<ConfigError>([&] { f.delta(); },
                                  {"LowRankFactors::delta: groups is 0", "at least 1"}));
  f.groups = 3;
  EXPECT_TRUE(throws<ShapeError>(
      [&] { f.delta(); },
      {"LowRankFactors::delta: B is (6, 4), expected (O, 4 / 3 groups)", "since A is (4, 5)"}));
  f = factors(5, 5, 4, "f");
  f.groups = 2;
  f.B.resize(5, 2);
  EXPECT_TRUE(throws<ShapeError>([&] { f.delta(); }, {"B is (5, 2)", "a multiple of the groups"}));
  EXPECT_TRUE(
      throws<ShapeError>([&] { Factors().delta(); }, {"A is (0, 0), expected at least one row"}));
  EXPECT_TRUE(throws<ConfigError>([&] { stacked<double>(std::span<const Factors>()); },
                                  {"stacked: there are no factors"}));
  const auto stack = [](Factors b) {
    const std::vector<Factors> parts = {factors(6, 5, 4, "a"), std::move(b)};
    stacked<double>(parts);
  };
  EXPECT_TRUE(throws<ShapeError>([&] { stack(factors(6, 4, 2, "b")); },
                                 {"stacked: A is (2, 4), expected (2, 5)"}));
  EXPECT_TRUE(throws<ShapeError>([&] { stack(factors(5, 5, 2, "b")); },
                                 {"stacked: B is (5, 2), expected (6, 2)"}));
  EXPECT_TRUE(throws<ConfigError>([&] { stack(factors(6, 5, 2, "b", 1, 2)); },
                                  {"stacked: groups is 2, expected 1"}));
}

}  // namespace low_rank_factors_test
