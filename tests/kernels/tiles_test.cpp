#include <lora/kernels/tiles.hpp>

#include <support/instruction_sets.hpp>
#include <support/kernel_tables.hpp>
#include <support/product_reference.hpp>

#if defined(__unix__)
#include <support/page_end.hpp>
#endif

namespace tiles_test {
using namespace lora_test;
namespace kernels = lora::kernels;
using kernels::slab_columns;
using kernels::slab_depth;
using kernels::slab_group;

/// C (+)= A B by the kernels, B brought into slabs of exactly the size that is read.
template <class Table, class S = typename Table::Scalar>
void run(const View<S>& a, const View<S>& b, const MutableView<S>& c, bool add) {
  for (Index n = 0; n < c.cols; n += slab_columns) {
    const Index cols = std::min(slab_columns, c.cols - n);
    const Index whole = (cols + slab_group - 1) / slab_group * slab_group;
    bool adds = add;
    for (Index k = 0; k < a.cols; k += slab_depth<S>, adds = true) {
      const Index depth = std::min(slab_depth<S>, a.cols - k);
      std::vector<S> slab(static_cast<std::size_t>((depth - 1) * slab_columns + whole));
      const View<S> part = b.middle_rows(k, depth).middle_cols(n, cols);
      if (part.row_stride == 1) {
        Table::with.transpose(depth, cols, part.data, part.col_stride, slab.data());
      } else if (part.col_stride == 1) {
        Table::with.copy(depth, cols, part.data, part.row_stride, slab.data());
      } else {
        for (Index i = 0; i < depth; ++i) {
          for (Index j = 0; j < cols; ++j)
            slab[static_cast<std::size_t>(i * slab_columns + j)] =
                part.data[i * part.row_stride + j * part.col_stride];
        }
      }
      Table::with.multiply({c.rows,
                            cols,
                            {depth, a.data + k * a.col_stride, a.row_stride, a.col_stride,
                             slab.data(), slab_columns},
                            c.data + n,
                            c.row_stride,
                            adds});
    }
  }
}

template <class Table>
class Tiles : public KernelTest<Table> {
 public:
  // C (+)= A B against plain loops, and nothing beside C touched.
  static void check(Index m, Index n, Index k, Storage of_a, Storage of_b, bool add) {
    using S = typename Table::Scalar;
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
    run<Table>(a.view, b.view, c.view(), add);
    const std::string where =
        "m=" + std::to_string(m) + " n=" + std::to_string(n) + " k=" + std::to_string(k) +
        " a=" + std::to_string(static_cast<int>(of_a)) +
        " b=" + std::to_string(static_cast<int>(of_b)) + (add ? " added" : "");
    EXPECT_TRUE(within(c.view(), expected, product_roundings<S>(k, add ? 1 : 0))) << where;
    EXPECT_TRUE(c.untouched()) << where;
  }
};

TYPED_TEST_SUITE(Tiles, KernelTables);

TYPED_TEST(Tiles, EveryRemainderOfTheTile) {
  for (Index m = 1; m <= 2 * TypeParam::rows + 1; ++m) {
    for (Index n = 1; n <= 2 * slab_columns + 1; n += n < slab_columns + 2 ? 1 : 7) {
      for (const Index k : {1, 3}) {
        for (const Storage of_b : {Storage::contiguous, Storage::transposed}) {
          for (const bool add : {false, true}) this->check(m, n, k, Storage::contiguous, of_b, add);
        }
      }
    }
  }
}

TYPED_TEST(Tiles, EveryStorageOfBothOperands) {
  for (const Storage of_a : all_storages) {
    for (const Storage of_b : all_storages) {
      for (const bool add : {false, true}) {
        this->check(5, 11, 6, of_a, of_b, add);
        this->check(9, 33, 19, of_a, of_b, add);
      }
    }
  }
}

TYPED_TEST(Tiles, DepthsAroundABlock) {
  constexpr Index deep = slab_depth<typename TypeParam::Scalar>;
  for (const Index k : {deep - 1, deep, deep + 1, 2 * deep - 1, 2 * deep, 3 * deep + 7}) {
    for (const Storage of_b : {Storage::contiguous, Storage::transposed}) {
      for (const bool add : {false, true}) {
        this->check(3, slab_columns, k, Storage::contiguous, of_b, add);
        this->check(6, 13, k, Storage::transposed, of_b, add);
      }
    }
  }
}

TYPED_TEST(Tiles, ManyColumns) {
  constexpr Index deep = slab_depth<typename TypeParam::Scalar>;
  for (const Index n : {slab_columns - 1, slab_columns, slab_columns + 1}) {
    for (const Storage of_b : all_storages)
      this->check(7, n, deep + 5, Storage::wide_rows, of_b, false);
  }
}

TYPED_TEST(Tiles, RandomSizes) {
  const lora::RandomStream stream(5, "sizes");
  for (std::uint64_t i = 0; i < 60; ++i) {
    const auto pick = [&](std::uint64_t which, Index n) { return stream.below(6 * i + which, n); };
    this->check(1 + pick(0, 40), 1 + pick(1, slab_columns), 1 + pick(2, 600),
                all_storages[pick(3, 5)], all_storages[pick(4, 5)], pick(5, 2) == 1);
  }
}

TYPED_TEST(Tiles, NoRowsOrColumnsTouchesNothing) {
  using S = typename TypeParam::Scalar;
  for (const auto& [m, n] : {std::pair<Index, Index>{0, 5}, {5, 0}, {0, 0}}) {
    const Operand<S> a(m, 4, "a"), b(4, n, "b");
    Guarded<S> c(m, n, 3, 5);
    run<TypeParam>(a.view, b.view, c.view(), false);
    EXPECT_TRUE(c.untouched());
  }
}

// What stands in C is not even read when it is replaced.
TYPED_TEST(Tiles, ReplacesNaN) {
  using S = typename TypeParam::Scalar;
  const Operand<S> a(6, 5, "a"), b(5, 19, "b");
  Guarded<S> c(6, 19);
  for (S& x : c.memory) x = S(std::numeric_limits<double>::quiet_NaN());
  Reference<S> expected(6, 19);
  expected.add_product(a.view, b.view);
  run<TypeParam>(a.view, b.view, c.view(), false);
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
TYPED_TEST(Tiles, NonFiniteNumbersGoThrough) {
  using S = typename TypeParam::Scalar;
  constexpr Index deep = slab_depth<S>;
  const Index m = 9, n = 19, k = deep + 3;
  const double infinity = std::numeric_limits<double>::infinity();
  for (const double bad : {std::numeric_limits<double>::quiet_NaN(), infinity, -infinity}) {
    for (const Index at : {Index{0}, deep + 1}) {
      for (const Storage of_b : {Storage::contiguous, Storage::transposed}) {
        for (const Index spot : {0, 3, 8}) {
          Operand<S> a(m, k, "a"), b(k, n, "b", of_b);
          a.set(spot, at, S(bad));
          for (Index j = 0; j < n; ++j) b.set(at, j, S(0));
          Guarded<S> c(m, n, 2, 1);
          run<TypeParam>(a.view, b.view, c.view(), false);
          for (Index i = 0; i < m; ++i) {
            for (Index j = 0; j < n; ++j) EXPECT_EQ(is_nan(c.at(i, j)), i == spot);
          }
        }
        for (const Index spot : {Index{0}, Index{7}, Index{8}, n - 1}) {
          Operand<S> a(m, k, "a"), b(k, n, "b", of_b);
          b.set(at, spot, S(bad));
          for (Index i = 0; i < m; ++i) a.set(i, at, S(0));
          Guarded<S> c(m, n, 2, 1);
          run<TypeParam>(a.view, b.view, c.view(), false);
          for (Index i = 0; i < m; ++i) {
            for (Index j = 0; j < n; ++j) EXPECT_EQ(is_nan(c.at(i, j)), j == spot);
          }
          EXPECT_TRUE(c.untouched());
        }
      }
    }
  }
}

TYPED_TEST(Tiles, InfinityKeepsItsSignAndOverflowIsInfinity) {
  using S = typename TypeParam::Scalar;
  if constexpr (!Wider<S>::is_complex) {
    const S infinity = std::numeric_limits<S>::infinity();
    for (const Index n : {1, 8, 11}) {
      Operand<S> a(2, 4, "a"), b(4, n, "b");
      for (Index j = 0; j < n; ++j) b.set(2, j, j % 2 == 0 ? S(2) : -S(2));
      a.set(0, 2, infinity);
      a.set(1, 2, std::numeric_limits<S>::max());
      Guarded<S> c(2, n);
      run<TypeParam>(a.view, b.view, c.view(), false);
      for (Index i = 0; i < 2; ++i) {
        for (Index j = 0; j < n; ++j) EXPECT_EQ(c.at(i, j), j % 2 == 0 ? infinity : -infinity);
      }
    }
  }
}

// Bits depend on k alone: neither on the tile an element falls into, nor on its neighbours, nor on
// how the operands are stored.
TYPED_TEST(Tiles, SameBitsForAnySplitAndStorage) {
  using S = typename TypeParam::Scalar;
  const Index m = 11, n = 29, k = slab_depth<S> + 31;
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
    run<TypeParam>(a.view, b.view, whole.view(), add);
    for (const Storage of_a : all_storages) {
      for (const Storage of_b : all_storages) {
        const Operand<S> a2(m, k, "a", of_a), b2(k, n, "b", of_b);
        Guarded<S> c = fresh();
        run<TypeParam>(a2.view, b2.view, c.view(), add);
        EXPECT_TRUE(c.same_bits(whole));
      }
    }
    for (Index cut = 1; cut < m; ++cut) {
      Guarded<S> c = fresh();
      for (const auto& [first, count] : {std::pair<Index, Index>{0, cut}, {cut, m - cut}})
        run<TypeParam>(a.view.middle_rows(first, count), b.view, c.view().middle_rows(first, count),
                       add);
      EXPECT_TRUE(c.same_bits(whole)) << "rows cut at " << cut;
    }
    for (Index cut = 1; cut < n; ++cut) {
      Guarded<S> c = fresh();
      for (const auto& [first, count] : {std::pair<Index, Index>{0, cut}, {cut, n - cut}})
        run<TypeParam>(a.view, b.view.middle_cols(first, count), c.view().middle_cols(first, count),
                       add);
      EXPECT_TRUE(c.same_bits(whole)) << "columns cut at " << cut;
    }
  }
}

// Small whole numbers are exact in every order, so a product of them is exact.
TYPED_TEST(Tiles, WholeNumbersAreExact) {
  using S = typename TypeParam::Scalar;
  const Index m = 7, n = 21, k = 300;
  Operand<S> a(m, k, "a"), b(k, n, "b");
  for (Index i = 0; i < m; ++i) {
    for (Index j = 0; j < k; ++j) a.set(i, j, S(static_cast<double>((7 * i + 3 * j) % 11 - 5)));
  }
  for (Index i = 0; i < k; ++i) {
    for (Index j = 0; j < n; ++j) b.set(i, j, S(static_cast<double>((5 * i + 2 * j) % 13 - 6)));
  }
  Guarded<S> c(m, n);
  run<TypeParam>(a.view, b.view, c.view(), false);
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

// One chain an element: cutting k gives the same bits too.
TYPED_TEST(Tiles, SameBitsForAnyCutOfK) {
  using S = typename TypeParam::Scalar;
  const Index m = 9, n = 50, k = 41;
  const Operand<S> a(m, k, "a"), b(k, n, "b");
  Guarded<S> whole(m, n);
  run<TypeParam>(a.view, b.view, whole.view(), false);
  for (Index cut = 1; cut < k; ++cut) {
    Guarded<S> c(m, n);
    run<TypeParam>(a.view.middle_cols(0, cut), b.view.middle_rows(0, cut), c.view(), false);
    run<TypeParam>(a.view.middle_cols(cut, k - cut), b.view.middle_rows(cut, k - cut), c.view(),
                   true);
    EXPECT_TRUE(c.same_bits(whole)) << cut;
  }
}

// The bytes of B come out transposed, the columns up to a whole group are zero, and nothing else is
// written.
TYPED_TEST(Tiles, Transpose) {
  using S = typename TypeParam::Scalar;
  const Operand<S> values(slab_columns + 1, 52, "b");
  const S* b = values.memory.data() + 1;
  for (const Index depth : {1, 2, 4, 7, 8, 15, 16, 17, 33, 48}) {
    for (Index cols = 1; cols <= slab_columns; ++cols) {
      const Index b_row = depth + 3;
      std::vector<S> slab(static_cast<std::size_t>(depth * slab_columns), S(-7));
      TypeParam::with.transpose(depth, cols, b, b_row, slab.data());
      Guarded<S> out(depth, cols, 3, 5);
      TypeParam::with.transpose_out(depth, cols, b, b_row, out.data(), out.stride);
      EXPECT_TRUE(out.untouched());
      const Index whole = (cols + slab_group - 1) / slab_group * slab_group;
      for (Index k = 0; k < depth; ++k) {
        for (Index j = 0; j < slab_columns; ++j) {
          const S got = slab[static_cast<std::size_t>(k * slab_columns + j)];
          const S want = j < cols ? b[j * b_row + k] : j < whole ? S(0) : S(-7);
          ASSERT_EQ(got, want) << depth << " x " << cols << " at " << k << ", " << j;
          if (j < cols) {
            ASSERT_EQ(out.at(k, j), want) << depth << " x " << cols << " at " << k << ", " << j;
          }
        }
      }
    }
  }
}

/// few() against multiply() over the same numbers: the same chains, so the same bits.
template <class S, class B, class Fn>
void check_few(Fn few, decltype(kernels::ProductKernels<S>::multiply) multiply,
               const std::vector<B>& values) {
  for (Index rows = 1; rows <= kernels::few_rows; ++rows) {
    for (const Index cols : {16, 32, 48}) {
      for (const Index depth : {16, 48, 64}) {
        for (const bool add : {false, true}) {
          const Index b_row = depth + 3;
          const B* b = values.data() + 1;
          const Operand<S> a(rows, depth, "a", Storage::wide_rows);
          std::vector<S> slab(static_cast<std::size_t>(depth * slab_columns));
          for (Index k = 0; k < depth; ++k) {
            for (Index j = 0; j < cols; ++j)
              slab[static_cast<std::size_t>(k * slab_columns + j)] =
                  kernels::to_scalar<S>(b[j * b_row + k]);
          }
          Guarded<S> c(rows, cols, 3, 5), expected(rows, cols, 3, 5);
          for (Index i = 0; i < rows; ++i) {
            for (Index j = 0; j < cols; ++j)
              c.at(i, j) = expected.at(i, j) = S(static_cast<double>(i - j) / 3);
          }
          multiply({rows,
                    cols,
                    {depth, a.view.data, a.view.row_stride, 1, slab.data(), slab_columns},
                    expected.data(),
                    expected.stride,
                    add});
          few({rows, cols, depth, a.view.data, a.view.row_stride, b, b_row, c.data(), c.stride,
               add});
          ASSERT_TRUE(c.same_bits(expected)) << rows << " " << cols << " " << depth;
          ASSERT_TRUE(c.untouched());
        }
      }
    }
  }
}

TYPED_TEST(Tiles, FewRows) {
  using S = typename TypeParam::Scalar;
  const Operand<S> values(slab_columns + 1, 68, "b");
  check_few<S>(TypeParam::with.few, TypeParam::with.multiply, values.memory);
}

TEST(TilesBF16, WidensEveryPatternExactly) {
  std::vector<kernels::BF16> stored(65536 + 16);
  for (std::size_t i = 0; i < stored.size(); ++i) stored[i].bits = static_cast<std::uint16_t>(i);
  std::vector<float> floats(stored.size());
  for_each_isa([&](const char* name) {
    // No alignment is needed.
    kernels::bf16_kernels<>().widen(65536, stored.data() + 1, floats.data() + 3);
    for (std::size_t i = 0; i < 65536; ++i) {
      const std::uint32_t bits = static_cast<std::uint32_t>(stored[i + 1].bits) << 16;
      ASSERT_EQ(std::memcmp(&floats[i + 3], &bits, 4), 0) << name << " " << i;
    }
  });
}

TEST(TilesBF16, FewRows) {
  std::vector<kernels::BF16> stored(68 * 49);
  for (std::size_t i = 0; i < stored.size(); ++i)
    stored[i].bits = static_cast<std::uint16_t>(0x3F80 + 7 * i % 300);
  for_each_isa([&](const char* name) {
    SCOPED_TRACE(name);
    check_few<float>(kernels::bf16_kernels<>().few, kernels::product_kernels<float>().multiply,
                     stored);
  });
}

#if defined(__unix__)
// Nothing is read past the last element of A, of B's last group or of what is transposed, and
// nothing written past the last of C.
TYPED_TEST(Tiles, TouchesNothingPastTheEnds) {
  using S = typename TypeParam::Scalar;
  for (const Index rows : {1, 2, 3, 5, 7, 8, 13}) {
    for (const Index cols : {1, 5, 15, 16, 17, 33, 47, 48}) {
      const Index depth = 9, whole = (cols + slab_group - 1) / slab_group * slab_group;
      const AtPageEnd<S> a(rows * depth), b((depth - 1) * slab_columns + whole), c(rows * cols);
      TypeParam::with.multiply({rows,
                                cols,
                                {depth, a.data, depth, 1, b.data, slab_columns},
                                c.data,
                                cols,
                                rows % 2 == 0});
      const AtPageEnd<S> from(cols * depth), slab((depth - 1) * slab_columns + whole);
      TypeParam::with.transpose(depth, cols, from.data, depth, slab.data);
      TypeParam::with.copy(depth, cols, from.data, cols, slab.data);
      const AtPageEnd<S> out((depth - 1) * cols + cols);
      TypeParam::with.transpose_out(depth, cols, from.data, depth, out.data, cols);
    }
  }
}
#endif

}  // namespace tiles_test
