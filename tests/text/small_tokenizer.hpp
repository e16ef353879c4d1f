// Tokenizers of a few tokens, for tests that need no vocabulary of a real model.
#pragma once

#include <lora/text/tokenizer/tokenizer.hpp>

#include <string>

namespace lora_test {

/// The 256 bytes (ids 0 to 255 as bytes), "ab" 256, " a" 257, then <|end|> 258 and <|im_start|>
/// 259, <|im_end|> 260 as special tokens. End token <|end|>.
inline lora::TokenizerSpec byte_level_spec() {
  lora::TokenizerSpec spec;
  spec.model.where = "small/tokenizer.json";
  const lora::ByteSpelling& spelling = lora::ByteSpelling::instance();
  for (std::uint32_t byte = 0; byte < 256; ++byte)
    spec.model.vocab.emplace_back(spelling.spelling(static_cast<std::uint8_t>(byte)), byte);
  spec.model.vocab.emplace_back("ab", 256);
  spec.model.vocab.emplace_back("\u0120a", 257);
  spec.model.merges = {{"a", "b"}, {"\u0120", "a"}};
  spec.split = lora::WordSplit::gpt2;
  std::uint32_t id = 258;
  for (const char* content : {"<|end|>", "<|im_start|>", "<|im_end|>"}) {
    lora::AddedToken token;
    token.id = id++;
    token.content = content;
    token.special = true;
    spec.added.push_back(token);
  }
  spec.eos_token = "<|end|>";
  return spec;
}

/// As Llama 2 does it: <unk> 0, <s> 1, </s> 2, the bytes from 3 on, then characters and merges of
/// "▁the cat". <s> goes before a text.
inline lora::TokenizerSpec sentencepiece_spec() {
  lora::TokenizerSpec spec;
  lora::BpeSpec& model = spec.model;
  model.where = "small/tokenizer.json";
  model.byte_level = false;
  model.byte_fallback = true;
  std::uint32_t id = 0;
  for (const char* special : {"<unk>", "<s>", "</s>"}) {
    lora::AddedToken token;
    token.id = id;
    token.content = special;
    token.special = true;
    spec.added.push_back(token);
    model.vocab.emplace_back(special, id++);
  }
  for (unsigned byte = 0; byte < 256; ++byte) {
    constexpr std::string_view hex = "0123456789ABCDEF";
    model.vocab.emplace_back(std::string("<0x") + hex[byte >> 4] + hex[byte & 15] + ">", id++);
  }
  for (const char* text : {"\u2581", "t", "h", "e", "c", "a", "\u2581t", "he", "\u2581the"})
    model.vocab.emplace_back(text, id++);
  model.merges = {{"\u2581", "t"}, {"h", "e"}, {"\u2581t", "he"}};
  model.unk_token = "<unk>";
  spec.normalizer = {{lora::TextStep::Kind::prepend, "", "\u2581"},
                     {lora::TextStep::Kind::replace, " ", "\u2581"}};
  spec.before = {1};
  spec.decoder = {false, true, true, 1};
  spec.bos_token = "<s>";
  spec.eos_token = "</s>";
  return spec;
}

}  // namespace lora_test
