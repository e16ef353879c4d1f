#include <lora/adapters/merged_rows.hpp>

#include <gtest/gtest.h>

#include <vector>

namespace merged_rows_test {
using namespace lora;

using Wide = Matrix<double>;

struct Case {
  Index O, D, r;
};
const Case cases[] = {{1, 1, 1}, {5, 3, 2}, {67, 131, 5}, {130, 50, 16}};

// |sum - exact| of an element: r products and sums, the scale, the addition.
double bound(const Wide& magnitude, Index i, Index r) {
  return static_cast<double>(r + 3) * 0x1p-24 * magnitude.data()[i];
}

TEST(MergedRows, AddTheProductToPartsInBothLayouts) {
  for (const auto& [O, D, r] : cases) {
    const Matrix<float> B = Matrix<float>::Random(O, r), A = Matrix<float>::Random(r, D);
    const LowRankDelta<float> change{-1.5f, View<float>(B), View<float>(A)};
    const Wide product = -1.5 * (B.cast<double>() * A.cast<double>());
    const Wide size = 1.5 * (B.cwiseAbs().cast<double>() * A.cwiseAbs().cast<double>());
    for (const Layout layout : {Layout::out_in, Layout::in_out}) {
      const bool turned = layout == Layout::in_out;
      const Wide delta = turned ? Wide(product.transpose()) : product;
      const Wide most = turned ? Wide(size.transpose()) : size;
      const Matrix<float> W = Matrix<float>::Random(delta.rows(), delta.cols());
      Matrix<float> merged = W;
      const Index cut = W.rows() / 2;
      for (const auto& [first, count] : {std::pair{Index{0}, cut}, {cut, W.rows() - cut}}) {
        const LowRankDelta<float> part[] = {rows_of_change(change, layout, first, count)};
        float* at = merged.data() + first * W.cols();
        merge_rows<float>(part, layout, count, W.cols(), at, at);
      }
      for (Index i = 0; i < W.size(); ++i) {
        const double exact = static_cast<double>(W.data()[i]) + delta.data()[i];
        const double error = std::abs(static_cast<double>(merged.data()[i]) - exact);
        ASSERT_TRUE(error <= bound(most, i, r) + 0x1p-24 * std::abs(exact)) << O << " " << D;
      }
    }
  }
}

TEST(MergedRows, OfBfloat16AreRoundedOnce) {
  const Index O = 33, D = 70, r = 3;
  const Matrix<float> B = Matrix<float>::Random(O, r), A = Matrix<float>::Random(r, D);
  const LowRankDelta<float> change[] = {{0.25f, View<float>(B), View<float>(A)}};
  std::vector<std::uint16_t> W(static_cast<std::size_t>(O * D)), merged(W.size());
  Matrix<float> wide(O, D);
  for (std::size_t i = 0; i < W.size(); ++i) {
    W[i] = float_to_bf16(0.01f * static_cast<float>(i % 97));
    wide.data()[i] = bf16_to_float(W[i]);
  }
  merge_rows(change, Layout::out_in, O, D, W.data(), merged.data());
  merge_rows<float>(change, Layout::out_in, O, D, wide.data(), wide.data());
  for (std::size_t i = 0; i < W.size(); ++i)
    ASSERT_EQ(merged[i], float_to_bf16(wide.data()[i])) << i;
}

TEST(MergedRows, WithoutChangesAreCopied) {
  const Matrix<float> W = Matrix<float>::Random(7, 51);
  Matrix<float> copy(7, 51);
  merge_rows<float>({}, Layout::out_in, 7, 51, W.data(), copy.data());
  EXPECT_EQ(copy, W);
}

}  // namespace merged_rows_test
