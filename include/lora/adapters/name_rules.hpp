// PEFT's rules for comparing a name in a configuration with the dotted path of a module.
#pragma once

#include <lora/core/printable.hpp>
#include <lora/regex/pattern.hpp>

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora {

namespace detail {

// These are templates so that a program that includes them and matches nothing does not pay for
// compiling them. Tag has no meaning; it only makes the names inside dependent.

/// A list of names. An entry matches a path that it equals, or the end of a path after a dot.
/// Matching a path takes O(segments · log names).
template <class = void>
class BasicNameList {
 public:
  explicit BasicNameList(std::vector<std::string> names) : names_(std::move(names)) {
    for (std::size_t i = 0; i < names_.size(); ++i) index_.emplace(names_[i], i);
  }
  // The index points into the names, which a move leaves in place.
  BasicNameList(BasicNameList&&) = default;
  BasicNameList& operator=(BasicNameList&&) = default;

  struct Hit {
    std::vector<std::size_t> entries;  // for equal entries, only the first
    bool exact = false;                // one of them is the whole path
  };
  const std::vector<std::string>& names() const { return names_; }
  /// Whether entry i is the first with its name.
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
  // Not a hash table: untrusted names could be chosen to collide.
  std::map<std::string_view, std::size_t> index_;
};

/// Compiles the patterns of one configuration. A Pattern bounds its own cost; this bounds the
/// memory and time of all of them together, however many there are.
template <class Tag = void>
class BasicPatternCompiler {
 public:
  static constexpr std::size_t most = 5000000;

  /// Compiles one pattern.
  /// Throws: ConfigError that starts with the field's name and says what is wrong or too much.
  BasicPattern<Tag> operator()(const std::string& field, const std::string& text) {
    try {
      BasicPattern<Tag> pattern(text);
      work_ += pattern.work();
      if (work_ > most) {
        throw ConfigError("the regular expressions of the configuration take more than " +
                          std::to_string(most) + " steps to compile, reached at " +
                          in_quotes(text) + "; use fewer of them or smaller counted repeats");
      }
      return pattern;
    } catch (const ConfigError& error) {
      throw ConfigError("LoRAConfig: " + field + ": " + error.what());
    }
  }

  std::size_t work() const { return work_; }

 private:
  std::size_t work_ = 0;
};

/// A key of rank_pattern or alpha_pattern, which matches the end of a path
/// (`re.match((.*\.)?({key})$, path)`), or a name of modules_to_save, which excludes adapters from
/// paths with whole segments that match it (`re.match((^|.*\.){key}($|\..*), path)`). Keys whose
/// only regular-expression syntax is the dot take a shortcut with the same result.
template <class Tag = void>
class BasicKeyPattern {
 public:
  enum class Where { end, segments };

  /// Compiles the key unless it takes the shortcut.
  /// Throws: as `compile`.
  BasicKeyPattern(BasicPatternCompiler<Tag>& compile, const std::string& field,
                  const std::string& key, Where where)
      : key_(key), where_(where) {
    const auto simple = [](char c) {
      return is_ascii_word(static_cast<unsigned char>(c)) || c == '-' || c == '.';
    };
    if (std::all_of(key.begin(), key.end(), simple)) return;
    compile(field, key);  // refuses "a)(b", which the parentheses around it would make valid
    pattern_ = compile(
        field, where == Where::end ? "(.*\\.)?(" + key + ")$" : "(^|.*\\.)" + key + "($|\\..*)");
  }

  const std::string& key() const { return key_; }

  /// Whether the key matches. The shortcut counts as one step or, for segments, one per character.
  bool matches(std::string_view path, PatternScratch& scratch) const {
    if (pattern_) return pattern_->match(path, scratch);
    scratch.read(path);
    const std::vector<char32_t>& text = scratch.text;
    const std::size_t size = text.size();
    scratch.steps += where_ == Where::end ? 1 : size + 1;
    const bool newline = size > 0 && text.back() == '\n';  // $ also matches before a final newline
    if (where_ == Where::end) {
      return stands_before(text, size) || (newline && stands_before(text, size - 1));
    }
    for (std::size_t end = 0; end <= size; ++end) {
      const bool edge = end == size || text[end] == '.' || (newline && end + 1 == size);
      if (edge && stands_before(text, end)) return true;
    }
    return false;
  }

 private:
  /// Whether the key matches the text up to `end`, from its start or from after a dot. Compares
  /// backwards, because paths differ at their ends.
  bool stands_before(const std::vector<char32_t>& text, std::size_t end) const {
    if (end < key_.size()) return false;
    const std::size_t begin = end - key_.size();
    for (std::size_t i = key_.size(); i-- > 0;) {
      const char32_t c = text[begin + i];
      if (key_[i] == '.' ? c == '\n' : c != static_cast<unsigned char>(key_[i])) return false;
    }
    if (begin == 0) return true;
    const auto dot = text.begin() + static_cast<std::ptrdiff_t>(begin) - 1;
    return *dot == '.' && std::find(text.begin(), dot, U'\n') == dot;
  }

  std::string key_;
  Where where_;
  std::optional<BasicPattern<Tag>> pattern_;  // empty for a key that takes the shortcut
};

/// Finds the index of the layer that contains a path, for layers_to_transform. Without patterns it
/// is the first segment of digits with at least two segments before it and one after it
/// (`.*?\.[^.]*\.(\d+)\.`), so an expert's number inside a layer is not taken. With patterns, the
/// first one for which `.*?\.{pattern}\.(\d+)\.` matches decides. Digits are ASCII.
template <class Tag = void>
class BasicLayerFinder {
  using Pattern = BasicPattern<Tag>;

 public:
  /// Compiles the patterns.
  /// Throws: as `compile`; ConfigError for a pattern with a group or branch that PEFT would take
  ///   for the index, and for a repeated group.
  BasicLayerFinder(BasicPatternCompiler<Tag>& compile, const std::vector<std::string>& patterns) {
    const std::string field = "layers_pattern";
    if (patterns.empty()) patterns_.push_back(compile(field, ".*?\\.[^.]*\\.([0-9]+)\\."));
    for (const std::string& text : patterns) {
      const Pattern alone = compile(field, text);
      const std::string about = "LoRAConfig: layers_pattern: regular expression " + in_quotes(text);
      if (alone.captures() > 0 || alone.top_alternation()) {
        throw ConfigError(
            about + ": PEFT would read the layer's index from this group or branch; write (?:...)");
      }
      if (alone.repeats_group()) {
        throw ConfigError(about + ": a repeated group is not supported here");
      }
      patterns_.push_back(compile(field, ".*?\\." + text + "\\.([0-9]+)\\."));
    }
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
  std::vector<Pattern> patterns_;
};

}  // namespace detail

}  // namespace lora
