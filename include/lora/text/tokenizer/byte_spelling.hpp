// Spells bytes as visible characters, as byte-level vocabularies do.
#pragma once

#include <lora/text/unicode.hpp>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace lora {

/// GPT-2's alphabet of bytes, which all byte-level vocabularies use. It spells a byte that is a
/// visible Latin-1 character as that character, and the other 68 bytes as U+0100 and following.
class ByteSpelling {
 public:
  static const ByteSpelling& instance() {
    static const ByteSpelling all;
    return all;
  }
  const std::string& spelling(std::uint8_t byte) const { return spelling_[byte]; }
  /// Returns the bytes that `token` spells, or nullopt if one of its characters spells none.
  std::optional<std::string> bytes(std::string_view token) const {
    std::string out;
    for (std::size_t at = 0; at < token.size();) {
      const char32_t c = detail::next_code_point(token, at);
      if (c >= byte_.size() || byte_[c] < 0) return std::nullopt;
      out += static_cast<char>(byte_[c]);
    }
    return out;
  }

 private:
  ByteSpelling() {
    byte_.fill(-1);
    char32_t next = 0x100;
    for (char32_t byte = 0; byte < 256; ++byte) {
      const bool visible = (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173);
      const char32_t c = visible ? byte : next++;
      append_code_point(spelling_[byte], c);
      byte_[c] = static_cast<int>(byte);
    }
  }
  std::array<std::string, 256> spelling_;
  std::array<int, 0x100 + 68> byte_{};
};

}  // namespace lora
