#include <lora/text/tokenizer/bpe.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <random>

namespace bpe_test {

using lora::Bpe;
using lora::BpeSpec;
using lora::ByteSpelling;

std::vector<std::int64_t> encode(const Bpe& bpe, std::string_view word,
                                 std::vector<std::size_t>* ends = nullptr) {
  Bpe::Scratch scratch;
  std::vector<std::int64_t> ids;
  lora::TokenSink sink{ids, ends};
  bpe.encode(word, scratch, sink);
  return ids;
}

// Characters a-e and <0x..> bytes; merges in the order given.
BpeSpec small_spec(const std::vector<std::pair<std::string, std::string>>& merges) {
  BpeSpec spec;
  spec.where = "tokenizer.json";
  spec.byte_level = false;
  spec.byte_fallback = true;
  std::uint32_t id = 0;
  for (const char* c : {"a", "b", "c", "d", "e", "\xC3\xA9"}) spec.vocab.emplace_back(c, id++);
  for (int byte = 0; byte < 256; ++byte) {
    char text[8];
    std::snprintf(text, sizeof text, "<0x%02X>", static_cast<unsigned>(byte));
    spec.vocab.emplace_back(text, id++);
  }
  for (const auto& merge : merges) {
    const std::string merged = merge.first + merge.second;
    const auto same = [&](const auto& entry) { return entry.first == merged; };
    if (std::none_of(spec.vocab.begin(), spec.vocab.end(), same))
      spec.vocab.emplace_back(merged, id++);
    spec.merges.push_back(merge);
  }
  return spec;
}

// The definition: as long as a merge applies, the one of lowest rank, leftmost first.
std::vector<std::string> merged_by_definition(const BpeSpec& spec, std::string_view word) {
  std::vector<std::string> symbols;
  for (std::size_t at = 0; at < word.size();) {
    const std::size_t begin = at;
    lora::detail::next_code_point(word, at);
    symbols.emplace_back(word.substr(begin, at - begin));
  }
  for (;;) {
    std::size_t best_rank = spec.merges.size(), best = 0;
    for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
      for (std::size_t rank = 0; rank < best_rank; ++rank) {
        if (spec.merges[rank] == std::pair(symbols[i], symbols[i + 1])) best_rank = rank, best = i;
      }
    }
    if (best_rank == spec.merges.size()) return symbols;
    symbols[best] += symbols[best + 1];
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
}

TEST(Bpe, EqualsTheDefinitionOnRandomVocabularies) {
  std::mt19937 random(5);
  for (int round = 0; round < 300; ++round) {
    std::vector<std::string> parts = {"a", "b", "c", "d", "e", "\xC3\xA9"};
    std::vector<std::pair<std::string, std::string>> merges;
    for (auto n = random() % 25; n > 0; --n) {
      const auto merge = std::pair(parts[random() % parts.size()], parts[random() % parts.size()]);
      if (std::find(merges.begin(), merges.end(), merge) != merges.end()) continue;
      merges.push_back(merge);
      parts.push_back(merge.first + merge.second);
    }
    std::shuffle(merges.begin(), merges.end(), random);
    const BpeSpec spec = small_spec(merges);
    const Bpe bpe(spec);
    for (int i = 0; i < 30; ++i) {
      std::string word;
      for (auto n = random() % 20; n > 0; --n) word += parts[random() % 6];
      std::vector<std::int64_t> expected;
      for (const std::string& symbol : merged_by_definition(spec, word))
        expected.push_back(bpe.id_of(symbol));
      std::vector<std::size_t> ends;
      ASSERT_EQ(encode(bpe, word, &ends), expected) << word;
      std::string covered;
      for (std::size_t k = 0, begin = 0; k < ends.size(); begin = ends[k++])
        covered += bpe.spelling(static_cast<std::uint32_t>(expected[k])) ==
                           word.substr(begin, ends[k] - begin)
                       ? "="
                       : "!";
      ASSERT_EQ(covered, std::string(expected.size(), '=')) << word;
    }
  }
}

TEST(Bpe, UnknownCharactersBecomeTheirBytesOrOneUnknownToken) {
  BpeSpec spec = small_spec({{"a", "b"}});
  const auto ids = [](const Bpe& bpe, const char* text) {
    std::vector<std::string> out;
    for (const std::int64_t id : encode(bpe, text))
      out.push_back(bpe.spelling(static_cast<std::uint32_t>(id)));
    return out;
  };
  using Texts = std::vector<std::string>;
  EXPECT_EQ(ids(Bpe(spec), "ab\xE4\xB8\xAD\xFF"),
            (Texts{"ab", "<0xE4>", "<0xB8>", "<0xAD>", "<0xFF>"}));
  spec.byte_fallback = false;
  spec.unk_token = "e";
  EXPECT_EQ(ids(Bpe(spec), "xyab\xE4\xB8\xADz"), (Texts{"e", "e", "ab", "e", "e"}));
  spec.fuse_unk = true;
  std::vector<std::size_t> ends;
  EXPECT_EQ(ids(Bpe(spec), "xyab\xE4\xB8\xADz"), (Texts{"e", "ab", "e"}));
  encode(Bpe(spec), "xyab\xE4\xB8\xADz", &ends);
  EXPECT_EQ(ends, (std::vector<std::size_t>{2, 4, 8}));
}

std::string refusal(const BpeSpec& spec) {
  try {
    const Bpe bpe(spec);
  } catch (const lora::FormatError& error) {
    return error.what();
  }
  return "accepted";
}

// GPT-2's alphabet and a few merges.
BpeSpec byte_spec() {
  BpeSpec spec;
  spec.where = "tokenizer.json";
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    spec.vocab.emplace_back(ByteSpelling::instance().spelling(static_cast<std::uint8_t>(byte)),
                            byte);
  }
  spec.vocab.insert(spec.vocab.end(), {{"ab", 256}, {"abc", 257}, {"bc", 258}, {"\u0120a", 259}});
  spec.merges = {{"b", "c"}, {"\u0120", "a"}, {"a", "b"}, {"ab", "c"}};
  return spec;
}

