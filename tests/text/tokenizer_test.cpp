#include <lora/text/tokenizer/tokenizer.hpp>

#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "text/small_tokenizer.hpp"

namespace tokenizer_test {

using lora::SkipSpecial;
using lora::SpecialTokens;
using lora::Tokenizer;
using lora_test::byte_level_spec;
using lora_test::sentencepiece_spec;
using Ids = std::vector<std::int64_t>;

TEST(Tokenizer, EncodesAndDecodesBytes) {
  const Tokenizer tokenizer(byte_level_spec());
  EXPECT_EQ(tokenizer.encode("ab a<|im_end|>\n"), (Ids{256, 257, 260, '\n'}));
  EXPECT_EQ(tokenizer.decode(Ids{256, 257, 260, '\n'}), "ab a<|im_end|>\n");
  EXPECT_EQ(tokenizer.decode(Ids{256, 257, 260, '\n'}, SkipSpecial::yes), "ab a\n");
  EXPECT_EQ(tokenizer.decode(Ids{0xE4, 0xB8, 'x', 7777}), "\xEF\xBF\xBDx");
  EXPECT_EQ(tokenizer.encode(""), Ids{});
  EXPECT_EQ(tokenizer.decode(Ids{}), "");
}

TEST(Tokenizer, EncodesAndDecodesSentencePieces) {
  const Tokenizer tokenizer(sentencepiece_spec());
  const std::int64_t the = 3 + 256 + 8, space = 3 + 256;
  EXPECT_EQ(tokenizer.encode("the the"), (Ids{1, the, the}));
  EXPECT_EQ(tokenizer.encode("the", SpecialTokens::none), Ids{the});
  EXPECT_EQ(tokenizer.encode("the</s>the"), (Ids{1, the, 2, the}));
  EXPECT_EQ(tokenizer.encode("\xC3\xA9"), (Ids{1, space, 3 + 0xC3, 3 + 0xA9}));
  EXPECT_EQ(tokenizer.decode(Ids{1, the, the}), "<s> the the");
  EXPECT_EQ(tokenizer.decode(Ids{1, the, the}, SkipSpecial::yes), "the the");
  EXPECT_EQ(tokenizer.decode(Ids{3 + 0xC3, 3 + 0xA9, the}), "\xC3\xA9 the");
  // A run of byte tokens that is no UTF-8 is given up as a whole.
  EXPECT_EQ(tokenizer.decode(Ids{3 + 'x', 3 + 0xC3, the}), "\xEF\xBF\xBD\xEF\xBF\xBD the");
}

TEST(Tokenizer, SpecialTokensAreAddedBeforeAndBehind) {
  lora::TokenizerSpec spec = byte_level_spec();
  spec.before = {259};
  spec.after = {260, 258};
  const Tokenizer tokenizer(spec);
  EXPECT_EQ(tokenizer.encode("a"), (Ids{259, 'a', 260, 258}));
  EXPECT_EQ(tokenizer.encode("a", SpecialTokens::before), (Ids{259, 'a'}));
  EXPECT_EQ(tokenizer.encode("a", SpecialTokens::none), Ids{'a'});
  EXPECT_EQ(tokenizer.ids_before(), std::vector<std::uint32_t>{259});
  EXPECT_EQ(tokenizer.ids_after(), (std::vector<std::uint32_t>{260, 258}));
}

// As in `tokenizers`, which looks the ids of a template up nowhere.
TEST(Tokenizer, TheSizeCountsIdsOfTheTemplateThatNoTokenHas) {
  lora::TokenizerSpec spec = byte_level_spec();
  const std::int64_t plain = Tokenizer(spec).vocab_size();
  spec.before = {static_cast<std::uint32_t>(plain) + 40};
  spec.after = {static_cast<std::uint32_t>(plain) + 3};
  const Tokenizer tokenizer(spec);
  EXPECT_EQ(tokenizer.vocab_size(), plain + 41);
  EXPECT_EQ(tokenizer.encode("a"), (Ids{plain + 40, 'a', plain + 3}));
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("a")), "a");
}

