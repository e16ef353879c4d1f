#include <lora/weights/frozen_weight.hpp>

#include <support/allocations.hpp>
#include <support/messages.hpp>
#include <support/product_reference.hpp>

#include <array>
#include <thread>

namespace frozen_weight_test {
using namespace lora;
using namespace lora_test;

template <class S>
Matrix<S> random(Index rows, Index cols, std::string_view name) {
  const Operand<S> values(rows, cols, name);
  return Eigen::Map<const Matrix<S>>(values.view.data, rows, cols);
}
template <class S>
std::array<FrozenWeight<S>, 2> both_layouts(const Matrix<S>& w) {
  return {FrozenWeight<S>(w), FrozenWeight<S>(w.transpose(), Layout::in_out)};
}
template <class S>
bool same_bits(const Matrix<S>& a, const Matrix<S>& b) {
  return a.rows() == b.rows() && a.cols() == b.cols() &&
         (a.size() == 0 ||
          std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(S)) == 0);
}
template <class S>
void expect_within(Matrix<S> actual, const Reference<S>& expected, Index roundings) {
  EXPECT_TRUE(within(MutableView<S>(actual), expected, roundings));
}
template <class Fn>
std::string shape_error(Fn fn) {
  try {
    fn();
  } catch (const ShapeError& e) {
    return e.what();
  }
  return "nothing thrown";
}

template <class S>
class Frozen : public testing::Test {};
using Scalars = testing::Types<float, double, std::complex<double>>;
TYPED_TEST_SUITE(Frozen, Scalars);

TYPED_TEST(Frozen, Sizes) {
  using S = TypeParam;
  for (const auto& w : both_layouts<S>(random<S>(5, 7, "w"))) {
    EXPECT_EQ(w.rows(), 5);
    EXPECT_EQ(w.cols(), 7);
    EXPECT_EQ(w.size(), 35);
    EXPECT_EQ(w.bytes(), 35 * static_cast<Index>(sizeof(S)));
    EXPECT_TRUE(w.all_finite());
  }
}

TYPED_TEST(Frozen, GivesBackTheBytesItWasGiven) {
  using S = TypeParam;
  Matrix<S> w = random<S>(5, 7, "w");
  const double odd[] = {-0.0, std::numeric_limits<double>::denorm_min(),
                        std::numeric_limits<double>::quiet_NaN(),
                        -std::numeric_limits<double>::infinity()};
  for (Index i = 0; i < 4; ++i) w(i, 2) = S(odd[i]);
  const Matrix<S> turned = w.transpose();
  const FrozenWeight<S> straight(w), as_conv1d(turned, Layout::in_out);
  EXPECT_EQ(straight.layout(), Layout::out_in);
  EXPECT_EQ(as_conv1d.layout(), Layout::in_out);
  EXPECT_TRUE(same_bits(straight.stored(), w));
  EXPECT_TRUE(same_bits(straight.dense(), w));
  EXPECT_TRUE(same_bits(as_conv1d.stored(), turned));
  EXPECT_TRUE(same_bits(as_conv1d.dense(), w));
  EXPECT_FALSE(straight.all_finite());
  EXPECT_FALSE(as_conv1d.all_finite());
}

TYPED_TEST(Frozen, Multiply) {
  using S = TypeParam;
  const Matrix<S> w = random<S>(37, 23, "w");
  for (const Index tokens : {0, 1, 2, 5, 70}) {
    const Matrix<S> x = random<S>(tokens, 23, "x");
    Reference<S> expected(tokens, 37);
    expected.add_product(x, View<S>(w).transposed());
    for (const auto& weight : both_layouts<S>(w)) {
      Matrix<S> y = Matrix<S>::Constant(tokens, 37, S(9));
      weight.multiply(x, y);
      expect_within<S>(y, expected, product_roundings<S>(23));
    }
  }
}

