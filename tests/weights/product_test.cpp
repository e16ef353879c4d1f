#include <lora/weights/product.hpp>

#include <support/allocations.hpp>
#include <support/product_reference.hpp>
#include <support/threads.hpp>

namespace product_test {
using namespace lora;
using namespace lora_test;

template <class S>
void fill(Guarded<S>& c) {
  const Operand<S> before(c.rows, c.cols, "c");
  for (Index i = 0; i < c.rows; ++i) {
    for (Index j = 0; j < c.cols; ++j) c.at(i, j) = before.view.data[i * c.cols + j];
  }
}

template <class S>
class Product : public testing::Test {
 public:
  static void check(Index m, Index n, Index k, Storage of_a = Storage::contiguous,
                    Storage of_b = Storage::contiguous, Accumulate accumulate = Accumulate::no) {
    const bool add = accumulate == Accumulate::yes;
    const Operand<S> a(m, k, "a", of_a), b(k, n, "b", of_b);
    Guarded<S> c(m, n, 3, 5);
    Reference<S> expected(m, n);
    if (add) {
      fill(c);
      for (Index i = 0; i < m; ++i) {
        for (Index j = 0; j < n; ++j) expected.add(i, j, c.at(i, j));
      }
    }
    expected.add_product(a.view, b.view);
    product<S>(a.view, b.view, c.view(), accumulate);
    const std::string where =
        "m=" + std::to_string(m) + " n=" + std::to_string(n) + " k=" + std::to_string(k) +
        " a=" + std::to_string(static_cast<int>(of_a)) +
        " b=" + std::to_string(static_cast<int>(of_b)) + (add ? " added" : "");
    EXPECT_TRUE(within(c.view(), expected, product_roundings<S>(k, add ? 1 : 0))) << where;
    EXPECT_TRUE(c.untouched()) << where;
  }
};

using Scalars = testing::Types<float, double, std::complex<double>>;
TYPED_TEST_SUITE(Product, Scalars);

TYPED_TEST(Product, SmallSizesOfEveryStorage) {
  for (const Index m : {1, 2, 5}) {
    for (const Index n : {1, 3, 9}) {
      for (const Storage of_a : all_storages) {
        for (const Storage of_b : all_storages) {
          this->check(m, n, 4, of_a, of_b, Accumulate::no);
          this->check(m, n, 4, of_a, of_b, Accumulate::yes);
        }
      }
    }
  }
}

// Around the pieces that threads take: 48 columns wide, 128 rows high.
TYPED_TEST(Product, SizesAroundThePieces) {
  const Threads use(3);
  const Index wide = kernels::slab_columns, tall = lora::detail::piece_rows;
  for (const Index m : {tall - 1, tall, tall + 1, 2 * tall + 1}) {
    for (const Index n : {Index{1}, Index{16}, wide - 1, wide})
      this->check(m, n, 5, Storage::contiguous, Storage::transposed);
  }
  for (const Index m : {Index{1}, tall - 1, tall, tall + 1}) {
    for (const Index n : {wide + 1, 2 * wide, 2 * wide + 3}) this->check(m, n, 3);
  }
}

TYPED_TEST(Product, SkinnyOfBothKinds) {
  const Threads use(2);
  for (const Index rank : {1, 2, 3, 8, 16, 33}) {
    this->check(70, rank, 300, Storage::contiguous, Storage::transposed);  // S = x Aᵀ
    this->check(70, 300, rank, Storage::contiguous, Storage::transposed);  // y = S Bᵀ
    this->check(rank, 300, 70, Storage::transposed, Storage::contiguous,
                Accumulate::yes);  // dA += dSᵀ x
  }
}

TYPED_TEST(Product, RandomSizes) {
  const lora::RandomStream stream(6, "sizes");
  for (std::uint64_t i = 0; i < 40; ++i) {
    const auto pick = [&](std::uint64_t which, Index n) { return stream.below(8 * i + which, n); };
    const Threads use(static_cast<int>(1 + pick(6, 4)));
    this->check(1 + pick(0, 150), 1 + pick(1, 300), 1 + pick(2, 70), all_storages[pick(3, 5)],
                all_storages[pick(4, 5)], pick(5, 2) == 1 ? Accumulate::yes : Accumulate::no);
  }
}

TYPED_TEST(Product, ZeroSizes) {
  using S = TypeParam;
  for (const Accumulate accumulate : {Accumulate::no, Accumulate::yes}) {
    this->check(0, 5, 3, Storage::contiguous, Storage::contiguous, accumulate);
    this->check(5, 0, 3, Storage::contiguous, Storage::contiguous, accumulate);
    this->check(5, 7, 0, Storage::contiguous, Storage::contiguous, accumulate);
    this->check(0, 0, 0, Storage::contiguous, Storage::contiguous, accumulate);
  }
  // Without a summed index the product is zero, and adding it changes nothing, not even a sign.
  Guarded<S> c(3, 4, 2, 1);
  fill(c);
  c.at(1, 2) = -S(0);
  const Guarded<S> before = c;
  product<S>(View<S>(nullptr, 3, 0, 0, 1), View<S>(nullptr, 0, 4, 4, 1), c.view(), Accumulate::yes);
  EXPECT_TRUE(c.same_bits(before));
  product<S>(View<S>(nullptr, 3, 0, 0, 1), View<S>(nullptr, 0, 4, 4, 1), c.view());
  for (Index i = 0; i < 3; ++i) {
    for (Index j = 0; j < 4; ++j) EXPECT_EQ(c.at(i, j), S(0));
  }
  EXPECT_TRUE(c.untouched());
}

TYPED_TEST(Product, TakesMatricesAndBlocksOfThem) {
  using S = TypeParam;
  const Operand<S> of_a(9, 8, "a"), of_b(7, 8, "b");
  const Matrix<S> a = Eigen::Map<const Matrix<S>>(of_a.view.data, 9, 8),
                  b = Eigen::Map<const Matrix<S>>(of_b.view.data, 7, 8);
  const Eigen::Ref<const Matrix<S>> part = a.block(2, 1, 5, 6);
  Matrix<S> c = Matrix<S>::Constant(9, 9, S(1));
  Eigen::Ref<Matrix<S>> place = c.block(1, 2, 5, 7);
  product<S>(part, View<S>(b).middle_cols(2, 6).transposed(), place);
  Reference<S> expected(5, 7);
  expected.add_product(View<S>(part), View<S>(b).middle_cols(2, 6).transposed());
  EXPECT_TRUE(within(MutableView<S>(place), expected, product_roundings<S>(6)));
  place.setConstant(S(1));
  EXPECT_EQ(c, Matrix<S>::Constant(9, 9, S(1)));  // nothing beside the block was written
}

TYPED_TEST(Product, SameBitsOnAnyNumberOfThreads) {
  using S = TypeParam;
  struct Size {
    Index m, n, k;
  };
  for (const Size size :
       {Size{200, 16, 600}, Size{67, 301, 40}, Size{600, 150, 21}, Size{1, 400, 300}}) {
    const Index m = size.m, n = size.n, k = size.k;
    for (const Storage of_b : {Storage::contiguous, Storage::transposed}) {
      for (const Accumulate accumulate : {Accumulate::no, Accumulate::yes}) {
        const Operand<S> a(m, k, "a"), b(k, n, "b", of_b);
        const auto run = [&](int threads) {
          const Threads use(threads);
          Guarded<S> c(m, n);
          fill(c);
          product<S>(a.view, b.view, c.view(), accumulate);
          return c;
        };
        const Guarded<S> alone = run(1);
        for (const int threads : {2, 3, 7}) EXPECT_TRUE(run(threads).same_bits(alone)) << threads;
      }
    }
  }
}

TYPED_TEST(Product, SameBitsForAnySplitOfRowsOrColumns) {
  using S = TypeParam;
  const Threads use(3);
  const Index m = 131, n = 270, k = 300;
  const Operand<S> a(m, k, "a"), b(k, n, "b", Storage::transposed);
  for (const Accumulate accumulate : {Accumulate::no, Accumulate::yes}) {
    Guarded<S> whole(m, n);
    fill(whole);
    Guarded<S> start = whole;
    product<S>(a.view, b.view, whole.view(), accumulate);
    for (const Index cut : {1, 2, 3, 63, 127, 128, 129, 130}) {
      Guarded<S> c = start;
      for (const auto& [first, count] : {std::pair<Index, Index>{0, cut}, {cut, m - cut}}) {
        product<S>(a.view.middle_rows(first, count), b.view, c.view().middle_rows(first, count),
                   accumulate);
      }
      EXPECT_TRUE(c.same_bits(whole)) << "rows cut at " << cut;
    }
    for (const Index cut : {1, 7, 8, 47, 48, 49, 269}) {
      Guarded<S> c = start;
      for (const auto& [first, count] : {std::pair<Index, Index>{0, cut}, {cut, n - cut}}) {
        product<S>(a.view, b.view.middle_cols(first, count), c.view().middle_cols(first, count),
                   accumulate);
      }
      EXPECT_TRUE(c.same_bits(whole)) << "columns cut at " << cut;
    }
  }
}

TYPED_TEST(Product, NaNGoesThroughAndNowhereElse) {
  using S = TypeParam;
  const Threads use(2);
  Operand<S> a(70, 20, "a"), b(20, 140, "b");
  a.set(66, 3, S(std::numeric_limits<double>::quiet_NaN()));
  b.set(7, 131, S(std::numeric_limits<double>::infinity()));
  for (Index i = 0; i < 70; ++i) a.set(i, 7, S(0));  // 0 · ∞
  Guarded<S> c(70, 140);
  product<S>(a.view, b.view, c.view());
  for (Index i = 0; i < 70; ++i) {
    for (Index j = 0; j < 140; ++j) EXPECT_EQ(c.at(i, j) != c.at(i, j), i == 66 || j == 131);
  }
}

TYPED_TEST(Product, AllocatesNothingOnceTheWorkersRun) {
  LORA_NEEDS_ALLOCATION_COUNTS();
  using S = TypeParam;
  const Threads use(3);
  parallel_for(3, 1, [](Index, Index) {});  // the workers, which have never seen a product
  const Operand<S> a(300, 64, "a"), b(64, 300, "b", Storage::transposed);
  Guarded<S> c(300, 300);
  lora_test::AllocationCounter counter;
  for (int repeat = 0; repeat < 5; ++repeat) product<S>(a.view, b.view, c.view());
  EXPECT_EQ(counter.stop().calls, 0u);
}

// Nor for the message of an error that there is not: large sizes make a text that needs memory.
TEST(ProductChecks, AGoodCallMakesNoText) {
  LORA_NEEDS_ALLOCATION_COUNTS();
  const Index huge = Index{1} << 40;
  double nothing = 0;
  lora_test::AllocationCounter counter;
  product<double>(View<double>(&nothing, huge, 0, 0, 1), View<double>(&nothing, 0, huge, 0, 1),
                  MutableView<double>(&nothing, huge, huge, huge), Accumulate::yes);
  EXPECT_EQ(counter.stop().calls, 0u);
}

std::string shape_error(const View<double>& a, const View<double>& b,
                        const MutableView<double>& c) {
  try {
    product<double>(a, b, c);
  } catch (const ShapeError& e) {
    return e.what();
  }
  return "nothing thrown";
}

TEST(ProductChecks, ShapesThatDoNotFit) {
  const Operand<double> a(3, 4, "a"), b(4, 5, "b");
  Guarded<double> c(3, 5), tall(4, 5), wide(3, 6);
  for (Guarded<double>* out : {&c, &tall, &wide}) fill(*out);
  const Guarded<double> before = c;
  EXPECT_EQ(shape_error(a.view, b.view.middle_rows(0, 3), c.view()),
            "product: B is (3, 5), expected (4, T)");
  EXPECT_EQ(shape_error(a.view, b.view, tall.view()), "product: C is (4, 5), expected (3, 5)");
  EXPECT_EQ(shape_error(a.view, b.view, wide.view()), "product: C is (3, 6), expected (3, 5)");
  EXPECT_EQ(shape_error(a.view, b.view, wide.view().middle_cols(0, 4)),
            "product: C is (3, 4), expected (3, 5)");
  EXPECT_TRUE(c.same_bits(before));
}

}  // namespace product_test