TEST(Tokenizer, EndsAreThePlacesInTheText) {
  using Ends = std::vector<std::size_t>;
  const lora::Encoding bytes = Tokenizer(byte_level_spec()).encode_with_ends("ab a<|im_end|>x");
  EXPECT_EQ(bytes.ids, (Ids{256, 257, 260, 'x'}));
  EXPECT_EQ(bytes.ends, (Ends{2, 4, 14, 15}));
  const Tokenizer pieces(sentencepiece_spec());
  EXPECT_EQ(pieces.encode_with_ends("the cat</s>the").ends, (Ends{0, 3, 4, 5, 6, 7, 11, 14}));
  EXPECT_EQ(pieces.encode_with_ends("\xC3\xA9").ends, (Ends{0, 0, 1, 2}));
}

TEST(Tokenizer, EndsUnderNormalisation) {
  lora::TokenizerSpec spec = byte_level_spec();
  spec.normalizer = {{lora::TextStep::Kind::nfc, "", ""}};
  const lora::Encoding encoding = Tokenizer(spec).encode_with_ends(
      "ae\xCC\x81"
      "b");
  EXPECT_EQ(encoding.ids, (Ids{'a', 0xC3, 0xA9, 'b'}));
  EXPECT_EQ(encoding.ends, (std::vector<std::size_t>{1, 1, 4, 5}));
}

TEST(Tokenizer, AddedTokensMayBeSearchedInTheNormalisedText) {
  lora::TokenizerSpec spec = byte_level_spec();
  spec.normalizer = {{lora::TextStep::Kind::nfc, "", ""}};
  lora::AddedToken token;
  token.id = 300;
  token.content = "e\xCC\x81";
  token.normalized = true;
  spec.added.push_back(token);
  const lora::Encoding encoding = Tokenizer(spec).encode_with_ends("a\xC3\xA9<|end|>e\xCC\x81x");
  EXPECT_EQ(encoding.ids, (Ids{'a', 300, 258, 300, 'x'}));
  EXPECT_EQ(encoding.ends, (std::vector<std::size_t>{1, 3, 10, 13, 14}));
}

TEST(Tokenizer, AStretchThatTheNormaliserEmptiesIsNothing) {
  lora::TokenizerSpec spec = byte_level_spec();
  spec.normalizer = {{lora::TextStep::Kind::strip_left, "", ""},
                     {lora::TextStep::Kind::strip_right, "", ""}};
  spec.pre_tokenizer = {{lora::TextStep::Kind::prepend_unless_there, "", " "}};
  EXPECT_EQ(Tokenizer(spec).encode("<|end|> <|end|>"), (Ids{258, 258}));
  EXPECT_EQ(Tokenizer(spec).encode_with_ends("<|end|> <|end|>").ends,
            (std::vector<std::size_t>{7, 15}));
  EXPECT_EQ(Tokenizer(spec).encode(" "), Ids{});
  EXPECT_EQ(Tokenizer(spec).encode("a <|end|>"), (Ids{257, 258}));
  spec.added[0].normalized = true;
  EXPECT_EQ(Tokenizer(spec).encode("<|im_end|> <|im_end|>"), (Ids{260, 260}));
}

// As NormalizedString's offsets in the tokenizers library have it.
TEST(Tokenizer, TheFirstMarkFallsAwayWhereTheNormaliserJoinsTheFirstCharacters) {
  lora::TokenizerSpec spec = byte_level_spec();
  spec.pre_tokenizer = {{lora::TextStep::Kind::prepend_first, "", "_"}};
  spec.normalizer = {{lora::TextStep::Kind::replace, "xy", "z"}};
  EXPECT_EQ(Tokenizer(spec).encode("xyb"), (Ids{'z', 'b'}));
  EXPECT_EQ(Tokenizer(spec).encode("bxy"), (Ids{'_', 'b', 'z'}));
  EXPECT_EQ(Tokenizer(spec).encode("<|end|>b"), (Ids{258, 'b'}));
}

