// A tokenizer: turns text into ids and back, as HuggingFace's tokenizers does.
#pragma once

#include <lora/core/types.hpp>
#include <lora/text/tokenizer/added_tokens.hpp>
#include <lora/text/tokenizer/bpe.hpp>
#include <lora/text/tokenizer/pre_tokenizer.hpp>
#include <lora/text/tokenizer/text_cut.hpp>
#include <lora/text/tokenizer/text_steps.hpp>
#include <lora/text/tokenizer/token_decoder.hpp>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora {

/// Which of the ids around a text (<s>, </s>) encode() adds.
enum class SpecialTokens { none, before, add };
/// Whether decode() omits special tokens.
enum class SkipSpecial { no, yes };

/// The complete description of a tokenizer in plain values, as read_tokenizer_spec() reads it from
/// files.
struct TokenizerSpec {
  BpeSpec model;
  std::vector<TextStep> normalizer;     ///< before added tokens with `normalized` are searched
  std::vector<TextCut> cuts;            ///< after it, each in the pieces of the one before
  std::vector<TextStep> pre_tokenizer;  ///< in each piece
  WordSplit split = WordSplit::none;
  std::vector<TextCut> spelled_cuts;  ///< cuts of words as a byte-level vocabulary spells them
  std::vector<AddedToken> added;
  std::vector<std::uint32_t> before, after;  ///< ids around a text
  DecoderSpec decoder;
  std::optional<std::string> bos_token, eos_token, pad_token;
  std::string chat_template;         ///< Jinja text, empty if there is none
  bool split_special = false;        ///< special tokens in a text are ordinary text
  std::vector<std::string> notices;  ///< parts of the files that are ignored, one sentence each
};

/// Ids and where each one ends in the text: token i covers bytes [ends[i-1], ends[i]), the first
/// from 0 on. A token added around the text, or one for a part of a character, may cover none. If
/// normalisation joins characters, they belong to the later token.
struct Encoding {
  std::vector<std::int64_t> ids;
  std::vector<std::size_t> ends;
};

/// An immutable tokenizer.
///
///   const Tokenizer tokenizer = Tokenizer::open("checkpoint");  // needs tokenizer_files.hpp
///   const std::vector<std::int64_t> ids = tokenizer.encode("Hello, world");
///   const std::string text = tokenizer.decode(ids, SkipSpecial::yes);
///   StreamingDecoder stream(tokenizer);
///   for (const std::int64_t id : ids) std::printf("%s", stream.push(id).c_str());
///   std::printf("%s\n", stream.finish().c_str());
///
/// Allocates: a copy duplicates the vocabulary.
/// Threads: several threads may call const functions at once.
class Tokenizer {
 public:
  /// Builds the tokenizer.
  /// Throws: FormatError for a bad model (see Bpe) or an added token whose id contradicts the
  ///   vocabulary.
  explicit Tokenizer(TokenizerSpec spec)
      : where_(spec.model.where),
        model_(std::move(spec.model)),
        decoder_(spec.decoder),
        spec_(std::move(spec)) {
    std::uint32_t limit = model_.id_limit();
    for (std::uint32_t id = 0; id < model_.id_limit(); ++id) {
      if (!model_.spelling(id).empty()) decoder_.add(id, model_.spelling(id), false);
    }
    std::vector<AddedToken> raw, normalized;
    std::size_t left = std::size_t{16} << 20, bytes = 0;  // bytes allowed, bytes given
    for (const AddedToken& token : spec_.added) bytes += token.content.size();
    TextWork work(where_, bytes);
    for (const AddedToken& token : spec_.added) {
      check(token);
      limit = std::max(limit, token.id + 1);
      if (!added_ids_.add(token.content, token.id) && added_ids_.find(token.content) != token.id)
        refuse(token, "another token has the same content");
      AddedToken searched = token;
      if (token.normalized) {
        SteppedText content(token.content);
        content.apply(spec_.normalizer, true, work, left + 1);
        left -= std::min(left, content.view().size());
        searched.content = content.view();
      }
      // As in the library, the text and whether it is skipped are those of the normalised token.
      decoder_.add(token.id, searched.content, token.special,
                   token.special && searched.content == token.content);
      (token.normalized ? normalized : raw).push_back(std::move(searched));
    }
    // A template may add an id that no token has.
    for (const auto* ids : {&spec_.before, &spec_.after}) {
      for (const std::uint32_t id : *ids) limit = std::max(limit, id + 1);
    }
    check_strips(raw);
    check_strips(normalized);
    note_one_text(normalized);
    raw_finder_ = AddedTokenFinder(std::move(raw), spec_.split_special);
    normalized_finder_ = AddedTokenFinder(std::move(normalized), spec_.split_special);
    vocab_size_ = static_cast<Index>(limit);
  }

