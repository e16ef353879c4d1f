// Added tokens, which are found literally in the text before the model sees it: <|im_end|>, </s>.
#pragma once

#include <lora/text/tokenizer/text_work.hpp>
#include <lora/text/tokenizer/token_table.hpp>
#include <lora/text/unicode.hpp>

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lora {

/// An entry of added_tokens in tokenizer.json.
struct AddedToken {
  std::uint32_t id = 0;
  std::string content;
  bool single_word = false;  ///< not found inside a word
  bool lstrip = false;       ///< includes the white space before it
  bool rstrip = false;       ///< includes the white space after it
  bool normalized = false;   ///< searched in the normalised text
  bool special = false;      ///< omitted by decoding without special tokens
};

/// A part of a text: an added token, or with id no_token the text between two.
struct TextPart {
  std::size_t begin, end;
  std::uint32_t id;
};

/// Finds a set of added tokens in a text. Immutable; safe to share between threads.
class AddedTokenFinder {
 public:
  AddedTokenFinder() = default;
  /// With `split_special`, special tokens are found but stay ordinary text.
  explicit AddedTokenFinder(std::vector<AddedToken> tokens, bool split_special = false)
      : tokens_(std::move(tokens)), split_special_(split_special) {
    for (std::uint32_t i = 0; i < tokens_.size(); ++i) {
      if (tokens_[i].content.empty()) continue;
      std::uint32_t node = 0;
      for (const char ch : tokens_[i].content) {
        std::uint32_t& next = children_.at(node, static_cast<unsigned char>(ch));
        if (next == no_token) {
          next = static_cast<std::uint32_t>(ends_.size());
          ends_.push_back(no_token);
        }
        node = next;
      }
      if (ends_[node] == no_token) ends_[node] = i;
      first_bytes_[static_cast<unsigned char>(tokens_[i].content[0])] = true;
    }
  }

  bool empty() const { return tokens_.empty(); }

  /// Splits `text` into consecutive parts, from left to right; of tokens that begin at the same
  /// place the longest wins. As in the tokenizers library, a token inside white space that an
  /// earlier token took (rstrip) appears once more, and the text continues after it. Takes time
  /// linear in the text for each byte of the longest token.
  /// Throws: FormatError when `work` is used up.
  void split(std::string_view text, std::vector<TextPart>& parts, TextWork& work) const {
    parts.clear();
    std::size_t done = 0, spaces_end = 0;
    const auto between = [&](std::size_t end) {
      if (done < end) parts.push_back({done, end, no_token});
    };
    for (std::size_t at = 0; at < text.size();) {
      const std::uint32_t found = longest_at(text, at, work);
      if (found == no_token) {
        ++at;
        continue;
      }
      const AddedToken& token = tokens_[found];
      std::size_t begin = at, end = at + token.content.size();
      at = end;
      if (token.special && split_special_) continue;
      if (token.single_word && (word_before(text, begin) || word_at(text, end))) continue;
      if (token.lstrip) begin = spaces_before(text, begin, done);
      if (token.rstrip) {
        if (end > spaces_end) spaces_end = spaces_behind(text, end);
        end = spaces_end;
      }
      between(begin);
      if (begin < end) parts.push_back({begin, end, token.id});
      done = end;
    }
    between(text.size());
  }

 private:
  std::uint32_t longest_at(std::string_view text, std::size_t at, TextWork& work) const {
    if (!first_bytes_[static_cast<unsigned char>(text[at])]) return no_token;
    std::uint32_t node = 0, longest = no_token;
    const std::size_t begin = at;
    while (at < text.size()) {
      node = children_.find(node, static_cast<unsigned char>(text[at++]), no_token);
      if (node == no_token) break;
      if (ends_[node] != no_token) longest = ends_[node];
    }
    work.spend(8 * (at - begin), "the search for added tokens");
    return longest;
  }
  static std::size_t previous(std::string_view text, std::size_t at) {
    do --at;
    while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0u) == 0x80u);
    return at;
  }
  static bool word_at(std::string_view text, std::size_t at) {
    return at < text.size() && Unicode::instance().is_word(detail::next_code_point(text, at));
  }
  static bool word_before(std::string_view text, std::size_t at) {
    return at > 0 && word_at(text, previous(text, at));
  }
  static bool space_at(std::string_view text, std::size_t& at) {
    return Unicode::instance().class_of(detail::next_code_point(text, at)) == CharClass::space;
  }
  static std::size_t spaces_before(std::string_view text, std::size_t at, std::size_t limit) {
    while (at > limit) {
      const std::size_t begin = previous(text, at);
      std::size_t end = begin;
      if (!space_at(text, end)) break;
      at = begin;
    }
    return std::max(at, limit);
  }
  static std::size_t spaces_behind(std::string_view text, std::size_t at) {
    for (std::size_t end = at; at < text.size() && space_at(text, end);) at = end;
    return at;
  }

  std::vector<AddedToken> tokens_;
  bool split_special_ = false;
  PairTable children_;                         // of (node, byte); the root is node 0
  std::vector<std::uint32_t> ends_{no_token};  // the token that ends at a node
  std::array<bool, 256> first_bytes_{};
};

}  // namespace lora
