// The code that a regular expression is compiled to.
#pragma once

#include <cstdint>
#include <vector>

namespace lora {

namespace detail {

enum class PatternOp : std::uint8_t {
  character,      // consumes the code point a
  set,            // consumes a code point of sets[a]
  dot,            // consumes anything but a newline
  split,          // continues at pc + a, and with lower priority at pc + b
  jump,           // continues at pc + a
  save,           // records the position in slot a (0 and 1: the first capturing group)
  text_start,     // ^ and \A
  text_end,       // \Z
  line_end,       // $: at the end, or before a newline that ends the text
  word_edge,      // \b
  not_word_edge,  // \B
  look,           // look-ahead a matches here, or with b = 1 does not
  accept
};

/// One instruction. Jumps are relative, so that a fragment can be copied to repeat it.
template <class = void>
struct PatternStep {
  PatternOp op;
  std::int32_t a = 0, b = 0;
};

/// Calls fn with every step that can be entered from step `pc` without consuming. The caller
/// evaluates assertions.
template <class Tag, class Fn>
void for_each_successor(const std::vector<PatternStep<Tag>>& code, std::size_t pc, Fn&& fn) {
  const PatternStep<Tag>& step = code[pc];
  const auto to = [&](std::int32_t by) {
    fn(static_cast<std::size_t>(static_cast<std::int64_t>(pc) + by));
  };
  if (step.op == PatternOp::split) return to(step.a), to(step.b);
  if (step.op == PatternOp::jump) return to(step.a);
  if (step.op >= PatternOp::save && step.op < PatternOp::accept) to(1);
}

}  // namespace detail

}  // namespace lora
