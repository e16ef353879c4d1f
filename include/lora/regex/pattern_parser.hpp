// Parses a regular expression into the code of `Pattern`: defines the supported part of Python's
// syntax and its limits, since a pattern may come from an untrusted file.
#pragma once

#include <lora/core/error.hpp>
#include <lora/core/printable.hpp>
#include <lora/regex/pattern_code.hpp>
#include <lora/regex/pattern_text.hpp>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora {

namespace detail {

/// A recursive-descent parser from text to code. Recursion is as deep as the groups, at most
/// max_depth.
template <class Tag = void>
class PatternParser : private PatternText<Tag> {
  using Text = PatternText<Tag>;
  using CharSet = detail::CharSet<Tag>;
  using PatternStep = detail::PatternStep<Tag>;
  using PatternCode = std::vector<PatternStep>;

 public:
  static constexpr std::size_t max_length = Text::max_length, max_size = 8192, max_looks = 64;
  static constexpr int max_depth = 64;

  explicit PatternParser(std::string_view pattern) : PatternText<Tag>(pattern) {
    code = alternatives(0);
    if (!at_end()) fail("unbalanced )");
    append(code, {{PatternOp::accept}});
  }

  PatternCode code;
  std::vector<CharSet> sets;
  std::vector<PatternCode> looks;  // bodies of look-aheads, inner before outer
  int captures = 0;
  std::size_t work = 0;  // steps written, with those of discarded and copied fragments
  bool top_alternation = false, repeats_group = false;
  using Text::ascii_only;

 private:
  void append(PatternCode& to, const PatternCode& from) {
    if (to.size() + from.size() > max_size) {
      fail("compiles to more than " + std::to_string(max_size) +
           " steps; use smaller counted repeats");
    }
    to.insert(to.end(), from.begin(), from.end());
    work += from.size();
  }
  static PatternStep split(std::size_t prefer, std::size_t other) {
    return {PatternOp::split, static_cast<std::int32_t>(prefer), static_cast<std::int32_t>(other)};
  }

  /// Parses a|b|c. Each split prefers the alternative on its left.
  PatternCode alternatives(int depth) {
    if (depth > max_depth) fail("groups are nested deeper than " + std::to_string(max_depth));
    std::vector<PatternCode> branches;
    std::size_t rest = 0;  // steps from this branch on, with their splits and jumps
    do {
      branches.push_back(sequence(depth));
      rest += branches.back().size() + 2;
    } while (take('|'));
    rest -= 2;
    if (depth == 0) top_alternation = branches.size() > 1;
    PatternCode all;
    for (std::size_t i = 0; i + 1 < branches.size(); ++i) {
      const std::size_t size = branches[i].size() + 2;
      rest -= size;
      append(all, {split(1, size)});
      append(all, branches[i]);
      append(all, {{PatternOp::jump, static_cast<std::int32_t>(rest + 1)}});
    }
    append(all, branches.back());
    return all;
  }

  PatternCode sequence(int depth) {
    PatternCode all;
    PatternCode item;  // the last item parsed, which a quantifier would repeat
    enum { nothing, anchor, thing, group, repeated } kind = nothing;
    while (!at_end() && peek() != '|' && peek() != ')') {
      const std::size_t start = position_;
      Index lo = 0, hi = 0;
      if (quantifier(lo, hi)) {
        if (kind == nothing || kind == anchor) fail_at(start, "nothing to repeat");
        if (kind == repeated) fail_at(start, "multiple repeat");
        if (peek() == '+')
          fail_at(start, "possessive quantifiers are not supported; leave the + out");
        repeats_group = repeats_group || kind == group;
        item = repeat(item, lo, hi, take('?'));
        kind = repeated;
        continue;
      }
      if (skip_comment()) continue;
      append(all, item);
      bool is_anchor = false;
      item = atom(depth, is_anchor);
      kind = is_anchor ? anchor : text_[start] == '(' ? group : thing;
    }
    append(all, item);
    return all;
  }

