// Parses a regular expression of a tokenizer.json into steps for TextPattern.
#pragma once

#include <lora/text/tokenizer/text_program.hpp>
#include <lora/text/tokenizer/text_set_reader.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora {

namespace detail {

/// A recursive-descent parser from text to code. Jumps are relative while fragments are joined and
/// absolute in the program.
class TextPatternParser : private TextSetReader {
 public:
  static constexpr std::size_t max_size = 4096;

  /// Parses `text`.
  /// Throws: ConfigError that names the pattern, the position and the reason.
  explicit TextPatternParser(std::string_view text) : TextSetReader(text) {
    program_.text = text;
    Fragment all = alternatives(0);
    if (!at_end()) fail("unbalanced )");
    all.code.push_back({});
    for (std::uint32_t pc = 0; pc < all.code.size(); ++pc) {
      all.code[pc].next += pc;
      all.code[pc].other += pc;
    }
    program_.code = std::move(all.code);
    for (TextSet& set : program_.sets) set.seal();
  }
  TextProgram program() && { return std::move(program_); }

 private:
  using Code = std::vector<TextStepOp>;
  struct Fragment {
    Code code;
    bool may_be_empty = true;
  };

  void append(Code& to, const Code& from) const {
    if (to.size() + from.size() > max_size)
      fail("compiles to more than " + std::to_string(max_size) + " steps");
    to.insert(to.end(), from.begin(), from.end());
  }
  Fragment alternatives(int depth) {
    if (depth > max_depth) fail("groups are nested deeper than " + std::to_string(max_depth));
    const bool outer_fold = fold_;
    Fragment all = sequence(depth);
    std::vector<Fragment> others;
    while (take('|')) others.push_back(sequence(depth));
    fold_ = outer_fold;
    if (others.empty()) return all;
    others.insert(others.begin(), std::move(all));
    Fragment out = std::move(others.back());
    for (std::size_t i = others.size() - 1; i-- > 0;) {  // a|rest: split, a, jump over the rest
      Fragment joined;
      const Code& a = others[i].code;
      joined.code.push_back(
          TextStepOp::jump(TextOp::split, 1, static_cast<std::ptrdiff_t>(a.size()) + 2));
      append(joined.code, a);
      joined.code.push_back(TextStepOp::jump(TextOp::jump, out.code.size() + 1, 0));
      append(joined.code, out.code);
      joined.may_be_empty = out.may_be_empty || others[i].may_be_empty;
      out = std::move(joined);
    }
    return out;
  }

  Fragment sequence(int depth) {
    Fragment all;
    while (!at_end() && peek() != '|' && peek() != ')') {
      Fragment item = atom(depth);
      repeat(item);
      append(all.code, item.code);
      all.may_be_empty = all.may_be_empty && item.may_be_empty;
    }
    return all;
  }

  // Applies a quantifier to `item`, if one follows.
  void repeat(Fragment& item) {
    std::uint32_t least = 0, most = TextStepOp::unbounded;
    const std::size_t begin = at_;
    bool braces = false;
    if (take('?')) {
      most = 1;
    } else if (take('+')) {
      least = 1;
    } else if (!take('*')) {
      if (!read_braces(least, most)) return;
      braces = true;
    }
    TextStepOp::Mode mode = TextStepOp::greedy;
    if (!braces && take('+'))
      mode = TextStepOp::possessive;
    else if (peek() == '?' && !(braces && least == most) && take('?'))
      mode = TextStepOp::lazy;
    if (peek() == '*' || peek() == '+' || peek() == '?')
      fail("a quantifier after a quantifier is not supported");
    if (item.code.empty()) at_ = begin, fail("nothing to repeat");
    if (item.code.size() == 1 && item.code[0].op == TextOp::run && item.code[0].most == 1 &&
        item.code[0].least == 1) {
      item.code[0].least = least;
      item.code[0].most = most;
      item.code[0].mode = mode;
    } else {
      if (mode == TextStepOp::possessive) fail("a possessive group is not supported");
      if (item.may_be_empty) fail("a repeated part that may be empty is not supported");
      item.code = repeated(item.code, least, most, mode == TextStepOp::lazy);
    }
    item.may_be_empty = least == 0;
  }
  Code repeated(const Code& body, std::uint32_t least, std::uint32_t most, bool lazy) const {
    Code out;
    for (std::uint32_t i = 0; i < least; ++i) append(out, body);
    const auto choice = [&](std::ptrdiff_t inside, std::ptrdiff_t outside) {
      return TextStepOp::jump(TextOp::split, static_cast<std::size_t>(lazy ? outside : inside),
                              lazy ? inside : outside);
    };
    const auto n = static_cast<std::ptrdiff_t>(body.size());
    if (most == TextStepOp::unbounded) {
      out.push_back(choice(1, n + 2));
      append(out, body);
      out.push_back(TextStepOp::jump(TextOp::jump, static_cast<std::size_t>(-n - 1), 0));
      return out;
    }
    for (std::uint32_t i = least; i < most; ++i) {  // each optional copy can leave all the rest
      const auto rest = static_cast<std::ptrdiff_t>(most - i);
      out.push_back(choice(1, rest * (n + 1)));
      append(out, body);
    }
    return out;
  }
  // Reads {m} {m,} {,n} {m,n}; anything else is an ordinary brace.
  bool read_braces(std::uint32_t& least, std::uint32_t& most) {
    const std::size_t begin = at_;
    if (!take('{')) return false;
    const auto number = [&](std::uint32_t& value) {
      bool any = false;
      for (value = 0; peek() >= '0' && peek() <= '9' && value < 100000; ++at_, any = true)
        value = 10 * value + static_cast<std::uint32_t>(peek() - '0');
      return any;
    };
    const bool first = number(least);
    bool second = first;
    most = least;
    if (take(',')) {
      second = number(most);
      if (!second) most = TextStepOp::unbounded;
    }
    if ((!first && !second) || !take('}')) {
      at_ = begin;
      return false;
    }
    if (least > 1000 || (most > 1000 && most != TextStepOp::unbounded) || least > most)
      fail("a repeat of more than 1000, or of a range that is empty, is not supported");
    return true;
  }

