#include <lora/train/trainer_state.hpp>

#include <gtest/gtest.h>

#include <lora/io/python_json.hpp>

#include "support/messages.hpp"

namespace trainer_state_test {
using namespace lora;

TrainerState some_state() {
  TrainerState state;
  state.global_step = 7;
  state.max_steps = 40;
  state.epoch = 1.0 / 3;
  state.num_input_tokens_seen = 12345;
  state.non_finite_steps = 2;
  state.non_finite_in_row = 1;
  state.loss_sum = 0.1 + 0.2;
  state.loss_steps = 5;
  state.unlogged_loss_sum = 1e-300;
  state.unlogged_loss_steps = 1;
  state.best_metric = 2.0 / 7;
  state.best_global_step = 4;
  state.log_history.push_back({{"loss", 1.5}});
  state.callbacks["x"] = 3;
  return state;
}

TEST(TrainerState, ComesBackBitForBit) {
  for (const TrainerState& state : {some_state(), TrainerState()}) {
    const std::string text = python_json(state_json(state), "x");
    EXPECT_EQ(state_from_json(parse_json(text, "x"), "x"), state) << text;
  }
}

TEST(TrainerState, RefusesWhatIsNone) {
  const auto fault = [](const char* field, const Json& value) {
    Json json = state_json(some_state());
    if (value.is_discarded()) {
      json.erase(field);
    } else {
      json[field] = value;
    }
    try {
      state_from_json(json, "file");
    } catch (const FormatError& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  const Json absent(Json::value_t::discarded);
  EXPECT_EQ(fault("global_step", absent),
            "file: global_step is missing, expected a whole number from 0 to 9007199254740992");
  EXPECT_EQ(fault("global_step", -1),
            "file: global_step is -1, expected a whole number from 0 to 9007199254740992");
  EXPECT_EQ(fault("loss_steps", 1.5),
            "file: loss_steps is 1.5, expected a whole number from 0 to 9007199254740992");
  EXPECT_HAS(fault("non_finite_in_row", INT64_MAX),
             "non_finite_in_row is 9223372036854775807, exp");
  EXPECT_HAS(fault("num_input_tokens_seen", UINT64_MAX), "num_input_tokens_seen is 18446744073709");
  EXPECT_EQ(fault("global_step", std::int64_t{1} << 53), "accepted");
  EXPECT_EQ(fault("epoch", "1"), "file: epoch is \"1\", expected a number");
  EXPECT_EQ(fault("best_metric", "1"), "file: best_metric is \"1\", expected a number or null");
  EXPECT_EQ(fault("log_history", 3), "file: log_history is 3, expected an array");
  EXPECT_EQ(fault("callbacks", 3), "file: callbacks is 3, expected an object");
  EXPECT_THROW(state_from_json(Json(3), "file"), FormatError);
}

}  // namespace trainer_state_test
