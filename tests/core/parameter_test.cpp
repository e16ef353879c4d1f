#include <lora/core/parameter.hpp>

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace parameter_test {
using namespace lora;

struct TwoTensors {
  Parameter<double> weight{Matrix<double>::Ones(3, 4)};
  Parameter<double> bias{Matrix<double>::Ones(1, 3), {3}, true};
  template <class Fn>
  void for_each_parameter(const std::string& prefix, Fn&& fn) {
    fn(prefix + "weight", weight);
    fn(prefix + "bias", bias);
  }
};

TEST(Parameter, IsEmptyAndFrozenAtFirst) {
  const Parameter<float> p;
  EXPECT_TRUE(p.empty());
  EXPECT_EQ(p.size(), 0);
  EXPECT_FALSE(p.trainable);
  EXPECT_EQ(p.grad.size(), 0);
  EXPECT_TRUE(p.shape.empty());
}

TEST(Parameter, AFrozenOneHasNoGradient) {
  const Parameter<float> p(Matrix<float>::Ones(3, 5));
  EXPECT_EQ(p.size(), 15);
  EXPECT_FALSE(p.trainable);
  EXPECT_EQ(p.grad.size(), 0);
  EXPECT_EQ(p.shape, (std::vector<Index>{3, 5}));
}

TEST(Parameter, ATrainableOneBeginsWithAZeroGradient) {
  const Parameter<float> p(Matrix<float>::Ones(3, 5), true);
  EXPECT_TRUE(p.trainable);
  EXPECT_EQ(p.grad, (Matrix<float>::Zero(3, 5)));
}

TEST(Parameter, KeepsTheShapeOfPyTorch) {
  const Parameter<float> kernel(Matrix<float>::Ones(4, 3 * 2 * 2), {4, 3, 2, 2}, true);
  EXPECT_EQ(kernel.shape, (std::vector<Index>{4, 3, 2, 2}));
  EXPECT_EQ(kernel.grad.rows(), 4);
  EXPECT_EQ(kernel.grad.cols(), 12);
}

TEST(Parameter, TrainingTurnsOnAndOff) {
  Parameter<double> p(Matrix<double>::Ones(2, 3));
  p.set_trainable(true);
  p.grad(1, 2) = 5;
  p.set_trainable(true);  // already on: what was gathered stays
  EXPECT_EQ(p.grad(1, 2), 5);
  p.set_trainable(false);
  EXPECT_FALSE(p.trainable);
  EXPECT_EQ(p.grad.size(), 0);
  p.set_trainable(true);
  EXPECT_EQ(p.grad, (Matrix<double>::Zero(2, 3)));
  EXPECT_EQ(p.value, (Matrix<double>::Ones(2, 3)));
}

TEST(Parameter, CopiesAreIndependent) {
  const Parameter<double> p(Matrix<double>::Ones(2, 2), true);
  Parameter<double> copy = p;
  copy.value(0, 0) = 7;
  copy.grad(0, 0) = 7;
  EXPECT_EQ(p.value(0, 0), 1);
  EXPECT_EQ(p.grad(0, 0), 0);
}

TEST(Parameter, ZeroGradReachesEveryTensor) {
  TwoTensors m;
  m.weight.set_trainable(true);
  m.weight.grad.setOnes();
  m.bias.grad.setOnes();
  zero_grad(m);
  EXPECT_EQ(m.weight.grad, (Matrix<double>::Zero(3, 4)));
  EXPECT_EQ(m.bias.grad, (Matrix<double>::Zero(1, 3)));
  m.weight.set_trainable(false);
  zero_grad(m);
  EXPECT_EQ(m.weight.grad.size(), 0);
}

TEST(Parameter, CountsElements) {
  TwoTensors m;
  EXPECT_EQ(count_parameters(m).listed, 15);
  EXPECT_EQ(count_parameters(m).trainable, 3);
  m.weight.set_trainable(true);
  EXPECT_EQ(count_parameters(m).trainable, 15);
}

TEST(Parameter, AShapeThatWrapsAroundIsRefused) {
  const auto made = [](std::vector<Index> shape) {
    Parameter<double>(Matrix<double>(), std::move(shape));
  };
  EXPECT_THROW(made({Index{1} << 32, Index{1} << 32}), ShapeError);
  EXPECT_THROW(made({-1, 0}), ShapeError);
  EXPECT_NO_THROW(made({3, 0}));
}

struct Two {
  Parameter<float> a{Matrix<float>::Zero(1, 2)}, b{Matrix<float>::Zero(2, 2)};
  template <class Fn>
  void for_each_parameter(const NamePath& prefix, Fn&& fn) {
    fn(NamePath(prefix, "a"), a);
    fn(NamePath(prefix, "b"), b);
  }
};
TEST(Parameter, AnObjectIsTrainedWhenOneOfItsTensorsIs) {
  Two two;
  EXPECT_FALSE(lora::is_trained(two));
  two.b.set_trainable(true);
  EXPECT_TRUE(lora::is_trained(two));
}

}  // namespace parameter_test
