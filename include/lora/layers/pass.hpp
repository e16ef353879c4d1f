// What differs from one call of a model to the next.
#pragma once

#include <lora/core/types.hpp>

#include <cstdint>
#include <span>
#include <string>

namespace lora {

/// Settings of one forward pass; the same Pass must be given to each layer of the pass. A value.
struct Pass {
  bool training = false;   ///< dropout is applied
  std::uint64_t seed = 0;  ///< of the dropout masks: another one for each step
  std::uint64_t use =
      0;  ///< which use of a layer within the step this is, when one layer is used twice
  Index first_row = 0;  ///< the batch's row that x begins with, when a batch is given in parts
  /// The adapter of each row ("__base__" for none) instead of the active ones; inference only.
  /// Empty: the active ones. A layer without the adapter of a row is its base there, and a trained
  /// copy (modules_to_save) acts for the rows of its adapter. A model refuses names that none of
  /// its layers knows; a layer by itself cannot. Source: PEFT's mixed batches.
  std::span<const std::string> adapter_names = {};
};

/// The name that stands for "no adapter" where one is expected.
inline constexpr const char* base_adapter_name = "__base__";

}  // namespace lora