TYPED_TEST(Frozen, MultiplyTransposed) {
  using S = TypeParam;
  const Matrix<S> w = random<S>(37, 23, "w");
  for (const Index tokens : {0, 1, 2, 5, 70}) {
    const Matrix<S> dy = random<S>(tokens, 37, "dy"), before = random<S>(tokens, 23, "dx");
    for (const Accumulate accumulate : {Accumulate::no, Accumulate::yes}) {
      Reference<S> expected(tokens, 23);
      for (Index i = 0; i < tokens && accumulate == Accumulate::yes; ++i) {
        for (Index j = 0; j < 23; ++j) expected.add(i, j, before(i, j));
      }
      expected.add_product(dy, w);
      for (const auto& weight : both_layouts<S>(w)) {
        Matrix<S> dx = before;
        weight.multiply_transposed(dy, dx, accumulate);
        expect_within<S>(dx, expected, product_roundings<S>(37, 1));
      }
    }
  }
}

// The default replaces what stands there.
TYPED_TEST(Frozen, MultiplyTransposedReplacesUnlessTold) {
  using S = TypeParam;
  const FrozenWeight<S> w(random<S>(4, 3, "w"));
  const Matrix<S> dy = random<S>(2, 4, "dy");
  Matrix<S> a = Matrix<S>::Constant(2, 3, S(std::numeric_limits<double>::quiet_NaN())), b(2, 3);
  w.multiply_transposed(dy, a);
  w.multiply_transposed(dy, b, Accumulate::no);
  EXPECT_TRUE(same_bits(a, b));
}

// Several terms, whole and of some rows, that overlap and come in any order.
TYPED_TEST(Frozen, TermsOfSomeRows) {
  using S = TypeParam;
  const Index tokens = 11, out = 9, in = 13;
  const Matrix<S> w = random<S>(out, in, "w"), x = random<S>(tokens, in, "x"),
                  dy = random<S>(tokens, out, "dy");
  const Matrix<S> u0 = random<S>(tokens, 3, "u0"), u1 = random<S>(4, 1, "u1"),
                  u2 = random<S>(5, 2, "u2"), u3 = random<S>(0, 2, "u3");
  const auto check = [&](Index columns, auto multiply, Reference<S> expected, Index roundings) {
    const Matrix<S> b0 = random<S>(columns, 3, "b0"), b1 = random<S>(1, columns, "b1"),
                    b2 = random<S>(2, columns, "b2");
    const std::array<LowRank<S>, 4> terms{LowRank<S>{u1, b1, 7},  // to the last row
                                          LowRank<S>{u0, View<S>(b0).transposed()},
                                          LowRank<S>{u2, b2, 3},
                                          LowRank<S>{u3, b2, tokens}};  // no rows, behind the end
    for (const LowRank<S>& term : terms)
      expected.add_product(term.left, term.right, term.first_row);
    for (const auto& weight : both_layouts<S>(w))
      expect_within<S>(multiply(weight, terms), expected, roundings + 3);
  };
  Reference<S> y(tokens, out), dx(tokens, in);
  y.add_product(x, View<S>(w).transposed());
  dx.add_product(dy, w);
  check(
      out,
      [&](const auto& weight, const auto& terms) {
        Matrix<S> result(tokens, out);
        weight.multiply(x, result, terms);
        return result;
      },
      y, product_roundings<S>(in));
  check(
      in,
      [&](const auto& weight, const auto& terms) {
        Matrix<S> result(tokens, in);
        weight.multiply_transposed(dy, result, Accumulate::no, terms);
        return result;
      },
      dx, product_roundings<S>(out));
}

// A row that no term covers has the bits of the plain product.
TYPED_TEST(Frozen, RowsWithoutATermAreThoseOfThePlainProduct) {
  using S = TypeParam;
  const FrozenWeight<S> w(random<S>(9, 13, "w"));
  const Matrix<S> x = random<S>(8, 13, "x"), u = random<S>(3, 2, "u"), b = random<S>(2, 9, "b");
  Matrix<S> plain(8, 9), with(8, 9);
  w.multiply(x, plain);
  const LowRank<S> term{u, b, 2};
  w.multiply(x, with, std::span(&term, 1));
  for (Index i = 0; i < 8; ++i) {
    const bool covered = i >= 2 && i < 5;
    EXPECT_EQ(same_bits<S>(plain.row(i), with.row(i)), !covered) << i;
  }
}

