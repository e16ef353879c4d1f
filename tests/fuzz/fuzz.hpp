// What every fuzz target has in common: a reader either throws lora::Error or says what the bytes
// say. Anything else (another exception, a sanitizer's report, a failed check here) ends the run.
#pragma once

#include <lora/core/error.hpp>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string>
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

/// The message must be text that a terminal can show: printable() was not forgotten.
inline void expect_message(const lora::Error& error) {
  const std::string text = error.what();
  expect(!text.empty(), "an error without a message");
  expect(text.size() < 100'000, "a message that nobody reads");
  for (const char c : text) {
    expect(static_cast<unsigned char>(c) >= 0x20 || c == '\n', "a control character in a message");
    expect(c != 0x7F, "a control character in a message");
  }
}

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
