// Sums same-shaped tensors of several adapters, with pruning and sign election. The combination
// types are built from these functions.
#pragma once

#include <lora/core/random.hpp>

#include <algorithm>
#include <cmath>
#include <functional>
#include <span>
#include <vector>

namespace lora {

/// How the sign of an element is elected: by the sum of the values, or by the number of values of
/// each sign. PEFT's majority_sign_method.
enum class MajoritySign { total, frequency };

/// Keeps the ⌊density · n⌋ of n elements that are largest in magnitude and sets the others to 0, in
/// O(n). Of equal elements, keeps the first. density is in [0, 1].
/// Allocates: n numbers.
/// Source: PEFT's magnitude_based_pruning, which does not specify which of equal elements stay.
template <class Real>
void keep_largest(Matrix<Real>& tensor, double density) {
  const auto keep = static_cast<Index>(density * static_cast<double>(tensor.size()));
  if (keep >= tensor.size()) return;
  if (keep == 0) {
    tensor.setZero();
    return;
  }
  std::vector<Real> sizes(static_cast<std::size_t>(tensor.size()));
  for (std::size_t i = 0; i < sizes.size(); ++i) sizes[i] = std::abs(tensor.data()[i]);
  const auto last = sizes.begin() + (keep - 1);
  std::nth_element(sizes.begin(), last, sizes.end(), std::greater<Real>());
  const Real least = *last;
  Index equal = keep - std::count_if(sizes.begin(), last, [&](Real x) { return x > least; });
  for (Index i = 0; i < tensor.size(); ++i) {
    Real& x = tensor.data()[i];
    if (std::abs(x) > least || (std::abs(x) == least && equal-- > 0)) continue;
    x = 0;
  }
}

/// Sets each element to 0 with probability 1 - density and divides the others by density in (0, 1],
/// which preserves the expected value. Keeps element i if number i of the stream is below density,
/// the same on every platform.
/// Source: Yu et al., "Language Models are Super Mario", 2024 (DARE); PEFT's random_pruning.
template <class Real>
void drop_at_random(Matrix<Real>& tensor, double density, const RandomStream& stream) {
  for (Index i = 0; i < tensor.size(); ++i) {
    Real& x = tensor.data()[i];
    const bool kept = stream.uniform(static_cast<std::uint64_t>(i)) < density;
    x = kept ? x / static_cast<Real>(density) : Real(0);
  }
}

/// Computes Σ w_i T_i of at least one tensor. Does not check shapes or counts.
template <class Real>
Matrix<Real> weighted_sum(std::span<const Matrix<Real>> tensors, std::span<const double> weights) {
  Matrix<Real> sum = static_cast<Real>(weights[0]) * tensors[0];
  for (std::size_t i = 1; i < tensors.size(); ++i)
    sum += static_cast<Real>(weights[i]) * tensors[i];
  return sum;
}

/// Computes for each element the sum of w_i T_i over the i whose T_i has the elected sign, divided
/// by their number. The election ignores the weights, and a tie elects +. A 0 has no sign and does
/// not count.
/// Source: Yadav et al., "TIES-Merging", 2023; PEFT's calculate_majority_sign_mask and
///   disjoint_merge.
template <class Real>
Matrix<Real> disjoint_merge(std::span<const Matrix<Real>> tensors, std::span<const double> weights,
                            MajoritySign method) {
  const auto sign = [](Real x) { return (x > 0) - (x < 0); };
  Matrix<Real> merged(tensors[0].rows(), tensors[0].cols());
  for (Index e = 0; e < merged.size(); ++e) {
    Real votes = 0;
    for (const Matrix<Real>& tensor : tensors) {
      const Real x = tensor.data()[e];
      votes += method == MajoritySign::total ? x : static_cast<Real>(sign(x));
    }
    const int elected = votes >= 0 ? 1 : -1;
    Real sum = 0;
    int count = 0;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const Real x = tensors[i].data()[e];
      if (sign(x) != elected) continue;
      sum += static_cast<Real>(weights[i]) * x;
      ++count;
    }
    merged.data()[e] = sum / static_cast<Real>(std::max(count, 1));
  }
  return merged;
}

}  // namespace lora
