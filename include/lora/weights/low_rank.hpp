// Low-rank terms: those added to a product, and those added to a weight.
#pragma once

#include <lora/core/types.hpp>

#include <span>

namespace lora {

/// A term `left · right` that a product adds to rows first_row … first_row + left.rows - 1 of its
/// result. left is (rows, R) and right is (R, columns of the result). Any scale is folded into
/// left. The caller keeps ownership of both.
template <class S>
struct LowRank {
  View<S> left, right;
  Index first_row = 0;
};

/// Whether a product may round its inputs to the type that the weight is stored in, where the
/// processor multiplies that type faster.
enum class InputRounding { allowed, forbidden };

/// The side of a weight (O, D) that a vector belongs to: its outputs or its inputs.
enum class Side { outputs, inputs };

/// One factor per output, or per input, of a weight. Empty: no scaling.
template <class S>
struct SideScale {
  std::span<const S> factors = {};
  Side side = Side::outputs;
};

/// A change `scale · left · right` of a weight (O, D): left is (O, R), right is (R, D).
template <class S>
struct LowRankDelta {
  S scale;
  View<S> left, right;
};

}  // namespace lora
