// Decodes ids one by one, without splitting characters.
#pragma once

#include <lora/text/tokenizer/tokenizer.hpp>

#include <string>

namespace lora {

/// Decodes the ids of one text one by one. The concatenated results of push() and finish() equal
/// Tokenizer::decode of all ids, with one exception: if <0x..> tokens form a broken character,
/// decode() rejects the whole run of them, while this class has already returned the characters
/// before it. Refers to the tokenizer, which must outlive it. Use one object per text and thread.
class StreamingDecoder {
 public:
  explicit StreamingDecoder(const Tokenizer& tokenizer, SkipSpecial skip = SkipSpecial::yes)
      : decoder_(&tokenizer.decoder()), skip_(skip), to_strip_(decoder_->spec().strip_left) {}

  /// Adds an id and returns the whole characters that it completes, possibly none.
  /// Throws: ConfigError for a negative id.
  std::string push(std::int64_t id) {
    const TokenDecoder::Piece piece = decoder_->piece(id);
    if (piece.skipped && skip_ == SkipSpecial::yes) return {};
    std::string out;
    if (decoder_->spec().byte_level || piece.byte) {
      pending_ += piece.text;
      pending_.erase(0, append_repaired_utf8(pending_, Input::more, out));
    } else {
      give_up_pending(out);
      out += piece.text;
    }
    return stripped(out);
  }
  /// Ends the text; an incomplete character becomes U+FFFD. Another text may follow.
  std::string finish() {
    std::string out;
    give_up_pending(out);
    out = stripped(out);
    to_strip_ = decoder_->spec().strip_left;
    return out;
  }

 private:
  void give_up_pending(std::string& out) {
    if (decoder_->spec().byte_level) {
      append_repaired_utf8(pending_, Input::complete, out);
    } else {
      for (std::size_t i = 0; i < pending_.size(); ++i) out += replacement_character;
    }
    pending_.clear();
  }
  // Removes the spaces that the decoder strips from the beginning of the whole text.
  std::string stripped(std::string& out) {
    std::size_t cut = 0;
    while (cut < out.size() && cut < to_strip_ && out[cut] == ' ') ++cut;
    to_strip_ = out.size() > cut ? 0 : to_strip_ - cut;
    return out.substr(cut);
  }

  const TokenDecoder* decoder_;
  SkipSpecial skip_;
  std::size_t to_strip_;
  std::string pending_;  // an incomplete character
};

}  // namespace lora
