#include <lora/train/trainer.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "support/file_calls.hpp"
#include "support/shared.hpp"
#include "support/threads.hpp"
#include "train/toy.hpp"

namespace trainer_test {
using namespace lora;
using namespace lora_test;
namespace fs = std::filesystem;

TEST(Trainer, Learns) {
  Toy model = toy_model();
  TrainingArguments a = toy_arguments();
  a.num_train_epochs = 30;
  a.learning_rate = 3e-2;
  ToyTrainer trainer(model, a, toy_task(), toy_examples(), toy_data(10, 6));
  const double before = trainer.evaluate()["eval_loss"].get<double>();
  const TrainOutput output = trainer.train();
  EXPECT_EQ(output.global_step, 150);
  EXPECT_EQ(output.reason, StopReason::finished);
  const double after = trainer.evaluate()["eval_loss"].get<double>();
  EXPECT_LT(after, 0.75 * before);
  const Json metrics = trainer.evaluate();
  EXPECT_DOUBLE_EQ(metrics["eval_perplexity"].get<double>(), std::exp(after));
}

// The loop written out: order, normalisation over the whole step, clipping, schedule.
TEST(Trainer, TakesTheStepsThatItSays) {
  Toy model = toy_model(), twin = toy_model();
  TrainingArguments a = toy_arguments();
  a.weight_decay = 0.1;
  a.max_grad_norm = 0.5;
  const std::vector<Rows> data = toy_examples();
  ToyTrainer trainer(model, a, toy_task(), data);
  trainer.train();

  const TrainingTask<Toy, Rows> task = toy_task();
  AdamW<float> optimizer({.lr = 1e-2, .weight_decay = 0.1}, {no_decay()});
  const LRSchedule schedule("linear", {.num_warmup_steps = 2, .num_training_steps = 15});
  GradientTree<float> gradients;
  std::vector<Index> lengths;
  for (const Rows& rows : data) lengths.push_back(rows.x.rows());
  for (Index step = 0; step < 15; ++step) {
    const auto order = epoch_order({TrainSampling::random, 42, 6}, lengths, step / 5);
    const Index first = step % 5 * 6, last = std::min<Index>(first + 6, 26);
    std::vector<const Rows*> all;
    Index items = 0;
    for (Index i = first; i < last; ++i) {
      all.push_back(&data[static_cast<std::size_t>(order[static_cast<std::size_t>(i)])]);
      items += task.counted(*all.back());
    }
    double loss = 0;
    gradients.sum(twin, all.size() > 3 ? 2 : 1, [&](Index micro_batch) {
      const std::size_t i = 3 * static_cast<std::size_t>(micro_batch);
      const std::size_t count = std::min<std::size_t>(3, all.size() - i);
      loss += task.loss(twin, std::span(all).subspan(i, count), {.num_items = items}).loss;
    });
    const double norm = clip_grad_norm(twin, 0.5);
    optimizer.set_lr_factor(schedule.factor(step));
    optimizer.step(twin);
    const Json& entry = trainer.state().log_history[static_cast<std::size_t>(step)];
    EXPECT_EQ(entry["loss"].get<double>(), loss);
    EXPECT_EQ(entry["grad_norm"].get<double>(), norm);
    EXPECT_EQ(entry["learning_rate"].get<double>(), 1e-2 * schedule.factor(step));
    EXPECT_EQ(entry["step"], step + 1);
    EXPECT_EQ(entry["epoch"].get<double>(), static_cast<double>(step + 1) / 5);
  }
  EXPECT_EQ(trained(model), trained(twin));
}

// One batch, or the same examples in parts: the same masks, and the same gradient but for rounding.
TEST(Trainer, AccumulatesAsOneLargeBatch) {
  std::vector<std::vector<float>> results;
  for (const Index accumulation : {1, 3}) {
    Toy model = toy_model(0.3);
    TrainingArguments a = toy_arguments();
    a.gradient_accumulation_steps = accumulation;
    a.per_device_train_batch_size = 6 / accumulation;
    a.max_steps = 6;
    a.train_sampling_strategy = TrainSampling::sequential;
    ToyTrainer trainer(model, a, toy_task(), toy_examples());
    trainer.train();
    results.push_back(trained(model));
  }
  for (std::size_t i = 0; i < results[0].size(); ++i)
    EXPECT_NEAR(results[0][i], results[1][i], 1e-4f) << i;
}

TEST(Trainer, GivesTheSameBytesForAnyNumberOfThreads) {
  std::vector<std::vector<float>> results;
  for (const int threads : {1, 4}) {
    const Threads limit(threads);
    Toy model = toy_model(0.2);
    ToyTrainer trainer(model, toy_arguments(), toy_task(), toy_examples());
    trainer.train();
    results.push_back(trained(model));
  }
  EXPECT_EQ(results[0], results[1]);
  Toy other = toy_model(0.2);
  TrainingArguments a = toy_arguments();
  a.seed = 43;
  ToyTrainer(other, a, toy_task(), toy_examples()).train();
  EXPECT_NE(results[0], trained(other));
}

TEST(Trainer, SavesWhatItIsAskedToAndResumes) {
  const TemporaryFolder folder;
  Toy model = toy_model(0.2);
  TrainingArguments a = toy_arguments(folder.path);
  a.eval_strategy = IntervalStrategy::steps;
  a.eval_steps = 2;
  const TrainOutput output =
      ToyTrainer(model, a, toy_task(), toy_examples(), toy_data(7, 6)).train();
  EXPECT_EQ(checkpoint_steps(folder.path), (std::vector<Index>{4, 8, 12, 15}));
  EXPECT_EQ(output.last_checkpoint, folder.path / "checkpoint-15");
  for (const Index step : {4, 8, 12, 15}) {
    Toy resumed = toy_model(0.2);
    ToyTrainer trainer(resumed, a, toy_task(), toy_examples(), toy_data(7, 6));
    const TrainOutput again = trainer.train(checkpoint_path(folder.path, step));
    EXPECT_EQ(again.global_step, 15);
    EXPECT_EQ(trained(resumed), trained(model)) << "from step " << step;
    EXPECT_EQ(again.training_loss, output.training_loss);
    EXPECT_TRUE(again.warnings.empty());
    EXPECT_EQ(trainer.state().log_history.size(), 15u + 7u);
  }
}

TEST(Trainer, KeepsTheNewestAndTheBest) {
  const TemporaryFolder folder;
  Toy model = toy_model();
  TrainingArguments a = toy_arguments(folder.path);
  a.save_steps = 2;
  a.eval_strategy = IntervalStrategy::steps;
  a.eval_steps = 2;
  a.save_total_limit = 2;
  a.load_best_model_at_end = true;
  a.metric_for_best_model = "luck";
  // The fourth step is the best, whatever happens later.
  TrainerOptions<Toy> options;
  Index evaluations = 0;
  std::vector<float> best;
  options.compute_metrics = [&](Toy& now) {
    if (++evaluations == 2) best = trained(now);
    Json metrics;
    metrics["luck"] = evaluations == 2 ? 10 : -evaluations;
    return metrics;
  };
  const TrainOutput output =
      ToyTrainer(model, a, toy_task(), toy_examples(), toy_data(7, 6), options).train();
  EXPECT_EQ(output.best_checkpoint, folder.path / "checkpoint-4");
  EXPECT_EQ(checkpoint_steps(folder.path), (std::vector<Index>{4, 15}));
  EXPECT_EQ(trained(model), best);
}

TEST(Trainer, SkipsStepsThatAreNotFinite) {
  Toy model = toy_model(), twin = toy_model();
  std::vector<Rows> data = toy_examples();
  TrainingArguments a = toy_arguments();
  a.train_sampling_strategy = TrainSampling::sequential;
  a.max_steps = 2;
  TrainingArguments one = a;
  one.max_steps = 1;
  one.lr_scheduler_type = a.lr_scheduler_type = "constant";
  ToyTrainer(twin, one, toy_task(), data).train();
  data[7].x(0, 0) = std::numeric_limits<float>::infinity();  // in the second step
  ToyTrainer trainer(model, a, toy_task(), data);
  const TrainOutput output = trainer.train();
  EXPECT_EQ(output.global_step, 2);
  EXPECT_EQ(output.reason, StopReason::finished);
  EXPECT_EQ(trainer.state().non_finite_steps, 1);
  EXPECT_EQ(trained(model), trained(twin)) << "the second step changed nothing";
  const Json& entry = trainer.state().log_history[1];
  EXPECT_TRUE(entry["loss"].is_null());
  EXPECT_TRUE(entry["grad_norm"].is_null());
  EXPECT_EQ(entry["non_finite_steps"], 1);
}

TEST(Trainer, SkipsGradientsThatAreNotFinite) {
  Toy model = toy_model();
  const std::vector<float> before = trained(model);
  TrainingTask<Toy, Rows> task = toy_task();
  const auto loss = task.loss;
  task.loss = [loss](Toy& m, std::span<const Rows* const> batch, const BatchRequest& request) {
    const BatchLoss found = loss(m, batch, request);
    m.for_each_parameter("", [](const NamePath&, Parameter<float>& p) {
      if (p.trainable) p.grad(0, 0) = std::nanf("");
    });
    return found;
  };
  TrainingArguments a = toy_arguments();
  a.max_non_finite_steps = 4;
  const TrainOutput output = ToyTrainer(model, a, task, toy_examples()).train();
  EXPECT_EQ(output.reason, StopReason::non_finite);
  EXPECT_EQ(output.global_step, 4);
  EXPECT_EQ(trained(model), before);
}

TEST(Trainer, StopsWithTheLastGoodStateWhenNothingIsFiniteAnyMore) {
  const TemporaryFolder folder;
  Toy model = toy_model();
  std::vector<Rows> data = toy_examples();
  for (std::size_t i = 12; i < 26; ++i) data[i].x(0, 0) = std::nanf("");
  TrainingArguments a = toy_arguments(folder.path);
  a.train_sampling_strategy = TrainSampling::sequential;
  a.max_non_finite_steps = 2;
  const TrainOutput output = ToyTrainer(model, a, toy_task(), data).train();
  EXPECT_EQ(output.reason, StopReason::non_finite);
  EXPECT_EQ(output.global_step, 4);
  EXPECT_EQ(output.last_checkpoint, folder.path / "checkpoint-4");
  const auto saved = read_training_checkpoint<float>(output.last_checkpoint);
  for (const auto& [name, value] : saved.values) EXPECT_TRUE(value.allFinite()) << name;
}

TEST(Trainer, SkipsStepsWithoutLabels) {
  Toy model = toy_model();
  const std::vector<float> before = trained(model);
  std::vector<Rows> data = toy_examples();
  for (Rows& rows : data) std::fill(rows.labels.begin(), rows.labels.end(), -100);
  ToyTrainer trainer(model, toy_arguments(), toy_task(), data);
  const TrainOutput output = trainer.train();
  EXPECT_EQ(output.training_loss, 0);
  EXPECT_EQ(trainer.state().non_finite_steps, 0);
  EXPECT_EQ(trained(model), before);
}

TEST(Trainer, StopsWhenAsked) {
  const TemporaryFolder folder;
  Toy model = toy_model(0.2), whole = toy_model(0.2);
  ToyTrainer(whole, toy_arguments(), toy_task(), toy_examples()).train();
  std::atomic<bool> stop = false;
  TrainingTask<Toy, Rows> task = toy_task();
  const auto loss = task.loss;
  int calls = 0;
  task.loss = [&](Toy& m, std::span<const Rows* const> batch, const BatchRequest& request) {
    if (++calls == 11) stop = true;  // within the sixth step
    return loss(m, batch, request);
  };
  TrainingArguments a = toy_arguments(folder.path);
  TrainerOptions<Toy> options;
  options.stop = &stop;
  ToyTrainer trainer(model, a, task, toy_examples(), {}, options);
  const TrainOutput output = trainer.train();
  EXPECT_EQ(output.reason, StopReason::requested);
  EXPECT_EQ(output.last_checkpoint, folder.path / "checkpoint-6");
  stop = false;
  Toy resumed = toy_model(0.2);
  ToyTrainer again(resumed, a, task, toy_examples());
  EXPECT_EQ(again.train(again.last_checkpoint()).reason, StopReason::finished);
  EXPECT_EQ(trained(resumed), trained(whole));
}

TEST(Trainer, RefusesWhatCannotBeTrained) {
  Toy model = toy_model();
  using Data = std::vector<Rows>;
  const auto refused = [&](TrainingArguments a, TrainingTask<Toy, Rows> task, const Data& data) {
    return message_of<ConfigError>([&] { ToyTrainer(model, a, task, data); });
  };
  TrainingArguments a = toy_arguments();
  EXPECT_EQ(refused(a, toy_task(), {}), "Trainer: there are no examples to train on");
  EXPECT_EQ(refused(a, {}, toy_examples()), "Trainer: the task has no loss");
  a.learning_rate = -1;
  EXPECT_HAS(refused(a, toy_task(), toy_examples()), "learning_rate is -1");
  a = toy_arguments();
  a.eval_strategy = IntervalStrategy::epoch;
  EXPECT_EQ(refused(a, toy_task(), toy_examples()),
            "Trainer: eval_strategy asks for evaluations, but there are no examples");
  a = toy_arguments();
  a.lr_scheduler_type = "triangle";
  EXPECT_HAS(refused(a, toy_task(), toy_examples()), "\"triangle\"");
  a = toy_arguments();
  a.adam_beta2 = 1;
  EXPECT_HAS(refused(a, toy_task(), toy_examples()), "betas[1] is 1");
  EXPECT_EQ(message_of<ConfigError>(
                [&] { ToyTrainer(model, toy_arguments(), toy_task(), toy_examples()).evaluate(); }),
            "Trainer::evaluate: there are no examples to evaluate on");
  model.set_requires_grad({"default"}, false);
  EXPECT_HAS(message_of<ConfigError>(
                 [&] { ToyTrainer(model, toy_arguments(), toy_task(), toy_examples()).train(); }),
             "no tensor of the model is trainable");
}

TEST(Trainer, RefusesToLoseOrToMixRuns) {
  const TemporaryFolder folder;
  Toy model = toy_model();
  TrainingArguments a = toy_arguments(folder.path);
  ToyTrainer(model, a, toy_task(), toy_examples()).train();
  const fs::path last = folder.path / "checkpoint-15";
  const auto refused = [&](const TrainingArguments& now, const std::vector<Rows>& data,
                           const fs::path& resume) {
    Toy other = toy_model();
    const std::vector<float> before = trained(other);
    const std::string text =
        message_of<ConfigError>([&] { ToyTrainer(other, now, toy_task(), data).train(resume); });
    EXPECT_EQ(trained(other), before);
    return text;
  };
  EXPECT_HAS(refused(a, toy_examples(), {}), "has checkpoint-15 of an earlier run: continue it");
  TrainingArguments other = a;
  other.seed = 1;
  EXPECT_HAS(refused(other, toy_examples(), last),
             "checkpoint-15: is a checkpoint of another run: seed was 42 and is 1");
  other = a;
  other.gradient_accumulation_steps = 1;
  EXPECT_HAS(refused(other, toy_examples(), last), "gradient_accumulation_steps was 2 and is 1");
  EXPECT_HAS(refused(a, toy_data(27), last), "the number or the lengths of the examples differ");
  EXPECT_EQ(checkpoint_steps(folder.path), (std::vector<Index>{4, 8, 12, 15}));

  other = a;
  other.learning_rate = 2e-2;
  Toy warned = toy_model();
  const TrainOutput output = ToyTrainer(warned, other, toy_task(), toy_examples()).train(last);
  ASSERT_EQ(output.warnings.size(), 1u);
  EXPECT_EQ(output.warnings[0],
            "learning_rate was 0.01 and is 0.02: the run will differ from the interrupted one");

  other = a;
  other.overwrite_output_dir = true;
  other.max_steps = 1;
  Toy anew = toy_model();
  ToyTrainer(anew, other, toy_task(), toy_examples()).train();
  EXPECT_EQ(checkpoint_steps(folder.path), (std::vector<Index>{1}));
}

TEST(Trainer, LosesNoCheckpointBeforeItRuns) {
  const TemporaryFolder folder, elsewhere;
  const std::vector<Index> all{4, 8, 12, 15};
  Toy model = toy_model();
  TrainingArguments a = toy_arguments(folder.path);
  TrainerOptions<Toy> options;
  options.facts["base"] = "one";
  ToyTrainer(model, a, toy_task(), toy_examples(), {}, options).train();
  TrainingArguments there = a;
  there.output_dir = elsewhere.path.string();
  ToyTrainer(model, there, toy_task(), toy_examples(), {}, options).train();
  ASSERT_EQ(checkpoint_steps(folder.path), all);

  TrainingArguments overwrite = a;
  overwrite.overwrite_output_dir = true;
  ToyTrainer refused(model, overwrite, toy_task(), toy_examples(), {}, options);
  refused.add_callback(std::make_shared<EarlyStoppingCallback>(2));
  EXPECT_HAS(message_of<ConfigError>([&] { refused.train(); }), "eval_strategy is no");
  EXPECT_EQ(checkpoint_steps(folder.path), all) << "a callback refused the run";

  const fs::path other = elsewhere.path / "checkpoint-8";
  ToyTrainer mixed(model, a, toy_task(), toy_examples(), {}, options);
  EXPECT_HAS(message_of<ConfigError>([&] { mixed.train(other); }), "of an earlier run");
  EXPECT_EQ(checkpoint_steps(folder.path), all) << "the run goes on from another folder";
  ToyTrainer moved(model, overwrite, toy_task(), toy_examples(), {}, options);
  moved.train(other);
  EXPECT_EQ(checkpoint_steps(folder.path), (std::vector<Index>{12, 15}));

  options.facts["base"] = "two";
  ToyTrainer changed(model, a, toy_task(), toy_examples(), {}, options);
  EXPECT_HAS(message_of<ConfigError>([&] { changed.train(folder.path / "checkpoint-12"); }),
             "another run: base was \"one\" and is \"two\"");
}

TEST(Trainer, ARunThatEndedEarlyStaysEndedWhenItIsResumed) {
  const TemporaryFolder folder;
  TrainingArguments a = toy_arguments(folder.path);
  a.eval_strategy = a.save_strategy = IntervalStrategy::steps;
  a.eval_steps = 2;
  a.save_steps = 2;
  const auto run = [&](const fs::path& resume) {
    Toy model = toy_model();
    ToyTrainer trainer(model, a, toy_task(), toy_examples(), toy_data(7, 9));
    trainer.add_callback(std::make_shared<EarlyStoppingCallback>(2, 1e9));  // nothing is better
    const TrainOutput output = trainer.train(resume);
    EXPECT_EQ(output.reason, StopReason::callback);
    return std::pair(output.global_step, trained(model));
  };
  const auto [step, values] = run({});
  EXPECT_EQ(step, 6);
  const auto again = run(folder.path / "checkpoint-6");
  EXPECT_EQ(again.first, step);
  EXPECT_EQ(again.second, values);
}

TEST(Trainer, RefusesWhatDoesNotFitTheMemory) {
  Toy model = toy_model();
  TrainingTask<Toy, Rows> task = toy_task();
  task.activation_bytes = [](Toy&, Index rows, bool) {
    return static_cast<std::uint64_t>(rows) << 56;
  };
  ToyTrainer trainer(model, toy_arguments(), task, toy_examples());
  if (!trainer.needs().available) GTEST_SKIP() << "the system does not say what is free";
  EXPECT_HAS(message_of<ConfigError>([&] { trainer.train(); }),
             "are free. What helps: a smaller per_device_train_batch_size");
}

TEST(Trainer, TwoRunsDoNotShareAFolder) {
  const TemporaryFolder folder;
  Toy model = toy_model();
  const auto before = trained(model);
  TrainingArguments arguments = toy_arguments();
  arguments.output_dir = folder.path;
  arguments.overwrite_output_dir = true;
  ToyTrainer trainer(model, arguments, toy_task(), toy_examples());
  {
    const FolderLock other(folder.path);
    EXPECT_HAS(message_of<IoError>([&] { trainer.train(); }), "another run is writing");
    EXPECT_EQ(trained(model), before);
    EXPECT_TRUE(std::filesystem::is_empty(folder.path));
  }
  trainer.train();
  EXPECT_NO_THROW(trainer.train()) << "the folder is free after a run";
}

// What a task holds is in use: asked for again it would be counted twice.
TEST(Trainer, MemoryIsAskedForWhenTheTaskHoldsNone) {
  Toy model = toy_model();
  TrainingTask<Toy, Rows> task = toy_task();
  bool held = false;
  std::vector<bool> held_when_asked, evaluations_after_gradients;
  task.loss = [&, loss = task.loss](Toy& m, TrainingTask<Toy, Rows>::Batch batch,
                                    const BatchRequest& request) {
    if (!request.gradient) evaluations_after_gradients.push_back(held);
    held = held || request.gradient;
    return loss(m, batch, request);
  };
  task.release = [&] { held = false; };
  task.activation_bytes = [&](Toy&, Index, bool) {
    held_when_asked.push_back(held);
    return std::uint64_t{1};
  };
  ToyTrainer trainer(model, toy_arguments(), task, toy_examples(), toy_examples());
  trainer.train();
  EXPECT_TRUE(held) << "a run's last step";
  trainer.evaluate();
  EXPECT_FALSE(held);
  trainer.train();
  trainer.train();
  EXPECT_EQ(held_when_asked, std::vector<bool>(6, false)) << "twice a run";
  ASSERT_FALSE(evaluations_after_gradients.empty());
  EXPECT_EQ(evaluations_after_gradients,
            std::vector<bool>(evaluations_after_gradients.size(), false));
}

// The third checkpoint finds the disk full: those before it stay, nothing half is left, and the run
// goes on from the second when there is room again.
TEST(Trainer, AFullDiskLosesNothing) {
  const TemporaryFolder folder;
  Toy model = toy_model(0.2), whole = toy_model(0.2);
  ToyTrainer(whole, toy_arguments(), toy_task(), toy_examples()).train();
  static bool full;
  full = false;
  FileCalls calls = posix_calls();
  calls.write = [](int fd, const void* bytes, std::size_t n) -> ssize_t {
    if (!full) return ::write(fd, bytes, n);
    errno = ENOSPC;
    return -1;
  };
  struct Fill : TrainerCallback {
    void on_save(const TrainerEvent& event, const fs::path&) override {
      full = event.state.global_step == 8;
    }
  };
  const TrainingArguments a = toy_arguments(folder.path);
  ToyTrainer trainer(model, a, toy_task(), toy_examples());
  trainer.add_callback(std::make_shared<Fill>());
  const std::string text =
      message_of<IoError>([&] { with_calls(calls, [&] { trainer.train(); }); });
  EXPECT_HAS(text, "No space left on device");
  EXPECT_HAS(text, "the run ends after step 12 and can go on from " +
                       (folder.path / "checkpoint-8").string());
  EXPECT_EQ(checkpoint_steps(folder.path), (std::vector<Index>{4, 8}));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path), fs::directory_iterator()), 2);
  full = false;
  Toy resumed = toy_model(0.2);
  ToyTrainer again(resumed, a, toy_task(), toy_examples());
  again.train(again.last_checkpoint());
  EXPECT_EQ(trained(resumed), trained(whole));
}

}  // namespace trainer_test