  /// Reads * + ? {m} {m,} {,n} {m,n}; hi < 0 means unbounded. Any other brace is an ordinary
  /// character.
  bool quantifier(Index& lo, Index& hi) {
    if (take('*')) return lo = 0, hi = -1, true;
    if (take('+')) return lo = 1, hi = -1, true;
    if (take('?')) return lo = 0, hi = 1, true;
    const std::size_t start = position_;
    if (!take('{')) return false;
    std::optional<Index> first = number(), second = first;
    const bool comma = take(',');
    if (comma) second = number();
    if ((!comma && !first) || !take('}')) {
      position_ = start;
      return false;
    }
    lo = first.value_or(0);
    hi = second.value_or(-1);
    if (hi >= 0 && hi < lo) fail_at(start, "the least number of repeats is above the largest");
    return true;
  }
  /// Repeats body lo to hi times; hi < 0 means unbounded. Greedy and lazy repeats accept the same
  /// texts with other priorities.
  PatternCode repeat(const PatternCode& body, Index lo, Index hi, bool lazy) {
    PatternCode all;
    if (body.empty()) return all;
    for (Index i = 0; i < lo; ++i) append(all, body);
    const auto choose = [lazy](std::size_t enter, std::size_t leave) {
      return lazy ? split(leave, enter) : split(enter, leave);
    };
    if (hi < 0) {
      append(all, {choose(1, body.size() + 2)});
      append(all, body);
      append(all, {{PatternOp::jump, -static_cast<std::int32_t>(body.size() + 1)}});
      return all;
    }
    for (Index left = hi - lo; left > 0; --left) {
      append(all, {choose(1, static_cast<std::size_t>(left) * (body.size() + 1))});
      append(all, body);
    }
    return all;
  }

  bool skip_comment() {
    if (peek() != '(' || peek(1) != '?' || peek(2) != '#') return false;
    const std::size_t start = position_;
    while (!at_end() && peek() != ')') ++position_;
    if (!take(')')) fail_at(start, "comment without its )");
    return true;
  }

  PatternCode atom(int depth, bool& is_anchor) {
    const std::size_t start = position_;
    const char32_t c = text_[position_++];
    is_anchor = c == '^' || c == '$';
    if (c == '^') return {{PatternOp::text_start}};
    if (c == '$') return {{PatternOp::line_end}};
    if (c == '.') return {{PatternOp::dot}};
    if (c == '(') return parenthesis(depth, start);
    if (c == '[') return set_code(bracket(start));
    if (c == '\\') return escape(start, is_anchor);
    return literal(c);
  }
  PatternCode literal(char32_t c) {
    if (!ignore_case_) return {{PatternOp::character, static_cast<std::int32_t>(c)}};
    CharSet set;
    set.add(c, c);
    return set_code(std::move(set));
  }
  /// Under (?i), a set contains both cases of each of its letters. Beyond ASCII this would need
  /// Unicode's tables, so pattern and text must be ASCII.
  PatternCode set_code(CharSet set) {
    if (ignore_case_) {
      if (!set.wide.empty()) fail("(?i) is supported for ASCII only");
      ascii_only = true;
      for (char32_t c = 'a'; c <= 'z'; ++c) {
        const char32_t upper = c - 'a' + 'A';
        if (set.ascii[c] || set.ascii[upper]) set.ascii.set(c), set.ascii.set(upper);
      }
    }
    work += sizeof(CharSet) / sizeof(PatternStep) + set.wide.size();
    sets.push_back(std::move(set));
    return {{PatternOp::set, static_cast<std::int32_t>(sets.size() - 1)}};
  }