TEST(Bpe, AWordThatIsATokenIsFoundAsOneOnlyIfItsMergesLeadThere) {
  const Bpe bpe(byte_spec());
  EXPECT_EQ(encode(bpe, "abc"), (std::vector<std::int64_t>{'a', 258}));  // b and c merge first
  EXPECT_EQ(encode(bpe, " a"), std::vector<std::int64_t>{259});
  BpeSpec spec = byte_spec();
  spec.ignore_merges = true;
  EXPECT_EQ(encode(Bpe(spec), "abc"), std::vector<std::int64_t>{257});
  EXPECT_EQ(encode(Bpe(spec), "abcc"), (std::vector<std::int64_t>{'a', 258, 'c'}));
}

// SmolLM2's vocabulary lacks bytes. The tokenizers library gives unk_token for them, or loses them.
TEST(Bpe, AVocabularyWithoutSomeCharactersOrBytes) {
  for (const bool byte_level : {true, false}) {
    BpeSpec spec;
    spec.where = "tokenizer.json";
    spec.byte_level = byte_level;
    spec.vocab = {{"a", 0}, {"b", 1}, {"ab", 2}, {"?", 3}};
    spec.merges = {{"a", "b"}};
    std::vector<std::size_t> ends;
    EXPECT_EQ(encode(Bpe(spec), "axyb z", &ends), std::vector<std::int64_t>{2});
    EXPECT_EQ(ends, std::vector<std::size_t>{4});
    spec.unk_token = "?";
    EXPECT_EQ(encode(Bpe(spec), "axyb z"), (std::vector<std::int64_t>{0, 3, 3, 1, 3, 3}));
    spec.fuse_unk = true;
    EXPECT_EQ(encode(Bpe(spec), "axyb z"), (std::vector<std::int64_t>{0, 3, 1, 3}));
    spec.unk_token = "!";
    EXPECT_EQ(refusal(spec), "tokenizer.json: model.unk_token: \"!\" is not in the vocabulary");
  }
}

