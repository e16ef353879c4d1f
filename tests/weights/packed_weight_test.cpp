// Packed storages against the dense one, which product_test and frozen_weight_test hold against
// plain loops: the same chains, so the same bits.
#include <lora/weights/frozen_weight.hpp>

#include <support/allocations.hpp>
#include <support/instruction_sets.hpp>
#include <support/product_reference.hpp>
#include <support/threads.hpp>

#if defined(__unix__)
#include <support/page_end.hpp>
#endif

#include <thread>

namespace packed_weight_test {
using namespace lora;
using namespace lora_test;
using Weight = FrozenWeight<float>;

Matrix<float> random(Index rows, Index cols, std::string_view name) {
  const Operand<float> values(rows, cols, name);
  return Eigen::Map<const Matrix<float>>(values.view.data, rows, cols);
}
Matrix<float> rounded_to_bf16(Matrix<float> m) {
  for (Index i = 0; i < m.size(); ++i) m.data()[i] = bf16_to_float(float_to_bf16(m.data()[i]));
  return m;
}
Matrix<float> expected_values(const Matrix<float>& w, Precision precision) {
  return precision == Precision::float32 ? w : rounded_to_bf16(w);
}
testing::AssertionResult same_bits(const Matrix<float>& a, const Matrix<float>& b) {
  if (a.rows() != b.rows() || a.cols() != b.cols())
    return testing::AssertionFailure() << "another shape";
  for (Index i = 0; i < a.size(); ++i) {
    if (std::memcmp(a.data() + i, b.data() + i, sizeof(float)) != 0) {
      return testing::AssertionFailure()
             << "element " << i << " is " << a.data()[i] << ", expected " << b.data()[i];
    }
  }
  return testing::AssertionSuccess();
}
Matrix<double> magnitudes(const Matrix<float>& m) { return m.cast<double>().cwiseAbs(); }

/// The same bits; where pairs are multiplied (avx512bf16), whose products are added in another
/// order, within what two sums of k terms of these magnitudes may differ by.
testing::AssertionResult same_sums(const Matrix<float>& a, const Matrix<float>& b,
                                   const Matrix<double>& magnitude, Index k, bool pairs) {
  if (!pairs) return same_bits(a, b);
  for (Index i = 0; i < a.size(); ++i) {
    const double difference = static_cast<double>(a.data()[i]) - static_cast<double>(b.data()[i]);
    const double bound = 2 * gamma(product_roundings<float>(k, 1), 0x1p-24) * magnitude.data()[i];
    if (!(std::abs(difference) <= bound)) {
      return testing::AssertionFailure() << "element " << i << " is " << a.data()[i]
                                         << ", expected " << b.data()[i] << " within " << bound;
    }
  }
  return testing::AssertionSuccess();
}
constexpr Precision both[] = {Precision::float32, Precision::bfloat16};

/// Both products of a packed weight, with terms on some rows, against the dense weight.
void check(Index T, Index O, Index D, Precision precision, Layout layout) {
  SCOPED_TRACE("T=" + std::to_string(T) + " O=" + std::to_string(O) + " D=" + std::to_string(D));
  const Matrix<float> w = random(O, D, "w");
  const Matrix<float> given = layout == Layout::out_in ? w : Matrix<float>(w.transpose());
  const Weight packed = Weight::pack(given, precision, layout);
  const Weight dense(expected_values(given, precision), layout);
  EXPECT_EQ(packed.rows(), O);
  EXPECT_EQ(packed.cols(), D);
  EXPECT_EQ(packed.layout(), layout);
  EXPECT_TRUE(same_bits(packed.stored(), expected_values(given, precision)));

  const Index r = 3, from = T / 3;
  const Matrix<float> x = random(T, D, "x"), dy = random(T, O, "dy"), h = random(T - from, r, "h"),
                      B = random(O, r, "B"), A = random(r, D, "A");
  const LowRank<float> up[] = {{View<float>(h), View<float>(B).transposed(), from}};
  const LowRank<float> down[] = {{View<float>(h), View<float>(A), from}};
  Matrix<float> y(T, O), y2(T, O), dx = random(T, D, "dx"), dx2 = dx;
  const bool pairs = precision == Precision::bfloat16 && isa() == Isa::avx512bf16;
  const Matrix<float> rx = pairs ? rounded_to_bf16(x) : x, rdy = pairs ? rounded_to_bf16(dy) : dy;
  Matrix<double> size = magnitudes(rx) * magnitudes(w).transpose(),
                 dsize = magnitudes(rdy) * magnitudes(w) + magnitudes(dx);
  size.bottomRows(T - from) += magnitudes(h) * magnitudes(B).transpose();
  dsize.bottomRows(T - from) += magnitudes(h) * magnitudes(A);
  packed.multiply(x, y, up);
  dense.multiply(rx, y2, up);
  EXPECT_TRUE(same_sums(y, y2, size, D + r, pairs));
  packed.multiply_transposed(dy, dx, Accumulate::yes, down);
  dense.multiply_transposed(rdy, dx2, Accumulate::yes, down);
  EXPECT_TRUE(same_sums(dx, dx2, dsize, O + r, pairs)) << "added";
  packed.multiply_transposed(dy, dx, Accumulate::no);
  dense.multiply_transposed(rdy, dx2, Accumulate::no);
  EXPECT_TRUE(same_sums(dx, dx2, dsize, O, pairs)) << "replaced";
}

TEST(PackedWeight, EqualsTheDenseOneBitForBit) {
  lora_test::for_each_isa([](const char* name) {
    SCOPED_TRACE(name);
    for (const Precision precision : both) {
      for (const Index O : {1, 15, 16, 17, 47, 48, 49, 96, 97, 130}) {
        for (const Index D : {1, 5, 16, 47, 48, 50})
          check(9, O, D, precision, O % 2 == 0 ? Layout::in_out : Layout::out_in);
      }
    }
  });
}

// Several slabs of k, panels that lie apart, and more tokens and columns than a piece of dx has:
// the terms begin inside the first piece and cover the others.
TEST(PackedWeight, DeepAndManyRows) {
  const Threads use(3);
  lora_test::for_each_isa([](const char* name) {
    SCOPED_TRACE(name);
    for (const Precision precision : both) {
      check(131, 53, 810, precision, Layout::out_in);
      check(2, 797, 61, precision, Layout::in_out);
      check(1, 400, 390, precision, Layout::out_in);
      check(611, 437, 210, precision, Layout::out_in);
      check(290, 37, 400, precision, Layout::out_in);
    }
  });
}

TEST(PackedWeight, NoTokensRowsOrColumns) {
  for (const Precision precision : both) {
    check(0, 20, 30, precision, Layout::out_in);
    check(4, 0, 7, precision, Layout::out_in);
    check(4, 50, 0, precision, Layout::out_in);
    check(4, 50, 0, precision, Layout::in_out);
  }
}

// A rank that is not added while the tiles are in registers, none at all, and several terms at once.
TEST(PackedWeight, LargeRanksAndSeveralTerms) {
  const Matrix<float> w = random(70, 60, "w"), x = random(20, 60, "x"), dy = random(20, 70, "dy");
  const Weight packed = Weight::pack(w), dense(w);
  for (const Index r : {0, 127, 128, 129, 500}) {
    const Matrix<float> h = random(20, r, "h"), B = random(70, r, "B"), g = random(7, 2, "g"),
                        C = random(70, 2, "C"), A = random(r, 60, "A"), E = random(2, 60, "E");
    const LowRank<float> terms[] = {{View<float>(h), View<float>(B).transposed(), 0},
                                    {View<float>(g), View<float>(C).transposed(), 13}};
    Matrix<float> y(20, 70), y2(20, 70);
    packed.multiply(x, y, terms);
    dense.multiply(x, y2, terms);
    EXPECT_TRUE(same_bits(y, y2)) << r;
    const LowRank<float> back[] = {{View<float>(h), View<float>(A), 0},
                                   {View<float>(g), View<float>(E), 13}};
    Matrix<float> dx(20, 60), dx2(20, 60);
    packed.multiply_transposed(dy, dx, Accumulate::no, back);
    dense.multiply_transposed(dy, dx2, Accumulate::no, back);
    EXPECT_TRUE(same_bits(dx, dx2)) << r;
  }
}

TEST(PackedWeight, TheSecondOrientationGivesTheSameBits) {
  for (const Precision precision : both) {
    for (const auto& [O, D] : {std::pair<Index, Index>{49, 65}, {96, 48}, {1, 7}, {130, 1}}) {
      const Matrix<float> w = random(O, D, "w");
      const Weight one = Weight::pack(w, precision),
                   two = Weight::pack(w, precision, Layout::out_in, Orientations::both);
      EXPECT_GT(two.bytes(), one.bytes());
      EXPECT_TRUE(same_bits(two.stored(), one.stored()));
      const Matrix<float> left = random(O, 3, "left"), right = random(3, D, "right");
      const std::vector<LowRankDelta<float>> deltas = {
          {0.5f, View<float>(left), View<float>(right)}};
      const Weight merged_one = one.plus(deltas), merged_two = two.plus(deltas);
      for (const Index T : {0, 1, 5, 8, 9, 40}) {
        const Matrix<float> x = random(T, D, "x"), dy = random(T, O, "dy"), h = random(T, 3, "h");
        const std::vector<LowRank<float>> terms = {{View<float>(h), View<float>(right), 0}};
        for (const Accumulate add : {Accumulate::no, Accumulate::yes}) {
          Matrix<float> a = random(T, D, "a"), b = a, c = a, d = a;
          one.multiply_transposed(dy, a, add, terms);
          two.multiply_transposed(dy, b, add, terms);
          EXPECT_TRUE(same_bits(a, b)) << O << " x " << D << ", T " << T;
          merged_one.multiply_transposed(dy, c, add);
          merged_two.multiply_transposed(dy, d, add);
          EXPECT_TRUE(same_bits(c, d)) << O << " x " << D << ", T " << T << ", merged";
        }
        Matrix<float> y(T, O), z(T, O);
        one.multiply(x, y);
        two.multiply(x, z);
        EXPECT_TRUE(same_bits(y, z));
      }
    }
  }
  const std::vector<std::uint16_t> halves(6, 0x3F80);
  const Weight ones = Weight::pack(halves.data(), HalfFormat::bfloat16, 2, 3, Precision::bfloat16,
                                   Layout::out_in, Orientations::both);
  Matrix<float> dx(1, 3);
  ones.multiply_transposed(Matrix<float>::Ones(1, 2), dx);
  EXPECT_EQ(dx, Matrix<float>::Constant(1, 3, 2));
}

TEST(PackedWeight, CopiesRows) {
  const Matrix<float> w = random(50, 7, "w");
  for (const Precision precision : both) {
    const Weight packed = Weight::pack(w, precision);
    const Matrix<float> want = expected_values(w, precision);
    for (Index o = 0; o < 50; ++o) {
      Matrix<float> row(1, 7);
      packed.copy_row(o, row.data());
      EXPECT_TRUE(same_bits(row, want.row(o)));
    }
  }
}

TEST(PackedWeight, TakesHalvesAsACheckpointHasThem) {
  const Index rows = 19, cols = 33;
  std::vector<std::uint16_t> halves(static_cast<std::size_t>(rows * cols));
  for (std::size_t i = 0; i < halves.size(); ++i)
    halves[i] = static_cast<std::uint16_t>(0x3C00 + 37 * i % 0x300);
  for (const HalfFormat format : {HalfFormat::bfloat16, HalfFormat::float16}) {
    Matrix<float> exact(rows, cols);
    for (Index i = 0; i < exact.size(); ++i) {
      const std::uint16_t h = halves[static_cast<std::size_t>(i)];
      exact.data()[i] = format == HalfFormat::bfloat16 ? bf16_to_float(h) : f16_to_float(h);
    }
    for (const Precision precision : both) {
      for (const Layout layout : {Layout::out_in, Layout::in_out}) {
        const Weight packed = Weight::pack(halves.data(), format, rows, cols, precision, layout);
        EXPECT_EQ(packed.rows(), layout == Layout::out_in ? rows : cols);
        EXPECT_TRUE(same_bits(packed.stored(), expected_values(exact, precision)));
      }
    }
  }
}

TEST(PackedWeight, TakesABlockOfAMatrix) {
  const Matrix<float> w = random(30, 40, "w");
  EXPECT_TRUE(same_bits(Weight::pack(w.block(3, 5, 20, 17)).stored(), w.block(3, 5, 20, 17)));
}

TEST(PackedWeight, MemoryIsLittleMoreThanTheValues) {
  for (const auto& [O, D] : {std::pair<Index, Index>{768, 768},
                             {2048, 2048},
                             {896, 4864},
                             {4864, 896},
                             {640, 500},
                             {641, 427},
                             {1000, 431},
                             {641, 868},
                             {512, 320}}) {
    const Matrix<float> w = Matrix<float>::Zero(O, D);
    EXPECT_LE(static_cast<double>(Weight::pack(w).bytes()), 1.05 * static_cast<double>(4 * O * D))
        << O << " x " << D;
    EXPECT_LE(static_cast<double>(Weight::pack(w, Precision::bfloat16).bytes()),
              1.05 * static_cast<double>(2 * O * D))
        << O << " x " << D;
  }
  for (const auto& [O, D] :
       {std::pair<Index, Index>{321, 427}, {337, 455}, {321, 868}, {320, 64}}) {
    const Matrix<float> w = Matrix<float>::Zero(O, D);
    EXPECT_LE(static_cast<double>(Weight::pack(w).bytes()), 1.07 * static_cast<double>(4 * O * D))
        << O << " x " << D;
    EXPECT_LE(static_cast<double>(Weight::pack(w, Precision::bfloat16).bytes()),
              1.07 * static_cast<double>(2 * O * D))
        << O << " x " << D;
  }
}

TEST(PackedWeight, RefusesSizesThatNoMatrixHas) {
  const std::vector<std::uint16_t> values(25);
  const auto pack = [&](Index rows, Index cols) {
    return Weight::pack(values.data(), HalfFormat::bfloat16, rows, cols);
  };
  EXPECT_THROW(pack(5, -1), ShapeError);
  EXPECT_THROW(pack(-1, 5), ShapeError);
  EXPECT_THROW(pack(Index{1} << 40, Index{1} << 40), ShapeError);
  EXPECT_THROW(pack(Index{1} << 30, Index{1} << 30), ShapeError);
  EXPECT_EQ(pack(5, 0).bytes(), 0);
}

TEST(PackedWeight, PlusIsRoundedOnce) {
  const Matrix<float> w = random(20, 9, "w"), B = random(20, 2, "B"), A = random(2, 9, "A");
  const LowRankDelta<float> change[] = {{0.5f, B, A}, {-2.0f, B, A}};
  for (const Precision precision : both) {
    for (const Layout layout : {Layout::out_in, Layout::in_out}) {
      const Matrix<float> given = layout == Layout::out_in ? w : Matrix<float>(w.transpose());
      const Weight packed = Weight::pack(given, precision, layout);
      const Weight dense(expected_values(given, precision), layout);
      const Matrix<float> before = packed.stored();
      const Weight changed = packed.plus(change);
      EXPECT_TRUE(
          same_bits(changed.stored(), expected_values(dense.plus(change).stored(), precision)));
      EXPECT_EQ(changed.layout(), layout);
      EXPECT_TRUE(same_bits(packed.stored(), before));
    }
  }
}

TEST(PackedWeight, KeepsNonFiniteNumbers) {
  Matrix<float> w = random(20, 9, "w");
  EXPECT_TRUE(Weight::pack(w, Precision::bfloat16).all_finite());
  w(17, 3) = std::numeric_limits<float>::quiet_NaN();
  w(2, 8) = -std::numeric_limits<float>::infinity();
  for (const Precision precision : both) {
    const Weight packed = Weight::pack(w, precision);
    EXPECT_FALSE(packed.all_finite());
    EXPECT_TRUE(std::isnan(packed.stored()(17, 3)));
    EXPECT_EQ(packed.stored()(2, 8), w(2, 8));
    const Matrix<float> x = Matrix<float>::Zero(2, 9);
    Matrix<float> y(2, 20);
    packed.multiply(x, y);
    for (Index o = 0; o < 20; ++o) EXPECT_EQ(std::isnan(y(1, o)), o == 17 || o == 2);
  }
}

TEST(PackedWeight, SameBitsOnAnyNumberOfThreadsAndAnySplit) {
  const Matrix<float> w = random(200, 410, "w"), x = random(300, 410, "x"),
                      dy = random(300, 200, "dy");
  for (const Precision precision : both) {
    const Weight packed = Weight::pack(w, precision);
    Matrix<float> y(300, 200), dx(300, 410), y2(300, 200), dx2(300, 410);
    {
      const Threads use(1);
      packed.multiply(x, y);
      packed.multiply_transposed(dy, dx);
    }
    for (const int threads : {2, 3, 7}) {
      const Threads use(threads);
      packed.multiply(x, y2);
      packed.multiply_transposed(dy, dx2);
      EXPECT_TRUE(same_bits(y2, y));
      EXPECT_TRUE(same_bits(dx2, dx));
    }
    for (const Index cut : {1, 127, 130, 299}) {
      packed.multiply(x.topRows(cut), y2.topRows(cut));
      packed.multiply(x.bottomRows(300 - cut), y2.bottomRows(300 - cut));
      packed.multiply_transposed(dy.topRows(cut), dx2.topRows(cut));
      packed.multiply_transposed(dy.bottomRows(300 - cut), dx2.bottomRows(300 - cut));
      EXPECT_TRUE(same_bits(y2, y)) << cut;
      EXPECT_TRUE(same_bits(dx2, dx)) << cut;
    }
  }
}

TEST(PackedWeight, ProductsAllocateNothingOnceTheWorkersRun) {
  LORA_NEEDS_ALLOCATION_COUNTS();
  const Threads use(3);
  parallel_for(3, 1, [](Index, Index) {});
  // The first dx of a thread takes its memory for any other.
  Matrix<float> small(9, 16);
  Weight::pack(random(16, 16, "w")).multiply_transposed(random(9, 16, "dy"), small);
  const Matrix<float> w = random(200, 90, "w"), x = random(30, 90, "x");
  for (const Precision precision : both) {
    const Weight packed = Weight::pack(w, precision);
    Matrix<float> y(30, 200), dx(30, 90);
    AllocationCounter counter;
    packed.multiply(x, y);
    packed.multiply_transposed(y, dx);
    EXPECT_EQ(counter.stop().calls, 0u);
  }
}

TEST(PackedWeight, ServesFourThreadsAtOnce) {
  const Matrix<float> w = random(100, 70, "w"), x = random(40, 70, "x");
  const Weight packed = Weight::pack(w);
  Matrix<float> alone(40, 100);
  packed.multiply(x, alone);
  Matrix<float> results[4];
  std::vector<std::thread> threads;
  for (Matrix<float>& y : results) {
    threads.emplace_back([&] {
      y.resize(40, 100);
      for (int repeat = 0; repeat < 50; ++repeat) packed.multiply(x, y);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const Matrix<float>& y : results) EXPECT_TRUE(same_bits(y, alone));
}

#if defined(__unix__)
/// Whether result is a b, in double, but for the roundings of its k products and sums.
testing::AssertionResult is_product(const View<float>& a, const View<float>& b,
                                    const MutableView<float>& result) {
  Reference<float> reference(a.rows, b.cols);
  reference.add_product(a, b);
  return within(result, reference, product_roundings<float>(a.cols));
}

// Every kernel of every instruction set through the products that use it: few rows, tiles, their
// remainders, both storages, one and both orientations; inputs and outputs end where memory ends.
TEST(PackedWeight, ProductsAreThoseOfPlainLoopsInDoubleAndStayWithinTheirMemory) {
  for_each_isa([](const char* name) {
    SCOPED_TRACE(name);
    const bool pairs = isa() == Isa::avx512bf16;
    for (const Precision precision : both) {
      for (const Orientations orientations : {Orientations::one, Orientations::both}) {
        for (const auto& [T, O, D] : {std::array<Index, 3>{1, 1, 1},
                                      {1, 48, 17},
                                      {2, 49, 48},
                                      {3, 16, 5},
                                      {7, 97, 31},
                                      {8, 33, 50},
                                      {9, 47, 47},
                                      {13, 64, 130},
                                      {130, 65, 49},
                                      {17, 15, 400},
                                      {5, 400, 3},
                                      {1, 144, 48},
                                      {4, 96, 64},
                                      {8, 400, 80}}) {
          SCOPED_TRACE(std::to_string(T) + " " + std::to_string(O) + " " + std::to_string(D));
          const Matrix<float> w = random(O, D, "w"), x0 = random(T, D, "x"),
                              dy0 = random(T, O, "dy");
          const Weight packed = Weight::pack(w, precision, Layout::out_in, orientations);
          const Matrix<float> stored = packed.stored();
          const AtPageEnd<float> x(T * D), y(T * O), dy(T * O), dx(T * D);
          using Map = Eigen::Map<Matrix<float>>;
          Map xs(x.data, T, D), ys(y.data, T, O), dys(dy.data, T, O), dxs(dx.data, T, D);
          xs = x0;
          dys = dy0;
          packed.multiply(xs, ys);
          packed.multiply_transposed(dys, dxs);
          const bool rounds = pairs && precision == Precision::bfloat16;
          const Matrix<float> a = rounds ? rounded_to_bf16(x0) : x0,
                              g = rounds ? rounded_to_bf16(dy0) : dy0;
          const View<float> W(stored);
          EXPECT_TRUE(is_product(a, W.transposed(), {y.data, T, O, O}));
          EXPECT_TRUE(is_product(g, W, {dx.data, T, D, D}));
        }
      }
    }
  });
}
#endif

}  // namespace packed_weight_test
