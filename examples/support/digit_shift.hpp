// The shifted task: changes digits so that a network trained on the originals must adapt.
#pragma once

#include "digit_set.hpp"

#include <charconv>
#include <numbers>
#include <string_view>

namespace examples {

/// The changes to every image, in this order. The default changes nothing.
struct Shift {
  /// Counter-clockwise about the centre, with bilinear interpolation; pixels from outside are 0.
  double rotate_degrees = 0.0;
  bool invert = false;     ///< p becomes 1 - p
  double noise = 0.0;      ///< standard deviation of normal noise; pixels are clamped to [0, 1]
  std::uint64_t seed = 0;  ///< of the noise
};

/// Describes a shift: "rotated 45°, inverted", or "unchanged".
inline std::string to_string(const Shift& shift) {
  const auto number = [](double value) {
    char text[32];
    const auto end = std::to_chars(text, text + sizeof text, value, std::chars_format::general, 6);
    return std::string(text, end.ptr);
  };
  std::string words;
  const auto add = [&words](const std::string& word) {
    words += (words.empty() ? "" : ", ") + word;
  };
  if (shift.rotate_degrees != 0.0) add("rotated " + number(shift.rotate_degrees) + "°");
  if (shift.invert) add("inverted");
  if (shift.noise != 0.0) add("noise " + number(shift.noise));
  return words.empty() ? "unchanged" : words;
}

namespace detail {
/// Returns the number in "name:number", or `otherwise` if there is no colon.
inline double shift_amount(std::string_view text, std::size_t colon, double otherwise, double low,
                           double high) {
  if (colon == std::string_view::npos) return otherwise;
  const std::string_view digits = text.substr(colon + 1);
  double value = 0.0;
  const auto result = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  const bool whole = result.ec == std::errc{} && result.ptr == digits.data() + digits.size();
  if (whole && value >= low && value <= high) return value;
  throw lora::ConfigError("parse_shift: '" + std::string(text) + "' has the amount '" +
                          std::string(digits) + "', expected a number from " +
                          std::to_string(static_cast<int>(low)) + " to " +
                          std::to_string(static_cast<int>(high)));
}
}  // namespace detail

/// Parses "none", "rotate[:degrees]" (45), "invert" and "noise[:deviation]" (0.3), several joined
/// by commas: "rotate:30,invert".
/// Throws: lora::ConfigError that names the part it does not understand.
inline Shift parse_shift(std::string_view text) {
  Shift shift;
  while (true) {
    const std::size_t comma = text.find(',');
    const std::string_view part = text.substr(0, comma);
    const std::size_t colon = part.find(':');
    const std::string_view name = part.substr(0, colon);
    const bool plain = colon == std::string_view::npos;
    if (name == "rotate") {
      shift.rotate_degrees = detail::shift_amount(part, colon, 45.0, -360.0, 360.0);
    } else if (name == "noise") {
      shift.noise = detail::shift_amount(part, colon, 0.3, 0.0, 10.0);
    } else if (name == "invert" && plain) {
      shift.invert = true;
    } else if (!(name == "none" && plain)) {
      throw lora::ConfigError("parse_shift: '" + std::string(part) +
                              "' is not a shift, expected none, rotate[:degrees], invert or "
                              "noise[:deviation], several joined by commas");
    }
    if (comma == std::string_view::npos) return shift;
    text.remove_prefix(comma + 1);
  }
}

namespace detail {
/// Rotates one image counter-clockwise. Interpolates each new pixel bilinearly at the place it
/// comes from.
inline void rotate_image(const float* from, float* to, Index height, Index width, double degrees) {
  const double angle = degrees * std::numbers::pi / 180.0, c = std::cos(angle), s = std::sin(angle);
  const double cy = 0.5 * static_cast<double>(height - 1),
               cx = 0.5 * static_cast<double>(width - 1);
  const auto pixel = [&](Index y, Index x) {
    const bool inside = y >= 0 && y < height && x >= 0 && x < width;
    return inside ? static_cast<double>(from[y * width + x]) : 0.0;
  };
  for (Index i = 0; i < height; ++i) {
    for (Index j = 0; j < width; ++j) {
      // Rows grow downwards, so this matrix undoes a counter-clockwise rotation.
      const double dy = static_cast<double>(i) - cy, dx = static_cast<double>(j) - cx;
      const double y = cy + s * dx + c * dy, x = cx + c * dx - s * dy;
      const double fy = std::floor(y), fx = std::floor(x), v = y - fy, u = x - fx;
      const Index y0 = static_cast<Index>(fy), x0 = static_cast<Index>(fx);
      const double top = (1 - u) * pixel(y0, x0) + u * pixel(y0, x0 + 1);
      const double bottom = (1 - u) * pixel(y0 + 1, x0) + u * pixel(y0 + 1, x0 + 1);
      to[i * width + j] = static_cast<float>((1 - v) * top + v * bottom);
    }
  }
}
}  // namespace detail

/// Returns a shifted copy of the set. Labels stay.
inline DigitSet shifted(const DigitSet& set, const Shift& shift) {
  check_digits("shifted", set);
  DigitSet result = set;
  result.source += " (" + to_string(shift) + ")";
  if (shift.rotate_degrees != 0.0) {
    for (Index n = 0; n < set.size(); ++n) {
      detail::rotate_image(set.images.row(n).data(), result.images.row(n).data(), set.height,
                           set.width, shift.rotate_degrees);
    }
  }
  if (shift.invert) result.images.array() = 1.0f - result.images.array();
  if (shift.noise != 0.0) {
    lora::Matrix<float> noise(set.images.rows(), set.images.cols());
    lora::fill_normal(noise, lora::RandomStream(shift.seed, "shift noise"), shift.noise);
    result.images = (result.images + noise).cwiseMax(0.0f).cwiseMin(1.0f);
  }
  return result;
}

}  // namespace examples
