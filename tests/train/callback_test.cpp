#include <lora/train/callback.hpp>

#include <gtest/gtest.h>

#include "support/shared.hpp"
#include "train/toy.hpp"

namespace callback_test {
using namespace lora;
using namespace lora_test;

/// Notes what it is told.
struct Recorder : TrainerCallback {
  std::vector<std::string> events;
  void on_train_begin(const TrainerEvent&) override { events.push_back("begin"); }
  void on_pre_optimizer_step(const TrainerEvent&) override { events.push_back("gradient"); }
  void on_step_end(const TrainerEvent& event) override {
    events.push_back("step " + std::to_string(event.state.global_step));
  }
  void on_evaluation_step(const TrainerEvent&, Index done, Index total) override {
    events.push_back("part " + std::to_string(done) + "/" + std::to_string(total));
  }
  void on_log(const TrainerEvent&, const Json& entry) override {
    events.push_back(entry.contains("loss") ? "log" : "log evaluation");
  }
  void on_evaluate(const TrainerEvent&, const Json&) override { events.push_back("evaluate"); }
  void on_save(const TrainerEvent&, const std::filesystem::path& path) override {
    events.push_back("save " + path.filename().string());
  }
  void on_train_end(const TrainerEvent&) override { events.push_back("end"); }
};

TEST(Callback, IsToldOfEverythingInOrder) {
  const TemporaryFolder folder;
  Toy model = toy_model();
  TrainingArguments a = toy_arguments(folder.path);
  a.max_steps = 2;
  a.save_steps = 2;
  a.eval_strategy = IntervalStrategy::steps;
  a.eval_steps = 2;
  a.per_device_eval_batch_size = 3;
  ToyTrainer trainer(model, a, toy_task(), toy_examples(), toy_data(5));
  const auto recorder = std::make_shared<Recorder>();
  trainer.add_callback(recorder);
  trainer.train();
  EXPECT_EQ(recorder->events,
            (std::vector<std::string>{"begin", "gradient", "step 1", "log", "gradient", "step 2",
                                      "log", "part 1/2", "part 2/2", "log evaluation", "evaluate",
                                      "save checkpoint-2", "end"}));
}

TEST(Callback, AsksForWhatIsNotDue) {
  struct Asking : TrainerCallback {
    void on_step_end(const TrainerEvent& event) override {
      if (event.state.global_step == 3)
        event.control.should_log = event.control.should_evaluate = event.control.should_save = true;
      if (event.state.global_step == 4) event.control.should_training_stop = true;
    }
  };
  const TemporaryFolder folder;
  Toy model = toy_model();
  TrainingArguments a = toy_arguments(folder.path);
  a.logging_strategy = a.save_strategy = IntervalStrategy::no;
  ToyTrainer trainer(model, a, toy_task(), toy_examples(), toy_data(5));
  trainer.add_callback(std::make_shared<Asking>());
  const TrainOutput output = trainer.train();
  EXPECT_EQ(output.reason, StopReason::callback);
  EXPECT_EQ(output.global_step, 4);
  EXPECT_EQ(checkpoint_steps(folder.path), (std::vector<Index>{3}));
  ASSERT_EQ(trainer.state().log_history.size(), 2u);
  // The mean of the three steps since the last line.
  EXPECT_EQ(trainer.state().log_history[0]["step"], 3);
}

/// Evaluations that find these losses, one after the other.
TrainerOptions<Toy> luck(std::vector<double> values) {
  TrainerOptions<Toy> options;
  const auto next = std::make_shared<std::size_t>(0);
  options.compute_metrics = [=](Toy&) {
    Json metrics;
    const double value = values.at((*next)++);
    metrics["my_loss"] = std::isfinite(value) ? Json(value) : Json();
    return metrics;
  };
  return options;
}
TrainingArguments each_step() {
  TrainingArguments a = toy_arguments();
  a.eval_strategy = IntervalStrategy::steps;
  a.eval_steps = 1;
  a.metric_for_best_model = "my_loss";
  return a;
}

TEST(EarlyStopping, WaitsAsLongAsItIsTold) {
  const double nan = std::nan("");
  struct Row {
    std::vector<double> losses;
    Index patience;
    double threshold;
    Index steps;
  };
  for (const Row& row :
       {Row{{3, 2, 2, 1}, 1, 0, 3}, Row{{3, 2, 2, 1, 1, 1}, 2, 0, 6},
        Row{{3, 2.95, 2.9, 2.85}, 3, 0.2, 4}, Row{{3, nan, 2, nan, nan}, 2, 0, 5}}) {
    Toy model = toy_model();
    ToyTrainer trainer(model, each_step(), toy_task(), toy_examples(), toy_data(5),
                       luck(row.losses));
    trainer.add_callback(std::make_shared<EarlyStoppingCallback>(row.patience, row.threshold));
    const TrainOutput output = trainer.train();
    EXPECT_EQ(output.reason, StopReason::callback);
    EXPECT_EQ(output.global_step, row.steps);
  }
}

TEST(EarlyStopping, GoesOnWaitingAfterAResume) {
  const TemporaryFolder folder;
  TrainingArguments a = each_step();
  a.output_dir = folder.path.string();
  a.save_strategy = IntervalStrategy::steps;
  a.save_steps = 2;
  const auto run = [&](std::vector<double> losses, const std::filesystem::path& resume) {
    Toy model = toy_model();
    ToyTrainer trainer(model, a, toy_task(), toy_examples(), toy_data(5), luck(losses));
    trainer.add_callback(std::make_shared<EarlyStoppingCallback>(3));
    return trainer.train(resume).global_step;
  };
  EXPECT_EQ(run({5, 6, 7, 8}, {}), 4);
  // The checkpoint of step 2 knows the best of step 1, and that one evaluation was in vain.
  EXPECT_EQ(run({6, 7, 1}, folder.path / "checkpoint-2"), 4);
}

TEST(EarlyStopping, SaysWhatIsWrong) {
  EXPECT_HAS(message_of<ConfigError>([] { EarlyStoppingCallback(0); }), "patience is 0");
  EXPECT_HAS(message_of<ConfigError>([] { EarlyStoppingCallback(1, -1); }), "threshold is -1");
  Toy model = toy_model();
  const auto refused = [&](const TrainingArguments& a) {
    ToyTrainer trainer(model, a, toy_task(), toy_examples(), toy_data(5));
    trainer.add_callback(std::make_shared<EarlyStoppingCallback>());
    return message_of<ConfigError>([&] { trainer.train(); });
  };
  EXPECT_HAS(refused(toy_arguments()), "EarlyStoppingCallback: eval_strategy is no");
  EXPECT_HAS(refused(each_step()), "EarlyStoppingCallback: the evaluation has no \"eval_my_loss\"");
  EarlyStoppingCallback callback;
  EXPECT_HAS(message_of<FormatError>([&] { callback.load_state(Json(3)); }),
             "EarlyStoppingCallback: the state is 3, expected waited, 0 to 2^53, and best");
  for (const Json& waited : {Json(-1), Json(INT64_MAX), Json(0.5)}) {
    EXPECT_HAS(message_of<FormatError>([&] {
                 callback.load_state({{"waited", waited}, {"best", nullptr}});
               }),
               "expected waited, 0 to 2^53, and best");
  }
}

}  // namespace callback_test
