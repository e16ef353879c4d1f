// LoRALinear against PyTorch and PEFT's numbers, and what must hold of it at any size. Its
// gradients are checked in plain_lora_test and trained_copy_test, merging in merging_test, Pass in
// pass_test.
#include <lora/layers/lora_linear.hpp>
#include <lora/nn/activations.hpp>

#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <map>
#include <thread>

#include "layers/golden_layers.hpp"
#include "layers/layer_tools.hpp"
#include "support/allocations.hpp"
#include "support/instruction_sets.hpp"

namespace lora_linear_test {
using namespace lora;
using namespace lora_test;

// ---- golden numbers ----

/// Each kind of case of golden/layers, and where they are proved.
struct KindOfCase {
  const char* kind;
  const char* where;
};
constexpr KindOfCase kinds[] = {
    {"linear", "layers/lora_linear_test"},
    {"linear_dropout", "layers/lora_linear_test"},
    {"stacked", "models/mlp_test"},
    {"shared", "layers/lora_linear_test"},
    {"several", "layers/lora_linear_test"},
    {"embedding", "layers/lora_embedding_test"},
    {"conv2d", "layers/lora_conv2d_test"},
    {"refused by PEFT",
     "layers/lora_conv2d_test"},  // dilation: no numbers, so by gradient and by definition
    {"merge", "layers/merging_test"},
    {"combine", "adapters/combine_test"},
    {"init", "layers/adapter_init_test"},
    {"optimiser", "optim/adamw_test"},
    {"clip", "optim/clip_grad_test"},
    {"schedule", "optim/schedule_test"},
    {"loss", "nn/losses_test"},
    {"activation", "nn/activations_test"},
    {"matching", "adapters/matching_test"},
};

TEST(GoldenLayers, NoCaseIsLeftOutInSilence) {
  for_each_golden_set([](const GoldenSet& set) {
    std::map<std::string, int> count;
    for (const GoldenCase& one : golden_cases(set)) ++count[one.at("kind").get<std::string>()];
    for (const KindOfCase& kind : kinds) {
      EXPECT_GE(count[kind.kind], 1) << kind.kind;
      count.erase(kind.kind);
    }
    for (const auto& [kind, cases] : count)
      ADD_FAILURE() << cases << " cases of kind " << kind << " are proved nowhere";
  });
  for (const KindOfCase& kind : kinds) {
    const auto file = std::string(LORA_SOURCE_DIR) + "/tests/" + kind.where + ".cpp";
    EXPECT_TRUE(std::filesystem::exists(file)) << file;
  }
}

/// A golden tensor as rows of `cols` numbers.
Matrix<double> rows_of(const SafetensorsFile& file, const std::string& name, Index cols) {
  const Matrix<double> m = file.matrix<double>(name);
  return Eigen::Map<const Matrix<double>>(m.data(), m.size() / cols, cols);
}
Matrix<double> optional_matrix(const SafetensorsFile& file, const std::string& name) {
  return file.contains(name) ? file.matrix<double>(name) : Matrix<double>();
}

TEST(GoldenLayers, EveryLinearCase) {
  for_each_golden_case("linear", [](const GoldenCase& one) {
    const SafetensorsFile file = one.tensors();
    const Json& config = one.at("config");
    const Layout layout = config.value("fan_in_fan_out", false) ? Layout::in_out : Layout::out_in;
    LoRALinear<double> layer(FrozenWeight<double>(file.matrix<double>("W"), layout),
                             optional_matrix(file, "b"));
    const Adapter<double>& adapter = add_golden_adapter(layer, golden_adapter(one), file);
    const bool bias = config.value("bias", std::string("none")) == "lora_only";
    if (bias) layer.bias().set_trainable(true);

    const Matrix<double> x = rows_of(file, "x", layer.in_features()),
                         dy = rows_of(file, "dy", layer.out_features());
    Matrix<double> y(x.rows(), layer.out_features()), dx;
    LoRALinear<double>::Tape tape;
    layer.forward(x, y, &tape);
    layer.backward(x, dy, tape, &dx);
    // Every tensor is a sum of sums over some of T, D, O and R.
    const double bound =
        golden_bound(x.rows() + layer.in_features() + layer.out_features() + adapter.r);
    expect_close(y, rows_of(file, "y", layer.out_features()), bound, "y");
    expect_close(dx, rows_of(file, "dx", layer.in_features()), bound, "dx");
    expect_close(adapter.A.grad, file.matrix<double>("dA"), bound, "dA");
    expect_close(adapter.B.grad, file.matrix<double>("dB"), bound, "dB");
    EXPECT_EQ(bias, file.contains("db"));
    if (bias) expect_close(layer.bias().grad, file.matrix<double>("db"), bound, "db");
    EXPECT_EQ(!adapter.bias.empty(), file.contains("dbB"));
    if (!adapter.bias.empty())
      expect_close(adapter.bias.grad, file.matrix<double>("dbB"), bound, "dbB");
  });
}

/// The same cases in float over weights that are packed, on each instruction set. Stored as
/// bfloat16, W is off by at most 2⁻⁸ of itself, and so is x beside it where pairs are multiplied;
/// the gradients of A and B do not depend on W.
void check_packed(const GoldenCase& one, Precision precision) {
  const SafetensorsFile file = one.tensors();
  const Json& config = one.at("config");
  const Layout layout = config.value("fan_in_fan_out", false) ? Layout::in_out : Layout::out_in;
  const auto floats = [&](const std::string& name) {
    return Matrix<float>(optional_matrix(file, name).cast<float>());
  };
  LoRALinear<float> layer(FrozenWeight<float>::pack(floats("W"), precision, layout), floats("b"));
  const Adapter<float>& adapter = add_golden_adapter(layer, golden_adapter(one), file);
  const Matrix<double> x = rows_of(file, "x", layer.in_features()),
                       dy = rows_of(file, "dy", layer.out_features());
  const Matrix<float> xf = x.cast<float>(), dyf = dy.cast<float>();
  Matrix<float> y(x.rows(), layer.out_features()), dx;
  LoRALinear<float>::Tape tape;
  layer.forward(xf, y, &tape);
  layer.backward(xf, dyf, tape, &dx);
  const auto n = static_cast<double>(x.rows() + layer.in_features() + layer.out_features());
  const double bound = 10 * (n + static_cast<double>(adapter.r)) * 0x1p-24;
  const double off = precision == Precision::float32 ? 0
                     : isa() == Isa::avx512bf16      ? 2 * 0x1p-8 + 0x1p-16
                                                     : 0x1p-8;
  const Matrix<double> w = layer.weight().dense().cast<double>().cwiseAbs() / (1 - 0x1p-8);
  const auto within = [&](const Matrix<float>& actual, const Matrix<double>& expected,
                          const Matrix<double>& size, const char* name) {
    const Matrix<double> slack = off * size;
    const double most = bound * expected.cwiseAbs().maxCoeff();
    for (Index i = 0; i < expected.size(); ++i) {
      const double error = std::abs(static_cast<double>(actual.data()[i]) - expected.data()[i]);
      ASSERT_TRUE(error <= most + slack.data()[i])
          << name << " element " << i << " is off by " << error << ", at most "
          << most + slack.data()[i];
    }
  };
  within(y, rows_of(file, "y", layer.out_features()), x.cwiseAbs() * w.transpose(), "y");
  within(dx, rows_of(file, "dx", layer.in_features()), dy.cwiseAbs() * w, "dx");
  expect_close(adapter.A.grad.cast<double>(), file.matrix<double>("dA"), bound, "dA");
  expect_close(adapter.B.grad.cast<double>(), file.matrix<double>("dB"), bound, "dB");
}

TEST(GoldenLayers, EveryLinearCaseOverPackedWeights) {
  for_each_isa([](const char* isa_name) {
    SCOPED_TRACE(isa_name);
    for_each_golden_case("linear", [](const GoldenCase& one) {
      check_packed(one, Precision::float32);
      check_packed(one, Precision::bfloat16);
    });
  });
}

// PEFT's mask cannot be given to a layer whose masks are its own, so the two paths are two layers:
// the base sees x, the adapter alone (over W = 0) sees x · mask / (1 - p).
void check_dropout_mask(const GoldenCase& one) {
  const SafetensorsFile file = one.tensors();
  const Matrix<double> x = file.matrix<double>("x"), dy = file.matrix<double>("dy"),
                       w = file.matrix<double>("W");
  const Matrix<double> kept = file.matrix<double>("mask") / (1.0 - one.at("p").get<double>());
  const Matrix<double> dropped = x.cwiseProduct(kept);
  LoRALinear<double> base(w), path(Matrix<double>(Matrix<double>::Zero(w.rows(), w.cols())));
  const Adapter<double>& adapter = add_golden_adapter(path, golden_adapter(one), file);
  Matrix<double> y(x.rows(), w.rows()), low_rank(x.rows(), w.rows()), dx, d_dropped;
  LoRALinear<double>::Tape base_tape, path_tape;
  base.forward(x, y, &base_tape);
  path.forward(dropped, low_rank, &path_tape);
  base.backward(x, dy, base_tape, &dx);
  path.backward(dropped, dy, path_tape, &d_dropped);
  const double bound = golden_bound(x.rows() + w.rows() + w.cols() + adapter.r);
  expect_close(y + low_rank, file.matrix<double>("y"), bound, "y");
  expect_close(dx + d_dropped.cwiseProduct(kept), file.matrix<double>("dx"), bound, "dx");
  expect_close(adapter.A.grad, file.matrix<double>("dA"), bound, "dA");
  expect_close(adapter.B.grad, file.matrix<double>("dB"), bound, "dB");
}

TEST(GoldenLayers, LinearWithDropoutMask) {
  for_each_golden_case("linear_dropout", check_dropout_mask);
}

void check_used_twice(const GoldenCase& one) {
  const SafetensorsFile file = one.tensors();
  LoRALinear<double> layer(file.matrix<double>("a.W"), optional_matrix(file, "a.b"));
  const Index n = layer.in_features();
  const Adapter<double>& adapter = add_golden_adapter(layer, golden_adapter(one), file, "a.");
  const Matrix<double> x = file.matrix<double>("x"), dy = file.matrix<double>("dy");
  Matrix<double> inner_y(x.rows(), n), activated(x.rows(), n), y(x.rows(), n), d_activated, dx;
  LoRALinear<double>::Tape first, second;
  layer.forward(x, inner_y, &first);
  activation_forward<double>(Activation::silu, inner_y, activated);
  layer.forward(activated, y, &second);
  layer.backward(activated, dy, second, &d_activated);
  activation_backward<double>(Activation::silu, inner_y, d_activated, d_activated);
  layer.backward(x, d_activated, first, &dx);
  const double bound = golden_bound(2 * (x.rows() + n + n + adapter.r));
  expect_close(y, file.matrix<double>("y"), bound, "y");
  expect_close(dx, file.matrix<double>("dx"), bound, "dx");
  expect_close(adapter.A.grad, file.matrix<double>("a.dA"), bound, "dA");
  expect_close(adapter.B.grad, file.matrix<double>("a.dB"), bound, "dB");
}

TEST(GoldenLayers, OneLayerUsedTwiceInAGraph) { for_each_golden_case("shared", check_used_twice); }

void check_several(const GoldenCase& one) {
  const SafetensorsFile file = one.tensors();
  LoRALinear<double> layer(file.matrix<double>("W"), optional_matrix(file, "b"));
  const Json configs = one.fields.value("configs", Json::object());
  Index ranks = 0;
  for (const auto& [name, scaling] : one.at("scaling").items()) {
    const GoldenAdapter golden{configs.value(name, Json::object()), scaling.get<double>()};
    ranks += add_golden_adapter(layer, golden, file, name + ".", name).r;
  }
  const Matrix<double> x = file.matrix<double>("x");
  int outputs = 0;
  for (const std::string& tensor : file.names()) {
    if (tensor.rfind("y.", 0) != 0) continue;
    SCOPED_TRACE(tensor);
    std::vector<std::string> names(1);
    for (const char c : tensor.substr(2))
      c == '+' ? (void)names.emplace_back() : names.back().push_back(c);
    Pass pass;
    std::vector<std::string> of_rows;
    layer.adapters().set_enabled(tensor != "y.disabled");
    if (tensor == "y.rows") {
      of_rows = one.at("rows").get<std::vector<std::string>>();
      pass.adapter_names = of_rows;
    } else if (tensor != "y.disabled") {
      layer.adapters().set_active(names);
    }
    Matrix<double> y(x.rows(), layer.out_features());
    layer.forward(x, y, nullptr, pass);
    expect_close(y, file.matrix<double>(tensor), golden_bound(layer.in_features() + ranks));
    ++outputs;
  }
  EXPECT_GE(outputs, 1);
}

TEST(GoldenLayers, SeveralAdapters) { for_each_golden_case("several", check_several); }

// ---- properties ----

template <class S>
class LoRALinearOf : public testing::Test {};
using Scalars = testing::Types<float, double>;
TYPED_TEST_SUITE(LoRALinearOf, Scalars, );

TYPED_TEST(LoRALinearOf, AFreshAdapterIsTheIdentityBitForBit) {
  using S = TypeParam;
  for (const Index rows : {0, 1, 5, 130}) {
    for (const Layout layout : {Layout::out_in, Layout::in_out}) {
      const Matrix<S> x = random_matrix<S>(rows, 37, "x"), dy = random_matrix<S>(rows, 19, "dy"),
                      b = random_matrix<S>(1, 19, "b");
      const FrozenWeight<S> w(
          layout == Layout::out_in ? random_matrix<S>(19, 37, "W") : random_matrix<S>(37, 19, "W"),
          layout);
      LoRALinear<S> base(w, b), adapted(w, b);
      AdapterOptions options = rank(4, 1000, 0.2);
      options.lora_bias = true;
      adapted.add_adapter("a", options);
      adapted.add_adapter("b", rank(30));
      adapted.adapters().set_active({"a", "b"});
      for (const bool training : {false, true}) {
        Pass pass;
        pass.training = training;
        Matrix<S> expected(rows, 19), y(rows, 19), expected_dx, dx;
        typename LoRALinear<S>::Tape base_tape, tape;
        base.forward(x, expected, &base_tape, pass);
        adapted.forward(x, y, &tape, pass);
        EXPECT_TRUE(same_bits(y, expected));
        base.backward(x, dy, base_tape, &expected_dx);
        adapted.backward(x, dy, tape, &dx);
        EXPECT_TRUE(same_bits(dx, expected_dx));
      }
    }
  }
}

/// A layer with two adapters at work, big enough to be shared between threads.
template <class S>
LoRALinear<S> busy_layer(const std::vector<std::string>& order = {"a", "b", "idle"}) {
  LoRALinear<S> layer(random_matrix<S>(131, 257, "W"), random_matrix<S>(1, 131, "b"));
  for (const std::string& name : order) {
    AdapterOptions options = name == "a" ? rank(5, 7, 0.25) : rank(name == "b" ? 8 : 3);
    options.lora_bias = name == "b";
    add_full_adapter(layer, name, options);
  }
  layer.adapters().set_active({"a", "b"});
  layer.bias().set_trainable(true);
  return layer;
}
/// Everything a step of it makes, in one list.
template <class S>
std::vector<Matrix<S>> step_of(LoRALinear<S> layer) {
  const Matrix<S> x = random_matrix<S>(130, 257, "x"), dy = random_matrix<S>(130, 131, "dy");
  Matrix<S> y(130, 131), dx;
  Pass pass;
  pass.training = true;
  typename LoRALinear<S>::Tape tape;
  layer.forward(x, y, &tape, pass);
  layer.backward(x, dy, tape, &dx);
  std::vector<Matrix<S>> all = {y, dx, tape.adapters[0].h, tape.adapters[1].h, layer.bias().grad};
  for (const char* name : {"a", "b"}) {
    const Adapter<S>& adapter = layer.adapters().get(name);
    all.insert(all.end(), {adapter.A.grad, adapter.B.grad, adapter.bias.grad});
  }
  return all;
}
template <class S>
void expect_same_bits(const std::vector<Matrix<S>>& a, const std::vector<Matrix<S>>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(same_bits(a[i], b[i])) << "tensor " << i;
}

TYPED_TEST(LoRALinearOf, TheNumberOfThreadsChangesNoBit) {
  const int before = num_threads();
  set_num_threads(1);
  const auto expected = step_of(busy_layer<TypeParam>());
  for (const int threads : {2, 3, 7}) {
    SCOPED_TRACE(threads);
    set_num_threads(threads);
    expect_same_bits(step_of(busy_layer<TypeParam>()), expected);
  }
  set_num_threads(before);
}

TYPED_TEST(LoRALinearOf, TheOrderInWhichAdaptersAreAddedChangesNoBit) {
  const auto expected = step_of(busy_layer<TypeParam>());
  expect_same_bits(step_of(busy_layer<TypeParam>({"idle", "b", "a"})), expected);
  expect_same_bits(step_of(busy_layer<TypeParam>({"b", "a"})), expected);
}

TEST(LoRALinear, ACopySharesTheWeightAndHasAdaptersOfItsOwn) {
  LoRALinear<double> layer = busy_layer<double>(), copy = layer;
  EXPECT_TRUE(copy.weight().shares_storage_with(layer.weight()));
  const Matrix<double> before = layer.adapters().get("a").A.value;
  copy.adapters().get("a").A.value.setZero();
  copy.adapters().get("a").A.grad.setOnes();
  copy.adapters().set_scale("b", 0);
  copy.delete_adapter("idle");
  copy.bias().value.setZero();
  EXPECT_TRUE(same_bits(layer.adapters().get("a").A.value, before));
  EXPECT_EQ(layer.adapters().get("a").A.grad.cwiseAbs().maxCoeff(), 0.0);
  EXPECT_EQ(layer.adapters().get("b").scaling, 5.0 / 8.0);
  EXPECT_TRUE(layer.adapters().contains("idle"));
  EXPECT_GT(layer.bias().value.cwiseAbs().maxCoeff(), 0.0);
}

TEST(LoRALinear, OneLayerServesFourThreadsEachWithATape) {
  const LoRALinear<float> layer = busy_layer<float>();
  constexpr int threads = 4;
  std::vector<Matrix<float>> x, y(threads), expected(threads);
  for (int i = 0; i < threads; ++i) {
    const std::size_t k = static_cast<std::size_t>(i);
    x.push_back(random_matrix<float>(90 + i, 257, "x" + std::to_string(i)));
    y[k].resize(x[k].rows(), 131);
    expected[k].resize(x[k].rows(), 131);
    layer.forward(x[k], expected[k]);
  }
  std::vector<std::thread> running;
  for (std::size_t k = 0; k < threads; ++k) {
    running.emplace_back([&, k] {
      LoRALinear<float>::Tape tape;
      for (int repeat = 0; repeat < 5; ++repeat) layer.forward(x[k], y[k], &tape);
    });
  }
  for (std::thread& thread : running) thread.join();
  for (std::size_t k = 0; k < threads; ++k)
    EXPECT_TRUE(same_bits(y[k], expected[k])) << "thread " << k;
}

TEST(LoRALinear, DisabledIsTheBaseLayer) {
  LoRALinear<double> layer = busy_layer<double>();
  const LoRALinear<double> base(layer.weight(), layer.bias().value);
  const Matrix<double> x = random_matrix(4, 257, "x"), dy = random_matrix(4, 131, "dy");
  Matrix<double> y(4, 131), expected(4, 131), dx;
  layer.adapters().set_enabled(false);
  LoRALinear<double>::Tape tape;
  layer.forward(x, y, &tape);
  base.forward(x, expected);
  EXPECT_TRUE(same_bits(y, expected));
  layer.backward(x, dy, tape, &dx);
  EXPECT_EQ(layer.adapters().get("a").B.grad.cwiseAbs().maxCoeff(), 0.0);
  const std::vector<std::string> names = {"a", "b", "__base__", "b"};
  Pass pass;
  pass.adapter_names = names;
  layer.forward(x, y, nullptr, pass);
  EXPECT_TRUE(same_bits(y, expected)) << "with adapter_names too";
}

TEST(LoRALinear, TakesPartsOfLargerMatrices) {
  LoRALinear<double> layer = busy_layer<double>();
  const Matrix<double> wide = random_matrix(6, 300, "wide");
  const Matrix<double> x = wide.block(1, 20, 4, 257);
  Matrix<double> large = Matrix<double>::Constant(6, 140, 3.0), expected(4, 131);
  layer.forward(wide.block(1, 20, 4, 257), large.block(2, 5, 4, 131));
  layer.forward(x, expected);
  EXPECT_TRUE(same_bits(Matrix<double>(large.block(2, 5, 4, 131)), expected));
  EXPECT_EQ(large.col(4).minCoeff() + large.col(136).maxCoeff() + large.row(1).sum(),
            3.0 + 3.0 + 3.0 * 140);
}

TEST(LoRALinear, NaNInTheWeightsFlowsThrough) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  Matrix<double> w = random_matrix(5, 7, "W");
  w(2, 3) = nan;
  LoRALinear<double> layer(w);
  add_full_adapter(layer, "a", rank(2));
  layer.adapters().set_active({"a"});
  const Matrix<double> x = random_matrix(4, 7, "x"), dy = random_matrix(4, 5, "dy");
  Matrix<double> y(4, 5), dx;
  LoRALinear<double>::Tape tape;
  layer.forward(x, y, &tape);
  layer.backward(x, dy, tape, &dx);
  for (Index t = 0; t < 4; ++t) {
    for (Index o = 0; o < 5; ++o) EXPECT_EQ(std::isnan(y(t, o)), o == 2) << t << ", " << o;
    for (Index i = 0; i < 7; ++i) EXPECT_EQ(std::isnan(dx(t, i)), i == 3) << t << ", " << i;
  }
  EXPECT_TRUE(layer.adapters().get("a").A.grad.allFinite());
  layer.adapters().get("a").A.value(1, 0) = nan;
  EXPECT_FALSE(layer.adapters().get("a").finite());
  layer.forward(x, y, &tape);
  EXPECT_TRUE(y.array().isNaN().all());
}

