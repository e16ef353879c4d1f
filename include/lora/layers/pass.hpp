// The settings of one forward pass.
#pragma once

#include <lora/core/types.hpp>

#include <cstdint>
#include <span>
#include <string>

namespace lora {

/// Settings of one forward pass. Give every layer the same Pass. A value.
struct Pass {
  bool training = false;   ///< applies dropout
  std::uint64_t seed = 0;  ///< of the dropout masks; change it every step
  std::uint64_t use = 0;   ///< distinguishes the uses of a layer that acts twice in a step
  Index first_row = 0;     ///< row of the batch where x starts, for a batch in parts
  /// The adapter of each row instead of the active ones; "__base__": no adapter, empty: the active
  /// ones. Inference only. A layer without a row's adapter acts as its base, and a trained copy
  /// (modules_to_save) acts on the rows of its adapter. A model refuses names that none of its
  /// layers knows; a single layer cannot.
  /// Source: PEFT's mixed batches.
  std::span<const std::string> adapter_names = {};
};

/// The name that stands for "no adapter" where one is expected.
inline constexpr const char* base_adapter_name = "__base__";

}  // namespace lora
