// Draws digits, so that an example runs without any data. Each digit is a few strokes, randomly
// bent, slanted, rotated, scaled, moved and inked.
#pragma once

#include "digit_set.hpp"
#include "digit_strokes.hpp"

#include <array>

namespace examples {

struct DrawnOptions {
  Index count = 6000;
  Index height = 28, width = 28;
  std::uint64_t seed = 0;
  double size = 0.72;  ///< mean height of a digit relative to the image (MNIST: 20 of 28)
  double noise = 0.1;  ///< largest absolute noise of a pixel
};

namespace detail {

/// Converts a stroke to a polyline. A curve is a Catmull-Rom spline (1974) with six steps per
/// piece.
inline std::vector<Point> polyline(const Stroke& stroke) {
  const std::vector<Point>& p = stroke.points;
  if (stroke.path == Stroke::Path::straight) return p;
  std::vector<Point> path{p.front()};
  constexpr int steps = 6;
  for (std::size_t i = 0; i + 1 < p.size(); ++i) {
    const Point &a = p[i > 0 ? i - 1 : 0], &b = p[i], &c = p[i + 1],
                &d = p[std::min(i + 2, p.size() - 1)];
    for (int k = 1; k <= steps; ++k) {
      const double t = static_cast<double>(k) / steps, t2 = t * t, t3 = t2 * t;
      const double wa = 0.5 * (-t3 + 2 * t2 - t), wb = 0.5 * (3 * t3 - 5 * t2 + 2);
      const double wc = 0.5 * (-3 * t3 + 4 * t2 + t), wd = 0.5 * (t3 - t2);
      path.push_back(
          {wa * a.x + wb * b.x + wc * c.x + wd * d.x, wa * a.y + wb * b.y + wc * c.y + wd * d.y});
    }
  }
  return path;
}

/// Inks the pixels near the segment from a to b, in pixel coordinates. The covered share of a pixel
/// is linear in its distance from the segment. Crossing strokes do not add up.
inline void draw_segment(Eigen::Map<lora::Matrix<float>>& image, Point a, Point b, double radius) {
  const double reach = radius + 0.5, dx = b.x - a.x, dy = b.y - a.y, length2 = dx * dx + dy * dy;
  const double full = std::min(1.0, 2.0 * radius);  // a pen thinner than a pixel never covers it
  const auto first = [reach](double u, double v) {
    return std::max<Index>(0, static_cast<Index>(std::ceil(std::min(u, v) - reach - 0.5)));
  };
  const auto last = [reach](double u, double v, Index n) {
    return std::min<Index>(n - 1, static_cast<Index>(std::floor(std::max(u, v) + reach - 0.5)));
  };
  for (Index i = first(a.y, b.y); i <= last(a.y, b.y, image.rows()); ++i) {
    for (Index j = first(a.x, b.x); j <= last(a.x, b.x, image.cols()); ++j) {
      const double px = static_cast<double>(j) + 0.5 - a.x, py = static_cast<double>(i) + 0.5 - a.y;
      const double t = length2 > 0 ? std::clamp((px * dx + py * dy) / length2, 0.0, 1.0) : 0.0;
      const double distance = std::hypot(px - t * dx, py - t * dy);
      const double ink = std::min(full, reach - distance);
      if (ink > image(i, j)) image(i, j) = static_cast<float>(ink);
    }
  }
}

/// One writer's hand: takes the random numbers of one image in order.
class Hand {
 public:
  explicit Hand(std::uint64_t key) : stream_(key) {}
  double between(double low, double high) { return low + (high - low) * stream_.uniform(next_++); }
  std::size_t one_of(std::size_t n) {
    return static_cast<std::size_t>(stream_.below(next_++, static_cast<Index>(n)));
  }
  /// Returns a number near 0, at most `most` away: the mean of two uniform numbers.
  double about_zero(double most) { return 0.5 * (between(-most, most) + between(-most, most)); }

