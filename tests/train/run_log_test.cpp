#include <lora/train/run_log.hpp>

#include <gtest/gtest.h>

#include <cmath>

namespace run_log_test {
using namespace lora;

StepRecord step(double loss, double grad_norm = 1, Index labels = 2) {
  return {.loss = loss,
          .grad_norm = grad_norm,
          .learning_rate = 0.5,
          .labels = labels,
          .tokens = 8,
          .seconds = 2};
}

TEST(RunLog, CountsWhatStepsDid) {
  RunLog log;
  TrainerState state;
  log.add(step(3), state);
  log.add(step(std::nan("")), state);
  log.add(step(1, INFINITY), state);
  EXPECT_EQ(state.non_finite_in_row, 2);
  log.add(step(0, 0, 0), state);  // no label counts: finite, and not taken
  EXPECT_EQ(state.non_finite_in_row, 0);
  EXPECT_EQ(state.non_finite_steps, 2);
  EXPECT_EQ(state.loss_sum, 3);
  EXPECT_EQ(state.loss_steps, 1);
  EXPECT_EQ(state.num_input_tokens_seen, 32);
  EXPECT_EQ(state.global_step, 0) << "the caller's";
}

TEST(RunLog, ALineTellsOfTheStepsSinceTheOneBefore) {
  RunLog log;
  TrainerState state;
  log.add(step(3), state);
  log.add(step(5, 7), state);
  state.global_step = 2;
  const Json first = log.next_line(state);
  EXPECT_EQ(first, parse_json(R"({"step":2,"epoch":0.0,"loss":4.0,"grad_norm":7.0,
                                  "learning_rate":0.5,"tokens_per_second":4.0})",
                              "test"));
  EXPECT_EQ(state.log_history, Json::array({first}));
  log.add(step(std::nan(""), std::nan("")), state);
  const Json second = log.next_line(state);
  EXPECT_TRUE(second["loss"].is_null());
  EXPECT_TRUE(second["grad_norm"].is_null());
  EXPECT_EQ(second["tokens_per_second"], 4);
  EXPECT_EQ(second["non_finite_steps"], 1);
  EXPECT_EQ(state.loss_sum, 8);
}

TEST(RunLog, ALineWithoutStepsHasNoSpeed) {
  TrainerState state;
  EXPECT_TRUE(RunLog().next_line(state)["tokens_per_second"].is_null());
}

}  // namespace run_log_test
