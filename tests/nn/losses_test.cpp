#include <lora/nn/losses.hpp>

#include <support/allocations.hpp>
#include <support/golden.hpp>
#include <support/gradcheck.hpp>
#include <support/messages.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace losses_test {
using namespace lora;
using lora_test::Complex;
using lora_test::message_of;
using lora_test::random_matrix;
using Labels = std::vector<std::int64_t>;

constexpr double u = 0x1.0p-53;
constexpr double infinity = std::numeric_limits<double>::infinity();
const double nan = std::numeric_limits<double>::quiet_NaN();

// What cross_entropy gives, its gradient written over a matrix of NaN so that a forgotten element
// shows.
struct Outcome {
  double loss;
  Index counted;
  Matrix<double> dlogits;
};
Outcome run(const Matrix<double>& logits, const Labels& labels,
            const CrossEntropyOptions& options = {}) {
  Outcome out{0, 0, Matrix<double>::Constant(logits.rows(), logits.cols(), nan)};
  const auto result = cross_entropy<double>(logits, labels, out.dlogits, options);
  out.loss = result.loss;
  out.counted = result.counted;
  const auto alone = cross_entropy<double>(logits, labels, options);
  EXPECT_TRUE(alone.loss == out.loss || std::isnan(out.loss));
  EXPECT_EQ(alone.counted, out.counted);
  return out;
}

TEST(CrossEntropy, GoldenLossesAndGradients) {
  lora_test::for_each_golden_case("loss", [](const lora_test::GoldenCase& golden) {
    const auto file = golden.tensors();
    const auto logits = file.matrix<double>("logits");
    const Labels labels = file.integers("labels");
    const auto counted = std::count_if(labels.begin(), labels.end(),
                                       [](const std::int64_t label) { return label != -100; });
    ASSERT_GE(counted, 1);
    ASSERT_FALSE(golden.at("losses").empty());
    for (const Json& one : golden.at("losses")) {
      CrossEntropyOptions options;
      options.label_smoothing = one.value("label_smoothing", 0.0);
      if (one.value("reduction", "mean") == std::string("sum")) options.reduction = Reduction::sum;
      const std::string name = "dlogits." + std::to_string(one.at("case").get<int>());
      const Outcome out = run(logits, labels, options);
      const double expected = one.at("loss").get<double>();
      const double bound = lora_test::golden_bound(logits.cols());
      EXPECT_EQ(out.counted, counted);
      EXPECT_LE(std::abs(out.loss - expected), bound * expected) << name;
      lora_test::expect_close(out.dlogits, file.matrix<double>(name), bound, name);

      const Matrix<float> logits_f = logits.cast<float>();
      Matrix<float> dlogits_f(logits.rows(), logits.cols());
      const auto result = cross_entropy<float>(logits_f, labels, dlogits_f, options);
      // exp hands the rounding of a logit, 2^-24 of the largest, on; then a handful of roundings.
      const double bound_f = 0x1.0p-24 * (8 + 2 * logits.cwiseAbs().maxCoeff());
      EXPECT_LE(std::abs(result.loss - expected), bound_f * expected) << name;
      lora_test::expect_close(dlogits_f, file.matrix<double>(name), bound_f, name + " in float");
    }
  });
}

TEST(CrossEntropy, GradientsByComplexStep) {
  const Labels five{2, -100, 0, 6, 6};
  std::vector<CrossEntropyOptions> variants(5);
  variants[1].label_smoothing = 0.1;
  variants[2].reduction = Reduction::sum;
  variants[3].num_items = 11;
  variants[3].label_smoothing = 1;
  variants[4].ignore_index = 6;
  for (std::size_t k = 0; k < variants.size(); ++k) {
    for (const auto& [rows, cols] : {std::pair<Index, Index>{5, 7}, {1, 3}, {1, 1}, {0, 4}}) {
      const auto logits = random_matrix(rows, cols, "logits", 3);
      Labels labels = rows == 5 ? five : Labels(std::size_t(rows), 0);
      if (rows == 5 && k == 4) labels[1] = 1;
      const Outcome out = run(logits, labels, variants[k]);
      EXPECT_TRUE(lora_test::gradcheck(
          [&](const Matrix<Complex>& at) {
            return cross_entropy<Complex>(at, labels, variants[k]).loss;
          },
          logits, out.dlogits))
          << "variant " << k << ", " << rows << " x " << cols;
    }
  }
}

