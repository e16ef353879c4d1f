// Names and patterns as messages show them.
#pragma once

#include <lora/core/namespace.hpp>

#include <string>
#include <string_view>

namespace LORA_NAMESPACE {

namespace detail {

/// "text" in quotes, cut at a code point where it is longer than 120 bytes.
template <class = void>
std::string within_quotes(std::string_view text) {
  std::size_t most = 120;
  if (text.size() <= most) return '"' + std::string(text) + '"';
  while (most > 0 && (static_cast<unsigned char>(text[most]) & 0xC0u) == 0x80u) --most;
  return '"' + std::string(text.substr(0, most)) + "...\"";
}

}  // namespace detail

}  // namespace LORA_NAMESPACE
