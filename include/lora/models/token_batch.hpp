// The tokens of one call to a language model.
#pragma once

#include <lora/core/error.hpp>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace lora {

/// Concatenated sequences without padding: one flat list of T tokens, with activations (T, D).
/// Positions start at 0 in every sequence and attention never crosses a border. So this represents
/// the rows of a padded batch, several examples packed into a row, and a single text alike.
struct TokenBatch {
  std::span<const std::int64_t> ids;    ///< T ids
  std::span<const Index> lengths = {};  ///< sequence lengths, which sum to T; empty: one sequence

  Index rows() const { return static_cast<Index>(ids.size()); }
};

/// Writes the lengths of a batch's sequences, except those of 0, to `lengths`.
/// Throws: ShapeError for a negative length or a sum other than T.
/// Allocates: when there are more than before.
inline void list_lengths(const char* where, const TokenBatch& batch, std::vector<Index>& lengths) {
  Index left = batch.rows();
  for (std::size_t n = 0; n < batch.lengths.size(); ++n) {
    const Index length = batch.lengths[n];
    if (length < 0 || length > left) {
      throw ShapeError(std::string(where) + ": lengths[" + std::to_string(n) + "] is " +
                       std::to_string(length) + ", expected 0 to " + std::to_string(left) +
                       ", what the previous sequences leave of " + std::to_string(batch.rows()) +
                       " ids");
    }
    left -= length;
  }
  if (!batch.lengths.empty() && left != 0) {
    throw ShapeError(std::string(where) + ": lengths sum to " +
                     std::to_string(batch.rows() - left) + ", expected " +
                     std::to_string(batch.rows()) + ", the number of ids");
  }
  lengths.assign(batch.lengths.begin(), batch.lengths.end());
  if (batch.lengths.empty()) lengths.push_back(batch.rows());
  std::erase(lengths, 0);
}

}  // namespace lora
