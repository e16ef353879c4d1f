// Rank-stabilised LoRA: the same update with s = alpha / √r.
#pragma once

#include <lora/layers/variants/plain_lora.hpp>

#include <cmath>

namespace lora {

/// LoRA with a scale that keeps the update from shrinking as the rank grows.
/// Source: Kalajdzievski, "A rank stabilization scaling factor for fine-tuning with LoRA", 2023;
/// PEFT's use_rslora.
struct RsLoRA : PlainLoRA {
  /// s = alpha / √r.
  static double scaling(double alpha, Index r) { return alpha / std::sqrt(static_cast<double>(r)); }
};

}  // namespace lora
