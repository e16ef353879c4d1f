// Reports throughput over rank from the JSON of lora_linear_bench, as a table and a chart.
#pragma once

#include <lora/io/json.hpp>

#include <cmath>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "../../tools/support/svg_chart.hpp"

namespace bench {

struct Case {
  std::string what;
  double width = 0, tokens = 0, rank = 0;
  bool operator<(const Case& other) const {
    return std::tie(what, width, tokens, rank) <
           std::tie(other.what, other.width, other.tokens, other.rank);
  }
};

/// Parses "lora_linear/step/width:2048/tokens:512/rank:16/real_time". A width of two numbers,
/// 896x4864, becomes 0: such a layer has no square one to compare with.
inline Case parse_name(const std::string& name) {
  Case c;
  std::size_t begin = 0;
  for (int part = 0; begin <= name.size(); ++part) {
    const std::size_t end = std::min(name.find('/', begin), name.size());
    const std::string text = name.substr(begin, end - begin);
    const std::size_t colon = text.find(':');
    if (part == 1) c.what = text;
    if (colon != std::string::npos) {
      const std::string key = text.substr(0, colon);
      (key == "width"    ? c.width
       : key == "tokens" ? c.tokens
                         : c.rank) = lora::number_of(text.substr(colon + 1)).value_or(0);
    }
    begin = end + 1;
  }
  return c;
}

/// The machine's peak before and after the run, in GF/s; 0: unknown.
struct PeakDrift {
  double before = 0, after = 0;

  bool known() const { return before > 0 && after > 0; }
  /// after / before - 1.
  double change() const { return known() ? after / before - 1 : 0; }
  bool steady() const { return std::abs(change()) <= 0.1; }
  std::string text() const {
    if (!known()) return "peak not measured";
    const std::string sign = change() < 0 ? "-" : "+";
    return "peak " + lora::fixed_text(before, 0) + " GF/s before and " +
           lora::fixed_text(after, 0) + " after (" + sign +
           lora::fixed_text(100 * std::abs(change()), 0) + " %)";
  }
};

/// The data that rank_chart shows.
struct RankReport {
  std::map<Case, double> times;  ///< the least of each case's repetitions, in milliseconds
  std::string processor, threads;
  PeakDrift drift;

  /// Returns tokens per second, or 0 if the case was not measured.
  double speed(const std::string& what, double width, double tokens, double rank) const {
    const auto found = times.find({what, width, tokens, rank});
    return found == times.end() ? 0 : 1e3 * tokens / found->second;
  }
};

/// `peaks`: {"before": GF/s, "after": GF/s}, or null.
inline RankReport read_rank_report(const lora::Json& report, const lora::Json& peaks) {
  RankReport out;
  for (const lora::Json& run : report.at("benchmarks")) {
    if (run.value("run_type", "iteration") != "iteration" || run.value("error_occurred", false))
      continue;
    const double ms = run.at("real_time").get<double>();
    const auto [place, added] =
        out.times.emplace(parse_name(run.at("name").get<std::string>()), ms);
    if (!added) place->second = std::min(place->second, ms);
  }
  const lora::Json& context = report.at("context");
  out.processor = context.value("processor", "unknown processor");
  out.threads = context.value("threads", "?");
  if (peaks.is_object()) {
    out.drift.before = peaks.at("before").get<double>();
    out.drift.after = peaks.at("after").get<double>();
  }
  return out;
}

/// Returns a line for each size and rank: tokens per second of the LoRA layer, of the frozen layer
/// alone and of naive code, and the ratios; "-" for what was not measured.
inline std::string rank_table(const RankReport& report) {
  const auto cell = [](const std::string& text, std::size_t width) {
    return std::string(width - std::min(width, text.size()), ' ') + text;
  };
  const auto speed_text = [](double speed) {
    return speed > 0 ? lora::grouped_text(static_cast<std::uint64_t>(std::llround(speed))) : "-";
  };
  std::string text =
      "One layer, float32, forward and backward, " + report.threads +
      " threads: tokens a second\n" +
      "  width  tokens  rank         LoRA  frozen alone   naive code  LoRA/frozen  LoRA/naive\n";
  for (const auto& [c, ms] : report.times) {
    if (c.what != "forward_backward" || c.width == 0) continue;
    const double lora = 1e3 * c.tokens / ms, frozen = report.speed("frozen", c.width, c.tokens, 0),
                 naive = report.speed("naive", c.width, c.tokens, c.rank);
    text += cell(lora::fixed_text(c.width, 0), 7) + cell(lora::fixed_text(c.tokens, 0), 8) +
            cell(lora::fixed_text(c.rank, 0), 6) + cell(speed_text(lora), 13) +
            cell(speed_text(frozen), 14) + cell(speed_text(naive), 13) +
            cell(frozen > 0 ? lora::fixed_text(100 * lora / frozen, 0) + " %" : "-", 13) +
            cell(naive > 0 ? lora::fixed_text(lora / naive, 1) + "x" : "-", 12) + "\n";
  }
  text += report.processor + ", " + report.drift.text() + "\n";
  if (!report.drift.steady())
    text +=
        "The machine's speed changed by more than 10 % meanwhile: something else ran, or it got "
        "warm.\nThe cases were measured in turns, so ratios say more than speeds; measure again on "
        "a quiet machine.\n";
  return text;
}

inline tools::Panel throughput_panel(const RankReport& report, double width, double tokens) {
  constexpr const char* names[][2] = {{"forward_backward", "LoRA"},
                                      {"naive", "naive: forms W + sBA and dW"}};
  tools::Panel panel;
  panel.title = lora::fixed_text(tokens, 0) + " tokens, " + lora::fixed_text(width, 0) + " × " +
                lora::fixed_text(width, 0);
  panel.x_label = "rank r";
  panel.y_label = "tokens a second";
  panel.x_scale = tools::AxisScale::log2;
  panel.y_low = 0;
  for (const auto& [key, label] : names) {
    tools::Series series{label, {}, {}};
    for (const auto& [c, ms] : report.times) {
      if (c.what != key || c.width != width || c.tokens != tokens) continue;
      series.x.push_back(c.rank);
      series.y.push_back(1e3 * tokens / ms);
    }
    if (!series.x.empty()) panel.series.push_back(std::move(series));
  }
  const double frozen = report.speed("frozen", width, tokens, 0);
  if (frozen > 0) panel.references.push_back({frozen, "frozen layer alone"});
  return panel;
}

inline tools::Chart rank_chart(const RankReport& report) {
  tools::Chart chart;
  chart.title = "LoRA rank against throughput";
  chart.subtitle =
      "one layer, float32, forward and backward with the input's gradient; least of the "
      "repetitions";
  if (!report.drift.steady()) chart.subtitle += "; the machine's speed changed meanwhile";
  chart.footnote = report.processor + ", " + report.threads + " threads, " + report.drift.text();
  chart.columns = 3;
  std::map<std::pair<double, double>, bool> sizes;
  for (const auto& [c, ms] : report.times) {
    if (c.what == "forward_backward" && c.width > 0) sizes[{c.width, c.tokens}] = true;
  }
  for (const auto& [size, used] : sizes)
    chart.panels.push_back(throughput_panel(report, size.first, size.second));
  return chart;
}

}  // namespace bench
