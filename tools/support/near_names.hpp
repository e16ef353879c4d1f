// Finds names that are similar to a mistyped one.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tools {

/// Computes the Levenshtein distance: the insertions, deletions and replacements that turn a into
/// b.
inline std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i - 1] != b[j - 1] ? 1 : 0);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
    }
  }
  return row[b.size()];
}

/// Returns "--top-k, --top-p": up to three of `names` that contain `asked` or are a few letters
/// away from it, nearest first, or an empty string. Uses the first 64 bytes of `asked`.
inline std::string near_names(std::string_view asked, const std::vector<std::string>& names) {
  asked = asked.substr(0, 64);
  std::vector<std::pair<std::size_t, std::string>> ranked;
  for (const std::string& name : names) {
    const bool contains = !asked.empty() && name.find(asked) != name.npos;
    const std::size_t distance = edit_distance(asked, name);
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
