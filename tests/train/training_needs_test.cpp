#include <lora/train/training_needs.hpp>

#include <gtest/gtest.h>

#include "train/toy.hpp"

namespace training_needs_test {
using namespace lora;
using namespace lora_test;

TEST(TrainingNeeds, CountsWhatThereIs) {
  Toy model = toy_model();
  TrainingTask<Toy, Rows> task = toy_task();
  task.activation_bytes = [](Toy&, Index rows, bool gradient) {
    return static_cast<std::uint64_t>(rows * (gradient ? 100 : 30));
  };
  ToyTrainer trainer(model, toy_arguments(), task, toy_examples());
  const TrainingNeeds needs = trainer.needs();
  const auto [trainable, all] = model.get_nb_trainable_parameters();
  EXPECT_EQ(needs.trainable, trainable);
  EXPECT_EQ(needs.parameters, all);
  EXPECT_EQ(needs.trainable, 3 * (5 + 7) + 3 * (7 + 4));
  EXPECT_EQ(needs.trained, 4u * 69);
  EXPECT_EQ(needs.gradients, 2 * 4u * 69) << "those, and one buffer for two micro-batches a step";
  EXPECT_EQ(needs.optimizer, 8u * 69);
  EXPECT_EQ(needs.weights, 4u * (5 * 7 + 7 * 4 + 7 + 4));
  EXPECT_EQ(needs.activations, 900u) << "three examples of three rows";
  EXPECT_EQ(needs.total(), needs.weights + 20u * 69 + 900);
  EXPECT_EQ(needs.examples, 26);
  EXPECT_EQ(needs.tokens_per_epoch, 51);
  EXPECT_EQ(needs.steps_per_epoch, 5);
  EXPECT_EQ(needs.max_steps, 15);

  TrainingArguments arguments = toy_arguments();
  for (const auto& [evaluated, bytes] : {std::pair(8, 900u), std::pair(26, 51u * 30)}) {
    arguments.per_device_eval_batch_size = evaluated;
    ToyTrainer evaluating(model, arguments, task, toy_examples(), toy_examples());
    EXPECT_EQ(evaluating.needs().activations, bytes)
        << "an evaluation of " << evaluated << " at a time";
  }
}

TEST(TrainingNeeds, SaysIt) {
  TrainingNeeds needs;
  needs.parameters = 134105856;
  needs.trainable = 4884480;
  needs.weights = 516884736;
  needs.trained = needs.gradients = 19537920;
  needs.optimizer = 39075840;
  needs.examples = 200;
  needs.tokens_per_epoch = 51234;
  needs.steps_per_epoch = 25;
  needs.max_steps = 75;
  EXPECT_EQ(needs.text(),
            "parameters   134105856, 4884480 of them trained (3.6423 %)\n"
            "memory       weights 516.9 MB, trained values 19.5 MB, gradients 19.5 MB, optimiser "
            "39.1 MB, activations not known; together 595.0 MB\n"
            "data         200 examples, 51234 tokens and 25 steps an epoch, 75 steps in all\n");
  needs.activations = 2'500'000'000;
  needs.available = 999;
  EXPECT_HAS(needs.text(), "activations 2.50 GB; together 3.10 GB, free now 1 kB");
}

TEST(TrainingNeeds, RefusesWhatDoesNotFit) {
  TrainingNeeds needs;
  needs.optimizer = 1000;
  EXPECT_NO_THROW(needs.check_memory()) << "nobody knows what is free";
  needs.available = 1000;
  EXPECT_NO_THROW(needs.check_memory());
  needs.activations = 1;
  EXPECT_HAS(message_of<ConfigError>([&] { needs.check_memory(); }),
             "Trainer: the run needs 1 kB more than is in use (optimiser 1 kB, activations 0 kB), "
             "and only 1 kB are free. What helps: a smaller per_device_train_batch_size");
}

TEST(TrainingNeeds, AsksTheSystem) {
  const auto free = available_memory();
  if (!free) GTEST_SKIP() << "the system does not say what is free";
  EXPECT_GT(*free, std::uint64_t{1} << 20);
}

}  // namespace training_needs_test
