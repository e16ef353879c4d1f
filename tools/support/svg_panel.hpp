// One panel of a chart: its content, and the painter that draws it into a box.
#pragma once

#include "svg_axis.hpp"
#include "svg_text.hpp"

#include <lora/core/error.hpp>
#include <lora/core/number_text.hpp>

#include <array>
#include <limits>
#include <optional>

namespace tools {

/// One line of a panel, with a point for each x and y, or one colour of its bars, with a y for each
/// category and no x.
struct Series {
  std::string name;  ///< in the legend; the same name has the same colour in all panels of a chart
  std::vector<double> x, y;
};

/// A dashed horizontal line to compare with, such as a peak or the accuracy without tuning.
struct Reference {
  double y = 0;
  std::string label;
};

/// A value that is NaN, infinite, or not above 0 on a logarithmic axis leaves a gap in its line.
struct Panel {
  std::string title, x_label, y_label;
  std::vector<Series> series;
  std::vector<std::string> categories;  ///< not empty: bars, one group per category
  AxisScale x_scale = AxisScale::linear, y_scale = AxisScale::linear;
  std::optional<double> y_low = {},
                        y_high = {};  ///< ends of the y axis; otherwise ticks around the data
  std::vector<Reference> references = {};
};

namespace detail {

struct Box {
  double x = 0, y = 0, width = 0, height = 0;
};

/// Okabe and Ito's colours (2008), which any colour vision can distinguish, without yellow, which
/// is faint on white.
inline constexpr std::array<const char*, 7> kColours = {"#0072B2", "#D55E00", "#009E73", "#CC79A7",
                                                        "#E69F00", "#56B4E9", "#555555"};

/// The style of the n-th name of a chart: solid colours first, then the same colours dashed. Marks
/// differ too.
struct Style {
  std::size_t number = 0;
  const char* colour() const { return kColours[number % kColours.size()]; }
  const char* dash() const {
    static constexpr std::array<const char*, 3> dashes = {"", "7 4", "2 3"};
    return dashes[number / kColours.size() % dashes.size()];
  }
  std::string mark(double x, double y) const {
    const std::string paint =
        std::string("fill=\"") + colour() + "\" stroke=\"#ffffff\" stroke-width=\"1\"";
    const auto at = [&](double dx, double dy) {
      return svg::number(x + dx) + "," + svg::number(y + dy) + " ";
    };
    if (number % 4 == 0) {
      return "<circle cx=\"" + svg::number(x) + "\" cy=\"" + svg::number(y) + "\" r=\"4\" " +
             paint + "/>\n";
    }
    if (number % 4 == 1) return svg::rectangle(x - 3.5, y - 3.5, 7, 7, paint);
    const std::string points = number % 4 == 2 ? at(0, -4.6) + at(4.4, 3.4) + at(-4.4, 3.4)
                                               : at(0, -5) + at(5, 0) + at(0, 5) + at(-5, 0);
    return "<polygon points=\"" + points + "\" " + paint + "/>\n";
  }
};

/// Draws one panel.
class PanelPainter {
 public:
  PanelPainter(const Panel& panel, std::vector<Style> styles, Box box, int legend_rows)
      : panel_(panel), styles_(std::move(styles)), box_(box) {
    check();
    make_axes();
    const double top = box.y + 26 + kLegendRow * legend_rows + 10;
    double tick_width = 0;
    for (const Tick& tick : y_.ticks)
      tick_width = std::max(tick_width, svg::text_width(tick.text, 12));
    const double left = box.x + (panel.y_label.empty() ? 6 : 26) + tick_width + 8;
    plot_ = {left, top, box.x + box.width - 14 - left, 0};
    double bottom = panel.x_label.empty() ? 26 : 46;
    if (bars() && widest_category() > slot() - 6) {
      turned_ = true;
      bottom += std::min(0.5 * widest_category(), 90.0);
    }
    plot_.height = box.y + box.height - bottom - top;
  }