  PatternCode parenthesis(int depth, std::size_t start) {
    bool capturing = true;
    const bool ignore_case = ignore_case_;
    if (take('?')) {
      capturing = peek() == 'P';
      if (capturing) {
        ++position_;
        group_name(start);
      } else if (peek() == '=' || peek() == '!') {
        return look_ahead(depth, start);
      } else if (take('i') || (peek() == '-' && peek(1) == 'i')) {
        if (peek() == ')' && start == 0) return ++position_, ignore_case_ = true, PatternCode();
        if (peek() == ')')
          fail_at(start, "flags for the whole pattern must stand at its start; write (?i:...)");
        ignore_case_ = !take('-');
        if (!ignore_case_) ++position_;
        if (!take(':')) fail_at(start, unsupported_group());
      } else if (!take(':')) {
        fail_at(start, unsupported_group());
      }
    }
    const bool first = capturing && ++captures == 1;
    if (first && in_look_)
      fail_at(start, "the first capturing group is in a look-ahead; write (?:...) there");
    PatternCode body = alternatives(depth + 1);
    if (!take(')')) fail_at(start, "group without its )");
    ignore_case_ = ignore_case;
    if (!first) return body;
    PatternCode saved{{PatternOp::save, 0}};
    append(saved, body);
    saved.push_back({PatternOp::save, 1});
    return saved;
  }
  /// Parses (?=...) and (?!...). The body is kept apart: it is matched at all positions at once.
  PatternCode look_ahead(int depth, std::size_t start) {
    const bool negated = text_[position_++] == '!', outer = std::exchange(in_look_, true);
    PatternCode body = alternatives(depth + 1);
    if (!take(')')) fail_at(start, "group without its )");
    append(body, {{PatternOp::accept}});
    in_look_ = outer;
    looks_size_ += body.size();
    work += 4 * body.size();  // the memory of Look::before
    if (looks.size() == max_looks || looks_size_ > max_size)
      fail_at(start, "more look-aheads than " + std::to_string(max_looks) + ", or larger than " +
                         std::to_string(max_size) + " steps");
    looks.push_back(std::move(body));
    return {{PatternOp::look, static_cast<std::int32_t>(looks.size() - 1), negated ? 1 : 0}};
  }
  void group_name(std::size_t start) {
    if (peek() == '=') fail_at(start, "back-references are not supported");
    if (!take('<')) fail_at(start, "unknown extension (?P");
    std::string name;
    for (; is_ascii_word(peek()); ++position_) name.push_back(static_cast<char>(peek()));
    if (name.empty() || (name[0] >= '0' && name[0] <= '9') || !take('>'))
      fail_at(start, "bad group name");
    if (!names_.insert(name).second)
      fail_at(start, "the group name " + printable(name) + " is used twice");
  }
  std::string unsupported_group() const {
    const char32_t c = peek();
    if (c == '<')
      return "look-behind is not supported; write the text before it as part of the pattern, which "
             "must match the whole name";
    if (c == '(') return "conditional groups are not supported; write both cases with |";
    if (c == '>') return "atomic groups are not supported; write (?:...)";
    return "inline flags other than i and other (?...) extensions are not supported";
  }

  PatternCode escape(std::size_t start, bool& is_anchor) {
    if (at_end()) fail_at(start, "a backslash ends the pattern");
    const char32_t c = text_[position_++];
    is_anchor = c == 'A' || c == 'Z' || c == 'b' || c == 'B';
    ascii_only = ascii_only || c == 'b' || c == 'B';
    if (c == 'A') return {{PatternOp::text_start}};
    if (c == 'Z') return {{PatternOp::text_end}};
    if (is_anchor) return {{c == 'b' ? PatternOp::word_edge : PatternOp::not_word_edge}};
    CharSet set;
    if (class_escape(c, set)) return set_code(std::move(set));
    return literal(character_escape(c, start));
  }

  using Text::at_end, Text::bracket, Text::character_escape, Text::class_escape, Text::fail,
      Text::fail_at, Text::number, Text::peek, Text::position_, Text::take, Text::text_;

  std::size_t looks_size_ = 0;
  bool ignore_case_ = false, in_look_ = false;
  std::set<std::string> names_;
};

}  // namespace detail

}  // namespace lora
