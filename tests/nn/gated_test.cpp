// f(gate) ⊙ up: against the activation alone, gradients by complex steps, in place, and errors.
#include <lora/nn/gated.hpp>

#include <gtest/gtest.h>

#include "layers/layer_tools.hpp"
#include "support/messages.hpp"
#include "support/threads.hpp"

namespace gated_test {
using namespace lora;
using namespace lora_test;

TEST(Gated, GradientsThroughEverySmoothActivation) {
  for (const Activation kind : {Activation::identity, Activation::gelu, Activation::gelu_tanh,
                                Activation::silu, Activation::sigmoid, Activation::tanh}) {
    SCOPED_TRACE(std::string(activation_name(kind)));
    for (const Index rows : {0, 1, 4}) {
      const Matrix<double> gate = random_matrix(rows, 7, "gate"), up = random_matrix(rows, 7, "up"),
                           dh = random_matrix(rows, 7, "dh");
      Matrix<double> dup = dh, dgate(rows, 7);
      gated_backward<double>(kind, gate, up, dup, dgate);
      const auto loss = [&](const Matrix<Complex>& g, const Matrix<Complex>& u) {
        Matrix<Complex> h(rows, 7);
        gated_forward<Complex>(kind, g, u, h);
        return inner(h, dh);
      };
      EXPECT_TRUE(gradcheck([&](const auto& g) { return loss(g, to_complex(up)); }, gate, dgate));
      EXPECT_TRUE(gradcheck([&](const auto& u) { return loss(to_complex(gate), u); }, up, dup));
    }
  }
}

TEST(Gated, FloatIsTheActivationTimesUp) {
  // 1300 columns: pieces of 512 and a rest.
  const Matrix<float> gate = random_matrix<float>(9, 1300, "gate", 3),
                      up = random_matrix<float>(9, 1300, "up"),
                      dh = random_matrix<float>(9, 1300, "dh");
  for (const Activation kind : {Activation::silu, Activation::gelu_tanh, Activation::tanh}) {
    Matrix<float> f(9, 1300), h(9, 1300), dgate(9, 1300), expected(9, 1300);
    activation_forward<float>(kind, gate, f);
    activation_backward<float>(kind, gate, Matrix<float>(dh.cwiseProduct(up)), expected);
    for (const int threads : {1, 3}) {
      const Threads use(threads);
      Matrix<float> in_place = gate, dup = dh;
      gated_forward<float>(kind, gate, up, h);
      gated_forward<float>(kind, in_place, up, in_place);
      gated_backward<float>(kind, gate, up, dup, dgate);
      EXPECT_TRUE(same_bits(h, Matrix<float>(f.cwiseProduct(up))));
      EXPECT_TRUE(same_bits(in_place, h));
      EXPECT_TRUE(same_bits(dgate, expected));
      EXPECT_TRUE(same_bits(dup, Matrix<float>(dh.cwiseProduct(f))));
    }
  }
}

TEST(GatedErrors, ShapesAndKinds) {
  Matrix<float> m(3, 5), wrong(3, 4);
  const auto silu = Activation::silu;
  EXPECT_TRUE(throws<ShapeError>([&] { gated_forward<float>(silu, m, wrong, m); },
                                 {"gated_forward: up is (3, 4), expected (3, 5)"}));
  EXPECT_TRUE(throws<ShapeError>([&] { gated_forward<float>(silu, m, m, wrong); },
                                 {"gated_forward: h is (3, 4), expected (3, 5)"}));
  EXPECT_TRUE(throws<ShapeError>([&] { gated_backward<float>(silu, m, wrong, m, m); },
                                 {"gated_backward: up is (3, 4), expected (3, 5)"}));
  EXPECT_TRUE(throws<ShapeError>([&] { gated_backward<float>(silu, m, m, wrong, m); },
                                 {"gated_backward: dh is (3, 4), expected (3, 5)"}));
  EXPECT_TRUE(throws<ShapeError>([&] { gated_backward<float>(silu, m, m, m, wrong); },
                                 {"gated_backward: dgate is (3, 4), expected (3, 5)"}));
  EXPECT_TRUE(
      throws<ConfigError>([&] { gated_forward<float>(static_cast<Activation>(99), m, m, m); },
                          {"gated_forward: 99 is not an Activation"}));
}

TEST(GatedErrors, OutputsThatOverlap) {
  Matrix<double> all = Matrix<double>::Random(4, 3), up = Matrix<double>::Random(3, 3),
                 dh = Matrix<double>::Random(3, 3);
  const Matrix<double> before = all;
  const auto part = [&](Index row) { return all.middleRows(row, 3); };
  const auto forward = [&](auto&& gate, auto&& u, auto&& h) {
    return message_of<Error>([&] { gated_forward<double>(Activation::silu, gate, u, h); });
  };
  const auto backward = [&](auto&& gate, auto&& u, auto&& d, auto&& dgate) {
    return message_of<Error>([&] { gated_backward<double>(Activation::silu, gate, u, d, dgate); });
  };
  EXPECT_HAS(forward(part(0), up, part(1)), "gated_forward: h overlaps gate in part");
  EXPECT_HAS(forward(up, part(0), part(1)), "gated_forward: h overlaps up in part");
  EXPECT_HAS(backward(part(0), up, dh, part(0)), "gated_backward: dgate overlaps gate");
  EXPECT_HAS(backward(up, part(0), dh, part(1)), "gated_backward: dgate overlaps up");
  EXPECT_HAS(backward(up, up, part(0), part(1)), "gated_backward: dgate overlaps dh");
  EXPECT_HAS(backward(part(0), up, part(1), dh), "gated_backward: dh overlaps gate in part");
  EXPECT_HAS(backward(up, part(0), part(1), dh), "gated_backward: dh overlaps up in part");
  EXPECT_EQ(all, before);
}

}  // namespace gated_test