  std::string draw() const {
    std::string out = "<g>\n" + svg::text(box_.x, box_.y + 16, panel_.title,
                                          {16, svg::Anchor::start, "#111111", "bold"});
    out += legend() + axes();
    const bool empty = !any_point_;
    if (empty) {
      out += svg::text(plot_.x + plot_.width / 2, plot_.y + plot_.height / 2, "no data",
                       {14, svg::Anchor::middle, "#888888"});
    }
    // An inner <svg> clips what lies outside y_low and y_high; the margin keeps marks on the border
    // whole.
    const double m = 6;
    out += "<svg x=\"" + svg::number(plot_.x - m) + "\" y=\"" + svg::number(plot_.y - m) +
           "\" width=\"" + svg::number(plot_.width + 2 * m) + "\" height=\"" +
           svg::number(plot_.height + 2 * m) + "\" viewBox=\"" + svg::number(plot_.x - m) + " " +
           svg::number(plot_.y - m) + " " + svg::number(plot_.width + 2 * m) + " " +
           svg::number(plot_.height + 2 * m) + "\" overflow=\"hidden\">\n";
    if (bars()) {
      out += all_bars();
    } else {
      for (std::size_t s = 0; s < panel_.series.size(); ++s) out += curve(s);
    }
    return out + "</svg>\n" + references() + "</g>\n";
  }

  /// Rows that the legend takes; 0 if there is nothing to distinguish.
  static int legend_rows(const Panel& panel, double width) {
    if (panel.series.size() < 2 && (panel.series.empty() || panel.series[0].name.empty())) return 0;
    double x = 0;
    int rows = 1;
    for (const Series& series : panel.series) {
      const double entry = legend_entry(series);
      if (x > 0 && x + entry > width) x = 0, ++rows;
      x += entry;
    }
    return rows;
  }

 private:
  static constexpr double kLegendRow = 20;
  static double legend_entry(const Series& series) {
    return 30 + svg::text_width(series.name, 12.5) + 14;
  }

  bool bars() const { return !panel_.categories.empty(); }
  double slot() const { return plot_.width / static_cast<double>(panel_.categories.size()); }
  double widest_category() const {
    double widest = 0;
    for (const std::string& name : panel_.categories)
      widest = std::max(widest, svg::text_width(name, 12));
    return widest;
  }

  void check() const {
    for (const Series& series : panel_.series) {
      const std::size_t expected = bars() ? panel_.categories.size() : series.x.size();
      if (series.y.size() == expected) continue;
      throw lora::ShapeError("to_svg: series '" + series.name + "' of panel '" + panel_.title +
                             "' has " + std::to_string(series.y.size()) + " y, expected " +
                             std::to_string(expected) +
                             (bars() ? ", one for each category" : ", one for each x"));
    }
    for (const std::optional<double>& end : {panel_.y_low, panel_.y_high}) {
      if (end && !Axis::can_show(panel_.y_scale, *end)) {
        throw lora::ConfigError("to_svg: panel '" + panel_.title +
                                "' has an end of the y axis at " + lora::number_text(*end) +
                                ", expected a finite number" +
                                (panel_.y_scale == AxisScale::linear ? "" : " above 0"));
      }
    }
    if (panel_.y_low && panel_.y_high && !(*panel_.y_low < *panel_.y_high)) {
      throw lora::ConfigError("to_svg: panel '" + panel_.title + "' has y_low " +
                              lora::number_text(*panel_.y_low) + " and y_high " +
                              lora::number_text(*panel_.y_high) + ", expected low below high");
    }
  }

  bool can_show(const Series& series, std::size_t i) const {
    return Axis::can_show(panel_.y_scale, series.y[i]) &&
           (bars() || Axis::can_show(panel_.x_scale, series.x[i]));
  }

