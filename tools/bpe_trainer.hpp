// Learns a byte-level BPE vocabulary and writes it as a tokenizer.json that transformers reads.
#pragma once

#include <lora/io/json.hpp>
#include <lora/text/tokenizer/byte_spelling.hpp>
#include <lora/text/tokenizer/pre_tokenizer.hpp>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tools {

/// Learns merges until the vocabulary has `size` tokens, including `special` ones, or no pair
/// occurs twice. Splits text as Qwen2 does. Ties go to the pair that sorts first, so the same text
/// gives the same vocabulary.
/// Source: Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", 2016.
class BpeTrainer {
 public:
  void add(std::string_view text) {
    for (lora::WordScanner words(lora::WordSplit::qwen2, text); !words.done();)
      ++counts_[std::string(words.next())];
  }

  lora::Json tokenizer_json(std::size_t size, const std::vector<std::string>& special) {
    std::vector<std::string> tokens;
    for (int byte = 0; byte < 256; ++byte)
      tokens.push_back(lora::ByteSpelling::instance().spelling(static_cast<std::uint8_t>(byte)));
    std::vector<Word> words;
    for (const auto& [text, count] : counts_) {
      Word& word = words.emplace_back();
      word.count = count;
      for (const char ch : text) word.ids.push_back(static_cast<unsigned char>(ch));
    }
    lora::Json merges = lora::Json::array();
    while (tokens.size() + special.size() < size) {
      const auto best = most_frequent(words);
      if (best.second < 2) break;
      const auto [left, right] = best.first;
      merges.push_back({tokens[left], tokens[right]});
      tokens.push_back(tokens[left] + tokens[right]);
      for (Word& word : words) merge(word, best.first, tokens.size() - 1);
    }
    return json_of(tokens, merges, special);
  }

 private:
  using Pair = std::pair<std::size_t, std::size_t>;
  struct Word {
    std::vector<std::size_t> ids;
    std::int64_t count = 0;
  };

  static std::pair<Pair, std::int64_t> most_frequent(const std::vector<Word>& words) {
    std::map<Pair, std::int64_t> counts;
    for (const Word& word : words) {
      for (std::size_t i = 0; i + 1 < word.ids.size(); ++i)
        counts[{word.ids[i], word.ids[i + 1]}] += word.count;
    }
    std::pair<Pair, std::int64_t> best{{}, 0};
    for (const auto& [pair, count] : counts) {
      if (count > best.second) best = {pair, count};
    }
    return best;
  }
  static void merge(Word& word, const Pair& pair, std::size_t id) {
    std::size_t to = 0;
    for (std::size_t i = 0; i < word.ids.size(); ++i, ++to) {
      const bool found =
          i + 1 < word.ids.size() && word.ids[i] == pair.first && word.ids[i + 1] == pair.second;
      word.ids[to] = found ? id : word.ids[i];
      i += found;
    }
    word.ids.resize(to);
  }

  static lora::Json json_of(const std::vector<std::string>& tokens, const lora::Json& merges,
                            const std::vector<std::string>& special) {
    using lora::Json;
    Json vocabulary = Json::object(), added = Json::array();
    for (std::size_t id = 0; id < tokens.size(); ++id) vocabulary[tokens[id]] = id;
    for (std::size_t i = 0; i < special.size(); ++i) {
      added.push_back({{"id", tokens.size() + i},
                       {"content", special[i]},
                       {"single_word", false},
                       {"lstrip", false},
                       {"rstrip", false},
                       {"normalized", false},
                       {"special", true}});
    }
    const Json byte_level = {{"type", "ByteLevel"},
                             {"add_prefix_space", false},
                             {"trim_offsets", false},
                             {"use_regex", false}};
    const Json split = {{"type", "Split"},
                        {"pattern", {{"Regex", lora::regex_of(lora::WordSplit::qwen2)}}},
                        {"behavior", "Isolated"},
                        {"invert", false}};
    return {{"version", "1.0"},
            {"truncation", nullptr},
            {"padding", nullptr},
            {"added_tokens", added},
            {"normalizer", {{"type", "NFC"}}},
            {"pre_tokenizer",
             {{"type", "Sequence"}, {"pretokenizers", Json::array({split, byte_level})}}},
            {"post_processor", byte_level},
            {"decoder", byte_level},
            {"model",
             {{"type", "BPE"},
              {"dropout", nullptr},
              {"unk_token", nullptr},
              {"continuing_subword_prefix", ""},
              {"end_of_word_suffix", ""},
              {"fuse_unk", false},
              {"byte_fallback", false},
              {"ignore_merges", false},
              {"vocab", vocabulary},
              {"merges", merges}}}};
  }

  std::map<std::string, std::int64_t> counts_;
};

}  // namespace tools