TYPED_TEST(Frozen, BlocksAreWrittenInPlaceAndNothingBesideThem) {
  using S = TypeParam;
  const Matrix<S> w = random<S>(6, 5, "w"), big = random<S>(9, 11, "x");
  for (const auto& weight : both_layouts<S>(w)) {
    Matrix<S> y = Matrix<S>::Constant(7, 10, S(4)), dx = Matrix<S>::Constant(7, 10, S(4));
    weight.multiply(big.block(1, 2, 3, 5), y.block(2, 1, 3, 6));
    weight.multiply_transposed(big.block(1, 2, 3, 6), dx.block(2, 1, 3, 5));
    Reference<S> expected_y(3, 6), expected_dx(3, 5);
    expected_y.add_product(View<S>(big).middle_rows(1, 3).middle_cols(2, 5),
                           View<S>(w).transposed());
    expected_dx.add_product(View<S>(big).middle_rows(1, 3).middle_cols(2, 6), w);
    expect_within<S>(y.block(2, 1, 3, 6), expected_y, product_roundings<S>(5));
    expect_within<S>(dx.block(2, 1, 3, 5), expected_dx, product_roundings<S>(6));
    y.block(2, 1, 3, 6).setConstant(S(4));
    dx.block(2, 1, 3, 5).setConstant(S(4));
    EXPECT_EQ(y, Matrix<S>::Constant(7, 10, S(4)));
    EXPECT_EQ(dx, Matrix<S>::Constant(7, 10, S(4)));
  }
}

// Each row of a batch has the bits it has alone.
TYPED_TEST(Frozen, SplittingTheBatchChangesNoBit) {
  using S = TypeParam;
  const Matrix<S> x = random<S>(70, 300, "x");
  for (const auto& weight : both_layouts<S>(random<S>(33, 300, "w"))) {
    Matrix<S> together(70, 33), apart(70, 33);
    weight.multiply(x, together);
    for (Index i = 0; i < 70; ++i) weight.multiply(x.row(i), apart.row(i));
    EXPECT_TRUE(same_bits(together, apart));
  }
}

TYPED_TEST(Frozen, CopyRow) {
  using S = TypeParam;
  const Matrix<S> w = random<S>(5, 7, "w");
  for (const auto& weight : both_layouts<S>(w)) {
    for (Index o = 0; o < 5; ++o) {
      Guarded<S> row(1, 7, 0, 3);
      weight.copy_row(o, row.data());
      const Matrix<S> copied = Eigen::Map<const Matrix<S>>(row.data(), 1, 7);
      EXPECT_TRUE(same_bits<S>(copied, w.row(o)));
      EXPECT_TRUE(row.untouched());
    }
  }
}

TYPED_TEST(Frozen, CopyRowOutOfRange) {
  using S = TypeParam;
  for (const auto& weight : both_layouts<S>(random<S>(5, 7, "w"))) {
    for (const Index row : {Index{-1}, Index{5}, std::numeric_limits<Index>::max()}) {
      Guarded<S> out(1, 0, 0, 3);
      EXPECT_EQ(shape_error([&] { weight.copy_row(row, out.data()); }),
                "FrozenWeight::copy_row: row is " + std::to_string(row) + ", expected 0 to 4");
      EXPECT_TRUE(out.untouched());
    }
  }
}

TYPED_TEST(Frozen, PlusIsTheWeightAndItsChanges) {
  using S = TypeParam;
  const Index out = 9, in = 6;
  const Matrix<S> w = random<S>(out, in, "w"), b0 = random<S>(out, 2, "b0"),
                  a0 = random<S>(2, in, "a0"), b1 = random<S>(3, out, "b1"),
                  a1 = random<S>(3, in, "a1");
  const std::array<LowRankDelta<S>, 2> deltas{
      LowRankDelta<S>{S(0.7), b0, a0}, LowRankDelta<S>{S(-2.5), View<S>(b1).transposed(), a1}};
  Reference<S> expected(out, in);
  for (Index i = 0; i < out; ++i) {
    for (Index j = 0; j < in; ++j) expected.add(i, j, w(i, j));
  }
  for (const auto& delta : deltas) expected.add_product(delta.left, delta.right, 0, delta.scale);
  for (const auto& weight : both_layouts<S>(w)) {
    const Matrix<S> before = weight.stored();
    const FrozenWeight<S> merged = weight.plus(deltas);
    EXPECT_EQ(merged.layout(), weight.layout());
    EXPECT_EQ(merged.bytes(), weight.bytes());
    EXPECT_FALSE(merged.shares_storage_with(weight));
    EXPECT_TRUE(same_bits(weight.stored(), before));
    expect_within<S>(merged.dense(), expected, product_roundings<S>(3) + 4);
  }
}

