// RMSNorm: against the formula, gradients by complex steps, edges and errors.
#include <lora/nn/rms_norm.hpp>

#include <gtest/gtest.h>

#include "layers/layer_tools.hpp"
#include "support/messages.hpp"
#include "support/threads.hpp"

namespace rms_norm_test {
using namespace lora;
using namespace lora_test;

template <class S>
RMSNorm<S> norm_of(Index n) {
  return RMSNorm<S>(random_matrix<S>(1, n, "weight"), 1e-2, "LlamaRMSNorm");
}

TEST(RMSNorm, IsItsFormula) {
  const RMSNorm<double> norm = norm_of<double>(19);
  const Matrix<double> x = random_matrix(4, 19, "x");
  Matrix<double> y(4, 19), rho;
  norm.forward(x, y, rho);
  for (Index t = 0; t < 4; ++t) {
    const double r = 1 / std::sqrt(x.row(t).squaredNorm() / 19 + 1e-2);
    EXPECT_NEAR(rho(t, 0), r, 1e-15);
    EXPECT_TRUE(y.row(t).isApprox(norm.weight.value.cwiseProduct(x.row(t) * r), 1e-14));
  }
  EXPECT_STREQ(norm.module_type(), "LlamaRMSNorm");
}

TEST(RMSNorm, GradientsByComplexSteps) {
  for (const Index n : {1, 7, 19}) {
    for (const Index rows : {0, 1, 5}) {
      RMSNorm<double> norm = norm_of<double>(n);
      RMSNorm<Complex> moved = norm_of<Complex>(n);
      norm.weight.set_trainable(true);
      const Matrix<double> x = random_matrix(rows, n, "x"), dy = random_matrix(rows, n, "dy");
      Matrix<double> y(rows, n), rho, dx = Matrix<double>::Ones(rows, n);
      norm.forward(x, y, rho);
      norm.add_input_gradient(x, dy, rho, dx);
      norm.add_weight_gradient(x, dy, rho);
      Matrix<Complex> moved_y(rows, n), moved_rho;
      const auto loss = [&](const Matrix<Complex>& at) {
        moved.forward(at, moved_y, moved_rho);
        return inner(moved_y, dy);
      };
      EXPECT_TRUE(gradcheck(loss, x, dx - Matrix<double>::Ones(rows, n)));
      const Matrix<Complex> fixed = to_complex(x);
      EXPECT_EQ(check_parameter_gradients(norm, moved, [&] { return loss(fixed); }), 1);
    }
  }
}

TEST(RMSNorm, InPlaceFrozenAndWithAnyNumberOfThreads) {
  RMSNorm<float> norm = norm_of<float>(37);
  const Matrix<float> x = random_matrix<float>(600, 37, "x"),
                      dy = random_matrix<float>(600, 37, "dy");
  Matrix<float> y(600, 37), rho, one, one_dx;
  for (const int threads : {1, 3}) {
    const Threads use(threads);
    Matrix<float> in_place = x, dx = Matrix<float>::Zero(600, 37);
    norm.forward(x, y, rho);
    norm.forward(in_place, in_place, rho);
    EXPECT_TRUE(same_bits(in_place, y));
    norm.add_input_gradient(x, dy, rho, dx);
    norm.add_weight_gradient(x, dy, rho);
    if (threads == 1) one = y, one_dx = dx;
    EXPECT_TRUE(same_bits(y, one));
    EXPECT_TRUE(same_bits(dx, one_dx));
  }
  EXPECT_EQ(norm.weight.grad.size(), 0);
}

TEST(RMSNormErrors, Shapes) {
  RMSNorm<float> norm = norm_of<float>(5);
  Matrix<float> x(3, 5), wrong(3, 4), y(3, 5), rho;
  EXPECT_TRUE(throws<ShapeError>([&] { norm.forward(wrong, y, rho); },
                                 {"RMSNorm::forward: x is (3, 4), expected (T, 5)"}));
  EXPECT_TRUE(throws<ShapeError>([&] { norm.forward(x, wrong, rho); },
                                 {"RMSNorm::forward: y is (3, 4), expected (3, 5)"}));
  norm.forward(x.setZero(), y, rho);
  EXPECT_TRUE(throws<ShapeError>([&] { norm.add_input_gradient(x.topRows(2), y, rho, y); },
                                 {"add_input_gradient: x is (2, 5), expected (3, 5)"}));
  EXPECT_TRUE(throws<ShapeError>([&] { norm.add_input_gradient(x, wrong, rho, y); },
                                 {"dy is (3, 4), expected (3, 5)"}));
  EXPECT_TRUE(throws<ShapeError>([&] { norm.add_input_gradient(x, y, rho, wrong); },
                                 {"dx is (3, 4), expected (3, 5)"}));
  norm.weight.set_trainable(true);
  EXPECT_TRUE(throws<ShapeError>([&] { norm.add_weight_gradient(wrong, y, rho); },
                                 {"add_weight_gradient: x is (3, 4), expected (3, 5)"}));
  EXPECT_TRUE(throws<ShapeError>([&] { norm.add_weight_gradient(x, wrong, rho); },
                                 {"dy is (3, 4), expected (3, 5)"}));
}

TEST(RMSNormErrors, OutputsThatOverlap) {
  const RMSNorm<double> norm(Matrix<double>::Ones(1, 3), 1e-6);
  Matrix<double> all = Matrix<double>::Random(4, 3), rho, dx = Matrix<double>::Zero(3, 3);
  const Matrix<double> before = all;
  const auto part = [&](Index row) { return all.middleRows(row, 3); };
  EXPECT_HAS(message_of<Error>([&] { norm.forward(part(0), part(1), rho); }),
             "RMSNorm::forward: y overlaps x in part");
  norm.forward(part(0), dx, rho);
  const auto gradient = [&](auto&& x, auto&& dy, auto&& out) {
    return message_of<Error>([&] { norm.add_input_gradient(x, dy, rho, out); });
  };
  EXPECT_HAS(gradient(part(0), dx, part(1)), "RMSNorm::add_input_gradient: dx overlaps x");
  EXPECT_HAS(gradient(dx, part(0), part(0)), "RMSNorm::add_input_gradient: dx overlaps dy");
  EXPECT_EQ(all, before);
}

}  // namespace rms_norm_test
