// The rules by which PEFT compares a name of a configuration with the dotted path of a module.
#pragma once

#include <lora/adapters/pattern.hpp>
#include <lora/adapters/within_quotes.hpp>

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace LORA_NAMESPACE {

namespace detail {

// Templates, so that a program that includes this and matches nothing does not pay for compiling it: Tag, whatever it is,
// makes the names inside depend on it.

/// A list of names: an entry matches a path that it equals, or that it ends at a dot. O(segments) a
/// path.
template <class = void>
class BasicNameList {
 public:
  explicit BasicNameList(std::vector<std::string> names) : names_(std::move(names)) {
    for (std::size_t i = 0; i < names_.size(); ++i) index_.emplace(names_[i], i);
  }
  BasicNameList(BasicNameList&&) =
      default;  // the index looks into the names, which a move leaves in place
  BasicNameList& operator=(BasicNameList&&) = default;

  struct Hit {
    std::vector<std::size_t> entries;  // the first of several equal ones
    bool exact = false;                // one of them is the whole path
  };
  const std::vector<std::string>& names() const { return names_; }
  /// Whether entry i is the one that stands for its name.
  bool is_first(std::size_t i) const { return index_.at(names_[i]) == i; }

  Hit find(std::string_view path) const {
    Hit hit;
    for (std::size_t at = 0; at != path.npos;) {
      const auto found = index_.find(path.substr(at));
      if (found != index_.end()) {
        hit.entries.push_back(found->second);
        hit.exact = hit.exact || at == 0;
      }
      const std::size_t dot = path.find('.', at);
      at = dot == path.npos ? dot : dot + 1;
    }
    return hit;
  }

 private:
  std::vector<std::string> names_;
  std::unordered_map<std::string_view, std::size_t> index_;
};

/// One key of rank_pattern or alpha_pattern (`re.match((.*\.)?({key})$, path)`: the end of the
/// path), or one name of modules_to_save as it keeps adapters away
/// (`re.match((^|.*\.){key}($|\..*), path)`: whole segments anywhere). Keys without
/// regular-expression syntax other than the dot take a short way that gives the same answer.
template <class Tag = void>
class BasicKeyPattern {
  using Pattern = BasicPattern<Tag>;

 public:
  enum class Where { end, segments };

  BasicKeyPattern(const std::string& field, const std::string& key, Where where)
      : key_(key), where_(where) {
    const auto simple = [](char c) {
      return is_ascii_word(static_cast<unsigned char>(c)) || c == '-' || c == '.';
    };
    if (std::all_of(key.begin(), key.end(), simple)) return;
    try {
      const Pattern alone(key);  // so that "a)(b" does not become whole by what stands around it
      pattern_.emplace(where == Where::end ? "(.*\\.)?(" + key + ")$"
                                           : "(^|.*\\.)" + key + "($|\\..*)");
    } catch (const ConfigError& error) {
      throw ConfigError("LoRAConfig: " + field + ": " + error.what());
    }
  }

  const std::string& key() const { return key_; }

  bool matches(std::string_view path, PatternScratch& scratch) const {
    if (pattern_) return pattern_->match(path, scratch);
    const bool plain =
        std::all_of(path.begin(), path.end(), [](char c) { return c > 0 && c != '\n'; });
    if (!plain) return general().match(path, scratch);
    if (where_ == Where::end) {
      if (path.size() < key_.size()) return false;
      const std::size_t at = path.size() - key_.size();
      return (at == 0 || path[at - 1] == '.') && same(path.substr(at));
    }
    for (std::size_t at = 0; at != path.npos;) {
      const std::size_t end = at + key_.size();
      if (end <= path.size() && (end == path.size() || path[end] == '.') &&
          same(path.substr(at, key_.size())))
        return true;
      const std::size_t dot = path.find('.', at);
      at = dot == path.npos ? dot : dot + 1;
    }
    return false;
  }

 private:
  bool same(std::string_view part) const {  // backwards, because paths differ at their ends
    for (std::size_t i = key_.size(); i-- > 0;) {
      if (key_[i] != part[i] && key_[i] != '.') return false;
    }
    return true;
  }
  Pattern general() const {
    return Pattern(where_ == Where::end ? "(.*\\.)?(" + key_ + ")$"
                                        : "(^|.*\\.)" + key_ + "($|\\..*)");
  }

  std::string key_;
  Where where_;
  std::optional<Pattern> pattern_;  // none for a key that takes the short way
};

/// The index of the layer that a path lies in, for layers_to_transform. Without a pattern it is the
/// first segment of digits that has two segments before it and one behind (`.*?\.[^.]*\.(\d+)\.`,
/// so that an expert's number inside a layer is not taken); with patterns the first of them for
/// which `.*?\.{pattern}\.(\d+)\.` matches. Digits are ASCII here.
template <class Tag = void>
class BasicLayerFinder {
  using Pattern = BasicPattern<Tag>;

 public:
  explicit BasicLayerFinder(const std::vector<std::string>& patterns) {
    if (patterns.empty()) patterns_.emplace_back(".*?\\.[^.]*\\.([0-9]+)\\.");
    for (const std::string& text : patterns) add(text);
  }

  std::optional<Index> layer(std::string_view path, PatternScratch& scratch) const {
    for (const Pattern& pattern : patterns_) {
      const auto digits = pattern.match_group(path, scratch);
      if (!digits) continue;
      Index n = 0;
      for (std::size_t i = digits->first; i < digits->second; ++i) {
        n = std::min<Index>(n * 10 + static_cast<Index>(scratch.text[i] - '0'), Index{1} << 40);
      }
      return n;
    }
    return std::nullopt;
  }

 private:
  void add(const std::string& text) {
    try {
      const Pattern alone(text);
      if (alone.captures() > 0 || alone.top_alternation()) {
        throw ConfigError(
            "regular expression " + within_quotes(text) +
            ": PEFT would read the layer's index from this group or branch; write (?:...)");
      }
      if (alone.repeats_group()) {
        throw ConfigError("regular expression " + within_quotes(text) +
                          ": a repeated group is not supported here");
      }
      patterns_.emplace_back(".*?\\." + text + "\\.([0-9]+)\\.");
    } catch (const ConfigError& error) {
      throw ConfigError(std::string("LoRAConfig: layers_pattern: ") + error.what());
    }
  }

  std::vector<Pattern> patterns_;
};

}  // namespace detail

}  // namespace LORA_NAMESPACE
