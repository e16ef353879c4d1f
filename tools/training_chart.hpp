// Draws the curves of a training run from its log.
#pragma once

#include "support/svg_chart.hpp"

#include <lora/io/json.hpp>

#include <string>
#include <utility>
#include <vector>

namespace tools {

/// Plots training and evaluation loss, gradient norm, learning rate and speed against the step,
/// from TrainerState::log_history. Omits a field that no entry has; null leaves a gap.
inline Chart training_chart(const lora::Json& log, const std::string& title) {
  using Fields = std::vector<std::pair<const char*, const char*>>;  // name in the legend, field
  const auto add = [&](Chart& chart, const char* heading, const char* unit, const Fields& fields) {
    Panel panel;
    panel.title = heading;
    panel.x_label = "step";
    panel.y_label = unit;
    for (const auto& [name, field] : fields) {
      Series series{name, {}, {}};
      for (const lora::Json& entry : log) {
        if (!entry.contains(field)) continue;
        series.x.push_back(entry.at("step").get<double>());
        series.y.push_back(entry[field].is_number() ? entry[field].get<double>() : std::nan(""));
      }
      if (!series.x.empty()) panel.series.push_back(std::move(series));
    }
    if (!panel.series.empty()) chart.panels.push_back(std::move(panel));
  };
  Chart chart;
  chart.title = title;
  add(chart, "Loss", "nats a token", {{"training", "loss"}, {"evaluation", "eval_loss"}});
  add(chart, "Gradient before clipping", "norm", {{"gradient", "grad_norm"}});
  add(chart, "Learning rate", "", {{"learning rate", "learning_rate"}});
  add(chart, "Speed", "tokens a second", {{"speed", "tokens_per_second"}});
  return chart;
}

}  // namespace tools
