// Ends a streamed text before the first stop string.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora {

/// Passes a text through up to the stop string that ends first, and holds back what may be the
/// beginning of one. The output does not depend on how the text is cut into pieces. Use one object
/// per text.
class StopStrings {
 public:
  /// Takes the stop strings, none of them empty.
  explicit StopStrings(std::vector<std::string> stops = {}) : stops_(std::move(stops)) {}

  bool found() const { return found_; }

  /// Adds `text` and returns what may be shown now: nothing once a stop string was found.
  std::string push(std::string_view text) {
    if (found_) return {};
    if (stops_.empty()) return std::string(text);
    for (const char c : text) {
      held_ += c;
      std::size_t longest = 0;
      for (const std::string& stop : stops_) {
        if (held_.ends_with(stop)) longest = std::max(longest, stop.size());
      }
      if (longest == 0) continue;
      found_ = true;
      held_.resize(held_.size() - longest);
      return std::exchange(held_, {});
    }
    std::string passed = held_.substr(0, held_.size() - beginning());
    held_.erase(0, passed.size());
    return passed;
  }
  /// Ends the text and returns what was held back.
  std::string finish() { return std::exchange(held_, {}); }

 private:
  /// Returns the length of the longest suffix of held_ that begins some stop string.
  std::size_t beginning() const {
    std::size_t longest = 0;
    for (const std::string& stop : stops_) {
      for (std::size_t n = std::min(stop.size() - 1, held_.size()); n > longest; --n) {
        if (held_.compare(held_.size() - n, n, stop, 0, n) == 0) longest = n;
      }
    }
    return longest;
  }

  std::vector<std::string> stops_;
  std::string held_;
  bool found_ = false;
};

}  // namespace lora
