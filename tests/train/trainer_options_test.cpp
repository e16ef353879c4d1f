#include <lora/train/trainer_options.hpp>

#include <gtest/gtest.h>

namespace trainer_options_test {
using namespace lora;

TEST(TrainerOptions, MakeTheScheduleOfTheArguments) {
  TrainingArguments a;
  a.max_steps = 20;
  a.warmup_steps = 4;
  a.lr_scheduler_type = "cosine_with_min_lr";
  a.lr_scheduler_kwargs.min_lr = a.learning_rate / 10;
  const LRSchedule schedule = training_schedule(a, RunPlan(a, {1, 1}));
  EXPECT_EQ(schedule.factor(2), 0.5);
  EXPECT_EQ(schedule.factor(4), 1);
  EXPECT_NEAR(schedule.factor(20), 0.1, 1e-12);
}

TEST(TrainerOptions, MakeTheOptimizerOfTheArguments) {
  TrainingArguments a;
  a.learning_rate = 1e-3;
  a.weight_decay = 0.1;
  a.adam_beta1 = 0.8;
  a.adam_beta2 = 0.95;
  a.adam_epsilon = 1e-7;
  const std::vector<Index> matrix{3, 4}, vector{3};
  const AdamW<float> plain = training_optimizer<float>(a);
  EXPECT_EQ(plain.options().betas[0], 0.8);
  EXPECT_EQ(plain.options().betas[1], 0.95);
  EXPECT_EQ(plain.options().eps, 1e-7);
  const auto decay = [](const AdamW<float>& optimizer, const char* name,
                        const std::vector<Index>& shape) {
    return optimizer.groups().weight_decay(optimizer.groups().find(name, shape));
  };
  EXPECT_EQ(decay(plain, "q.lora_A.default.weight", matrix), 0.1);
  EXPECT_EQ(decay(plain, "q.base_layer.bias", vector), 0);
  const AdamW<float> own = training_optimizer<float>(
      a, {{"all", [](const auto&, const auto&) { return true; }, {}, 0.3}});
  EXPECT_EQ(decay(own, "q.base_layer.bias", vector), 0.3);

  a.loraplus_lr_ratio = 16;
  const AdamW<float> plus = training_optimizer<float>(a);
  const auto rate = [&](const char* name) {
    return plus.groups().lr(plus.groups().find(name, matrix));
  };
  EXPECT_DOUBLE_EQ(rate("q.lora_B.default.weight"), 16e-3);
  EXPECT_DOUBLE_EQ(rate("q.lora_A.default.weight"), 1e-3);
  EXPECT_EQ(decay(plus, "q.lora_A.default.weight", matrix), 0.1);
}

}  // namespace trainer_options_test