// 1 + ulp/2 rounds back to 1, twice; only the sum of both changes is large enough to be seen.
TEST(FrozenPlus, RoundsOnce) {
  const float half_ulp = 0x1.0p-24f;
  const Matrix<float> one = Matrix<float>::Ones(3, 2), b = Matrix<float>::Ones(3, 1),
                      a = Matrix<float>::Ones(1, 2);
  const std::array<LowRankDelta<float>, 2> deltas{LowRankDelta<float>{half_ulp, b, a},
                                                  LowRankDelta<float>{half_ulp, b, a}};
  for (const auto& weight : both_layouts<float>(one)) {
    EXPECT_EQ(weight.plus(std::span(deltas).first(1)).dense(), one);
    EXPECT_EQ(weight.plus(deltas).dense(), Matrix<float>::Constant(3, 2, 1 + 0x1.0p-23f));
  }
}

TYPED_TEST(Frozen, PlusNothingIsAnEqualCopy) {
  using S = TypeParam;
  const Matrix<S> w = random<S>(4, 3, "w"), b(4, 0), a(0, 3);
  const LowRankDelta<S> of_rank_zero{S(2), b, a};
  for (const auto& weight : both_layouts<S>(w)) {
    EXPECT_TRUE(same_bits(weight.plus({}).dense(), w));
    EXPECT_TRUE(same_bits(weight.plus(std::span(&of_rank_zero, 1)).dense(), w));
  }
}

// scale ∘ W + the changes, rounded once to what is stored.
TEST(FrozenWeight, PlusScalesRowsOrColumns) {
  for (const auto& [O, D] : {std::pair<Index, Index>{5, 3}, {67, 130}, {48, 64}}) {
    const Matrix<float> w = random<float>(O, D, "w"), b = random<float>(O, 3, "b"),
                        a = random<float>(3, D, "a"), rows = random<float>(1, O, "rows"),
                        columns = random<float>(1, D, "columns");
    const LowRankDelta<float> delta{0.5f, b, a};
    for (const Layout layout : {Layout::out_in, Layout::in_out}) {
      const Matrix<float> stored = layout == Layout::out_in ? w : Matrix<float>(w.transpose());
      constexpr double fine = 0x1p-24, coarse = 0x1p-8;
      for (const auto& [weight, unit] :
           {std::pair{FrozenWeight<float>(stored, layout), fine},
            {FrozenWeight<float>::pack(stored, Precision::float32, layout), fine},
            {FrozenWeight<float>::pack(stored, Precision::bfloat16, layout), coarse},
            {FrozenWeight<float>::pack(stored, Precision::float32, layout, Orientations::both),
             fine}}) {
        for (const Side side : {Side::outputs, Side::inputs}) {
          const Matrix<float>& scale = side == Side::outputs ? rows : columns;
          const Matrix<double> got =
              weight
                  .plus(std::span(&delta, 1),
                        {{scale.data(), static_cast<std::size_t>(scale.size())}, side})
                  .dense()
                  .cast<double>();
          const Matrix<double> W = weight.dense().cast<double>(),
                               change = 0.5 * (b.cast<double>() * a.cast<double>());
          for (Index i = 0; i < got.size(); ++i) {
            const double by = static_cast<double>(scale(0, side == Side::outputs ? i / D : i % D));
            const double scaled = by * W.data()[i], exact = scaled + change.data()[i];
            ASSERT_LE(std::abs(got.data()[i] - exact),
                      unit * std::abs(exact) + 16 * 0x1p-24 * (std::abs(scaled) + 2))
                << O << " x " << D << " element " << i;
          }
        }
      }
    }
  }
  const std::vector<float> three(3);
  EXPECT_THROW(FrozenWeight<float>(Matrix<float>::Zero(2, 4)).plus({}, {three, Side::outputs}),
               ShapeError);
}

