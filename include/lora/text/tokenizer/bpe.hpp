// Byte-pair encoding: turns words into ids by merging neighbours in the order in which the merges
// were learnt.
#pragma once

#include <lora/core/error.hpp>
#include <lora/core/printable.hpp>
#include <lora/text/tokenizer/byte_spelling.hpp>
#include <lora/text/tokenizer/token_table.hpp>
#include <lora/text/unicode.hpp>

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace lora {

/// A BPE vocabulary, as in its file.
struct BpeSpec {
  std::string where;                                         ///< the file name for messages
  std::vector<std::pair<std::string, std::uint32_t>> vocab;  ///< token, id
  std::vector<std::pair<std::string, std::string>> merges;   ///< in the order they were learnt
  bool byte_level = true;      ///< words are bytes (GPT-2), else characters (SentencePiece)
  bool byte_fallback = false;  ///< an unknown character becomes <0x..> tokens, one per byte
  bool fuse_unk = false;       ///< adjacent unknown characters become one unk_token
  bool ignore_merges = false;  ///< a word that is a token becomes that token despite merges
  std::optional<std::string> unk_token;
};

/// Receives ids and the position in the text where each one ends.
struct TokenSink {
  std::vector<std::int64_t>& ids;
  std::vector<std::size_t>* ends = nullptr;  ///< null: not recorded
  std::size_t position = 0;

  void put(std::uint32_t id, std::size_t bytes) {
    position += bytes;
    ids.push_back(id);
    if (ends != nullptr) ends->push_back(position);
  }
};

/// The BPE model of a tokenizer: an immutable vocabulary with its merges. Safe to share between
/// threads.
class Bpe {
 public:
  static constexpr std::uint32_t largest_id = (1u << 22) - 1;

  /// The workspace of encode(), reused from word to word; one per thread.
  struct Scratch {
    struct Symbol {
      std::uint32_t id, previous, next, bytes;
    };
    struct Candidate {
      std::uint32_t rank, at, end;
      // The top of the heap is the lowest rank, and among equal ones the leftmost.
      bool operator<(const Candidate& other) const {
        return rank != other.rank ? rank > other.rank : at > other.at;
      }
    };
    std::vector<Symbol> symbols;
    std::vector<Candidate> heap;
  };

  Bpe() = default;
  /// Builds the model.
  /// Throws: FormatError that names the file and the entry, for an id that is too large or appears
  ///   twice, a merge of or into something that is not a token, and an unk_token that is not a
  ///   token.
  explicit Bpe(BpeSpec spec) : spec_(std::move(spec)) {
    add_vocabulary();
    find_first_symbols();
    add_merges();
    spec_.merges = {};
    spec_.vocab = {};
    find_words();
  }

  bool byte_level() const { return spec_.byte_level; }
  /// Returns one more than the largest id.
  std::uint32_t id_limit() const { return static_cast<std::uint32_t>(spelling_.size()); }
  /// Returns the id of a token as the file spells it ("Ġthe"), or no_token.
  std::uint32_t id_of(std::string_view token) const { return ids_.find(token); }
  /// Returns the token of an id as the file spells it, or an empty string if there is none.
  const std::string& spelling(std::uint32_t id) const { return spelling_[id]; }

  /// Appends the ids of one word: applies merges from the lowest rank, and among equal ones from
  /// the left, as the tokenizers library does. Takes O(n log n) time in the length of the word,
  /// which is below 2^31 bytes.
  void encode(std::string_view word, Scratch& scratch, TokenSink& out) const {
    if (word.size() <= longest_word_) {
      if (const std::uint32_t id = words_.find(word); id != no_token) {
        out.put(id, word.size());
        return;
      }
    }
    if (spec_.byte_level && !bytes_missing_) {
      for (const char ch : word)
        add_symbol(byte_ids_[static_cast<unsigned char>(ch)], 1, scratch, out);
      merge_symbols(scratch, out);
    } else {
      add_characters(word, scratch, out);
    }
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    throw FormatError(spec_.where + ": model." + what);
  }

  void add_vocabulary() {
    for (const auto& [token, id] : spec_.vocab) {
      if (id > largest_id) {
        refuse("vocab: " + in_quotes(token) + " has id " + std::to_string(id) +
               ", the largest supported is " + std::to_string(largest_id));
      }
      if (id >= spelling_.size()) {
        spelling_.resize(id + 1);
        is_token_.resize(id + 1);
      }
      if (is_token_[id]) {
        refuse("vocab: " + in_quotes(token) + " and " + in_quotes(spelling_[id]) +
               " have the same id " + std::to_string(id));
      }
      if (!ids_.add(token, id)) refuse("vocab: " + in_quotes(token) + " appears twice");
      spelling_[id] = token;
      is_token_[id] = true;
    }
  }

  // Finds the initial symbols of words: bytes, or <0x..> tokens.
  void find_first_symbols() {
    byte_ids_.fill(no_token);
    for (std::size_t byte = 0; byte < 256; ++byte) {
      constexpr std::string_view hex = "0123456789ABCDEF";
      const std::string token =
          spec_.byte_level ? ByteSpelling::instance().spelling(static_cast<std::uint8_t>(byte))
                           : std::string("<0x") + hex[byte >> 4] + hex[byte & 15] + ">";
      byte_ids_[byte] = id_of(token);
      if (byte_ids_[byte] != no_token) continue;
      if (spec_.byte_fallback && !spec_.byte_level)
        refuse("vocab: no token " + in_quotes(token) + " for the byte " + std::to_string(byte));
      bytes_missing_ = true;
    }
    for (std::size_t c = 0; c < 128; ++c) {
      const char character = static_cast<char>(c);
      ascii_ids_[c] = id_of({&character, 1});
    }
    // A byte-level vocabulary with all bytes has no unknown text.
    if (spec_.unk_token && !(spec_.byte_level && !bytes_missing_)) {
      unk_ = id_of(*spec_.unk_token);
      if (unk_ == no_token) {
        refuse("unk_token: " + in_quotes(*spec_.unk_token) + " is not in the vocabulary");
      }
    }
  }

  void add_merges() {
    merged_.reserve(spec_.merges.size());
    for (std::size_t rank = 0; rank < spec_.merges.size(); ++rank) {
      const auto& [left, right] = spec_.merges[rank];
      const auto token = [&](const std::string& text) {
        const std::uint32_t id = id_of(text);
        const char* fault = text.empty()      ? "is empty"
                            : id == no_token  ? "is not in the vocabulary"
                            : starts_only(id) ? "is a token that takes part in no merge"
                                              : nullptr;
        if (fault != nullptr)
          refuse("merges[" + std::to_string(rank) + "]: " + in_quotes(text) + " " + fault);
        return id;
      };
      const std::uint32_t a = token(left), b = token(right);
      ranks_.at(a, b) = static_cast<std::uint32_t>(rank);
      merged_.push_back(token(left + right));
      // A word is kept whole only where a merge can join these two symbols: see add_symbol.
      const std::uint32_t last = edge_symbol(left, Edge::last),
                          first = edge_symbol(right, Edge::first);
      if (last != no_token && first != no_token) ranks_.at(last, first);
    }
  }
  // Whether the spelling of the token is not the text that it stands for.
  bool starts_only(std::uint32_t id) const {
    if (id == unk_) return true;
    return spec_.byte_fallback &&
           std::find(byte_ids_.begin(), byte_ids_.end(), id) != byte_ids_.end();
  }
  enum class Edge { first, last };
  std::uint32_t edge_symbol(std::string_view token, Edge edge) const {
    std::size_t begin = 0, end = 0;
    if (edge == Edge::last) {
      begin = token.size() - 1;
      while (begin > 0 && (static_cast<unsigned char>(token[begin]) & 0xC0u) == 0x80u) --begin;
    }
    end = begin;
    detail::next_code_point(token, end);
    return id_of(token.substr(begin, end - begin));
  }

  // Collects the words that encode to one token, so that these, the majority, need no merging.
  void find_words() {
    std::vector<std::pair<std::string, std::uint32_t>> words;
    Scratch scratch;
    std::vector<std::int64_t> ids;
    for (std::uint32_t id = 0; id < spelling_.size(); ++id) {
      if (!spec_.byte_level && !spec_.ignore_merges) break;  // there, words are sentences
      std::optional<std::string> text = spelling_[id];
      if (spec_.byte_level) text = ByteSpelling::instance().bytes(spelling_[id]);
      if (!text || text->empty()) continue;
      if (!spec_.ignore_merges) {
        ids.clear();
        TokenSink sink{ids};
        encode(*text, scratch, sink);
        if (ids.size() != 1 || ids[0] != id) continue;
      }
      words.emplace_back(std::move(*text), id);
    }
    for (const auto& [text, id] : words) {
      words_.add(text, id);
      longest_word_ = std::max(longest_word_, text.size());
    }
  }

  // Adds a symbol. Two symbols that no merge can join end a part, so that parts of ordinary text
  // are short even if a word is the whole text.
  void add_symbol(std::uint32_t id, std::uint32_t bytes, Scratch& scratch, TokenSink& out) const {
    auto& symbols = scratch.symbols;
    if (!symbols.empty()) {
      const std::uint32_t rank = ranks_.find(symbols.back().id, id, never_joined);
      if (rank == never_joined) {
        merge_symbols(scratch, out);
      } else if (rank != no_token) {
        const auto n = static_cast<std::uint32_t>(symbols.size());
        scratch.heap.push_back({rank, n - 1, n + 1});
      }
    }
    const auto n = static_cast<std::uint32_t>(symbols.size());
    symbols.push_back({id, n - 1, n + 1, bytes});
  }

  // Adds characters, or the bytes of a byte-level vocabulary that lacks some. An unknown one
  // becomes unk_token; without unk_token it is dropped and its neighbours become adjacent.
  void add_characters(std::string_view word, Scratch& scratch, TokenSink& out) const {
    std::uint32_t unknown = 0;  // bytes of unknown characters that wait for their unk_token
    std::uint32_t lost = 0;     // bytes that belong to the next symbol
    const auto add = [&](std::uint32_t id, std::uint32_t bytes) {
      add_symbol(id, bytes + lost, scratch, out);
      lost = 0;
    };
    const auto add_unknown = [&] {
      if (unknown > 0) add(unk_, unknown);
      unknown = 0;
    };
    for (std::size_t at = 0; at < word.size();) {
      const std::size_t begin = at;
      std::uint32_t id = no_token;
      if (spec_.byte_level) {
        id = byte_ids_[static_cast<unsigned char>(word[at++])];
      } else {
        const char32_t c = detail::next_code_point(word, at);
        id = c < 128 ? ascii_ids_[c] : ids_.find(word.substr(begin, at - begin));
      }
      const std::string_view text = word.substr(begin, at - begin);
      if (id != no_token) {
        add_unknown();
        add(id, static_cast<std::uint32_t>(text.size()));
      } else if (spec_.byte_fallback && !spec_.byte_level) {
        for (const char byte : text) add(byte_ids_[static_cast<unsigned char>(byte)], 1);
      } else if (unk_ == no_token) {
        lost += static_cast<std::uint32_t>(text.size());
      } else {
        if (!spec_.fuse_unk) add_unknown();
        unknown += static_cast<std::uint32_t>(text.size());
      }
    }
    add_unknown();
    merge_symbols(scratch, out);
    out.position += lost;
  }

  // Merges the pending symbols and outputs them.
  void merge_symbols(Scratch& scratch, TokenSink& out) const {
    auto& [symbols, heap] = scratch;
    std::make_heap(heap.begin(), heap.end());
    const auto count = static_cast<std::uint32_t>(symbols.size());
    while (!heap.empty()) {
      std::pop_heap(heap.begin(), heap.end());
      const Scratch::Candidate best = heap.back();
      heap.pop_back();
      Scratch::Symbol& left = symbols[best.at];
      // Symbols only grow: a pair is unchanged if it still ends at the same place.
      if (left.id == no_token || left.next == count || symbols[left.next].next != best.end)
        continue;
      Scratch::Symbol& right = symbols[left.next];
      left.id = merged_[best.rank];
      left.bytes += right.bytes;
      left.next = right.next;
      right.id = no_token;
      if (left.next < count) {
        symbols[left.next].previous = best.at;
        consider(best.at, scratch);
      }
      if (best.at > 0) consider(left.previous, scratch);
    }
    for (std::uint32_t at = 0; at < count; at = symbols[at].next)
      out.put(symbols[at].id, symbols[at].bytes);
    symbols.clear();
  }
  void consider(std::uint32_t at, Scratch& scratch) const {
    const Scratch::Symbol& left = scratch.symbols[at];
    const Scratch::Symbol& right = scratch.symbols[left.next];
    const std::uint32_t rank = ranks_.find(left.id, right.id, never_joined);
    if (rank >= never_joined) return;
    scratch.heap.push_back({rank, at, right.next});
    std::push_heap(scratch.heap.begin(), scratch.heap.end());
  }

  static constexpr std::uint32_t never_joined = no_token - 1;

  BpeSpec spec_;  // without its vocabulary and merges
  std::vector<std::string> spelling_;
  std::vector<bool> is_token_;
  TokenTable ids_;    // by spelling
  TokenTable words_;  // by text
  std::size_t longest_word_ = 0;
  PairTable ranks_;
  std::vector<std::uint32_t> merged_;  // by rank
  std::array<std::uint32_t, 256> byte_ids_{};
  std::array<std::uint32_t, 128> ascii_ids_{};
  std::uint32_t unk_ = no_token;
  bool bytes_missing_ = false;
};

}  // namespace lora
