// Pruning, weighted sums and the election of signs.
#include <lora/adapters/task_arithmetic.hpp>

#include <gtest/gtest.h>

#include <vector>

#include "layers/layer_tools.hpp"

namespace task_arithmetic_test {
using namespace lora;
using namespace lora_test;

Matrix<double> row(std::initializer_list<double> values) {
  Matrix<double> m(1, static_cast<Index>(values.size()));
  std::copy(values.begin(), values.end(), m.data());
  return m;
}
Matrix<double> kept(Matrix<double> m, double density) {
  keep_largest(m, density);
  return m;
}

TEST(TaskArithmetic, KeepLargestKeepsTheFloorOfTheShare) {
  const Matrix<double> m = row({3, -7, 1, 5, -4});
  EXPECT_TRUE(same_bits(kept(m, 1), m));
  EXPECT_TRUE(same_bits(kept(m, 0.99), row({3, -7, 0, 5, -4})));
  EXPECT_TRUE(same_bits(kept(m, 0.4), row({0, -7, 0, 5, 0})));
  EXPECT_TRUE(same_bits(kept(m, 0.39), row({0, -7, 0, 0, 0})));
  EXPECT_TRUE(same_bits(kept(m, 0.19), row({0, 0, 0, 0, 0})));
  EXPECT_TRUE(same_bits(kept(m, 0), row({0, 0, 0, 0, 0})));
}

TEST(TaskArithmetic, OfEqualElementsTheFirstStay) {
  EXPECT_TRUE(same_bits(kept(row({2, -2, 1, 2, -2}), 0.6), row({2, -2, 0, 2, 0})));
  EXPECT_TRUE(same_bits(kept(row({2, -2, 5, 2, -2}), 0.6), row({2, -2, 5, 0, 0})));
  EXPECT_TRUE(same_bits(kept(row({0, 0, 0, 0}), 0.5), row({0, 0, 0, 0})));
}

TEST(TaskArithmetic, KeepLargestAgreesWithSorting) {
  const Matrix<double> m = random_matrix<double>(7, 9, "m");
  std::vector<double> sizes(m.data(), m.data() + m.size());
  for (double& x : sizes) x = std::abs(x);
  std::sort(sizes.begin(), sizes.end(), std::greater<double>());
  for (Index n = 1; n <= m.size(); ++n) {
    const Matrix<double> k =
        kept(m, (static_cast<double>(n) + 0.5) / static_cast<double>(m.size()));
    for (Index i = 0; i < m.size(); ++i) {
      const bool stays = std::abs(m.data()[i]) >= sizes[static_cast<std::size_t>(n - 1)];
      EXPECT_EQ(k.data()[i], stays ? m.data()[i] : 0.0) << n << " " << i;
    }
  }
}

TEST(TaskArithmetic, DroppingKeepsTheShareAndTheMean) {
  const Index n = 100000;
  const double density = 0.3;
  Matrix<double> m = Matrix<double>::Ones(1, n);
  drop_at_random(m, density, RandomStream(5, "x"));
  const double share = static_cast<double>((m.array() != 0).count()) / n;
  // Six standard deviations of a Bernoulli share.
  EXPECT_NEAR(share, density, 6 * std::sqrt(density * (1 - density) / n));
  EXPECT_EQ(m.maxCoeff(), 1 / density);
  EXPECT_NEAR(m.mean(), 1, 6 * std::sqrt((1 - density) / (density * n)));
}

TEST(TaskArithmetic, DroppingDependsOnTheStreamAlone) {
  const auto dropped = [](const RandomStream& stream, double density) {
    Matrix<double> m = random_matrix<double>(5, 9, "m");
    drop_at_random(m, density, stream);
    return m;
  };
  const RandomStream a(1, "a");
  EXPECT_TRUE(same_bits(dropped(a, 0.5), dropped(a, 0.5)));
  EXPECT_FALSE(same_bits(dropped(a, 0.5), dropped(RandomStream(2, "a"), 0.5)));
  EXPECT_FALSE(same_bits(dropped(a, 0.5), dropped(RandomStream(1, "b"), 0.5)));
  EXPECT_TRUE(same_bits(dropped(a, 1), random_matrix<double>(5, 9, "m")));
}

TEST(TaskArithmetic, WeightedSum) {
  const std::vector<Matrix<double>> t = {row({1, 2}), row({3, -4}), row({0, 8})};
  const std::vector<double> w = {2, -1, 0.5};
  EXPECT_TRUE(same_bits(weighted_sum<double>(t, w), row({-1, 12})));
}

// By the sum the third tensor's size decides; by the number of signs the two others do.
TEST(TaskArithmetic, TheTwoElectionsDiffer) {
  const std::vector<Matrix<double>> t = {row({1}), row({2}), row({-5})};
  const std::vector<double> w = {1, 10, 100};
  EXPECT_TRUE(same_bits(disjoint_merge<double>(t, w, MajoritySign::total), row({-500})));
  EXPECT_TRUE(
      same_bits(disjoint_merge<double>(t, w, MajoritySign::frequency), row({(1 + 20) / 2.0})));
}

TEST(TaskArithmetic, ElectionIsBeforeTheWeightsAndZerosDoNotVote) {
  const std::vector<double> w = {-3, 0.5};
  for (const MajoritySign method : {MajoritySign::total, MajoritySign::frequency}) {
    EXPECT_TRUE(same_bits(
        disjoint_merge<double>(std::vector<Matrix<double>>{row({2, 0, 0, 1}), row({4, 6, 0, -1})},
                               w, method),
        row({(-6 + 2) / 2.0, 3, 0, -3})));
  }
}

}  // namespace task_arithmetic_test