TYPED_TEST(Frozen, PlusLetsNonFiniteNumbersBeSeen) {
  using S = TypeParam;
  const Matrix<S> b = random<S>(4, 2, "b");
  Matrix<S> a = random<S>(2, 3, "a");
  a(1, 1) = S(std::numeric_limits<double>::quiet_NaN());
  const LowRankDelta<S> delta{S(2), b, a};
  const FrozenWeight<S> weight(random<S>(4, 3, "w"));
  EXPECT_FALSE(weight.plus(std::span(&delta, 1)).all_finite());
  EXPECT_TRUE(weight.all_finite());
}

TYPED_TEST(Frozen, CopiesShareTheirStorage) {
  using S = TypeParam;
  const Matrix<S> w = random<S>(40, 30, "w");
  const FrozenWeight<S> weight(w), equal(w);
  FrozenWeight<S> copy = weight;
  EXPECT_TRUE(copy.shares_storage_with(weight));
  EXPECT_FALSE(equal.shares_storage_with(weight));
  const Matrix<S> b = random<S>(40, 1, "b"), a = random<S>(1, 30, "a");
  const LowRankDelta<S> delta{S(1), b, a};
  copy = copy.plus(std::span(&delta, 1));
  EXPECT_FALSE(copy.shares_storage_with(weight));
  EXPECT_TRUE(same_bits(weight.dense(), w));
  copy = weight;  // unmerging
  EXPECT_TRUE(copy.shares_storage_with(weight));
}

TEST(FrozenWeight, AHandleKnowsItsWeightAndDoesNotKeepIt) {
  std::weak_ptr<const void> handle;
  const FrozenWeight<float> other(random<float>(2, 3, "w"));
  EXPECT_FALSE(other.is(handle));
  {
    const FrozenWeight<float> weight(random<float>(2, 3, "w"));
    handle = weight.handle();
    const FrozenWeight<float> copy = weight;
    EXPECT_TRUE(weight.is(handle) && copy.is(handle));
    EXPECT_FALSE(other.is(handle));
  }
  EXPECT_TRUE(handle.expired());
  EXPECT_FALSE(other.is(handle));
}

TEST(FrozenWeight, ACopyAllocatesNothing) {
  LORA_NEEDS_ALLOCATION_COUNTS();
  const FrozenWeight<float> weight(random<float>(40, 30, "w"));
  lora_test::AllocationCounter counter;
  const FrozenWeight<float> copy = weight;
  const lora_test::Allocations made = counter.stop();
  EXPECT_EQ(made.calls, 0u);
  EXPECT_TRUE(copy.shares_storage_with(weight));
}

TEST(FrozenWeight, IsEmptyByDefault) {
  const FrozenWeight<double> weight;
  EXPECT_EQ(weight.rows(), 0);
  EXPECT_EQ(weight.cols(), 0);
  EXPECT_EQ(weight.size(), 0);
  EXPECT_EQ(weight.bytes(), 0);
  EXPECT_TRUE(weight.all_finite());
  EXPECT_EQ(weight.dense().size(), 0);
  EXPECT_EQ(weight.plus({}).size(), 0);
  EXPECT_EQ(weight.layout(), Layout::out_in);
}

TEST(FrozenWeight, AMatrixWithoutRowsOrColumns) {
  const FrozenWeight<double> no_inputs(Matrix<double>(4, 0)), no_outputs(Matrix<double>(0, 3));
  Matrix<double> y = Matrix<double>::Ones(2, 4), dx = Matrix<double>::Ones(2, 3);
  no_inputs.multiply(Matrix<double>(2, 0), y);
  EXPECT_EQ(y, Matrix<double>::Zero(2, 4));
  no_outputs.multiply_transposed(Matrix<double>(2, 0), dx);
  EXPECT_EQ(dx, Matrix<double>::Zero(2, 3));
}

