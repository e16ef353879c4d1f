// Texts before which a text that comes piece by piece is over.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora {

/// Lets a text pass up to the stop string that ends first, and holds back what may be the beginning
/// of one. What passes does not depend on how the text is cut into pieces. One text, one object.
class StopStrings {
 public:
  /// None of them empty.
  explicit StopStrings(std::vector<std::string> stops = {}) : stops_(std::move(stops)) {}

  bool found() const { return found_; }

  /// What of the text so far may be shown now. Empty once a stop string was found.
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
  /// The text is over: what was held back.
  std::string finish() { return std::exchange(held_, {}); }

 private:
  /// Length of the longest end of held_ with which some stop string begins.
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