  void make_axes() {
    const double none = std::numeric_limits<double>::infinity();
    double x_low = none, x_high = -none, y_low = none, y_high = -none;
    for (const Series& series : panel_.series) {
      for (std::size_t i = 0; i < series.y.size(); ++i) {
        if (!can_show(series, i)) continue;
        any_point_ = true;
        y_low = std::min(y_low, series.y[i]), y_high = std::max(y_high, series.y[i]);
        if (!bars()) x_low = std::min(x_low, series.x[i]), x_high = std::max(x_high, series.x[i]);
      }
    }
    for (const Reference& level : panel_.references) {
      if (!Axis::can_show(panel_.y_scale, level.y)) continue;
      y_low = std::min(y_low, level.y), y_high = std::max(y_high, level.y);
    }
    const bool linear = panel_.y_scale == AxisScale::linear;
    if (y_low > y_high) y_low = linear ? 0 : 1, y_high = linear ? 1 : 10;
    if (x_low > x_high) x_low = 1, x_high = 10;
    if (bars() && linear) y_low = std::min(y_low, 0.0), y_high = std::max(y_high, 0.0);
    if (bars() && linear) y_high += 0.04 * (y_high - y_low);  // room for the number on top
    x_ = make_axis(panel_.x_scale, x_low, x_high, AxisEnds::at_data, 7);
    const bool given = panel_.y_low || panel_.y_high;
    y_low = panel_.y_low.value_or(y_low), y_high = panel_.y_high.value_or(y_high);
    if (given && !(y_low < y_high)) {  // one end is given, and all the data lie beyond it
      const double span = linear ? std::max(1.0, std::abs(panel_.y_low ? y_low : y_high)) : 10.0;
      if (panel_.y_low) y_high = linear ? y_low + span : y_low * span;
      if (panel_.y_high) y_low = linear ? y_high - span : y_high / span;
    }
    y_ =
        make_axis(panel_.y_scale, y_low, y_high, given ? AxisEnds::at_data : AxisEnds::at_ticks, 6);
  }

  double px(double x) const { return plot_.x + x_.place(x) * plot_.width; }
  double py(double y) const { return plot_.y + (1 - y_.place(y)) * plot_.height; }

  std::string legend() const {
    if (legend_rows(panel_, box_.width) == 0) return "";
    std::string out;
    double x = box_.x, y = box_.y + 26 + kLegendRow / 2;
    for (std::size_t s = 0; s < panel_.series.size(); ++s) {
      const double entry = legend_entry(panel_.series[s]);
      if (x > box_.x && x + entry > box_.x + box_.width) x = box_.x, y += kLegendRow;
      if (bars()) {
        out += svg::rectangle(x + 6, y - 6, 12, 12, paint(s));
      } else {
        out += svg::line(x, y, x + 24, y, pen(s)) + styles_[s].mark(x + 12, y);
      }
      out += svg::text(x + 30, y + 4.5, panel_.series[s].name, {12.5});
      x += entry;
    }
    return out;
  }

  std::string paint(std::size_t s) const {
    const bool again = styles_[s].number >= kColours.size();
    return std::string("fill=\"") + styles_[s].colour() + "\"" +
           (again ? " fill-opacity=\"0.5\"" : "");
  }
  std::string pen(std::size_t s) const {
    std::string out = std::string("stroke=\"") + styles_[s].colour() + "\" stroke-width=\"2.2\"";
    if (*styles_[s].dash() != 0)
      out += std::string(" stroke-dasharray=\"") + styles_[s].dash() + "\"";
    return out;
  }

  std::string axes() const {
    const double right = plot_.x + plot_.width, bottom = plot_.y + plot_.height;
    std::string out;
    for (const Tick& tick : y_.ticks) {
      out += svg::line(plot_.x, py(tick.value), right, py(tick.value),
                       "stroke=\"#e3e3e3\" stroke-width=\"1\"");
      out +=
          svg::text(plot_.x - 8, py(tick.value) + 4, tick.text, {12, svg::Anchor::end, "#555555"});
    }
    const double base =
        bars() && y_.scale == AxisScale::linear ? py(std::clamp(0.0, y_.low, y_.high)) : bottom;
    out += svg::line(plot_.x, base, right, base, "stroke=\"#777777\" stroke-width=\"1.2\"");
    if (bars()) {
      out += category_names();
    } else {
      for (const Tick& tick : x_.ticks) {
        const double x = px(tick.value);
        out += svg::line(x, bottom, x, bottom + 5, "stroke=\"#777777\" stroke-width=\"1.2\"");
        out += svg::text(x, bottom + 19, tick.text, {12, svg::Anchor::middle, "#555555"});
      }
    }
    out += svg::text(plot_.x + plot_.width / 2, box_.y + box_.height - 6, panel_.x_label,
                     {13, svg::Anchor::middle});
    const double middle = plot_.y + plot_.height / 2;
    return out + svg::text(box_.x + 14, middle, panel_.y_label,
                           {13, svg::Anchor::middle, "#333333", "normal", -90});
  }