// ---- allocation ----

TEST(LoRALinear, ASteadyStepAllocatesNothing) {
  LORA_NEEDS_ALLOCATION_COUNTS();
  const int before = num_threads();
  set_num_threads(1);  // a worker thread that happens to start late makes its own scratch then
  for (const Layout layout : {Layout::out_in, Layout::in_out}) {
    const Matrix<float> w = random_matrix<float>(33, 21, "W");
    LoRALinear<float> layer(
        FrozenWeight<float>(layout == Layout::out_in ? w : Matrix<float>(w.transpose()), layout),
        random_matrix<float>(1, 33, "b"));
    AdapterOptions options = rank(5, 7, 0.25);
    options.lora_bias = true;
    add_full_adapter(layer, "a", options);
    add_full_adapter(layer, "b", rank(3));
    layer.adapters().set_active({"a", "b"});
    layer.bias().set_trainable(true);
    const Matrix<float> x = random_matrix<float>(70, 21, "x"),
                        dy = random_matrix<float>(70, 33, "dy");
    Matrix<float> y(70, 33), dx;
    Pass training, rows;
    training.training = true;
    const std::vector<std::string> names(70, "b");
    rows.adapter_names = names;
    LoRALinear<float>::Tape tape, row_tape;
    const auto step = [&] {
      zero_grad(layer);
      layer.forward(x, y, &tape, training);
      layer.backward(x, dy, tape, &dx);
      layer.backward(x, dy, tape, &dx, Accumulate::yes);
      layer.backward(x, dy, tape, nullptr);
      layer.forward(x, y, &row_tape, rows);
    };
    step();
    AllocationCounter counter;
    step();
    const Allocations made = counter.stop();
    EXPECT_EQ(made.calls, 0u) << made.bytes << " bytes, the largest " << made.largest;
  }
  set_num_threads(before);
}

