// The progress of a training run: what a checkpoint holds besides the tensors.
#pragma once

#include <lora/core/error.hpp>
#include <lora/core/types.hpp>
#include <lora/io/json_fields.hpp>

#include <optional>
#include <string>
#include <type_traits>

namespace lora {

/// The TrainerState of transformers, with what exact resuming needs in addition. A plain value.
struct TrainerState {
  Index global_step = 0;  ///< steps taken, including skipped ones
  Index max_steps = 0;
  double epoch = 0;                 ///< passes over the data, with a fraction
  Index num_input_tokens_seen = 0;  ///< tokens of the training data
  Index non_finite_steps = 0;       ///< steps skipped because of a non-finite loss or gradient
  Index non_finite_in_row = 0;      ///< how many of them came last in a row
  double loss_sum = 0;              ///< sum over the steps that were not skipped
  Index loss_steps = 0;
  double unlogged_loss_sum = 0;  ///< sum over those since the last log entry
  Index unlogged_loss_steps = 0;
  std::optional<double> best_metric;
  Index best_global_step = 0;
  Json log_history = Json::array();  ///< the log entries, each an object
  Json callbacks = Json::object();   ///< the states of callbacks, by name

  bool operator==(const TrainerState&) const = default;
};

namespace detail {

/// Calls fn(name, field) for every number of a state.
template <class State, class Fn>
void for_each_state_field(State& s, Fn&& fn) {
  fn("global_step", s.global_step);
  fn("max_steps", s.max_steps);
  fn("epoch", s.epoch);
  fn("num_input_tokens_seen", s.num_input_tokens_seen);
  fn("non_finite_steps", s.non_finite_steps);
  fn("non_finite_in_row", s.non_finite_in_row);
  fn("loss_sum", s.loss_sum);
  fn("loss_steps", s.loss_steps);
  fn("unlogged_loss_sum", s.unlogged_loss_sum);
  fn("unlogged_loss_steps", s.unlogged_loss_steps);
  fn("best_global_step", s.best_global_step);
}

}  // namespace detail

/// Converts the state to JSON. Numbers survive the round trip bit for bit.
inline Json state_json(const TrainerState& state) {
  Json json = Json::object();
  detail::for_each_state_field(state,
                               [&](const char* name, const auto& field) { json[name] = field; });
  json["best_metric"] = nullptr;
  if (state.best_metric) json["best_metric"] = *state.best_metric;
  json["log_history"] = state.log_history;
  json["callbacks"] = state.callbacks;
  return json;
}

/// Reads a state from JSON and ignores other fields.
/// Throws: FormatError that names `where` and the field, if the field is missing, of the wrong
///   type, or a negative count.
inline TrainerState state_from_json(const Json& json, const std::string& where) {
  const JsonFields fields(json, where);
  TrainerState state;
  detail::for_each_state_field(state, [&](const char* name, auto& field) {
    if constexpr (std::is_same_v<std::decay_t<decltype(field)>, double>) {
      field = fields.field(name).number();
    } else {
      field = fields.integer<Index>(name, 0, Index{1} << 53);  // the run still counts up
    }
  });
  if (const JsonField best = fields.field("best_metric"); !best.value().is_null())
    state.best_metric = best.number("a number or null");
  state.log_history = fields.array("log_history");
  state.callbacks = fields.field("callbacks").object();
  return state;
}

}  // namespace lora
