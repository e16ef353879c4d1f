// Matrix aliases and the legend of shape letters used in every docstring.
//
//   T tokens (rows of an activation)   D in-features    O out-features   R or r rank
//   H heads   K head size   V vocabulary   F feed-forward size   N images   C channels
#pragma once

#include <Eigen/Core>

#include <cstdint>

#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error \
    "lora: -ffast-math (or -ffinite-math-only) breaks the checks for NaN and infinity; build without it"
#endif

namespace lora {

using Index = Eigen::Index;

/// The label of a position that losses skip: PyTorch's ignore_index.
inline constexpr std::int64_t ignored_label = -100;

/// A row-major matrix: a row is a token, and the bytes are laid out as in PyTorch and safetensors.
template <class S>
using Matrix = Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// An input: any row-major matrix or block of one, without a copy. Other expressions are evaluated
/// once.
template <class S>
using In = const Eigen::Ref<const Matrix<S>>&;

/// An output: an existing row-major matrix or block of one, written in place.
template <class S>
using Out = Eigen::Ref<Matrix<S>>;

/// Resizes m; its values are lost unless the shape stays the same. If memory does not suffice, m is
/// left empty, whereas Eigen 3.4's own resize leaves it pointing at freed memory.
/// Throws: std::bad_alloc.
template <class M>
void set_size(M& m, Index rows, Index cols) {
  if (m.rows() != rows || m.cols() != cols) m.resize(0, 0);
  m.resize(rows, cols);
}

/// Resizes m as set_size() does and fills it with zeros.
template <class M>
void set_zero(M& m, Index rows, Index cols) {
  set_size(m, rows, cols);
  m.setZero();
}

namespace detail {
/// Returns p + distance. The pointer of an empty matrix is null and must not be advanced.
template <class P>
P moved(P p, Index distance) {
  return p == nullptr ? p : p + distance;
}
}  // namespace detail

/// A read-only strided view of a matrix that someone else owns; transposing it is free. Element (i,
/// j) is `data[i * row_stride + j * col_stride]`, with strides in elements.
template <class S>
struct View {
  const S* data = nullptr;
  Index rows = 0, cols = 0, row_stride = 0, col_stride = 1;

  View() = default;
  View(const S* values, Index row_count, Index col_count, Index rs, Index cs)
      : data(values), rows(row_count), cols(col_count), row_stride(rs), col_stride(cs) {}
  View(const Matrix<S>& m) : View(m.data(), m.rows(), m.cols(), m.cols(), 1) {}
  View(const Eigen::Ref<const Matrix<S>>& m)
      : View(m.data(), m.rows(), m.cols(), m.outerStride(), 1) {}
  View(const Eigen::Ref<Matrix<S>>& m) : View(m.data(), m.rows(), m.cols(), m.outerStride(), 1) {}

  View transposed() const { return {data, cols, rows, col_stride, row_stride}; }
  View middle_rows(Index first, Index count) const {
    return {detail::moved(data, first * row_stride), count, cols, row_stride, col_stride};
  }
  View middle_cols(Index first, Index count) const {
    return {detail::moved(data, first * col_stride), rows, count, row_stride, col_stride};
  }
};

/// A mutable row-major view: element (i, j) is `data[i * row_stride + j]`.
template <class S>
struct MutableView {
  S* data = nullptr;
  Index rows = 0, cols = 0, row_stride = 0;

  MutableView() = default;
  MutableView(S* values, Index row_count, Index col_count, Index rs)
      : data(values), rows(row_count), cols(col_count), row_stride(rs) {}
  MutableView(Matrix<S>& m) : MutableView(m.data(), m.rows(), m.cols(), m.cols()) {}
  MutableView(Eigen::Ref<Matrix<S>>& m)
      : MutableView(m.data(), m.rows(), m.cols(), m.outerStride()) {}

  MutableView middle_rows(Index first, Index count) const {
    return {detail::moved(data, first * row_stride), count, cols, row_stride};
  }
  MutableView middle_cols(Index first, Index count) const {
    return {detail::moved(data, first), rows, count, row_stride};
  }
};

/// Whether a result replaces the old values or is added to them.
enum class Accumulate { no, yes };

}  // namespace lora
