// Sums the gradients of a step's micro-batches in an order that any distribution of the work can
// keep.
#pragma once

#include <lora/core/name_path.hpp>
#include <lora/core/parameter.hpp>

#include <bit>
#include <cstdint>
#include <vector>

namespace lora {

/// Returns how many buffers of the trained tensors' size GradientTree keeps for M leaves, in
/// addition to the gradients: ⌈log2 M⌉.
inline Index gradient_buffers(Index leaves) {
  return leaves <= 1 ? 0
                     : static_cast<Index>(std::bit_width(static_cast<std::uint64_t>(leaves - 1)));
}

/// The gradient of a step: the balanced-tree sum over its M micro-batches, the leaves, in order.
///
///       sum(first, 1) = the gradient of micro-batch `first`, summed by itself
///       sum(first, M) = sum(first, ⌊M/2⌋) + sum(first + ⌊M/2⌋, M − ⌊M/2⌋)
///
/// A chain of sums, each starting from the one before, ties all work to one process. This tree does
/// not: a process that holds whole micro-batches can return sums of leaves, and adding them up in
/// this order gives the same bytes.
///
/// Allocates: the buffers, when M grows or other tensors are trained; nothing in steady steps, and
///   never for M = 1.
/// Threads: not safe to share.
template <class S>
class GradientTree {
 public:
  /// Computes sum(0, leaves) into the gradients of `model`'s trained tensors. leaf(i) adds the
  /// gradient of micro-batch i to gradients of zero; it is called once for each i, in order.
  /// Without leaves the gradients are zero.
  /// Throws: what leaf throws.
  template <class Model, class Leaf>
  void sum(Model& model, Index leaves, Leaf&& leaf) {
    zero_grad(model);
    const auto needed = static_cast<std::size_t>(gradient_buffers(leaves));
    if (buffers_.size() < needed) buffers_.resize(needed);
    if (leaves > 0) sum(model, 0, leaves, 0, leaf);
  }

 private:
  using Buffer = std::vector<Matrix<S>>;

  template <class Model, class Leaf>
  void sum(Model& model, Index first, Index leaves, std::size_t depth, Leaf& leaf) {
    if (leaves == 1) return leaf(first);
    const Index half = leaves / 2;
    sum(model, first, half, depth + 1, leaf);
    Buffer& left = buffers_[depth];
    for_each_gradient(model, left, [](Matrix<S>& grad, Matrix<S>& kept) {
      set_size(kept, grad.rows(), grad.cols());
      kept.swap(grad);
      grad.setZero();
    });
    sum(model, first + half, leaves - half, depth + 1, leaf);
    for_each_gradient(model, left, [](Matrix<S>& grad, Matrix<S>& kept) { grad += kept; });
  }

  /// Calls fn(gradient, its place in the buffer) for each trained tensor.
  template <class Model, class Fn>
  static void for_each_gradient(Model& model, Buffer& buffer, Fn&& fn) {
    std::size_t i = 0;
    model.for_each_parameter("", [&](const NamePath&, Parameter<S>& p) {
      if (!p.trainable) return;
      if (i == buffer.size()) buffer.emplace_back();
      fn(p.grad, buffer[i++]);
    });
  }

  std::vector<Buffer> buffers_;  ///< sums of left halves, one per level of the tree
};

}  // namespace lora