  std::string category_names() const {
    std::string out;
    const double y = plot_.y + plot_.height;
    for (std::size_t c = 0; c < panel_.categories.size(); ++c) {
      const double x = plot_.x + (static_cast<double>(c) + 0.5) * slot();
      out += turned_ ? svg::text(x + 6, y + 16, panel_.categories[c],
                                 {12, svg::Anchor::end, "#333333", "normal", -30})
                     : svg::text(x, y + 18, panel_.categories[c], {12, svg::Anchor::middle});
    }
    return out;
  }

  std::string curve(std::size_t s) const {
    const Series& series = panel_.series[s];
    const std::string begin =
        "<polyline fill=\"none\" stroke-linejoin=\"round\" stroke-linecap=\"round\" " + pen(s) +
        " points=\"";
    const std::size_t count = series.y.size();
    std::string lines, marks, points;
    std::size_t in_piece = 0;
    double last_x = 0, last_y = 0;
    // A long curve has a few marks, at different positions from its neighbours', for readers who
    // cannot distinguish the colours.
    const std::size_t stride = count <= kMostMarks ? 1 : (count + 6) / 7;
    const std::size_t first_mark =
        count <= kMostMarks ? 0 : stride * (1 + styles_[s].number % 5) / 6;
    const auto end_piece = [&] {
      // A point between two gaps has no line, so it needs a mark.
      if (in_piece == 1 && stride > 1) marks += styles_[s].mark(last_x, last_y);
      if (in_piece > 1) lines += begin + points + "\"/>\n";
      points.clear(), in_piece = 0;
    };
    for (std::size_t i = 0; i < count; ++i) {
      if (!can_show(series, i)) {
        end_piece();
        continue;
      }
      const double x = px(series.x[i]), y = py(series.y[i]);
      if (i % stride == first_mark) marks += styles_[s].mark(x, y);
      // Skip points that the eye cannot distinguish.
      if (in_piece > 0 && i + 1 < count && std::hypot(x - last_x, y - last_y) < 0.3) continue;
      points += svg::number(x) + "," + svg::number(y) + " ";
      last_x = x, last_y = y, ++in_piece;
    }
    end_piece();
    return lines + marks;
  }

  std::string all_bars() const {
    const double width =
        0.78 * slot() / static_cast<double>(std::max<std::size_t>(panel_.series.size(), 1));
    const double zero = y_.scale == AxisScale::linear ? std::clamp(0.0, y_.low, y_.high) : y_.low;
    std::string out;
    for (std::size_t s = 0; s < panel_.series.size(); ++s) {
      for (std::size_t c = 0; c < panel_.categories.size(); ++c) {
        if (!can_show(panel_.series[s], c)) continue;
        const double value = panel_.series[s].y[c];
        const double x =
            plot_.x + (static_cast<double>(c) + 0.11) * slot() + static_cast<double>(s) * width;
        const double top = std::min(py(value), py(zero)), bottom = std::max(py(value), py(zero));
        out += svg::rectangle(x + 0.5, top, std::max(width - 1, 0.5), bottom - top, paint(s));
        const std::string words = number_text(value);
        if (svg::text_width(words, 10.5) > width + 4) continue;
        const double below = value < zero ? bottom + 12 : std::max(top - 4, plot_.y + 4);
        out += svg::text(x + width / 2, below, words, {10.5, svg::Anchor::middle, "#333333"});
      }
    }
    return out;
  }

  std::string references() const {
    std::string out;
    for (const Reference& level : panel_.references) {
      const bool shown =
          Axis::can_show(panel_.y_scale, level.y) && level.y >= y_.low && level.y <= y_.high;
      if (!shown) continue;
      const double y = py(level.y), right = plot_.x + plot_.width;
      out += svg::line(plot_.x, y, right, y,
                       "stroke=\"#333333\" stroke-width=\"1.3\" stroke-dasharray=\"5 4\"");
      const double above = y - plot_.y > 16 ? y - 5 : y + 14;
      out += svg::text(right, above, level.label,
                       {11.5, svg::Anchor::end, "#333333", "normal", 0, svg::Halo::yes});
    }
    return out;
  }

  static constexpr std::size_t kMostMarks = 30;
  const Panel& panel_;
  std::vector<Style> styles_;
  Box box_, plot_;
  Axis x_, y_;
  bool any_point_ = false, turned_ = false;
};

}  // namespace detail
}  // namespace tools
