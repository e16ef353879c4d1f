// The change that merging adds, block by block, and the kernels that add it.
#include <lora/weights/change.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <mutex>

#include <lora/core/half.hpp>
#include "support/instruction_sets.hpp"

namespace change_test {
using namespace lora;
using lora_test::for_each_isa;

Matrix<float> numbers(Index rows, Index cols, float phase) {
  Matrix<float> m(rows, cols);
  for (Index i = 0; i < m.size(); ++i) m.data()[i] = std::sin(phase + 0.7f * static_cast<float>(i));
  return m;
}

TEST(Changes, CoverTheWeightOnceAndSumTheDeltasInTheirOrder) {
  for_each_isa([&](const char* name) {
    for (const Index rows : {0, 1, 7, 64, 65, 131}) {
      for (const Index cols : {0, 1, 47, 48, 49, 100}) {
        for (const bool transposed : {false, true}) {
          const Index O = transposed ? cols : rows, D = transposed ? rows : cols;
          const Matrix<float> a1 = numbers(3, D, 1), b1 = numbers(O, 3, 2), a2 = numbers(5, D, 3),
                              b2 = numbers(O, 5, 4);
          const std::vector<LowRankDelta<float>> deltas = {
              {0.5f, View<float>(b1), View<float>(a1)}, {-2.0f, View<float>(b2), View<float>(a2)}};
          Matrix<double> expected = 0.5 * b1.cast<double>() * a1.cast<double>() -
                                    2 * b2.cast<double>() * a2.cast<double>();
          if (transposed) expected.transposeInPlace();
          for (const auto order : {detail::BlockOrder::rows, detail::BlockOrder::panels}) {
            Matrix<double> sum = Matrix<double>::Zero(rows, cols);
            std::mutex lock;
            const auto add = [&](const detail::Change<float>& change) {
              const std::lock_guard<std::mutex> guard(lock);
              for (Index i = 0; i < change.rows; ++i) {
                for (Index j = 0; j < change.cols; ++j)
                  sum(change.i + i, change.j + j) += change.data[i * kernels::slab_columns + j];
              }
            };
            detail::for_changes<float>(deltas, rows, cols, transposed, order, add);
            // Ten products of numbers up to 2, each rounded twice at most.
            EXPECT_TRUE(sum.size() == 0 || (sum - expected).cwiseAbs().maxCoeff() <= 20 * 0x1p-23)
                << name << " " << rows << " x " << cols << (transposed ? " transposed" : "");
          }
        }
      }
    }
  });
}

TEST(Changes, OfNoDeltaIsZero) {
  Index seen = 0;
  detail::for_changes<double>({}, 5, 3, false, detail::BlockOrder::rows, [&](const auto& change) {
    for (Index i = 0; i < change.rows; ++i) {
      for (Index j = 0; j < change.cols; ++j)
        seen += change.data[i * kernels::slab_columns + j] == 0.0;
    }
  });
  EXPECT_EQ(seen, 15);
}

TEST(MergeKernels, RoundToBfloat16AsTheScalarConversionDoes) {
  // Every upper half with lower halves around the ties, NaNs and infinities among them.
  std::vector<float> values;
  for (std::uint32_t upper = 0; upper < 0x10000u; upper += 7) {
    for (const std::uint32_t lower : {0u, 1u, 0x7FFFu, 0x8000u, 0x8001u, 0xFFFFu})
      values.push_back(std::bit_cast<float>((upper << 16) | lower));
  }
  const auto n = static_cast<Index>(values.size());
  const std::vector<kernels::BF16> zero(values.size());
  for_each_isa([&](const char* name) {
    const auto with = kernels::merge_kernels<float, kernels::BF16>();
    std::vector<kernels::BF16> to(values.size());
    with.add({1, n, zero.data(), n}, values.data(), n, to.data(), n);
    Index wrong = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      // -0 + 0 is +0, and a signalling NaN that was added to is quiet.
      const std::uint16_t expected = float_to_bf16(values[i] + 0.0f);
      wrong += to[i].bits != expected;
    }
    EXPECT_EQ(wrong, 0) << name;
  });
}

TEST(MergeKernels, TouchTheirBlockAlone) {
  for_each_isa([&](const char* name) {
    const auto with = kernels::merge_kernels<float, float>();
    for (Index cols = 0; cols <= 50; ++cols) {
      const Matrix<float> from = numbers(3, 60, 0), change = numbers(3, 60, 9);
      Matrix<float> to = Matrix<float>::Constant(3, 60, 7);
      with.add({3, cols, from.data(), 60}, change.data(), 60, to.data(), 60);
      Matrix<float> expected = Matrix<float>::Constant(3, 60, 7);
      expected.leftCols(cols) = from.leftCols(cols) + change.leftCols(cols);
      EXPECT_EQ(to, expected) << name << " " << cols << " columns";
      Matrix<float> sum = change;
      with.scale(cols, 3.0f, from.data(), sum.data(), false);
      Matrix<float> scaled = change;
      scaled.row(0).head(cols) = 3.0f * from.row(0).head(cols);
      EXPECT_EQ(sum, scaled) << name << " " << cols << " columns";
    }
  });
}

}  // namespace change_test