 private:
  lora::RandomStream stream_;
  std::uint64_t next_ = 0;
};

/// Draws `digit` into a blank image. `key` determines every choice.
inline void draw_digit(Eigen::Map<lora::Matrix<float>> image, std::size_t digit, std::uint64_t key,
                       const DrawnOptions& options) {
  Hand hand(key);
  const std::vector<Glyph>& forms = glyphs()[digit];
  const Glyph& glyph = forms[hand.one_of(forms.size())];
  const double rows = static_cast<double>(image.rows()), cols = static_cast<double>(image.cols());
  const double tall = rows * options.size * hand.between(0.8, 1.1);
  const double wide = tall * hand.between(0.45, 0.8);
  const double slant = hand.between(-0.15, 0.35), angle = hand.about_zero(0.3);
  const double c = std::cos(angle), s = std::sin(angle);
  const Point centre{0.5 * cols + hand.about_zero(0.07 * cols),
                     0.5 * rows + hand.about_zero(0.07 * rows)};
  const double radius = rows * hand.between(0.026, 0.066), ink = hand.between(0.75, 1.0);

  for (Stroke stroke : glyph) {
    for (Point& p : stroke.points) p = {p.x + hand.about_zero(0.13), p.y + hand.about_zero(0.09)};
    std::vector<Point> path = polyline(stroke);
    for (Point& p : path) {
      const double v = (p.y - 0.5) * tall, u = (p.x - 0.5) * wide - slant * v;
      p = {centre.x + c * u + s * v, centre.y - s * u + c * v};
    }
    for (std::size_t i = 0; i + 1 < path.size(); ++i)
      draw_segment(image, path[i], path[i + 1], radius);
  }
  image *= static_cast<float>(ink);
}

/// Adds noise between -most and most with a triangular distribution, then rounds to 256 levels as a
/// scanner does. So the last bits of sin, cos and fused products do not affect the result.
inline void scan(Eigen::Map<lora::Matrix<float>> image, std::uint64_t key, double most) {
  const lora::RandomStream stream(key);
  std::array<std::uint32_t, 4> words{};
  for (Index i = 0; i < image.size(); ++i) {
    // Sixteen bits per pixel: the sum of two bytes has a triangular distribution over -1 … 1.
    if (i % 8 == 0) words = stream.block(static_cast<std::uint64_t>(i / 8));
    const std::uint32_t bits = words[static_cast<std::size_t>(i % 8 / 2)] >> (16 * (i % 2));
    const double roof = (static_cast<double>((bits & 255u) + (bits >> 8 & 255u)) - 255.0) / 255.0;
    const double value = std::clamp(static_cast<double>(image.data()[i]) + most * roof, 0.0, 1.0);
    image.data()[i] = static_cast<float>(std::floor(value * 255.0 + 0.5)) / 255.0f;
  }
}

}  // namespace detail

/// Draws `count` digits. Every ten in a row are the ten digits in random order. Image n depends
/// only on n and on the options other than count, so a longer set starts with a shorter one. Values
/// are multiples of 1/255, as in MNIST.
/// Throws: lora::ConfigError if an option is out of range.
inline DigitSet draw_digits(const DrawnOptions& options) {
  const auto check = [](bool ok, const char* field, const std::string& value,
                        const char* expected) {
    if (!ok)
      throw lora::ConfigError(std::string("draw_digits: ") + field + " is " + value +
                              ", expected " + expected);
  };
  check(options.count >= 0 && options.count <= 10'000'000, "count", std::to_string(options.count),
        "0 to 10000000");
  check(options.height >= 4 && options.height <= 1024, "height", std::to_string(options.height),
        "4 to 1024");
  check(options.width >= 4 && options.width <= 1024, "width", std::to_string(options.width),
        "4 to 1024");
  check(options.size > 0.0 && options.size <= 2.0, "size", lora::number_text(options.size),
        "more than 0, at most 2");
  check(options.noise >= 0.0 && options.noise <= 1.0, "noise", lora::number_text(options.noise),
        "0 to 1");

  DigitSet set{lora::Matrix<float>::Zero(options.count, options.height * options.width),
               {},
               options.height,
               options.width,
               "drawn digits, seed " + std::to_string(options.seed)};
  set.labels.resize(static_cast<std::size_t>(options.count));
  const std::uint64_t shapes = lora::stream_key(options.seed, "drawn digits: shapes");
  const std::uint64_t paper = lora::stream_key(options.seed, "drawn digits: paper");
  const std::uint64_t orders = lora::stream_key(options.seed, "drawn digits: order");
  std::vector<Index> ten;
  for (Index n = 0; n < options.count; ++n) {
    const auto number = static_cast<std::uint64_t>(n);
    if (n % 10 == 0) ten = shuffled_order(10, lora::mix64(orders + number));
    const Index digit = ten[static_cast<std::size_t>(n % 10)];
    set.labels[static_cast<std::size_t>(n)] = digit;
    Eigen::Map<lora::Matrix<float>> image(set.images.row(n).data(), options.height, options.width);
    detail::draw_digit(image, static_cast<std::size_t>(digit), lora::mix64(shapes + number),
                       options);
    detail::scan(image, lora::mix64(paper + number), options.noise);
  }
  return set;
}

}  // namespace examples
