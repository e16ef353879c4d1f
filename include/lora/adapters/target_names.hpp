// Names given modules for target_modules.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

namespace lora {

/// A module's name within its parent: the part after the last dot.
inline std::string last_name(const std::string& path) { return path.substr(path.rfind('.') + 1); }

/// Returns a list for target_modules that selects exactly `modules` from `all`: their last names,
/// sorted, if these select no others, else the whole paths.
/// Allocates: the result.
/// Source: what PEFT writes for "all-linear".
inline std::vector<std::string> target_names(const std::vector<std::string>& modules,
                                             const std::vector<std::string>& all) {
  std::vector<std::string> ends;
  for (const std::string& path : modules) ends.push_back(last_name(path));
  std::sort(ends.begin(), ends.end());
  ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
  std::size_t selected = 0;
  for (const std::string& path : all)
    selected += std::binary_search(ends.begin(), ends.end(), last_name(path));
  return selected == modules.size() ? ends : modules;
}

}  // namespace lora
