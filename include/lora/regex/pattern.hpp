// Regular expressions with the meaning of Python's `re`, for the patterns of adapter
// configurations. A pattern may come from an untrusted file, so its length, compiled size and
// nesting are bounded, and matching takes O(size · characters) steps for any pattern (Thompson's
// simulation with Pike's priorities). name_rules.hpp and matching.hpp bound the total of many
// patterns.
#pragma once

#include <lora/core/code_points.hpp>
#include <lora/core/error.hpp>
#include <lora/core/printable.hpp>
#include <lora/regex/pattern_parser.hpp>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora {

/// The workspace that successive matches share, and the number of steps that they took.
struct PatternScratch {
  struct Thread {
    std::int32_t pc;
    std::size_t slots[2];
  };
  std::string bytes;  // the source of `text`
  std::vector<char32_t> text;
  std::vector<Thread> current, next, pending;
  std::vector<std::vector<bool>> looks;  // where each look-ahead matches
  std::vector<std::size_t> entered;      // steps whose predecessors are not entered yet
  std::vector<std::uint64_t> seen;       // per step, the last visit that entered it
  std::uint64_t visit = 0;               // one per position and match, so that nothing is cleared
  std::uint64_t steps = 0;

  /// Decodes s into `text`, once for all patterns that are matched against one path in turn.
  template <class = void>
  void read(std::string_view s) {
    if (s == bytes) return;
    detail::decode_utf8(s, text);
    bytes = s;
  }
};

/// A compiled, immutable pattern. Threads may share it but not a Scratch.
///
/// Means what Python's `re` means for str patterns: literals, escapes (\. \d \w \s \D \W \S \b \B
/// \A \Z \n \t \xhh \uhhhh ...), sets, `.`, ^, $ (also before a final newline), groups, named
/// groups, look-ahead, (?i) (?i:...) (?-i:...) for ASCII, alternation, greedy and lazy * + ? {m}
/// {m,} {,n} {m,n}. Text is UTF-8, and one character is one code point. Rejects back-references,
/// look-behind, conditional and atomic groups, possessive quantifiers, other inline flags, octal
/// escapes, and whatever Python rejects.
template <class Tag = void>
class BasicPattern {
 public:
  using Scratch = PatternScratch;

  /// Compiles `text`. The limits of PatternParser bound time and memory: 4096 bytes, 8192 steps
  /// with counted repeats written out, 64 nested groups.
  /// Throws: ConfigError that names the pattern, the position and the reason.
  explicit BasicPattern(std::string_view text) : text_(text) {
    detail::PatternParser<Tag> parser(text_);
    code_ = std::move(parser.code);
    sets_ = std::move(parser.sets);
    for (auto& body : parser.looks) looks_.push_back(Look(std::move(body)));
    captures_ = parser.captures;
    work_ = parser.work;
    ascii_only_ = parser.ascii_only;
    top_alternation_ = parser.top_alternation;
    repeats_group_ = parser.repeats_group;
  }

  const std::string& text() const { return text_; }
  std::size_t size() const { return code_.size(); }
  /// Returns the steps that compilation took, at least size(). A bound on many patterns adds them
  /// up.
  std::size_t work() const { return work_; }
  int captures() const { return captures_; }
  /// Whether a | is outside every group, so that text put before or after the pattern would join
  /// only one branch.
  bool top_alternation() const { return top_alternation_; }

  /// Whether a quantifier follows a group.
  bool repeats_group() const { return repeats_group_; }

