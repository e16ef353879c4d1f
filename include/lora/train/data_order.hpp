// The order of examples and the choice of validation examples: determined by the seed, equal on
// every machine.
#pragma once

#include <lora/core/error.hpp>
#include <lora/core/printable.hpp>
#include <lora/core/random.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace lora {

/// Returns a random permutation of 0 … n-1 (Fisher-Yates). All are equally likely except for the
/// bias of RandomStream::below.
inline std::vector<Index> random_order(Index n, const RandomStream& stream) {
  std::vector<Index> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), Index{0});
  for (Index i = n - 1; i > 0; --i) {
    std::swap(order[static_cast<std::size_t>(i)],
              order[static_cast<std::size_t>(stream.below(static_cast<std::uint64_t>(i), i + 1))]);
  }
  return order;
}

/// The indices of training and validation examples, both ascending.
struct DataSplit {
  std::vector<Index> training, validation;
};

/// Chooses `validation` of n examples for validation, by the seed.
/// Throws: ConfigError unless at least one example is left for training.
inline DataSplit split_by_seed(Index n, Index validation, std::uint64_t seed) {
  if (validation < 0 || validation >= n) {
    throw ConfigError("split_by_seed: " + std::to_string(validation) + " of " + std::to_string(n) +
                      " examples for validation leave none for training, expected 0 to " +
                      std::to_string(std::max<Index>(n - 1, 0)));
  }
  const std::vector<Index> order = random_order(n, RandomStream(seed, "validation"));
  DataSplit split;
  split.validation.assign(order.begin(), order.begin() + validation);
  split.training.assign(order.begin() + validation, order.end());
  std::sort(split.validation.begin(), split.validation.end());
  std::sort(split.training.begin(), split.training.end());
  return split;
}

/// Returns ⌈n · share⌉.
/// Throws: ConfigError unless 0 ≤ share < 1.
inline Index share_of(Index n, double share) {
  if (!(share >= 0 && share < 1)) {
    throw ConfigError("share_of: the share is " + number_text(share) +
                      ", expected 0 up to below 1");
  }
  return static_cast<Index>(std::ceil(static_cast<double>(n) * share));
}

/// Returns a random order that groups examples of similar length: shuffles, cuts the order into
/// ranges of min(n / (4 · batch), 50) batches, and sorts each range by length, longest first. The
/// longest example of all comes first, so that memory runs out at once or never.
/// Throws: ConfigError unless batch ≥ 1.
/// Source: get_length_grouped_indices of transformers.
inline std::vector<Index> length_grouped_order(std::span<const Index> lengths, Index batch,
                                               const RandomStream& stream) {
  if (batch < 1) {
    throw ConfigError("length_grouped_order: the batch has " + std::to_string(batch) +
                      " examples, expected at least 1");
  }
  const auto n = static_cast<Index>(lengths.size());
  const auto length = [&](Index i) { return lengths[static_cast<std::size_t>(i)]; };
  const Index stretch = std::max<Index>(std::min<Index>(n / batch / 4, 50), 1) * batch;
  std::vector<Index> order = random_order(n, stream);
  for (Index from = 0; from < n; from += stretch) {
    std::stable_sort(order.begin() + from, order.begin() + std::min(from + stretch, n),
                     [&](Index a, Index b) { return length(a) > length(b); });
  }
  Index longest = 0;  // is the first of its range
  for (Index from = 0; from < n; from += stretch) {
    if (length(order[static_cast<std::size_t>(from)]) >
        length(order[static_cast<std::size_t>(longest)]))
      longest = from;
  }
  if (n > 0) std::swap(order[0], order[static_cast<std::size_t>(longest)]);
  return order;
}

}  // namespace lora
