// One adapter: what it is made from, and the dropout that belongs to it.
#include <lora/layers/adapter.hpp>

#include <gtest/gtest.h>

#include <limits>

#include "layers/layer_tools.hpp"

namespace adapter_test {
using namespace lora;
using namespace lora_test;

constexpr double nan = std::numeric_limits<double>::quiet_NaN(),
                 inf = std::numeric_limits<double>::infinity();

TEST(Adapter, PeftsDefaults) {
  const AdapterOptions options;
  EXPECT_EQ(options.r, 8);
  EXPECT_EQ(options.lora_alpha, 8);
  EXPECT_EQ(options.lora_dropout, 0);
  EXPECT_EQ(options.init, AdapterInit::kaiming_uniform);
  EXPECT_FALSE(options.lora_bias);
  EXPECT_TRUE(std::holds_alternative<PlainLoRA>(options.variant));
}

TEST(Adapter, IsMadeWithWhatTheOptionsSay) {
  AdapterOptions options = rank(4, 6, 0.25);
  const Adapter<float> plain = make_adapter<float>("a", options);
  EXPECT_EQ(plain.name, "a");
  EXPECT_EQ(plain.r, 4);
  EXPECT_EQ(plain.alpha, 6);
  EXPECT_EQ(plain.dropout, 0.25);
  EXPECT_EQ(plain.initial_scaling, 1.5);
  EXPECT_EQ(plain.scaling, 1.5);
  EXPECT_EQ(plain.scale(), 1.5f);
  EXPECT_EQ(plain.size(), 0);
  EXPECT_FALSE(plain.trainable());
  options.variant = RsLoRA{};
  EXPECT_EQ(make_adapter<float>("a", options).scaling, 3.0);
}

TEST(Adapter, BadOptionsAreRefused) {
  const auto make = [](const std::string& name, const AdapterOptions& options) {
    return [=] { make_adapter<double>(name, options); };
  };
  for (const auto& [r, text] :
       {std::pair{Index{0}, "adapter \"a\": r is 0, expected at least 1"}, {-3, "r is -3"}}) {
    EXPECT_TRUE(throws<ConfigError>(make("a", rank(r)), {text}));
  }
  for (const double alpha : {nan, inf, -inf}) {
    EXPECT_TRUE(throws<ConfigError>(make("a", rank(2, alpha)),
                                    {"adapter \"a\": lora_alpha is not finite"}));
  }
  for (const double dropout : {1.0, 1.5, -0.125, nan, inf}) {
    EXPECT_TRUE(throws<ConfigError>(make("a", rank(2, 2, dropout)),
                                    {"adapter \"a\": lora_dropout is ", "expected 0 <= p < 1"}));
  }
  EXPECT_TRUE(throws<ConfigError>(make("a", rank(2, 2, 1.5)), {"lora_dropout is 1.5"}));
  EXPECT_TRUE(throws<ConfigError>(make("", rank(2)), {"adapter: the name is empty"}));
  EXPECT_TRUE(throws<ConfigError>(make("__base__", rank(2)),
                                  {"adapter \"__base__\": this name stands for \"no adapter\""}));
  EXPECT_TRUE(throws<ConfigError>(make("a.b", rank(2)),
                                  {"adapter \"a.b\": a name must not contain a dot"}));
  EXPECT_NO_THROW(make("a b/ü", rank(1, 0, 0.999))());
}

TEST(Adapter, DropoutIsOfTrainingAlone) {
  const Adapter<double> adapter = make_adapter<double>("a", rank(2, 2, 0.5));
  Pass pass;
  EXPECT_FALSE(adapter.dropout_of(pass).active());
  pass.training = true;
  EXPECT_TRUE(adapter.dropout_of(pass).active());
  EXPECT_FALSE(make_adapter<double>("a", rank(2)).dropout_of(pass).active());
}

TEST(Adapter, OnlyOneThatScalesTheOutputIsMoreThanItsFactors) {
  AdapterOptions options = rank(2);
  for (const AdapterVariant& variant : {AdapterVariant(PlainLoRA{}), AdapterVariant(RsLoRA{})}) {
    options.variant = variant;
    EXPECT_NO_THROW(expect_low_rank_alone(make_adapter<double>("a", options), "combined"));
  }
  options.variant = DoRA{};
  EXPECT_TRUE(throws<ConfigError>(
      [&] { expect_low_rank_alone(make_adapter<double>("a", options), "combined"); },
      {"adapter \"a\": a DoRA adapter cannot be combined", "merge it instead"}));
}

TEST(Adapter, SizeTrainabilityAndFiniteness) {
  Adapter<float> adapter = make_adapter<float>("a", rank(2));
  adapter.A = Parameter<float>(random_matrix<float>(2, 5, "A"));
  adapter.B = Parameter<float>(random_matrix<float>(3, 2, "B"));
  EXPECT_EQ(adapter.size(), 16);
  adapter.set_trainable(true);
  EXPECT_TRUE(adapter.trainable() && adapter.A.trainable && adapter.B.trainable);
  EXPECT_FALSE(adapter.bias.trainable) << "there is none";
  adapter.bias = Parameter<float>::vector(Matrix<float>::Zero(1, 3));
  EXPECT_EQ(adapter.size(), 19);
  adapter.set_trainable(false);
  EXPECT_FALSE(adapter.trainable());
  for (Parameter<float>* p : {&adapter.A, &adapter.B, &adapter.bias}) {
    EXPECT_TRUE(adapter.finite());
    p->value(0, 1) = static_cast<float>(p == &adapter.B ? inf : nan);
    EXPECT_FALSE(adapter.finite());
    p->value(0, 1) = 0;
  }
}

}  // namespace adapter_test