TEST(LoRALinear, AWholeStepNeverMakesAMatrixAsLargeAsTheWeight) {
  LORA_NEEDS_ALLOCATION_COUNTS();
  const Index out = 512, in = 384, rows = 64;
  for (const double dropout : {0.0, 0.1}) {
    LoRALinear<float> layer(random_matrix<float>(out, in, "W"));
    const Matrix<float> x = random_matrix<float>(rows, in, "x"),
                        dy = random_matrix<float>(rows, out, "dy");
    Matrix<float> y(rows, out), dx(rows, in);
    AllocationCounter counter;  // from the adapter's making on: nothing is warm
    layer.add_adapter("a", rank(16, 16, dropout));
    layer.adapters().set_active({"a"});
    Pass pass;
    pass.training = true;
    LoRALinear<float>::Tape tape;
    layer.forward(x, y, &tape, pass);
    layer.backward(x, dy, tape, &dx);
    const Allocations made = counter.stop();
    EXPECT_GT(made.calls, 0u);
    EXPECT_LT(made.largest, static_cast<std::uint64_t>(out * in) * sizeof(float));
  }
}

// ---- errors ----

TEST(LoRALinearErrors, Shapes) {
  EXPECT_TRUE(
      throws<ShapeError>([] { LoRALinear<float>(Matrix<float>(3, 2), Matrix<float>(1, 2)); },
                         {"LoRALinear: bias is (1, 2), expected (1, 3)"}));
  LoRALinear<double> layer(random_matrix(11, 7, "W"));
  Matrix<double> y(4, 11), dx(3, 7);
  const Matrix<double> x = random_matrix(4, 7, "x");
  Matrix<double> wrong = random_matrix(4, 6, "wrong");
  EXPECT_TRUE(throws<ShapeError>([&] { layer.forward(wrong, y); },
                                 {"LoRALinear::forward: x is (4, 6), expected (T, 7)"}));
  EXPECT_TRUE(throws<ShapeError>([&] { layer.forward(x, wrong); },
                                 {"LoRALinear::forward: y is (4, 6), expected (4, 11)"}));
  LoRALinear<double>::Tape tape;
  layer.forward(x, y, &tape);
  EXPECT_TRUE(throws<ShapeError>([&] { layer.backward(x.topRows(3), y, tape, nullptr); },
                                 {"LoRALinear::backward: x is (3, 7), expected (4, 7)"}));
  EXPECT_TRUE(throws<ShapeError>([&] { layer.backward(x, wrong, tape, nullptr); },
                                 {"LoRALinear::backward: dy is (4, 6), expected (4, 11)"}));
  EXPECT_TRUE(throws<ShapeError>([&] { layer.backward(x, y, tape, &dx, Accumulate::yes); },
                                 {"LoRALinear::backward: dx is (3, 7), expected (4, 7)"}));
  layer.backward(x, y, tape, &dx);
  EXPECT_EQ(dx.rows(), 4) << "without accumulating dx gets its shape";
}

