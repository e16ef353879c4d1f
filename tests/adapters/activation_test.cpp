// Which tensors act and are trained. What LoRAModel makes of it is in lora_model_test.
#include <lora/adapters/activation.hpp>
#include <lora/adapters/lora_model.hpp>

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "adapters/small_model.hpp"

namespace activation_test {
using namespace lora;
using namespace lora_test;
using Names = std::vector<std::string>;

/// "a" and "b" on q, "b" on v, and a copy of the head for each.
SmallModel<float> with_adapters() {
  SmallModel<float> model;
  for (const char* name : {"a", "b"}) {
    model.q.add_adapter(name, rank(2));
    model.head.add_trained_copy(name);
  }
  model.v.add_adapter("b", rank(2));
  return model;
}

TEST(Activation, ActiveAdaptersAreTrainedAndTheFirstCopyActs) {
  SmallModel<float> model = with_adapters();
  activate_adapters(model, {{"b"}, {"a"}});
  EXPECT_EQ(model.q.adapters().active(), (Names{"b", "a"}));
  EXPECT_EQ(model.v.adapters().active(), Names{"b"});
  EXPECT_EQ(model.head.trained_copies().acting()->name, "b");
  EXPECT_EQ(
      trained_names(model),
      (Names{"block.0.q.lora_A.a.weight", "block.0.q.lora_B.a.weight", "block.0.q.lora_A.b.weight",
             "block.0.q.lora_B.b.weight", "block.0.v.lora_A.b.weight", "block.0.v.lora_B.b.weight",
             "head.modules_to_save.b.weight", "head.modules_to_save.b.bias"}));
  activate_adapters(model, {});
  EXPECT_EQ(model.head.trained_copies().acting(), nullptr);
  EXPECT_TRUE(trained_names(model).empty());
}

TEST(Activation, ForInferenceTheyActAndAreFrozen) {
  SmallModel<float> model = with_adapters();
  activate_adapters(model, {{"b", true, "all"}, {"a"}});
  EXPECT_EQ(model.q.adapters().active(), (Names{"b", "a"}));
  EXPECT_EQ(model.head.trained_copies().acting()->name, "b");
  EXPECT_EQ(trained_names(model),
            (Names{"block.0.q.lora_A.a.weight", "block.0.q.lora_B.a.weight"}));
}

TEST(Activation, BiasesOfTheBase) {
  SmallModel<float> model = with_adapters();
  const auto biases = [&] {
    Names names;
    for (const std::string& name : trained_names(model)) {
      if (is_bias_name(name) && name.find("modules_to_save") == name.npos) names.push_back(name);
    }
    return names;
  };
  activate_adapters(model, {{"a", false, "lora_only"}});
  EXPECT_EQ(biases(), Names{"block.0.q.base_layer.bias"});
  activate_adapters(model, {{"a", false, "all"}});
  EXPECT_EQ(biases(),
            (Names{"block.0.q.base_layer.bias", "block.0.c.bias", "norm.bias", "conv.bias"}))
      << "the head's copy acts";
  activate_adapters(model, {{"a"}});
  EXPECT_EQ(biases(), Names{});
}

TEST(Activation, TrainingCanBeTurnedWithoutActivating) {
  SmallModel<float> model = with_adapters();
  activate_adapters(model, {{"a"}});
  train_adapter(model, "a", false);
  train_adapter(model, "b", true);
  EXPECT_EQ(trained_names(model),
            (Names{"block.0.q.lora_A.b.weight", "block.0.q.lora_B.b.weight",
                   "block.0.v.lora_A.b.weight", "block.0.v.lora_B.b.weight",
                   "head.modules_to_save.b.weight", "head.modules_to_save.b.bias"}));
  EXPECT_EQ(model.q.adapters().active(), Names{"a"});
  EXPECT_EQ(model.head.trained_copies().acting()->name, "a");
}

TEST(Activation, FullFineTuningIsLeftAlone) {
  SmallModel<float> model = with_adapters();
  model.c.train_base();
  activate_adapters(model, {{"a"}});
  EXPECT_TRUE(model.c.trained_copies().find(base_adapter_name)->weight.trainable);
  EXPECT_EQ(model.c.trained_copies().acting()->name, base_adapter_name);
}

}  // namespace activation_test
