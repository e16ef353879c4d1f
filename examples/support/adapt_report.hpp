// The report of adapt_digits: a table, two CSV files and a chart.
#pragma once

#include "../../tools/support/svg_chart.hpp"
#include "adaptation.hpp"

namespace examples {

using tools::AxisScale, tools::Chart, tools::Panel, tools::Series;

/// What the numbers were measured on.
struct Experiment {
  std::string task_a, task_b, network;
  std::uint64_t seed = 0;
  Index curve_images = 0;
};

namespace detail {

using lora::fixed_text, lora::grouped_text, lora::number_text;

/// Pads `text` to `width` bytes, aligned right; a negative width aligns left.
inline std::string padded(const std::string& text, int width) {
  const auto room = static_cast<std::size_t>(std::abs(width));
  const std::string fill(room - std::min(room, text.size()), ' ');
  return width < 0 ? text + fill : fill + text;
}

inline double percent_of(Index part, Index whole) {
  return 100.0 * static_cast<double>(part) / static_cast<double>(whole);
}

}  // namespace detail

/// Formats the outcomes as a table. The first is the network without tuning.
inline std::string results_table(const std::vector<Outcome>& outcomes) {
  const Outcome& none = outcomes.front();
  using detail::fixed_text, detail::grouped_text, detail::padded;
  std::string table =
      "                    trained parameters      task A, % right            task B, % right\n"
      "                     number    of all   before   after  disabled    before   after   "
      "ms/step     bytes\n";
  for (const Outcome& outcome : outcomes) {
    const bool tuned = !outcome.file.empty();
    const auto percent = [](double x) { return padded(fixed_text(x, 2), 6); };
    table += padded(outcome.method, -17) + "  " +
             padded(grouped_text(static_cast<std::uint64_t>(outcome.trainable)), 8) + "  " +
             percent(detail::percent_of(outcome.trainable, outcome.all)) + " %   " +
             percent(none.accuracy_a) + "  " + percent(outcome.accuracy_a) + "  " +
             padded(outcome.a_without ? fixed_text(*outcome.a_without, 2) : "-", 8) + "    " +
             percent(none.accuracy_b) + "  " + percent(outcome.accuracy_b) + "  " +
             padded(tuned ? fixed_text(outcome.milliseconds, 2) : "-", 8) + "  " +
             padded(tuned ? grouped_text(outcome.bytes) : "-", 8) + "\n";
  }
  return table;
}

inline std::string results_csv(const std::vector<Outcome>& outcomes) {
  using detail::fixed_text;
  std::string csv =
      "method,trainable,all,accuracy_a_before,accuracy_a_after,accuracy_a_adapter_disabled,"
      "accuracy_b_before,accuracy_b_after,ms_per_step,file,bytes\n";
  for (const Outcome& o : outcomes) {
    csv += o.method + "," + std::to_string(o.trainable) + "," + std::to_string(o.all) + "," +
           fixed_text(outcomes.front().accuracy_a, 4) + "," + fixed_text(o.accuracy_a, 4) + "," +
           (o.a_without ? fixed_text(*o.a_without, 4) : "") + "," +
           fixed_text(outcomes.front().accuracy_b, 4) + "," + fixed_text(o.accuracy_b, 4) + "," +
           (o.file.empty() ? "" : fixed_text(o.milliseconds, 4)) + "," +
           o.file.filename().string() + "," + (o.file.empty() ? "" : std::to_string(o.bytes)) +
           "\n";
  }
  return csv;
}

/// Formats the curves, a line per recorded step. The same seed gives the same bytes.
inline std::string metrics_csv(const std::vector<Outcome>& outcomes) {
  std::string csv = "method,step,loss,learning_rate,gradient_norm,accuracy_a,accuracy_b";
  std::size_t layers = 0;
  for (const Outcome& o : outcomes) {
    for (const CurvePoint& p : o.curve) layers = std::max(layers, p.moved.size());
  }
  for (std::size_t i = 0; i < layers; ++i) csv += ",moved_layers." + std::to_string(i);
  csv += "\n";
  const auto add = [&csv](const std::string& number) { csv.append(",").append(number); };
  for (const Outcome& o : outcomes) {
    for (const CurvePoint& p : o.curve) {
      csv += o.method;
      add(std::to_string(p.state.step));
      for (const double x : {p.state.loss, p.state.learning_rate, p.state.gradient_norm})
        add(std::isnan(x) ? "" : detail::number_text(x, 6));  // NaN before the first step
      for (const double x : {p.accuracy_a, p.accuracy_b}) add(detail::fixed_text(x, 4));
      for (const double moved : p.moved) add(detail::number_text(moved, 6));
      csv += "\n";
    }
  }
  return csv;
}

/// Returns the smallest adapter within one percentage point of the best. Those of LoRA stand
/// between "no tuning" and full fine-tuning in `outcomes`.
inline const Outcome& best_adapter(const std::vector<Outcome>& outcomes) {
  const auto first = outcomes.begin() + 1, last = outcomes.end() - 1;
  double most = 0;
  for (auto it = first; it != last; ++it) most = std::max(most, it->accuracy_b);
  auto best = last;
  for (auto it = first; it != last; ++it) {
    const bool smaller = best == last || it->trainable < best->trainable;
    if (it->accuracy_b >= most - 1.0 && smaller) best = it;
  }
  return *best;
}

namespace detail {

inline Panel empty_panel(std::string title, std::string x_label, std::string y_label) {
  Panel panel;
  panel.title = std::move(title);
  panel.x_label = std::move(x_label);
  panel.y_label = std::move(y_label);
  return panel;
}

inline constexpr const char* kRight = "% right";

template <class Value>
Panel curve_panel(const std::vector<Outcome>& outcomes, std::string title, std::string y_label,
                  Value&& value) {
  Panel panel = empty_panel(std::move(title), "step", std::move(y_label));
  for (const Outcome& o : outcomes) {
    if (o.curve.empty()) continue;
    Series series{o.method, {}, {}};
    for (const CurvePoint& p : o.curve) {
      series.x.push_back(static_cast<double>(p.state.step));
      series.y.push_back(value(p));
    }
    panel.series.push_back(std::move(series));
  }
  return panel;
}

inline Panel moved_panel(const Outcome& adapter) {
  Panel panel =
      empty_panel("How far each layer has moved, " + adapter.method, "step", "‖ΔW‖ / ‖W‖");
  panel.y_low = 0;
  for (std::size_t i = 0; i < adapter.curve.front().moved.size(); ++i) {
    Series series{"layers." + std::to_string(i), {}, {}};
    for (const CurvePoint& p : adapter.curve) {
      series.x.push_back(static_cast<double>(p.state.step));
      series.y.push_back(p.moved[i]);
    }
    panel.series.push_back(std::move(series));
  }
  return panel;
}

/// Returns the label of a method under its bars: "r = 4", "none" or "full".
inline std::string bar_name(const Outcome& outcome) {
  const std::size_t rank = outcome.method.find("r = ");
  if (rank != std::string::npos) return outcome.method.substr(rank);
  return outcome.file.empty() ? "none" : "full";
}

inline Panel cost_bars(const std::vector<Outcome>& outcomes) {
  Panel panel = empty_panel("What it costs", "", "");
  panel.y_scale = AxisScale::log10;
  Series parameters{"trained parameters", {}, {}}, bytes{"bytes of the saved file", {}, {}};
  for (const Outcome& o : outcomes) {
    if (o.file.empty()) continue;
    panel.categories.push_back(bar_name(o));
    parameters.y.push_back(static_cast<double>(o.trainable));
    bytes.y.push_back(static_cast<double>(o.bytes));
  }
  // Start at a power of ten below all bars, and leave room for the number above the highest.
  const double least = *std::min_element(parameters.y.begin(), parameters.y.end());
  panel.y_low = std::pow(10.0, std::floor(std::log10(least)));
  panel.y_high = 2.0 * *std::max_element(bytes.y.begin(), bytes.y.end());
  panel.series = {std::move(parameters), std::move(bytes)};
  return panel;
}

inline Panel accuracy_bars(const std::vector<Outcome>& outcomes) {
  Panel panel = empty_panel("At the end: learned and forgotten", "", kRight);
  panel.y_low = 0, panel.y_high = 108;  // room for the number above a full bar
  Series b{"task B", {}, {}}, a{"task A", {}, {}}, off{"task A, adapter disabled", {}, {}};
  for (const Outcome& o : outcomes) {
    panel.categories.push_back(bar_name(o));
    // Integers, so that they fit above the bars.
    b.y.push_back(std::round(o.accuracy_b));
    a.y.push_back(std::round(o.accuracy_a));
    off.y.push_back(std::round(o.a_without.value_or(std::numeric_limits<double>::quiet_NaN())));
  }
  panel.series = {std::move(b), std::move(a), std::move(off)};
  return panel;
}

}  // namespace detail

/// Draws the chart of a run as SVG.
inline std::string results_svg(const std::vector<Outcome>& outcomes, const Experiment& experiment) {
  using detail::fixed_text;
  const Outcome &none = outcomes.front(), &best = best_adapter(outcomes);
  Chart chart;
  chart.title = "A frozen network learns another task with LoRA";
  chart.subtitle = "MLP " + experiment.network + ". Task A: " + experiment.task_a +
                   ". Task B: " + experiment.task_b + ".";
  chart.columns = 3;
  chart.panel_width = 480;
  chart.panel_height = 350;
  chart.footnote = "Seed " + std::to_string(experiment.seed) +
                   ". Curves: " + std::to_string(experiment.curve_images) +
                   " of the held-out images of each task; bars: all of them. Norm of the gradient "
                   "before clipping.";
  Panel b = detail::curve_panel(outcomes, "Learned: task B while adapting", detail::kRight,
                                [](const CurvePoint& p) { return p.accuracy_b; });
  b.y_low = 0, b.y_high = 100;
  b.references = {{none.accuracy_b, "no tuning: " + fixed_text(none.accuracy_b, 1) + " %"}};
  Panel a = detail::curve_panel(outcomes, "Forgotten: task A while adapting", detail::kRight,
                                [](const CurvePoint& p) { return p.accuracy_a; });
  a.y_low = 0, a.y_high = 100;
  a.references = {{none.accuracy_a, "adapter disabled: " + fixed_text(none.accuracy_a, 1) + " %"}};
  Panel norm = detail::curve_panel(outcomes, "Norm of the gradient", "norm",
                                   [](const CurvePoint& p) { return p.state.gradient_norm; });
  norm.y_scale = AxisScale::log10;
  chart.panels = {std::move(b),
                  std::move(a),
                  detail::accuracy_bars(outcomes),
                  std::move(norm),
                  detail::moved_panel(best),
                  detail::cost_bars(outcomes)};
  return tools::to_svg(chart);
}

/// Summarizes the numbers in a few sentences.
inline std::string findings(const std::vector<Outcome>& outcomes) {
  using detail::fixed_text, detail::grouped_text;
  const Outcome &none = outcomes.front(), &best = best_adapter(outcomes), &full = outcomes.back();
  return "Task B: " + fixed_text(none.accuracy_b, 2) + " % without tuning, " +
         fixed_text(best.accuracy_b, 2) + " % with " + best.method + ", " +
         fixed_text(full.accuracy_b, 2) + " % with full fine-tuning, which trains " +
         fixed_text(static_cast<double>(full.trainable) / static_cast<double>(best.trainable), 1) +
         " times as many parameters.\nTask A: " + fixed_text(none.accuracy_a, 2) +
         " % before; full fine-tuning is left with " + fixed_text(full.accuracy_a, 2) + " %, " +
         best.method + " with " + fixed_text(best.accuracy_a, 2) +
         " % while its adapter is enabled and " + fixed_text(best.a_without.value_or(0), 2) +
         " % when it is disabled.\nAn adapter is a file of " + grouped_text(best.bytes) +
         " bytes, the fine-tuned network one of " + grouped_text(full.bytes) + ".\n";
}

}  // namespace examples
