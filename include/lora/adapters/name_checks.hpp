// What LoRAModel's calls expect of the names of adapters that they are given.
#pragma once

#include <lora/core/error.hpp>

#include <algorithm>
#include <string>
#include <vector>

namespace lora::detail {

/// Throws: ConfigError for a name that is not among `known`. `where` is the call.
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

/// Throws: Error for a name that is among `merged`.
inline void expect_not_merged(const std::vector<std::string>& names,
                              const std::vector<std::string>& merged, const char* where) {
  for (const std::string& name : names) {
    if (std::count(merged.begin(), merged.end(), name) == 0) continue;
    throw Error("LoRAModel::" + std::string(where) + ": adapter \"" + name +
                "\" is merged; call unmerge_adapter first");
  }
}

/// Throws: ConfigError for a name that stands there twice.
inline void expect_named_once(const std::vector<std::string>& names, const char* where) {
  for (const std::string& name : names) {
    if (std::count(names.begin(), names.end(), name) == 1) continue;
    throw ConfigError("LoRAModel::" + std::string(where) + ": adapter \"" + name +
                      "\" is named twice");
  }
}

}  // namespace lora::detail