  Fragment of_set(TextSet set) {
    TextStepOp step;
    step.op = TextOp::run;
    step.set = static_cast<std::uint32_t>(program_.sets.size());
    program_.sets.push_back(std::move(set));
    return {{step}, false};
  }
  static Fragment of_assertion(TextOp op, bool negated = false) {
    Fragment out{{TextStepOp{}}, true};
    out.code[0].op = op;
    out.code[0].negated = negated;
    return out;
  }

  Fragment atom(int depth) {
    if (take('(')) return group(depth);
    if (take('[')) return of_set(set_in_brackets(0));
    if (take('.')) {
      TextSet set;
      set.ranges = {{'\n', '\n'}};
      set.negated = true;
      return of_set(std::move(set));
    }
    if (take('^')) return of_assertion(TextOp::line_begin);
    if (take('$')) return of_assertion(TextOp::line_end);
    if (peek() == '*' || peek() == '+' || peek() == '?') fail("nothing to repeat");
    if (peek() == '\\') {
      if (take("\\A")) return of_assertion(TextOp::text_begin);
      if (take("\\z")) return of_assertion(TextOp::text_end);
      if (take("\\Z")) return of_assertion(TextOp::last_line_end);
      if (take("\\b")) return of_assertion(TextOp::word_edge);
      if (take("\\B")) return of_assertion(TextOp::word_edge, true);
      TextSet set;
      if (class_escape(set)) return of_set(std::move(set));
    }
    const char32_t c = character();
    TextSet set;
    add(set, c, c);
    if (fold_ && folds_as_pair(c, peek()))
      fail("ss, st, ff, fi and fl under (?i) are not supported");
    return of_set(std::move(set));
  }

  Fragment group(int depth) {
    const bool outer_fold = fold_;
    std::pair<TextOp, bool> look{TextOp::accept, false};
    if (take("?="))
      look = {TextOp::ahead, false};
    else if (take("?!"))
      look = {TextOp::ahead, true};
    else if (take("?<="))
      look = {TextOp::behind, false};
    else if (take("?<!"))
      look = {TextOp::behind, true};
    else if (take("?i:"))
      fold_ = true;
    else if (take("?-i:"))
      fold_ = false;
    else if (!take("?:") && peek() == '?')
      fail("a group of this kind is not supported");
    Fragment inner = alternatives(depth + 1);
    if (!take(')')) fail("missing )");
    fold_ = outer_fold;
    if (look.first == TextOp::accept) return inner;
    const bool one =
        inner.code.size() == 1 && inner.code[0].op == TextOp::run && inner.code[0].least == 1;
    if (!one || (look.first == TextOp::behind && inner.code[0].most != 1))
      fail("look-around of more than one character is not supported");
    Fragment out = of_assertion(look.first, look.second);
    out.code[0].set = inner.code[0].set;
    return out;
  }

  TextProgram program_;
};

}  // namespace detail

}  // namespace lora
