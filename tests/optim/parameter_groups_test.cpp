#include <lora/optim/adamw.hpp>
#include <lora/optim/parameter_groups.hpp>
#include <lora/optim/sgd.hpp>
#include <support/messages.hpp>

#include <gtest/gtest.h>

#include <limits>

#include "optim/toy_model.hpp"

using lora::Index;
using lora::ParameterGroup;
using lora::ParameterGroups;

namespace parameter_groups_test {

const std::vector<Index> matrix = {4, 3}, vector = {4};

ParameterGroups make(std::vector<ParameterGroup> groups, double lr = 0.01, double decay = 0.1) {
  return ParameterGroups("Test", lr, decay, std::move(groups));
}
auto contains(const char* part) {
  return [part](const std::string& name, const std::vector<Index>&) {
    return name.find(part) != std::string::npos;
  };
}

TEST(ParameterGroups, TheFirstThatMatchesWinsAndTheRestIsDefault) {
  const auto groups = make({{"b", contains("b"), 0.5}, {"bc", contains("bc"), 0.25, 0.0}});
  ASSERT_EQ(groups.size(), 3u);
  EXPECT_EQ(groups.find("abc", matrix), 0u);
  EXPECT_EQ(groups.find("b", matrix), 0u);
  EXPECT_EQ(groups.find("x", matrix), 2u);
  EXPECT_EQ(groups.name(2), "default");
  EXPECT_EQ(groups.lr(0), 0.5);
  EXPECT_EQ(groups.weight_decay(0), 0.1);
  EXPECT_EQ(groups.weight_decay(1), 0.0);
  EXPECT_EQ(groups.lr(2), 0.01);
}

TEST(ParameterGroups, OneFactorForAllLearningRates) {
  auto groups = make({{"b", contains("b"), 0.5}});
  groups.set_lr_factor(0.25);
  EXPECT_EQ(groups.lr(0), 0.125);
  EXPECT_EQ(groups.lr(1), 0.0025);
  EXPECT_EQ(groups.base_lr(0), 0.5);
  EXPECT_EQ(groups.lr_factor(), 0.25);
  groups.set_lr_factor(1);
  EXPECT_EQ(groups.lr(0), 0.5);
}

TEST(ParameterGroups, NoDecayForVectors) {
  const auto groups = make({lora::no_decay()});
  EXPECT_EQ(groups.weight_decay(groups.find("norm.weight", vector)), 0.0);
  EXPECT_EQ(groups.weight_decay(groups.find("lin.weight", matrix)), 0.1);
  EXPECT_EQ(groups.weight_decay(groups.find("q.lora_magnitude_vector.default.weight", vector)), 0.1)
      << "as transformers' Trainer";
  EXPECT_EQ(groups.lr(0), 0.01);
}

// The names of PEFT's own test, and one of each other kind.
TEST(LoRAPlus, GroupsByPeftsNames) {
  const double lr = 5e-5, ratio = 1.2;
  const auto groups = make(lora::loraplus_groups(lr, ratio, {1e-6, 0.3}));
  ASSERT_EQ(groups.size(), 5u);
  struct Row {
    const char* name;
    std::vector<Index> shape;
    const char* group;
    double lr, decay;
  };
  const std::vector<Row> rows = {
      {"base_model.model.embedding.lora_embedding_A.default", matrix, "embedding", 1e-6, 0.3},
      {"base_model.model.embedding.lora_embedding_B.default", matrix, "embedding", 1e-6, 0.3},
      {"base_model.model.lin0.lora_A.default.weight", matrix, "groupA", lr, 0.3},
      {"base_model.model.lin0.lora_B.default.weight", matrix, "groupB", lr * ratio, 0.3},
      {"base_model.model.lin0.lora_B.default.bias", vector, "groupB_no_decay", lr * ratio, 0},
      {"base_model.model.conv.lora_A.other.weight", {2, 3, 3, 3}, "groupA", lr, 0.3},
      {"base_model.model.lin1.base_layer.bias", vector, "groupB_no_decay", lr * ratio, 0},
      {"base_model.model.layer_norm.weight", vector, "groupB_no_decay", lr * ratio, 0},
      {"base_model.model.h.0.ln_1.weight", vector, "groupB_no_decay", lr * ratio, 0},
      {"ln_f.weight", vector, "groupB_no_decay", lr * ratio, 0},
      {"RMSNorm.weight", vector, "groupB_no_decay", lr * ratio, 0},
      {"lin0.lora_magnitude_vector.default.weight", vector, "groupB", lr * ratio, 0.3},
      {"base_model.model.lm_head.modules_to_save.default.weight", matrix, "groupA", lr, 0.3},
      {"base_model.model.norm_head.weight", matrix, "groupA", lr, 0.3}};
  for (const Row& row : rows) {
    const auto g = groups.find(row.name, row.shape);
    EXPECT_EQ(groups.name(g), row.group) << row.name;
    EXPECT_EQ(groups.lr(g), row.lr) << row.name;
    EXPECT_EQ(groups.weight_decay(g), row.decay) << row.name;
  }
}

TEST(LoRAPlus, DefaultsArePefts) {
  const auto groups = make(lora::loraplus_groups(1e-4, 16));
  EXPECT_EQ(groups.lr(groups.find("x.lora_B.default.weight", matrix)), 1e-4 * 16);
  EXPECT_EQ(groups.lr(groups.find("x.lora_embedding_A.default", matrix)), 1e-6);
  for (std::size_t g = 0; g < 4; ++g) EXPECT_EQ(groups.weight_decay(g), 0.0);
}

TEST(ParameterGroupsErrors, SayWhichGroup) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_MESSAGE(lora::ConfigError, make({{"fast", contains("b"), -1.0}}),
                 "Test, group \"fast\": lr is -1, expected a finite number >= 0");
  EXPECT_MESSAGE(lora::ConfigError, make({{"fast", contains("b"), 1.0, nan}}),
                 "Test, group \"fast\": weight_decay is nan");
  EXPECT_MESSAGE(lora::ConfigError, make({{"none", nullptr}}),
                 "Test, group \"none\": contains is empty, expected a function");
  auto groups = make({});
  EXPECT_MESSAGE(lora::ConfigError, groups.set_lr_factor(-1),
                 "Test: the factor of the learning rate is -1");
  for (const double ratio : {0.0, -1.0, nan}) {
    EXPECT_MESSAGE(lora::ConfigError, lora::loraplus_groups(1e-4, ratio),
                   "loraplus_groups: loraplus_lr_ratio is");
  }
}