TEST(LoRALinearErrors, AdapterNames) {
  LoRALinear<double> layer(random_matrix(11, 7, "W"));
  add_full_adapter(layer, "a", rank(2));
  layer.adapters().set_active({"a"});
  const Matrix<double> x = random_matrix(3, 7, "x");
  Matrix<double> y(3, 11);
  LoRALinear<double>::Tape tape;
  const auto forward = [&](const std::vector<std::string>& names, bool training = false) {
    Pass pass;
    pass.adapter_names = names;
    pass.training = training;
    layer.forward(x, y, &tape, pass);
  };
  EXPECT_TRUE(throws<ShapeError>(
      [&] {
        forward({"a", "a"});
      },
      {"LoRALinear::forward: adapter_names has 2 names, expected one for each of 3 rows"}));
  EXPECT_TRUE(throws<Error>(
      [&] {
        forward({"a", "a", "a"}, true);
      },
      {"adapter_names is for inference, not for training"}));
  EXPECT_TRUE(
      throws<Error>([&] { layer.backward(x, y, tape, nullptr); }, {"the tape has seen no forward"}))
      << "the forward failed";
  forward({"a", "__base__", "a"});
  EXPECT_TRUE(
      throws<Error>([&] { layer.backward(x, y, tape, nullptr); },
                    {"LoRALinear::backward: a forward with adapter_names has no backward"}));
  layer.merge();
  EXPECT_TRUE(throws<Error>(
      [&] {
        forward({"a", "a", "a"});
      },
      {"adapter_names needs adapters that are not merged; unmerge first"}));
}

