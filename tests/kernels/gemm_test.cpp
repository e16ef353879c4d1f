#include <lora/kernels/gemm.hpp>

#include <support/allocations.hpp>
#include <support/product_reference.hpp>

#include <thread>

namespace {
using namespace lora_test;
using lora::kernels::gemm_columns;
using lora::kernels::gemm_depth;
using lora::kernels::gemm_tile;
using lora::kernels::GemmTile;

template <class S>
void run(const View<S>& a, const View<S>& b, const MutableView<S>& c, bool add) {
  gemm_tile<S>(c.rows, c.cols, a.cols, a.data, a.row_stride, a.col_stride, b.data, b.row_stride,
               b.col_stride, c.data, c.row_stride, add);
}

template <class S>
class Gemm : public testing::Test {
 public:
  // C (+)= A B against plain loops, and nothing beside C touched.
  static void check(Index m, Index n, Index k, Storage of_a, Storage of_b, bool add) {
    const Operand<S> a(m, k, "a", of_a), b(k, n, "b", of_b), before(m, n, "c");
    Guarded<S> c(m, n, 3, 5);
    Reference<S> expected(m, n);
    if (add) {
      for (Index i = 0; i < m; ++i) {
        for (Index j = 0; j < n; ++j) {
          c.at(i, j) = before.view.data[i * n + j];
          expected.add(i, j, c.at(i, j));
        }
      }
    }
    expected.add_product(a.view, b.view);
    run(a.view, b.view, c.view(), add);
    const std::string where =
        "m=" + std::to_string(m) + " n=" + std::to_string(n) + " k=" + std::to_string(k) +
        " a=" + std::to_string(static_cast<int>(of_a)) +
        " b=" + std::to_string(static_cast<int>(of_b)) + (add ? " added" : "");
    EXPECT_TRUE(within(c.view(), expected, product_roundings<S>(k, add ? 1 : 0))) << where;
    EXPECT_TRUE(c.untouched()) << where;
  }
};

using Scalars = testing::Types<float, double, std::complex<double>>;
TYPED_TEST_SUITE(Gemm, Scalars);

TYPED_TEST(Gemm, EveryRemainderOfTheTile) {
  using Tile = GemmTile<TypeParam>;
  for (Index m = 1; m <= 2 * Tile::rows + 1; ++m) {
    for (Index n = 1; n <= 2 * Tile::cols + 1; ++n) {
      for (const Index k : {1, 2, 3, 7}) {
        for (const Storage of_b : {Storage::contiguous, Storage::transposed}) {
          for (const bool add : {false, true}) this->check(m, n, k, Storage::contiguous, of_b, add);
        }
      }
    }
  }
}

TYPED_TEST(Gemm, EveryStorageOfBothOperands) {
  for (const Storage of_a : all_storages) {
    for (const Storage of_b : all_storages) {
      for (const bool add : {false, true}) {
        this->check(5, 11, 6, of_a, of_b, add);
        this->check(9, 33, 19, of_a, of_b, add);
      }
    }
  }
}

TYPED_TEST(Gemm, DepthsAroundABlock) {
  for (const Index k : {gemm_depth - 1, gemm_depth, gemm_depth + 1, 2 * gemm_depth - 1,
                        2 * gemm_depth, 3 * gemm_depth + 7}) {
    for (const Storage of_b : {Storage::contiguous, Storage::transposed}) {
      for (const bool add : {false, true}) {
        this->check(3, GemmTile<TypeParam>::cols, k, Storage::contiguous, of_b, add);
        this->check(6, 13, k, Storage::transposed, of_b, add);
      }
    }
  }
}

TYPED_TEST(Gemm, ManyColumns) {
  for (const Index n : {gemm_columns - 1, gemm_columns, gemm_columns + 1}) {
    for (const Storage of_b : all_storages)
      this->check(7, n, gemm_depth + 5, Storage::wide_rows, of_b, false);
  }
}

TYPED_TEST(Gemm, RandomSizes) {
  const lora::RandomStream stream(5, "sizes");
  for (std::uint64_t i = 0; i < 60; ++i) {
    const auto pick = [&](std::uint64_t which, Index n) { return stream.below(6 * i + which, n); };
    this->check(1 + pick(0, 40), 1 + pick(1, gemm_columns), 1 + pick(2, 600),
                all_storages[pick(3, 5)], all_storages[pick(4, 5)], pick(5, 2) == 1);
  }
}

TYPED_TEST(Gemm, NoRowsOrColumnsTouchesNothing) {
  using S = TypeParam;
  for (const auto& [m, n] : {std::pair<Index, Index>{0, 5}, {5, 0}, {0, 0}}) {
    const Operand<S> a(m, 4, "a"), b(4, n, "b");
    Guarded<S> c(m, n, 3, 5);
    run(a.view, b.view, c.view(), false);
    EXPECT_TRUE(c.untouched());
  }
}

// What stands in C is not even read when it is replaced.
TYPED_TEST(Gemm, ReplacesNaN) {
  using S = TypeParam;
  const Operand<S> a(6, 5, "a"), b(5, 19, "b");
  Guarded<S> c(6, 19);
  for (S& x : c.memory) x = S(std::numeric_limits<double>::quiet_NaN());
  Reference<S> expected(6, 19);
  expected.add_product(a.view, b.view);
  run(a.view, b.view, c.view(), false);
  EXPECT_TRUE(within(c.view(), expected, product_roundings<S>(5)));
}

template <class S>
bool is_nan(const S& x) {
  if constexpr (Wider<S>::is_complex)
    return std::isnan(x.real()) || std::isnan(x.imag());
  else
    return std::isnan(x);
}

// A NaN, or an infinity that meets a zero, reaches its row or column of C and nothing else.
TYPED_TEST(Gemm, NonFiniteNumbersGoThrough) {
  using S = TypeParam;
  const Index m = 9, n = 19, k = gemm_depth + 3;
  const double infinity = std::numeric_limits<double>::infinity();
  for (const double bad : {std::numeric_limits<double>::quiet_NaN(), infinity, -infinity}) {
    for (const Index at : {Index{0}, gemm_depth + 1}) {
      for (const Storage of_b : {Storage::contiguous, Storage::transposed}) {
        for (const Index spot : {0, 3, 8}) {
          Operand<S> a(m, k, "a"), b(k, n, "b", of_b);
          a.set(spot, at, S(bad));
          for (Index j = 0; j < n; ++j) b.set(at, j, S(0));
          Guarded<S> c(m, n, 2, 1);
          run(a.view, b.view, c.view(), false);
          for (Index i = 0; i < m; ++i) {
            for (Index j = 0; j < n; ++j) EXPECT_EQ(is_nan(c.at(i, j)), i == spot);
          }
        }
        for (const Index spot : {Index{0}, Index{7}, Index{8}, n - 1}) {
          Operand<S> a(m, k, "a"), b(k, n, "b", of_b);
          b.set(at, spot, S(bad));
          for (Index i = 0; i < m; ++i) a.set(i, at, S(0));
          Guarded<S> c(m, n, 2, 1);
          run(a.view, b.view, c.view(), false);
          for (Index i = 0; i < m; ++i) {
            for (Index j = 0; j < n; ++j) EXPECT_EQ(is_nan(c.at(i, j)), j == spot);
          }
          EXPECT_TRUE(c.untouched());
        }
      }
    }
  }
}

TEST(GemmReal, InfinityKeepsItsSignAndOverflowIsInfinity) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const Index n : {1, 8, 11}) {
    Operand<float> a(2, 4, "a"), b(4, n, "b");
    for (Index j = 0; j < n; ++j) b.set(2, j, j % 2 == 0 ? 2.0f : -2.0f);
    a.set(0, 2, infinity);
    a.set(1, 2, std::numeric_limits<float>::max());
    Guarded<float> c(2, n);
    run(a.view, b.view, c.view(), false);
    for (Index i = 0; i < 2; ++i) {
      for (Index j = 0; j < n; ++j) EXPECT_EQ(c.at(i, j), j % 2 == 0 ? infinity : -infinity);
    }
  }
}