TEST(CrossEntropy, EachRowOfTheGradientAddsUpToZero) {
  const auto logits = random_matrix(5, 33, "logits", 4);
  CrossEntropyOptions smooth;
  smooth.label_smoothing = 0.2;
  const Outcome out = run(logits, {1, 32, -100, 0, 7}, smooth);
  for (Index t = 0; t < 5; ++t) EXPECT_LE(std::abs(out.dlogits.row(t).sum()), 33 * u) << t;
}

TEST(CrossEntropy, OneClassIsCertain) {
  const Outcome out = run(random_matrix(3, 1, "logits"), {0, 0, 0});
  EXPECT_EQ(out.loss, 0);
  EXPECT_EQ(out.dlogits, (Matrix<double>::Zero(3, 1)));
}

TEST(CrossEntropy, NoTokens) {
  const Outcome out = run(Matrix<double>(0, 5), {});
  EXPECT_EQ(out.loss, 0);
  EXPECT_EQ(out.counted, 0);
}

TEST(CrossEntropy, AFullyMaskedBatchGivesZeroAndNoNaN) {
  for (const Index num_items : {0, 9}) {
    for (const Reduction reduction : {Reduction::mean, Reduction::sum}) {
      CrossEntropyOptions options;
      options.reduction = reduction;
      options.num_items = reduction == Reduction::mean ? num_items : 0;
      const Outcome out = run(random_matrix(4, 5, "logits"), Labels(4, -100), options);
      EXPECT_EQ(out.loss, 0);
      EXPECT_EQ(out.counted, 0);
      EXPECT_EQ(out.dlogits, (Matrix<double>::Zero(4, 5)));
    }
  }
}

TEST(CrossEntropy, AnIgnoredRowIsNotLookedAt) {
  auto logits = random_matrix(3, 5, "logits");
  const Outcome before = run(logits, {1, -100, 4});
  logits.row(1).setConstant(nan);
  const Outcome after = run(logits, {1, -100, 4});
  EXPECT_EQ(before.loss, after.loss);
  EXPECT_EQ(before.dlogits, after.dlogits);
}

TEST(CrossEntropy, MicroBatchesAddUpToTheWholeBatch) {
  const auto logits = random_matrix(11, 13, "logits", 2);
  const Labels labels{3, -100, 0, 12, -100, -100, -100, 7, 7, 1, -100};
  CrossEntropyOptions options;
  options.label_smoothing = 0.1;
  const Outcome whole = run(logits, labels, options);
  EXPECT_EQ(whole.counted, 6);
  options.num_items = whole.counted;
  double loss = 0;
  Matrix<double> dlogits(11, 13);
  // Uneven parts; the second is masked altogether.
  for (const auto& [first, count] : {std::pair<Index, Index>{0, 4}, {4, 3}, {7, 1}, {8, 3}}) {
    const Labels part(labels.begin() + first, labels.begin() + first + count);
    const Outcome out = run(logits.middleRows(first, count), part, options);
    loss += out.loss;
    dlogits.middleRows(first, count) = out.dlogits;
  }
  EXPECT_LE(std::abs(loss - whole.loss), 11 * u * whole.loss);
  EXPECT_EQ(dlogits, whole.dlogits);
}

TEST(CrossEntropy, InPlaceIsTheSameBits) {
  CrossEntropyOptions options;
  options.label_smoothing = 0.1;
  Matrix<double> logits = random_matrix(5, 7, "logits");
  const Labels labels{2, -100, 0, 6, 6};
  const Outcome apart = run(logits, labels, options);
  EXPECT_EQ(cross_entropy<double>(logits, labels, logits, options).loss, apart.loss);
  EXPECT_EQ(logits, apart.dlogits);
}

TEST(CrossEntropy, BlocksOfLargerMatrices) {
  const auto wide = random_matrix(7, 9, "wide");
  const Matrix<double> logits = wide.block(1, 2, 3, 5);
  const Labels labels{4, 0, -100};
  const Outcome apart = run(logits, labels);
  Matrix<double> place = Matrix<double>::Constant(6, 8, 77), expected = place;
  expected.block(2, 1, 3, 5) = apart.dlogits;
  const auto result =
      cross_entropy<double>(wide.block(1, 2, 3, 5), labels, place.block(2, 1, 3, 5));
  EXPECT_EQ(result.loss, apart.loss);
  EXPECT_EQ(place, expected);
}