TEST(Bpe, TheAlphabetOfBytesIsReadBack) {
  const ByteSpelling& spelling = ByteSpelling::instance();
  std::map<std::string, int> seen;
  for (int byte = 0; byte < 256; ++byte) {
    const std::string& text = spelling.spelling(static_cast<std::uint8_t>(byte));
    ++seen[text];
    EXPECT_EQ(spelling.bytes(text), std::string(1, static_cast<char>(byte)));
  }
  EXPECT_EQ(seen.size(), 256u);
  EXPECT_EQ(spelling.spelling(' '), "\u0120");
  EXPECT_EQ(spelling.spelling('\n'), "\u010A");
  EXPECT_EQ(spelling.spelling(0xAD), "\u0143");
  EXPECT_EQ(spelling.spelling('a'), "a");
  EXPECT_EQ(spelling.bytes("a b"), std::nullopt);
  EXPECT_EQ(spelling.bytes("\u4E2D"), std::nullopt);
}

TEST(Bpe, AWordOfAMillionBytesTakesNoQuadraticTime) {
  const Bpe bpe(small_spec({{"a", "a"}, {"aa", "aa"}, {"b", "a"}, {"aaaa", "aaaa"}}));
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(encode(bpe, std::string(1'000'000, 'a')).size(), 125'000u);
  // Merging by searching the whole word each time would be 1e11 steps.
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60));
}

TEST(Bpe, RefusalsNameTheEntry) {
  BpeSpec spec = small_spec({{"a", "b"}});
  spec.vocab.emplace_back("x", 4'194'304);
  EXPECT_EQ(refusal(spec),
            "tokenizer.json: model.vocab: \"x\" has id 4194304, the largest supported is 4194303");
  spec.vocab.back() = {"x", 1};
  EXPECT_EQ(refusal(spec), "tokenizer.json: model.vocab: \"x\" and \"b\" have the same id 1");
  spec.vocab.back() = {"a", 999};
  EXPECT_EQ(refusal(spec), "tokenizer.json: model.vocab: \"a\" appears twice");
  spec.vocab.pop_back();
  EXPECT_EQ(refusal(spec), "accepted");

  spec.merges.emplace_back("a", "zz");
  EXPECT_EQ(refusal(spec), "tokenizer.json: model.merges[1]: \"zz\" is not in the vocabulary");
  spec.merges.back() = {"b", "a"};
  EXPECT_EQ(refusal(spec), "tokenizer.json: model.merges[1]: \"ba\" is not in the vocabulary");
  spec.merges.back() = {"a", ""};
  EXPECT_EQ(refusal(spec), "tokenizer.json: model.merges[1]: \"\" is empty");
  spec.merges.back() = {"a", "<0x0A>"};
  EXPECT_EQ(refusal(spec),
            "tokenizer.json: model.merges[1]: \"<0x0A>\" is a token that takes part in no merge");
  spec.merges.pop_back();

  spec.byte_fallback = false;
  spec.unk_token = "<unk>";
  EXPECT_EQ(refusal(spec), "tokenizer.json: model.unk_token: \"<unk>\" is not in the vocabulary");
  spec.unk_token = "b";
  EXPECT_EQ(refusal(spec),
            "tokenizer.json: model.merges[0]: \"b\" is a token that takes part in no merge");

  spec = small_spec({});
  spec.vocab.erase(spec.vocab.begin() + 6 + 0x4F);
  EXPECT_EQ(refusal(spec), "tokenizer.json: model.vocab: no token \"<0x4F>\" for the byte 79");
}

}  // namespace bpe_test
