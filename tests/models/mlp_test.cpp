// MLP: PEFT's numbers for two layers, gradients of the whole, steps without allocation, and errors
// before anything changes.
#include <lora/models/mlp.hpp>

#include <gtest/gtest.h>

#include <thread>

#include "layers/golden_layers.hpp"
#include "layers/layer_tools.hpp"
#include "support/allocations.hpp"

namespace mlp_test {
using namespace lora;
using namespace lora_test;

void check_stacked(const GoldenCase& one) {
  const SafetensorsFile file = one.tensors();
  Index terms = file.info("x").shape[0] + file.info("x").shape[1];
  std::vector<LoRALinear<double>> layers;
  for (const std::string name : {"a.", "b."}) {
    layers.emplace_back(file.matrix<double>(name + "W"), file.matrix<double>(name + "b"));
    terms += add_golden_adapter(layers.back(), golden_adapter(one), file, name).r;
    terms += layers.back().out_features();
  }
  MLP<double> model(std::move(layers), Activation::silu);
  const Matrix<double> x = file.matrix<double>("x"), dy = file.matrix<double>("dy");
  Matrix<double> y(dy.rows(), dy.cols()), dx;
  MLP<double>::Tape tape;
  model.forward(x, y, &tape);
  model.backward(x, dy, tape, &dx);
  const double bound = golden_bound(2 * terms);
  expect_close(y, file.matrix<double>("y"), bound, "y");
  expect_close(dx, file.matrix<double>("dx"), bound, "dx");
  for (std::size_t i = 0; i < 2; ++i) {
    const std::string name = i == 0 ? "a." : "b.";
    expect_close(model.layers()[i].adapters().get("default").A.grad,
                 file.matrix<double>(name + "dA"), bound, name + "dA");
    expect_close(model.layers()[i].adapters().get("default").B.grad,
                 file.matrix<double>(name + "dB"), bound, name + "dB");
  }
}

TEST(GoldenLayers, StackedSilu) { for_each_golden_case("stacked", check_stacked); }

const std::vector<Index> widths = {7, 9, 5, 11, 3};

template <class S>
MLP<S> model_of(Activation activation, double dropout = 0.2) {
  MLP<S> model(widths, activation, 3);
  for (std::size_t i = 0; i < 4; ++i) {
    AdapterOptions options = rank(static_cast<Index>(i) + 1, 5, dropout);
    options.lora_bias = i == 2;
    options.path = "layers." + std::to_string(i);
    add_full_adapter(model.layers()[i], "a", options);
    model.layers()[i].adapters().set_active({"a"});
  }
  return model;
}
Pass training_pass() {
  Pass pass;
  pass.training = true;
  pass.seed = 5;
  return pass;
}

TEST(MLP, GradientsThroughEverySmoothActivation) {
  for (const Activation activation : {Activation::identity, Activation::gelu, Activation::gelu_tanh,
                                      Activation::silu, Activation::sigmoid, Activation::tanh}) {
    SCOPED_TRACE(std::string(activation_name(activation)));
    for (const Index rows : {0, 1, 4}) {
      const auto make = [&](auto s) { return model_of<decltype(s)>(activation); };
      EXPECT_EQ(check_gradients(make, rows, training_pass()), 9);
    }
  }
}

TEST(MLP, GradientsThroughReluAwayFromItsKink) {
  // A complex step looks at the real part where it branches, so it gives the derivative on this
  // side of the kink.
  const auto make = [](auto s) { return model_of<decltype(s)>(Activation::relu); };
  EXPECT_EQ(check_gradients(make, 4, training_pass()), 9);
}

TEST(MLP, GradientsOfFullFineTuningOfSomeLayersAndOfOneLayerAlone) {
  const auto some = [](auto s) {
    MLP<decltype(s)> model(widths, Activation::tanh, 3);
    model.layers()[1].train_base();
    model.layers()[3].train_base();
    return model;
  };
  EXPECT_EQ(check_gradients(some, 4), 4);
  const auto one = [](auto s) {
    MLP<decltype(s)> model({5, 3}, Activation::tanh, 3);
    model.layers()[0].train_base();
    return model;
  };
  EXPECT_EQ(check_gradients(one, 4), 2);
}

TEST(MLP, WithoutDxNothingIsComputedBelowTheLowestTrainedLayer) {
  MLP<double> model = model_of<double>(Activation::silu), whole = model;
  for (std::size_t i = 0; i < 2; ++i) model.layers()[i].adapters().set_active({"a"}, false);
  const Matrix<double> x = random_matrix(4, 7, "x"), dy = random_matrix(4, 3, "dy");
  Matrix<double> y(4, 3), dx;
  MLP<double>::Tape tape, whole_tape;
  model.forward(x, y, &tape);
  model.backward(x, dy, tape);
  whole.forward(x, y, &whole_tape);
  whole.backward(x, dy, whole_tape, &dx);
  EXPECT_EQ(tape.gradients[0].size(), 0);
  EXPECT_EQ(tape.gradients[1].size(), 0);
  EXPECT_GT(tape.gradients[2].size(), 0);
  for (std::size_t i = 2; i < 4; ++i) {
    EXPECT_TRUE(same_bits(model.layers()[i].adapters().get("a").A.grad,
                          whole.layers()[i].adapters().get("a").A.grad));
    EXPECT_TRUE(same_bits(model.layers()[i].adapters().get("a").B.grad,
                          whole.layers()[i].adapters().get("a").B.grad));
  }
  MLP<double> frozen(widths);
  MLP<double>::Tape frozen_tape;
  frozen.forward(x, y, &frozen_tape);
  EXPECT_NO_THROW(frozen.backward(x, dy, frozen_tape));
}

TEST(MLP, FreshAdaptersAreTheIdentityBitForBit) {
  const MLP<float> base({37, 29, 11}, Activation::gelu, 1);
  MLP<float> adapted = base;
  for (LoRALinear<float>& layer : adapted.layers()) {
    EXPECT_TRUE(layer.weight().shares_storage_with(
        base.layers()[static_cast<std::size_t>(&layer - &adapted.layers()[0])].weight()));
    layer.add_adapter("a", rank(4, 1000, 0.1));
    layer.adapters().set_active({"a"});
  }
  const Matrix<float> x = random_matrix<float>(6, 37, "x");
  Matrix<float> y(6, 11), expected(6, 11);
  adapted.forward(x, y, nullptr, training_pass());
  base.forward(x, expected);
  EXPECT_TRUE(same_bits(y, expected));
}

TEST(MLP, ThreadsAndPartsOfABatchChangeNoBit) {
  MLP<float> model = model_of<float>(Activation::silu, 0.3);
  const Matrix<float> x = random_matrix<float>(130, 7, "x"),
                      dy = random_matrix<float>(130, 3, "dy");
  Matrix<float> y(130, 3), dx, one_y, one_dx, one_a;
  MLP<float>::Tape tape;
  const int before = num_threads();
  for (const int threads : {1, 2, 3, 7}) {
    set_num_threads(threads);
    zero_grad(model);
    model.forward(x, y, &tape, training_pass());
    model.backward(x, dy, tape, &dx);
    const Matrix<float>& a = model.layers()[0].adapters().get("a").A.grad;
    if (threads == 1) {
      one_y = y;
      one_dx = dx;
      one_a = a;
    }
    EXPECT_TRUE(same_bits(y, one_y));
    EXPECT_TRUE(same_bits(dx, one_dx));
    EXPECT_TRUE(same_bits(a, one_a));
  }
  set_num_threads(before);
  Pass part = training_pass();
  part.first_row = 50;
  Matrix<float> part_y(80, 3), part_dx;
  model.forward(x.bottomRows(80), part_y, &tape, part);
  model.backward(x.bottomRows(80), dy.bottomRows(80), tape, &part_dx);
  EXPECT_TRUE(same_bits(part_y, Matrix<float>(y.bottomRows(80))));
  EXPECT_TRUE(same_bits(part_dx, Matrix<float>(dx.bottomRows(80))));
}

TEST(MLP, OneModelServesFourThreads) {
  const MLP<float> model = model_of<float>(Activation::relu);
  const Matrix<float> x = random_matrix<float>(90, 7, "x");
  Matrix<float> expected(90, 3);
  model.forward(x, expected);
  std::vector<Matrix<float>> y(4, Matrix<float>(90, 3));
  std::vector<std::thread> running;
  for (Matrix<float>& own : y) {
    running.emplace_back([&] {
      MLP<float>::Tape tape;
      for (int repeat = 0; repeat < 5; ++repeat) model.forward(x, own, &tape);
    });
  }
  for (std::thread& thread : running) thread.join();
  for (const Matrix<float>& own : y) EXPECT_TRUE(same_bits(own, expected));
}

TEST(MLP, ASteadyStepAllocatesNothing) {
  LORA_NEEDS_ALLOCATION_COUNTS();
  const int before = num_threads();
  set_num_threads(1);
  MLP<float> model =
      model_of<float>(Activation::gelu, 0.3);  // four widths, so no two gradients have one size
  const Matrix<float> x = random_matrix<float>(70, 7, "x"), dy = random_matrix<float>(70, 3, "dy");
  Matrix<float> y(70, 3), dx;
  MLP<float>::Tape tape;
  const auto step = [&] {
    zero_grad(model);
    model.forward(x, y, &tape, training_pass());
    model.backward(x, dy, tape);
    model.backward(x, dy, tape, &dx);
  };
  step();
  AllocationCounter counter;
  step();
  const Allocations made = counter.stop();
  set_num_threads(before);
  EXPECT_EQ(made.calls, 0u) << made.bytes << " bytes, the largest " << made.largest;
}

TEST(MLP, AWholeStepNeverMakesAMatrixAsLargeAsAWeight) {
  LORA_NEEDS_ALLOCATION_COUNTS();
  MLP<float> model({384, 512, 384, 10}, Activation::relu);
  const Matrix<float> x = random_matrix<float>(64, 384, "x"),
                      dy = random_matrix<float>(64, 10, "dy");
  Matrix<float> y(64, 10);
  AllocationCounter counter;
  for (LoRALinear<float>& layer : model.layers()) {
    layer.add_adapter("a", rank(8, 8, 0.1));
    layer.adapters().set_active({"a"});
  }
  MLP<float>::Tape tape;
  model.forward(x, y, &tape, training_pass());
  model.backward(x, dy, tape);
  const Allocations made = counter.stop();
  EXPECT_GT(made.calls, 0u);
  EXPECT_LT(made.largest, std::uint64_t{512 * 384} * sizeof(float));
}

TEST(MLP, RowsHaveAdaptersThatSitOnDifferentLayers) {
  MLP<double> model(widths);
  add_full_adapter(model.layers()[0], "low", rank(2));
  add_full_adapter(model.layers()[2], "high", rank(3));
  model.layers()[3].add_trained_copy("high");
  model.layers()[3].trained_copies().find("high")->weight.value *= 2;
  const std::vector<std::string> names = {"low", "high", "__base__", "high", "low"};
  const Matrix<double> x = random_matrix(5, 7, "x");
  Matrix<double> y(5, 3), one(1, 3);
  Pass rows;
  rows.adapter_names = names;
  model.forward(x, y, nullptr, rows);
  for (Index t = 0; t < 5; ++t) {
    const std::string& name = names[static_cast<std::size_t>(t)];
    for (LoRALinear<double>& layer : model.layers()) {
      layer.adapters().set_active(layer.adapters().contains(name) ? std::vector<std::string>{name}
                                                                  : std::vector<std::string>());
      layer.trained_copies().activate(name);
    }
    model.forward(x.row(t), one);
    EXPECT_TRUE(same_bits(one, Matrix<double>(y.row(t)))) << "row " << t;
  }
  const std::vector<std::string> mistyped = {"low", "low", "hihg", "high", "low"};
  rows.adapter_names = mistyped;
  EXPECT_TRUE(throws<ConfigError>([&] { model.forward(x, y, nullptr, rows); },
                                  {"adapter_names[2] is \"hihg\""}));
}

TEST(MLP, FreshLayersBeginLikePyTorchsLinear) {
  const MLP<double> model({300, 200, 100}, Activation::relu, 7),
      same({300, 200, 100}, Activation::relu, 7), other({300, 200, 100});
  for (std::size_t i = 0; i < 2; ++i) {
    const LoRALinear<double>& layer = model.layers()[i];
    const Matrix<double> w = layer.weight().dense();
    const double bound = 1 / std::sqrt(static_cast<double>(layer.in_features())),
                 n = static_cast<double>(w.size());
    EXPECT_LE(w.cwiseAbs().maxCoeff(), bound);
    EXPECT_GE(w.cwiseAbs().maxCoeff(), bound * (1 - 20 / n));
    EXPECT_LE(std::abs(w.mean()), 5 * bound / std::sqrt(3 * n));
    EXPECT_LE(std::abs(w.squaredNorm() / n / (bound * bound / 3) - 1), 5 * std::sqrt(0.8 / n));
    EXPECT_LE(layer.bias().value.cwiseAbs().maxCoeff(), bound);
    EXPECT_GE(layer.bias().value.cwiseAbs().maxCoeff(), bound * 0.8);
    EXPECT_TRUE(same_bits(w, same.layers()[i].weight().dense()));
    EXPECT_FALSE(same_bits(w, other.layers()[i].weight().dense()));
  }
}

TEST(MLP, ListsItsLayersByPath) {
  MLP<double> model(widths);
  std::vector<std::string> names;
  model.for_each_module("",
                        [&](const NamePath& name, LoRALinear<double>&) { names.push_back(name); });
  EXPECT_EQ(names, (std::vector<std::string>{"layers.0", "layers.1", "layers.2", "layers.3"}));
  names.clear();
  model.layers()[1].add_adapter("a");
  model.for_each_parameter("net", [&](const NamePath& name, auto&) { names.push_back(name); });
  EXPECT_EQ(names,
            (std::vector<std::string>{
                "net.layers.0.bias", "net.layers.1.base_layer.bias", "net.layers.1.lora_A.a.weight",
                "net.layers.1.lora_B.a.weight", "net.layers.2.bias", "net.layers.3.bias"}));
  EXPECT_EQ(model.in_features(), 7);
  EXPECT_EQ(model.out_features(), 3);
  EXPECT_EQ(MLP<double>().in_features() + MLP<double>().out_features(), 0);
}

TEST(MLPErrors, Construction) {
  EXPECT_TRUE(
      throws<ConfigError>([] { MLP<float>(std::vector<Index>{5}); },
                          {"MLP: expected at least two sizes, the input's and the output's"}));
  EXPECT_TRUE(throws<ConfigError>(
      [] {
        MLP<float>({5, 0, 3});
      },
      {"MLP: a size is 0, expected at least 1"}));
  EXPECT_TRUE(throws<ShapeError>(
      [] {
        std::vector<LoRALinear<float>> layers;
        layers.emplace_back(Matrix<float>(4, 5));
        layers.emplace_back(Matrix<float>(2, 3));
        MLP<float>(std::move(layers));
      },
      {"MLP: weight of a layer is (2, 3), expected (O, 4)"}));
}

TEST(MLPErrors, NothingIsHalfDone) {
  MLP<double> model = model_of<double>(Activation::silu);
  const Matrix<double> x = random_matrix(4, 7, "x"), dy = random_matrix(4, 3, "dy"),
                       wrong = random_matrix(4, 6, "wrong");
  Matrix<double> y(4, 3), wide(4, 4), dx = Matrix<double>::Constant(1, 1, 5);
  MLP<double>::Tape tape;
  EXPECT_TRUE(
      throws<Error>([&] { MLP<double>().forward(x, y); }, {"MLP::forward: there are no layers"}));
  EXPECT_TRUE(throws<Error>([&] { MLP<double>().backward(x, dy, tape); },
                            {"MLP::backward: the tape has seen no forward"}));
  EXPECT_TRUE(throws<Error>([&] { model.backward(x, dy, tape, &dx); },
                            {"MLP::backward: the tape has seen no forward of this model"}));
  EXPECT_TRUE(throws<ShapeError>([&] { model.forward(wrong, y, &tape); },
                                 {"MLP::forward: x is (4, 6), expected (T, 7)"}));
  EXPECT_TRUE(throws<ShapeError>([&] { model.forward(x, wide, &tape); },
                                 {"MLP::forward: y is (4, 4), expected (4, 3)"}));
  model.forward(x, y, &tape);
  EXPECT_TRUE(throws<ShapeError>([&] { model.backward(wrong, dy, tape, &dx); },
                                 {"MLP::backward: x is (4, 6), expected (4, 7)"}));
  EXPECT_TRUE(throws<ShapeError>([&] { model.backward(x, wrong, tape, &dx); },
                                 {"MLP::backward: dy is (4, 6), expected (4, 3)"}));
  const std::vector<std::string> names(4, "nobody");
  Pass rows;
  rows.adapter_names = names;
  MLP<double>::Tape failed = tape;
  EXPECT_TRUE(throws<ConfigError>([&] { model.forward(x, y, &failed, rows); },
                                  {"MLP::forward: adapter_names[0] is \"nobody\", expected "
                                   "\"__base__\" or an adapter of one of the layers"}));
  EXPECT_TRUE(
      throws<Error>([&] { model.backward(x, dy, failed, &dx); }, {"the tape has seen no forward"}));
  Matrix<double> own_x = x, own_dy = dy;
  EXPECT_TRUE(throws<Error>([&] { model.backward(own_x, dy, tape, &own_x); },
                            {"MLP::backward: dx overlaps x"}));
  EXPECT_TRUE(throws<Error>([&] { model.backward(x, own_dy, tape, &own_dy); },
                            {"MLP::backward: dx overlaps dy"}));
  EXPECT_TRUE(throws<Error>([&] { model.forward(own_x, own_x.leftCols(3)); },
                            {"MLP::forward: y overlaps x"}));
  EXPECT_TRUE(same_bits(own_dy, dy));
  model.layers()[0].delete_adapter("a");
  EXPECT_TRUE(throws<Error>([&] { model.backward(x, dy, tape, &dx); },
                            {"what acts in this one was changed since forward"}));
  EXPECT_EQ(dx(0, 0), 5);
  for (std::size_t i = 1; i < 4; ++i) {
    EXPECT_EQ(model.layers()[i].adapters().get("a").B.grad.cwiseAbs().maxCoeff(), 0.0)
        << "layer " << i;
  }
}

}  // namespace mlp_test
