// What every fuzz target has in common: a reader either throws lora::Error or says what the bytes
// say. Anything else (another exception, a sanitizer's report, a failed check here) ends the run.
#pragma once

#include <lora/core/error.hpp>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace lora_fuzz {

using Bytes = std::vector<std::byte>;

inline Bytes bytes_of(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  return {bytes.begin(), bytes.end()};
}

inline void expect(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "fuzz target: %s\n", what);
  std::abort();
}

/// What a terminal may be shown: no control characters, and no more than a person reads.
inline void expect_text(std::string_view text) {
  expect(!text.empty(), "an error without a message");
  expect(text.size() <= 16384, "a message that nobody reads to its end");
  for (std::size_t at = 0; at < text.size();) {
    const char32_t c = lora::detail::next_code_point(text, at);
    expect(c == '\n' || lora::detail::is_shown(c), "a message holds what a terminal does not show");
  }
}

/// printable() was not forgotten.
inline void expect_message(const lora::Error& error) { expect_text(error.what()); }

/// The parts of an input, a zero byte between two; empty ones behind the last.
class Parts {
 public:
  explicit Parts(std::string_view all) : rest_(all) {}
  std::string_view next() {
    const std::size_t end = std::min(rest_.find('\0'), rest_.size());
    const std::string_view part = rest_.substr(0, end);
    rest_.remove_prefix(std::min(end + 1, rest_.size()));
    return part;
  }
  std::string_view rest() const { return rest_; }

 private:
  std::string_view rest_;
};

/// Calls read(), which may refuse its input, with a message that is fit to be shown.
template <class Read>
void try_input(Read&& read) {
  try {
    read();
  } catch (const lora::Error& error) {
    expect_message(error);
  }
}

}  // namespace lora_fuzz
