// The masks of dropout: how often, how large, how independent; and that no mask is ever kept.
#include <lora/layers/lora_linear.hpp>

#include <gtest/gtest.h>

#include "layers/layer_tools.hpp"
#include "support/allocations.hpp"
#include "support/instruction_sets.hpp"

namespace dropout_test {
using namespace lora;
using namespace lora_test;

/// mask / (1 - p) of some rows: what dropout makes of ones.
Matrix<double> mask_of(const Dropout& dropout, Index rows, Index cols, Index first_row = 0) {
  const Matrix<double> ones = Matrix<double>::Ones(1, cols);
  Matrix<double> mask(rows, cols);
  for (Index t = 0; t < rows; ++t)
    dropout.row(first_row + t, cols, ones.data(), mask.row(t).data(), Accumulate::no);
  return mask;
}
/// The correlation of two masks, entry by entry.
double correlation(const Matrix<double>& a, const Matrix<double>& b) {
  const Matrix<double> x = (a.array() - a.mean()).matrix(), y = (b.array() - b.mean()).matrix();
  return x.cwiseProduct(y).sum() / (x.norm() * y.norm());
}

TEST(Dropout, DropsAsOftenAsItShouldAndScalesWhatIsLeft) {
  constexpr Index rows = 501, cols = 203;
  const double n = static_cast<double>(rows * cols);
  for (const double p : {0.001, 0.1, 0.3, 0.5, 0.9, 0.999}) {
    const Dropout dropout(p, 42);
    EXPECT_TRUE(dropout.active());
    const Matrix<double> mask = mask_of(dropout, rows, cols);
    const auto dropped = static_cast<double>((mask.array() == 0).count());
    EXPECT_LE(std::abs(dropped - n * p), 5 * std::sqrt(n * p * (1 - p)))
        << "five standard deviations at p = " << p;
    EXPECT_EQ((mask.array() == 0 || mask.array() == 1 / (1 - p)).count(), mask.size())
        << "the scale is exact";
  }
  EXPECT_FALSE(Dropout(0, 42).active());
}

TEST(Dropout, TheKernelsOfEveryInstructionSetMakeTheMaskThatDoubleHas) {
  const double p = 0.3;
  const Dropout dropout(p, 0x123456789ABCDEFu);
  const Index row = (Index{1} << 33) + 5;
  for_each_isa([&](const char* name) {
    for (const Index n : {0, 1, 3, 4, 5, 15, 16, 17, 31, 63, 64, 65, 127, 128, 129, 1000}) {
      const Matrix<float> ones = Matrix<float>::Ones(1, n);
      Matrix<float> mask = Matrix<float>::Constant(1, n + 1, -1), sum = mask;
      dropout.row(row, n, ones.data(), mask.data(), Accumulate::no);
      dropout.row(row, n, ones.data(), sum.data(), Accumulate::yes);
      const Matrix<double> expected = mask_of(dropout, 1, n, row);
      for (Index j = 0; j < n; ++j) {
        EXPECT_EQ(mask(0, j), static_cast<float>(expected(0, j))) << name << " n " << n << " " << j;
        EXPECT_EQ(sum(0, j), mask(0, j) - 1) << name << " n " << n << " " << j;
      }
      EXPECT_EQ(mask(0, n), -1) << name << ": nothing after the last";
      EXPECT_EQ(sum(0, n), -1) << name << ": nothing after the last";
      Matrix<float> in_place = Matrix<float>::Ones(1, n);
      dropout.row(row, n, in_place.data(), in_place.data(), Accumulate::no);
      EXPECT_EQ(in_place, Matrix<float>(mask.leftCols(n))) << name;
    }
  });
}

TEST(Dropout, NoRowOrColumnIsSpecial) {
  constexpr Index rows = 400, cols = 41;
  const double p = 0.25;
  const Matrix<double> mask = mask_of(Dropout(p, 7), rows, cols);
  // 441 frequencies: with five standard deviations one in four thousand test runs of another key
  // would fail.
  for (Index j = 0; j < cols; ++j) {
    const auto dropped = static_cast<double>((mask.col(j).array() == 0).count());
    EXPECT_LE(std::abs(dropped - rows * p), 5 * std::sqrt(rows * p * (1 - p))) << "column " << j;
  }
  for (Index t = 0; t < rows; ++t) {
    const auto dropped = static_cast<double>((mask.row(t).array() == 0).count());
    EXPECT_LE(std::abs(dropped - cols * p), 5 * std::sqrt(cols * p * (1 - p))) << "row " << t;
  }
  const double bound = 5 / std::sqrt(static_cast<double>(rows * cols));
  for (const Index step : {1, 2, 3, 4, 5, 8}) {
    EXPECT_LE(std::abs(correlation(mask.leftCols(cols - step), mask.rightCols(cols - step))),
              bound * 1.2)
        << step;
    EXPECT_LE(std::abs(correlation(mask.topRows(rows - step), mask.bottomRows(rows - step))),
              bound * 1.2)
        << step;
  }
}

TEST(Dropout, TheSameKeyGivesTheSameMaskAndAnotherKeyAnUnrelatedOne) {
  const Index rows = 100, cols = 101;
  const double bound = 5 / std::sqrt(static_cast<double>(rows * cols));
  const Matrix<double> mask = mask_of(Dropout(0.4, 1), rows, cols);
  EXPECT_TRUE(same_bits(mask_of(Dropout(0.4, 1), rows, cols), mask));
  for (const std::uint64_t key : {0ull, 2ull, 3ull, 1ull << 32, 1ull << 63}) {
    EXPECT_LE(std::abs(correlation(mask_of(Dropout(0.4, key), rows, cols), mask)), bound) << key;
  }
  for (const Index row : {rows, Index{1} << 31, Index{1} << 32, Index{1} << 40}) {
    EXPECT_LE(std::abs(correlation(mask_of(Dropout(0.4, 1), rows, cols, row), mask)), bound)
        << "from row " << row;
  }
  EXPECT_TRUE(
      same_bits(mask_of(Dropout(0.4, 1), 60, cols, 40), Matrix<double>(mask.bottomRows(60))));
}

TEST(Dropout, SeedUseAdapterAndLayerEachChooseAMaskOfTheirOwn) {
  const Index rows = 100, cols = 101;
  const double bound = 5 / std::sqrt(static_cast<double>(rows * cols));
  const auto mask = [&](const std::string& name, const std::string& path, std::uint64_t made,
                        std::uint64_t seed, std::uint64_t use) {
    AdapterOptions options = rank(2, 2, 0.4);
    options.path = path;
    options.seed = made;
    Pass pass;
    pass.training = true;
    pass.seed = seed;
    pass.use = use;
    return mask_of(make_adapter<double>(name, options).dropout_of(pass), rows, cols);
  };
  const std::vector<Matrix<double>> masks = {mask("a", "q", 0, 0, 0), mask("b", "q", 0, 0, 0),
                                             mask("a", "k", 0, 0, 0), mask("a", "q", 1, 0, 0),
                                             mask("a", "q", 0, 1, 0), mask("a", "q", 0, 0, 1),
                                             mask("a", "q", 0, 1, 1), mask("a", "q", 0, 2, 0)};
  for (std::size_t i = 0; i < masks.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j)
      EXPECT_LE(std::abs(correlation(masks[i], masks[j])), bound) << i << " and " << j;
  }
  EXPECT_TRUE(same_bits(mask("a", "q", 0, 0, 0), masks[0]));
}

