// Combining factors: PEFT's numbers, what must hold of every type, and every refusal.
#include <lora/adapters/combine.hpp>

#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include "layers/layer_tools.hpp"
#include "support/golden.hpp"

namespace combine_test {
using namespace lora;
using namespace lora_test;
using enum CombinationType;
using Factors = LowRankFactors<double>;
using Weights = std::vector<double>;

constexpr CombinationType all_types[] = {svd,
                                         linear,
                                         cat,
                                         ties,
                                         ties_svd,
                                         dare_linear,
                                         dare_linear_svd,
                                         dare_ties,
                                         dare_ties_svd,
                                         magnitude_prune,
                                         magnitude_prune_svd};

Factors factors(Index O, Index D, Index r, const std::string& name, double scaling = 1,
                Index groups = 1) {
  return {random_matrix<double>(r, D, "A of " + name),
          random_matrix<double>(O, r / groups, "B of " + name), scaling, groups};
}
bool prunes(CombinationType type) { return type != svd && type != linear && type != cat; }
bool by_svd(CombinationType type) {
  return std::string(combination_type_name(type)).ends_with("svd");
}
/// Options that the type takes, with the density where it needs one and a full rank.
CombineOptions options_for(CombinationType type, double density = 1) {
  CombineOptions options;
  options.type = type;
  if (prunes(type)) options.density = density;
  if (by_svd(type)) options.svd_rank = 100;
  return options;
}
Factors combined(const std::vector<Factors>& sources, const Weights& weights,
                 const CombineOptions& options) {
  return combine_factors<double>(sources, weights, options);
}
/// Whether two deltas agree to rounding: a modest multiple of the unit roundoff and the dimensions,
/// relative to `scale`, the size of what was summed.
testing::AssertionResult same_delta(const Matrix<double>& a, const Matrix<double>& b,
                                    double scale) {
  const double error = (a - b).norm();
  const double bound = 20 * static_cast<double>(a.rows() + a.cols()) * 0x1.0p-53 * scale;
  if (error <= bound) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "the error is " << error << ", the bound " << bound;
}

// ---- PEFT's numbers ----

CombineOptions golden_options(const Json& row) {
  CombineOptions options;
  options.type = combination_type(row.at("combination_type").get<std::string>());
  if (row.contains("svd_rank")) options.svd_rank = row.at("svd_rank").get<Index>();
  if (row.contains("density")) options.density = row.at("density").get<double>();
  if (row.contains("majority_sign_method")) {
    const bool total = row.at("majority_sign_method").get<std::string>() == "total";
    options.majority_sign_method = total ? MajoritySign::total : MajoritySign::frequency;
  }
  return options;
}

TEST(Combine, GoldenNumbers) {
  int seen = 0, clamped = 0;
  for_each_golden_case("combine", [&](const GoldenCase& one) {
    const SafetensorsFile file = one.tensors();
    for (const Json& row : one.at("combinations")) {
      const std::string result = row.at("result").get<std::string>();
      std::vector<Factors> sources;
      Index ranks = 0;
      for (const Json& name : row.at("adapters")) {
        const std::string adapter = name.get<std::string>();
        sources.push_back({file.matrix<double>(adapter + ".A"), file.matrix<double>(adapter + ".B"),
                           one.at("scaling").at(adapter).get<double>()});
        ranks += sources.back().rank();
      }
      const Weights weights = row.at("weights").get<Weights>();
      Factors ours = combined(sources, weights, golden_options(row));
      if (row.contains("svd_clamp")) {
        // PEFT's quantile is of numbers whose signs its SVD has chosen; with those it is the same.
        const Matrix<double> A = file.matrix<double>(result + ".A");
        for (Index k = 0; k < ours.rank(); ++k) {
          if (ours.A.row(k).dot(A.row(k)) > 0) continue;
          ours.A.row(k) *= -1;
          ours.B.col(k) *= -1;
        }
        const Matrix<double> before = ours.B;
        clamp_factors(ours, row.at("svd_clamp").get<double>());
        EXPECT_GT((before - ours.B).norm(), 0) << "the case clamps something";
        ++clamped;
      }
      EXPECT_EQ(ours.rank(), row.at("r").get<Index>()) << result;
      EXPECT_EQ(ours.scaling, row.at("scaling").get<double>()) << result;
      // Sums of as many products as the ranks add up to; an SVD adds its backward error, of the order
      // of O + D.
      const Index terms = ranks + ours.A.cols() + ours.B.rows();
      expect_close(ours.delta(), file.matrix<double>(result + ".delta"), golden_bound(terms),
                   result + " " + row.at("combination_type").get<std::string>());
      ++seen;
    }
  });
  EXPECT_GE(seen, 1);
  EXPECT_GE(clamped, 1);
}

// ---- what holds of every type ----

TEST(Combine, OneSourceWithWeightOneIsItself) {
  for (const CombinationType type : all_types) {
    const Factors f = factors(7, 5, 3, "f", 0.6);
    const Factors one = combined({f}, {1}, options_for(type));
    EXPECT_TRUE(same_delta(one.delta(), f.delta(), f.delta().norm()))
        << combination_type_name(type);
    EXPECT_EQ(one.scaling, 1);
    const bool pruned = prunes(type) && by_svd(type);  // then the rank asked for, within the shape
    EXPECT_EQ(one.rank(), pruned ? 5 : 3) << combination_type_name(type);
  }
}

TEST(Combine, MinusOneNegates) {
  for (const CombinationType type : all_types) {
    const Factors f = factors(5, 9, 3, "f", 0.6);
    const Factors one = combined({f}, {-1}, options_for(type));
    EXPECT_TRUE(same_delta(one.delta(), -f.delta(), f.delta().norm()))
        << combination_type_name(type);
  }
}

TEST(Combine, AnAdapterLessItselfIsZero) {
  for (const CombinationType type : all_types) {
    const Factors f = factors(5, 9, 3, "f", 0.6);
    const Factors none = combined({f, f}, {1, -1}, options_for(type));
    EXPECT_TRUE(same_delta(none.delta(), Matrix<double>::Zero(5, 9), f.delta().norm()))
        << combination_type_name(type);
    EXPECT_TRUE(none.finite());
  }
}

TEST(Combine, WeightAndScalingMultiply) {
  for (const CombinationType type : all_types) {
    const Factors f = factors(6, 5, 2, "f", 0.5), g = factors(6, 5, 2, "g", -4);
    Factors f2 = f, g2 = g;
    f2.scaling = 0.25;
    g2.scaling = -8;
    const CombineOptions options = options_for(type, 0.6);
    // Not for an election over full deltas, where a sign and a size of s count as those of delta.
    if (type == ties_svd || type == dare_ties_svd) continue;
    EXPECT_TRUE(same_delta(combined({f, g}, {3, 0.5}, options).delta(),
                           combined({f2, g2}, {6, 0.25}, options).delta(),
                           f.delta().norm() + g.delta().norm()))
        << combination_type_name(type);
  }
}

// dare_* draws by the place in the list.
TEST(Combine, TheOrderOfSourcesDoesNotMatter) {
  for (const CombinationType type : all_types) {
    const Factors a = factors(7, 5, 2, "a", 0.5), b = factors(7, 5, 2, "b", 2),
                  c = factors(7, 5, 2, "c");
    const bool random = std::string(combination_type_name(type)).starts_with("dare");
    const CombineOptions options = options_for(type, random ? 1 : 0.6);
    const double scale = a.delta().norm() + b.delta().norm() + c.delta().norm();
    EXPECT_TRUE(same_delta(combined({a, b, c}, {0.7, -0.4, 2}, options).delta(),
                           combined({c, a, b}, {2, 0.7, -0.4}, options).delta(), 10 * scale))
        << combination_type_name(type);
  }
}

TEST(Combine, SmallAndFlatShapes) {
  for (const CombinationType type : all_types) {
    for (const auto& [O, D, r] :
         {std::array<Index, 3>{1, 1, 1}, {1, 9, 1}, {9, 1, 1}, {3, 4, 7}, {1, 1, 5}}) {
      const Factors a = factors(O, D, r, "a", 0.5), b = factors(O, D, r, "b", 2);
      const Factors both = combined({a, b}, {0.7, 0.4}, options_for(type, 0.5));
      EXPECT_EQ(both.delta().rows(), O);
      EXPECT_EQ(both.delta().cols(), D);
      EXPECT_TRUE(both.finite());
      if (by_svd(type)) {
        EXPECT_EQ(both.rank(), std::min(O, D)) << combination_type_name(type);
      }
    }
  }
}

TEST(Combine, FloatsAreRoundedOnce) {
  for (const CombinationType type : all_types) {
    std::vector<LowRankFactors<float>> narrow;
    std::vector<Factors> wide;
    for (const char* name : {"a", "b"}) {
      const Factors f = factors(7, 5, 2, name, 0.3);
      narrow.push_back({f.A.cast<float>(), f.B.cast<float>(), 0.3});
      wide.push_back({narrow.back().A.cast<double>(), narrow.back().B.cast<double>(), 0.3});
    }
    const CombineOptions options = options_for(type, 0.5);
    const auto ours = combine_factors<float>(narrow, Weights{0.7, -0.4}, options);
    const Factors reference = combined(wide, {0.7, -0.4}, options);
    EXPECT_TRUE(same_bits<float>(ours.A, reference.A.cast<float>())) << combination_type_name(type);
    EXPECT_TRUE(same_bits<float>(ours.B, reference.B.cast<float>())) << combination_type_name(type);
  }
}

// ---- each type ----

TEST(Combine, CatIsTheExactSum) {
  const Factors a = factors(7, 5, 2, "a", 0.5), b = factors(7, 5, 1, "b", 2),
                c = factors(7, 5, 6, "c", 0);
  const Factors sum = combined({a, b, c}, {0.7, -0.4, 3}, options_for(cat));
  EXPECT_EQ(sum.rank(), 9);
  const Matrix<double> expected = 0.7 * a.delta() - 0.4 * b.delta();
  EXPECT_TRUE(same_delta(sum.delta(), expected, a.delta().norm() + b.delta().norm()));
  const Factors same = combined({a}, {2}, options_for(cat));
  EXPECT_TRUE(same_bits(same.A, a.A)) << "w s = 1";
  EXPECT_TRUE(same_bits(same.B, a.B));
}

TEST(Combine, SvdOfFullRankIsTheSumAndOfLessTheBestOfItsRank) {
  const Factors a = factors(17, 11, 3, "a", 0.5), b = factors(17, 11, 2, "b", 2);
  const Matrix<double> sum = 0.7 * a.delta() - 0.4 * b.delta();
  const TruncatedSVD<double> values = truncated_svd<double>(sum, 5);
  for (const Index rank : {1, 2, 3, 4, 5, 8}) {
    CombineOptions options;
    options.svd_rank = rank;
    const Factors best = combined({a, b}, {0.7, -0.4}, options);
    EXPECT_EQ(best.rank(), std::min<Index>(rank, 5)) << "more would be zeros";
    const double tail = values.sigma.rightCols(std::max<Index>(5 - rank, 0)).norm();
    EXPECT_NEAR((best.delta() - sum).norm(), tail, 1e-13) << rank;
  }
  EXPECT_EQ(combined({a, b}, {1, 1}, {}).rank(), 3) << "the largest of the sources";
}

TEST(Combine, LinearHasCrossTerms) {
  const Factors a = factors(7, 5, 2, "a", 0.5), b = factors(7, 5, 2, "b", 2);
  const Factors sum = combined({a, b}, {4, -0.5}, options_for(linear));
  EXPECT_TRUE(same_delta(sum.delta(), (std::sqrt(2) * a.B + b.B) * (std::sqrt(2) * a.A - b.A),
                         sum.delta().norm()));
  EXPECT_FALSE(same_delta(sum.delta(), 4 * a.delta() - 0.5 * b.delta(), sum.delta().norm()));
}

TEST(Combine, DensityOneWithoutAnElectionPrunesNothing) {
  const Factors a = factors(7, 5, 2, "a", 0.5), b = factors(7, 5, 2, "b", 2);
  const Weights w = {0.7, -0.4};
  const Factors plain = combined({a, b}, w, options_for(linear)),
                full = combined({a, b}, w, options_for(svd));
  for (const CombinationType type : {dare_linear, magnitude_prune})
    EXPECT_TRUE(same_bits(combined({a, b}, w, options_for(type)).delta(), plain.delta()));
  for (const CombinationType type : {dare_linear_svd, magnitude_prune_svd}) {
    EXPECT_TRUE(same_delta(combined({a, b}, w, options_for(type)).delta(), full.delta(),
                           a.delta().norm() + b.delta().norm()));
  }
  // An election leaves out and divides by the number whatever the density.
  EXPECT_TRUE(same_bits(combined({a, b}, w, options_for(ties)).delta(),
                        combined({a, b}, w, options_for(dare_ties)).delta()));
  EXPECT_FALSE(same_delta(combined({a, b}, w, options_for(ties)).delta(), plain.delta(), 1));
}

TEST(Combine, TheElectionsDiffer) {
  Factors f[3];
  for (int i = 0; i < 3; ++i) {
    f[i].A = Matrix<double>::Constant(1, 1, i == 2 ? -5.0 : i + 1.0);
    f[i].B = Matrix<double>::Ones(1, 1);
  }
  const std::vector<Factors> sources(f, f + 3);
  for (const CombinationType type : {ties, ties_svd, dare_ties, dare_ties_svd}) {
    CombineOptions options = options_for(type);
    EXPECT_NEAR(combined(sources, {1, 1, 1}, options).delta()(0, 0), -5, 1e-14);
    options.majority_sign_method = MajoritySign::total;
    EXPECT_NEAR(combined(sources, {1, 1, 1}, options).delta()(0, 0), -5, 1e-14);
    options.majority_sign_method = MajoritySign::frequency;
    EXPECT_NEAR(combined(sources, {1, 1, 1}, options).delta()(0, 0), 1.5, 1e-14);
  }
}

TEST(Combine, ADensityOfZeroKeepsNothing) {
  for (const CombinationType type : {ties, ties_svd, magnitude_prune, magnitude_prune_svd}) {
    const Factors f = factors(4, 3, 2, "f");
    EXPECT_EQ(combined({f, f}, {1, 2}, options_for(type, 0)).delta().norm(), 0);
  }
}

TEST(Combine, DareDependsOnSeedPathAndPlaceAlone) {
  for (const CombinationType type : {dare_linear, dare_linear_svd, dare_ties, dare_ties_svd}) {
    const Factors f = factors(9, 11, 3, "f");
    CombineOptions options = options_for(type, 0.5);
    options.seed = 3;
    options.path = "q";
    const auto run = [&] { return combined({f, f}, {1, 1}, options).delta(); };
    const Matrix<double> first = run();
    EXPECT_TRUE(same_bits(run(), first));
    options.seed = 4;
    EXPECT_FALSE(same_bits(run(), first));
    options.seed = 3;
    options.path = "v";
    EXPECT_FALSE(same_bits(run(), first));
    options.path = "q";
    const Factors twice = combined({f, f}, {1, -1}, options);
    EXPECT_GT(twice.delta().norm(), 0) << "each source has a stream of its own";
  }
}

TEST(Combine, PruningTheFullDeltaIsNotPruningTheFactors) {
  const Factors a = factors(7, 5, 2, "a", 0.5);
  Matrix<double> delta = a.delta();
  keep_largest(delta, 0.4);
  const Factors pruned = combined({a}, {2}, options_for(magnitude_prune_svd, 0.4));
  EXPECT_TRUE(same_delta(pruned.delta(), 2 * delta, delta.norm()));
  EXPECT_EQ(pruned.rank(), 5) << "a pruned delta has any rank";
}

TEST(Combine, ClampHoldsTheValuesWithinTheQuantile) {
  Factors f{Matrix<double>(1, 3), Matrix<double>(2, 1)};
  f.A << 1, -9, 2;
  f.B << 3, 4;
  Factors at = f;
  clamp_factors(at, 0.75);  // place 3 of -9 1 2 3 4
  EXPECT_EQ(at.A(0, 1), -3);
  EXPECT_EQ(at.B(1, 0), 3);
  EXPECT_EQ(at.B(0, 0), 3);
  at = f;
  clamp_factors(at, 0.65);  // place 2.6
  EXPECT_NEAR(at.B(0, 0), 2.6, 1e-15);
  at = f;
  clamp_factors(at, 1);
  EXPECT_EQ(at.A(0, 1), -4);
  Factors zeros{Matrix<double>::Zero(1, 3), Matrix<double>::Zero(2, 1)};
  clamp_factors(zeros, 0.5);
  EXPECT_EQ(zeros.delta().norm(), 0);
}

TEST(Combine, SvdClampIsOneOfTheOptions) {
  const Factors a = factors(7, 5, 2, "a", 0.5), b = factors(7, 5, 3, "b");
  for (const CombinationType type : {svd, magnitude_prune_svd}) {
    CombineOptions options = options_for(type, 0.5);
    Factors plain = combined({a, b}, {1, 2}, options);
    options.svd_clamp = 0.9;
    const Factors clamped = combined({a, b}, {1, 2}, options);
    EXPECT_FALSE(same_bits(clamped.B, plain.B));
    clamp_factors(plain, 0.9);
    EXPECT_TRUE(same_bits(clamped.B, plain.B));
    EXPECT_TRUE(same_bits(clamped.A, plain.A));
  }
}

TEST(Combine, GroupsOfAConvolution) {
  const Factors a = factors(6, 5, 2, "a", 0.5, 2), b = factors(6, 5, 4, "b", 2, 2);
  const Factors sum = combined({a, b}, {0.7, -0.4}, options_for(cat));
  EXPECT_EQ(sum.groups, 2);
  EXPECT_TRUE(same_delta(sum.delta(), 0.7 * a.delta() - 0.4 * b.delta(),
                         a.delta().norm() + b.delta().norm()));
  const Factors one = combined({a}, {3}, options_for(linear));
  EXPECT_EQ(one.groups, 2);
  EXPECT_TRUE(same_delta(one.delta(), 3 * a.delta(), one.delta().norm()));
}

TEST(Combine, NamesAreThoseOfPeft) {
  for (const CombinationType type : all_types)
    EXPECT_EQ(combination_type(combination_type_name(type)), type);
  EXPECT_EQ(combination_type_name(dare_linear_svd), "dare_linear_svd");
  EXPECT_TRUE(throws<ConfigError>([] { combination_type("tie"); },
                                  {"combination_type \"tie\" is not known; expected one of svd, "
                                   "linear, cat, ties, ties_svd",
                                   "magnitude_prune_svd"}));
}

// ---- refusals ----

TEST(Combine, OptionsThatDoNotFit) {
  const auto refused = [](CombineOptions options, std::initializer_list<const char*> parts) {
    return throws<ConfigError>([&] { options.validate(); }, parts);
  };
  EXPECT_TRUE(refused({.type = linear, .svd_rank = 3},
                      {"CombineOptions: svd_rank = 3 with combination_type \"linear\"",
                       "expected none, since this type does not use it"}));
  EXPECT_TRUE(
      refused({.svd_rank = 0}, {"svd_rank = 0 with combination_type \"svd\"", "at least 1"}));
  EXPECT_TRUE(refused({.type = cat, .svd_clamp = 0.9}, {"svd_clamp = 0.9", "\"cat\"", "none"}));
  for (const double bad : {0.0, -0.1, 1.1, std::nan("")})
    EXPECT_TRUE(refused({.svd_clamp = bad}, {"svd_clamp = ", "above 0 and at most 1"}));
  EXPECT_TRUE(refused({.type = svd, .density = 0.5}, {"density = 0.5", "\"svd\"", "none"}));
  for (const CombinationType type : all_types) {
    if (!prunes(type)) continue;
    EXPECT_TRUE(refused({.type = type}, {"density = none", "the share of elements to keep"}));
    for (const double bad : {-0.1, 1.5, std::nan("")})
      EXPECT_TRUE(refused({.type = type, .density = bad}, {"density = ", "a share from 0 to 1"}));
  }
  EXPECT_TRUE(refused({.type = dare_ties_svd, .density = 0.0},
                      {"density = 0 with combination_type \"dare_ties_svd\"", "a share above 0"}));
  EXPECT_TRUE(refused(
      {.type = dare_linear, .density = 0.5, .majority_sign_method = MajoritySign::frequency},
      {"majority_sign_method = frequency", "\"dare_linear\"", "none"}));
  EXPECT_TRUE(refused({.majority_sign_method = MajoritySign::total},
                      {"majority_sign_method = total", "\"svd\"", "none"}));
}

TEST(Combine, SourcesThatDoNotFit) {
  const Factors a = factors(6, 5, 2, "a");
  const auto call = [&](const Factors& b, CombinationType type) {
    return combined({a, b}, {1, 1}, options_for(type, 0.5));
  };
  EXPECT_TRUE(throws<ConfigError>([&] { combined({}, {}, {}); },
                                  {"combine_factors: there are no factors"}));
  EXPECT_TRUE(throws<ConfigError>(
      [&] {
        combined({a}, {1, 2}, {});
      },
      {"combine_factors: there are 2 weights, expected 1"}));
  EXPECT_TRUE(throws<ConfigError>(
      [&] {
        combined({a, a}, {1, std::nan("")}, {});
      },
      {"combine_factors: weight 1 is nan, expected a finite number"}));
  EXPECT_TRUE(throws<ConfigError>([&] { combined({a}, {1}, {.type = ties}); }, {"density = none"}));
  EXPECT_TRUE(throws<ShapeError>([&] { call(factors(6, 4, 2, "b"), svd); },
                                 {"combine_factors: factors 1: A is (2, 4), expected (R, 5)"}));
  EXPECT_TRUE(throws<ShapeError>([&] { call(factors(7, 5, 2, "b"), cat); },
                                 {"combine_factors: factors 1: B is (7, 2), expected (6, R)"}));
  EXPECT_TRUE(throws<ShapeError>([&] { call(Factors(), cat); },
                                 {"combine_factors: factors 1: A is (0, 0)"}));
  EXPECT_TRUE(throws<ConfigError>([&] { call(factors(6, 5, 2, "b", 1, 2), cat); },
                                  {"factors 1: groups is 2, expected 1"}));
  for (const CombinationType type : all_types) {
    const Factors g = factors(6, 5, 2, "g", 1, 2);
    const auto groups = [&] { combined({g}, {1}, options_for(type, 0.5)); };
    const auto ranks = [&] { call(factors(6, 5, 3, "b"), type); };
    if (by_svd(type)) {
      EXPECT_TRUE(throws<ConfigError>(groups, {"is not defined for a convolution with groups"}));
      EXPECT_NO_THROW(ranks());
      continue;
    }
    EXPECT_NO_THROW(groups());
    if (type == cat) continue;
    EXPECT_TRUE(throws<ConfigError>(
        ranks, {"factors 1: the rank is 3, expected 2", "adds factors of equal rank; use cat"}));
  }
  Factors broken = a;
  broken.B(0, 0) = std::numeric_limits<double>::infinity();
  EXPECT_TRUE(
      throws<Error>([&] { call(broken, svd); }, {"factors 1: A, B or the scaling is not finite"}));
  Factors negative{Matrix<double>::Constant(1, 3, -1), Matrix<double>::Constant(2, 1, -1)};
  EXPECT_TRUE(throws<ConfigError>([&] { clamp_factors(negative, 0.5); },
                                  {"svd_clamp = 0.5 is the quantile -1", "use a larger share"}));
}

TEST(CombineFactors, AResultThatIsNotFiniteIsRefused) {
  const LowRankFactors<float> one{Matrix<float>::Ones(2, 5), Matrix<float>::Ones(4, 2), 1.0};
  for (const CombinationType type : {linear, cat, magnitude_prune}) {
    const std::vector<LowRankFactors<float>> sources = {one};
    const Weights huge = {1e80};
    EXPECT_TRUE(
        throws<Error>([&] { combine_factors<float>(sources, huge, options_for(type, 0.5)); },
                      {"are the weights, or the scales of the factors, too large?"}))
        << combination_type_name(type);
  }
}

}  // namespace combine_test
