// Checks of the adapter names that LoRAModel's functions take.
#pragma once

#include <lora/core/error.hpp>
#include <lora/layers/adapter.hpp>

#include <algorithm>
#include <string>
#include <vector>

namespace lora::detail {

/// Throws ConfigError for a name that is not in `known`. `where` is the function called.
inline void expect_known(const std::vector<std::string>& names,
                         const std::vector<std::string>& known, const char* where) {
  for (const std::string& name : names) {
    if (std::count(known.begin(), known.end(), name) != 0) continue;
    std::string all;
    for (const std::string& one : known) all += " " + one;
    throw ConfigError("LoRAModel::" + std::string(where) + ": no adapter is called \"" + name +
                      "\"; there are:" + (all.empty() ? " none" : all));
  }
}

/// Throws Error for a name that is in `merged`.
inline void expect_not_merged(const std::vector<std::string>& names,
                              const std::vector<std::string>& merged, const char* where) {
  for (const std::string& name : names) {
    if (std::count(merged.begin(), merged.end(), name) == 0) continue;
    throw Error("LoRAModel::" + std::string(where) + ": adapter \"" + name +
                "\" is merged; call unmerge_adapter first");
  }
}

/// Throws ConfigError for a name that occurs twice.
inline void expect_named_once(const std::vector<std::string>& names, const char* where) {
  for (const std::string& name : names) {
    if (std::count(names.begin(), names.end(), name) == 1) continue;
    throw ConfigError("LoRAModel::" + std::string(where) + ": adapter \"" + name +
                      "\" is named twice");
  }
}

/// Throws ConfigError unless `name` is valid and unused, both in the model and on its layers, which
/// may have adapters that the model does not know.
template <class Model>
void expect_new_name(Model& model, const std::string& name, const char* where) {
  if (model.has_adapter(name)) {
    throw ConfigError("LoRAModel::" + std::string(where) + ": adapter \"" + name +
                      "\" already exists");
  }
  make_adapter<typename Model::Scalar>(name, {});  // checks the name
  model.for_each_layer([&](const NamePath& path, auto& layer) {
    if (!layer.knows(name)) return;
    throw ConfigError("LoRAModel::" + std::string(where) + ": layer \"" + path.str() +
                      "\" has an adapter \"" + name + "\" that was not added by this model");
  });
}

/// Throws ConfigError if another adapter in the list of names and configurations trains biases.
template <class NamedConfigs>
void expect_no_other_bias(const NamedConfigs& adapters, const std::string& name) {
  for (const auto& [other, config] : adapters) {
    if (config.bias == "none") continue;
    throw ConfigError("LoRAModel::add_adapter: adapter \"" + name +
                      "\" trains biases, and so does \"" + other +
                      "\"; only one adapter may, since they belong to the base");
  }
}

}  // namespace lora::detail
