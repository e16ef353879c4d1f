// Writes the SVG elements of a chart: escaped text, short numbers, lines and rectangles.
#pragma once

#include <charconv>
#include <cmath>
#include <string>
#include <string_view>

namespace tools::svg {

/// Escapes text for use between tags or in an attribute. Replaces control characters and bytes that
/// are not UTF-8, which XML forbids, by '?'.
inline std::string escape(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size();) {
    const unsigned char lead = static_cast<unsigned char>(text[i]);
    const std::size_t length = lead < 0x80       ? 1
                               : lead >> 5 == 6  ? 2
                               : lead >> 4 == 14 ? 3
                               : lead >> 3 == 30 ? 4
                                                 : 0;
    bool good =
        length > 0 && i + length <= text.size() && lead != 0xC0 && lead != 0xC1 && lead < 0xF5;
    for (std::size_t k = 1; good && k < length; ++k) {
      good = (static_cast<unsigned char>(text[i + k]) & 0xC0) == 0x80;
    }
    const unsigned char next = good && length > 1 ? static_cast<unsigned char>(text[i + 1]) : 0;
    const bool overlong = (lead == 0xE0 && next < 0xA0) || (lead == 0xF0 && next < 0x90);
    const bool surrogate_or_beyond =
        (lead == 0xED && next >= 0xA0) || (lead == 0xF4 && next >= 0x90);
    const std::string_view piece = text.substr(i, good ? length : 1);
    const bool noncharacter = piece == "\xEF\xBF\xBE" || piece == "\xEF\xBF\xBF";
    if (!good || overlong || surrogate_or_beyond || noncharacter || lead < 32 || lead == 127) {
      out += '?';
    } else if (lead == '&') {
      out += "&amp;";
    } else if (lead == '<') {
      out += "&lt;";
    } else if (lead == '>') {
      out += "&gt;";
    } else if (lead == '"') {
      out += "&quot;";
    } else {
      out += piece;
    }
    i += good ? length : 1;
  }
  return out;
}

/// Formats a coordinate or length with at most two decimals, independent of the locale.
inline std::string number(double value) {
  char text[64];
  const double rounded = std::round(value * 100.0) / 100.0;
  const auto end = std::to_chars(text, text + sizeof text, rounded == 0 ? 0.0 : rounded);
  return std::string(text, end.ptr);
}

/// Estimates the width of a line of text. Fonts differ, so this errs on the wide side.
inline double text_width(std::string_view text, double size) {
  double characters = 0;
  for (const char ch : text) characters += (ch & 0xC0) != 0x80 ? 1.0 : 0.0;
  return 0.6 * size * characters;
}

enum class Anchor { start, middle, end };

/// Whether letters get a white outline, so they stay readable across lines.
enum class Halo { no, yes };

struct TextStyle {
  double size = 12;
  Anchor anchor = Anchor::start;
  const char* colour = "#333333";
  const char* weight = "normal";
  double turn = 0;  ///< degrees, clockwise
  Halo halo = Halo::no;
};

inline std::string text(double x, double y, std::string_view words, const TextStyle& style) {
  static constexpr const char* anchors[] = {"start", "middle", "end"};
  std::string out = "<text x=\"" + number(x) + "\" y=\"" + number(y) + "\" font-size=\"" +
                    number(style.size) + "\" text-anchor=\"" +
                    anchors[static_cast<int>(style.anchor)] + "\" fill=\"" + style.colour + "\"";
  if (std::string_view(style.weight) != "normal")
    out += std::string(" font-weight=\"") + style.weight + "\"";
  if (style.halo == Halo::yes)
    out += " stroke=\"#ffffff\" stroke-width=\"3\" paint-order=\"stroke\"";
  if (style.turn != 0) {
    out += " transform=\"rotate(" + number(style.turn) + " " + number(x) + " " + number(y) + ")\"";
  }
  return out + ">" + escape(words) + "</text>\n";
}

inline std::string line(double x1, double y1, double x2, double y2, std::string_view attributes) {
  return "<line x1=\"" + number(x1) + "\" y1=\"" + number(y1) + "\" x2=\"" + number(x2) +
         "\" y2=\"" + number(y2) + "\" " + std::string(attributes) + "/>\n";
}

inline std::string rectangle(double x, double y, double width, double height,
                             std::string_view attributes) {
  return "<rect x=\"" + number(x) + "\" y=\"" + number(y) + "\" width=\"" + number(width) +
         "\" height=\"" + number(height) + "\" " + std::string(attributes) + "/>\n";
}

}  // namespace tools::svg
