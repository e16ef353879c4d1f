#include <lora/weights/dense_weight.hpp>

#include <support/product_reference.hpp>

#include <array>

namespace dense_weight_test {
using namespace lora;
using namespace lora_test;

// The same (4, 3) matrix in both orientations; every element says where it stands.
template <class S>
Matrix<S> numbered() {
  Matrix<S> w(4, 3);
  for (Index i = 0; i < 4; ++i) {
    for (Index j = 0; j < 3; ++j) w(i, j) = S(static_cast<double>(10 * i + j) + 0.1);
  }
  return w;
}
template <class S>
std::array<DenseWeight<S>, 2> both_layouts() {
  const Matrix<S> w = numbered<S>();
  return {DenseWeight<S>(w, Layout::out_in), DenseWeight<S>(w.transpose(), Layout::in_out)};
}

template <class S>
class Dense : public testing::Test {};
using Scalars = testing::Types<float, double, std::complex<double>>;
TYPED_TEST_SUITE(Dense, Scalars);

TYPED_TEST(Dense, SizesAreThoseOfTheOutInOrientation) {
  for (const auto& w : both_layouts<TypeParam>()) {
    EXPECT_EQ(w.rows(), 4);
    EXPECT_EQ(w.cols(), 3);
    EXPECT_EQ(w.bytes(), 12 * static_cast<Index>(sizeof(TypeParam)));
  }
}

TYPED_TEST(Dense, StoredIsWhatCame) {
  using S = TypeParam;
  const auto weights = both_layouts<S>();
  EXPECT_EQ(weights[0].layout(), Layout::out_in);
  EXPECT_EQ(weights[0].stored(), numbered<S>());
  EXPECT_EQ(weights[1].layout(), Layout::in_out);
  EXPECT_EQ(weights[1].stored(), Matrix<S>(numbered<S>().transpose()));
}

TYPED_TEST(Dense, KeepsTheMatrixItIsGiven) {
  Matrix<TypeParam> w = numbered<TypeParam>();
  const TypeParam* where = w.data();
  EXPECT_EQ(DenseWeight<TypeParam>(std::move(w), Layout::out_in).stored().data(), where);
}

TYPED_TEST(Dense, CopiesARow) {
  using S = TypeParam;
  for (const auto& w : both_layouts<S>()) {
    for (Index o = 0; o < 4; ++o) {
      Guarded<S> row(1, 3, 0, 2);
      w.copy_row(o, row.data());
      for (Index j = 0; j < 3; ++j) EXPECT_EQ(row.at(0, j), numbered<S>()(o, j));
      EXPECT_TRUE(row.untouched());
    }
  }
}

TYPED_TEST(Dense, BothProductsWithATermOfSomeRows) {
  using S = TypeParam;
  const Matrix<S> dense = numbered<S>();
  const Operand<S> x(5, 3, "x"), dy(5, 4, "dy"), u(2, 2, "u"), b(2, 4, "b"), a(2, 3, "a");
  const Matrix<S> xs = Eigen::Map<const Matrix<S>>(x.view.data, 5, 3),
                  dys = Eigen::Map<const Matrix<S>>(dy.view.data, 5, 4);
  for (const auto& w : both_layouts<S>()) {
    Matrix<S> y(5, 4), dx = Matrix<S>::Constant(5, 3, S(0.5));
    const LowRank<S> up{u.view, b.view, 3}, down{u.view, a.view, 1};
    w.multiply(xs, y, std::span(&up, 1));
    w.multiply_transposed(dys, dx, Accumulate::yes, std::span(&down, 1));
    Reference<S> expected_y(5, 4), expected_dx(5, 3);
    for (Index i = 0; i < 5; ++i) {
      for (Index j = 0; j < 3; ++j) expected_dx.add(i, j, S(0.5));
    }
    expected_y.add_product(x.view, View<S>(dense).transposed());
    expected_y.add_product(u.view, b.view, 3);
    expected_dx.add_product(dy.view, dense);
    expected_dx.add_product(u.view, a.view, 1);
    EXPECT_TRUE(within(MutableView<S>(y), expected_y, product_roundings<S>(3) + 2));
    EXPECT_TRUE(within(MutableView<S>(dx), expected_dx, product_roundings<S>(4, 1) + 2));
  }
}

TYPED_TEST(Dense, PlusKeepsTheOrientation) {
  using S = TypeParam;
  const Matrix<S> left = Matrix<S>::Constant(4, 1, S(2)), right = Matrix<S>::Constant(1, 3, S(3));
  const LowRankDelta<S> delta{S(0.5), left, right};
  for (const auto& w : both_layouts<S>()) {
    const DenseWeight<S> sum = w.plus(std::span(&delta, 1));
    EXPECT_EQ(sum.layout(), w.layout());
    EXPECT_EQ(sum.stored(), Matrix<S>(w.stored().array() + S(3)));
  }
}

TYPED_TEST(Dense, FindsWhatIsNotFinite) {
  using S = TypeParam;
  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity(),
        -std::numeric_limits<double>::infinity()}) {
    for (Index at = 0; at < 12; ++at) {
      Matrix<S> w = numbered<S>();
      EXPECT_TRUE(DenseWeight<S>(w, Layout::in_out).all_finite());
      w.data()[at] = S(bad);
      EXPECT_FALSE(DenseWeight<S>(w, Layout::in_out).all_finite());
    }
  }
}

}  // namespace dense_weight_test
