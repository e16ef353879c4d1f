#include <lora/train/live_line.hpp>

#include <gtest/gtest.h>

#include <sstream>

#include "support/comma_locale.hpp"
#include "train/toy.hpp"

namespace live_line_test {
using namespace lora;
using namespace lora_test;

struct Line {
  TrainingArguments arguments;
  TrainerState state;
  TrainerControl control;
  double time = 0;
  std::ostringstream out;
  LiveLine line;
  TrainerEvent event{arguments, state, control};

  explicit Line(LineMode mode) : line(out, mode, [this] { return time; }) {
    state.max_steps = 40;
    line.on_train_begin(event);
    time = 20;
    state.global_step = 10;
    state.epoch = 1.25;
  }
};
const Json entry = parse_json(
    R"({"loss":2.31049,"grad_norm":0.531,"learning_rate":0.00019,"tokens_per_second":1234.4})",
    "x");

TEST(LiveLine, SaysHowFarARunIs) {
  Line one(LineMode::append);
  one.line.on_log(one.event, entry);
  EXPECT_EQ(one.out.str(),
            "step 10/40  epoch 1.25  loss 2.3105  norm 0.53  lr 1.9e-04  1234 tok/s  left 1:00\n");
  one.out.str("");
  one.state.non_finite_steps = 2;
  one.line.on_evaluation_step(one.event, 1, 2);
  one.line.on_log(one.event, parse_json(R"({"eval_loss":1.5})", "x"));
  EXPECT_EQ(one.out.str(),
            "step 10/40  epoch 1.25  loss 2.3105  norm 0.53  lr 1.9e-04  1234 tok/s  left 1:00  "
            "eval 1.5000  skipped 2\n");
  Json skipped = entry;
  skipped["loss"] = skipped["grad_norm"] = nullptr;
  one.out.str("");
  one.line.on_log(one.event, skipped);
  EXPECT_HAS(one.out.str(), "loss ?  norm ?");
}

// A line above says it; on a terminal there is none above.
TEST(LiveLine, SaysAnEvaluationOnceInAFile) {
  for (const LineMode mode : {LineMode::append, LineMode::rewrite}) {
    Line one(mode);
    one.line.on_log(one.event, parse_json(R"({"eval_loss":1.5})", "x"));
    EXPECT_HAS(one.out.str(), "eval 1.5000");
    one.out.str("");
    one.line.on_log(one.event, entry);
    EXPECT_EQ(one.out.str().find("eval") != std::string::npos, mode == LineMode::rewrite);
  }
}

TEST(LiveLine, DoesNotDependOnTheLocale) {
  const CommaLocale comma;
  Line one(LineMode::append);
  one.state.global_step = 1000;
  one.state.max_steps = 1234;
  one.line.on_log(one.event, entry);
  EXPECT_HAS(one.out.str(), "step 1000/1234  epoch 1.25  loss 2.3105  norm 0.53  lr 1.9e-04");
}

TEST(LiveLine, TakesItsOwnPlaceOnATerminal) {
  Line one(LineMode::rewrite);
  one.line.on_evaluation_step(one.event, 1, 20);
  one.line.on_evaluation_step(one.event, 2, 2);
  one.line.on_train_end(one.event);
  EXPECT_EQ(one.out.str(), "\revaluation 1/20\revaluation 2/2 \n");
}

TEST(LiveLine, FollowsARun) {
  std::ostringstream out;
  Toy model = toy_model();
  ToyTrainer trainer(model, toy_arguments(), toy_task(), toy_examples());
  trainer.add_callback(std::make_shared<LiveLine>(out));
  trainer.train();
  EXPECT_HAS(out.str(), "step 15/15  epoch 3.00  loss ");
  EXPECT_HAS(out.str(), "left 0:00");
}

}  // namespace live_line_test
