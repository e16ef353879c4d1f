// Turns ids back into text, at once or one by one.
#pragma once

#include <lora/core/error.hpp>
#include <lora/text/tokenizer/byte_spelling.hpp>
#include <lora/text/tokenizer/pre_tokenizer.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora {

/// How tokens become text, as a tokenizer's file says.
struct DecoderSpec {
  bool byte_level = true;        ///< tokens spell bytes (GPT-2)
  bool marks_to_spaces = false;  ///< U+2581 becomes a space
  bool byte_fallback = false;    ///< <0xAB> is a byte
  std::size_t strip_left = 0;    ///< spaces cut from the beginning of the whole text
};

/// U+FFFD in UTF-8.
inline constexpr std::string_view replacement_character = "\xEF\xBF\xBD";

/// Whether more bytes may follow.
enum class Input { more, complete };

/// Appends `bytes` to `out` and replaces each maximal part of a broken sequence by one U+FFFD, as
/// Unicode recommends and Rust and Python do. With Input::more, leaves a sequence that is cut off
/// at the end. Returns the number of bytes used.
inline std::size_t append_repaired_utf8(std::string_view bytes, Input input, std::string& out) {
  const auto byte = [&](std::size_t i) -> unsigned { return static_cast<unsigned char>(bytes[i]); };
  std::size_t at = 0;
  while (at < bytes.size()) {
    const unsigned lead = byte(at);
    const std::size_t length = lead < 0x80                   ? 1
                               : lead >= 0xC2 && lead < 0xE0 ? 2
                               : lead >= 0xE0 && lead < 0xF0 ? 3
                               : lead >= 0xF0 && lead < 0xF5 ? 4
                                                             : 0;
    std::size_t good = 1;
    while (good < length && at + good < bytes.size()) {
      const unsigned next = byte(at + good);
      const unsigned low = good > 1 ? 0x80 : lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
      const unsigned high = good > 1 ? 0xBF : lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
      if (next < low || next > high) break;
      ++good;
    }
    if (good == length) {
      out += bytes.substr(at, length);
    } else if (input == Input::more && good < length && at + good == bytes.size()) {
      break;
    } else {
      out += replacement_character;
    }
    at += good;
  }
  return at;
}

/// The text of each id, computed once from the vocabulary. Immutable; safe to share between
/// threads.
class TokenDecoder {
 public:
  /// A text or, if `byte` is set, one byte of a character.
  struct Piece {
    std::string_view text;
    bool byte = false;
    bool special = false;
    bool skipped = false;  ///< omitted when special tokens are
  };

  TokenDecoder() = default;
  explicit TokenDecoder(DecoderSpec spec) : spec_(spec) {}

  const DecoderSpec& spec() const { return spec_; }

  /// Adds a token as its file spells it.
  void add(std::uint32_t id, std::string_view token, bool special) {
    add(id, token, special, special);
  }
  /// Adds a token for which skipping differs from `special`.
  void add(std::uint32_t id, std::string_view token, bool special, bool skipped) {
    if (id >= entries_.size()) entries_.resize(id + 1);
    Entry entry{text_.size(), 0, false, special, skipped};
    if (spec_.byte_level) {
      text_ += ByteSpelling::instance().bytes(token).value_or(std::string(token));
    } else if (const std::optional<char> value = fallback_byte(token); value) {
      text_ += *value;
      entry.byte = true;
    } else if (spec_.marks_to_spaces) {
      for (std::size_t at = 0; at < token.size();) {
        const std::size_t mark = token.find(space_mark, at);
        text_ += token.substr(at, mark == token.npos ? mark : mark - at);
        if (mark == token.npos) break;
        text_ += ' ';
        at = mark + space_mark.size();
      }
    } else {
      text_ += token;
    }
    entry.size = text_.size() - entry.begin;
    entries_[id] = entry;
  }

  /// Returns the piece of an id, empty if the id has no token.
  /// Throws: ConfigError for a negative id.
  Piece piece(std::int64_t id) const {
    if (id < 0) {
      throw ConfigError("Tokenizer::decode: id " + std::to_string(id) +
                        " is negative, expected the id of a token");
    }
    if (static_cast<std::uint64_t>(id) >= entries_.size()) return {};
    const Entry& entry = entries_[static_cast<std::size_t>(id)];
    return {std::string_view(text_).substr(entry.begin, entry.size), entry.byte, entry.special,
            entry.skipped};
  }

 private:
  struct Entry {
    std::size_t begin = 0, size = 0;
    bool byte = false, special = false, skipped = false;
  };

  // Returns the value of "<0xAB>".
  std::optional<char> fallback_byte(std::string_view token) const {
    if (!spec_.byte_fallback || token.size() != 6 || token.substr(0, 3) != "<0x" || token[5] != '>')
      return std::nullopt;
    unsigned value = 0;
    for (const char ch : token.substr(3, 2)) {
      constexpr std::string_view upper = "0123456789ABCDEF", lower = "0123456789abcdef";
      std::size_t digit = upper.find(ch);
      if (digit == upper.npos) digit = lower.find(ch);
      if (digit == lower.npos) return std::nullopt;
      value = 16 * value + static_cast<unsigned>(digit);
    }
    return static_cast<char>(value);
  }

  DecoderSpec spec_;
  std::string text_;
  std::vector<Entry> entries_;
};

}  // namespace lora
