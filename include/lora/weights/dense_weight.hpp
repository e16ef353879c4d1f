// Stores a frozen weight as a plain dense matrix.
#pragma once

#include <lora/core/scalar.hpp>
#include <lora/weights/change.hpp>
#include <lora/weights/low_rank.hpp>
#include <lora/weights/product.hpp>

#include <span>
#include <utility>

namespace lora {

/// The orientation of the stored matrix.
enum class Layout {
  out_in,  ///< (out, in): PyTorch's nn.Linear
  in_out,  ///< (in, out): GPT-2's Conv1D, PEFT's fan_in_fan_out
};

/// A frozen matrix, stored as it was given. FrozenWeight documents what the functions compute and
/// checks the shapes.
template <class S>
class DenseWeight {
 public:
  DenseWeight(Matrix<S> values, Layout layout) : values_(std::move(values)), layout_(layout) {}

  Layout layout() const { return layout_; }
  Index rows() const { return layout_ == Layout::out_in ? values_.rows() : values_.cols(); }
  Index cols() const { return layout_ == Layout::out_in ? values_.cols() : values_.rows(); }
  Index bytes() const { return values_.size() * static_cast<Index>(sizeof(S)); }
  const Matrix<S>& stored() const { return values_; }
  bool all_finite() const { return values_.allFinite(); }

  void multiply(In<S> x, Out<S> y, std::span<const LowRank<S>> terms,
                InputRounding = InputRounding::allowed) const {
    product<S>(x, out_in().transposed(), y);
    add_terms(terms, y);
  }
  void multiply_transposed(In<S> dy, Out<S> dx, Accumulate accumulate,
                           std::span<const LowRank<S>> terms,
                           InputRounding = InputRounding::allowed) const {
    product<S>(dy, out_in(), dx, accumulate);
    add_terms(terms, dx);
  }
  void copy_row(Index row, S* out) const {
    const View<S> w = out_in();
    for (Index j = 0; j < w.cols; ++j) out[j] = w.data[row * w.row_stride + j * w.col_stride];
  }
  DenseWeight plus(std::span<const LowRankDelta<S>> deltas, const SideScale<S>& scale = {}) const {
    Matrix<S> sum(values_.rows(), values_.cols());
    detail::scale_and_add_changes(scale, deltas, sum.rows(), sum.cols(), layout_ == Layout::in_out,
                                  values_.data(), sum.data());
    return {std::move(sum), layout_};
  }
  Matrix<WideOf<S>> squares(Side side) const {
    const auto wide = values_.template cast<WideOf<S>>();
    if ((side == Side::outputs) == (layout_ == Layout::out_in))
      return wide.cwiseProduct(wide).rowwise().sum().transpose();
    return wide.cwiseProduct(wide).colwise().sum();
  }

 private:
  View<S> out_in() const {
    return layout_ == Layout::out_in ? View<S>(values_) : View<S>(values_).transposed();
  }
  static void add_terms(std::span<const LowRank<S>> terms, MutableView<S> y) {
    for (const LowRank<S>& term : terms) {
      product<S>(term.left, term.right, y.middle_rows(term.first_row, term.left.rows),
                 Accumulate::yes);
    }
  }

  Matrix<S> values_;
  Layout layout_;
};

}  // namespace lora
