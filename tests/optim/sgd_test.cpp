#include <lora/optim/sgd.hpp>

#include <gtest/gtest.h>

#include <limits>

#include "optim/toy_model.hpp"
#include "support/allocations.hpp"

using lora::Matrix;
using lora::SGD;
using lora::SGDOptions;
using lora_test::draw_gradients;
using lora_test::same_states;
using lora_test::same_values;
using lora_test::three_tensors;

namespace sgd_test {

template <class S>
void replay_case(const lora_test::GoldenCase& one) {
  const auto& d = one.at("defaults");
  SGDOptions options;
  options.lr = d.at("lr");
  options.momentum = d.at("momentum");
  options.dampening = d.at("dampening");
  options.weight_decay = d.at("weight_decay");
  options.nesterov = d.at("nesterov");
  options.maximize = d.at("maximize");
  lora_test::replay<S>(one, SGD<S>(options), options.lr);
}

TEST(SGD, EveryGoldenCaseInBothPrecisions) {
  lora_test::for_each_golden_optimiser(
      "sgd", [](const auto& one, auto scalar) { replay_case<decltype(scalar)>(one); });
}

TEST(SGD, PlainIsOneLine) {
  auto model = three_tensors<double>();
  const auto start = model;
  draw_gradients(model, 0);
  SGDOptions options;
  options.lr = 0.1;
  SGD<double> sgd(options);
  sgd.step(model);
  const double bound = 4 * 0x1p-53 * 10;
  for (std::size_t i = 0; i < 3; ++i) {
    const auto& p = model.list[i].second;
    EXPECT_LE((p.value - (start.list[i].second.value - 0.1 * p.grad)).cwiseAbs().maxCoeff(), bound);
  }
  EXPECT_TRUE(sgd.state().tensors.at("t0").moments.empty());
}

// b1 = d1, b2 = momentum b1 + (1 − dampening) d2, by hand; maximize turns the sign of the gradient
// alone.
TEST(SGD, DampeningStartsWithTheSecondUpdateAndMaximizeTurnsTheGradient) {
  lora_test::ToyModel<double> model;
  auto& p = model.add("p", Matrix<double>::Constant(1, 1, 2.0));
  SGDOptions options;
  options.lr = 0.5, options.momentum = 0.5, options.dampening = 0.25;
  options.weight_decay = 0.125, options.maximize = true;
  SGD<double> sgd(options);
  p.grad(0, 0) = 1;
  sgd.step(model);  // d = −1 + 0.25 = −0.75 = b
  EXPECT_EQ(p.value(0, 0), 2.375);
  p.grad(0, 0) = -2;
  sgd.step(model);  // d = 2 + 0.296875, b = −0.375 + 0.75 d = 1.34765625
  EXPECT_EQ(p.value(0, 0), 2.375 - 0.5 * 1.34765625);
}

TEST(SGD, ResumingGivesTheBytesOfAnUninterruptedRun) {
  SGDOptions options;
  options.lr = 0.05, options.momentum = 0.9, options.dampening = 0.1, options.weight_decay = 0.01;
  auto whole = three_tensors<float>(), parts = three_tensors<float>();
  SGD<float> straight(options), first(options), second(options);
  for (int step = 0; step < 6; ++step) {
    draw_gradients(whole, step), straight.step(whole);
  }
  for (int step = 0; step < 2; ++step) {
    draw_gradients(parts, step), first.step(parts);
  }
  second.load_state(first.state(), parts);
  for (int step = 2; step < 6; ++step) {
    draw_gradients(parts, step), second.step(parts);
  }
  EXPECT_TRUE(same_values(whole, parts));
  EXPECT_TRUE(same_states(straight.state(), second.state()));
  EXPECT_EQ(second.steps(), 6);
}

TEST(SGD, GroupsAndFactor) {
  auto model = three_tensors<double>();
  const auto start = model;
  const auto is_t1 = [](const std::string& n, const auto&) { return n == "t1"; };
  SGD<double> sgd({}, {{"still", is_t1, 0.0}});
  draw_gradients(model, 0);
  sgd.set_lr_factor(2);
  EXPECT_EQ(sgd.lr(), 2e-3);
  sgd.step(model);
  EXPECT_TRUE(lora_test::same_bytes(start.list[1].second.value, model["t1"].value));
  EXPECT_FALSE(lora_test::same_bytes(start.list[0].second.value, model["t0"].value));
}

TEST(SGD, ASteadyStepAllocatesNothing) {
  LORA_NEEDS_ALLOCATION_COUNTS();
  auto model = three_tensors<float>();
  SGDOptions options;
  options.momentum = 0.9, options.nesterov = true;
  SGD<float> sgd(options);
  draw_gradients(model, 0), sgd.step(model);
  lora_test::AllocationCounter counter;
  for (int step = 0; step < 4; ++step) sgd.step(model);
  EXPECT_EQ(counter.stop().calls, 0u);
}

TEST(SGDErrors, Options) {
  const auto with = [](auto change) {
    SGDOptions options;
    change(options);
    return SGD<float>(options);
  };
  const double inf = std::numeric_limits<double>::infinity();
  EXPECT_MESSAGE(lora::ConfigError, with([](auto& o) { o.lr = -1; }),
                 "SGD, group \"default\": lr is -1");
  EXPECT_MESSAGE(lora::ConfigError, with([](auto& o) { o.momentum = -1; }), "SGD: momentum is -1");
  EXPECT_MESSAGE(lora::ConfigError, with([&](auto& o) { o.dampening = inf; }),
                 "SGD: dampening is inf, expected a finite number");
  EXPECT_MESSAGE(lora::ConfigError, with([](auto& o) { o.weight_decay = -1; }),
                 "weight_decay is -1");
  EXPECT_MESSAGE(lora::ConfigError, with([](auto& o) { o.nesterov = true; }),
                 "SGD: nesterov needs a momentum > 0 and dampening 0, got momentum 0");
  EXPECT_MESSAGE(lora::ConfigError,
                 with([](auto& o) { o.nesterov = true, o.momentum = 0.9, o.dampening = 0.5; }),
                 "dampening 0.5");
}

TEST(SGDErrors, StateOfAnotherKindIsRefused) {
  auto model = three_tensors<float>();
  SGDOptions options;
  options.momentum = 0.9;
  SGD<float> plain, momentum(options);
  draw_gradients(model, 0), plain.step(model), momentum.step(model);
  EXPECT_MESSAGE(
      lora::ConfigError, plain.load_state(momentum.state(), model),
      "SGD::load_state: the state does not fit the model:\n  unknown: t0, momentum_buffer");
  EXPECT_MESSAGE(lora::ConfigError, momentum.load_state(plain.state(), model),
                 "missing: t2, momentum_buffer");
  momentum.prune(model);
  EXPECT_EQ(momentum.state().tensors.size(), 3u);
}

}  // namespace sgd_test
