// The dotted name of a tensor or module, built while walking a model without allocating.
#pragma once

#include <lora/core/types.hpp>

#include <string>
#include <string_view>

namespace lora {

/// A dotted path such as "model.layers.3.q_proj", held as a chain of parts on the stack of the
/// functions that walk the model. Converts to std::string, and compares with one without
/// allocating. It refers to its parent and to the text of its part, so it is valid only during the
/// call that it is passed to.
class NamePath {
 public:
  NamePath(const char* name) : part_(name) {}
  NamePath(std::string_view name) : part_(name) {}
  NamePath(const std::string& name) : part_(name) {}
  /// Appends a part: `parent.part`, or `parent.part.index`. An empty parent or part adds no dot.
  NamePath(const NamePath& parent, std::string_view part, Index index = -1)
      : parent_(&parent), part_(part), index_(index) {}
  NamePath(const NamePath&) = default;
  NamePath& operator=(const NamePath&) = delete;

  std::string str() const {
    std::string text = parent_ != nullptr ? parent_->str() : std::string();
    append(text, part_);
    if (index_ >= 0) append(text, std::to_string(index_));
    return text;
  }
  operator std::string() const { return str(); }

  friend bool operator==(const NamePath& path, std::string_view text) {
    return path.consume(text) && text.empty();
  }

 private:
  static void append(std::string& text, std::string_view part) {
    if (!text.empty() && !part.empty()) text += '.';
    text += part;
  }
  /// Removes this path from the end of `text`, or returns false if `text` does not end with it.
  /// Both str() and this function skip empty parts, so the dots match.
  bool consume(std::string_view& text) const {
    if (index_ >= 0) {
      Index left = index_;
      do {
        if (text.empty() || text.back() != static_cast<char>('0' + left % 10)) return false;
        text.remove_suffix(1);
        left /= 10;
      } while (left > 0);
      if (!take_dot(text, !part_.empty() || has_text(parent_))) return false;
    }
    if (!text.ends_with(part_)) return false;
    text.remove_suffix(part_.size());
    if (parent_ == nullptr) return true;
    if (!part_.empty() && !take_dot(text, has_text(parent_))) return false;
    return parent_->consume(text);
  }
  static bool has_text(const NamePath* path) {
    return path != nullptr &&
           (!path->part_.empty() || path->index_ >= 0 || has_text(path->parent_));
  }
  static bool take_dot(std::string_view& text, bool expected) {
    if (!expected) return true;
    if (text.empty() || text.back() != '.') return false;
    text.remove_suffix(1);
    return true;
  }

  const NamePath* parent_ = nullptr;
  std::string_view part_;
  Index index_ = -1;
};

}  // namespace lora
