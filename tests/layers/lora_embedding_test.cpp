// LoRAEmbedding: PEFT's numbers, gradients, the properties of every adapted layer, and its errors.
#include <lora/layers/lora_embedding.hpp>

#include <gtest/gtest.h>

#include "layers/golden_layers.hpp"
#include "layers/layer_tools.hpp"
#include "support/allocations.hpp"

namespace lora_embedding_test {
using namespace lora;
using namespace lora_test;
using Ids = std::vector<std::int64_t>;

void check_golden(const GoldenCase& one) {
  const SafetensorsFile file = one.tensors();
  const Index d = file.info("W").shape[1];
  LoRAEmbedding<double> layer(file.matrix<double>("W"));
  const Adapter<double>& adapter = add_golden_adapter(layer, golden_adapter(one), file);
  const Ids ids = file.integers("ids");
  const auto rows = [&](const char* name) {
    const Matrix<double> m = file.matrix<double>(name);
    return Matrix<double>(Eigen::Map<const Matrix<double>>(m.data(), m.size() / d, d));
  };
  const Matrix<double> dy = rows("dy");
  Matrix<double> y(dy.rows(), d);
  LoRAEmbedding<double>::Tape tape;
  layer.forward(ids, y, &tape);
  layer.backward(ids, dy, tape);
  const double bound = golden_bound(dy.rows() + d + adapter.r);
  expect_close(y, rows("y"), bound, "y");
  expect_close(adapter.A.grad, file.matrix<double>("dA"), bound, "dA");
  expect_close(adapter.B.grad, file.matrix<double>("dB"), bound, "dB");
}

TEST(GoldenLayers, EveryEmbedding) { for_each_golden_case("embedding", check_golden); }

const Ids some_ids = {3, 0, 12, 3, 3, 7, 0};

template <class S>
LoRAEmbedding<S> layer_of(Index r = 3, std::int64_t padding = -1) {
  LoRAEmbedding<S> layer(random_matrix<S>(13, 5, "E"), padding);
  add_full_adapter(layer, "a", rank(r));
  add_full_adapter(layer, "b", rank(2, -3, 0.5));
  layer.adapters().set_active({"b", "a"});
  return layer;
}
/// The gradients of layer `make(S{})` for these ids; gives the number of tensors.
template <class Make>
int check_embedding(Make&& make, const Ids& ids) {
  auto layer = make(double{});
  auto moved = make(Complex{});
  const Index rows = static_cast<Index>(ids.size());
  const Matrix<double> dy = random_matrix(rows, 5, "dy");
  Matrix<double> y(rows, 5);
  Matrix<Complex> moved_y(rows, 5);
  LoRAEmbedding<double>::Tape tape;
  Pass pass;
  pass.training = true;  // dropout does nothing here
  layer.forward(ids, y, &tape, pass);
  layer.backward(ids, dy, tape);
  return check_parameter_gradients(layer, moved, [&] {
    moved.forward(ids, moved_y, nullptr, pass);
    return inner(moved_y, dy);
  });
}

TEST(LoRAEmbedding, Gradients) {
  for (const Index r : {1, 3, 17}) {
    for (const Ids& ids : {some_ids, Ids{5}, Ids{}}) {
      EXPECT_EQ(check_embedding([&](auto s) { return layer_of<decltype(s)>(r); }, ids), 4);
    }
  }
  EXPECT_EQ(check_embedding(
                [](auto s) {
                  auto layer = layer_of<decltype(s)>();
                  layer.adapters().set_active({"b"});
                  return layer;
                },
                some_ids),
            2);
}

TEST(LoRAEmbedding, GradientOfATrainedCopy) {
  for (const char* name : {"a", "__base__"}) {
    EXPECT_EQ(check_embedding(
                  [&](auto s) {
                    auto layer = layer_of<decltype(s)>();
                    layer.unload();
                    layer.add_trained_copy(name);
                    layer.trained_copies().activate(name);
                    layer.trained_copies().find(name)->weight.value *= 0.5;
                    return layer;
                  },
                  some_ids),
              1);
  }
}

TEST(LoRAEmbedding, GradientsAddUp) {
  LoRAEmbedding<double> layer = layer_of<double>();
  const Matrix<double> dy = random_matrix(7, 5, "dy");
  Matrix<double> y(7, 5);
  LoRAEmbedding<double>::Tape tape;
  layer.forward(some_ids, y, &tape);
  layer.backward(some_ids, dy, tape);
  const Matrix<double> a = layer.adapters().get("a").A.grad, b = layer.adapters().get("a").B.grad;
  layer.backward(some_ids, dy, tape);
  EXPECT_TRUE(same_gradient(layer.adapters().get("a").A.grad, 2 * a, 32 * 0x1.0p-53));
  EXPECT_TRUE(same_gradient(layer.adapters().get("a").B.grad, 2 * b, 32 * 0x1.0p-53));
}

TEST(LoRAEmbedding, ThePaddingRowGetsNoGradientAndTheOthersTheSame) {
  LoRAEmbedding<double> layer = layer_of<double>(), padded = layer_of<double>(3, 3);
  const Matrix<double> dy = random_matrix(7, 5, "dy");
  Matrix<double> y(7, 5), padded_y(7, 5);
  for (LoRAEmbedding<double>* one : {&layer, &padded}) {
    for (const bool copy : {false, true}) {
      LoRAEmbedding<double>::Tape tape;
      if (copy) one->add_trained_copy("saved"), one->trained_copies().activate("saved");
      one->forward(some_ids, one == &layer ? y : padded_y, &tape);
      one->backward(some_ids, dy, tape);
    }
  }
  EXPECT_TRUE(same_bits(y, padded_y));
  Matrix<double> a = layer.adapters().get("a").A.grad,
                 weight = parameter_of(layer, "modules_to_save.saved.weight").grad;
  EXPECT_GT(a.col(3).norm(), 0);
  EXPECT_GT(weight.row(3).norm(), 0);
  a.col(3).setZero();
  weight.row(3).setZero();
  EXPECT_TRUE(same_bits(padded.adapters().get("a").A.grad, a));
  EXPECT_TRUE(same_bits(padded.adapters().get("a").B.grad, layer.adapters().get("a").B.grad));
  EXPECT_TRUE(same_bits(parameter_of(padded, "modules_to_save.saved.weight").grad, weight));
}

template <class S>
Matrix<S> output_of(const LoRAEmbedding<S>& layer, const Ids& ids = some_ids) {
  Matrix<S> y(static_cast<Index>(ids.size()), layer.embedding_dim());
  layer.forward(ids, y);
  return y;
}

TEST(LoRAEmbedding, AFreshAdapterIsTheIdentityBitForBit) {
  const Matrix<float> table = random_matrix<float>(13, 5, "E");
  const LoRAEmbedding<float> base(table);
  LoRAEmbedding<float> layer(table);
  layer.add_adapter("a", rank(4, 1000));
  layer.adapters().set_active({"a"});
  EXPECT_TRUE(same_bits(output_of(layer), output_of(base)));
  for (std::size_t t = 0; t < some_ids.size(); ++t) {
    EXPECT_TRUE(same_bits(Matrix<float>(output_of(base).row(static_cast<Index>(t))),
                          Matrix<float>(table.row(some_ids[t]))));
  }
}

TEST(LoRAEmbedding, PartsOfABatchAndThreadsChangeNoBit) {
  const LoRAEmbedding<float> layer = layer_of<float>();
  const int before = num_threads();
  set_num_threads(1);
  const Matrix<float> y = output_of(layer);
  for (const int threads : {2, 3, 7}) {
    set_num_threads(threads);
    EXPECT_TRUE(same_bits(output_of(layer), y));
  }
  set_num_threads(before);
  EXPECT_TRUE(same_bits(output_of(layer, Ids(some_ids.begin(), some_ids.begin() + 3)),
                        Matrix<float>(y.topRows(3))));
  EXPECT_TRUE(same_bits(output_of(layer, Ids(some_ids.begin() + 3, some_ids.end())),
                        Matrix<float>(y.bottomRows(4))));
}

TEST(LoRAEmbedding, MergedEqualsUnmergedAndUnmergingIsExact) {
  LoRAEmbedding<double> layer = layer_of<double>();
  const Matrix<double> y = output_of(layer), table = layer.weight().stored();
  layer.merge();
  // Sums of at most 1 + 3 + 2 products, each factor below 5 in size and s below 2.
  expect_close(output_of(layer), y, 2 * 16 * 0x1.0p-53 * 50 / y.cwiseAbs().maxCoeff());
  layer.adapters().set_enabled(false);
  EXPECT_TRUE(same_bits(output_of(layer), output_of(LoRAEmbedding<double>(table))));
  layer.adapters().set_enabled(true);
  layer.unmerge();
  EXPECT_TRUE(same_bits(layer.weight().stored(), table));
  EXPECT_TRUE(same_bits(output_of(layer), y));
}

TEST(LoRAEmbedding, ASteadyStepAllocatesNothing) {
  LORA_NEEDS_ALLOCATION_COUNTS();
  const int before = num_threads();
  set_num_threads(1);
  LoRAEmbedding<float> layer = layer_of<float>();
  const Matrix<float> dy = random_matrix<float>(7, 5, "dy");
  Matrix<float> y(7, 5);
  LoRAEmbedding<float>::Tape tape;
  const auto step = [&] {
    layer.forward(some_ids, y, &tape);
    layer.backward(some_ids, dy, tape);
  };
  step();
  AllocationCounter counter;
  step();
  const Allocations made = counter.stop();
  set_num_threads(before);
  EXPECT_EQ(made.calls, 0u) << made.bytes << " bytes";
}

TEST(LoRAEmbeddingErrors, Construction) {
  EXPECT_TRUE(throws<ConfigError>(
      [] { LoRAEmbedding<float>(FrozenWeight<float>(Matrix<float>(5, 13), Layout::in_out)); },
      {"LoRAEmbedding: the table must be stored as (V, D)"}));
  for (const std::int64_t bad : {-2, 13}) {
    EXPECT_TRUE(throws<ConfigError>([&] { LoRAEmbedding<float>(Matrix<float>(13, 5), bad); },
                                    {"LoRAEmbedding: padding_idx is ", "expected -1 to 12"}));
  }
}

TEST(LoRAEmbeddingErrors, AdaptersThatAreNotDefined) {
  LoRAEmbedding<float> layer(Matrix<float>(13, 5));
  AdapterOptions options = rank(2);
  options.lora_bias = true;
  EXPECT_TRUE(throws<ConfigError>([&] { layer.add_adapter("a", options); },
                                  {"adapter \"a\": lora_bias is not defined for an embedding"}));
  options = rank(2);
  options.init = AdapterInit::orthogonal;
  EXPECT_TRUE(throws<ConfigError>([&] { layer.add_adapter("a", options); },
                                  {"\"orthogonal\" is not defined for an embedding"}));
  EXPECT_TRUE(layer.adapters().empty());
}

TEST(LoRAEmbeddingErrors, IdsAndShapes) {
  LoRAEmbedding<double> layer = layer_of<double>();
  Matrix<double> y(3, 5), narrow(3, 4);
  const Ids good = {1, 2, 3};
  for (const std::int64_t bad : {std::int64_t{-1}, std::int64_t{13}, std::int64_t{1} << 40}) {
    const Ids ids = {1, 2, bad};
    EXPECT_TRUE(throws<ShapeError>(
        [&] { layer.forward(ids, y); },
        {"LoRAEmbedding: ids[2] is ", std::to_string(bad).c_str(), ", expected 0 to 12"}));
  }
  EXPECT_TRUE(throws<ShapeError>([&] { layer.forward(good, narrow); },
                                 {"LoRAEmbedding::forward: y is (3, 4), expected (3, 5)"}));
  LoRAEmbedding<double>::Tape tape;
  EXPECT_TRUE(throws<Error>([&] { layer.backward(good, y, tape); },
                            {"LoRAEmbedding::backward: the tape has seen no forward"}));
  const std::vector<std::string> names(3, "a");
  Pass rows;
  rows.adapter_names = names;
  EXPECT_TRUE(throws<Error>([&] { layer.forward(good, y, &tape, rows); },
                            {"LoRAEmbedding::forward: adapter_names is not supported"}));
  layer.forward(good, y, &tape);
  EXPECT_TRUE(throws<ShapeError>([&] { layer.backward(good, narrow, tape); },
                                 {"dy is (3, 4), expected (3, 5)"}));
  EXPECT_TRUE(throws<ShapeError>(
      [&] {
        layer.backward(Ids{1, 2}, y, tape);
      },
      {"LoRAEmbedding::backward: there are 2 ids, expected 3"}));
  EXPECT_TRUE(throws<ShapeError>(
      [&] {
        layer.backward(Ids{1, 2, 13}, y, tape);
      },
      {"LoRAEmbedding: ids[2] is 13"}));
  LoRAEmbedding<double> other = layer_of<double>(4);
  EXPECT_TRUE(throws<Error>([&] { other.backward(good, y, tape); },
                            {"LoRAEmbedding::backward: the tape was made by another layer"}));
  layer.delete_adapter("b");
  EXPECT_TRUE(throws<Error>([&] { layer.backward(good, y, tape); },
                            {"what acts in this one was changed since forward"}));
  EXPECT_EQ(layer.adapters().get("a").A.grad.cwiseAbs().maxCoeff(), 0.0);
}

TEST(LoRAEmbedding, Sizes) {
  const LoRAEmbedding<double> layer = layer_of<double>();
  EXPECT_EQ(layer.num_embeddings(), 13);
  EXPECT_EQ(layer.embedding_dim(), 5);
  EXPECT_STREQ(layer.module_type(), "Embedding");
  EXPECT_EQ(layer.weight_shape(), (std::vector<Index>{13, 5}));
}

}  // namespace lora_embedding_test