TEST(Dropout, AnyWidthAddedOrReplacedInPlaceOrNot) {
  const Dropout dropout(0.5, 3);
  const Matrix<float> x = random_matrix<float>(1, 70, "x");
  Matrix<float> whole(1, 70);
  dropout.row(2, 70, x.data(), whole.data(), Accumulate::no);
  for (const Index cols : {0, 1, 2, 3, 4, 5, 7, 65}) {
    Matrix<float> y = Matrix<float>::Constant(1, 70, 5), in_place = x, sum = y;
    dropout.row(2, cols, x.data(), y.data(), Accumulate::no);
    dropout.row(2, cols, in_place.data(), in_place.data(), Accumulate::no);
    dropout.row(2, cols, x.data(), sum.data(), Accumulate::yes);
    for (Index j = 0; j < 70; ++j) {
      EXPECT_EQ(y(0, j), j < cols ? whole(0, j) : 5)
          << "a mask does not depend on the width, and the rest is not touched";
      EXPECT_EQ(in_place(0, j), j < cols ? whole(0, j) : x(0, j));
      EXPECT_EQ(sum(0, j), j < cols ? 5 + whole(0, j) : 5);
    }
  }
}

TEST(Dropout, NothingOfTheInputsSizeIsMade) {
  LORA_NEEDS_ALLOCATION_COUNTS();
  const Index rows = 4096, in = 96, out = 5;
  LoRALinear<float> layer(random_matrix<float>(out, in, "W"));
  add_full_adapter(layer, "a", rank(3, 4, 0.1));
  layer.adapters().set_active({"a"});
  const Matrix<float> x = random_matrix<float>(rows, in, "x"),
                      dy = random_matrix<float>(rows, out, "dy");
  Matrix<float> y(rows, out), dx(rows, in);
  Pass pass;
  pass.training = true;
  LoRALinear<float>::Tape tape;
  AllocationCounter counter;
  layer.forward(x, y, &tape, pass);
  layer.backward(x, dy, tape, &dx);
  const Allocations made = counter.stop();
  EXPECT_GT(made.calls, 0u);
  // What is made: 64 rows of x at a time, (T, r) matrices, the products' scratch.
  EXPECT_LT(made.largest, static_cast<std::uint64_t>(rows * in) * sizeof(float) / 4);
}

}  // namespace dropout_test
