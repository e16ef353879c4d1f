#include <lora/layers/base_map.hpp>

#include <gtest/gtest.h>

#include "layers/layer_tools.hpp"
#include "support/instruction_sets.hpp"

namespace base_map_test {
using namespace lora;
using namespace lora_test;

TEST(BaseMap, OutputsAreTheColumnsOfATableAndElseTheRows) {
  const FrozenWeight<double> weight(random_matrix(7, 4, "W"));
  const Matrix<double> W = weight.dense();
  const BaseMap<double> linear{weight}, table{weight, LayerKind::embedding},
      convolution{weight, LayerKind::convolution};
  EXPECT_EQ(linear.outputs(), 7);
  EXPECT_EQ(table.outputs(), 4);
  EXPECT_EQ(linear.output_shape(), std::vector<Index>{7});
  EXPECT_EQ(table.output_shape(), std::vector<Index>{4});
  EXPECT_EQ(convolution.output_shape(), (std::vector<Index>{1, 7, 1, 1}));
  EXPECT_LE((linear.squares() - W.rowwise().squaredNorm().transpose()).norm(), 1e-14);
  EXPECT_LE((table.squares() - W.colwise().squaredNorm()).norm(), 1e-14);
  const Matrix<double> A = random_matrix(3, 4, "A"), B = random_matrix(3, 7, "B");
  Matrix<double> out;
  linear.project(A, out);
  EXPECT_LE((out - A * W.transpose()).norm(), 1e-14);
  table.project(B, out);
  EXPECT_LE((out - B * W).norm(), 1e-14);
}

TEST(BaseMap, SquaresAndProjectionsAreOfFloat32OverEveryStorage) {
  const Matrix<float> W = random_matrix<float>(67, 50, "W"), A = random_matrix<float>(4, 50, "A"),
                      B = random_matrix<float>(4, 67, "B");
  for_each_isa([&](const char* name) {
    SCOPED_TRACE(name);
    for (const Precision precision : {Precision::float32, Precision::bfloat16}) {
      for (const Layout layout : {Layout::out_in, Layout::in_out}) {
        const auto weight = FrozenWeight<float>::pack(
            layout == Layout::out_in ? W : Matrix<float>(W.transpose()), precision, layout);
        const Matrix<double> stored = weight.dense().cast<double>();
        const auto near = [](const Matrix<double>& a, const Matrix<double>& b) {
          return (a - b).norm() <= 1e-6 * b.norm();
        };
        EXPECT_TRUE(near(weight.squares(), stored.rowwise().squaredNorm().transpose()));
        EXPECT_TRUE(near(weight.squares(Side::inputs), stored.colwise().squaredNorm()));
        Matrix<float> out;
        BaseMap<float>{weight}.project(A, out);
        EXPECT_TRUE(near(out.cast<double>(), A.cast<double>() * stored.transpose()));
        BaseMap<float>{weight, LayerKind::embedding}.project(B, out);
        EXPECT_TRUE(near(out.cast<double>(), B.cast<double>() * stored));
      }
    }
  });
}

}  // namespace base_map_test
