// Computes the order of a pass over the data from only a seed and the number of the pass.
#pragma once

#include <lora/core/random.hpp>
#include <lora/train/data_order.hpp>
#include <lora/train/training_arguments.hpp>

#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

namespace lora {

/// The parameters of a pass over the data.
struct EpochOrder {
  TrainSampling sampling = TrainSampling::random;
  std::uint64_t seed = 0;
  Index batch_size = 1;  ///< used by group_by_length: examples of similar length in a row
};

/// Returns the order of the examples in pass `epoch` (from 0), with each of 0 … lengths.size()-1
/// once; see random_order and length_grouped_order. The same arguments give the same order on every
/// machine. O(n log n).
/// Source: RandomSampler and LengthGroupedSampler of transformers.
inline std::vector<Index> epoch_order(const EpochOrder& data, const std::vector<Index>& lengths,
                                      Index epoch) {
  const auto n = static_cast<Index>(lengths.size());
  const RandomStream stream(data.seed, "epoch." + std::to_string(epoch));
  if (data.sampling == TrainSampling::random) return random_order(n, stream);
  if (data.sampling == TrainSampling::group_by_length)
    return length_grouped_order(lengths, data.batch_size, stream);
  std::vector<Index> order(lengths.size());
  std::iota(order.begin(), order.end(), Index{0});
  return order;
}

}  // namespace lora
