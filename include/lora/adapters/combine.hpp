// Combines several low-rank changes of one weight into one, by PEFT's combination types.
#pragma once

#include <lora/adapters/low_rank_factors.hpp>
#include <lora/adapters/task_arithmetic.hpp>
#include <lora/adapters/truncated_svd.hpp>
#include <lora/core/printable.hpp>

#include <array>
#include <optional>
#include <string>
#include <string_view>

namespace lora {

/// PEFT's combination_type. With c_i = w_i s_i and Δ_i = s_i B_i A_i:
///   cat              Σ w_i Δ_i exactly, of rank Σ r_i
///   svd              the best approximation of Σ w_i Δ_i of rank svd_rank
///   linear           A = Σ sign(c_i) √|c_i| A_i, B = Σ √|c_i| B_i: cheap, but a poor approximation
///                    of the sum because of the cross terms B_i A_j
///   ties             like linear, but each tensor keeps only its largest elements, and those with
///                    the elected sign are averaged (disjoint_merge)
///   dare_linear      linear over tensors with random elements dropped
///   dare_ties        ties over tensors with random elements dropped
///   magnitude_prune  linear over tensors that keep only their largest elements
///   *_svd            the same on the full Δ_i instead of A_i and B_i, then as svd
enum class CombinationType {
  svd,
  linear,
  cat,
  ties,
  ties_svd,
  dare_linear,
  dare_linear_svd,
  dare_ties,
  dare_ties_svd,
  magnitude_prune,
  magnitude_prune_svd,
};

namespace detail {

enum class Pruning { none, largest, random };
struct CombinationRule {
  CombinationType type;
  std::string_view name;
  Pruning pruning;
  bool elects, by_svd;
};
template <class>
inline constexpr auto combination_rules = [] {
  using enum CombinationType;
  using enum Pruning;
  return std::to_array<CombinationRule>({
      {svd, "svd", none, false, true},
      {linear, "linear", none, false, false},
      {cat, "cat", none, false, false},
      {ties, "ties", largest, true, false},
      {ties_svd, "ties_svd", largest, true, true},
      {dare_linear, "dare_linear", random, false, false},
      {dare_linear_svd, "dare_linear_svd", random, false, true},
      {dare_ties, "dare_ties", random, true, false},
      {dare_ties_svd, "dare_ties_svd", random, true, true},
      {magnitude_prune, "magnitude_prune", largest, false, false},
      {magnitude_prune_svd, "magnitude_prune_svd", largest, false, true},
  });
}();
template <class Tag = void>
const CombinationRule& rule_of(CombinationType type) {
  return combination_rules<Tag>[static_cast<std::size_t>(type)];
}

}  // namespace detail

/// PEFT's name of a type, such as "ties_svd".
template <class Tag = void>
std::string_view combination_type_name(CombinationType type) {
  return detail::rule_of<Tag>(type).name;
}
/// The type of that name.
/// Throws: ConfigError that lists the known names.
template <class Tag = void>
CombinationType combination_type(std::string_view name) {
  std::string known;
  for (const detail::CombinationRule& rule : detail::combination_rules<Tag>) {
    if (rule.name == name) return rule.type;
    known += (known.empty() ? "" : ", ") + std::string(rule.name);
  }
  throw ConfigError("combination_type " + in_quotes(name) + " is not known; expected one of " +
                    known);
}

/// How to combine, with PEFT's names and defaults. validate() refuses options that the type
/// ignores.
struct CombineOptions {
  CombinationType type = CombinationType::svd;
  /// Rank of svd and *_svd, at least 1; none: the largest rank of the sources.
  std::optional<Index> svd_rank = {};
  /// For svd and *_svd: clamps every element of A and B to ±q, where q is this quantile, in (0, 1],
  /// of their values.
  std::optional<double> svd_clamp = {};
  /// The share of elements that ties*, dare_* and magnitude_prune* keep. They need it: 0 … 1, above
  /// 0 for dare_*.
  std::optional<double> density = {};
  std::optional<MajoritySign> majority_sign_method = {};  ///< for *ties*; none: total
  /// Seeds what dare_* drops. The streams are named after `path` and the source's position.
  std::uint64_t seed = 0;
  std::string path = {};  ///< as AdapterOptions::path; add_weighted_adapter sets it

