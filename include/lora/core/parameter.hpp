// A tensor that can be trained.
#pragma once

#include <lora/core/error.hpp>
#include <lora/core/name_path.hpp>
#include <lora/core/transaction.hpp>

#include <utility>
#include <vector>

namespace lora {

/// A tensor and its gradient. `grad` has the shape of `value` while `trainable` and is empty while
/// frozen, so that a frozen tensor costs only its value. A vector of n is stored as (1, n), and a
/// tensor of more dimensions as (first, product of the rest).
template <class S>
struct Parameter {
  Matrix<S> value;
  Matrix<S> grad;
  bool trainable = false;
  std::vector<Index> shape;  ///< PyTorch's shape; its product is value.size()

  Parameter() = default;
  /// Creates a matrix parameter of shape (rows, cols).
  explicit Parameter(Matrix<S> v, bool train = false)
      : value(std::move(v)), shape{value.rows(), value.cols()} {
    set_trainable(train);
  }
  /// Creates a parameter whose PyTorch shape differs from that of `v`: a vector, or the kernel of a
  /// convolution.
  /// Throws: ShapeError if the numbers of elements differ or a size in the shape is negative.
  Parameter(Matrix<S> v, std::vector<Index> torch_shape, bool train = false)
      : value(std::move(v)), shape(std::move(torch_shape)) {
    Index elements = 1;
    for (const Index n : shape) elements = elements < 0 ? -1 : product_of_sizes({elements, n});
    check_shape(elements == value.size(), "Parameter", "value", value.rows(), value.cols(),
                "as many elements as its shape, " +
                    (elements < 0 ? "which is not valid" : std::to_string(elements)));
    set_trainable(train);
  }

  /// Creates a vector parameter: values (1, n), shape (n).
  static Parameter vector(Matrix<S> v, bool train = false) {
    const Index n = v.size();
    return Parameter(std::move(v), std::vector<Index>{n}, train);
  }

  bool empty() const { return value.size() == 0; }
  Index size() const { return value.size(); }

  /// Turns training on (with a zero gradient) or off (and frees the gradient).
  /// Allocates: the gradient when turned on. If that fails, nothing has changed.
  void set_trainable(bool train) {
    if (!train) grad.resize(0, 0);
    if (train && !has_gradient()) grad = new_gradient();
    trainable = train;
  }
  /// Prepares set_trainable(train) for the commit of `change`. A transaction may change a parameter
  /// at most once.
  void prepare_trainable(bool train, Transaction& change) {
    if (!train && grad.size() != 0) change.set(grad, Matrix<S>());
    if (train && !has_gradient()) change.set(grad, new_gradient());
    if (train != trainable) change.set(trainable, train);
  }
  void zero_grad() { grad.setZero(); }

 private:
  bool has_gradient() const { return grad.rows() == value.rows() && grad.cols() == value.cols(); }
  /// Builds the gradient separately: assigning zeros would free the old values before it allocates.
  Matrix<S> new_gradient() const { return Matrix<S>::Zero(value.rows(), value.cols()); }
};

/// Each type lists its tensors in one function, `for_each_parameter(const NamePath& prefix, fn)`,
/// which calls fn(const NamePath& name, Parameter<S>&) for each. The functions below use that list.

/// Sets every gradient to zero.
template <class T>
void zero_grad(T& object) {
  object.for_each_parameter("", [](const auto&, auto& p) { p.zero_grad(); });
}

/// The number of elements in trainable tensors and in all tensors that `for_each_parameter` lists.
struct ParameterCount {
  Index trainable = 0;
  Index listed = 0;
};
template <class T>
ParameterCount count_parameters(T& object) {
  ParameterCount n;
  object.for_each_parameter("", [&n](const auto&, auto& p) {
    n.listed += p.size();
    if (p.trainable) n.trainable += p.size();
  });
  return n;
}

/// Whether any tensor that `object` lists is trainable.
template <class T>
bool is_trained(T& object) {
  bool trained = false;
  object.for_each_parameter("", [&](const auto&, auto& p) { trained = trained || p.trainable; });
  return trained;
}

}  // namespace lora