TEST(Tokenizer, EndsNeverGoBackWhereWhiteSpaceIsTakenTwice) {
  lora::TokenizerSpec spec = byte_level_spec();
  spec.added[0].rstrip = true;
  spec.added[1].content = "\n\n";
  const lora::Encoding encoding = Tokenizer(spec).encode_with_ends("a<|end|>\n\n\nb");
  EXPECT_EQ(encoding.ids, (Ids{'a', 258, 259, '\n', 'b'}));
  EXPECT_EQ(encoding.ends, (std::vector<std::size_t>{1, 11, 11, 11, 12}));
  for (lora::AddedToken& token : spec.added) token.normalized = true;
  const lora::Encoding normalized = Tokenizer(spec).encode_with_ends("a<|end|>\n\n\nb");
  EXPECT_EQ(normalized.ids, encoding.ids);
  EXPECT_EQ(normalized.ends, encoding.ends);
}

TEST(Tokenizer, TwoTokensOfOneNormalisedTextAreANotice) {
  lora::TokenizerSpec spec = byte_level_spec();
  spec.normalizer = {{lora::TextStep::Kind::nfc, "", ""}};
  spec.added[0].content = "\u00E9!";
  spec.added[1].content = "e\u0301!";
  EXPECT_TRUE(Tokenizer(spec).notices().empty());
  spec.added[0].normalized = spec.added[1].normalized = true;
  EXPECT_EQ(
      Tokenizer(spec).notices(),
      std::vector<std::string>{
          "small/tokenizer.json: added_tokens: the normalizer makes \"\u00E9!\" of id 258 and of "
          "id 259; the tokenizers library takes either, here it is the first"});
  EXPECT_EQ(Tokenizer(spec).encode("e\u0301!"), Ids{258});
}

TEST(Tokenizer, IdsAndNames) {
  const Tokenizer tokenizer(sentencepiece_spec());
  EXPECT_EQ(tokenizer.id_of("</s>"), 2);
  EXPECT_EQ(tokenizer.id_of("\u2581the"), 3 + 256 + 8);
  EXPECT_EQ(tokenizer.id_of("the"), std::nullopt);
  EXPECT_EQ(tokenizer.bos_id(), 1);
  EXPECT_EQ(tokenizer.eos_id(), 2);
  EXPECT_EQ(tokenizer.pad_id(), std::nullopt);
  EXPECT_EQ(tokenizer.eos_token(), "</s>");
  EXPECT_EQ(tokenizer.vocab_size(), 3 + 256 + 9);
  EXPECT_EQ(Tokenizer(byte_level_spec()).vocab_size(), 261);
  EXPECT_EQ(Tokenizer(byte_level_spec()).bos_token(), std::nullopt);
  EXPECT_EQ(Tokenizer(byte_level_spec()).chat_template(), "");
}

TEST(Tokenizer, AnyBytesComeBackWhereNothingIsNormalised) {
  const Tokenizer tokenizer(byte_level_spec());
  std::mt19937 random(2);
  const std::string common = "ab  \n'<|end|>\xE4\xB8\xAD\xC3\xA9\xFF\x80";
  for (int round = 0; round < 5000; ++round) {
    std::string text;
    for (auto n = random() % 30; n > 0; --n)
      text += random() % 8 == 0 ? static_cast<char>(random()) : common[random() % common.size()];
    const lora::Encoding encoding = tokenizer.encode_with_ends(text);
    std::string bytes;
    for (const std::int64_t id : encoding.ids) bytes += tokenizer.decoder().piece(id).text;
    ASSERT_EQ(bytes, text);
    std::string repaired;
    lora::append_repaired_utf8(text, lora::Input::complete, repaired);
    ASSERT_EQ(tokenizer.decode(encoding.ids), repaired);
    ASSERT_TRUE(std::is_sorted(encoding.ends.begin(), encoding.ends.end()));
    ASSERT_EQ(encoding.ends.empty() ? 0 : encoding.ends.back(), text.size());
    ASSERT_EQ(tokenizer.encode(text), encoding.ids);
  }
}

