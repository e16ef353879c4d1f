// Finds names that are similar to a mistyped one.
#pragma once

#include <lora/adapters/near_names.hpp>

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tools {

/// Returns "--top-k, --top-p": up to three of `names` that contain `asked` or are a few letters
/// away from it, nearest first, or an empty string. Uses the first 64 bytes of `asked`.
inline std::string near_names(std::string_view asked, const std::vector<std::string>& names) {
  asked = asked.substr(0, 64);
  std::vector<std::pair<std::size_t, std::string>> ranked;
  for (const std::string& name : names) {
    const bool contains = !asked.empty() && name.find(asked) != name.npos;
    const std::size_t distance = lora::edit_distance(asked, name);
    if (contains ||
        (distance <= std::max<std::size_t>(2, asked.size() / 3) && distance < asked.size()))
      ranked.emplace_back(distance, name);
  }
  std::sort(ranked.begin(), ranked.end());
  std::string text;
  for (std::size_t i = 0; i < ranked.size() && i < 3; ++i)
    text += (i == 0 ? "" : ", ") + ranked[i].second;
  return text;
}

}  // namespace tools
