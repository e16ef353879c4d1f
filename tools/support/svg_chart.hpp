// Draws several panels as one self-contained SVG, without external fonts, scripts or style sheets.
#pragma once

#include "svg_panel.hpp"

namespace tools {

struct Chart {
  std::string title, subtitle;  ///< both may be empty
  std::vector<Panel> panels;
  std::string footnote = {};  ///< small print, such as the processor a speed was measured on
  int columns = 2;            ///< panels per row
  double panel_width = 500, panel_height = 330;
};

namespace detail {

/// Chooses a style for each series of each panel. A name keeps its first style; a new name gets the
/// first style that its panel does not use.
inline std::vector<std::vector<Style>> chart_styles(const Chart& chart) {
  std::vector<std::pair<std::string, std::size_t>> known;
  std::vector<std::vector<Style>> styles;
  for (const Panel& panel : chart.panels) {
    std::vector<std::optional<std::size_t>> numbers;
    std::vector<std::size_t> used;
    const auto is_used = [&used](std::size_t n) {
      return std::find(used.begin(), used.end(), n) != used.end();
    };
    for (const Series& series : panel.series) {
      const auto found = std::find_if(known.begin(), known.end(), [&](const auto& entry) {
        return entry.first == series.name;
      });
      const bool keeps = found != known.end() && !is_used(found->second);
      numbers.push_back(keeps ? std::optional(found->second) : std::nullopt);
      if (keeps) used.push_back(found->second);
    }
    std::vector<Style>& row = styles.emplace_back();
    for (std::size_t s = 0; s < numbers.size(); ++s) {
      std::size_t number = numbers[s].value_or(0);
      if (!numbers[s]) {
        while (is_used(number)) ++number;
        used.push_back(number);
        known.emplace_back(panel.series[s].name, number);
      }
      row.push_back({number});
    }
  }
  return styles;
}

}  // namespace detail

/// Returns the chart as the text of an SVG file. The same chart gives the same bytes.
/// Throws: lora::ShapeError if a series does not have as many y as x (or categories);
///   lora::ConfigError for invalid sizes or axis ends.
inline std::string to_svg(const Chart& chart) {
  const bool sizes_fit = chart.columns >= 1 && chart.panel_width >= 160 &&
                         chart.panel_width <= 1e5 && chart.panel_height >= 140 &&
                         chart.panel_height <= 1e5;
  if (!sizes_fit) {
    throw lora::ConfigError(
        "to_svg: " + std::to_string(chart.columns) + " columns of panels of " +
        svg::number(chart.panel_width) + " x " + svg::number(chart.panel_height) +
        ", expected at least 1 column and panels of 160 x 140 to 100000 x 100000");
  }
  constexpr double margin = 24, gap = 36;
  const std::size_t columns = std::min(static_cast<std::size_t>(chart.columns),
                                       std::max<std::size_t>(chart.panels.size(), 1));
  const std::size_t rows = (chart.panels.size() + columns - 1) / columns;
  const double across = static_cast<double>(columns), down = static_cast<double>(rows);
  const double width = 2 * margin + across * chart.panel_width + (across - 1) * gap;
  const double top = margin + (chart.title.empty() ? 0 : 30) + (chart.subtitle.empty() ? 0 : 22);
  const double foot = chart.footnote.empty() ? 0 : 22;
  const double height =
      top + down * (chart.panel_height + gap) - (rows > 0 ? gap : 0) + foot + margin;

  std::string out =
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" + svg::number(width) + "\" height=\"" +
      svg::number(height) + "\" viewBox=\"0 0 " + svg::number(width) + " " + svg::number(height) +
      "\" role=\"img\" font-family=\"Helvetica, Arial, 'DejaVu Sans', sans-serif\">\n";
  out += "<title>" + svg::escape(chart.title) + "</title>\n";
  out += svg::rectangle(0, 0, width, height, "fill=\"#ffffff\"");
  if (!chart.title.empty()) {
    out += svg::text(margin, margin + 16, chart.title, {22, svg::Anchor::start, "#111111", "bold"});
  }
  if (!chart.subtitle.empty()) {
    out += svg::text(margin, top - 16, chart.subtitle, {14, svg::Anchor::start, "#555555"});
  }

  const auto styles = detail::chart_styles(chart);
  for (std::size_t p = 0; p < chart.panels.size(); ++p) {
    // Plots in one row start at the same height, below the tallest of their legends.
    int legend_rows = 0;
    for (std::size_t q = p / columns * columns;
         q < std::min((p / columns + 1) * columns, chart.panels.size()); ++q) {
      legend_rows = std::max(legend_rows,
                             detail::PanelPainter::legend_rows(chart.panels[q], chart.panel_width));
    }
    const detail::Box box{margin + static_cast<double>(p % columns) * (chart.panel_width + gap),
                          top + static_cast<double>(p / columns) * (chart.panel_height + gap),
                          chart.panel_width, chart.panel_height};
    out += detail::PanelPainter(chart.panels[p], styles[p], box, legend_rows).draw();
  }
  if (!chart.footnote.empty()) {
    out += svg::text(margin, height - margin + 8, chart.footnote,
                     {11.5, svg::Anchor::start, "#777777"});
  }
  return out + "</svg>\n";
}

}  // namespace tools