TEST(Tokenizer, SeveralThreadsEncodeWithOneTokenizer) {
  const Tokenizer tokenizer(sentencepiece_spec());
  const std::string text = "the cat the</s> \xE4\xB8\xAD ate the cat";
  const Ids expected = tokenizer.encode(text);
  std::vector<std::thread> threads;
  std::vector<int> wrong(4);
  for (std::size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 500; ++i)
        wrong[t] += tokenizer.encode(text) != expected || tokenizer.decode(expected).empty();
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4));
}

std::string refusal(const lora::TokenizerSpec& spec) {
  try {
    const Tokenizer tokenizer(spec);
  } catch (const lora::FormatError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(Tokenizer, AnAddedTokenThatContradictsTheVocabularyIsRefused) {
  lora::TokenizerSpec spec = byte_level_spec();
  const std::string where = "small/tokenizer.json: added_tokens: ";
  lora::AddedToken& token = spec.added.back();
  token.content = "ab";
  EXPECT_EQ(refusal(spec), where + "\"ab\" has id 260, but in the vocabulary it has id 256");
  token.content = "new";
  token.id = 257;
  EXPECT_EQ(refusal(spec), where + "\"new\" has id 257, but in the vocabulary that is \"\u0120a\"");
  token.id = 4'194'304;
  EXPECT_EQ(refusal(spec), where + "\"new\" has id 4194304, but the largest supported is 4194303");
  token.id = 300;
  token.content = "";
  EXPECT_EQ(refusal(spec), where + "\"\" has id 300, but no content");
  token.content = "<|end|>";
  EXPECT_EQ(refusal(spec),
            where + "\"<|end|>\" has id 300, but another token has the same content");
  token.id = 256;
  token.content = "ab";
  EXPECT_EQ(refusal(spec), "accepted");
}

// The tokenizers library ends the program on "<|end|>\n\n\n\n" here.
TEST(Tokenizer, WhiteSpaceWithLstripAloneBesideAnRstripIsRefused) {
  lora::TokenizerSpec spec = byte_level_spec();
  spec.added[0].rstrip = true;
  spec.added[1].content = "\n\n";
  spec.added[1].lstrip = true;
  EXPECT_EQ(refusal(spec),
            "small/tokenizer.json: added_tokens: \"\\x0a\\x0a\" has id 259, but white space with "
            "lstrip and without rstrip is not supported together with \"<|end|>\", which has "
            "rstrip");
  spec.added[1].normalized = true;  // searched apart
  EXPECT_EQ(refusal(spec), "accepted");
  spec.added[1].normalized = false;
  spec.added[1].rstrip = true;
  EXPECT_EQ(refusal(spec), "accepted");
}

TEST(Tokenizer, ATextBeyondTwoGigabytesIsRefusedBeforeItIsRead) {
  const Tokenizer tokenizer(byte_level_spec());
  const char nothing = 'x';
  try {
    tokenizer.encode(std::string_view(&nothing, std::size_t{1} << 31));
    ADD_FAILURE() << "accepted";
  } catch (const lora::ConfigError& error) {
    EXPECT_STREQ(error.what(),
                 "Tokenizer::encode: the text has 2147483648 bytes, at most 2147483647 are "
                 "supported; cut it into documents");
  }
}

TEST(Tokenizer, AFixedStretchIsTheTokenThatItNames) {
  const Tokenizer tokenizer(lora_test::byte_level_spec());
  const lora::TextPart fixed[] = {{1, 3, 256}, {4, 5, 258}};
  const lora::Encoding encoding =
      tokenizer.encode_with_ends("aabx!<|end|>", lora::SpecialTokens::none, fixed);
  EXPECT_EQ(encoding.ids, (Ids{'a', 256, 'x', 258, 258}));
  EXPECT_EQ(encoding.ends, (std::vector<std::size_t>{1, 3, 4, 5, 12}));
}

}  // namespace tokenizer_test
