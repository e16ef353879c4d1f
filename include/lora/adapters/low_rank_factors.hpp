// The two factors of a low-rank change of a weight, independent of any model.
#pragma once

#include <lora/core/error.hpp>
#include <lora/core/scalar.hpp>

#include <algorithm>
#include <cmath>
#include <span>

namespace lora {

/// The change that an adapter adds to one weight: scaling · B A (O, D), with A (R, D) and B (O, R).
/// With groups, as in a convolution, B is (O, R / groups), and the rows of the change in group g
/// are scaling · B_g A_g, where B_g and A_g are the g-th parts of the rows of B and A. A plain
/// value.
template <class S>
struct LowRankFactors {
  Matrix<S> A, B;
  double scaling = 1;
  Index groups = 1;

  Index rank() const { return A.rows(); }
  bool finite() const { return std::isfinite(scaling) && A.allFinite() && B.allFinite(); }

  /// Computes scaling · B A (O, D), summed in WideOf<S> and rounded once.
  /// Throws: as check().
  /// Allocates: the result and wide copies of A, B and the result.
  Matrix<S> delta() const {
    check("LowRankFactors::delta");
    using Wide = Matrix<WideOf<S>>;
    const Wide a = A.template cast<WideOf<S>>(), b = B.template cast<WideOf<S>>();
    Wide sum(B.rows(), A.cols());
    const Index rows = B.rows() / groups, r = B.cols();
    for (Index g = 0; g < groups; ++g) {
      sum.middleRows(g * rows, rows).noalias() =
          b.middleRows(g * rows, rows) * a.middleRows(g * r, r);
    }
    return (static_cast<WideOf<S>>(scaling) * sum).template cast<S>();
  }

  /// Checks the shapes in O(1): R >= 1 is groups times B's columns, and O a multiple of groups.
  /// Throws: ConfigError if groups < 1; ShapeError.
  void check(const char* where) const {
    if (groups < 1) {
      throw ConfigError(std::string(where) + ": groups is " + std::to_string(groups) +
                        ", expected at least 1");
    }
    check_shape(A.rows() >= 1 && A.cols() >= 1, where, "A", A.rows(), A.cols(),
                "at least one row and one column");
    const bool fits = B.rows() >= 1 && B.rows() % groups == 0 && B.cols() * groups == A.rows();
    check_shape(fits, where, "B", B.rows(), B.cols(),
                "(O, " + std::to_string(A.rows()) + " / " + std::to_string(groups) +
                    " groups) with O a multiple of the groups, since A is " +
                    shape_text(A.rows(), A.cols()));
  }
};

/// Computes ‖B A‖ (Frobenius) in double without forming B A: ‖B A‖² = Σ (BᵀB) ∘ (A Aᵀ). If B A is
/// nearly 0 compared with its factors, the relative error is about √ε. A is (R, D) and B is
/// (O, R / groups); the shapes determine the groups.
/// Throws: ShapeError.
/// Allocates: copies of both in double and some (R, R) matrices.
template <class S>
double product_norm(const Matrix<S>& A, const Matrix<S>& B) {
  const Index r = B.cols(), groups = r > 0 ? A.rows() / r : 0;
  const bool fits = groups * r == A.rows() && (groups == 0 || B.rows() % groups == 0);
  check_shape(fits, "product_norm", "B", B.rows(), B.cols(),
              "the shape that goes with A " + shape_text(A.rows(), A.cols()));
  const Index rows = groups > 0 ? B.rows() / groups : 0;
  double sum = 0;
  for (Index g = 0; g < groups; ++g) {
    const Matrix<double> a = A.middleRows(g * r, r).template cast<double>(),
                         b = B.middleRows(g * rows, rows).template cast<double>();
    sum += (b.transpose() * b).cwiseProduct(a * a.transpose()).sum();
  }
  // Rounding can leave a sum of squares a little below 0.
  return std::sqrt(std::max(0.0, sum));
}

/// Stacks factors into A = [A_1; A_2; …] and B = [B_1 | B_2 | …], so that B A = Σ B_i A_i exactly.
/// The rank is Σ R_i. Ignores the scalings; the result has scaling 1. With groups, A holds the rows
/// of group 1 of every part, then those of group 2 and so on, as the convolution reads them.
/// Throws: ConfigError if there are no parts or their groups differ; ShapeError if O or D differ.
template <class S>
LowRankFactors<S> stacked(std::span<const LowRankFactors<S>> parts) {
  if (parts.empty()) throw ConfigError("stacked: there are no factors, expected at least one");
  const LowRankFactors<S>& first = parts.front();
  Index rank = 0;
  for (const LowRankFactors<S>& part : parts) {
    part.check("stacked");
    expect_shape("stacked", "A", part.A, part.rank(), first.A.cols());
    expect_shape("stacked", "B", part.B, first.B.rows(), part.B.cols());
    if (part.groups != first.groups) {
      throw ConfigError("stacked: groups is " + std::to_string(part.groups) + ", expected " +
                        std::to_string(first.groups) + ", as in the first factors");
    }
    rank += part.rank();
  }
  LowRankFactors<S> sum;
  sum.groups = first.groups;
  sum.A.resize(rank, first.A.cols());
  sum.B.resize(first.B.rows(), rank / sum.groups);
  Index row = 0, column = 0;
  for (Index g = 0; g < sum.groups; ++g) {
    for (const LowRankFactors<S>& part : parts) {
      const Index r = part.B.cols();
      sum.A.middleRows(row, r) = part.A.middleRows(g * r, r);
      row += r;
    }
  }
  for (const LowRankFactors<S>& part : parts) {
    sum.B.middleCols(column, part.B.cols()) = part.B;
    column += part.B.cols();
  }
  return sum;
}

}  // namespace lora
