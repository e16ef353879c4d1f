// Computes the largest singular values of a matrix and their vectors. Only this header includes
// Eigen's SVD.
#pragma once

#include <lora/core/error.hpp>

#include <Eigen/QR>
#include <Eigen/SVD>

#include <algorithm>

namespace lora {

/// X ≈ U diag(σ) Vᵀ, the best approximation of rank K (Eckart and Young 1936). The columns of
/// U (O, K) and V (D, K) are orthonormal, and σ (1, K) does not increase. The sign of a singular
/// vector is arbitrary; here the element largest in magnitude of each column of V, the first if
/// several are equal, is positive.
template <class Real>
struct TruncatedSVD {
  Matrix<Real> U, sigma, V;
  Real energy = 0;  ///< Σ σ² of all singular values = the sum of squares of X

  /// The share of the energy that is kept, 0 … 1. For a zero matrix it is 1.
  double energy_kept() const {
    if (!(energy > 0)) return 1;
    return std::min(1.0, static_cast<double>(sigma.squaredNorm() / energy));
  }
};

namespace detail {

/// Makes the largest element of each column of V positive without changing U diag(σ) Vᵀ.
template <class Real>
void fix_signs(TruncatedSVD<Real>& svd) {
  for (Index k = 0; k < svd.V.cols(); ++k) {
    Index largest = 0;
    svd.V.col(k).cwiseAbs().maxCoeff(&largest);
    if (svd.V(largest, k) >= 0) continue;
    svd.U.col(k) *= -1;
    svd.V.col(k) *= -1;
  }
}

template <class Real>
using ColumnMajor = Eigen::Matrix<Real, Eigen::Dynamic, Eigen::Dynamic>;

/// X = Q R, where Q has orthonormal columns. If X is not tall, Q = I and R = X.
template <class Real>
struct ThinQR {
  ColumnMajor<Real> Q, R;
  explicit ThinQR(const ColumnMajor<Real>& X) {
    const Index n = X.cols();
    if (X.rows() <= n) {
      Q.setIdentity(X.rows(), X.rows());
      R = X;
      return;
    }
    const Eigen::HouseholderQR<ColumnMajor<Real>> qr(X);
    Q = qr.householderQ() * ColumnMajor<Real>::Identity(X.rows(), n);
    R = qr.matrixQR().topRows(n).template triangularView<Eigen::Upper>();
  }
};

inline void check_svd_rank(const char* where, Index rank) {
  if (rank >= 1) return;
  throw ConfigError(std::string(where) + ": rank is " + std::to_string(rank) +
                    ", expected at least 1");
}

}  // namespace detail

/// Computes the min(rank, O, D) largest singular values of X (O, D) and their vectors. Exact up to
/// rounding: computes all of them, in O(O D min(O, D)).
/// Throws: ConfigError for a rank below 1; ShapeError for an empty matrix; Error if X is not
///   finite.
template <class Real>
TruncatedSVD<Real> truncated_svd(const Matrix<Real>& X, Index rank) {
  detail::check_svd_rank("truncated_svd", rank);
  check_shape(X.size() > 0, "truncated_svd", "X", X.rows(), X.cols(), "a matrix with elements");
  if (!X.allFinite()) throw Error("truncated_svd: X has values that are not finite");
  const Eigen::BDCSVD<detail::ColumnMajor<Real>> svd(X, Eigen::ComputeThinU | Eigen::ComputeThinV);
  const Index k = std::min({rank, X.rows(), X.cols()});
  TruncatedSVD<Real> kept{svd.matrixU().leftCols(k), svd.singularValues().head(k).transpose(),
                          svd.matrixV().leftCols(k), X.squaredNorm()};
  detail::fix_signs(kept);
  return kept;
}

/// Computes truncated_svd(B A) for B (O, R) and A (R, D), with at most R values. With R below O and
/// D, it never forms B A: two thin QR decompositions reduce the problem to an (R, R) matrix, in
/// O((O + D) R² + R³).
/// Throws: as truncated_svd; ShapeError if B and A do not fit together.
template <class Real>
TruncatedSVD<Real> truncated_svd_of_product(const Matrix<Real>& B, const Matrix<Real>& A,
                                            Index rank) {
  detail::check_svd_rank("truncated_svd_of_product", rank);
  expect_shape("truncated_svd_of_product", "B", B, B.rows(), A.rows());
  const Index most = std::min(rank, A.rows());
  if (A.rows() >= std::min(B.rows(), A.cols())) return truncated_svd<Real>(B * A, most);
  if (!A.allFinite() || !B.allFinite())
    throw Error("truncated_svd_of_product: a factor has values that are not finite");
  const detail::ThinQR<Real> left(B), right(A.transpose());
  TruncatedSVD<Real> svd = truncated_svd<Real>(left.R * right.R.transpose(), most);
  svd.U = left.Q * svd.U;
  svd.V = right.Q * svd.V;
  detail::fix_signs(svd);
  return svd;
}

}  // namespace lora