struct OneTensor {
  lora::Parameter<float> p{lora::Matrix<float>::Ones(1, 1), true};
  template <class Fn>
  void for_each_parameter(const lora::NamePath&, Fn&& fn) {
    fn(lora::NamePath("p"), p);
  }
};

TEST(ParameterGroupsErrors, MovedFrom) {
  using namespace lora;
  using lora_test::message_of;
  AdamW<float> adamw({.lr = 0.1});
  SGD<float> sgd({.lr = 0.1, .momentum = 0.5});
  const AdamW<float> adamw_elsewhere = std::move(adamw);
  const SGD<float> sgd_elsewhere = std::move(sgd);
  OneTensor model;
  const auto expect_refused = [&](auto& optimizer, const auto& elsewhere) {
    const char* text = "the optimiser was moved from";
    EXPECT_HAS(message_of<Error>([&] { optimizer.step(model); }), text);
    EXPECT_HAS(message_of<Error>([&] { optimizer.lr(); }), text);
    EXPECT_HAS(message_of<Error>([&] { optimizer.groups().name(0); }), text);
    EXPECT_TRUE(optimizer.state().tensors.empty());
    EXPECT_NO_THROW(optimizer.prune(model));
    optimizer = elsewhere;
    EXPECT_NO_THROW(optimizer.step(model));
  };
  expect_refused(adamw, adamw_elsewhere);
  expect_refused(sgd, sgd_elsewhere);
}

}  // namespace parameter_groups_test
