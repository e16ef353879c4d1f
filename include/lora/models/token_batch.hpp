// The tokens of one call of a language model.
#pragma once

#include <lora/core/error.hpp>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace lora {

/// Sequences that lie end to end, without padding: one flat list of T tokens, and activations
/// (T, D). Positions start at 0 in every sequence and attention never crosses a border, so rows of
/// a padded batch, several examples packed into a row and a single text are all this.
struct TokenBatch {
  std::span<const std::int64_t> ids;    ///< T ids
  std::span<const Index> lengths = {};  ///< of the sequences, summing to T; empty: one sequence

  Index rows() const { return static_cast<Index>(ids.size()); }
};

/// The lengths of a batch's sequences to `lengths`, of which none is 0. Throws ShapeError when a
/// length is negative or they do not sum to T. Allocates when there are more than before.
inline void list_lengths(const char* where, const TokenBatch& batch, std::vector<Index>& lengths) {
  Index left = batch.rows();
  for (std::size_t n = 0; n < batch.lengths.size(); ++n) {
    const Index length = batch.lengths[n];
    if (length < 0 || length > left) {
      throw ShapeError(std::string(where) + ": lengths[" + std::to_string(n) + "] is " +
                       std::to_string(length) + ", expected 0 to " + std::to_string(left) +
                       ", what the sequences before leave of " + std::to_string(batch.rows()) +
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
