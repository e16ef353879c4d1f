// The SVG charts: ticks that people like, whole and well-formed pictures of any data.
#include "../../tools/support/svg_chart.hpp"

#include <gtest/gtest.h>

#include <limits>

#include "support/comma_locale.hpp"

namespace svg_chart_test {

using namespace tools;

const double kNaN = std::numeric_limits<double>::quiet_NaN();
const double kInf = std::numeric_limits<double>::infinity();

std::vector<std::string> texts(const Axis& axis) {
  std::vector<std::string> out;
  for (const Tick& tick : axis.ticks) out.push_back(tick.text);
  return out;
}
using Texts = std::vector<std::string>;

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t n = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

/// A reader of the XML that a chart may use: every tag is closed in order, every attribute quoted.
/// Returns what is wrong, or nothing.
std::string xml_error(const std::string& xml) {
  std::vector<std::string> open;
  for (std::size_t i = 0; i < xml.size();) {
    if (xml[i] != '<') {
      if (xml[i] == '&') {
        const std::string name = xml.substr(i, xml.find(';', i) - i + 1);
        const bool known = name == "&amp;" || name == "&lt;" || name == "&gt;" || name == "&quot;";
        if (!known) return "entity " + name;
      }
      if (xml[i] == '>') return "a bare > at " + std::to_string(i);
      const unsigned char byte = static_cast<unsigned char>(xml[i]);
      if (byte < 32 && byte != '\n') return "control character at " + std::to_string(i);
      ++i;
      continue;
    }
    const std::size_t end = xml.find('>', i);
    if (end == std::string::npos) return "an open <";
    const std::string tag = xml.substr(i + 1, end - i - 1);
    if (count(tag, "\"") % 2 != 0 || tag.find('<') != std::string::npos) return "tag " + tag;
    if (tag[0] == '/') {
      if (open.empty() || open.back() != tag.substr(1)) return "closing " + tag;
      open.pop_back();
    } else if (tag.back() != '/') {
      open.push_back(tag.substr(0, tag.find(' ')));
    }
    i = end + 1;
  }
  return open.empty() ? "" : "never closed: " + open.back();
}

Chart chart_of(Panel panel) {
  Chart chart;
  chart.panels = {std::move(panel)};
  return chart;
}

Panel lines(std::vector<Series> series) {
  Panel panel;
  panel.series = std::move(series);
  return panel;
}

TEST(SvgAxis, LinearTicksAreNice) {
  const auto ticks = [](double low, double high) {
    return texts(make_axis(AxisScale::linear, low, high, AxisEnds::at_ticks, 6));
  };
  EXPECT_EQ(ticks(0, 100), (Texts{"0", "20", "40", "60", "80", "100"}));
  EXPECT_EQ(ticks(0.02, 0.31),
            (Texts{"0", "0.05", "0.10", "0.15", "0.20", "0.25", "0.30", "0.35"}));
  EXPECT_EQ(ticks(-3, 4), (Texts{"−4", "−2", "0", "2", "4"}));
  EXPECT_EQ(ticks(0, 52000), (Texts{"0", "10k", "20k", "30k", "40k", "50k", "60k"}));
  EXPECT_EQ(ticks(0, 2e6), (Texts{"0", "0.5M", "1.0M", "1.5M", "2.0M"}));
  EXPECT_EQ(ticks(0, 5e-6), (Texts{"0", "1·10⁻⁶", "2·10⁻⁶", "3·10⁻⁶", "4·10⁻⁶", "5·10⁻⁶"}));
  EXPECT_EQ(ticks(0, 0), (Texts{"0", "0.2", "0.4", "0.6", "0.8", "1.0"}));
}

TEST(SvgAxis, LogarithmicTicksAreNice) {
  const auto ticks = [](AxisScale scale, double low, double high) {
    return texts(make_axis(scale, low, high, AxisEnds::at_data, 6));
  };
  EXPECT_EQ(ticks(AxisScale::log2, 1, 256),
            (Texts{"1", "2", "4", "8", "16", "32", "64", "128", "256"}));
  EXPECT_EQ(ticks(AxisScale::log2, 0.25, 4), (Texts{"0.25", "0.5", "1", "2", "4"}));
  EXPECT_EQ(ticks(AxisScale::log10, 0.01, 1e4),
            (Texts{"0.01", "0.1", "1", "10", "100", "1000", "10k"}));
  EXPECT_EQ(ticks(AxisScale::log10, 1e-9, 1), (Texts{"10⁻⁹", "10⁻⁷", "10⁻⁵", "10⁻³", "10⁻¹"}));
  EXPECT_EQ(ticks(AxisScale::log10, 3, 60), (Texts{"5", "10", "20", "50"}));
  EXPECT_EQ(ticks(AxisScale::log10, 20, 50), (Texts{"20", "25", "30", "35", "40", "45", "50"}));
}

TEST(SvgAxis, AnyRangeGivesAFewTicksInsideIt) {
  const double huge = 1e140;
  const std::vector<std::pair<double, double>> ranges = {
      {-huge, huge},  {huge, huge}, {1e-140, 1e-140}, {1e9, 1e9 + 1e-7},
      {1, 1 + 1e-15}, {-5, -5},     {-1e-140, 0},     {1e-140, 1e140},
      {7, 8},         {-0.0, 0.0},  {123456, 123457}, {99.9, 100.1}};
  for (const AxisScale scale : {AxisScale::linear, AxisScale::log2, AxisScale::log10}) {
    for (const AxisEnds ends : {AxisEnds::at_data, AxisEnds::at_ticks}) {
      for (const auto& [low, high] : ranges) {
        if (scale != AxisScale::linear && low <= 0) continue;
        const Axis axis = make_axis(scale, low, high, ends, 6);
        EXPECT_LT(axis.low, axis.high);
        EXPECT_LE(axis.ticks.size(), 14u) << low << " " << high;
        for (const Tick& tick : axis.ticks) {
          EXPECT_LE(std::abs(axis.place(tick.value) - 0.5), 0.5 + 1e-6) << low << " " << tick.text;
        }
        EXPECT_LE(std::abs(axis.place(low) - 0.5), 0.5 + 1e-6) << low << " " << high;
        EXPECT_LE(std::abs(axis.place(high) - 0.5), 0.5 + 1e-6) << low << " " << high;
      }
    }
  }
}

TEST(SvgAxis, NumbersAreReadable) {
  EXPECT_EQ(number_text(98.1234), "98.1");
  EXPECT_EQ(number_text(0.0421), "0.0421");
  EXPECT_EQ(number_text(9440), "9440");
  EXPECT_EQ(number_text(109386), "109k");
  EXPECT_EQ(number_text(12345678), "12.3M");
  EXPECT_EQ(number_text(-2.5), "−2.5");
  EXPECT_EQ(number_text(4.12e-6), "4.1·10⁻⁶");
  EXPECT_EQ(number_text(9.99e-7), "1·10⁻⁶");
  EXPECT_EQ(number_text(0), "0");
  EXPECT_EQ(number_text(kNaN), "NaN");
  EXPECT_EQ(number_text(-kInf), "−∞");
}

TEST(SvgText, IsEscapedAndAlwaysUtf8) {
  EXPECT_EQ(svg::escape("a < b && \"c\" > d"), "a &lt; b &amp;&amp; &quot;c&quot; &gt; d");
  EXPECT_EQ(svg::escape("‖ΔW‖ 😀"), "‖ΔW‖ 😀");
  EXPECT_EQ(svg::escape(std::string_view("a\0b\x1b\n", 5)), "a?b??");
  EXPECT_EQ(svg::escape("\xC3"), "?");                                               // cut off
  EXPECT_EQ(svg::escape("\xC0\xAF"), "??");                                          // overlong
  EXPECT_EQ(svg::escape("\xE0\x80\xAF").find_first_not_of('?'), std::string::npos);  // overlong
  EXPECT_EQ(svg::escape("\xED\xA0\x80").find_first_not_of('?'), std::string::npos);  // surrogate
  EXPECT_EQ(svg::escape("\xF5\x80\x80\x80"), "????");
  EXPECT_EQ(svg::escape("\xEF\xBF\xBF").find_first_not_of('?'), std::string::npos);
}

TEST(SvgChart, IsWellFormedWhateverTheWords) {
  Chart chart;
  chart.title = chart.subtitle = chart.footnote = "</svg> & \"'<script>\x01\xFF";
  Panel panel = lines({{chart.title, {1, 2}, {3, 4}}, {"", {}, {}}});
  panel.title = panel.x_label = panel.y_label = chart.title;
  panel.references = {{3.5, chart.title}};
  Panel bars = lines({{chart.title, {}, {1, -2}}});
  bars.categories = {chart.title, "a category with a name that does not fit under its bar at all"};
  chart.panels = {panel, bars, Panel{}};
  const std::string svg = to_svg(chart);
  EXPECT_EQ(xml_error(svg), "");
  EXPECT_EQ(svg.find("<script"), std::string::npos);
  EXPECT_EQ(svg.rfind("<svg xmlns=", 0), 0u);
  EXPECT_NE(svg.find("rotate(-30"), std::string::npos);
  EXPECT_NE(svg.find("no data"), std::string::npos);
  EXPECT_EQ(svg, to_svg(chart));
}

TEST(SvgChart, WhatCannotBeShownLeavesAGap) {
  const Series series{"a", {0, 1, 2, 3, 4, 5, 6}, {1, 2, kNaN, 4, kInf, 6, 7}};
  const std::string svg = to_svg(chart_of(lines({series})));
  EXPECT_EQ(count(svg, "<polyline"), 2u);     // 0-1 and 5-6; 3 stands alone
  EXPECT_EQ(count(svg, "<circle"), 5u + 1u);  // and one in the legend
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  EXPECT_EQ(svg.find("inf"), std::string::npos);
  EXPECT_EQ(svg.find("no data"), std::string::npos);

  Panel panel = lines({{"", {0, 1, 2}, {-1, 0, kNaN}}});
  panel.y_scale = AxisScale::log10;
  EXPECT_NE(to_svg(chart_of(panel)).find("no data"), std::string::npos);
}

TEST(SvgChart, LongCurvesAreThinnedAndCarryFewMarks) {
  Series series{"a", {}, {}};
  for (int i = 0; i < 100000; ++i) {
    series.x.push_back(i);
    series.y.push_back(std::sin(i * 1e-4));
  }
  series.y[50000] = kNaN;
  const std::string svg = to_svg(chart_of(lines({series})));
  EXPECT_LE(svg.size(), 60000u);
  EXPECT_EQ(count(svg, "<polyline"), 2u);
  EXPECT_LE(count(svg, "<circle"), 9u);
  EXPECT_GE(count(svg, "<circle"), 6u);
}

TEST(SvgChart, ANameKeepsItsColourAndNoTwoShareOneInAPanel) {
  Chart chart;
  const auto named = [](std::vector<std::string> names) {
    Panel panel;
    for (std::string& name : names) panel.series.push_back({std::move(name), {1}, {1}});
    return panel;
  };
  chart.panels = {named({"r = 1", "r = 2", "full"}), named({"fc1", "fc2"}),
                  named({"fc2", "full", "r = 2", "x"}), named({"same", "same"})};
  for (int i = 0; i < 16; ++i) chart.panels[0].series.push_back({std::to_string(i), {1}, {1}});
  const auto styles = detail::chart_styles(chart);
  EXPECT_EQ(styles[0][0].number, 0u);
  EXPECT_EQ(styles[0][2].number, 2u);
  EXPECT_EQ(styles[1][0].number, 0u);
  EXPECT_EQ(styles[2][1].number, 2u);  // full keeps its colour
  EXPECT_EQ(styles[2][0].number, 1u);  // so does fc2
  for (const auto& row : styles) {
    for (std::size_t i = 0; i < row.size(); ++i) {
      for (std::size_t j = 0; j < i; ++j) EXPECT_NE(row[i].number, row[j].number);
    }
  }
  EXPECT_EQ(std::string(styles[0][7].colour()), styles[0][0].colour());
  EXPECT_NE(std::string(styles[0][7].dash()), styles[0][0].dash());
}

TEST(SvgChart, BarsStandOnZeroAndCarryTheirNumbers) {
  Panel panel = lines({{"new", {}, {41.6, 97.4}}, {"old", {}, {98.1, kNaN}}});
  panel.categories = {"before", "after"};
  panel.y_high = 100;
  const std::string svg = to_svg(chart_of(panel));
  for (const char* number : {">41.6<", ">97.4<", ">98.1<", ">0<", ">100<"}) {
    EXPECT_EQ(count(svg, number), 1u) << number;
  }
  EXPECT_EQ(count(svg, "<rect"), 1u + 2u + 3u);  // paper, legend, bars
}

TEST(SvgChart, GivenEndsAreKeptEvenWhenAllDataLieBeyond) {
  Panel panel = lines({{"a", {1, 2}, {5, 6}}});
  panel.y_low = 50;
  EXPECT_EQ(xml_error(to_svg(chart_of(panel))), "");
  panel.y_scale = AxisScale::log10;
  EXPECT_EQ(xml_error(to_svg(chart_of(panel))), "");
  panel.y_low.reset();
  panel.y_high = 0.5;
  EXPECT_EQ(xml_error(to_svg(chart_of(panel))), "");
  panel.y_scale = AxisScale::linear;
  EXPECT_NE(to_svg(chart_of(panel)).find(">0.4<"), std::string::npos);
}

TEST(SvgChart, ADecimalCommaInTheLocaleChangesNothing) {
  const Chart chart = chart_of(lines({{"a", {0.5, 1.25}, {0.1, 0.7}}}));
  const std::string before = to_svg(chart);
  const lora_test::CommaLocale comma;
  EXPECT_EQ(before, to_svg(chart)) << comma.in_c();
}

template <class E>
std::string error_of(const Chart& chart) {
  try {
    to_svg(chart);
  } catch (const E& error) {
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

TEST(SvgChart, ErrorsNamePanelAndSeries) {
  Panel panel = lines({{"loss", {1, 2, 3}, {1, 2}}});
  panel.title = "Curves";
  EXPECT_EQ(error_of<lora::ShapeError>(chart_of(panel)),
            "to_svg: series 'loss' of panel 'Curves' has 2 y, expected 3, one for each x");
  panel.categories = {"one"};
  EXPECT_NE(error_of<lora::ShapeError>(chart_of(panel)).find("expected 1, one for each category"),
            std::string::npos);
  Panel ends = lines({});
  ends.title = "Ends";
  ends.y_low = 2;
  ends.y_high = 2;
  EXPECT_NE(error_of<lora::ConfigError>(chart_of(ends)).find("panel 'Ends' has y_low 2 and"),
            std::string::npos);
  ends.y_low = kNaN;
  EXPECT_NE(error_of<lora::ConfigError>(chart_of(ends)).find("at nan, expected a finite number"),
            std::string::npos);
  ends.y_low = 0;
  ends.y_scale = AxisScale::log10;
  EXPECT_NE(error_of<lora::ConfigError>(chart_of(ends)).find("a finite number above 0"),
            std::string::npos);
  Chart chart;
  chart.columns = 0;
  EXPECT_NE(error_of<lora::ConfigError>(chart).find("to_svg: 0 columns of panels of 500 x 330"),
            std::string::npos);
  chart.columns = 1;
  chart.panel_width = kNaN;
  EXPECT_NE(error_of<lora::ConfigError>(chart).find("expected at least 1 column"),
            std::string::npos);
}

}  // namespace svg_chart_test