TEST(CrossEntropy, LogitsFarApartNeitherOverflowNorLoseTheLoss) {
  Matrix<float> logits(3, 3), dlogits(3, 3);
  logits << -1e30f, 0, 1e30f, 0, -1000, 1000, -3e38f, -3e38f, -3e38f;
  CrossEntropyOptions sum;
  sum.reduction = Reduction::sum;
  const Labels labels{2, 1, 2};
  const auto result = cross_entropy<float>(logits, labels, dlogits, sum);
  EXPECT_LE(std::abs(result.loss - (0 + 2000 + std::log(3.0))), 8 * u * 2000);
  Matrix<float> expected(3, 3);
  const float third = 1.0f / 3;
  expected << 0, 0, 0, 0, -1, 1, third, third, third - 1;
  lora_test::expect_close(dlogits, expected, 0x1.0p-23, "dlogits");
}

// In float the sum of 100 000 equal terms stays exact, and so does their logarithm in double.
TEST(CrossEntropy, LongRowsOfFloatAreSummedInDouble) {
  const Matrix<float> logits = Matrix<float>::Constant(1, 100003, 0.1f);
  Matrix<float> dlogits(1, 100003);
  const auto result = cross_entropy<float>(logits, Labels{5}, dlogits);
  EXPECT_LE(std::abs(result.loss - std::log(100003.0)), 4 * u * 12);
  EXPECT_EQ(dlogits(0, 0), float(1 / 100003.0));
}

TEST(CrossEntropy, AMaskedClassHasNoPart) {
  Matrix<double> logits = random_matrix(2, 5, "logits");
  logits(0, 3) = -infinity;
  const Outcome out = run(logits, {1, 4});
  EXPECT_TRUE(std::isfinite(out.loss));
  EXPECT_EQ(out.dlogits(0, 3), 0);
  EXPECT_TRUE(out.dlogits.allFinite());
  CrossEntropyOptions
      smooth;  // every class is asked for, so an impossible one costs infinitely much
  smooth.label_smoothing = 0.1;
  EXPECT_EQ(run(logits, {1, 4}, smooth).loss, infinity);
  EXPECT_EQ(run(logits, {3, 4}).loss, infinity);
}

TEST(CrossEntropy, NonFiniteRowsGiveNaN) {
  for (const double bad : {nan, infinity}) {
    for (const Index column : {0, 2, 4}) {
      Matrix<double> logits = random_matrix(2, 5, "logits");
      logits(0, column) = bad;
      const Outcome out = run(logits, {1, 4});
      EXPECT_TRUE(std::isnan(out.loss)) << bad << " in column " << column;
      EXPECT_TRUE(std::isnan(out.dlogits(0, column)));
      EXPECT_TRUE(out.dlogits.row(1).allFinite()) << "the other row is not touched";
    }
  }
  EXPECT_TRUE(std::isnan(run(Matrix<double>::Constant(1, 3, -infinity), {1}).loss));
}

TEST(CrossEntropy, NoAllocation) {
  LORA_NEEDS_ALLOCATION_COUNTS();
  Matrix<double> logits = random_matrix(5, 70, "logits"), dlogits(5, 70);
  const Labels labels{2, -100, 0, 6, 69};
  lora_test::AllocationCounter counter;
  cross_entropy<double>(logits, labels);
  cross_entropy<double>(logits, labels, dlogits);
  cross_entropy<double>(logits, labels, logits);
  EXPECT_EQ(counter.stop().calls, 0u);
}

TEST(CrossEntropy, LabelErrorsNameTheRowAndWriteNothing) {
  Matrix<double> logits = random_matrix(3, 5, "logits");
  const Matrix<double> before = logits;
  const auto told = [&](const Labels& labels, CrossEntropyOptions options = {}) {
    return lora_test::message_of<Error>(
        [&] { cross_entropy<double>(logits, labels, logits, options); });
  };
  EXPECT_EQ(told({0, 1, 5}),
            "cross_entropy: label 5 in row 2 is outside of [0, 5) and is not ignore_index -100");
  EXPECT_EQ(told({0, -1, 2}),
            "cross_entropy: label -1 in row 1 is outside of [0, 5) and is not ignore_index -100");
  CrossEntropyOptions other;
  other.ignore_index = 2;
  EXPECT_EQ(told({-100, 2, 2}, other),
            "cross_entropy: label -100 in row 0 is outside of [0, 5) and is not ignore_index 2");
  EXPECT_EQ(told({0, 1}), "cross_entropy: 2 labels for logits (3, 5), expected one a row: 3");
  EXPECT_EQ(logits, before);
  EXPECT_THROW(cross_entropy<double>(logits, Labels{0, 1}), ShapeError);
}

