// What merging makes, before it takes effect.
#pragma once

#include <lora/layers/adapter_set.hpp>
#include <lora/weights/frozen_weight.hpp>

namespace lora {

/// Whether a merge looks at its result before it takes effect.
enum class SafeMerge { no, yes };

/// A merged weight that is ready to act: merging a model computes one for each layer, and only then
/// commits them all, so that an error leaves every layer as it was.
template <class S>
struct MergedWeight {
  /// Of all adapters in it, in the order of merging; the AdapterSet has them once it acts.
  std::vector<std::string> names;
  FrozenWeight<S> weight;
  Matrix<S> bias;  ///< Σ s bias (1, O), what is added to the layer's bias; empty: nothing
};

/// The names to merge: those asked for, after the ones already merged. Without names the active
/// ones. Throws ConfigError, with the names there are, for an unknown one, Error when one of them
/// is merged already.
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

/// Throws Error, naming the adapters, when a safe merge's result over a layer with this bias is not
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
