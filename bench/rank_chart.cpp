// Draws rank against throughput from the JSON of lora_linear_bench, and prints what the adapter
// costs on top of the frozen layer.
//   rank_chart results/lora_linear.json results/rank.svg
#include <lora/io/file.hpp>
#include <lora/io/json.hpp>

#include <cstdio>
#include <map>
#include <tuple>

#include "../examples/support/output_path.hpp"
#include "../examples/support/svg_chart.hpp"

namespace {

struct Case {
  std::string what;
  double width = 0, tokens = 0, rank = 0;
  bool operator<(const Case& other) const {
    return std::tie(what, width, tokens, rank) <
           std::tie(other.what, other.width, other.tokens, other.rank);
  }
};

/// "lora_linear/step/width:2048/tokens:512/rank:16/real_time".
Case parse_name(const std::string& name) {
  Case c;
  std::size_t begin = 0;
  for (int part = 0; begin <= name.size(); ++part) {
    const std::size_t end = std::min(name.find('/', begin), name.size());
    const std::string text = name.substr(begin, end - begin);
    const std::size_t colon = text.find(':');
    if (part == 1) c.what = text;
    if (colon != std::string::npos) {
      const double value = std::strtod(text.c_str() + colon + 1, nullptr);
      const std::string key = text.substr(0, colon);
      (key == "width" ? c.width : key == "tokens" ? c.tokens : c.rank) = value;
    }
    begin = end + 1;
  }
  return c;
}

/// The least time of each case in milliseconds.
std::map<Case, double> least_times(const lora::Json& report) {
  std::map<Case, double> times;
  for (const lora::Json& run : report.at("benchmarks")) {
    if (run.value("run_type", "iteration") != "iteration") continue;
    const auto [place, added] = times.emplace(parse_name(run.at("name").get<std::string>()),
                                              run.at("real_time").get<double>());
    if (!added) place->second = std::min(place->second, run.at("real_time").get<double>());
  }
  return times;
}

std::string whole(double value) { return std::to_string(static_cast<long>(value)); }

examples::Panel throughput_panel(const std::map<Case, double>& times, double width, double tokens) {
  std::map<std::string, examples::Series> lines;
  const char* names[][2] = {{"forward_backward", "LoRA"}, {"naive", "naive: forms W + sBA and dW"}};
  double frozen = 0;
  for (const auto& [c, ms] : times) {
    if (c.width != width || c.tokens != tokens) continue;
    if (c.what == "frozen") frozen = 1e3 * tokens / ms;
    for (const auto& [key, label] : names) {
      if (c.what != key) continue;
      lines[label].name = label;
      lines[label].x.push_back(c.rank);
      lines[label].y.push_back(1e3 * tokens / ms);
    }
  }
  examples::Panel panel;
  panel.title = whole(tokens) + " tokens, " + whole(width) + " × " + whole(width);
  panel.x_label = "rank r";
  panel.y_label = "tokens a second";
  panel.x_scale = examples::AxisScale::log2;
  panel.y_low = 0;
  for (const auto& [key, label] : names) {
    if (lines.count(label) != 0) panel.series.push_back(lines[label]);
  }
  if (frozen > 0) panel.references.push_back({frozen, "frozen layer alone"});
  return panel;
}

/// What the adapter adds to the frozen layer's time, against its share of the flops,
/// 1.5 r (D + O) / (D O).
void print_cost(const std::map<Case, double>& times) {
  std::printf("%8s %8s %6s %14s %12s %12s %8s\n", "width", "tokens", "rank", "LoRA ms", "frozen ms",
              "adds", "of flops");
  for (const auto& [c, ms] : times) {
    if (c.what != "forward_backward") continue;
    const auto frozen = times.find({"frozen", c.width, c.tokens, 0});
    if (frozen == times.end()) continue;
    const double adds = ms / frozen->second - 1, share = 3 * c.rank / c.width;
    std::printf("%8.0f %8.0f %6.0f %14.3f %12.3f %11.1f%% %7.2fx\n", c.width, c.tokens, c.rank, ms,
                frozen->second, 100 * adds, adds / share);
  }
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 3) {
    std::fprintf(stderr, "usage: rank_chart REPORT.json CHART.svg\n");
    return 2;
  }
  examples::refuse_input_as_output({argv[2]}, {argv[1]});
  const std::vector<std::byte> bytes = lora::read_file(argv[1], std::uint64_t{1} << 28);
  const lora::Json report = lora::parse_json(lora::as_text(bytes), argv[1]);
  const auto times = least_times(report);
  print_cost(times);
  const lora::Json& context = report.at("context");
  examples::Chart chart;
  chart.title = "LoRA rank against throughput";
  chart.subtitle =
      "one layer, float32, forward and backward with the input's gradient; least of the "
      "repetitions";
  chart.footnote = context.value("processor", "") + ", " + context.value("threads", "?") +
                   " threads, measured peak " +
                   whole(std::strtod(context.value("peak_gflops", "0").c_str(), nullptr)) + " GF/s";
  std::map<std::pair<double, double>, bool> panels;
  for (const auto& [c, ms] : times) {
    if (c.what == "forward_backward") panels[{c.width, c.tokens}] = true;
  }
  for (const auto& [size, used] : panels)
    chart.panels.push_back(throughput_panel(times, size.first, size.second));
  chart.columns = 3;
  lora::atomic_write(argv[2], examples::to_svg(chart));
  std::printf("chart: %s\n", argv[2]);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "rank_chart: %s\n", error.what());
  return 1;
}