TEST(LoRALinearErrors, TapesThatDoNotBelong) {
  LoRALinear<double> layer(random_matrix(11, 7, "W"));
  add_full_adapter(layer, "a", rank(2));
  add_full_adapter(layer, "b", rank(3));
  layer.adapters().set_active({"a", "b"});
  const Matrix<double> x = random_matrix(4, 7, "x"), dy = random_matrix(4, 11, "dy");
  Matrix<double> y(4, 11), dx = Matrix<double>::Constant(1, 1, 5);
  LoRALinear<double>::Tape tape;
  const auto refuses = [&](LoRALinear<double>& one) {
    return throws<Error>(
        [&] { one.backward(x, dy, tape, &dx); },
        {"LoRALinear::backward: the tape was made by another layer, or what acts in this "
         "one was changed since forward",
         "run forward again"});
  };
  EXPECT_TRUE(throws<Error>([&] { layer.backward(x, dy, tape, &dx); },
                            {"LoRALinear::backward: the tape has seen no forward"}));
  layer.forward(x, y, &tape);

  LoRALinear<double> other(random_matrix(11, 7, "W"));
  add_full_adapter(other, "a", rank(2));  // of the same shapes, names and values
  add_full_adapter(other, "b", rank(3));
  other.adapters().set_active({"a", "b"});
  EXPECT_TRUE(refuses(other));

  LoRALinear<double> emptied = layer;
  layer.delete_adapter("b");
  EXPECT_TRUE(refuses(layer));
  emptied.unload();
  add_full_adapter(emptied, "a", rank(2));  // the names and shapes of before, but other adapters
  add_full_adapter(emptied, "b", rank(3));
  emptied.adapters().set_active({"a", "b"});
  EXPECT_TRUE(refuses(emptied));
  EXPECT_EQ(dx(0, 0), 5) << "nothing was touched";
  for (const auto* own : {&layer, &emptied}) {
    EXPECT_EQ(own->adapters().get("a").A.grad.cwiseAbs().maxCoeff(), 0.0)
        << "no gradient was added";
  }
}

