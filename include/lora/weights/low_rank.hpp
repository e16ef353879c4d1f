// Low-rank terms that ride along with a product, and low-rank changes of a weight.
#pragma once

#include <lora/core/types.hpp>

#include <span>

namespace lora {

/// The term `left · right` that a product adds to rows first_row … first_row + left.rows - 1 of its
/// result. left (rows, R), right (R, result's columns); a scale is folded into left. Both stay
/// owned by the caller.
template <class S>
struct LowRank {
  View<S> left, right;
  Index first_row = 0;
};

/// Whether a product may round its inputs to the type that the weight is stored in, where the
/// processor multiplies that type faster.
enum class InputRounding { allowed, forbidden };

/// A side of a weight (O, D): its outputs or its inputs.
enum class Side { outputs, inputs };

/// A factor for each output, or for each input, of a weight; empty: no scaling.
template <class S>
struct SideScale {
  std::span<const S> factors = {};
  Side side = Side::outputs;
};

/// The change `scale · left · right` of a weight in its (out, in) orientation: left (O, R),
/// right (R, D).
template <class S>
struct LowRankDelta {
  S scale;
  View<S> left, right;
};

}  // namespace lora