// Bits depend on k alone: neither on the tile an element falls into, nor on its neighbours, nor on
// how the operands are stored.
TYPED_TEST(Gemm, SameBitsForAnySplitAndStorage) {
  using S = TypeParam;
  const Index m = 11, n = 29, k = gemm_depth + 31;
  const Operand<S> a(m, k, "a"), b(k, n, "b");
  for (const bool add : {false, true}) {
    const auto fresh = [&] {
      Guarded<S> c(m, n);
      for (Index i = 0; i < m; ++i) {
        for (Index j = 0; j < n; ++j) c.at(i, j) = S(static_cast<double>(i - j) / 3);
      }
      return c;
    };
    Guarded<S> whole = fresh();
    run(a.view, b.view, whole.view(), add);
    for (const Storage of_a : all_storages) {
      for (const Storage of_b : all_storages) {
        const Operand<S> a2(m, k, "a", of_a), b2(k, n, "b", of_b);
        Guarded<S> c = fresh();
        run(a2.view, b2.view, c.view(), add);
        EXPECT_TRUE(c.same_bits(whole));
      }
    }
    for (Index cut = 1; cut < m; ++cut) {
      Guarded<S> c = fresh();
      for (const auto& [first, count] : {std::pair<Index, Index>{0, cut}, {cut, m - cut}})
        run(a.view.middle_rows(first, count), b.view, c.view().middle_rows(first, count), add);
      EXPECT_TRUE(c.same_bits(whole)) << "rows cut at " << cut;
    }
    for (Index cut = 1; cut < n; ++cut) {
      Guarded<S> c = fresh();
      for (const auto& [first, count] : {std::pair<Index, Index>{0, cut}, {cut, n - cut}})
        run(a.view, b.view.middle_cols(first, count), c.view().middle_cols(first, count), add);
      EXPECT_TRUE(c.same_bits(whole)) << "columns cut at " << cut;
    }
  }
}

