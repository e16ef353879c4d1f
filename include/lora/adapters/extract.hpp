// Extracts from a fully fine-tuned weight the adapter that approximates it best.
#pragma once

#include <lora/adapters/low_rank_factors.hpp>
#include <lora/adapters/truncated_svd.hpp>

namespace lora {

template <class S>
struct ExtractedFactors {
  LowRankFactors<S> factors;  ///< with scaling 1, so lora_alpha = r
  double energy_kept = 1;     ///< Σ kept σ² / Σ σ² of the difference, before rounding to S
};

/// Computes the factors of rank min(rank, O, D) whose B A is nearest to tuned - base, both (O, D).
/// With tuned - base = U diag(σ) Vᵀ, B = U √σ and A = √σ Vᵀ, so
///   ‖tuned - base - B A‖² = Σ dropped σ² = (1 - energy_kept) ‖tuned - base‖².
/// Each factor gets √σ, so both have the same norm: neither loses range in a half-precision file,
/// and both change at the same rate in further training. Computes an exact SVD in WideOf<S>, in
/// O(O D min(O, D)): seconds for 2048 x 2048, minutes beyond 4096.
/// Throws: ShapeError if the shapes differ or are empty; ConfigError for a rank below 1; Error if
///   the difference is not finite.
/// Allocates: several wide matrices of the weight's size.
/// Source: Eckart and Young 1936.
template <class S>
ExtractedFactors<S> extract_factors(const Matrix<S>& tuned, const Matrix<S>& base, Index rank) {
  using Real = WideOf<S>;
  expect_shape("extract_factors", "tuned", tuned, base.rows(), base.cols());
  check_shape(base.size() > 0, "extract_factors", "base", base.rows(), base.cols(),
              "a matrix with elements");
  if (rank < 1) {
    throw ConfigError("extract_factors: rank is " + std::to_string(rank) + ", expected at least 1");
  }
  const Matrix<Real> change = tuned.template cast<Real>() - base.template cast<Real>();
  if (!change.allFinite())
    throw Error("extract_factors: tuned - base has values that are not finite");
  const TruncatedSVD<Real> svd = truncated_svd<Real>(change, rank);
  const auto root = svd.sigma.row(0).cwiseSqrt().eval();
  ExtractedFactors<S> extracted;
  extracted.factors.A = (root.asDiagonal() * svd.V.transpose()).template cast<S>();
  extracted.factors.B = (svd.U * root.asDiagonal()).template cast<S>();
  extracted.energy_kept = svd.energy_kept();
  return extracted;
}

}  // namespace lora
