// A layer's frozen weight as a map from inputs to outputs, for variants that inspect it.
#pragma once

#include <lora/weights/frozen_weight.hpp>

#include <vector>

namespace lora {

enum class LayerKind { linear, convolution, embedding };

/// The frozen weight of a layer, independent of its orientation. A linear layer's (O, D) and a
/// convolution's (O, C·kh·kw) map columns to rows; an embedding's table (V, D) maps V inputs to D
/// outputs. Refers to the weight.
template <class S>
struct BaseMap {
  const FrozenWeight<S>& weight;
  LayerKind kind = LayerKind::linear;

  bool table() const { return kind == LayerKind::embedding; }
  Index outputs() const { return table() ? weight.cols() : weight.rows(); }
  /// The shape in PyTorch of a tensor with one number per output.
  std::vector<Index> output_shape() const {
    if (kind == LayerKind::convolution) return {1, outputs(), 1, 1};
    return {outputs()};
  }
  /// Sums W² over the inputs, for each output: (1, outputs).
  /// Allocates: the result.
  Matrix<WideOf<S>> squares() const {
    return weight.squares(table() ? Side::inputs : Side::outputs);
  }
  /// Computes out = A W'ᵀ for A (R, inputs), this map W' (outputs, inputs) and out (R, outputs).
  /// Never rounds A, however W is stored.
  /// Allocates: when the sizes change.
  void project(const Matrix<S>& A, Matrix<S>& out) const {
    set_size(out, A.rows(), outputs());
    if (table()) {
      weight.multiply_transposed(A, out, Accumulate::no, {}, InputRounding::forbidden);
    } else {
      weight.multiply(A, out, {}, InputRounding::forbidden);
    }
  }
};

/// Cuts the rows of W into `count` equal groups, for a grouped convolution. Returns nothing for one
/// group, which is W itself.
/// Allocates: the copies.
template <class S>
std::vector<FrozenWeight<S>> cut_into_groups(const FrozenWeight<S>& weight, Index count) {
  std::vector<FrozenWeight<S>> groups;
  if (count == 1) return groups;
  const Matrix<S> values = weight.stored();
  const Index rows = values.rows() / count;
  for (Index g = 0; g < count; ++g)
    groups.emplace_back(Matrix<S>(values.middleRows(g * rows, rows)));
  return groups;
}

}  // namespace lora
