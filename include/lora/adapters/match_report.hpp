// What a configuration selects of a model's modules.
#pragma once

#include <lora/core/types.hpp>

#include <string>
#include <vector>

namespace LORA_NAMESPACE {

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

}  // namespace LORA_NAMESPACE
