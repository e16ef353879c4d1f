#include <lora/weights/turned_product.hpp>

#include <support/product_reference.hpp>
#include <support/threads.hpp>

#include <vector>

namespace turned_product_test {
using namespace lora_test;
using lora::detail::multiply_turned;
using lora::detail::TurnedPieces;
constexpr Index wide = lora::kernels::slab_columns, group = lora::kernels::slab_group;

// Every element of dx lies in one piece, none of which is more than a thread has memory for, and
// where there are enough columns every thread has as many pieces.
TEST(TurnedPieces, CoverTheResultOnce) {
  using Memory = lora::detail::TurnedMemory<float>;
  for (const Index D : {1, 15, 16, 17, 192, 193, 400, 768, 2048, 4864}) {
    for (const Index T : {1, 9, 48, 49, 288, 289, 512, 1000}) {
      for (const Index threads : {1, 2, 3, 13}) {
        SCOPED_TRACE(std::to_string(D) + " x " + std::to_string(T) + " on " +
                     std::to_string(threads));
        const TurnedPieces<float> pieces(D, T, threads);
        ASSERT_LE(pieces.cols, Memory::tall);
        ASSERT_LE(pieces.tokens, Memory::blocks * wide);
        ASSERT_EQ(pieces.cols % group, 0);
        ASSERT_EQ(pieces.tokens % wide, 0);
        Index covered = 0;
        for (Index i = 0; i < pieces.count(); ++i) {
          const Index d = pieces.first_col(i), t = pieces.first_token(i);
          ASSERT_TRUE(d < D && t < T && d % pieces.cols == 0 && t % pieces.tokens == 0);
          ASSERT_TRUE(i == 0 || d > pieces.first_col(i - 1) || t > pieces.first_token(i - 1));
          covered += std::min(pieces.cols, D - d) * std::min(pieces.tokens, T - t);
        }
        EXPECT_EQ(covered, D * T);
        if (D == 768 && threads <= 3) {
          EXPECT_EQ(pieces.count() % threads, 0);
        }
      }
    }
  }
}

// Panels that the test lays out itself, each in memory of its own, copied on request as a storage
// does that is not of floats: within the rounding of a chain, the same bits on any number of
// threads, and nothing beside dx is written.
TEST(TurnedProduct, IsTheProduct) {
  struct Case {
    Index T, O, D;
  };
  for (const auto& [T, O, D] : {Case{1, 1, 1}, Case{9, 47, 16}, Case{33, 48, 50}, Case{50, 49, 193},
                                Case{300, 250, 200}, Case{5, 0, 20}, Case{0, 30, 20}}) {
    const Operand<float> w(O, D, "w"), dy(T, O, "dy", Storage::wide_rows), before(T, D, "dx");
    const auto width = [O = O](Index p) {
      return std::min(wide, (O - p * wide + group - 1) / group * group);
    };
    const auto panels = [&, D = D, O = O](Index p, Index count, Index d, Index cols, float* to) {
      EXPECT_LE(d + cols, D);
      for (Index q = 0; q < count; ++q) {
        for (Index i = 0; i < cols * wide; ++i) to[q * cols * wide + i] = -7;
        for (Index i = 0; i < cols; ++i) {
          for (Index o = 0; o < width(p + q) && (p + q) * wide + o < O; ++o)
            to[q * cols * wide + i * width(p + q) + o] =
                w.view.data[((p + q) * wide + o) * w.view.row_stride + d + i];
        }
      }
      return lora::detail::PanelBlock<float>{to, cols * wide};
    };
    const auto ahead = [](Index, Index, Index, Index) { return lora::kernels::Ahead{}; };
    for (const bool add : {false, true}) {
      Reference<float> expected(T, D);
      expected.add_product(dy.view, w.view);
      std::vector<Guarded<float>> results;
      for (const int threads : {1, 2, 5}) {
        const Threads use(threads);
        Guarded<float> dx(T, D, 3, 5);
        for (Index t = 0; t < T; ++t) {
          for (Index d = 0; d < D; ++d) {
            dx.at(t, d) = before.view.data[t * D + d];
            if (add && threads == 1) expected.add(t, d, dx.at(t, d));
          }
        }
        multiply_turned<float>(dy.view, dx.view(), {}, add, panels, ahead);
        EXPECT_TRUE(within(dx.view(), expected, product_roundings<float>(O, 1)))
            << T << " " << O << " " << D << " " << add;
        EXPECT_TRUE(dx.untouched());
        results.push_back(dx);
        EXPECT_TRUE(dx.same_bits(results.front())) << threads << " threads";
      }
    }
  }
}

}  // namespace turned_product_test