TEST(FrozenWeight, ProductsAllocateNothingOnceTheWorkersRun) {
  LORA_NEEDS_ALLOCATION_COUNTS();
  const int before = num_threads();
  set_num_threads(3);
  parallel_for(3, 1, [](Index, Index) {});
  const Matrix<float> w = random<float>(130, 140, "w"), x = random<float>(64, 140, "x"),
                      u = random<float>(64, 4, "u"), b = random<float>(4, 130, "b"),
                      a = random<float>(4, 140, "a");
  Matrix<float> y(64, 130), dx(64, 140);
  const LowRank<float> up{u, b}, down{u, a};
  for (const auto& weight : both_layouts<float>(w)) {
    lora_test::AllocationCounter counter;
    for (int repeat = 0; repeat < 3; ++repeat) {
      weight.multiply(x, y, std::span(&up, 1));
      weight.multiply_transposed(y, dx, Accumulate::yes, std::span(&down, 1));
    }
    EXPECT_EQ(counter.stop().calls, 0u);
  }
  set_num_threads(before);
}

TEST(FrozenWeight, ServesManyThreadsAtOnce) {
  const Matrix<double> w = random<double>(50, 60, "w"), x = random<double>(70, 60, "x");
  const FrozenWeight<double> weight(w);
  Matrix<double> expected(70, 50);
  weight.multiply(x, expected);
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, copy = weight] {
      Matrix<double> y(70, 50);
      for (int repeat = 0; repeat < 20; ++repeat) {
        copy.multiply(x, y);
        if (!same_bits(y, expected)) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

// Every message; and after each, what stood in the result stands there still.
TEST(FrozenErrors, Multiply) {
  for (const auto& weight : both_layouts<double>(random<double>(5, 7, "w"))) {
    const auto run = [&](Index x_rows, Index x_cols, Index y_rows, Index y_cols) {
      Matrix<double> y = Matrix<double>::Ones(y_rows, y_cols);
      const std::string text =
          shape_error([&] { weight.multiply(Matrix<double>::Ones(x_rows, x_cols), y); });
      EXPECT_EQ(y, Matrix<double>::Ones(y_rows, y_cols));
      return text;
    };
    EXPECT_EQ(run(3, 6, 3, 5), "FrozenWeight::multiply: x is (3, 6), expected (T, 7)");
    EXPECT_EQ(run(3, 7, 4, 5), "FrozenWeight::multiply: y is (4, 5), expected (3, 5)");
    EXPECT_EQ(run(3, 7, 3, 7), "FrozenWeight::multiply: y is (3, 7), expected (3, 5)");
    EXPECT_EQ(run(0, 0, 0, 5), "FrozenWeight::multiply: x is (0, 0), expected (T, 7)");
  }
}

TEST(FrozenErrors, MultiplyTransposed) {
  for (const auto& weight : both_layouts<double>(random<double>(5, 7, "w"))) {
    const auto run = [&](Index dy_rows, Index dy_cols, Index dx_rows, Index dx_cols) {
      Matrix<double> dx = Matrix<double>::Ones(dx_rows, dx_cols);
      const std::string text = shape_error(
          [&] { weight.multiply_transposed(Matrix<double>::Ones(dy_rows, dy_cols), dx); });
      EXPECT_EQ(dx, Matrix<double>::Ones(dx_rows, dx_cols));
      return text;
    };
    const std::string where = "FrozenWeight::multiply_transposed: ";
    EXPECT_EQ(run(3, 7, 3, 7), where + "dy is (3, 7), expected (T, 5)");
    EXPECT_EQ(run(3, 5, 2, 7), where + "dx is (2, 7), expected (3, 7)");
    EXPECT_EQ(run(3, 5, 3, 5), where + "dx is (3, 5), expected (3, 7)");
  }
}

TEST(FrozenErrors, TermsThatDoNotFit) {
  const FrozenWeight<double> weight(random<double>(5, 5, "w"));
  const Matrix<double> x = Matrix<double>::Ones(4, 5), u = Matrix<double>::Ones(2, 3),
                       b = Matrix<double>::Ones(3, 5), narrow = Matrix<double>::Ones(3, 4),
                       low = Matrix<double>::Ones(2, 5);
  for (const bool transposed : {false, true}) {
    const auto run = [&](const LowRank<double>& second) {
      Matrix<double> memory =
          Matrix<double>::Constant(10, 5, 2.0);  // the result is its rows 3 to 6
      const std::array<LowRank<double>, 2> terms{LowRank<double>{u, b}, second};
      const std::string text = shape_error([&] {
        if (transposed)
          weight.multiply_transposed(x, memory.middleRows(3, 4), Accumulate::yes, terms);
        else
          weight.multiply(x, memory.middleRows(3, 4), terms);
      });
      EXPECT_EQ(memory, Matrix<double>::Constant(10, 5, 2.0));
      return text;
    };
    const std::string where =
        transposed ? "FrozenWeight::multiply_transposed: " : "FrozenWeight::multiply: ";
    EXPECT_EQ(run({u, b, 3}),
              where + "a term's left is (2, 3) from row 3 on, the result has 4 rows");
    EXPECT_EQ(run({u, b, -1}),
              where + "a term's left is (2, 3) from row -1 on, the result has 4 rows");
    EXPECT_EQ(run({u, b, std::numeric_limits<Index>::max()}),
              where +
                  "a term's left is (2, 3) from row 9223372036854775807 on, the result has 4 "
                  "rows");
    EXPECT_EQ(run({u, narrow, 2}), where + "a term's right is (3, 4), expected (3, 5)");
    EXPECT_EQ(run({u, low, 2}), where + "a term's right is (2, 5), expected (3, 5)");
  }
}

TEST(FrozenErrors, Plus) {
  for (const auto& weight : both_layouts<double>(random<double>(5, 7, "w"))) {
    const Matrix<double> before = weight.stored(), b = Matrix<double>::Ones(5, 2),
                         a = Matrix<double>::Ones(2, 7);
    const auto run = [&](const Matrix<double>& left, const Matrix<double>& right) {
      const std::array<LowRankDelta<double>, 2> deltas{LowRankDelta<double>{1.0, b, a},
                                                       LowRankDelta<double>{1.0, left, right}};
      return shape_error([&] { weight.plus(deltas); });
    };
    EXPECT_EQ(run(Matrix<double>(4, 2), a), "FrozenWeight::plus: left is (4, 2), expected (5, R)");
    EXPECT_EQ(run(b, Matrix<double>(2, 5)), "FrozenWeight::plus: right is (2, 5), expected (2, 7)");
    EXPECT_EQ(run(b, Matrix<double>(3, 7)), "FrozenWeight::plus: right is (3, 7), expected (2, 7)");
    EXPECT_TRUE(same_bits(weight.stored(), before));
  }
}

TEST(FrozenErrors, AMovedFromWeightThrows) {
  FrozenWeight<float> weight(Matrix<float>::Ones(2, 3));
  const FrozenWeight<float> other = std::move(weight);
  Matrix<float> x = Matrix<float>::Ones(1, 3), y(1, 2);
  const char* text = "FrozenWeight: the weight, or the layer that it belongs to, was moved from";
  EXPECT_HAS(message_of<Error>([&] { weight.rows(); }), text);
  EXPECT_HAS(message_of<Error>([&] { weight.multiply(x, y); }), text);
  EXPECT_HAS(message_of<Error>([&] { weight.multiply_transposed(y, x); }), text);
  EXPECT_HAS(message_of<Error>([&] { weight.dense(); }), text);
  EXPECT_HAS(message_of<Error>([&] { weight.copy_row(0, x.data()); }), text);
  EXPECT_HAS(message_of<Error>([&] { weight.plus({}); }), text);
  EXPECT_HAS(message_of<Error>([&] { weight.bytes(); }), text);
  weight = other;
  EXPECT_EQ(weight.rows(), 2);
}

TEST(FrozenErrors, ResultsThatOverlap) {
  Matrix<float> all = Matrix<float>::Ones(6, 3);
  for (const auto& weight : {FrozenWeight<float>(Matrix<float>::Ones(3, 3)),
                             FrozenWeight<float>::pack(Matrix<float>::Ones(3, 3))}) {
    const Matrix<float> before = all;
    EXPECT_HAS(message_of<Error>([&] { weight.multiply(all.topRows(4), all.bottomRows(4)); }),
               "FrozenWeight::multiply: y overlaps x");
    EXPECT_HAS(message_of<Error>([&] { weight.multiply_transposed(all, all); }),
               "FrozenWeight::multiply_transposed: dx overlaps dy");
    EXPECT_EQ(all, before);
    weight.multiply(all.topRows(3), all.bottomRows(3));
    all.setOnes();
  }
}

}  // namespace frozen_weight_test
