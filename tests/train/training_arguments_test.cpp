#include <lora/train/training_arguments.hpp>

#include <gtest/gtest.h>

#include <limits>

namespace training_arguments_test {
using namespace lora;

template <class F>
std::string message(F&& f) {
  try {
    f();
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "nothing was thrown";
}
std::string fault(const char* json) {
  TrainingArguments arguments;
  const std::string text =
      message([&] { set_from_json(arguments, parse_json(json, "test"), "file"); });
  EXPECT_EQ(arguments_json(arguments), arguments_json(TrainingArguments())) << "nothing is set";
  return text;
}
template <class T>
std::string invalid(T TrainingArguments::*field, T value) {
  TrainingArguments arguments;
  arguments.*field = value;
  return message([&] { arguments.validate(); });
}

TEST(TrainingArguments, HaveTransformersDefaults) {
  const TrainingArguments a;
  EXPECT_NO_THROW(a.validate());
  EXPECT_EQ(a.per_device_train_batch_size, 8);
  EXPECT_EQ(a.gradient_accumulation_steps, 1);
  EXPECT_EQ(a.num_train_epochs, 3);
  EXPECT_EQ(a.max_steps, -1);
  EXPECT_EQ(a.learning_rate, 5e-5);
  EXPECT_EQ(a.weight_decay, 0);
  EXPECT_EQ(a.max_grad_norm, 1);
  EXPECT_EQ(a.lr_scheduler_type, "linear");
  EXPECT_EQ(a.logging_steps, 500);
  EXPECT_EQ(a.save_steps, 500);
  EXPECT_EQ(a.eval_strategy, IntervalStrategy::no);
  EXPECT_EQ(a.seed, 42u);
}

TEST(TrainingArguments, GoThroughJson) {
  TrainingArguments a;
  a.output_dir = "out";
  a.learning_rate = 2e-4;
  a.max_steps = 7;
  a.eval_strategy = IntervalStrategy::epoch;
  a.train_sampling_strategy = TrainSampling::group_by_length;
  a.lr_scheduler_type = "cosine_with_min_lr";
  a.lr_scheduler_kwargs.min_lr_rate = 0.1;
  a.loraplus_lr_ratio = 16;
  a.save_total_limit = 2;
  a.greater_is_better = false;
  a.seed = std::numeric_limits<std::uint64_t>::max();
  TrainingArguments b;
  b.eval_steps = 3;  // null in the file
  set_from_json(b, parse_json(arguments_json(a).dump(), "test"), "file");
  EXPECT_EQ(arguments_json(b), arguments_json(a));
  EXPECT_EQ(b.lr_scheduler_kwargs.min_lr_rate, 0.1);
  EXPECT_EQ(b.seed, a.seed);
  EXPECT_FALSE(b.eval_steps);
  set_from_json(b, parse_json(R"({"max_steps":9,"learning_rate":1})", "test"), "file");
  EXPECT_EQ(b.max_steps, 9);
  EXPECT_EQ(b.learning_rate, 1);
  EXPECT_EQ(b.output_dir, "out") << "what is not named stays";
}

TEST(TrainingArguments, RefuseWhatIsNoOption) {
  EXPECT_EQ(fault("3"), "file: is number, expected an object");
  EXPECT_EQ(fault(R"({"max_steps":4,"learnig_rate":1})"),
            "file: \"learnig_rate\" is not an option of training");
  EXPECT_EQ(fault(R"({"learning_rate":"1e-4"})"),
            "file: learning_rate is \"1e-4\", expected a number");
  EXPECT_EQ(fault(R"({"max_steps":2.5})"), "file: max_steps is 2.5, expected a whole number");
  EXPECT_EQ(fault(R"({"max_steps":9223372036854775808})"),
            "file: max_steps is 9223372036854775808, expected a whole number");
  EXPECT_EQ(fault(R"({"seed":-1})"), "file: seed is -1, expected a whole number from 0 on");
  EXPECT_EQ(fault(R"({"load_best_model_at_end":1})"),
            "file: load_best_model_at_end is 1, expected true or false");
  EXPECT_EQ(fault(R"({"output_dir":1})"), "file: output_dir is 1, expected a string");
  EXPECT_EQ(fault(R"({"eval_strategy":"never"})"),
            "file: eval_strategy is \"never\", expected one of no, steps, epoch");
  EXPECT_EQ(fault(R"({"lr_scheduler_kwargs":3})"),
            "file: lr_scheduler_kwargs is 3, expected an object");
  EXPECT_EQ(fault(R"({"lr_scheduler_kwargs":{"min":3}})"),
            "file: lr_scheduler_kwargs is {\"min\":3}, expected options of schedules");
  EXPECT_EQ(fault(R"({"lr_scheduler_kwargs":{"power":"x"}})"),
            "file: lr_scheduler_kwargs: power is \"x\", expected a number");
}

TEST(TrainingArguments, RefuseWhatIsOutOfRange) {
  using A = TrainingArguments;
  for (const auto& [name, field] :
       {std::pair("per_device_train_batch_size", &A::per_device_train_batch_size),
        std::pair("per_device_eval_batch_size", &A::per_device_eval_batch_size),
        std::pair("gradient_accumulation_steps", &A::gradient_accumulation_steps),
        std::pair("logging_steps", &A::logging_steps), std::pair("save_steps", &A::save_steps),
        std::pair("max_non_finite_steps", &A::max_non_finite_steps)}) {
    EXPECT_EQ(invalid(field, Index{0}),
              "TrainingArguments: " + std::string(name) + " is 0, expected at least 1");
  }
  EXPECT_EQ(invalid(&A::eval_steps, std::optional<Index>(0)),
            "TrainingArguments: eval_steps is 0, expected at least 1");
  EXPECT_EQ(invalid(&A::save_total_limit, std::optional<Index>(0)),
            "TrainingArguments: save_total_limit is 0, expected at least 1");
  EXPECT_EQ(invalid(&A::warmup_steps, Index{-1}),
            "TrainingArguments: warmup_steps is -1, expected at least 0");
  EXPECT_NE(invalid(&A::output_dir, std::string("o\xff")).find("expected UTF-8"),
            std::string::npos);
  EXPECT_EQ(invalid(&A::learning_rate, -1.0),
            "TrainingArguments: learning_rate is -1, expected a finite number >= 0");
  EXPECT_EQ(invalid(&A::learning_rate, std::nan("")),
            "TrainingArguments: learning_rate is nan, expected a finite number >= 0");
  EXPECT_EQ(invalid(&A::weight_decay, HUGE_VAL),
            "TrainingArguments: weight_decay is inf, expected a finite number >= 0");
  EXPECT_EQ(invalid(&A::max_grad_norm, -0.5),
            "TrainingArguments: max_grad_norm is -0.5, expected a finite number >= 0");
  EXPECT_EQ(invalid(&A::warmup_ratio, 1.5),
            "TrainingArguments: warmup_ratio is 1.5, expected a number from 0 to 1");
  EXPECT_EQ(invalid(&A::num_train_epochs, -1.0),
            "TrainingArguments: num_train_epochs is -1, expected a number from 0 to 1000000");
  EXPECT_EQ(invalid(&A::loraplus_lr_ratio, std::optional<double>(0)),
            "TrainingArguments: loraplus_lr_ratio is 0, expected a finite number > 0");
  A best;
  best.load_best_model_at_end = true;
  EXPECT_EQ(message([&] { best.validate(); }),
            "TrainingArguments: load_best_model_at_end is true, expected an output_dir, and an "
            "eval_strategy that is also the save_strategy");
  best.output_dir = "out";
  best.eval_strategy = IntervalStrategy::steps;
  best.eval_steps = 3;
  EXPECT_EQ(message([&] { best.validate(); }),
            "TrainingArguments: save_steps is 500, expected a multiple of eval_steps, for "
            "load_best_model_at_end");
  best.save_steps = 6;
  EXPECT_NO_THROW(best.validate());
}

}  // namespace training_arguments_test
