// A set of labelled digit images, and functions to select, split and resize it.
#pragma once

#include <lora/core/error.hpp>
#include <lora/core/number_text.hpp>
#include <lora/core/random.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace examples {

using lora::Index;

/// N images of height × width pixels, each with a label 0..9.
struct DigitSet {
  /// (N, height·width): row n is image n, top row first; 0 is paper, 1 is ink.
  lora::Matrix<float> images;
  std::vector<std::int64_t> labels;  ///< N numbers 0..9
  Index height = 0, width = 0;
  std::string source;  ///< description of the origin of the images and the changes to them

  Index size() const { return images.rows(); }
};

/// Throws lora::ShapeError unless the set has height·width pixels and one label per image.
inline void check_digits(const char* where, const DigitSet& set) {
  lora::expect_shape(where, "images", set.images, static_cast<Index>(set.labels.size()),
                     set.height * set.width);
}

/// Returns the images with these numbers, in this order.
/// Throws: lora::ShapeError if one is not in [0, N).
inline DigitSet select(const DigitSet& set, std::span<const Index> numbers) {
  check_digits("select", set);
  DigitSet part{{}, {}, set.height, set.width, set.source};
  part.images.resize(static_cast<Index>(numbers.size()), set.images.cols());
  part.labels.reserve(numbers.size());
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    if (numbers[i] < 0 || numbers[i] >= set.size()) {
      throw lora::ShapeError("select: image " + std::to_string(numbers[i]) + " of " + set.source +
                             ", expected 0 to " + std::to_string(set.size() - 1));
    }
    part.images.row(static_cast<Index>(i)) = set.images.row(numbers[i]);
    part.labels.push_back(set.labels[static_cast<std::size_t>(numbers[i])]);
  }
  return part;
}

/// Returns the first n images, or all if there are fewer.
/// Throws: lora::ConfigError if n < 0.
inline DigitSet take(const DigitSet& set, Index n) {
  if (n < 0) {
    throw lora::ConfigError("take: n is " + std::to_string(n) + ", expected at least 0");
  }
  std::vector<Index> numbers(static_cast<std::size_t>(std::min(n, set.size())));
  std::iota(numbers.begin(), numbers.end(), Index{0});
  return select(set, numbers);
}

/// Returns a uniformly random order of 0..n-1 (Fisher and Yates). The same seed gives the same
/// order on every platform.
inline std::vector<Index> shuffled_order(Index n, std::uint64_t seed) {
  std::vector<Index> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), Index{0});
  const lora::RandomStream stream(seed, "shuffled_order");
  for (Index i = n - 1; i > 0; --i) {
    const Index j = stream.below(static_cast<std::uint64_t>(i), i + 1);
    std::swap(order[static_cast<std::size_t>(i)], order[static_cast<std::size_t>(j)]);
  }
  return order;
}

struct DigitSplit {
  DigitSet train, validation;
};

/// Shuffles by `seed`, then puts round(fraction · N) images into validation and the others into
/// train. No image is in both.
/// Throws: lora::ConfigError unless fraction is in (0, 1) and leaves at least one image on each
///   side.
inline DigitSplit split(const DigitSet& set, double validation_fraction, std::uint64_t seed) {
  const bool inside = validation_fraction > 0.0 && validation_fraction < 1.0;
  const double wanted = inside ? validation_fraction * static_cast<double>(set.size()) : 0.0;
  const Index held_out = static_cast<Index>(std::lround(wanted));
  if (held_out < 1 || held_out >= set.size()) {
    throw lora::ConfigError("split: a validation fraction of " +
                            lora::number_text(validation_fraction) + " of " +
                            std::to_string(set.size()) +
                            " images leaves one side empty, expected a number between 0 and 1");
  }
  const std::vector<Index> order = shuffled_order(set.size(), seed);
  const std::span<const Index> all(order);
  const auto cut = static_cast<std::size_t>(held_out);
  return {select(set, all.subspan(cut)), select(set, all.first(cut))};
}

/// Resizes the images. Each new pixel is the mean of the area it covers, which preserves the share
/// of ink.
/// Throws: lora::ConfigError unless both sides are at least 1.
inline DigitSet resized(const DigitSet& set, Index height, Index width) {
  if (height < 1 || width < 1) {
    throw lora::ConfigError("resized: the size is " + lora::shape_text(height, width) +
                            ", expected at least (1, 1)");
  }
  check_digits("resized", set);
  // Share of old pixel j (columns) in new pixel i (rows): the overlap of two intervals.
  const auto shares = [](Index from, Index to) {
    lora::Matrix<float> share(to, from);
    const double ratio = static_cast<double>(from) / static_cast<double>(to);
    for (Index i = 0; i < to; ++i) {
      for (Index j = 0; j < from; ++j) {
        const double low = std::max(static_cast<double>(i) * ratio, static_cast<double>(j));
        const double high =
            std::min(static_cast<double>(i + 1) * ratio, static_cast<double>(j + 1));
        share(i, j) = static_cast<float>(std::max(0.0, high - low) / ratio);
      }
    }
    return share;
  };
  const lora::Matrix<float> down = shares(set.height, height),
                            across = shares(set.width, width).transpose();
  DigitSet result{{}, set.labels, height, width, set.source};
  result.images.resize(set.size(), height * width);
  for (Index n = 0; n < set.size(); ++n) {
    const Eigen::Map<const lora::Matrix<float>> from(set.images.row(n).data(), set.height,
                                                     set.width);
    Eigen::Map<lora::Matrix<float>> to(result.images.row(n).data(), height, width);
    to.noalias() = (down * from).eval() * across;
  }
  return result;
}

}  // namespace examples
