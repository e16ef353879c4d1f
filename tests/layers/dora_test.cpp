// DoRA: PEFT's numbers, every gradient by complex step, the norm that is never formed, and what
// must hold of it on each kind of layer and storage.
#include <lora/layers/lora_conv2d.hpp>
#include <lora/layers/lora_embedding.hpp>
#include <lora/layers/lora_linear.hpp>

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <thread>

#include "layers/golden_layers.hpp"
#include "layers/layer_tools.hpp"
#include "layers/over_images.hpp"
#include "support/allocations.hpp"
#include "support/instruction_sets.hpp"

namespace dora_test {
using namespace lora;
using namespace lora_test;

AdapterOptions dora(Index r, double alpha = 5, double dropout = 0, bool rslora = false) {
  AdapterOptions options = rank(r, alpha, dropout);
  options.variant = DoRA{{}, rslora};
  return options;
}
template <class Layer>
Parameter<typename Layer::Scalar>& magnitude(Layer& layer, const std::string& name = "a") {
  return layer.adapters().get(name).own.at(0).parameter;
}
/// A full adapter whose m is neither n nor near it.
template <class Layer>
void add_dora(Layer& layer, const std::string& name, const AdapterOptions& options) {
  using S = typename Layer::Scalar;
  add_full_adapter(layer, name, options);
  Matrix<S>& m = magnitude(layer, name).value;
  m += random_matrix<S>(m.rows(), m.cols(), "m of " + name, 0.3);
}

// ---- golden numbers ----

Matrix<double> rows_of(const SafetensorsFile& file, const std::string& name, Index cols) {
  const Matrix<double> m = file.matrix<double>(name);
  return Eigen::Map<const Matrix<double>>(m.data(), m.size() / cols, cols);
}
/// What a case says of its adapter; where it has no whole configuration, that it is DoRA.
GoldenAdapter dora_adapter(const Json& config, double scaling) {
  GoldenAdapter golden{config, scaling};
  golden.config["use_dora"] = true;
  golden.config.erase("r");
  golden.config.erase("lora_alpha");
  golden.config.erase("use_rslora");  // the scaling says it
  return golden;
}

/// The sums of a case run over at most this many terms.
Index terms_of(const SafetensorsFile& file) {
  Index most = 0;
  for (const char* name : {"W", "A", "x", "dy"}) {
    if (file.contains(name)) most += file.matrix<double>(name).size();
  }
  return most;
}

// PEFT's mask cannot be given to a layer whose masks are its own. The output is linear in x on the
// base's path and in drop(x) on the other: a layer without dropout gives the second of the masked
// x, less the base's output of it.
void check_linear(const GoldenCase& one) {
  const SafetensorsFile file = one.tensors();
  const Json config = one.fields.value("config", Json::object());
  const Layout layout = config.value("fan_in_fan_out", false) ? Layout::in_out : Layout::out_in;
  const FrozenWeight<double> W(file.matrix<double>("W"), layout);
  LoRALinear<double> layer(W),
      base(W, file.contains("b") ? file.matrix<double>("b") : Matrix<double>());
  const Adapter<double>& adapter =
      add_golden_adapter(layer, dora_adapter(config, one.at("scaling").get<double>()), file);
  Matrix<double> x = rows_of(file, "x", layer.in_features()),
                 dy = rows_of(file, "dy", layer.out_features()), xd = x, keep = x;
  keep.setOnes();
  if (file.contains("mask")) keep = file.matrix<double>("mask") / (1 - one.at("p").get<double>());
  xd = x.cwiseProduct(keep);
  Matrix<double> y(x.rows(), W.rows()), y_base(x.rows(), W.rows()), u(x.rows(), W.rows()), dx,
      d_base;
  LoRALinear<double>::Tape tape, base_tape;
  layer.forward(xd, y, &tape);
  layer.backward(xd, dy, tape, &dx);
  base.forward(x - xd, y_base, &base_tape);
  base.backward(x, dy, base_tape, &d_base);
  const double bound = 1e-12;
  expect_close(y + y_base, rows_of(file, "y", W.rows()), bound, "y");
  expect_close(d_base + keep.cwiseProduct(dx - d_base), rows_of(file, "dx", W.cols()), bound, "dx");
  expect_close(adapter.A.grad, file.matrix<double>("dA"), bound, "dA");
  expect_close(adapter.B.grad, file.matrix<double>("dB"), bound, "dB");
  expect_close(magnitude(layer, "default").grad.reshaped(W.rows(), 1),
               file.matrix<double>("dm").reshaped(W.rows(), 1), bound, "dm");
  expect_close(layer.prepare_merge().weight.stored(), file.matrix<double>("merged"), bound,
               "merged");
  const FrozenWeight<double> before = layer.weight();
  layer.merge();
  Matrix<double> merged(x.rows(), W.rows());
  layer.forward(xd, merged);
  expect_close(merged, y, bound, "y of the merged weight");
  layer.unmerge();
  EXPECT_TRUE(layer.weight().shares_storage_with(before));
}

TEST(GoldenDoRA, EveryLinearCase) { for_each_golden_case("dora_linear", check_linear, "variants"); }

TEST(GoldenDoRA, EveryConvolution) {
  for_each_golden_case(
      "dora_conv2d",
      [](const GoldenCase& one) {
        const SafetensorsFile file = one.tensors();
        if (file.contains("mask")) return;  // DropoutIsThatOfTheFormula holds it to the formula
        const Conv2dOptions options = {
            {file.info("W").shape[2], file.info("W").shape[3]},
            {one.at("stride").get<Index>(), one.at("stride").get<Index>()},
            {one.at("padding").get<Index>(), one.at("padding").get<Index>()},
            {1, 1},
            1};
        LoRAConv2d<double> layer(file.matrix<double>("W"), options, file.matrix<double>("b"));
        const Adapter<double>& adapter = add_golden_adapter(
            layer, dora_adapter(Json::object(), one.at("scaling").get<double>()), file);
        EXPECT_EQ(magnitude(layer, "default").shape, file.info("m").shape);
        const ImageSize in{file.info("x").shape[2], file.info("x").shape[3]};
        const Matrix<double> x = file.matrix<double>("x"), dy = file.matrix<double>("dy");
        Matrix<double> y(dy.rows(), dy.cols()), dx;
        LoRAConv2d<double>::Tape tape;
        layer.forward(x, in, y, &tape);
        layer.backward(x, dy, tape, &dx);
        const double bound = golden_bound(terms_of(file));
        expect_close(y, file.matrix<double>("y"), bound, "y");
        expect_close(dx, file.matrix<double>("dx"), bound, "dx");
        expect_close(adapter.A.grad, file.matrix<double>("dA"), bound, "dA");
        expect_close(adapter.B.grad, file.matrix<double>("dB"), bound, "dB");
        expect_close(magnitude(layer, "default").grad,
                     file.matrix<double>("dm").reshaped(1, y.cols() / (tape.out.pixels())), bound,
                     "dm");
        expect_close(layer.prepare_merge().weight.stored(), file.matrix<double>("merged"), bound,
                     "merged");
      },
      "variants");
}

TEST(GoldenDoRA, EveryEmbedding) {
  for_each_golden_case(
      "dora_embedding",
      [](const GoldenCase& one) {
        const SafetensorsFile file = one.tensors();
        LoRAEmbedding<double> layer(file.matrix<double>("W"));
        const Adapter<double>& adapter = add_golden_adapter(
            layer, dora_adapter(Json::object(), one.at("scaling").get<double>()), file);
        const Index D = layer.embedding_dim();
        const Matrix<double> dy = rows_of(file, "dy", D);
        std::vector<std::int64_t> ids(static_cast<std::size_t>(dy.rows()));
        std::memcpy(ids.data(), file.bytes("ids").data(), file.bytes("ids").size());
        Matrix<double> y(dy.rows(), D);
        LoRAEmbedding<double>::Tape tape;
        layer.forward(ids, y, &tape);
        layer.backward(ids, dy, tape);
        const double bound = golden_bound(terms_of(file));
        expect_close(y, rows_of(file, "y", D), bound, "y");
        expect_close(adapter.A.grad, file.matrix<double>("dA"), bound, "dA");
        expect_close(adapter.B.grad, file.matrix<double>("dB"), bound, "dB");
        expect_close(magnitude(layer, "default").grad, file.matrix<double>("dm").reshaped(1, D),
                     bound, "dm");
        expect_close(layer.prepare_merge().weight.stored(), file.matrix<double>("merged"), bound,
                     "merged");
      },
      "variants");
}

TEST(GoldenDoRA, TheSecondAdapterTakesWhatTheFirstMakes) {
  for_each_golden_case(
      "dora_two",
      [](const GoldenCase& one) {
        const SafetensorsFile file = one.tensors();
        LoRALinear<double> layer(file.matrix<double>("W"), file.matrix<double>("b"));
        for (const char* name : {"default", "second"}) {
          const double scaling = one.at("scaling").at(name).get<double>();
          add_golden_adapter(layer, dora_adapter(Json::object(), scaling), file,
                             std::string(name) + ".", name);
        }
        layer.adapters().set_active({"default", "second"});
        const Matrix<double> x = file.matrix<double>("x");
        Matrix<double> y(x.rows(), layer.out_features()), merged = y;
        layer.forward(x, y);
        expect_close(y, file.matrix<double>("y"), 1e-12, "y");
        expect_close(layer.prepare_merge().weight.stored(), file.matrix<double>("merged"), 1e-12,
                     "merged");
        layer.merge();
        layer.forward(x, merged);
        expect_close(merged, y, 1e-12, "y of the merged weight");
      },
      "variants");
}

// PEFT rounds the base's output to bfloat16, and then the sum: half a unit in the last place each,
// where we round neither.
TEST(GoldenDoRA, OverBfloat16) {
  for_each_golden_case(
      "dora_dtype",
      [](const GoldenCase& one) {
        const SafetensorsFile file = one.tensors();
        LoRALinear<float> layer(
            FrozenWeight<float>::pack(file.matrix<float>("W"), Precision::bfloat16),
            Matrix<float>(file.matrix<float>("b").reshaped(1, file.info("b").shape[0])));
        const Adapter<float>& adapter = add_golden_adapter(
            layer, dora_adapter(Json::object(), one.at("scaling").get<double>()), file);
        const Matrix<float> x = file.matrix<float>("x"), dy = file.matrix<float>("dy");
        Matrix<float> y(x.rows(), dy.cols()), dx;
        LoRALinear<float>::Tape tape;
        layer.forward(x, y, &tape);
        layer.backward(x, dy, tape, &dx);
        expect_close(y, file.matrix<double>("y"), 0x1p-7, "y");
        expect_close(adapter.A.grad, file.matrix<double>("dA"), 1e-2, "dA");
        expect_close(adapter.B.grad, file.matrix<double>("dB"), 1e-2, "dB");
        expect_close(magnitude(layer, "default").grad,
                     file.matrix<double>("dm").reshaped(1, dy.cols()), 1e-2, "dm");
      },
      "variants");
}

// ---- gradients ----

template <class S>
LoRALinear<S> layer_of(const LayerShape& shape, Layout layout, double dropout) {
  const Matrix<S> w = random_matrix<S>(shape.out, shape.in, "W");
  LoRALinear<S> layer(
      FrozenWeight<S>(layout == Layout::out_in ? w : Matrix<S>(w.transpose()), layout),
      random_matrix<S>(1, shape.out, "b"));
  add_dora(layer, "a", dora(shape.r, 5, dropout));
  layer.adapters().set_active({"a"});
  layer.bias().set_trainable(true);
  return layer;
}
Pass training() {
  Pass pass;
  pass.training = true;
  pass.seed = 77;
  pass.first_row = 3;
  return pass;
}

TEST(DoRA, GradientsAtEveryShape) {
  for (const LayerShape& shape : edge_shapes) {
    for (const Layout layout : {Layout::out_in, Layout::in_out}) {
      for (const double p : {0.0, 0.4}) {
        SCOPED_TRACE(std::string(shape.what) + (p == 0 ? "" : " with dropout"));
        const auto make = [&](auto s) { return layer_of<decltype(s)>(shape, layout, p); };
        EXPECT_EQ(check_gradients(make, shape.rows, training()), 4)
            << "A, B, m and the base's bias";
      }
    }
  }
}

TEST(DoRA, GradientsOfSeveralActiveAdapters) {
  for (const double p : {0.0, 0.3}) {
    SCOPED_TRACE(p);
    const auto make = [&](auto s) {
      using S = decltype(s);
      LoRALinear<S> layer(random_matrix<S>(6, 5, "W"), random_matrix<S>(1, 6, "b"));
      AdapterOptions plain = rank(3, 4, p);
      plain.lora_bias = true;
      add_full_adapter(layer, "before", plain);
      add_dora(layer, "a", dora(2, 3, p));
      add_full_adapter(layer, "between", rank(1, 2));
      add_dora(layer, "b", dora(4, 3, p, true));
      add_full_adapter(layer, "after", rank(2, -3, p));
      layer.adapters().set_active({"before", "a", "between", "b", "after"});
      return layer;
    };
    EXPECT_EQ(check_gradients(make, 4, training()), 13);
    auto layer = make(double{});
    const Matrix<double> x = random_matrix(4, 5, "x");
    Matrix<double> y(4, 6), merged(4, 6);
    layer.forward(x, y);
    layer.merge();
    layer.forward(x, merged);
    expect_close(merged, y, 1e-14, "merging in the same order");
  }
}

template <class S>
OverImages<S> images_of(double p) {
  const Conv2dOptions options = {{2, 3}, {2, 1}, {0, 2}, {1, 2}, 1};
  LoRAConv2d<S> conv(random_matrix<S>(4, 3 * 6, "W"), options, random_matrix<S>(1, 4, "b"));
  add_dora(conv, "a", dora(2, 5, p));
  add_full_adapter(conv, "b", rank(1, -2));
  add_dora(conv, "c", dora(3, 2, p));
  conv.adapters().set_active({"a", "b", "c"});
  return {std::move(conv), {5, 4}};
}
TEST(DoRA, GradientsOnAConvolution) {
  for (const double p : {0.0, 0.4}) {
    SCOPED_TRACE(p);
    EXPECT_EQ(check_gradients([&](auto s) { return images_of<decltype(s)>(p); }, 2, training()), 8);
  }
}

template <class S>
LoRAEmbedding<S> table_of() {
  LoRAEmbedding<S> layer(random_matrix<S>(9, 5, "W"), 2);
  add_dora(layer, "a", dora(3));
  add_full_adapter(layer, "b", rank(2, 3));
  layer.adapters().set_active({"a", "b"});
  return layer;
}
TEST(DoRA, GradientsOnAnEmbedding) {
  auto layer = table_of<double>();
  auto moved = table_of<Complex>();
  const std::vector<std::int64_t> ids = {3, 8, 3, 0, 7};
  const Matrix<double> dy = random_matrix(5, 5, "dy");
  Matrix<double> y(5, 5);
  LoRAEmbedding<double>::Tape tape;
  layer.forward(ids, y, &tape);
  layer.backward(ids, dy, tape);
  Matrix<Complex> moved_y(5, 5);
  EXPECT_EQ(check_parameter_gradients(layer, moved,
                                      [&] {
                                        moved.forward(ids, moved_y);
                                        return inner(moved_y, dy);
                                      }),
            5);
}

// ---- properties ----

TEST(DoRA, TheNormIsThatOfTheSumThoughItIsNotFormed) {
  LoRALinear<double> layer(random_matrix(13, 9, "W"));
  add_dora(layer, "a", dora(3, 4));
  const Adapter<double>& adapter = layer.adapters().get("a");
  const Matrix<double> sum =
      layer.weight().dense() + adapter.scaling * adapter.B.value * adapter.A.value;
  const Matrix<double> c = DoRA::output_scale(adapter, layer.base_map());
  expect_close(adapter.own[0].parameter.value.cwiseQuotient(c), sum.rowwise().norm().transpose(),
               1e-14);
  const Matrix<double> merged = c.transpose().asDiagonal() * sum;
  EXPECT_NEAR(DoRA::change_norm(adapter, layer.base_map()),
              (merged - layer.weight().dense()).norm(), 1e-13);
}

/// y and dx of x with a fresh adapter, and without one.
void check_fresh(const LoRALinear<float>& layer, const AdapterOptions& options, const Pass& pass) {
  LoRALinear<float> with = layer;
  with.add_adapter("a", options);
  with.adapters().set_active({"a"});
  for (const Index rows : {1, 5, 70}) {
    const Matrix<float> x = random_matrix<float>(rows, layer.in_features(), "x");
    Matrix<float> y(rows, layer.out_features()), expected = y;
    LoRALinear<float>::Tape tape;
    with.forward(x, y, &tape, pass);
    layer.forward(x, expected);
    EXPECT_TRUE(same_bits(y, expected)) << rows;
    with.forward(x, y, nullptr, pass);
    EXPECT_TRUE(same_bits(y, expected)) << rows << ", inference";
  }
}
TEST(DoRA, AFreshAdapterGivesTheBasesBits) {
  const Matrix<float> W = random_matrix<float>(67, 50, "W");
  const Matrix<float> b = random_matrix<float>(1, 67, "b");
  for_each_isa([&](const char* name) {
    SCOPED_TRACE(name);
    for (const auto& weight : {FrozenWeight<float>(W), FrozenWeight<float>::pack(W),
                               FrozenWeight<float>::pack(W, Precision::bfloat16)}) {
      for (const double p : {0.0, 0.25})
        check_fresh(LoRALinear<float>(weight, b), dora(4, 7, p), training());
    }
  });
  LoRAEmbedding<float> table(W), with(W);
  with.add_adapter("a", dora(3));
  with.adapters().set_active({"a"});
  const std::vector<std::int64_t> ids = {4, 66, 0, 4};
  Matrix<float> y(4, 50), expected(4, 50);
  with.forward(ids, y);
  table.forward(ids, expected);
  EXPECT_TRUE(same_bits(y, expected));
}

// Also where W_j is zero, where its square has no float, and where there are no inputs.
TEST(DoRA, AFreshAdapterGivesTheBasesBitsWhateverTheLengths) {
  for_each_isa([&](const char* name) {
    SCOPED_TRACE(name);
    Matrix<float> W = random_matrix<float>(67, 50, "W");
    W.row(1).setZero();
    W.row(2) *= 1e-24f;
    W.row(3) *= 1e20f;
    for (const auto& weight : {FrozenWeight<float>(W), FrozenWeight<float>::pack(W),
                               FrozenWeight<float>::pack(W, Precision::bfloat16),
                               FrozenWeight<float>(Matrix<float>(4, 0))})
      check_fresh(LoRALinear<float>(weight), dora(4, 7), training());
  });
  LoRALinear<double> layer(Matrix<double>::Zero(3, 4));
  layer.add_adapter("a", dora(2));
  layer.adapters().set_active({"a"});
  const Matrix<double> x = random_matrix(2, 4, "x"), dy = random_matrix(2, 3, "dy");
  Matrix<double> y(2, 3), dx;
  LoRALinear<double>::Tape tape;
  layer.forward(x, y, &tape);
  layer.backward(x, dy, tape, &dx);
  EXPECT_EQ(dx, Matrix<double>::Zero(2, 4));
  EXPECT_EQ(magnitude(layer).grad, Matrix<double>::Zero(1, 3));
  EXPECT_EQ(layer.prepare_merge({}, SafeMerge::yes).weight.dense(), Matrix<double>::Zero(3, 4));
}

// The parts of n are float products; what they leave of W_j when B A takes nearly all of it is
// uncertain, but no infinity.
TEST(DoRA, ANearlyCancelledWeightHasAFiniteNorm) {
  const Matrix<float> W = random_matrix<float>(8, 8, "W");
  for (const double left : {1e-1, 1e-2, 1e-4, 0.0}) {
    LoRALinear<float> layer{W};
    layer.add_adapter("a", dora(8, 8));
    layer.adapters().set_active({"a"});
    Adapter<float>& adapter = layer.adapters().get("a");
    adapter.A.value.setIdentity();
    adapter.B.value = static_cast<float>(left - 1) * W;
    const Matrix<float> c = DoRA::output_scale(adapter, layer.base_map());
    ASSERT_TRUE(c.allFinite()) << left;
    if (left < 1e-2) continue;
    EXPECT_LE((left * c.cast<double>().array() - 1).abs().maxCoeff(), 0.02) << left;
  }
}

TEST(DoRA, TheNormIsFloat32OverEveryStorage) {
  const Matrix<float> W = random_matrix<float>(67, 50, "W"), A = random_matrix<float>(4, 50, "A"),
                      B = random_matrix<float>(67, 4, "B");
  for_each_isa([&](const char* name) {
    SCOPED_TRACE(name);
    for (const auto precision : {Precision::float32, Precision::bfloat16}) {
      LoRALinear<float> layer(FrozenWeight<float>::pack(W, precision));
      layer.add_adapter("a", dora(4, 7));
      layer.adapters().get("a").A.value = A;
      layer.adapters().get("a").B.value = B;
      const Matrix<double> sum =
          layer.weight().dense().cast<double>() + 7.0 / 4 * B.cast<double>() * A.cast<double>();
      const Matrix<float> c = DoRA::output_scale(layer.adapters().get("a"), layer.base_map());
      expect_close(magnitude(layer).value.cwiseQuotient(c), sum.rowwise().norm().transpose(), 1e-6);
    }
  });
}

TEST(DoRA, DropoutIsThatOfTheFormula) {
  // y = W x + b + (c - 1) ∘ (W xd) + c ∘ s B A xd, with the mask that the layer draws.
  const LayerShape shape{"", 700, 6, 9, 3};
  const auto layer = layer_of<double>(shape, Layout::out_in, 0.4);
  auto without = layer_of<double>(shape, Layout::out_in, 0);
  const LoRALinear<double> base(layer.weight());
  const Matrix<double> x = random_matrix(700, 6, "x");
  Matrix<double> xd(700, 6), y(700, 9), u(700, 9), rest(700, 9);
  const Dropout dropout = layer.adapters().get("a").dropout_of(training());
  for (Index t = 0; t < 700; ++t)
    dropout.row(training().first_row + t, 6, x.row(t).data(), xd.row(t).data(), Accumulate::no);
  layer.forward(x, y, nullptr, training());
  without.forward(xd, u);
  base.forward(x - xd, rest);
  expect_close(y, u + rest, 1e-13);
}

// PEFT refuses DoRA adapters in a mixed batch.
TEST(DoRA, EachRowMayHaveAnAdapterOfItsOwn) {
  LoRALinear<double> layer(random_matrix(6, 4, "W"), random_matrix(1, 6, "b"));
  add_dora(layer, "a", dora(2));
  add_dora(layer, "b", dora(3, 2, 0, true));
  add_full_adapter(layer, "plain", rank(2));
  layer.add_trained_copy("copy");
  const std::vector<std::string> names = {"a", "a", "__base__", "b", "plain", "copy", "b", "a"};
  const Matrix<double> x = random_matrix(8, 4, "x");
  Matrix<double> y(8, 6), expected(1, 6);
  Pass rows;
  rows.adapter_names = names;
  layer.forward(x, y, nullptr, rows);
  for (Index t = 0; t < 8; ++t) {
    const std::string& name = names[static_cast<std::size_t>(t)];
    LoRALinear<double> alone(layer.weight(), layer.bias().value);
    if (layer.adapters().contains(name)) {
      alone.adapters().add(layer.adapters().get(name));
      alone.adapters().set_active({name});
    }
    alone.forward(x.row(t), expected);
    expect_close(y.row(t), expected, 1e-15, name);
  }
}

TEST(DoRA, AStepOfTheSameSizeAllocatesNothing) {
  LORA_NEEDS_ALLOCATION_COUNTS();
  for (const double p : {0.0, 0.3}) {
    LoRALinear<float> layer(FrozenWeight<float>::pack(random_matrix<float>(64, 48, "W")));
    add_dora(layer, "a", dora(4, 7, p));
    layer.adapters().set_active({"a"});
    const Matrix<float> x = random_matrix<float>(600, 48, "x"),
                        dy = random_matrix<float>(600, 64, "dy");
    Matrix<float> y(600, 64), dx;
    LoRALinear<float>::Tape tape;
    const auto step = [&] {
      layer.forward(x, y, &tape, training());
      layer.backward(x, dy, tape, &dx);
    };
    step();
    AllocationCounter counter;
    step();
    EXPECT_EQ(counter.stop().calls, 0) << p;
  }
}

// Outside training n is kept while A, B, s and W stay, and only then.
TEST(DoRA, InferenceComputesAsTrainingDoes) {
  LoRALinear<double> layer(random_matrix(5, 4, "W"));
  add_dora(layer, "a", dora(2));
  layer.adapters().set_active({"a"});
  const Matrix<double> x = random_matrix(3, 4, "x");
  Matrix<double> y(3, 5), expected(3, 5);
  const auto check = [&](const char* what) {
    for (int turn = 0; turn < 2; ++turn) {
      layer.forward(x, y);
      layer.forward(x, expected, nullptr, training());
      EXPECT_TRUE(same_bits(y, expected)) << what;
    }
  };
  check("first");
  Adapter<double>& adapter = layer.adapters().get("a");
  adapter.B.value(4, 1) += 0.5;
  check("another B");
  adapter.A.value(1, 3) -= 0.5;
  check("another A");
  magnitude(layer).value(0, 2) *= 2;
  check("another m");
  layer.adapters().set_scale("a", 0.5);
  check("another s");
  // The same norms, and another product with A.
  layer.set_weight(FrozenWeight<double>(Matrix<double>(-layer.weight().dense())));
  check("another W");
  LoRALinear<double> copy = layer;
  copy.adapters().get("a").A.value *= 2;
  copy.forward(x, y);
  check("a copy of the layer has another n");
}

TEST(DoRA, InferenceAllocatesNothingAndServesSeveralThreads) {
  LORA_NEEDS_ALLOCATION_COUNTS();
  LoRALinear<float> layer(FrozenWeight<float>::pack(random_matrix<float>(64, 48, "W")));
  add_dora(layer, "a", dora(4));
  layer.adapters().set_active({"a"});
  const Matrix<float> x = random_matrix<float>(2, 48, "x");
  Matrix<float> expected(2, 64);
  LoRALinear<float>::Tape tape;
  layer.forward(x, expected, &tape);
  AllocationCounter counter;
  layer.forward(x, expected, &tape);
  EXPECT_EQ(counter.stop().calls, 0);
  layer.adapters().get("a").norm = {};
  std::vector<std::thread> threads;
  std::atomic<int> other{0};
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      Matrix<float> y(2, 64);
      for (int turn = 0; turn < 50; ++turn) {
        layer.forward(x, y);
        if (y != expected) ++other;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(other, 0);
}

TEST(DoRA, AnotherWeightIsAnotherNorm) {
  LoRALinear<double> layer(random_matrix(5, 4, "W"));
  add_dora(layer, "a", dora(2));
  layer.adapters().set_active({"a"});
  const Matrix<double> x = random_matrix(3, 4, "x"), other = random_matrix(5, 4, "other W");
  layer.set_weight(FrozenWeight<double>(other));
  LoRALinear<double> fresh{other};
  add_dora(fresh, "a", dora(2));
  fresh.adapters().get("a").own = layer.adapters().get("a").own;
  fresh.adapters().set_active({"a"});
  Matrix<double> y(3, 5), expected(3, 5);
  layer.forward(x, y);
  fresh.forward(x, expected);
  EXPECT_TRUE(same_bits(y, expected));
}

TEST(DoRA, ABeginningMayMoveAPartOfTheWeight) {
  LoRALinear<double> layer(random_matrix(5, 4, "W"));
  Adapter<double> adapter = layer.new_adapter("a", dora(2));
  adapter.B.value = random_matrix(5, 2, "B");
  const Matrix<double> rest =
      layer.weight().dense() - adapter.scaling * adapter.B.value * adapter.A.value;
  const Matrix<double> before = layer.weight().dense();
  change_at_once([&](Transaction& change) {
    layer.prepare_add_adapter(adapter, change, FrozenWeight<double>(rest));
  });
  layer.adapters().set_active({"a"});
  expect_close(layer.prepare_merge().weight.dense(), before, 1e-14, "m is the norm of W still");
  // And where W + s B A is another: the beginning changes nothing of what it gives.
  change_at_once([&](Transaction& change) {
    adapter.name = "b";
    layer.prepare_add_adapter(adapter, change, FrozenWeight<double>(Matrix<double>(2 * rest)));
  });
  const Matrix<double> c = DoRA::output_scale(layer.adapters().get("b"), layer.base_map());
  EXPECT_EQ(c, Matrix<double>::Ones(1, 5));
}

TEST(DoRA, ItsTensorIsOneOfTheAdapters) {
  LoRALinear<float> layer(random_matrix<float>(5, 4, "W"));
  layer.add_adapter("a", dora(2));
  layer.adapters().set_active({"a"});
  Adapter<float>& adapter = layer.adapters().get("a");
  EXPECT_EQ(adapter.size(), 2 * 4 + 5 * 2 + 5);
  EXPECT_TRUE(parameter_of(layer, "lora_magnitude_vector.a.weight").trainable);
  EXPECT_EQ(parameter_of(layer, "lora_magnitude_vector.a.weight").shape, std::vector<Index>{5});
  EXPECT_EQ(count_parameters(layer).trainable, 23);
  adapter.set_trainable(false);
  EXPECT_FALSE(adapter.trainable());
  magnitude(layer).value(0, 3) = std::numeric_limits<float>::quiet_NaN();
  EXPECT_FALSE(adapter.finite());
}

TEST(DoRA, WhatIsNotDefinedIsRefused) {
  LoRALinear<double> layer(random_matrix(6, 4, "W"));
  AdapterOptions options = dora(2);
  options.lora_bias = true;
  EXPECT_TRUE(throws<ConfigError>([&] { layer.add_adapter("a", options); },
                                  {"adapter \"a\": lora_bias is not defined for DoRA"}));
  LoRAConv2d<double> groups(random_matrix(6, 2 * 9, "W"), {{3, 3}, {1, 1}, {1, 1}, {1, 1}, 2});
  EXPECT_TRUE(
      throws<ConfigError>([&] { groups.add_adapter("a", dora(2)); },
                          {"adapter \"a\": DoRA is not defined for a convolution with groups"}));
  layer.add_adapter("a", dora(2));
  const Matrix<double> x = random_matrix(2, 4, "x"), dy = random_matrix(2, 6, "dy");
  Matrix<double> y(2, 6), dx;
  layer.adapters().set_active({"a"});
  LoRALinear<double>::Tape tape;
  layer.forward(x, y, &tape);
  layer.backward(x, dy, tape, &dx);
  EXPECT_TRUE(throws<Error>([&] { layer.backward(x, dy, tape, &dx); },
                            {"LoRALinear::backward: the tape has served a backward already"}));
  EXPECT_TRUE(
      throws<ConfigError>([&] { expect_low_rank_alone(layer.adapters().get("a"), "combined"); },
                          {"adapter \"a\": a DoRA adapter cannot be combined"}));
}

}  // namespace dora_test