// Each change is made between the two passes, from each state that a forward may have been in, with
// or without adapters on the tape. What is back as it was by the time of backward is no change.
TEST(LoRALinearErrors, WhatActsMustBeWhatActedInForward) {
  using Layer = LoRALinear<double>;
  struct Change {
    const char* what;
    std::function<void(Layer&)> make, undo;
  };
  const std::vector<Change> changes = {
      {"disabled", [](Layer& l) { l.adapters().set_enabled(false); },
       [](Layer& l) { l.adapters().set_enabled(true); }},
      {"merged", [](Layer& l) { l.merge({"a"}); }, [](Layer& l) { l.unmerge(); }},
      {"activated",
       [](Layer& l) {
         l.adapters().set_active({"a", "b"});
       },
       [](Layer& l) { l.adapters().set_active({"a"}); }},
      {"deactivated", [](Layer& l) { l.adapters().set_active({}); },
       [](Layer& l) { l.adapters().set_active({"a"}); }},
      {"rescaled", [](Layer& l) { l.adapters().set_scale("a", 3); },
       [](Layer& l) { l.adapters().set_scale("a", 1); }},
      {"a copy acts", [](Layer& l) { l.add_trained_copy("c"), l.trained_copies().activate("c"); },
       [](Layer& l) { l.delete_adapter("c"); }},
  };
  Layer layer(random_matrix(11, 7, "W"), random_matrix(1, 11, "b"));
  add_full_adapter(layer, "a", rank(2));
  add_full_adapter(layer, "b", rank(3));
  layer.adapters().set_active({"a"});
  const Matrix<double> x = random_matrix(4, 7, "x"), dy = random_matrix(4, 11, "dy");
  Matrix<double> y(4, 11), dx, expected;
  const auto refused = [&](Layer& one, Layer::Tape& tape) {
    return throws<Error>([&] { one.backward(x, dy, tape, &dx); },
                         {"what acts in this one was changed since forward"});
  };
  Layer::Tape tape;
  for (const Change& change : changes) {
    SCOPED_TRACE(change.what);
    layer.forward(x, y, &tape);
    layer.backward(x, dy, tape, &expected);
    change.make(layer);
    EXPECT_TRUE(refused(layer, tape));
    change.undo(layer);
    layer.backward(x, dy, tape, &dx);
    EXPECT_TRUE(same_bits(dx, expected)) << "back again";
    change.make(layer);
    layer.forward(x, y, &tape);
    EXPECT_NO_THROW(layer.backward(x, dy, tape, &dx));
    change.undo(layer);
    EXPECT_TRUE(refused(layer, tape));
  }
  layer.merge({"a"});
  layer.forward(x, y, &tape);
  layer.merge({"b"});
  EXPECT_TRUE(refused(layer, tape)) << "more is merged";
  layer.adapters().set_enabled(false);
  layer.forward(x, y, &tape);
  EXPECT_EQ(tape.used, 0u);
  layer.unload();
  EXPECT_TRUE(refused(layer, tape)) << "the weight is another one";
}

