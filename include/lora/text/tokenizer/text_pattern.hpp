// Regular expressions with the meaning of Oniguruma, which the tokenizers library uses, for Split
// and Replace of a tokenizer.json. The file may be untrusted, so the size of an expression and the
// steps that it takes on a text are bounded.
#pragma once

#include <lora/core/code_points.hpp>
#include <lora/core/error.hpp>
#include <lora/core/printable.hpp>
#include <lora/text/tokenizer/text_pattern_parser.hpp>
#include <lora/text/tokenizer/text_work.hpp>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora {

/// A compiled, immutable expression. Copies share it; safe to share between threads.
///
/// Supports literals, escapes (\d \w \s \h and complements, \p{L} \p{Lu} \P{N} \p{^P} ..., \t \n \r
/// \xhh \uhhhh), `.`, ^ and $ (at line ends, as in Oniguruma), \A \z \Z \b \B, sets with ranges and
/// nested sets, groups, (?:...), (?i:...), alternation, greedy, lazy and possessive * + ?, {m,n},
/// and look-ahead and look-behind of one character. Rejects everything else by name:
/// back-references, atomic groups, longer look-around, scripts, and under (?i) letters beyond ASCII
/// and classes of letters within a set.
class TextPattern {
 public:
  /// Compiles `text`.
  /// Throws: ConfigError that names the pattern, the position and the reason.
  explicit TextPattern(std::string_view text)
      : program_(std::make_shared<const detail::TextProgram>(
            detail::TextPatternParser(text).program())) {}

  const std::string& text() const { return program_->text; }

 private:
  friend class PatternScan;
  std::shared_ptr<const detail::TextProgram> program_;
};

/// Finds all matches of a pattern in one text, from left to right. The text, the pattern and `work`
/// must outlive it. Backtracks, but remembers where repetitions end and which of their ends have
/// failed, so that published patterns take linear time.
/// Throws: FormatError when `work` is used up.
class PatternScan {
 public:
  struct Match {
    std::size_t begin, end;  // in bytes
  };

  PatternScan(const TextPattern& pattern, std::string_view text, TextWork& work)
      : program_(*pattern.program_), work_(work) {
    count(8 + program_.code.size() / 8 + text.size());
    starts_.reserve(text.size() + 1);
    chars_.reserve(text.size());
    for (std::size_t at = 0; at < text.size();) {
      starts_.push_back(at);
      chars_.push_back(detail::next_code_point(text, at));
    }
    starts_.push_back(text.size());
    runs_.resize(program_.code.size());
  }

  /// Returns the next match, as find_iter of onig does: an empty match may not directly follow the
  /// last match.
  std::optional<Match> next() {
    while (from_ <= chars_.size()) {
      std::size_t end = 0, begin = from_;
      while (begin <= chars_.size() && !match_at(begin, end)) ++begin;
      if (begin > chars_.size()) break;
      if (begin == end && last_end_ == end) {
        from_ = end + 1;
        continue;
      }
      from_ = end;
      last_end_ = end;
      return Match{starts_[begin], starts_[end]};
    }
    from_ = chars_.size() + 1;
    return std::nullopt;
  }

 private:
  using Op = detail::TextOp;
  // What is known about a repetition of one character: chars_[run_from, run_to) all match and the
  // next does not; continuing from any position in [failed_from, failed_to] fails.
  struct Run {
    std::size_t run_from = 1, run_to = 0, failed_from = 1, failed_to = 0;
  };
  // A choice to return to: at `pc` from `at`, or the ends [low, at] (lazy: [at, low]) of the run
  // `pc`.
  struct Choice {
    std::uint32_t pc;
    enum Kind : std::uint8_t { branch, greedy, lazy } kind;
    std::size_t at, low;
  };

  void count(std::size_t steps) {
    if (!work_.take(steps)) work_.give_up("the regular expression " + in_quotes(program_.text));
  }