  /// Returns `re.fullmatch(pattern, s) is not None`.
  /// Throws: ConfigError if s is not ASCII and the pattern has \d \w \s \b, a complement of these
  ///   or (?i), which would need Unicode's tables.
  bool full_match(std::string_view s, Scratch& scratch) const {
    return run(s, Goal::whole, scratch, nullptr);
  }
  bool full_match(std::string_view s) const {
    Scratch scratch;
    return full_match(s, scratch);
  }
  /// Returns `re.match(pattern, s) is not None`: whether a prefix of s matches. Throws as
  /// full_match does.
  bool match(std::string_view s, Scratch& scratch) const {
    return run(s, Goal::prefix, scratch, nullptr);
  }
  bool match(std::string_view s) const {
    Scratch scratch;
    return match(s, scratch);
  }
  /// Returns `re.match(pattern, s).group(1)` as (begin, end) in code points, or nullopt if nothing
  /// matches or the group took no part. May differ from Python if repeats_group() and the repeated
  /// group can match the empty text: a backtracking engine may then prefer another of the possible
  /// matches.
  std::optional<std::pair<std::size_t, std::size_t>> match_group(std::string_view s,
                                                                 Scratch& scratch) const {
    std::size_t slots[2];
    if (!run(s, Goal::prefix, scratch, slots) || slots[0] == unset || slots[1] == unset)
      return std::nullopt;
    return std::pair{slots[0], slots[1]};
  }

 private:
  enum class Goal { whole, prefix };
  static constexpr std::size_t unset = static_cast<std::size_t>(-1);

  bool run(std::string_view s, Goal goal, Scratch& m, std::size_t* slots) const {
    m.read(s);
    if (ascii_only_ &&
        std::any_of(m.text.begin(), m.text.end(), [](char32_t c) { return c >= 128; })) {
      throw ConfigError(
          "regular expression " + in_quotes(text_) +
          ": \\d, \\w, \\s, \\b and (?i) are supported for ASCII text only, not for " +
          in_quotes(s));
    }
    if (m.seen.size() < code_.size()) m.seen.resize(code_.size());
    for (std::size_t k = 0; k < looks_.size(); ++k) look(m, k);
    m.current.clear();
    ++m.visit;
    follow(m, m.current, {0, {unset, unset}}, 0);
    bool found = false;
    for (std::size_t at = 0; at <= m.text.size() && !m.current.empty(); ++at) {
      m.next.clear();
      ++m.visit;
      for (const Scratch::Thread& t : m.current) {
        ++m.steps;
        const detail::PatternStep<Tag>& step = code_[static_cast<std::size_t>(t.pc)];
        if (step.op == detail::PatternOp::accept) {
          if (goal == Goal::whole && at < m.text.size()) continue;
          if (slots == nullptr) return true;
          std::copy(t.slots, t.slots + 2, slots);
          found = true;
          break;  // later threads have lower priority
        }
        if (at < m.text.size() && consumes(step, m.text[at])) {
          follow(m, m.next, {t.pc + 1, {t.slots[0], t.slots[1]}}, at + 1);
        }
      }
      m.current.swap(m.next);
    }
    return found;
  }

  bool consumes(const detail::PatternStep<Tag>& step, char32_t c) const {
    switch (step.op) {
      case detail::PatternOp::character:
        return static_cast<char32_t>(step.a) == c;
      case detail::PatternOp::set:
        return sets_[static_cast<std::size_t>(step.a)].contains(c);
      default:
        return c != '\n';
    }
  }

  /// Adds every consuming step that is reachable from `from` without consuming to `list`, in order
  /// of priority.
  void follow(Scratch& m, std::vector<Scratch::Thread>& list, Scratch::Thread from,
              std::size_t at) const {
    using Op = detail::PatternOp;
    m.pending.clear();
    m.pending.push_back(from);
    while (!m.pending.empty()) {
      Scratch::Thread t = m.pending.back();
      m.pending.pop_back();
      ++m.steps;
      const auto pc = static_cast<std::size_t>(t.pc);
      if (m.seen[pc] == m.visit) continue;
      m.seen[pc] = m.visit;
      const detail::PatternStep<Tag>& step = code_[pc];
      if (step.op == Op::split) {
        m.pending.push_back({t.pc + step.b, {t.slots[0], t.slots[1]}});
        m.pending.push_back({t.pc + step.a, {t.slots[0], t.slots[1]}});
      } else if (step.op == Op::jump) {
        m.pending.push_back({t.pc + step.a, {t.slots[0], t.slots[1]}});
      } else if (step.op == Op::save) {
        t.slots[step.a] = at;
        m.pending.push_back({t.pc + 1, {t.slots[0], t.slots[1]}});
      } else if (step.op >= Op::text_start && step.op <= Op::look) {
        if (holds(step, m, at)) m.pending.push_back({t.pc + 1, {t.slots[0], t.slots[1]}});
      } else {
        list.push_back(t);
      }
    }
  }