TEST(LoRALinearErrors, ATapeWithoutAdaptersIsStaleToo) {
  LoRALinear<double> layer(random_matrix(11, 7, "W"));
  const Matrix<double> x = random_matrix(4, 7, "x"), dy = random_matrix(4, 11, "dy");
  Matrix<double> y(4, 11), dx;
  LoRALinear<double>::Tape tape;
  const auto refused = [&] {
    return throws<Error>([&] { layer.backward(x, dy, tape, &dx); },
                         {"what acts in this one was changed since forward"});
  };
  layer.forward(x, y, &tape);
  EXPECT_NO_THROW(layer.backward(x, dy, tape, &dx));
  layer.train_base();
  EXPECT_TRUE(refused());
  parameter_of(layer, "weight").value.setZero();
  layer.freeze_base();
  EXPECT_TRUE(refused()) << "nothing is trained, as then, but the weight is another one";
  for (int round = 0; round < 2; ++round) {
    layer.train_base();
    if (round == 1) {
      EXPECT_TRUE(refused()) << "another training";
    }
    layer.forward(x, y, &tape);
    layer.unload();  // without the copy
    EXPECT_TRUE(refused());
  }
}

TEST(LoRALinear, BackwardMayFollowTheValuesAndRunOnACopy) {
  LoRALinear<double> layer = busy_layer<double>();
  const Matrix<double> x = random_matrix(4, 257, "x"), dy = random_matrix(4, 131, "dy");
  Matrix<double> y(4, 131), dx, expected;
  LoRALinear<double>::Tape tape;
  layer.forward(x, y, &tape);
  LoRALinear<double> copy = layer, moved = LoRALinear<double>(layer);
  layer.backward(x, dy, tape, &expected);
  copy.backward(x, dy, tape, &dx);
  EXPECT_TRUE(same_bits(dx, expected));
  EXPECT_TRUE(same_bits(copy.adapters().get("a").A.grad, layer.adapters().get("a").A.grad));
  moved.backward(x, dy, tape, &dx);
  EXPECT_TRUE(same_bits(dx, expected));
  layer.adapters().get("a").B.value *= 0.5;  // as an optimiser does
  layer.add_adapter("new", rank(2));
  layer.adapters().get("b").set_trainable(false);
  EXPECT_NO_THROW(layer.backward(x, dy, tape, &dx));
  copy.add_adapter("other", rank(2));
  layer.adapters().set_active({"new"});
  copy.adapters().set_active({"other"});
  layer.forward(x, y, &tape);
  EXPECT_TRUE(throws<Error>([&] { copy.backward(x, dy, tape, &dx); }, {"what acts in this one"}))
      << "the copies went different ways";
}