TEST(CrossEntropy, OptionAndShapeErrors) {
  const auto logits = random_matrix(3, 5, "logits");
  Matrix<double> dlogits = Matrix<double>::Constant(3, 5, 7), wrong(3, 4);
  const Labels labels{0, 1, 2};
  const auto told = [&](double smoothing, Index num_items, Reduction reduction) {
    CrossEntropyOptions options;
    options.label_smoothing = smoothing;
    options.num_items = num_items;
    options.reduction = reduction;
    return lora_test::message_of<Error>(
        [&] { cross_entropy<double>(logits, labels, dlogits, options); });
  };
  EXPECT_EQ(told(-0.1, 0, Reduction::mean),
            "cross_entropy: label_smoothing is -0.1, expected 0 to 1");
  EXPECT_EQ(told(1.5, 0, Reduction::mean),
            "cross_entropy: label_smoothing is 1.5, expected 0 to 1");
  EXPECT_EQ(told(nan, 0, Reduction::mean),
            "cross_entropy: label_smoothing is nan, expected 0 to 1");
  EXPECT_EQ(told(0, -1, Reduction::mean), "cross_entropy: num_items is -1, expected 0 or more");
  EXPECT_EQ(told(0, 3, Reduction::sum),
            "cross_entropy: num_items is a divisor of the mean, but reduction is sum");
  EXPECT_EQ(lora_test::message_of<Error>([&] { cross_entropy<double>(logits, labels, wrong); }),
            "cross_entropy: dlogits is (3, 4), expected (3, 5)");
  EXPECT_EQ(dlogits, (Matrix<double>::Constant(3, 5, 7)));
}

TEST(MseLoss, ValuesByHand) {
  Matrix<double> y(2, 3), target(2, 3), dy(2, 3), expected(2, 3);
  y << 1, 2, 3, 4, 5, 6;
  target << 1, 0, 4, 4, 8, 6;
  expected << 0, 4, -2, 0, -6, 0;
  EXPECT_EQ(mse_loss<double>(y, target, dy, Reduction::sum), 14);
  EXPECT_EQ(dy, expected);
  EXPECT_LE(std::abs(mse_loss<double>(y, target, dy) - 14.0 / 6), 4 * u * 3);
  lora_test::expect_close(dy, expected / 6, 4 * u, "dy");
}

TEST(MseLoss, GradientsByComplexStep) {
  for (const Reduction reduction : {Reduction::mean, Reduction::sum}) {
    for (const auto& [rows, cols] : {std::pair<Index, Index>{5, 7}, {1, 3}, {1, 1}, {0, 4}}) {
      const auto y = random_matrix(rows, cols, "y"), target = random_matrix(rows, cols, "target");
      Matrix<double> dy(rows, cols);
      mse_loss<double>(y, target, dy, reduction);
      const Matrix<Complex> target_c = lora_test::to_complex(target);
      Matrix<Complex> dy_c(rows, cols);
      EXPECT_TRUE(lora_test::gradcheck(
          [&](const Matrix<Complex>& at) {
            return mse_loss<Complex>(at, target_c, dy_c, reduction);
          },
          y, dy));
    }
  }
}

TEST(MseLoss, TheMeanOverNothingIsZero) {
  const Matrix<double> none(0, 3);
  Matrix<double> dy(0, 3);
  EXPECT_EQ(mse_loss<double>(none, none, dy), 0);
}

TEST(MseLoss, InPlaceAndInBlocks) {
  const auto y = random_matrix(4, 6, "y"), target = random_matrix(4, 6, "target");
  Matrix<double> dy(4, 6), over_y = y, over_target = target;
  const double loss = mse_loss<double>(y, target, dy);
  EXPECT_EQ(mse_loss<double>(over_y, target, over_y), loss);
  EXPECT_EQ(over_y, dy);
  EXPECT_EQ(mse_loss<double>(y, over_target, over_target), loss);
  EXPECT_EQ(over_target, dy);
  Matrix<double> place = Matrix<double>::Constant(6, 9, 77), expected = place;
  expected.block(1, 2, 4, 6) = dy;
  EXPECT_EQ(mse_loss<double>(y, target, place.block(1, 2, 4, 6)), loss);
  EXPECT_EQ(place, expected);
}

