// The modules of a model that a configuration selects.
#pragma once

#include <lora/core/printable.hpp>
#include <lora/core/types.hpp>

#include <string>
#include <vector>

namespace lora {

/// A layer of a model as matching sees it.
struct ModuleInfo {
  std::string name;        // dotted path without PEFT's prefixes: "model.layers.0.self_attn.q_proj"
  std::string type;        // "Linear", "Conv1D", "Embedding", "Conv2d", "LayerNorm", ...
  bool is_output = false;  // the layer that computes the logits, which "all-linear" leaves out
};

/// A layer that gets an adapter, with the rank, alpha and scale that the configuration gives it.
struct MatchedModule {
  std::string name;
  Index r;
  double alpha;
  double scaling;
};

/// The result of matching.
struct MatchReport {
  std::vector<MatchedModule> targets;  ///< in the order of the modules
  std::vector<std::string> saved;      ///< trained and saved as a whole
  /// One sentence for each name in the configuration that has no effect, with similar names.
  std::vector<std::string> warnings;
};

namespace detail {

/// The name of the first adapted layer of each layout; empty: none.
struct LayoutsSeen {
  std::string out_in, in_out;
};

/// Returns a warning if fan_in_fan_out fits none of the adapted layers, else an empty string. The
/// field has no effect here, since each layer, or the base's file, knows how its weight is stored.
/// If layers of both kinds are adapted, PEFT writes the value that fits the last one.
inline std::string fan_in_fan_out_warning(bool flag, const LayoutsSeen& seen) {
  const std::string &fits = flag ? seen.in_out : seen.out_in,
                    &other = flag ? seen.out_in : seen.in_out;
  if (!fits.empty() || other.empty()) return {};
  return std::string("fan_in_fan_out = ") + (flag ? "true" : "false") + " has no effect on " +
         in_quotes(other) + (flag ? ", a Linear" : ", a Conv1D") +
         "; the base says how its weight is stored";
}

}  // namespace detail

}  // namespace lora