  /// Checks all options in O(1).
  /// Throws: ConfigError that names the option, its value and the type.
  void validate() const { validate_as<void>(); }

 private:
  template <class Tag>
  void validate_as() const {
    const detail::CombinationRule& rule = detail::rule_of<Tag>(type);
    const auto refuse = [&](const char* option, const std::string& value, const char* expected) {
      throw ConfigError("CombineOptions: " + std::string(option) + " = " + value +
                        " with combination_type " + in_quotes(rule.name) + ", expected " +
                        expected);
    };
    const char* unused = "none, since this type does not use it";
    if (svd_rank && !rule.by_svd) refuse("svd_rank", std::to_string(*svd_rank), unused);
    if (svd_rank && *svd_rank < 1) refuse("svd_rank", std::to_string(*svd_rank), "at least 1");
    if (svd_clamp && !rule.by_svd) refuse("svd_clamp", number_text(*svd_clamp), unused);
    if (svd_clamp && !(*svd_clamp > 0 && *svd_clamp <= 1))
      refuse("svd_clamp", number_text(*svd_clamp), "a share above 0 and at most 1");
    const bool prunes = rule.pruning != detail::Pruning::none;
    if (density && !prunes) refuse("density", number_text(*density), unused);
    if (!density && prunes) refuse("density", "none", "the share of elements to keep");
    if (density && !(*density >= 0 && *density <= 1))
      refuse("density", number_text(*density), "a share from 0 to 1");
    if (density && *density == 0 && rule.pruning == detail::Pruning::random)
      refuse("density", "0", "a share above 0, because kept elements are divided by it");
    if (majority_sign_method && !rule.elects) {
      const bool total = *majority_sign_method == MajoritySign::total;
      refuse("majority_sign_method", total ? "total" : "frequency", unused);
    }
  }
};

/// Clamps every element of A and B to ±q, where q is the `share` quantile of all their values,
/// interpolated between neighbours.
/// Throws: ConfigError if q is not positive, unless all values are 0.
/// Source: PEFT's svd_clamp. The quantile is of signed values, as in PEFT, so q depends on the
///   signs of the singular vectors. PEFT leaves them arbitrary; TruncatedSVD fixes them.
template <class S>
void clamp_factors(LowRankFactors<S>& factors, double share) {
  std::vector<S> values(factors.A.data(), factors.A.data() + factors.A.size());
  values.insert(values.end(), factors.B.data(), factors.B.data() + factors.B.size());
  std::sort(values.begin(), values.end());
  const double place = share * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const S low = values[below], high = values[std::min(below + 1, values.size() - 1)];
  const S bound = low + static_cast<S>(place - static_cast<double>(below)) * (high - low);
  if (!(bound > 0) && (values.front() != 0 || values.back() != 0)) {
    throw ConfigError("svd_clamp = " + number_text(share) + " is the quantile " +
                      number_text(static_cast<double>(bound)) +
                      " of the values of A and B, expected one above 0; use a larger share");
  }
  factors.A = factors.A.cwiseMax(-bound).cwiseMin(bound);
  factors.B = factors.B.cwiseMax(-bound).cwiseMin(bound);
}

namespace detail {

/// Checks the sources and combines them by the requested type.
template <class S, class Real = WideOf<S>>
class Combiner {
  using Sources = std::span<const LowRankFactors<S>>;