  /// Reads the tokenizer files of a model's directory. Defined in tokenizer_files.hpp, which
  /// documents it.
  static Tokenizer open(const std::filesystem::path& directory);

  /// Returns one more than the largest id.
  Index vocab_size() const { return vocab_size_; }
  /// Returns the id of a token as the files spell it ("<|im_end|>", "Ġthe"), if it exists.
  std::optional<std::int64_t> id_of(std::string_view token) const {
    std::uint32_t id = added_ids_.find(token);
    if (id == no_token) id = model_.id_of(token);
    return id == no_token ? std::nullopt : std::optional<std::int64_t>(id);
  }
  /// The tokens that begin, end and pad a text, and their ids, if there are any.
  const std::optional<std::string>& bos_token() const { return spec_.bos_token; }
  const std::optional<std::string>& eos_token() const { return spec_.eos_token; }
  const std::optional<std::string>& pad_token() const { return spec_.pad_token; }
  std::optional<std::int64_t> bos_id() const { return id_of_optional(spec_.bos_token); }
  std::optional<std::int64_t> eos_id() const { return id_of_optional(spec_.eos_token); }
  std::optional<std::int64_t> pad_id() const { return id_of_optional(spec_.pad_token); }
  /// Returns the parts of the tokenizer's files that are ignored or differ from transformers 5: one
  /// sentence each, for a program to show.
  const std::vector<std::string>& notices() const { return spec_.notices; }
  /// Returns the Jinja text of the chat template, or an empty string if the files hold none.
  const std::string& chat_template() const { return spec_.chat_template; }

  /// Returns the ids of `text` (UTF-8; other bytes are encoded as bytes). Recognises added tokens
  /// in it, as HuggingFace does. Takes O(n log n) time on one thread.
  /// Throws: ConfigError beyond 2^31 - 1 bytes; FormatError if the tokenizer's own rules take too
  ///   long (see TextWork).
  std::vector<std::int64_t> encode(std::string_view text,
                                   SpecialTokens special = SpecialTokens::add) const {
    std::vector<std::int64_t> ids;
    encode_into(text, special, ids, nullptr);
    return ids;
  }
  /// Encodes as encode() does and returns the end of each token. Each range of `fixed`, in order
  /// and disjoint, becomes the one token that it names, whatever the tokenizer would make of it.
  Encoding encode_with_ends(std::string_view text, SpecialTokens special = SpecialTokens::add,
                            std::span<const TextPart> fixed = {}) const {
    Encoding out;
    encode_into(text, special, out.ids, &out.ends, fixed);
    return out;
  }

  /// Returns the text of `ids`. Invalid UTF-8 becomes U+FFFD; an id without a token adds nothing.
  /// Throws: ConfigError for a negative id.
  std::string decode(std::span<const std::int64_t> ids, SkipSpecial skip = SkipSpecial::no) const {
    std::string bytes, out;
    const bool byte_level = decoder_.spec().byte_level;
    const auto end_run = [&] {  // a run of byte tokens is valid as a whole or not at all
      if (first_invalid_utf8(bytes) == bytes.size()) {
        out += bytes;
      } else {
        for (std::size_t i = 0; i < bytes.size(); ++i) out += replacement_character;
      }
      bytes.clear();
    };
    for (const std::int64_t id : ids) {
      const TokenDecoder::Piece piece = decoder_.piece(id);
      if (piece.skipped && skip == SkipSpecial::yes) continue;
      if (byte_level || piece.byte) {
        bytes += piece.text;
      } else {
        end_run();
        out += piece.text;
      }
    }
    if (byte_level) {
      append_repaired_utf8(bytes, Input::complete, out);
    } else {
      end_run();
    }
    std::size_t cut = 0;
    while (cut < out.size() && cut < decoder_.spec().strip_left && out[cut] == ' ') ++cut;
    return out.substr(cut);
  }

