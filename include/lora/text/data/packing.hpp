// Packs several examples into one row without padding; their lengths keep them apart.
#pragma once

#include <lora/core/error.hpp>
#include <lora/text/data/tokenized_example.hpp>

#include <cstdint>
#include <map>
#include <numeric>
#include <span>
#include <string>
#include <vector>

namespace lora {

/// Concatenated examples: `lengths` sum to the number of ids and of labels. A TokenBatch refers to
/// them. Positions restart in each example and attention stays within it, so the loss and gradients
/// equal those of the single examples.
struct PackedRow {
  std::vector<std::int64_t> ids, labels;
  std::vector<Index> lengths;
};

/// Joins the examples with the given indices into one row.
/// Throws: ConfigError for an invalid index.
inline PackedRow join(std::span<const TokenizedExample> examples, std::span<const Index> indices) {
  PackedRow row;
  for (const Index i : indices) {
    if (i < 0 || static_cast<std::size_t>(i) >= examples.size()) {
      throw ConfigError("join: index " + std::to_string(i) + " is none of " +
                        std::to_string(examples.size()) + " examples");
    }
    const TokenizedExample& example = examples[static_cast<std::size_t>(i)];
    row.ids.insert(row.ids.end(), example.ids.begin(), example.ids.end());
    row.labels.insert(row.labels.end(), example.labels.begin(), example.labels.end());
    row.lengths.push_back(static_cast<Index>(example.ids.size()));
  }
  return row;
}

/// Assigns examples to rows of at most `capacity` tokens: each example, the longest first, goes to
/// the row with the least room that suffices (best fit decreasing: at worst 11/9 of the fewest
/// rows, plus a few). Equal lengths keep their order; the result depends only on the lengths. Takes
/// O(n log n) time.
/// Throws: ConfigError for a length outside [1, capacity].
inline std::vector<std::vector<Index>> pack_by_length(std::span<const Index> lengths,
                                                      Index capacity) {
  std::vector<Index> order(lengths.size());
  std::iota(order.begin(), order.end(), Index{0});
  const auto length = [&](Index i) { return lengths[static_cast<std::size_t>(i)]; };
  std::stable_sort(order.begin(), order.end(),
                   [&](Index a, Index b) { return length(a) > length(b); });
  std::vector<std::vector<Index>> rows;
  std::multimap<Index, std::size_t> by_room;
  for (const Index i : order) {
    if (length(i) < 1 || length(i) > capacity) {
      throw ConfigError("pack_by_length: example " + std::to_string(i) + " has " +
                        std::to_string(length(i)) + " tokens, expected 1 to " +
                        std::to_string(capacity));
    }
    const auto fitting = by_room.lower_bound(length(i));
    Index room = capacity;
    std::size_t row = rows.size();
    if (fitting == by_room.end()) {
      rows.emplace_back();
    } else {
      room = fitting->first;
      row = fitting->second;
      by_room.erase(fitting);
    }
    rows[row].push_back(i);
    by_room.emplace(room - length(i), row);
  }
  return rows;
}

/// Packs all examples into rows of at most `capacity` tokens.
/// Throws: as pack_by_length.
inline std::vector<PackedRow> pack(std::span<const TokenizedExample> examples, Index capacity) {
  std::vector<Index> lengths;
  for (const TokenizedExample& example : examples)
    lengths.push_back(static_cast<Index>(example.ids.size()));
  std::vector<PackedRow> packed;
  for (const std::vector<Index>& row : pack_by_length(lengths, capacity))
    packed.push_back(join(examples, row));
  return packed;
}

}  // namespace lora