TEST(LoRALinearErrors, ResultsDoNotOverlapWhatIsRead) {
  LoRALinear<double> layer = busy_layer<double>(), square(random_matrix(7, 7, "W"));
  const Matrix<double> x = random_matrix(4, 257, "x"), dy = random_matrix(4, 131, "dy");
  Matrix<double> y(4, 131), wide = random_matrix(4, 400, "wide");
  LoRALinear<double>::Tape tape;
  layer.forward(x, y, &tape);
  for (const Accumulate accumulate : {Accumulate::no, Accumulate::yes}) {
    Matrix<double> g = random_matrix(4, 257, "g");
    const Matrix<double> before = g;
    EXPECT_TRUE(
        throws<Error>([&] { layer.backward(g, dy, tape, &g, accumulate); },
                      {"LoRALinear::backward: dx overlaps x", "expected a matrix of its own"}));
    EXPECT_TRUE(throws<Error>([&] { layer.backward(x, g.leftCols(131), tape, &g, accumulate); },
                              {"LoRALinear::backward: dx overlaps dy"}));
    EXPECT_TRUE(same_bits(g, before));
  }
  Matrix<double> g = dy;  // as wide as dy, so that making it as wide as x would free it
  EXPECT_TRUE(throws<Error>([&] { layer.backward(x, g, tape, &g); }, {"dx overlaps dy"}));
  EXPECT_TRUE(same_bits(g, dy));
  EXPECT_EQ(layer.adapters().get("b").B.grad.norm(), 0);
  layer.backward(x, g, tape, nullptr);

  Matrix<double> in_place = random_matrix(4, 7, "x");
  EXPECT_TRUE(throws<Error>([&] { square.forward(in_place, in_place); },
                            {"LoRALinear::forward: y overlaps x"}));
  EXPECT_TRUE(throws<Error>([&] { layer.forward(wide.leftCols(257), wide.middleCols(256, 131)); },
                            {"LoRALinear::forward: y overlaps x"}));
  EXPECT_NO_THROW(layer.forward(wide.leftCols(257), wide.middleCols(257, 131))) << "side by side";
}

TEST(LoRALinearErrors, AnAdapterThatCannotBeMadeIsNotAdded) {
  LoRALinear<double> layer(random_matrix(11, 7, "W"));
  AdapterOptions odd = rank(3);
  odd.init = AdapterInit::orthogonal;
  EXPECT_TRUE(
      throws<ConfigError>([&] { layer.add_adapter("a", odd); },
                          {"init_lora_weights \"orthogonal\": r is 3, expected an even number"}));
  EXPECT_TRUE(throws<ConfigError>([&] { layer.add_adapter("a", rank(0)); },
                                  {"adapter \"a\": r is 0, expected at least 1"}));
  EXPECT_TRUE(layer.adapters().empty());
  layer.add_adapter("a", rank(3));
  EXPECT_TRUE(throws<ConfigError>([&] { layer.add_adapter("a", rank(2)); },
                                  {"an adapter called \"a\" is already there"}));
  EXPECT_EQ(layer.adapters().get("a").r, 3);
}

TEST(LoRALinear, KnowsItsModuleTypeAndShape) {
  const Matrix<double> w = random_matrix(11, 7, "W");
  const LoRALinear<double> linear(w), conv1d(FrozenWeight<double>(w.transpose(), Layout::in_out)),
      none;
  EXPECT_STREQ(linear.module_type(), "Linear");
  EXPECT_STREQ(conv1d.module_type(), "Conv1D");
  for (const LoRALinear<double>* layer : {&linear, &conv1d}) {
    EXPECT_EQ(layer->in_features(), 7);
    EXPECT_EQ(layer->out_features(), 11);
  }
  EXPECT_EQ(linear.weight_shape(), (std::vector<Index>{11, 7}));
  EXPECT_EQ(conv1d.weight_shape(), (std::vector<Index>{7, 11}));
  EXPECT_EQ(none.in_features() + none.out_features(), 0);
}

}  // namespace lora_linear_test
