// LoRAConv2d: PEFT's numbers, the definition, gradients (also where PEFT fails), and the properties
// of every adapted layer.
#include <lora/layers/lora_conv2d.hpp>

#include <gtest/gtest.h>

#include <limits>

#include "layers/golden_layers.hpp"
#include "layers/layer_tools.hpp"
#include "layers/over_images.hpp"
#include "support/allocations.hpp"

namespace lora_conv2d_test {
using namespace lora;
using namespace lora_test;

Conv2dOptions same_both_ways(Index kernel, Index stride, Index padding, Index dilation,
                             Index groups) {
  return {{kernel, kernel}, {stride, stride}, {padding, padding}, {dilation, dilation}, groups};
}

TEST(GoldenLayers, EveryConvolution) {
  for_each_golden_case("conv2d", [](const GoldenCase& one) {
    const SafetensorsFile file = one.tensors();
    const auto number = [&](const char* field) { return one.at(field).get<Index>(); };
    EXPECT_EQ(number("A_groups"), 1);
    EXPECT_EQ(number("B_groups"), number("groups"));
    const Conv2dOptions options =
        same_both_ways(file.info("W").shape.back(), number("stride"), number("padding"),
                       number("dilation"), number("groups"));
    LoRAConv2d<double> layer(file.matrix<double>("W"), options, file.matrix<double>("b"));
    // x is (N, C, H, W), A (R, C, k, k), B (O, R / groups, 1, 1).
    const std::vector<Index>& images = file.info("x").shape;
    const ImageSize in{images[2], images[3]};
    const Index channels = images[1], r = file.info("A").shape[0], out = file.info("B").shape[0];
    const Adapter<double>& adapter = add_golden_adapter(layer, golden_adapter(one), file);
    EXPECT_EQ(adapter.A.shape,
              (std::vector<Index>{r, channels, options.kernel[0], options.kernel[1]}));
    EXPECT_EQ(adapter.B.shape, (std::vector<Index>{out, r / options.groups, 1, 1}));
    const Matrix<double> x = file.matrix<double>("x"), dy = file.matrix<double>("dy");
    Matrix<double> y(dy.rows(), dy.cols()), dx;
    LoRAConv2d<double>::Tape tape;
    layer.forward(x, in, y, &tape);
    layer.backward(x, dy, tape, &dx);
    // The longest sums: over channels · kernel and R for y, over images, pixels and O for the
    // gradients.
    const double bound = golden_bound(channels * options.kernel[0] * options.kernel[1] + r +
                                      images[0] * tape.out.pixels() + out);
    expect_close(y, file.matrix<double>("y"), bound, "y");
    expect_close(dx, file.matrix<double>("dx"), bound, "dx");
    expect_close(adapter.A.grad, file.matrix<double>("dA"), bound, "dA");
    expect_close(adapter.B.grad, file.matrix<double>("dB"), bound, "dB");
    EXPECT_EQ(file.contains("delta"), options.groups == 1);
    if (file.contains("delta")) {
      LoRAConv2d<double> zero(Matrix<double>(Matrix<double>::Zero(out, adapter.A.value.cols())),
                              options);
      zero.adapters().add(adapter);
      expect_close(zero.prepare_merge({"default"}).weight.dense(), file.matrix<double>("delta"),
                   golden_bound(r), "delta");
    }
  });
}

struct Case {
  const char* what;
  Conv2dOptions options;
  ImageSize in;
  Index channels, out, r;
};
const Case cases[] = {
    {"1x1", same_both_ways(1, 1, 0, 1, 1), {3, 4}, 3, 5, 2},
    {"3x3", same_both_ways(3, 1, 1, 1, 1), {4, 5}, 2, 3, 1},
    {"stride", same_both_ways(3, 2, 1, 1, 1), {5, 4}, 2, 3, 2},
    {"dilated", same_both_ways(3, 1, 1, 2, 1), {6, 5}, 2, 3, 2},
    {"groups", same_both_ways(3, 1, 1, 1, 2), {4, 3}, 4, 6, 4},
    {"dilated groups, one channel each", same_both_ways(2, 1, 0, 2, 3), {4, 4}, 3, 3, 6},
    {"all unequal", {{2, 3}, {2, 1}, {0, 2}, {1, 2}, 1}, {5, 4}, 3, 2, 7},
};

template <class S>
OverImages<S> layer_of(const Case& c, double dropout = 0, bool biases = true) {
  const Index kernel = c.options.kernel[0] * c.options.kernel[1];
  LoRAConv2d<S> conv(random_matrix<S>(c.out, c.channels / c.options.groups * kernel, "W"),
                     c.options, biases ? random_matrix<S>(1, c.out, "b") : Matrix<S>());
  AdapterOptions options = rank(c.r, 5, dropout);
  options.lora_bias = biases;
  add_full_adapter(conv, "a", options);
  add_full_adapter(conv, "b", rank(c.options.groups, -2));
  conv.adapters().set_active({"a", "b"});
  if (biases) conv.bias().set_trainable(true);
  return {std::move(conv), c.in};
}

TEST(LoRAConv2d, Gradients) {
  Pass pass;
  pass.training = true;
  pass.first_row = 3;
  for (const Case& c : cases) {
    for (const double dropout : {0.0, 0.4}) {
      SCOPED_TRACE(std::string(c.what) + (dropout > 0 ? " with dropout" : ""));
      const auto make = [&](auto s) { return layer_of<decltype(s)>(c, dropout); };
      EXPECT_EQ(check_gradients(make, 2, pass), 6) << "A, B, A, B, lora_bias, base bias";
    }
  }
  for (const Index images : {0, 1}) {
    EXPECT_EQ(check_gradients([&](auto s) { return layer_of<decltype(s)>(cases[2], 0.4, false); },
                              images, pass),
              4);
  }
}

TEST(LoRAConv2d, GradientsOfATrainedCopy) {
  for (const Case& c : cases) {
    for (const char* name : {"a", "__base__"}) {
      SCOPED_TRACE(c.what);
      const auto make = [&](auto s) {
        auto layer = layer_of<decltype(s)>(c);
        layer.conv.unload();
        layer.conv.add_trained_copy(name);
        layer.conv.trained_copies().activate(name);
        layer.conv.trained_copies().find(name)->weight.value *= 0.5;
        return layer;
      };
      EXPECT_EQ(check_gradients(make, 2), 2);
    }
  }
}

TEST(LoRAConv2d, GradientsAddUpAndDxWhenAsked) {
  for (const double dropout : {0.0, 0.4}) {
    OverImages<double> layer = layer_of<double>(cases[4], dropout);
    const Matrix<double> x = random_matrix(2, layer.in_features(), "x"),
                         dy = random_matrix(2, layer.out_features(), "dy");
    const Matrix<double> before = random_matrix(2, layer.in_features(), "before");
    Matrix<double> y(2, layer.out_features()), dx, sum = before;
    Pass pass;
    pass.training = true;
    OverImages<double>::Tape tape;
    layer.forward(x, y, &tape, pass);
    layer.backward(x, dy, tape, &dx);
    const Matrix<double> once = layer.conv.adapters().get("a").A.grad;
    layer.backward(x, dy, tape, &sum, Accumulate::yes);
    // An entry of dx is a sum of at most 2 · 9 pixels of sums over O and R; of dA over 24 pixels.
    EXPECT_TRUE(same_gradient(sum, before + dx, 200 * 0x1.0p-53));
    EXPECT_TRUE(same_gradient(layer.conv.adapters().get("a").A.grad, 2 * once, 200 * 0x1.0p-53));
    layer.backward(x, dy, tape, nullptr);
    EXPECT_TRUE(same_gradient(layer.conv.adapters().get("a").A.grad, 3 * once, 200 * 0x1.0p-53));
  }
}

/// conv(x, W) straight from its definition, W (O, C / groups · kernel), for one image.
Matrix<double> convolved(const Matrix<double>& x, const Matrix<double>& w, const Conv2dOptions& o,
                         ImageSize in) {
  const ImageSize out = conv2d_output(o, in);
  const Index kernel = o.kernel[0] * o.kernel[1], channels = w.cols() / kernel,
              group = w.rows() / o.groups;
  Matrix<double> y = Matrix<double>::Zero(w.rows(), out.pixels());
  for (Index n = 0; n < w.rows(); ++n) {
    for (Index p = 0; p < out.pixels(); ++p) {
      for (Index k = 0; k < w.cols(); ++k) {
        const Index c = n / group * channels + k / kernel;
        const Index v =
            p / out.width * o.stride[0] - o.padding[0] + k % kernel / o.kernel[1] * o.dilation[0];
        const Index h =
            p % out.width * o.stride[1] - o.padding[1] + k % o.kernel[1] * o.dilation[1];
        if (v >= 0 && v < in.height && h >= 0 && h < in.width)
          y(n, p) += w(n, k) * x(0, c * in.pixels() + v * in.width + h);
      }
    }
  }
  return y;
}

TEST(LoRAConv2d, IsTheDefinition) {
  for (const Case& c : cases) {
    SCOPED_TRACE(c.what);
    OverImages<double> layer = layer_of<double>(c);
    const Matrix<double> x = random_matrix(2, layer.in_features(), "x");
    Matrix<double> y(2, layer.out_features());
    layer.forward(x, y);
    for (Index n = 0; n < 2; ++n) {
      const Matrix<double> image = x.row(n);
      Matrix<double> expected = convolved(image, layer.conv.weight().dense(), c.options, c.in);
      expected.colwise() += layer.conv.bias().value.row(0).transpose();
      for (const Adapter<double>& adapter : layer.conv.adapters().all()) {
        Conv2dOptions one_group = c.options,
                      pointwise = same_both_ways(1, 1, 0, 1, c.options.groups);
        one_group.groups = 1;
        const ImageSize out = conv2d_output(c.options, c.in);
        Matrix<double> h = convolved(image, adapter.A.value, one_group, c.in);
        h.resize(1, h.size());
        expected += adapter.scaling * convolved(h, adapter.B.value, pointwise, out);
        if (!adapter.bias.empty())
          expected.colwise() += adapter.scaling * adapter.bias.value.row(0).transpose();
      }
      expected.resize(1, expected.size());
      expect_close(y.row(n), expected,
                   golden_bound(c.channels * c.options.kernel[0] * c.options.kernel[1] + c.r + 4));
    }
  }
}

TEST(LoRAConv2d, AFreshAdapterIsTheIdentityBitForBit) {
  for (const Case& c : cases) {
    OverImages<float> base = layer_of<float>(c), layer = base;
    base.conv.unload();
    layer.conv.unload();
    layer.conv.add_adapter("fresh", rank(c.r, 1000, 0.3));
    layer.conv.adapters().set_active({"fresh"});
    const Matrix<float> x = random_matrix<float>(2, layer.in_features(), "x");
    Matrix<float> y(2, layer.out_features()), expected(2, layer.out_features());
    Pass pass;
    pass.training = true;
    layer.forward(x, y, nullptr, pass);
    base.forward(x, expected);
    EXPECT_TRUE(same_bits(y, expected)) << c.what;
  }
}

TEST(LoRAConv2d, PartsOfABatchAndThreadsChangeNoBit) {
  OverImages<float> layer = layer_of<float>(cases[2], 0.3);
  const Matrix<float> x = random_matrix<float>(5, layer.in_features(), "x"),
                      dy = random_matrix<float>(5, layer.out_features(), "dy");
  Matrix<float> y(5, layer.out_features()), dx;
  Pass pass;
  pass.training = true;
  pass.first_row = 10;
  OverImages<float>::Tape tape;
  const int before = num_threads();
  const auto step = [&] {
    zero_grad(layer);
    layer.forward(x, y, &tape, pass);
    layer.backward(x, dy, tape, &dx);
  };
  set_num_threads(1);
  step();
  const Matrix<float> one_y = y, one_dx = dx, one_a = layer.conv.adapters().get("a").A.grad;
  for (const int threads : {2, 3, 7}) {
    set_num_threads(threads);
    step();
    EXPECT_TRUE(same_bits(y, one_y));
    EXPECT_TRUE(same_bits(dx, one_dx));
    EXPECT_TRUE(same_bits(layer.conv.adapters().get("a").A.grad, one_a));
  }
  set_num_threads(before);
  for (const auto& [first, count] : {std::pair<Index, Index>{0, 2}, {2, 3}}) {
    Pass part = pass;
    part.first_row += first;
    Matrix<float> part_y(count, layer.out_features()), part_dx;
    layer.forward(x.middleRows(first, count), part_y, &tape, part);
    layer.backward(x.middleRows(first, count), dy.middleRows(first, count), tape, &part_dx);
    EXPECT_TRUE(same_bits(part_y, Matrix<float>(y.middleRows(first, count))));
    EXPECT_TRUE(same_bits(part_dx, Matrix<float>(dx.middleRows(first, count))));
  }
}

TEST(LoRAConv2d, MergedEqualsUnmergedAndUnmergingIsExact) {
  for (const Case& c : cases) {
    if (c.options.groups != 1) continue;
    SCOPED_TRACE(c.what);
    OverImages<double> layer = layer_of<double>(c);
    const Matrix<double> x = random_matrix(2, layer.in_features(), "x"),
                         weight = layer.conv.weight().stored();
    Matrix<double> y(2, layer.out_features()), merged(2, layer.out_features()),
        again(2, layer.out_features());
    layer.forward(x, y);
    layer.conv.merge();
    layer.forward(x, merged);
    expect_close(merged, y,
                 golden_bound(c.channels * c.options.kernel[0] * c.options.kernel[1] + c.r + 1));
    LoRAConv2d<double> unloaded = layer.conv;
    unloaded.unload();
    EXPECT_FALSE(same_bits(unloaded.weight().stored(), weight));
    layer.conv.unmerge();
    layer.forward(x, again);
    EXPECT_TRUE(same_bits(again, y));
    EXPECT_TRUE(same_bits(layer.conv.weight().stored(), weight));
  }
}

TEST(LoRAConv2d, AdaptersAcrossGroupsAreNotMerged) {
  OverImages<double> layer = layer_of<double>(cases[4]);
  EXPECT_TRUE(throws<ConfigError>(
      [&] { layer.conv.merge(); },
      {"merge: a convolution with groups cannot merge an adapter, whose A spans the groups"}));
  EXPECT_TRUE(layer.conv.adapters().merged().empty());
}

TEST(LoRAConv2d, WhatFullFineTuningTrainedIsTheBaseAfterwardsWithGroupsToo) {
  for (const Case& c : cases) {
    SCOPED_TRACE(c.what);
    OverImages<double> layer = layer_of<double>(c), saved = layer;
    const Matrix<double> x = random_matrix(2, layer.in_features(), "x");
    Matrix<double> trained(2, layer.out_features()), y(2, layer.out_features());
    layer.conv.unload();
    layer.conv.train_base();
    parameter_of(layer, "weight").value *= -3;
    layer.forward(x, trained);
    layer.conv.freeze_base();
    layer.forward(x, y);
    EXPECT_TRUE(same_bits(y, trained));
    saved.conv.add_trained_copy("a");
    saved.conv.trained_copies().activate("a");
    parameter_of(saved, "modules_to_save.a.weight").value *= -3;
    saved.conv.unload("a");
    saved.forward(x, y);
    EXPECT_TRUE(same_bits(y, trained));
  }
}

TEST(LoRAConv2d, AnotherWeightActsWithGroupsToo) {
  const ImageSize in{3, 3};
  for (const Index groups : {1, 2}) {
    const Conv2dOptions options{.kernel = {2, 2}, .groups = groups};
    const Matrix<double> other = Matrix<double>::Constant(4, 16 / groups, 2);
    LoRAConv2d<double> layer(Matrix<double>::Ones(4, 16 / groups), options);
    const LoRAConv2d<double> expected(other, options);
    const Matrix<double> x = Matrix<double>::Random(2, 4 * in.pixels());
    Matrix<double> y(2, 16), same(2, 16);
    layer.set_weight(FrozenWeight<double>(other));
    layer.forward(x, in, y);
    expected.forward(x, in, same);
    EXPECT_EQ(y, same) << groups;
  }
}

TEST(LoRAConv2d, NaNFlowsThroughAndDisabledIsTheBase) {
  OverImages<double> layer = layer_of<double>(cases[1]), base = layer;
  base.conv.unload();
  const Matrix<double> x = random_matrix(1, layer.in_features(), "x");
  Matrix<double> y(1, layer.out_features()), expected(1, layer.out_features());
  layer.conv.adapters().get("a").B.value(1, 0) = std::numeric_limits<double>::quiet_NaN();
  layer.forward(x, y);
  const Index pixels = layer.out_features() / 3;
  for (Index i = 0; i < y.size(); ++i) EXPECT_EQ(std::isnan(y(0, i)), i / pixels == 1) << i;
  layer.conv.adapters().set_enabled(false);
  layer.forward(x, y);
  base.forward(x, expected);
  EXPECT_TRUE(same_bits(y, expected));
}

TEST(LoRAConv2d, ASteadyStepAllocatesNothing) {
  LORA_NEEDS_ALLOCATION_COUNTS();
  const int before = num_threads();
  set_num_threads(1);
  for (const Case& c : cases) {
    OverImages<float> layer = layer_of<float>(c, 0.3);
    const Matrix<float> x = random_matrix<float>(2, layer.in_features(), "x"),
                        dy = random_matrix<float>(2, layer.out_features(), "dy");
    Matrix<float> y(2, layer.out_features()), dx;
    Pass pass;
    pass.training = true;
    OverImages<float>::Tape tape;
    const auto step = [&] {
      layer.forward(x, y, &tape, pass);
      layer.backward(x, dy, tape, &dx);
    };
    step();
    AllocationCounter counter;
    step();
    const Allocations made = counter.stop();
    EXPECT_EQ(made.calls, 0u) << c.what << ": " << made.bytes << " bytes";
  }
  set_num_threads(before);
}

TEST(LoRAConv2dErrors, Construction) {
  const auto make = [](Conv2dOptions options, Index rows = 6, Index cols = 18, Index bias = 0) {
    return [=] {
      LoRAConv2d<float>(Matrix<float>(rows, cols), options, Matrix<float>(bias == 0 ? 0 : 1, bias));
    };
  };
  const char* text =
      "LoRAConv2d: kernel, stride and dilation must be at least 1 and padding at least 0";
  for (const Conv2dOptions& bad : {same_both_ways(0, 1, 0, 1, 1), same_both_ways(3, 0, 0, 1, 1),
                                   same_both_ways(3, 1, -1, 1, 1), same_both_ways(3, 1, 0, 0, 1),
                                   Conv2dOptions{{3, 3}, {1, -1}, {0, 0}, {1, 1}, 1}}) {
    EXPECT_TRUE(throws<ConfigError>(make(bad), {text}));
  }
  for (const Index groups : {-2, 0, 4}) {
    EXPECT_TRUE(throws<ConfigError>(
        make(same_both_ways(3, 1, 0, 1, groups)),
        {"LoRAConv2d: groups is ", "expected a divisor of the 6 output channels"}));
  }
  EXPECT_TRUE(
      throws<ShapeError>(make(same_both_ways(3, 1, 0, 1, 1), 6, 20),
                         {"LoRAConv2d: weight is (6, 20), expected (O, channels / groups * 9)"}));
  EXPECT_TRUE(throws<ShapeError>(make(same_both_ways(3, 1, 0, 1, 1), 6, 18, 5),
                                 {"LoRAConv2d: bias is (1, 5), expected (1, 6)"}));
  EXPECT_NO_THROW(make(same_both_ways(3, 1, 0, 1, 3), 6, 18, 6)());
}

TEST(LoRAConv2dErrors, AdaptersThatDoNotFitTheGroups) {
  LoRAConv2d<float> layer(Matrix<float>(6, 18), same_both_ways(3, 1, 0, 1, 3));
  EXPECT_TRUE(throws<ConfigError>([&] { layer.add_adapter("a", rank(4)); },
                                  {"adapter \"a\": r is 4, expected a multiple of the 3 groups"}));
  AdapterOptions orthogonal = rank(6);
  orthogonal.init = AdapterInit::orthogonal;
  EXPECT_TRUE(throws<ConfigError>([&] { layer.add_adapter("a", orthogonal); },
                                  {"\"orthogonal\" is not defined for a convolution with groups"}));
  EXPECT_TRUE(layer.adapters().empty());
}

TEST(LoRAConv2dErrors, ShapesAndTapes) {
  OverImages<double> layer =
      layer_of<double>(cases[1]);  // 2 channels of 4 x 5 to 3 of the same size
  const Matrix<double> x = random_matrix(2, 40, "x"), dy = random_matrix(2, 60, "dy"),
                       wrong = random_matrix(2, 41, "wrong");
  Matrix<double> y(2, 60), narrow(2, 59), dx(1, 40);
  OverImages<double>::Tape tape;
  EXPECT_TRUE(throws<Error>([&] { layer.backward(x, dy, tape, &dx); },
                            {"LoRAConv2d::backward: the tape has seen no forward"}));
  EXPECT_TRUE(throws<ShapeError>([&] { layer.forward(wrong, y, &tape); },
                                 {"LoRAConv2d::forward: x is (2, 41), expected (T, 40)"}));
  EXPECT_TRUE(throws<ShapeError>([&] { layer.forward(x, narrow, &tape); },
                                 {"LoRAConv2d::forward: y is (2, 59), expected (2, 60)"}));
  EXPECT_TRUE(throws<ShapeError>(
      [&] {
        layer.conv.forward(x, {0, 9}, y, &tape);
      },
      {"image is (0, 9)"}));
  const std::vector<std::string> names(2, "a");
  Pass rows;
  rows.adapter_names = names;
  EXPECT_TRUE(throws<Error>([&] { layer.forward(x, y, &tape, rows); },
                            {"LoRAConv2d::forward: adapter_names is not supported"}));
  layer.forward(x, y, &tape);
  EXPECT_TRUE(throws<ShapeError>([&] { layer.backward(wrong, dy, tape, &dx); },
                                 {"LoRAConv2d::backward: x is (2, 41), expected (2, 40)"}));
  EXPECT_TRUE(throws<ShapeError>([&] { layer.backward(x, wrong, tape, &dx); },
                                 {"LoRAConv2d::backward: dy is (2, 41), expected (2, 60)"}));
  EXPECT_TRUE(throws<ShapeError>([&] { layer.backward(x, dy, tape, &dx, Accumulate::yes); },
                                 {"LoRAConv2d::backward: dx is (1, 40), expected (2, 40)"}));
  LoRAConv2d<double> other(random_matrix(3, 18, "W"), cases[1].options);
  add_full_adapter(other, "a", rank(9));
  add_full_adapter(other, "b", rank(9));
  EXPECT_TRUE(throws<Error>([&] { other.backward(x, dy, tape, &dx); },
                            {"LoRAConv2d::backward: the tape was made by another layer"}));
  dx.resize(2, 40);
  EXPECT_TRUE(throws<Error>([&] { layer.backward(dx, dy, tape, &dx); },
                            {"LoRAConv2d::backward: dx overlaps x"}));
  Matrix<double> g = dy;
  EXPECT_TRUE(throws<Error>([&] { layer.backward(x, g, tape, &g); },
                            {"LoRAConv2d::backward: dx overlaps dy"}));
  Matrix<double> wide = random_matrix(2, 100, "wide");
  EXPECT_TRUE(
      throws<Error>([&] { layer.forward(wide.leftCols(40), wide.middleCols(39, 60), &tape); },
                    {"LoRAConv2d::forward: y overlaps x"}));
  EXPECT_NO_THROW(layer.forward(wide.leftCols(40), wide.middleCols(40, 60), &tape));
  layer.conv.delete_adapter("a");
  EXPECT_TRUE(
      throws<Error>([&] { layer.backward(x, dy, tape, &dx); },
                    {"LoRAConv2d::backward", "what acts in this one was changed since forward"}));
  EXPECT_EQ(layer.conv.adapters().get("b").A.grad.cwiseAbs().maxCoeff(), 0.0);
}

TEST(LoRAConv2d, Sizes) {
  const OverImages<double> layer = layer_of<double>(cases[4]);
  EXPECT_EQ(layer.conv.in_channels(), 4);
  EXPECT_EQ(layer.conv.out_channels(), 6);
  EXPECT_STREQ(layer.conv.module_type(), "Conv2d");
  EXPECT_EQ(layer.conv.weight_shape(), (std::vector<Index>{6, 2, 3, 3}));
}

// 2^32 · 2^32 pixels are 0 when the product wraps around, which is what an empty x has.
TEST(LoRAConv2dErrors, SizesThatOverflow) {
  const LoRAConv2d<float> layer(Matrix<float>::Ones(2, 4), {});
  Matrix<float> x(1, 0), y(1, 0);
  EXPECT_TRUE(throws<ShapeError>(
      [&] {
        layer.forward(x, {Index{1} << 32, Index{1} << 32}, y);
      },
      {"sides from 0 to below 2^31"}));
  EXPECT_TRUE(throws<ShapeError>(
      [&] {
        layer.forward(x, {Index{1} << 30, Index{1} << 30}, y);
      },
      {"LoRAConv2d::forward: x is (1, 0), expected (T, "}));
  const LoRAConv2d<float> wide(Matrix<float>::Ones(2, 16), {});
  EXPECT_TRUE(throws<ShapeError>(
      [&] {
        wide.forward(x, {Index{1} << 30, Index{1} << 30}, y);
      },
      {"over 16 channels"}));
  EXPECT_TRUE(throws<ShapeError>(
      [] { LoRAConv2d<float>(Matrix<float>(0, 4), Conv2dOptions{.groups = Index{1} << 62}); },
      {"inputs can be counted over 4611686018427387904 groups"}));
  EXPECT_TRUE(throws<ConfigError>(
      [] {
        LoRAConv2d<float>(Matrix<float>(1, 0),
                          Conv2dOptions{.kernel = {Index{1} << 32, Index{1} << 32}});
      },
      {"all below 2^31"}));
}

}  // namespace lora_conv2d_test
