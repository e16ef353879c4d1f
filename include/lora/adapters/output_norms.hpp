// Computes DoRA's scale of each output for a weight that is read a few rows at a time.
#pragma once

#include <lora/layers/variants/dora.hpp>

namespace lora {

/// Computes n_j = ‖W_j + s (B A)_j‖ of a stored weight, for A (R, inputs) and B (outputs, R),
/// without holding the weight in memory. The rows, stored in `layout`, are added in turn. Does not
/// check shapes. Refers to A. See DoRA.
template <class S>
class OutputNorms {
 public:
  OutputNorms(const Matrix<S>& A, Index outputs, Layout layout)
      : A_(A),
        layout_(layout),
        squares_(Matrix<WideOf<S>>::Zero(1, outputs)),
        projected_(Matrix<S>::Zero(A.rows(), outputs)) {}

  /// Adds the rows of the stored weight from `first` on.
  /// Allocates: nothing.
  void add_rows(Index first, const Matrix<S>& rows) {
    const auto wide = rows.template cast<WideOf<S>>();
    const View<S> A(A_), W(rows);
    MutableView<S> projected(projected_);
    if (layout_ == Layout::out_in) {
      squares_.middleCols(first, rows.rows()) = wide.rowwise().squaredNorm().transpose();
      product<S>(A, W.transposed(), projected.middle_cols(first, rows.rows()));
    } else {
      squares_ += wide.colwise().squaredNorm();
      product<S>(A.middle_cols(first, rows.rows()), W, projected, Accumulate::yes);
    }
  }

  /// Computes c = m / n (1, outputs) after all rows are added. m has one number per output.
  Matrix<S> scale(const Matrix<S>& m, S s, const Matrix<S>& B) const {
    Matrix<S> gram(A_.rows(), A_.rows()), turned(B.rows(), B.cols()), c;
    product<S>(A_, View<S>(A_).transposed(), gram);
    product<S>(B, gram, turned);
    DoRA::combine_norms<S>(s, squares_, projected_, B, turned, c);
    for (Index j = 0; j < c.cols(); ++j) c(0, j) = DoRA::quotient(m.data()[j], c(0, j));
    return c;
  }

 private:
  const Matrix<S>& A_;
  Layout layout_;
  Matrix<WideOf<S>> squares_;
  Matrix<S> projected_;
};

}  // namespace lora