  std::size_t end_of_run(std::uint32_t pc, std::size_t at) {
    const detail::TextStepOp& step = program_.code[pc];
    const bool open = step.most == detail::TextStepOp::unbounded;
    Run& run = runs_[pc];
    if (open && run.run_from <= at && at <= run.run_to) return run.run_to;
    const std::size_t limit =
        open ? chars_.size() : std::min<std::size_t>(chars_.size(), at + step.most);
    const detail::TextSet& set = program_.sets[step.set];
    std::size_t end = at, steps = 0;
    for (; end < limit; ++end) {
      steps += set.cost(chars_[end]);
      if (!set.contains(chars_[end])) break;
    }
    count(steps);
    if (open) run.run_from = at, run.run_to = end;
    return end;
  }
  void note_failure(Run& run, std::size_t at) const {
    if (run.failed_from > run.failed_to || at + 1 < run.failed_from || at > run.failed_to + 1) {
      run.failed_from = run.failed_to = at;
    } else {
      run.failed_from = std::min(run.failed_from, at);
      run.failed_to = std::max(run.failed_to, at);
    }
  }

  // Returns to the last choice, or returns false if there is none.
  bool go_back(std::uint32_t& pc, std::size_t& at) {
    while (!choices_.empty()) {
      count(1);
      Choice& choice = choices_.back();
      if (choice.kind == Choice::branch) {
        pc = choice.pc;
        at = choice.at;
        choices_.pop_back();
        return true;
      }
      Run& run = runs_[choice.pc];
      note_failure(run, choice.at);
      const bool greedy = choice.kind == Choice::greedy;
      const std::size_t edge = greedy ? run.failed_from : run.failed_to;
      if (edge == choice.low || (greedy ? edge < choice.low : edge > choice.low)) {
        choices_.pop_back();
        continue;
      }
      choice.at = greedy ? edge - 1 : edge + 1;
      pc = choice.pc + 1;
      at = choice.at;
      return true;
    }
    return false;
  }

  bool match_at(std::size_t at, std::size_t& end) {
    choices_.clear();
    for (std::uint32_t pc = 0;;) {
      count(1);
      const detail::TextStepOp& step = program_.code[pc];
      bool good = true;
      switch (step.op) {
        case Op::run:
          good = start_run(pc, at);
          break;
        case Op::split:
          choices_.push_back({step.other, Choice::branch, at, 0});
          pc = step.next;
          continue;
        case Op::jump:
          pc = step.next;
          continue;
        case Op::accept:
          end = at;
          return true;
        default:
          good = holds(step, at);
      }
      if (good) {
        ++pc;
      } else if (!go_back(pc, at)) {
        return false;
      }
    }
  }

  bool start_run(std::uint32_t pc, std::size_t& at) {
    const detail::TextStepOp& step = program_.code[pc];
    const std::size_t end = end_of_run(pc, at), low = at + step.least;
    if (end < low) return false;
    if (step.mode == detail::TextStepOp::lazy) {
      if (low < end) choices_.push_back({pc, Choice::lazy, low, end});
      at = low;
    } else {
      if (step.mode == detail::TextStepOp::greedy && low < end)
        choices_.push_back({pc, Choice::greedy, end, low});
      at = end;
    }
    return true;
  }

  bool word_at(std::size_t at) const {
    return at < chars_.size() && detail::is_regex_word(chars_[at]);
  }
  bool holds(const detail::TextStepOp& step, std::size_t at) {
    const std::size_t n = chars_.size();
    const auto is_in = [&](std::size_t i) {
      if (i >= n) return false;
      const detail::TextSet& set = program_.sets[step.set];
      count(set.cost(chars_[i]));
      return set.contains(chars_[i]);
    };
    switch (step.op) {
      case Op::ahead:
        return is_in(at) != step.negated;
      case Op::behind:
        return (at > 0 && is_in(at - 1)) != step.negated;
      case Op::text_begin:
        return at == 0;
      case Op::text_end:
        return at == n;
      case Op::last_line_end:
        return at == n || (at + 1 == n && chars_[at] == '\n');
      case Op::line_begin:  // Oniguruma has none after a final newline
        return at == 0 || (chars_[at - 1] == '\n' && at < n);
      case Op::line_end:
        return at == n || chars_[at] == '\n';
      default:
        return ((at > 0 && word_at(at - 1)) != word_at(at)) != step.negated;
    }
  }

  const detail::TextProgram& program_;
  TextWork& work_;
  std::vector<char32_t> chars_;
  std::vector<std::size_t> starts_;  // of each character, in bytes
  std::vector<Run> runs_;
  std::vector<Choice> choices_;
  std::size_t from_ = 0;
  std::optional<std::size_t> last_end_;
};

}  // namespace lora
