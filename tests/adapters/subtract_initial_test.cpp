// The difference of an adapter and its beginning as one plain LoRA, and its configuration.
#include <lora/adapters/subtract_initial.hpp>

#include <gtest/gtest.h>

#include "layers/layer_tools.hpp"

namespace subtract_initial_test {
using namespace lora;
using namespace lora_test;
using Factors = LowRankFactors<double>;

Factors factors(Index O, Index D, Index r, const std::string& name, double scaling = 1,
                Index groups = 1) {
  return {random_matrix<double>(r, D, "A of " + name),
          random_matrix<double>(O, r / groups, "B of " + name), scaling, groups};
}

TEST(SubtractInitial, IsTheDifferenceOfTheDeltas) {
  for (const Index groups : {1, 3}) {
    const Factors now = factors(9, 7, 3, "now", 0.75, groups),
                  before = factors(9, 7, 3, "before", 0.75, groups);
    const Factors learned = subtract_initial(now, before);
    EXPECT_EQ(learned.rank(), 6);
    EXPECT_EQ(learned.scaling, 0.75);
    EXPECT_EQ(learned.groups, groups);
    EXPECT_LE((learned.delta() - (now.delta() - before.delta())).norm(), 1e-14);
  }
}

TEST(SubtractInitial, KeepsEveryNumber) {
  const Factors now = factors(5, 4, 1, "now", 2), before = factors(5, 4, 1, "before", 2);
  const Factors learned = subtract_initial(now, before);
  EXPECT_TRUE(same_bits<double>(learned.A.topRows(1), now.A));
  EXPECT_TRUE(same_bits<double>(learned.A.bottomRows(1), before.A));
  EXPECT_TRUE(same_bits<double>(learned.B.leftCols(1), now.B));
  EXPECT_TRUE(same_bits<double>(learned.B.rightCols(1), -before.B));
}

// Powers of two, so that the two products are the same numbers in any order of summing.
TEST(SubtractInitial, AnAdapterThatLearnedNothingIsZero) {
  Factors f{Matrix<double>::Constant(2, 3, 0.5), Matrix<double>::Constant(4, 2, 2), 1};
  EXPECT_EQ(subtract_initial(f, f).delta().norm(), 0);
}

TEST(SubtractInitial, ConfigurationKeepsTheScale) {
  for (const bool rslora : {false, true}) {
    LoRAConfig config;
    config.r = 5;
    config.lora_alpha = 7;
    config.use_rslora = rslora;
    config.init_lora_weights = "pissa";
    config.target_modules = {"q"};
    config.rank_pattern = {{"q", 3}, {"v", 4}};
    config.alpha_pattern = {{"v", 9}};
    const LoRAConfig twice = subtract_initial(config);
    EXPECT_EQ(twice.r, 10);
    EXPECT_EQ(twice.rank_pattern[0].second, 6);
    EXPECT_EQ(twice.rank_pattern[1].second, 8);
    EXPECT_EQ(twice.rank_pattern[0].first, "q");
    EXPECT_EQ(twice.use_rslora, rslora);
    EXPECT_EQ(twice.init_lora_weights, InitSelection(true));
    EXPECT_EQ(twice.target_modules, config.target_modules);
    // Two roundings of alpha and of the root, one of the quotient.
    const double tolerance = rslora ? 4 * 0x1.0p-53 : 0;
    const auto same_scale = [&](double alpha, Index r, double twice_alpha, Index twice_r) {
      const double s = scaling(alpha, r, rslora);
      EXPECT_NEAR(scaling(twice_alpha, twice_r, rslora), s, tolerance * s);
    };
    same_scale(7, 5, twice.lora_alpha, twice.r);
    same_scale(7, 3, twice.lora_alpha, twice.rank_pattern[0].second);
    same_scale(9, 4, twice.alpha_pattern[0].second, twice.rank_pattern[1].second);
  }
}

TEST(SubtractInitial, Errors) {
  const Factors now = factors(6, 5, 2, "now", 2);
  EXPECT_TRUE(throws<ShapeError>([&] { subtract_initial(now, factors(6, 5, 3, "b", 2)); },
                                 {"subtract_initial: the initial A is (3, 5), expected (2, 5)"}));
  EXPECT_TRUE(throws<ShapeError>([&] { subtract_initial(now, factors(7, 5, 2, "b", 2)); },
                                 {"subtract_initial: the initial B is (7, 2), expected (6, 2)"}));
  EXPECT_TRUE(
      throws<ConfigError>([&] { subtract_initial(now, factors(6, 5, 2, "b", 0.1)); },
                          {"subtract_initial: the initial scaling is 0.1, expected that of the "
                           "adapter, 2"}));
  EXPECT_TRUE(throws<ConfigError>([&] { subtract_initial(now, factors(6, 5, 2, "b", 2, 2)); },
                                  {"subtract_initial: the initial groups are 2, expected 1"}));
  EXPECT_TRUE(throws<ShapeError>([&] { subtract_initial(Factors(), now); },
                                 {"subtract_initial: A is (0, 0)"}));
  EXPECT_TRUE(throws<ShapeError>([&] { subtract_initial(now, Factors()); },
                                 {"subtract_initial: A is (0, 0)"}));
  LoRAConfig config;
  config.r = 1 << 20;
  EXPECT_TRUE(throws<ConfigError>([&] { subtract_initial(config); }, {"r = 2097152 is not valid"}));
  config.r = 0;
  EXPECT_TRUE(throws<ConfigError>([&] { subtract_initial(config); }, {"r = 0 is not valid"}));
}

}  // namespace subtract_initial_test
