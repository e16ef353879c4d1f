// Weights that are trained as a whole: the copies, and the gradients of a layer in which one acts.
#include <lora/layers/lora_linear.hpp>

#include <gtest/gtest.h>

#include "layers/layer_tools.hpp"

namespace trained_copy_test {
using namespace lora;
using namespace lora_test;

TEST(TrainedCopies, TheActiveOneActsElseThatOfFullFineTuning) {
  TrainedCopies<double> copies;
  EXPECT_TRUE(copies.empty());
  EXPECT_EQ(copies.acting(), nullptr);
  const Matrix<double> w = random_matrix(3, 2, "W"), b = random_matrix(1, 3, "b");
  const TrainedCopy<double>& added = copies.add("a", w, {3, 2}, b);
  EXPECT_TRUE(same_bits(added.weight.value, w));
  EXPECT_TRUE(same_bits(added.bias.value, b));
  EXPECT_TRUE(added.weight.trainable && added.bias.trainable);
  EXPECT_EQ(added.weight.shape, (std::vector<Index>{3, 2}));
  EXPECT_EQ(added.bias.shape, std::vector<Index>{3});
  EXPECT_EQ(copies.acting(), nullptr) << "added is not active";
  copies.activate("a");
  EXPECT_EQ(copies.acting(), copies.find("a"));
  EXPECT_TRUE(copies.add(base_adapter_name, w, {3, 2}, {}).bias.empty());
  EXPECT_EQ(copies.acting()->name, "a");
  copies.activate("nobody");
  EXPECT_EQ(copies.acting()->name, "__base__");
  copies.activate("a");
  copies.remove("a");
  EXPECT_EQ(copies.acting()->name, "__base__");
  copies.add("a", w, {3, 2}, b);
  EXPECT_EQ(copies.acting()->name, "__base__") << "another copy of that name does not act unasked";
  EXPECT_EQ(copies.all().size(), 2u);
}

TEST(TrainedCopies, Names) {
  TrainedCopies<double> copies;
  const Matrix<double> w(3, 2);
  copies.add("a", w, {3, 2}, {});
  const auto add = [&](const char* name) {
    return [&copies, &w, name] { copies.add(name, w, {3, 2}, {}); };
  };
  EXPECT_TRUE(throws<ConfigError>(add("a"), {"a trained copy called \"a\" is already there"}));
  EXPECT_TRUE(throws<ConfigError>(
      add(""), {"a trained copy's name is \"\", expected one that is not empty"}));
  EXPECT_TRUE(throws<ConfigError>(add("a.b"), {"a trained copy's name is \"a.b\"", "no dot"}));
  EXPECT_EQ(copies.all().size(), 1u);
}

template <class S>
LoRALinear<S> layer_of(Layout layout, const std::string& copy, bool bias) {
  const Matrix<S> w = random_matrix<S>(11, 7, "W");
  LoRALinear<S> layer(
      FrozenWeight<S>(layout == Layout::out_in ? w : Matrix<S>(w.transpose()), layout),
      bias ? random_matrix<S>(1, 11, "b") : Matrix<S>());
  if (copy != base_adapter_name) add_full_adapter(layer, "idle", rank(2));
  layer.add_trained_copy(copy);
  layer.trained_copies().activate(copy);
  auto& own = *layer.trained_copies().find(copy);
  own.weight.value +=
      random_matrix<S>(own.weight.value.rows(), own.weight.value.cols(), "training", 0.3);
  return layer;
}

TEST(TrainedCopy, GradientsOfWeightAndBias) {
  for (const Layout layout : {Layout::out_in, Layout::in_out}) {
    for (const char* copy : {"a", "__base__"}) {
      for (const Index rows : {0, 1, 5}) {
        EXPECT_EQ(check_gradients([&](auto s) { return layer_of<decltype(s)>(layout, copy, true); },
                                  rows),
                  2);
      }
      EXPECT_EQ(
          check_gradients([&](auto s) { return layer_of<decltype(s)>(layout, copy, false); }, 5),
          1);
    }
  }
}

TEST(TrainedCopy, AFrozenCopyGetsNoGradient) {
  EXPECT_EQ(check_gradients(
                [](auto s) {
                  auto layer = layer_of<decltype(s)>(Layout::out_in, "a", true);
                  layer.trained_copies().find("a")->weight.set_trainable(false);
                  return layer;
                },
                5),
            1);
}

TEST(TrainedCopy, ReplacesWeightBiasAndAdapters) {
  LoRALinear<double> layer = layer_of<double>(Layout::out_in, "a", true);
  layer.adapters().set_active({"idle"});
  const TrainedCopy<double> copy = *layer.trained_copies().find("a");
  const LoRALinear<double> expected(copy.weight.value, copy.bias.value),
      base(layer.weight(), layer.bias().value);
  const Matrix<double> x = random_matrix(4, 7, "x");
  Matrix<double> y(4, 11), wanted(4, 11);
  layer.forward(x, y);
  expected.forward(x, wanted);
  EXPECT_TRUE(same_bits(y, wanted));
  layer.adapters().set_enabled(false);
  layer.forward(x, y);
  base.forward(x, wanted);
  EXPECT_TRUE(same_bits(y, wanted)) << "disabled, modules_to_save are the base's again";
  layer.unload();
  layer.train_base();
  layer.forward(x, y);
  EXPECT_TRUE(same_bits(y, wanted));
  layer.adapters().set_enabled(false);
  layer.trained_copies().find(base_adapter_name)->weight.value.setZero();
  layer.forward(x, y);
  EXPECT_TRUE(same_bits(y, Matrix<double>(layer.bias().value.replicate(4, 1))))
      << "but full fine-tuning is the base";
}

TEST(TrainedCopies, AnIdIsNeverUsedTwice) {
  TrainedCopies<double> copies;
  const Matrix<double> w = random_matrix(3, 2, "W");
  std::vector<std::uint64_t> ids;
  for (const char* name : {"a", "b", "a", "a"}) {
    copies.remove(name);
    ids.push_back(copies.add(name, w, {3, 2}, {}).id);
  }
  copies.activate("a");
  copies.clear();
  EXPECT_TRUE(copies.empty());
  ids.push_back(copies.add("a", w, {3, 2}, {}).id);
  EXPECT_EQ(copies.acting(), nullptr);
  EXPECT_EQ(ids, (std::vector<std::uint64_t>{1, 2, 3, 4, 5}));
}

TEST(TrainedCopy, AnotherCopyThanForwardsIsNoticed) {
  LoRALinear<double> layer = layer_of<double>(Layout::out_in, "a", false);
  layer.add_trained_copy("b");
  const Matrix<double> x = random_matrix(4, 7, "x"), dy = random_matrix(4, 11, "dy");
  Matrix<double> y(4, 11);
  LoRALinear<double>::Tape tape;
  layer.forward(x, y, &tape);
  layer.trained_copies().activate("b");
  EXPECT_TRUE(throws<Error>([&] { layer.backward(x, dy, tape, nullptr); },
                            {"what acts in this one was changed since forward"}));
  layer.trained_copies().activate("a");
  EXPECT_NO_THROW(layer.backward(x, dy, tape, nullptr));
}

}  // namespace trained_copy_test
