// Finds names in a model that are similar to a mistyped one, for messages.
#pragma once

#include <algorithm>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

namespace lora {

/// Computes the Levenshtein distance of the first 64 bytes: the insertions, deletions and
/// replacements that turn a into b.
template <class = void>
std::size_t edit_distance(std::string_view a, std::string_view b) {
  a = a.substr(0, 64);
  b = b.substr(0, 64);
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
    }
  }
  return row[b.size()];
}

namespace detail {

/// The end of `name` with as many dotted segments as `asked`.
template <class = void>
std::string_view same_segments(std::string_view name, std::string_view asked) {
  const auto dots = std::count(asked.begin(), asked.end(), '.');
  std::size_t at = name.size();
  for (auto i = dots; i >= 0; --i) {
    if (at == 0) return name;
    const std::size_t dot = name.rfind('.', at - 1);
    if (dot == name.npos) return name;
    at = dot;
  }
  return name.substr(at + 1);
}

/// Returns "a, b, c": up to three ends of `names` that are nearest to `asked`, those that contain
/// it first. Considers at most 4096 different ends.
template <class Names, class End = std::string_view>
std::string near_names(std::string_view asked, const Names& names) {
  std::set<End> ends;
  for (const auto& name : names) {
    if (ends.size() >= 4096) break;
    const std::string_view end = same_segments(name, asked);
    if (!end.empty()) ends.insert(end);
  }
  std::vector<std::tuple<bool, std::size_t, End>> ranked;
  for (const std::string_view end : ends) {
    ranked.emplace_back(end.find(asked) == end.npos, edit_distance(asked, end), end);
  }
  const auto shown = std::min<std::size_t>(3, ranked.size());
  std::partial_sort(ranked.begin(), ranked.begin() + static_cast<std::ptrdiff_t>(shown),
                    ranked.end());
  std::string text;
  for (std::size_t i = 0; i < shown; ++i)
    text += (i == 0 ? "" : ", ") + std::string(std::get<2>(ranked[i]));
  return text;
}

}  // namespace detail

}  // namespace lora