 public:
  Combiner(Sources sources, std::span<const double> weights, const CombineOptions& options)
      : sources_(sources), given_(weights), options_(options), rule_(rule_of<S>(options.type)) {
    options.validate();
    if (sources.empty())
      throw ConfigError("combine_factors: there are no factors, expected at least one");
    if (weights.size() != sources.size()) {
      throw ConfigError("combine_factors: there are " + std::to_string(weights.size()) +
                        " weights, expected " + std::to_string(sources.size()) +
                        ", one for each of the factors");
    }
    for (std::size_t i = 0; i < sources.size(); ++i) {
      if (!std::isfinite(weights[i])) {
        throw ConfigError("combine_factors: weight " + std::to_string(i) + " is " +
                          number_text(weights[i]) + ", expected a finite number");
      }
      check_source(i);
      weights_.push_back(weights[i] * sources[i].scaling);
    }
  }

  LowRankFactors<S> run() const {
    LowRankFactors<S> sum = options_.type == CombinationType::cat ? concatenated()
                            : rule_.by_svd                        ? by_svd()
                                                                  : by_factors();
    if (sum.A.allFinite() && sum.B.allFinite()) return sum;
    throw Error(
        "combine_factors: the result has values that are not finite; are the weights, or the "
        "scales of the factors, too large?");
  }

 private:
  void check_source(std::size_t i) const {
    const LowRankFactors<S>&own = sources_[i], &first = sources_[0];
    const std::string place = "combine_factors: factors " + std::to_string(i), where = place + ": ";
    own.check(place.c_str());
    check_shape(own.A.cols() == first.A.cols(), place.c_str(), "A", own.A.rows(), own.A.cols(),
                "(R, " + std::to_string(first.A.cols()) + ")");
    check_shape(own.B.rows() == first.B.rows(), place.c_str(), "B", own.B.rows(), own.B.cols(),
                "(" + std::to_string(first.B.rows()) + ", R)");
    if (own.groups != first.groups) {
      throw ConfigError(where + "groups is " + std::to_string(own.groups) + ", expected " +
                        std::to_string(first.groups));
    }
    const std::string type = "combination_type " + in_quotes(rule_.name);
    if (rule_.by_svd && own.groups != 1) {
      throw ConfigError("combine_factors: " + type +
                        " is not defined for a convolution with groups, whose change is one "
                        "product per group; use cat");
    }
    const bool any_rank = rule_.by_svd || options_.type == CombinationType::cat;
    if (!any_rank && own.rank() != first.rank()) {
      throw ConfigError(where + "the rank is " + std::to_string(own.rank()) + ", expected " +
                        std::to_string(first.rank()) + ": " + type +
                        " adds factors of equal rank; use cat or an svd type");
    }
    if (!own.finite()) throw Error(where + "A, B or the scaling is not finite");
  }

  LowRankFactors<S> concatenated() const {
    std::vector<LowRankFactors<S>> parts(sources_.begin(), sources_.end());
    for (std::size_t i = 0; i < parts.size(); ++i)
      parts[i].A = (weights_[i] * sources_[i].A.template cast<Real>()).template cast<S>();
    return stacked<S>(parts);
  }

  /// Scales both tensors by √|c|, and A by its sign too, so one source gives c B A.
  LowRankFactors<S> by_factors() const {
    std::vector<Matrix<Real>> a, b;
    std::vector<double> a_weights, b_weights;
    for (std::size_t i = 0; i < sources_.size(); ++i) {
      a.push_back(sources_[i].A.template cast<Real>());
      b.push_back(sources_[i].B.template cast<Real>());
      b_weights.push_back(std::sqrt(std::abs(weights_[i])));
      a_weights.push_back(weights_[i] < 0 ? -b_weights[i] : b_weights[i]);
    }
    LowRankFactors<S> sum;
    sum.groups = sources_[0].groups;
    sum.A = merged(a, a_weights, "A").template cast<S>();
    sum.B = merged(b, b_weights, "B").template cast<S>();
    return sum;
  }

