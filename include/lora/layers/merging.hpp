// The result of merging, before it takes effect.
#pragma once

#include <lora/layers/adapter_set.hpp>
#include <lora/layers/base_map.hpp>
#include <lora/weights/frozen_weight.hpp>

namespace lora {

/// Whether a merge checks that its result is finite before it takes effect.
enum class SafeMerge { no, yes };

/// A merged weight that is ready to act. Merging a model computes one for each layer and only then
/// commits them all, so an error leaves every layer unchanged.
template <class S>
struct MergedWeight {
  /// All adapters in the weight, in the order of merging. commit_merge() moves them to the
  /// AdapterSet.
  std::vector<std::string> names;
  FrozenWeight<S> weight;
  Matrix<S> bias;  ///< Σ s bias (1, O), added to the layer's bias; empty: nothing to add
};

/// Accumulates the effect of merging adapters in order. Each adds s B A to W and s bias to the
/// bias; one that scales the output then multiplies the sum so far by its c. Refers to the
/// adapters.
template <class S>
class MergeSum {
 public:
  void add(const Adapter<S>& adapter, const BaseMap<S>& base) {
    terms_.push_back({adapter.delta(), {}});
    if (!adapter.bias.empty()) {
      if (bias_.size() == 0) set_zero(bias_, 1, adapter.bias.size());
      bias_ += adapter.scale() * adapter.bias.value;
    }
    adapter.if_scales_output([&](const auto& one) { scale_by(one.output_scale(adapter, base)); });
  }
  /// Returns W with all adapters applied, summed and rounded once.
  /// Allocates: as FrozenWeight::plus.
  FrozenWeight<S> applied_to(const BaseMap<S>& base) const {
    std::vector<LowRankDelta<S>> deltas;
    for (const Term& term : terms_) {
      const View<S> left = term.scaled.size() != 0 ? View<S>(term.scaled) : term.delta.left;
      const View<S> right = term.delta.right;
      const S s = term.delta.scale;
      deltas.push_back(base.table() ? LowRankDelta<S>{s, right.transposed(), left.transposed()}
                                    : LowRankDelta<S>{s, left, right});
    }
    return base.weight.plus(deltas, {{scale_.data(), static_cast<std::size_t>(scale_.size())},
                                     base.table() ? Side::inputs : Side::outputs});
  }
  /// Returns Σ s bias (1, O), or an empty matrix.
  Matrix<S> take_bias() { return std::move(bias_); }

 private:
  struct Term {
    LowRankDelta<S> delta;  ///< left (outputs, R), right (R, inputs)
    Matrix<S> scaled;       ///< c ∘ left once a later scale applies; until then empty
  };
  static Matrix<S> copied(const View<S>& view) {
    Matrix<S> values(view.rows, view.cols);
    for (Index i = 0; i < view.rows; ++i) {
      for (Index j = 0; j < view.cols; ++j)
        values(i, j) = view.data[i * view.row_stride + j * view.col_stride];
    }
    return values;
  }
  void scale_by(const Matrix<S>& c) {
    if (scale_.size() == 0) scale_ = Matrix<S>::Ones(1, c.cols());
    scale_ = scale_.cwiseProduct(c).eval();
    for (Term& term : terms_) {
      if (term.scaled.size() == 0) term.scaled = copied(term.delta.left);
      for (Index j = 0; j < c.cols(); ++j) term.scaled.row(j) *= c(0, j);
    }
    if (bias_.size() != 0) bias_ = bias_.cwiseProduct(c).eval();
  }

  std::vector<Term> terms_;
  Matrix<S> scale_, bias_;
};

/// Returns the merged adapters followed by those asked for or, if none is asked for, the active
/// ones.
/// Throws: ConfigError that lists the known names, for an unknown one; Error if one is already
///   merged.
template <class S>
std::vector<std::string> names_to_merge(const AdapterSet<S>& adapters,
                                        std::vector<std::string> asked) {
  if (asked.empty()) asked = adapters.active();
  std::vector<std::string> names = adapters.merged();
  for (const std::string& name : asked) {
    if (std::count(names.begin(), names.end(), name) != 0) {
      throw Error("merge: adapter \"" + name + "\" is merged already");
    }
    names.push_back(adapters.get(name).name);
  }
  return names;
}

/// Throws Error that names the adapters if a safe merge's result, with this layer's bias, is not
/// finite.
template <class S>
void check_merge(const MergedWeight<S>& merged, const Matrix<S>& bias, SafeMerge safe) {
  if (safe == SafeMerge::no) return;
  const bool biased = merged.bias.size() != 0;
  if (merged.weight.all_finite() && (!biased || (bias + merged.bias).allFinite())) return;
  std::string names;
  for (const std::string& name : merged.names) names += " " + name;
  throw Error(
      "merge: the merged weight has values that are not finite; one of these adapters is broken:" +
      names + "; nothing was merged");
}

}  // namespace lora