// Small whole numbers are exact in every order, so a product of them is exact.
TYPED_TEST(Gemm, WholeNumbersAreExact) {
  using S = TypeParam;
  const Index m = 7, n = 21, k = 300;
  Operand<S> a(m, k, "a"), b(k, n, "b");
  for (Index i = 0; i < m; ++i) {
    for (Index j = 0; j < k; ++j) a.set(i, j, S(static_cast<double>((7 * i + 3 * j) % 11 - 5)));
  }
  for (Index i = 0; i < k; ++i) {
    for (Index j = 0; j < n; ++j) b.set(i, j, S(static_cast<double>((5 * i + 2 * j) % 13 - 6)));
  }
  Guarded<S> c(m, n);
  run(a.view, b.view, c.view(), false);
  Reference<S> expected(m, n);
  expected.add_product(a.view, b.view);
  EXPECT_TRUE(within(c.view(), expected, 0));
  for (Index i = 0; i < m; ++i) {
    for (Index j = 0; j < n; ++j) {
      const auto exact = expected.value[static_cast<std::size_t>(i * n + j)];
      EXPECT_EQ(typename Wider<S>::type(c.at(i, j)), exact);
    }
  }
}

TYPED_TEST(Gemm, AllocatesNothingEvenOnANewThread) {
  LORA_NEEDS_ALLOCATION_COUNTS();
  using S = TypeParam;
  const Operand<S> a(9, 300, "a"), b(300, 45, "b", Storage::transposed), direct(300, 45, "b");
  Guarded<S> c(9, 45);
  lora_test::Allocations made;
  std::thread([&] {
    lora_test::AllocationCounter counter;
    run(a.view, b.view, c.view(), false);
    run(a.view, direct.view, c.view(), true);
    made = counter.stop();
  }).join();
  EXPECT_EQ(made.calls, 0u);
}

}  // namespace