  /// The table that StreamingDecoder reads.
  const TokenDecoder& decoder() const { return decoder_; }
  /// The ids that SpecialTokens::add puts before and after a text.
  const std::vector<std::uint32_t>& ids_before() const { return spec_.before; }
  const std::vector<std::uint32_t>& ids_after() const { return spec_.after; }

 private:
  [[noreturn]] void refuse(const AddedToken& token, const std::string& what) const {
    throw FormatError(where_ + ": added_tokens: " + in_quotes(token.content) + " has id " +
                      std::to_string(token.id) + ", but " + what);
  }
  void check(const AddedToken& token) const {
    if (token.content.empty()) refuse(token, "no content");
    if (token.id > Bpe::largest_id)
      refuse(token, "the largest supported is " + std::to_string(Bpe::largest_id));
    const std::uint32_t known = model_.id_of(token.content);
    if (known != no_token && known != token.id)
      refuse(token, "in the vocabulary it has id " + std::to_string(known));
    if (known == no_token && token.id < model_.id_limit() && !model_.spelling(token.id).empty())
      refuse(token, "in the vocabulary that is " + in_quotes(model_.spelling(token.id)));
  }
  // The library fails on white space that two tokens take in this way.
  void check_strips(const std::vector<AddedToken>& tokens) const {
    const auto is_split = [&](const AddedToken& token) {
      return token.special && spec_.split_special;
    };
    const auto taker = std::find_if(tokens.begin(), tokens.end(), [&](const AddedToken& token) {
      return token.rstrip && !token.content.empty() && !is_split(token);
    });
    if (taker == tokens.end()) return;
    for (const AddedToken& token : tokens) {
      if (token.lstrip && !token.rstrip && !token.content.empty() && !is_split(token) &&
          detail::spaces_at_begin(token.content) == token.content.size()) {
        refuse(token, "white space with lstrip and without rstrip is not supported together with " +
                          in_quotes(taker->content) + ", which has rstrip");
      }
    }
  }
  // The library takes either of two tokens with the same text, differently from run to run.
  void note_one_text(const std::vector<AddedToken>& tokens) {
    TokenTable seen;
    for (const AddedToken& token : tokens) {
      if (token.content.empty() || seen.add(token.content, token.id)) continue;
      const std::uint32_t id = seen.find(token.content);
      if (id == token.id) continue;
      spec_.notices.push_back(where_ + ": added_tokens: the normalizer makes " +
                              in_quotes(token.content) + " of id " + std::to_string(id) +
                              " and of id " + std::to_string(token.id) +
                              "; the tokenizers library takes either, here it is the first");
      return;
    }
  }
  std::optional<std::int64_t> id_of_optional(const std::optional<std::string>& token) const {
    return token ? id_of(*token) : std::nullopt;
  }

  void encode_into(std::string_view text, SpecialTokens special, std::vector<std::int64_t>& ids,
                   std::vector<std::size_t>* ends, std::span<const TextPart> fixed = {}) const {
    if (text.size() > 0x7FFFFFFFu) {
      throw ConfigError("Tokenizer::encode: the text has " + std::to_string(text.size()) +
                        " bytes, at most 2147483647 are supported; cut it into documents");
    }
    TokenSink sink{ids, ends};
    TextWork work(where_, text.size());
    if (special != SpecialTokens::none) {
      for (const std::uint32_t id : spec_.before) sink.put(id, 0);
    }
    Bpe::Scratch scratch;
    std::vector<TextPart> parts, inner;
    std::size_t from = 0;
    const auto encode_up_to = [&](std::size_t to) {
      raw_finder_.split(text.substr(from, to - from), parts, work);
      for (const TextPart& part : parts) {
        const std::size_t size = part.end - part.begin;
        if (part.id != no_token) {
          sink.position = from + part.begin;
          sink.put(part.id, size);
        } else {
          encode_part(text.substr(from + part.begin, size), from + part.begin, scratch, inner, work,
                      sink);
        }
      }
      from = to;
    };
    for (const TextPart& token : fixed) {
      encode_up_to(token.begin);
      sink.put(token.id, token.end - token.begin);
      from = token.end;
    }
    encode_up_to(text.size());
    if (special == SpecialTokens::add) {
      for (const std::uint32_t id : spec_.after) sink.put(id, 0);
    }
    if (ends == nullptr) return;
    std::size_t last = 0;  // parts may overlap
    for (std::size_t& end : *ends) end = last = std::max(last, end);
  }

