// Computes the distance between two low-rank updates.
#pragma once

#include <lora/adapters/low_rank_factors.hpp>

#include <Eigen/QR>

#include <array>
#include <cmath>

namespace tools {

using lora::Index;

/// Computes ‖B A‖ of thin factors to full precision, even if B A is a small difference of large
/// products. With B = Q R and Aᵀ = P S it is ‖R Sᵀ‖.
inline double precise_product_norm(const lora::Matrix<double>& A, const lora::Matrix<double>& B) {
  using ColumnMajor = Eigen::MatrixXd;
  const auto r_of = [](const ColumnMajor& x) -> ColumnMajor {
    if (x.rows() <= x.cols()) return x;
    const Eigen::HouseholderQR<ColumnMajor> qr(x);
    return qr.matrixQR().topRows(x.cols()).triangularView<Eigen::Upper>();
  };
  return (r_of(B) * r_of(A.transpose()).transpose()).norm();
}

inline bool same(const lora::Matrix<double>& x, const lora::Matrix<double>& y) {
  return x.rows() == y.rows() && x.cols() == y.cols() && x == y;
}

/// ‖s1 B1 A1 − s2 B2 A2‖ and ‖s1 B1 A1‖ for two updates of the same shape.
struct UpdateDifference {
  double difference = 0, first = 0;
};
inline UpdateDifference update_difference(const lora::LowRankFactors<double>& one,
                                          const lora::LowRankFactors<double>& two) {
  UpdateDifference result;
  for (Index g = 0; g < one.groups; ++g) {
    const auto group = [g](const lora::LowRankFactors<double>& f) {
      const Index rows = f.B.rows() / f.groups, r = f.B.cols();
      return lora::LowRankFactors<double>{f.A.middleRows(g * r, r),
                                          f.scaling * f.B.middleRows(g * rows, rows)};
    };
    std::array<lora::LowRankFactors<double>, 2> parts{group(one), group(two)};
    result.first += std::pow(precise_product_norm(parts[0].A, parts[0].B), 2);
    if (same(parts[0].A, parts[1].A) && same(parts[0].B, parts[1].B)) continue;
    parts[1].B *= -1;
    const auto both = lora::stacked<double>(parts);
    result.difference += std::pow(precise_product_norm(both.A, both.B), 2);
  }
  return {std::sqrt(result.difference), std::sqrt(result.first)};
}

}  // namespace tools