TEST(MseLoss, FloatIsSummedInDouble) {
  const Matrix<float> y = Matrix<float>::Constant(100, 1000, 0.1f),
                      zero = Matrix<float>::Zero(100, 1000);
  Matrix<float> dy(100, 1000);
  const double square = double(0.1f) * double(0.1f);
  EXPECT_LE(std::abs(mse_loss<float>(y, zero, dy) - square), 1e5 * u * square);
}

TEST(MseLoss, NonFiniteValuesGoThrough) {
  Matrix<double> y = Matrix<double>::Zero(1, 3), dy(1, 3);
  const Matrix<double> target = Matrix<double>::Zero(1, 3);
  y(0, 1) = nan;
  EXPECT_TRUE(std::isnan(mse_loss<double>(y, target, dy)));
  EXPECT_TRUE(std::isnan(dy(0, 1)));
  EXPECT_EQ(dy(0, 0), 0);
  y(0, 1) = infinity;
  EXPECT_EQ(mse_loss<double>(y, target, dy), infinity);
}

TEST(MseLoss, NoAllocation) {
  LORA_NEEDS_ALLOCATION_COUNTS();
  const auto y = random_matrix(4, 6, "y"), target = random_matrix(4, 6, "target");
  Matrix<double> dy(4, 6);
  lora_test::AllocationCounter counter;
  mse_loss<double>(y, target, dy);
  EXPECT_EQ(counter.stop().calls, 0u);
}

TEST(MseLoss, ShapeErrors) {
  const Matrix<double> y = Matrix<double>::Zero(4, 6), other = Matrix<double>::Zero(4, 7);
  Matrix<double> dy = Matrix<double>::Constant(4, 6, 7), wrong(3, 6);
  EXPECT_EQ(lora_test::message_of<Error>([&] { mse_loss<double>(y, other, dy); }),
            "mse_loss: target is (4, 7), expected (4, 6)");
  EXPECT_EQ(lora_test::message_of<Error>([&] { mse_loss<double>(y, y, wrong); }),
            "mse_loss: dy is (3, 6), expected (4, 6)");
  EXPECT_EQ(dy, (Matrix<double>::Constant(4, 6, 7)));
}

TEST(CrossEntropy, RowsWithoutClassesMayBeIgnored) {
  const Matrix<float> logits(3, 0);
  const std::vector<std::int64_t> labels(3, -100);
  Matrix<float> gradient(3, 0);
  const auto result = cross_entropy<float>(logits, labels, Out<float>(gradient));
  EXPECT_EQ(result.loss, 0);
  EXPECT_EQ(result.counted, 0);
}

TEST(CrossEntropy, AnOutputThatOverlapsAPartIsRefused) {
  Matrix<double> all = Matrix<double>::Random(4, 5);
  const Matrix<double> before = all;
  const std::vector<std::int64_t> labels = {0, 1, 2};
  const auto call = [&](Index row, Index col) {
    cross_entropy<double>(all.block(0, 0, 3, 4), labels, all.block(row, col, 3, 4));
  };
  const char* text = "cross_entropy: dlogits overlaps logits in part";
  EXPECT_HAS(message_of<Error>([&] { call(1, 0); }), text);
  EXPECT_HAS(message_of<Error>([&] { call(0, 1); }), text);
  EXPECT_EQ(all, before);
  EXPECT_NO_THROW(call(0, 0));
}

TEST(MseLoss, AnOutputThatOverlapsAPartIsRefused) {
  Matrix<double> all = Matrix<double>::Random(5, 3), other = Matrix<double>::Random(3, 3);
  const Matrix<double> before = all;
  const auto part = [&](Index row) { return all.middleRows(row, 3); };
  EXPECT_HAS(message_of<Error>([&] { mse_loss<double>(part(0), other, part(1)); }),
             "mse_loss: dy overlaps y in part");
  EXPECT_HAS(message_of<Error>([&] { mse_loss<double>(other, part(2), part(1)); }),
             "mse_loss: dy overlaps target in part");
  EXPECT_EQ(all, before);
  EXPECT_NO_THROW(mse_loss<double>(part(0), other, part(0)));
  EXPECT_NO_THROW(mse_loss<double>(other, part(0), part(0)));
}

}  // namespace losses_test