  static bool holds(const detail::PatternStep<Tag>& step, const Scratch& m, std::size_t at) {
    using Op = detail::PatternOp;
    const std::vector<char32_t>& text = m.text;
    const std::size_t n = text.size();
    const Op op = step.op;
    if (op == Op::look) return m.looks[static_cast<std::size_t>(step.a)][at] != (step.b != 0);
    if (op == Op::text_start) return at == 0;
    if (op == Op::text_end) return at == n;
    if (op == Op::line_end) return at == n || (at + 1 == n && text[at] == '\n');
    if (n == 0) return false;  // neither \b nor \B matches an empty text (Python up to 3.13)
    const bool before = at > 0 && detail::is_ascii_word(text[at - 1]);
    const bool after = at < n && detail::is_ascii_word(text[at]);
    return (before != after) == (op == Op::word_edge);
  }

  /// The body of a look-ahead and the predecessors of each of its steps.
  struct Look {
    explicit Look(std::vector<detail::PatternStep<Tag>> body)
        : code(std::move(body)), before(code.size()) {
      for (std::size_t pc = 0; pc < code.size(); ++pc)
        detail::for_each_successor(code, pc, [&](std::size_t next) { before[next].push_back(pc); });
    }
    std::vector<detail::PatternStep<Tag>> code;
    std::vector<std::vector<std::size_t>> before;
  };

  /// Records the positions at which look-ahead k matches, from the last to the first. A step leads
  /// to the end of the body if it consumes the character and the next step leads there, or if it
  /// enters a step that does. So each position takes O(size), whatever the pattern repeats.
  void look(Scratch& m, std::size_t k) const {
    const Look& body = looks_[k];
    const std::size_t n = m.text.size(), size = body.code.size();
    if (m.looks.size() <= k) m.looks.resize(k + 1);
    m.looks[k].assign(n + 1, false);
    std::vector<bool> leads(size), behind(size);
    for (std::size_t at = n + 1; at-- > 0;) {
      leads.swap(behind);
      leads.assign(size, false);
      m.steps += size;
      const auto enter = [&](std::size_t pc) {
        if (leads[pc]) return;
        leads[pc] = true;
        m.entered.push_back(pc);
      };
      for (std::size_t pc = 0; pc < size; ++pc) {
        const detail::PatternStep<Tag>& step = body.code[pc];
        if (step.op == detail::PatternOp::accept || (step.op <= detail::PatternOp::dot && at < n &&
                                                     behind[pc + 1] && consumes(step, m.text[at])))
          enter(pc);
      }
      while (!m.entered.empty()) {
        const std::size_t pc = m.entered.back();
        m.entered.pop_back();
        for (const std::size_t from : body.before[pc]) {
          const detail::PatternStep<Tag>& step = body.code[from];
          if (step.op < detail::PatternOp::text_start || step.op > detail::PatternOp::look ||
              holds(step, m, at))
            enter(from);
        }
      }
      m.looks[k][at] = leads[0];
    }
  }

  std::string text_;
  std::vector<detail::PatternStep<Tag>> code_;
  std::vector<detail::CharSet<Tag>> sets_;
  std::vector<Look> looks_;
  int captures_ = 0;
  std::size_t work_ = 0;
  bool ascii_only_ = false, top_alternation_ = false, repeats_group_ = false;
};

/// The pattern to use; the template is compiled only where it is used.
using Pattern = BasicPattern<>;

}  // namespace lora
