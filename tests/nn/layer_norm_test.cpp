// LayerNorm: against the formula, gradients by complex steps, edges and errors.
#include <lora/nn/layer_norm.hpp>

#include <gtest/gtest.h>

#include "layers/layer_tools.hpp"
#include "support/messages.hpp"
#include "support/threads.hpp"

namespace layer_norm_test {
using namespace lora;
using namespace lora_test;

template <class S>
LayerNorm<S> norm_of(Index n) {
  return LayerNorm<S>(random_matrix<S>(1, n, "weight"), random_matrix<S>(1, n, "bias"), 1e-2);
}

TEST(LayerNorm, IsItsFormula) {
  const LayerNorm<double> norm = norm_of<double>(19);
  const Matrix<double> x = random_matrix(4, 19, "x");
  Matrix<double> y(4, 19), stats;
  norm.forward(x, y, stats);
  for (Index t = 0; t < 4; ++t) {
    const double mean = x.row(t).mean();
    const Matrix<double> centred = x.row(t).array() - mean;
    const double r = 1 / std::sqrt(centred.squaredNorm() / 19 + 1e-2);
    EXPECT_NEAR(stats(t, 0), mean, 1e-15);
    EXPECT_NEAR(stats(t, 1), r, 1e-14);
    EXPECT_TRUE(
        y.row(t).isApprox(norm.weight.value.cwiseProduct(centred * r) + norm.bias.value, 1e-14));
  }
  EXPECT_STREQ(norm.module_type(), "LayerNorm");
}

TEST(LayerNorm, GradientsByComplexSteps) {
  for (const Index n : {1, 7, 19}) {
    for (const Index rows : {0, 1, 5}) {
      LayerNorm<double> norm = norm_of<double>(n);
      LayerNorm<Complex> moved = norm_of<Complex>(n);
      norm.weight.set_trainable(true);
      norm.bias.set_trainable(true);
      const Matrix<double> x = random_matrix(rows, n, "x"), dy = random_matrix(rows, n, "dy");
      Matrix<double> y(rows, n), stats, dx = Matrix<double>::Ones(rows, n);
      norm.forward(x, y, stats);
      norm.add_input_gradient(x, dy, stats, dx);
      norm.add_weight_gradient(x, dy, stats);
      Matrix<Complex> moved_y(rows, n), moved_stats;
      const auto loss = [&](const Matrix<Complex>& at) {
        moved.forward(at, moved_y, moved_stats);
        return inner(moved_y, dy);
      };
      EXPECT_TRUE(gradcheck(loss, x, dx - Matrix<double>::Ones(rows, n)));
      const Matrix<Complex> fixed = to_complex(x);
      EXPECT_EQ(check_parameter_gradients(norm, moved, [&] { return loss(fixed); }), 2);
    }
  }
}

TEST(LayerNorm, InPlaceFrozenAndWithAnyNumberOfThreads) {
  LayerNorm<float> norm = norm_of<float>(37);
  const Matrix<float> x = random_matrix<float>(600, 37, "x"),
                      dy = random_matrix<float>(600, 37, "dy");
  Matrix<float> y(600, 37), stats, one, one_dx;
  for (const int threads : {1, 3}) {
    const Threads use(threads);
    Matrix<float> in_place = x, dx = Matrix<float>::Zero(600, 37);
    norm.forward(x, y, stats);
    norm.forward(in_place, in_place, stats);
    EXPECT_TRUE(same_bits(in_place, y));
    norm.add_input_gradient(x, dy, stats, dx);
    norm.add_weight_gradient(x, dy, stats);
    if (threads == 1) one = y, one_dx = dx;
    EXPECT_TRUE(same_bits(y, one));
    EXPECT_TRUE(same_bits(dx, one_dx));
  }
  EXPECT_EQ(norm.weight.grad.size(), 0);
}

TEST(LayerNormErrors, Shapes) {
  LayerNorm<float> norm = norm_of<float>(5);
  Matrix<float> x(3, 5), wrong(3, 4), y(3, 5), stats;
  EXPECT_TRUE(throws<ShapeError>([&] { norm.forward(wrong, y, stats); },
                                 {"LayerNorm::forward: x is (3, 4), expected (T, 5)"}));
  EXPECT_TRUE(throws<ShapeError>([&] { norm.forward(x, wrong, stats); },
                                 {"LayerNorm::forward: y is (3, 4), expected (3, 5)"}));
  norm.forward(x.setZero(), y, stats);
  EXPECT_TRUE(throws<ShapeError>([&] { norm.add_input_gradient(x.topRows(2), y, stats, y); },
                                 {"add_input_gradient: x is (2, 5), expected (3, 5)"}));
  EXPECT_TRUE(throws<ShapeError>([&] { norm.add_input_gradient(x, wrong, stats, y); },
                                 {"dy is (3, 4), expected (3, 5)"}));
  EXPECT_TRUE(throws<ShapeError>([&] { norm.add_input_gradient(x, y, stats, wrong); },
                                 {"dx is (3, 4), expected (3, 5)"}));
  norm.weight.set_trainable(true);
  EXPECT_TRUE(throws<ShapeError>([&] { norm.add_weight_gradient(wrong, y, stats); },
                                 {"add_weight_gradient: x is (3, 4), expected (3, 5)"}));
  EXPECT_TRUE(throws<ShapeError>([&] { norm.add_weight_gradient(x, wrong, stats); },
                                 {"dy is (3, 4), expected (3, 5)"}));
}

TEST(LayerNormErrors, OutputsThatOverlap) {
  const LayerNorm<double> norm(Matrix<double>::Ones(1, 3), Matrix<double>::Zero(1, 3), 1e-5);
  Matrix<double> all = Matrix<double>::Random(4, 3), stats, dx = Matrix<double>::Zero(3, 3);
  const Matrix<double> before = all;
  const auto part = [&](Index row) { return all.middleRows(row, 3); };
  EXPECT_HAS(message_of<Error>([&] { norm.forward(part(0), part(1), stats); }),
             "LayerNorm::forward: y overlaps x in part");
  norm.forward(part(0), dx, stats);
  const auto gradient = [&](auto&& x, auto&& dy, auto&& out) {
    return message_of<Error>([&] { norm.add_input_gradient(x, dy, stats, out); });
  };
  EXPECT_HAS(gradient(part(0), dx, part(1)), "LayerNorm::add_input_gradient: dx overlaps x");
  EXPECT_HAS(gradient(dx, part(0), part(0)), "LayerNorm::add_input_gradient: dx overlaps dy");
  EXPECT_EQ(all, before);
}

}  // namespace layer_norm_test
