#include <lora/text/tokenizer/streaming_decoder.hpp>

#include <gtest/gtest.h>

#include <random>

#include "text/small_tokenizer.hpp"

namespace streaming_decoder_test {

using lora::SkipSpecial;
using lora::StreamingDecoder;
using lora::Tokenizer;
using Ids = std::vector<std::int64_t>;

TEST(StreamingDecoder, NeverHalfACharacter) {
  const Tokenizer tokenizer(lora_test::byte_level_spec());
  StreamingDecoder decoder(tokenizer);
  EXPECT_EQ(decoder.push(256), "ab");
  EXPECT_EQ(decoder.push(0xE4), "");
  EXPECT_EQ(decoder.push(0xB8), "");
  EXPECT_EQ(decoder.push(0xAD), "\xE4\xB8\xAD");
  EXPECT_EQ(decoder.push(260), "");  // special
  EXPECT_EQ(decoder.push(0xF0), "");
  EXPECT_EQ(decoder.push('x'), "\xEF\xBF\xBDx");
  EXPECT_EQ(decoder.push(0xE4), "");
  EXPECT_EQ(decoder.finish(), "\xEF\xBF\xBD");
  EXPECT_EQ(decoder.finish(), "");
  EXPECT_EQ(StreamingDecoder(tokenizer, SkipSpecial::no).push(260), "<|im_end|>");
}

TEST(StreamingDecoder, TheFirstSpaceOfEachTextIsCut) {
  const Tokenizer tokenizer(lora_test::sentencepiece_spec());
  const std::int64_t the = 3 + 256 + 8;
  StreamingDecoder decoder(tokenizer);
  EXPECT_EQ(decoder.push(1), "");
  EXPECT_EQ(decoder.push(the), "the");
  EXPECT_EQ(decoder.push(the), " the");
  EXPECT_EQ(decoder.push(3 + 0xC3), "");
  EXPECT_EQ(decoder.push(the), "\xEF\xBF\xBD the");
  EXPECT_EQ(decoder.push(3 + 0xC3), "");
  EXPECT_EQ(decoder.push(3 + 0xA9), "\xC3\xA9");
  EXPECT_EQ(decoder.push(3 + 0xE4), "");
  EXPECT_EQ(decoder.push(3 + 0xB8), "");
  EXPECT_EQ(decoder.finish(), "\xEF\xBF\xBD\xEF\xBF\xBD");
  EXPECT_EQ(decoder.push(the), "the");
}

TEST(StreamingDecoder, AllOfItIsWhatDecodingAtOnceGives) {
  std::mt19937 random(9);
  const std::string_view characters[] = {"the ", "\xC3\xA9", "\xE4\xB8\xAD", "\xF0\x9F\x98\x80",
                                         "a",    " ",        "</s>",         "<|end|>"};
  for (const auto& spec : {lora_test::byte_level_spec(), lora_test::sentencepiece_spec()}) {
    const Tokenizer tokenizer(spec);
    for (int round = 0; round < 2000; ++round) {
      std::string text;
      for (auto n = random() % 10; n > 0; --n) text += characters[random() % 8];
      const Ids ids = tokenizer.encode(text);
      for (const SkipSpecial skip : {SkipSpecial::no, SkipSpecial::yes}) {
        StreamingDecoder decoder(tokenizer, skip);
        std::string streamed;
        for (const std::int64_t id : ids) streamed += decoder.push(id);
        streamed += decoder.finish();
        ASSERT_EQ(streamed, tokenizer.decode(ids, skip)) << text;
      }
    }
  }
}

TEST(StreamingDecoder, AnyIdsOfBytesGiveTheSameText) {
  const Tokenizer tokenizer(lora_test::byte_level_spec());
  std::mt19937 random(4);
  for (int round = 0; round < 5000; ++round) {
    Ids ids;
    for (auto n = random() % 12; n > 0; --n)
      ids.push_back(random() % 2 == 0 ? 0xC0 + random() % 64 : 0x78 + random() % 72);
    StreamingDecoder decoder(tokenizer);
    std::string streamed;
    for (const std::int64_t id : ids) {
      streamed += decoder.push(id);
      ASSERT_EQ(lora::first_invalid_utf8(streamed), streamed.size());
    }
    ASSERT_EQ(streamed + decoder.finish(), tokenizer.decode(ids));
  }
}

TEST(StreamingDecoder, ANegativeIdIsRefused) {
  const Tokenizer tokenizer(lora_test::byte_level_spec());
  EXPECT_THROW(StreamingDecoder(tokenizer).push(-1), lora::ConfigError);
}

}  // namespace streaming_decoder_test
