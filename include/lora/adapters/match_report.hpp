// What a configuration selects of a model's modules.
#pragma once

#include <lora/core/printable.hpp>
#include <lora/core/types.hpp>

#include <string>
#include <vector>

namespace lora {

/// A layer of a model as matching sees it.
struct ModuleInfo {
  std::string name;  // dotted path without any prefix of PEFT's: "model.layers.0.self_attn.q_proj"
  std::string type;  // "Linear", "Conv1D", "Embedding", "Conv2d", "LayerNorm", ...
  bool is_output = false;  // the layer that gives the logits, which "all-linear" leaves out
};

/// A layer that gets an adapter, with the rank, alpha and scale that the configuration gives it.
struct MatchedModule {
  std::string name;
  Index r;
  double alpha;
  double scaling;
};

/// What matching found.
struct MatchReport {
  std::vector<MatchedModule> targets;  ///< in the order of the modules
  std::vector<std::string> saved;      ///< trained and saved whole
  /// Each a sentence: a name of the configuration that does nothing, with near names.
  std::vector<std::string> warnings;
};

namespace detail {

/// The first adapted layers of either layout, by name; empty: none.
struct LayoutsSeen {
  std::string out_in, in_out;
};

/// What is to be said of a fan_in_fan_out that is true of none of the adapted layers, else nothing.
/// It has no effect anywhere: a layer, or the base's file, knows how a weight is stored. Where
/// layers of both kinds are adapted PEFT writes what the last of them is.
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