  LowRankFactors<S> by_svd() const {
    Index rank = options_.svd_rank.value_or(0);
    if (rank == 0) {
      for (const LowRankFactors<S>& source : sources_) rank = std::max(rank, source.rank());
    }
    const TruncatedSVD<Real> svd =
        options_.type == CombinationType::svd ? svd_of_sum(rank) : svd_of_merged(rank);
    LowRankFactors<Real> best{svd.V.transpose(), svd.U * svd.sigma.row(0).asDiagonal()};
    if (options_.svd_clamp) clamp_factors(best, *options_.svd_clamp);
    return {best.A.template cast<S>(), best.B.template cast<S>()};
  }
  TruncatedSVD<Real> svd_of_sum(Index rank) const {
    std::vector<LowRankFactors<Real>> parts;
    for (std::size_t i = 0; i < sources_.size(); ++i) {
      parts.push_back(
          {weights_[i] * sources_[i].A.template cast<Real>(), sources_[i].B.template cast<Real>()});
    }
    const LowRankFactors<Real> sum = stacked<Real>(parts);
    return truncated_svd_of_product<Real>(sum.B, sum.A, rank);
  }
  TruncatedSVD<Real> svd_of_merged(Index rank) const {
    std::vector<Matrix<Real>> deltas;
    for (std::size_t i = 0; i < sources_.size(); ++i) {
      const LowRankFactors<S>& own = sources_[i];
      deltas.push_back(static_cast<Real>(own.scaling) *
                       (own.B.template cast<Real>() * own.A.template cast<Real>()));
    }
    return truncated_svd<Real>(merged(deltas, given_, "delta"), rank);
  }

  /// Prunes and sums one kind of tensor by the rules of the type.
  Matrix<Real> merged(std::vector<Matrix<Real>>& tensors, std::span<const double> weights,
                      const char* kind) const {
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      if (rule_.pruning == Pruning::largest) keep_largest(tensors[i], *options_.density);
      if (rule_.pruning != Pruning::random) continue;
      const std::string name = options_.path + ".dare_" + kind + "." + std::to_string(i);
      drop_at_random(tensors[i], *options_.density, RandomStream(options_.seed, name));
    }
    const std::span<const Matrix<Real>> all(tensors);
    if (!rule_.elects) return weighted_sum<Real>(all, weights);
    return disjoint_merge<Real>(all, weights,
                                options_.majority_sign_method.value_or(MajoritySign::total));
  }

  Sources sources_;
  std::span<const double> given_;
  const CombineOptions& options_;
  const CombinationRule& rule_;
  std::vector<double> weights_;  // c_i = w_i s_i
};

}  // namespace detail

/// Combines the sources, changes of one weight (O, D), into factors with scaling 1. Weights may be
/// negative. Computes in WideOf<S> and rounds once. The same seed gives the same bits.
///
/// The rank of the result is
///   - that of the sources for linear, ties, dare_linear, dare_ties and magnitude_prune;
///   - Σ r_i for cat;
///   - min(svd_rank, O, D) for svd and *_svd, for svd also at most Σ r_i. B is U diag(σ), A is Vᵀ.
/// svd costs O((O + D) (Σ r_i)² + (Σ r_i)³) and never forms Δ. The *_svd types prune the full Δ of
/// every source: they hold all of them in WideOf<S> and cost O(O D min(O, D)), see truncated_svd.
///
/// Throws: ConfigError for options that do not fit the type, no sources, a wrong number of weights,
///   a non-finite weight, unequal ranks where the type needs equal ones, and svd or *_svd with
///   groups; ShapeError for shapes that do not fit; Error for a source or result that is not
///   finite.
/// Source: PEFT's add_weighted_adapter and merge_utils.py, with two differences. PEFT up to 0.20
///   multiplies by s_i twice in svd and *_svd; here, as in 0.21, the result is Σ w_i s_i B_i A_i.
///   PEFT uses linear for a single source and so ignores svd_rank and density; here a single source
///   is combined by the given type.
template <class S>
LowRankFactors<S> combine_factors(std::span<const LowRankFactors<S>> sources,
                                  std::span<const double> weights,
                                  const CombineOptions& options = {}) {
  return detail::Combiner<S>(sources, weights, options).run();
}

}  // namespace lora
