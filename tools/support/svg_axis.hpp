// Axes of a chart: map values to positions, and place ticks at round numbers.
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

namespace tools {

enum class AxisScale { linear, log2, log10 };

struct Tick {
  double value = 0;
  std::string text;
};

/// A range of values along a line. low is below high, and above 0 on a logarithmic axis.
struct Axis {
  AxisScale scale = AxisScale::linear;
  double low = 0, high = 1;
  std::vector<Tick> ticks = {};

  /// The position of a value: 0 at low, 1 at high, and clamped to [-4, 5] for values outside.
  double place(double value) const {
    const auto f = [this](double v) { return scale == AxisScale::linear ? v : std::log2(v); };
    return std::clamp((f(value) - f(low)) / (f(high) - f(low)), -4.0, 5.0);
  }
  /// Whether the axis can show the value: finite, not absurdly large, and above 0 on a logarithmic
  /// axis.
  static bool can_show(AxisScale scale, double value) {
    return std::abs(value) <= 1e140 && (scale == AxisScale::linear || value >= 1e-140);
  }
};

namespace detail {

/// Formats in fixed point, independent of the locale, with a typographic minus.
inline std::string fixed(double value, int decimals) {
  char text[400];
  const auto end =
      std::to_chars(text, text + sizeof text, std::abs(value), std::chars_format::fixed, decimals);
  std::string out(text, end.ptr);
  const bool nothing = out.find_first_not_of("0.") == std::string::npos;
  return (value < 0 && !nothing ? "−" : "") + out;
}

inline std::string without_trailing_zeros(std::string text) {
  if (text.find('.') == std::string::npos) return text;
  text.erase(text.find_last_not_of('0') + 1);
  if (text.back() == '.') text.pop_back();
  return text;
}

inline std::string superscript(int exponent) {
  static constexpr const char* digits[] = {"⁰", "¹", "²", "³", "⁴", "⁵", "⁶", "⁷", "⁸", "⁹"};
  std::string out = exponent < 0 ? "⁻" : "";
  for (const char ch : std::to_string(std::abs(exponent))) out += digits[ch - '0'];
  return out;
}

/// The unit for numbers of this size: 1000, 10^6 or 10^9 and its letter; 1 below ten thousand.
inline std::pair<double, const char*> unit_of(double largest) {
  if (largest >= 1e9) return {1e9, "G"};
  if (largest >= 1e6) return {1e6, "M"};
  if (largest >= 1e4) return {1e3, "k"};
  return {1.0, ""};
}

/// Returns 1, 2 or 5 times a power of ten, such that `range` has at most `most` such steps.
inline double nice_step(double range, int most) {
  const double rough = range / most, power = std::pow(10.0, std::floor(std::log10(rough)));
  for (const double m : {1.0, 2.0, 5.0}) {
    if (m * power >= rough * (1 - 1e-9)) return m * power;
  }
  return 10.0 * power;
}

/// Returns multiples of the step in [low, high], all with the same unit and number of decimals.
inline std::vector<Tick> linear_ticks(double low, double high, double step) {
  std::vector<Tick> ticks;
  const double slack = 1e-9 * (high - low), largest = std::max(std::abs(low), std::abs(high));
  const double first = std::ceil((low - slack) / step);
  const bool tiny = largest < 1e-3, huge = largest >= 1e12;
  const int exponent = static_cast<int>(std::floor(std::log10(largest) + 1e-9));
  const double unit = tiny || huge ? std::pow(10.0, exponent) : unit_of(largest).first;
  const std::string suffix = tiny || huge ? "·10" + superscript(exponent) : unit_of(largest).second;
  const int decimals =
      std::clamp(static_cast<int>(-std::floor(std::log10(step / unit) + 1e-9)), 0, 12);
  for (int i = 0; i < 50; ++i) {
    const double value = (first + i) * step;
    if (value > high + slack) break;
    const bool zero = std::abs(value) < 0.5 * step;
    ticks.push_back({zero ? 0.0 : value, zero ? "0" : fixed(value / unit, decimals) + suffix});
  }
  return ticks;
}

/// Returns powers of the base in [low, high]: all of them, or every n-th.
inline std::vector<Tick> power_ticks(double low, double high, int base, int most) {
  const double f = std::log2(static_cast<double>(base));
  const int first = static_cast<int>(std::ceil(std::log2(low) / f - 1e-9));
  const int last = static_cast<int>(std::floor(std::log2(high) / f + 1e-9));
  const int stride = std::max(1, (last - first + most) / std::max(most, 1));
  const bool plain = base == 2 ? first >= -3 && last <= 19 : first >= -3 && last <= 5;
  std::vector<Tick> ticks;
  for (int e = first; e <= last; e += stride) {
    const double value = std::pow(static_cast<double>(base), e);
    const auto [unit, letter] =
        base == 10 ? unit_of(value) : std::pair<double, const char*>{1.0, ""};
    ticks.push_back(
        {value, plain ? without_trailing_zeros(fixed(value / unit, std::max(0, -e))) + letter
                      : std::to_string(base) + superscript(e)});
  }
  return ticks;
}

/// Returns 1, 2 and 5 times powers of ten, for a logarithmic axis of less than two decades.
inline std::vector<Tick> one_two_five_ticks(double low, double high) {
  std::vector<Tick> ticks;
  for (int e = static_cast<int>(std::floor(std::log10(low))); std::pow(10.0, e) <= high; ++e) {
    for (const double m : {1.0, 2.0, 5.0}) {
      const double value = m * std::pow(10.0, e);
      if (value < low * (1 - 1e-9) || value > high * (1 + 1e-9)) continue;
      const auto [unit, letter] = unit_of(value);
      ticks.push_back(
          {value, e < -3 ? fixed(m, 0) + "·10" + superscript(e)
                         : without_trailing_zeros(fixed(value / unit, std::max(0, -e))) + letter});
    }
  }
  return ticks;
}

}  // namespace detail

/// Formats a number for a label with up to three significant digits: "98.1", "0.042", "12.3k",
/// "4.1·10⁻⁶".
inline std::string number_text(double value) {
  if (!std::isfinite(value)) return std::isnan(value) ? "NaN" : value > 0 ? "∞" : "−∞";
  if (value == 0) return "0";
  const double size = std::abs(value);
  if (size < 1e-3 || size >= 1e12) {
    int exponent = static_cast<int>(std::floor(std::log10(size)));
    double mantissa = value / std::pow(10.0, exponent);
    if (std::abs(mantissa) >= 9.95) mantissa /= 10.0, ++exponent;
    return detail::without_trailing_zeros(detail::fixed(mantissa, 1)) + "·10" +
           detail::superscript(exponent);
  }
  const auto [unit, letter] = detail::unit_of(size);
  const int whole = static_cast<int>(std::floor(std::log10(size / unit)));
  return detail::without_trailing_zeros(detail::fixed(value / unit, std::clamp(2 - whole, 0, 5))) +
         letter;
}

/// Whether an axis ends at the data or at the next tick beyond it.
enum class AxisEnds { at_data, at_ticks };

/// Makes an axis for low … high, spread apart if they are equal, with at most about `most` ticks.
inline Axis make_axis(AxisScale scale, double low, double high, AxisEnds ends, int most) {
  Axis axis{scale, low, high};
  if (scale == AxisScale::linear) {
    const double least = std::max(std::abs(low), std::abs(high)) * 1e-9;
    if (!(high - low > least)) {
      const double spread = std::max({0.1 * std::abs(low), 10.0 * least, 1e-140});
      axis.low = low == 0 ? 0.0 : low - spread, axis.high = low == 0 ? 1.0 : high + spread;
    }
    const double step = detail::nice_step(axis.high - axis.low, most);
    if (ends == AxisEnds::at_ticks) {
      axis.low = std::floor(axis.low / step + 1e-9) * step;
      axis.high = std::ceil(axis.high / step - 1e-9) * step;
    }
    axis.ticks = detail::linear_ticks(axis.low, axis.high, step);
    return axis;
  }
  if (!(high > low * 1.0001)) axis.low = low / 2, axis.high = high * 2;
  if (ends == AxisEnds::at_ticks) {
    const double margin = std::pow(axis.high / axis.low, 0.04);
    axis.low /= margin, axis.high *= margin;
  }
  const double decades = std::log10(axis.high) - std::log10(axis.low);
  if (scale == AxisScale::log2 && decades > 0.6) {
    axis.ticks = detail::power_ticks(axis.low, axis.high, 2, std::max(most, 10));
  } else if (decades >= 2.0) {
    axis.ticks = detail::power_ticks(axis.low, axis.high, 10, std::max(most, 8));
  } else if (decades >= 0.8) {
    axis.ticks = detail::one_two_five_ticks(axis.low, axis.high);
  } else {
    axis.ticks =
        detail::linear_ticks(axis.low, axis.high, detail::nice_step(axis.high - axis.low, most));
  }
  return axis;
}

}  // namespace tools