  // Encodes the text between two added tokens, which begins at byte `begin` of the whole text.
  void encode_part(std::string_view text, std::size_t begin, Bpe::Scratch& scratch,
                   std::vector<TextPart>& parts, TextWork& work, TokenSink& sink) const {
    SteppedText normal(text);
    normal.apply(spec_.normalizer, begin == 0, work);
    if (normal.view().empty()) {  // a space before it would add a token
    } else if (normalized_finder_.empty()) {
      encode_piece(normal, {0, normal.view().size()}, 0, begin, scratch, work, sink);
    } else {
      normalized_finder_.split(normal.view(), parts, work);
      for (const TextPart& part : parts) {
        if (part.id == no_token) {
          encode_piece(normal, {part.begin, part.end}, 0, begin, scratch, work, sink);
        } else {
          sink.position = begin + normal.before(part.end);
          sink.put(part.id, 0);
        }
      }
    }
    sink.position = begin + text.size();
  }
  // Encodes a piece that the first `cut` cuts left.
  void encode_piece(const SteppedText& normal, TextRange piece, std::size_t cut, std::size_t begin,
                    Bpe::Scratch& scratch, TextWork& work, TokenSink& sink) const {
    if (cut == spec_.cuts.size()) {
      encode_words(normal, piece.begin, piece.end, begin, scratch, work, sink);
      return;
    }
    const std::string_view text = normal.view().substr(piece.begin, piece.end - piece.begin);
    for (const TextRange& part : cut_text(spec_.cuts[cut], text, work)) {
      encode_piece(normal, {piece.begin + part.begin, piece.begin + part.end}, cut + 1, begin,
                   scratch, work, sink);
    }
  }
  // Cuts a word once more as its vocabulary spells it (Falcon).
  void encode_spelled(std::string_view word, std::size_t cut, Bpe::Scratch& scratch, TextWork& work,
                      TokenSink& sink) const {
    if (cut == spec_.spelled_cuts.size()) {
      model_.encode(word, scratch, sink);
      return;
    }
    std::string spelled;
    std::vector<std::size_t> byte_at;  // per byte of the spelling
    for (std::size_t i = 0; i < word.size(); ++i) {
      spelled += ByteSpelling::instance().spelling(static_cast<std::uint8_t>(word[i]));
      byte_at.resize(spelled.size(), i);
    }
    byte_at.push_back(word.size());
    const std::size_t position = sink.position;
    for (const TextRange& part : cut_text(spec_.spelled_cuts[cut], spelled, work)) {
      const std::size_t from = byte_at[part.begin], to = byte_at[part.end];
      sink.position = position + from;
      encode_spelled(word.substr(from, to - from), cut + 1, scratch, work, sink);
    }
    sink.position = position + word.size();
  }
  void encode_words(const SteppedText& normal, std::size_t from, std::size_t to, std::size_t begin,
                    Bpe::Scratch& scratch, TextWork& work, TokenSink& sink) const {
    SteppedText text(normal.view().substr(from, to - from));
    text.apply(spec_.pre_tokenizer, begin == 0 && normal.is_first(from), work);
    const std::size_t first = sink.ids.size();
    sink.position = 0;
    for (WordScanner words(spec_.split, text.view()); !words.done();)
      encode_spelled(words.next(), 0, scratch, work, sink);
    sink.position = begin + normal.before(to);
    if (sink.ends == nullptr) return;
    for (std::size_t i = first; i < sink.ids.size(); ++i) {
      std::size_t& end = (*sink.ends)[i];
      end = begin + normal.before(from + text.before(end));
    }
  }

  std::string where_;
  Bpe model_;
  TokenDecoder decoder_;
  TokenizerSpec spec_;  // without the model
  TokenTable added_ids_;
  AddedTokenFinder raw_finder_, normalized_finder_;
  Index vocab_size_ = 0;
};

}  // namespace lora
