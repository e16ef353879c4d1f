#include <lora/text/tokenizer/token_decoder.hpp>

#include <gtest/gtest.h>

namespace token_decoder_test {

using lora::Input;

std::string repaired(std::string_view bytes) {
  std::string out;
  EXPECT_EQ(lora::append_repaired_utf8(bytes, Input::complete, out), bytes.size());
  return out;
}

#define BAD "\xEF\xBF\xBD"

TEST(TokenDecoder, EachMaximalPartOfABrokenSequenceIsOneReplacement) {
  EXPECT_EQ(repaired("a\xC3\xA9\xE4\xB8\xAD\xF0\x9F\x98\x80"),
            "a\xC3\xA9\xE4\xB8\xAD\xF0\x9F\x98\x80");
  EXPECT_EQ(repaired("\xE4\xB8"
                     "a"),
            BAD "a");
  EXPECT_EQ(repaired("\xF0\x9F\x98"
                     "a"),
            BAD "a");
  EXPECT_EQ(repaired("\xE4\xB8"), BAD);
  EXPECT_EQ(repaired("\x80\xBF"), BAD BAD);
  EXPECT_EQ(repaired("\xC0\x80"), BAD BAD);          // an overlong NUL
  EXPECT_EQ(repaired("\xE0\x9F\xBF"), BAD BAD BAD);  // overlong
  EXPECT_EQ(repaired("\xF0\x8F\xBF\xBF"), BAD BAD BAD BAD);
  EXPECT_EQ(repaired("\xED\xA0\x80"), BAD BAD BAD);          // half a surrogate pair
  EXPECT_EQ(repaired("\xF4\x90\x80\x80"), BAD BAD BAD BAD);  // beyond U+10FFFF
  EXPECT_EQ(repaired("\xF5\xFF"), BAD BAD);
  EXPECT_EQ(repaired("\xEE\x80\x80\xF4\x8F\xBF\xBF\xED\x9F\xBF"),
            "\xEE\x80\x80\xF4\x8F\xBF\xBF\xED\x9F\xBF");
}

TEST(TokenDecoder, WhereMoreMayComeTheBeginningOfACharacterIsLeft) {
  std::string out;
  EXPECT_EQ(lora::append_repaired_utf8("a\xF0\x9F\x98", Input::more, out), 1u);
  EXPECT_EQ(out, "a");
  EXPECT_EQ(lora::append_repaired_utf8("\xE4\x41\xC3", Input::more, out), 2u);
  EXPECT_EQ(out, "a" BAD "A");
  EXPECT_EQ(lora::append_repaired_utf8("\xFF", Input::more, out), 1u);
  EXPECT_EQ(out, "a" BAD "A" BAD);
}

TEST(TokenDecoder, PiecesOfSentencePieceTokens) {
  lora::DecoderSpec spec;
  spec.byte_level = false;
  spec.marks_to_spaces = spec.byte_fallback = true;
  lora::TokenDecoder decoder(spec);
  decoder.add(0, "\u2581a\u2581\u2581", false);
  decoder.add(1, "<0xAb>", false);
  decoder.add(2, "<0xGG>", false);
  decoder.add(4, "</s>", true);
  EXPECT_EQ(decoder.piece(0).text, " a  ");
  EXPECT_FALSE(decoder.piece(0).byte);
  EXPECT_EQ(decoder.piece(1).text, "\xAB");
  EXPECT_TRUE(decoder.piece(1).byte);
  EXPECT_EQ(decoder.piece(2).text, "<0xGG>");
  EXPECT_EQ(decoder.piece(3).text, "");  // no token
  EXPECT_EQ(decoder.piece(5).text, "");
  EXPECT_TRUE(decoder.piece(4).special);
  EXPECT_FALSE(decoder.piece(0).special);
}

TEST(TokenDecoder, PiecesOfBytes) {
  lora::TokenDecoder decoder{lora::DecoderSpec{}};
  decoder.add(0, "\u0120a\u010A", false);
  decoder.add(1, "a b", true);  // spells no bytes: taken as it is
  EXPECT_EQ(decoder.piece(0).text, " a\n");
  EXPECT_EQ(decoder.piece(1).text, "a b");
}

TEST(TokenDecoder, ANegativeIdIsRefused) {
  try {
    lora::TokenDecoder{lora::DecoderSpec{}}.piece(-100);
    ADD_FAILURE() << "accepted";
  } catch (const lora::ConfigError& error) {
    EXPECT_STREQ(error.what(),
                 "Tokenizer::decode: id -100 is negative, expected the id of a token");
  }
}

}  // namespace token_decoder_test
