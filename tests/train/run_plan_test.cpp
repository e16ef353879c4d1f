#include <lora/train/run_plan.hpp>

#include <gtest/gtest.h>

#include <map>

namespace run_plan_test {
using namespace lora;

TrainingArguments arguments(Index batch, Index accumulation, double epochs = 2) {
  TrainingArguments a;
  a.per_device_train_batch_size = batch;
  a.gradient_accumulation_steps = accumulation;
  a.num_train_epochs = epochs;
  return a;
}
std::vector<Index> ones(Index n) { return std::vector<Index>(static_cast<std::size_t>(n), 1); }

TEST(RunPlan, CountsStepsAsTransformersDoes) {
  struct Row {
    Index n, batch, accumulation;
    double epochs;
    bool drop_last;
    Index per_epoch, all;
  };
  for (const Row& row : {Row{26, 3, 2, 3, false, 5, 15}, Row{26, 3, 2, 3, true, 4, 12},
                         Row{24, 3, 4, 1, false, 2, 2}, Row{1, 8, 16, 1, false, 1, 1},
                         Row{26, 3, 2, 0.5, false, 5, 3}, Row{26, 3, 2, 1.01, false, 5, 6}}) {
    TrainingArguments a = arguments(row.batch, row.accumulation, row.epochs);
    a.dataloader_drop_last = row.drop_last;
    const RunPlan plan(a, ones(row.n));
    EXPECT_EQ(plan.steps_per_epoch(), row.per_epoch);
    EXPECT_EQ(plan.max_steps(), row.all);
    a.max_steps = 7;
    EXPECT_EQ(RunPlan(a, ones(row.n)).max_steps(), 7);
  }
  TrainingArguments a = arguments(3, 2, 3);
  a.warmup_ratio = 0.1;
  const RunPlan plan(a, ones(26));
  EXPECT_EQ(plan.warmup_steps(a), 2) << "of 15, rounded up";
  a.warmup_steps = 4;
  EXPECT_EQ(plan.warmup_steps(a), 4);
  EXPECT_TRUE(plan.ends_epoch(10));
  EXPECT_FALSE(plan.ends_epoch(9));
}

TEST(RunPlan, ShowsEachExampleOnceAnEpoch) {
  for (const bool drop_last : {false, true}) {
    TrainingArguments a = arguments(3, 2);
    a.dataloader_drop_last = drop_last;
    RunPlan plan(a, ones(26));
    for (Index epoch = 0; epoch < 2; ++epoch) {
      std::map<Index, int> seen;
      for (Index step = 0; step < plan.steps_per_epoch(); ++step) {
        const auto batches = plan.micro_batches(epoch * plan.steps_per_epoch() + step);
        EXPECT_LE(batches.size(), 2u);
        for (const auto& batch : batches) {
          EXPECT_TRUE(batch.size() == 3 || !drop_last);
          for (const Index i : batch) ++seen[i];
        }
      }
      EXPECT_EQ(seen.size(), drop_last ? 24u : 26u);
      for (const auto& [i, times] : seen) EXPECT_EQ(times, 1) << i;
    }
  }
}

TEST(RunPlan, KnowsAStepsExamplesWithoutTheStepsBefore) {
  const TrainingArguments a = arguments(3, 2);
  RunPlan straight(a, ones(26)), jump(a, ones(26));
  for (Index step = 0; step < 8; ++step) straight.micro_batches(step);
  const auto want = straight.micro_batches(8), got = jump.micro_batches(8);
  ASSERT_EQ(want.size(), got.size());
  for (std::size_t i = 0; i < want.size(); ++i)
    EXPECT_TRUE(std::equal(want[i].begin(), want[i].end(), got[i].begin(), got[i].end()));
}

TEST(RunPlan, MeasuresTheData) {
  const RunPlan plan(arguments(2, 1), {5, 1, 7, 3});
  EXPECT_EQ(plan.tokens_per_epoch(), 16);
  EXPECT_EQ(plan.most_tokens(), 12);
  EXPECT_EQ(plan.fingerprint(), RunPlan(arguments(4, 2), {5, 1, 7, 3}).fingerprint());
  EXPECT_NE(plan.fingerprint(), RunPlan(arguments(2, 1), {5, 1, 3, 7}).fingerprint());
  EXPECT_NE(plan.fingerprint(), RunPlan(arguments(2, 1), {5, 1, 7}).fingerprint());
}

TEST(RunPlan, RefusesRunsWithoutSteps) {
  const auto message = [](const TrainingArguments& a, Index n) {
    try {
      RunPlan(a, ones(n));
    } catch (const ConfigError& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  EXPECT_EQ(message(arguments(3, 2), 0), "Trainer: there are no examples to train on");
  EXPECT_EQ(message(arguments(3, 2, 0), 9), "Trainer: num_train_epochs is 0, so there is no step");
  TrainingArguments a = arguments(8, 1);
  a.dataloader_drop_last = true;
  EXPECT_EQ(message(a, 7),
            "Trainer: 7 examples do not fill a batch of per_device_train_batch_size 8, and "
            "dataloader_drop_last is set");
}

}  // namespace run_plan_test
