#include <lora/text/tokenizer/special_tokens.hpp>

#include <gtest/gtest.h>

#include "text/small_tokenizer.hpp"

namespace special_tokens_test {

using lora::AddedToken;
using lora::Json;
using lora::TokenizerSpec;

// A vocabulary of three tokens, and "<x>" as an added token behind it.
TokenizerSpec small_spec() {
  TokenizerSpec spec;
  spec.model.vocab = {{"a", 0}, {"b", 1}, {"<s>", 2}};
  AddedToken token;
  token.id = 3;
  token.content = "<x>";
  token.normalized = true;
  spec.added.push_back(token);
  return spec;
}

struct Texts {
  std::string config = {}, map = {}, added = {};
};

using Defaults = std::vector<std::pair<std::string, std::string>>;

TokenizerSpec read(const Texts& texts, const Defaults& defaults = {}) {
  TokenizerSpec spec = small_spec();
  const auto json = [](const std::string& text) {
    return text.empty() ? Json() : Json::parse(text);
  };
  const Json config = json(texts.config), map = json(texts.map), added = json(texts.added);
  lora::special_tokens::Files files;
  files.directory = "dir";
  if (!config.is_null()) files.config = &config;
  if (!map.is_null()) files.map = &map;
  if (!added.is_null()) files.added = &added;
  lora::add_special_tokens(files, defaults, spec);
  return spec;
}

// "3 <x> n" for each added token: n normalized, s special, l lstrip, r rstrip, w single_word.
std::string tokens_of(const TokenizerSpec& spec) {
  std::string out;
  for (const AddedToken& token : spec.added) {
    out += (out.empty() ? "" : ", ") + std::to_string(token.id) + " " + token.content + " ";
    if (token.normalized) out += 'n';
    if (token.special) out += 's';
    if (token.lstrip) out += 'l';
    if (token.rstrip) out += 'r';
    if (token.single_word) out += 'w';
  }
  return out;
}
std::string tokens(const Texts& texts) { return tokens_of(read(texts)); }

TEST(SpecialTokens, TokensWithAPartAreAddedAsSpecialOnes) {
  EXPECT_EQ(tokens({.config = R"({"pad_token": "<p>", "eos_token": "<e>", "bos_token": "<s>"})"}),
            "3 <x> n, 2 <s> s, 4 <e> s, 5 <p> s");
  EXPECT_EQ(tokens({.config = R"({"image_token": "<i>", "add_bos_token": true})"}),
            "3 <x> n, 4 <i> s");
  EXPECT_EQ(tokens({.config = R"({"eos_token": {"content": "<e>", "lstrip": true}})"}),
            "3 <x> n, 4 <e> sl");
  EXPECT_EQ(tokens({.config = R"({"eos_token": null, "pad_token": ""})"}), "3 <x> n");
  EXPECT_EQ(tokens({.config = R"({"eos_token": "<x>"})"}), "3 <x> ns");  // it is there already
  const TokenizerSpec spec = read({.config = R"({"pad_token": "<p>", "bos_token": "<s>"})"});
  EXPECT_EQ(spec.pad_token, "<p>");
  EXPECT_EQ(spec.bos_token, "<s>");
  EXPECT_EQ(spec.eos_token, std::nullopt);
}

TEST(SpecialTokens, ListsOfFurtherTokens) {
  EXPECT_EQ(tokens({.config = R"({"extra_special_tokens": ["<p>", "<q>"]})"}),
            "3 <x> n, 4 <p> s, 5 <q> s");
  EXPECT_EQ(tokens({.config = R"({"additional_special_tokens": ["<p>", "<p>", "<x>"]})"}),
            "3 <x> n, 4 <p> s");
  EXPECT_EQ(tokens({.config = R"({"extra_special_tokens": {"image_token": "<i>"}})"}),
            "3 <x> n, 4 <i> s");
  EXPECT_EQ(tokens({.config = R"({"extra_special_tokens": [],
                                  "additional_special_tokens": [{"content": "<p>", "rstrip": true}]})"}),
            "3 <x> n, 4 <p> sr");
  EXPECT_EQ(tokens({.config = R"({"extra_special_tokens": ["<p>"],
                                  "additional_special_tokens": ["<q>"]})"}),
            "3 <x> n, 4 <p> s");
}

// What transformers 5 makes of objects in such a list.
TEST(SpecialTokens, ATypedObjectInAListSaysItselfWhetherItIsSpecial) {
  const std::string p = R"({"__type": "AddedToken", "content": "<p>")";
  for (const std::string list : {"extra_special_tokens", "additional_special_tokens"}) {
    const auto config = [&](const std::string& entries) {
      return tokens({.config = R"({")" + list + R"(": [)" + entries + "]}"});
    };
    EXPECT_EQ(config(p + "}"), "3 <x> n, 4 <p> n");
    EXPECT_EQ(config(p + R"(, "normalized": false, "special": false})"), "3 <x> n, 4 <p> ");
    EXPECT_EQ(config(p + R"(, "special": true})"), "3 <x> n, 4 <p> s");
    EXPECT_EQ(config(p + R"(}, "<p>")"), "3 <x> n, 4 <p> s");
    EXPECT_EQ(config(p + R"(}], "pad_token": "<p>", "other": [)"), "3 <x> n, 4 <p> ns");
    const std::string map =
        tokens({.map = R"({")" + list + R"(": [)" + p + R"(, "normalized": false}]})"});
    EXPECT_EQ(map, list[0] == 'e' ? "3 <x> n, 4 <p> s" : "3 <x> n, 4 <p> ");
  }
}

TEST(SpecialTokens, AddedTokensDecoderMakesTheOlderFilesMute) {
  const Texts texts{.config = R"({"eos_token": "<e>", "added_tokens_decoder": {
                                  "5": {"content": "<q>", "special": false, "single_word": true},
                                  "4": {"content": "<e>", "special": false, "normalized": true,
 "lstrip": true}}})",
                    .map = R"({"eos_token": "<y>", "pad_token": "<y>"})",
                    .added = R"({"<z>": 4})"};
  EXPECT_EQ(tokens(texts), "3 <x> n, 4 <e> nsl, 5 <q> nw");
  EXPECT_EQ(read(texts).eos_token, "<e>");
  EXPECT_EQ(read(texts).pad_token, std::nullopt);
  // Flags of a token that is there already are replaced.
  EXPECT_EQ(tokens({.config = R"({"added_tokens_decoder":
                                  {"3": {"content": "<x>", "normalized": false, "special": true}}})"}),
            "3 <x> s");
}

TEST(SpecialTokens, TheOlderFiles) {
  EXPECT_EQ(tokens({.added = R"({"<q>": 5, "<p>": 4})"}), "3 <x> n, 4 <p> n, 5 <q> n");
  EXPECT_EQ(tokens({.map = R"({"pad_token": "<p>"})", .added = R"({"<q>": 5, "<p>": 4})"}),
            "3 <x> n, 4 <p> s, 5 <q> n");
  EXPECT_EQ(tokens({.map = R"({"additional_special_tokens": ["<q>"]})",
                    .added = R"({"<q>": 5, "<p>": 4})"}),
            "3 <x> n, 4 <p> n, 5 <q> n");
  EXPECT_EQ(tokens({.config = R"({"additional_special_tokens": ["<q>"]})",
                    .map = R"({"additional_special_tokens": ["<r>"]})",
                    .added = R"({"<q>": 5, "<p>": 4})"}),
            "3 <x> n, 4 <p> n, 5 <q> s");
  EXPECT_EQ(tokens({.config = R"({"extra_special_tokens": ["<q>"]})",
                    .map = R"({"extra_special_tokens": ["<r>", "<q>"]})"}),
            "3 <x> n, 4 <q> s, 5 <r> s");
  const TokenizerSpec spec = read({.config = R"({"eos_token": "<e>"})",
                                   .map = R"({"eos_token": {"content": "<f>", "rstrip": true}})"});
  EXPECT_EQ(tokens_of(spec), "3 <x> n, 4 <f> sr");
  EXPECT_EQ(spec.eos_token, "<f>");
}

TEST(SpecialTokens, IdsAreThoseThatTheLibraryGives) {
  const TokenizerSpec spec = read({.config = R"({"added_tokens_decoder":
    {"300": {"content": "<p>"}, "9": {"content": "b"}, "3": {"content": "<x>"}}})"});
  EXPECT_EQ(tokens_of(spec), "3 <x> n, 1 b n, 4 <p> n");
  EXPECT_EQ(spec.notices,
            (std::vector<std::string>{
                "dir/tokenizer_config.json: \"b\" has id 9, but the tokenizers library numbers it "
                "1, and so is it here",
                "dir/tokenizer_config.json: \"<p>\" has id 300, but the tokenizers library numbers "
                "it 4, and so is it here"}));
}

TEST(SpecialTokens, DefaultsFillWhatNoFileNames) {
  const Defaults defaults{{"bos_token", "<s>"}, {"eos_token", "</s>"}};
  const TokenizerSpec spec = read({.config = "{}"}, defaults);
  EXPECT_EQ(spec.bos_token, "<s>");
  EXPECT_EQ(spec.eos_token, std::nullopt);  // no such token
  EXPECT_EQ(tokens_of(spec), "3 <x> n, 2 <s> s");
  EXPECT_EQ(read({.config = R"({"bos_token": null})"}, defaults).bos_token, std::nullopt);
  EXPECT_EQ(read({.config = R"({"bos_token": "b"})"}, defaults).bos_token, "b");
}

std::string refusal(const Texts& texts) {
  try {
    read(texts);
  } catch (const lora::FormatError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(SpecialTokens, RefusalsNameTheFileAndTheField) {
  EXPECT_EQ(refusal({.config = R"({"eos_token": 3})"}),
            "dir/tokenizer_config.json: eos_token is 3, expected a string");
  EXPECT_EQ(refusal({.config = R"({"extra_special_tokens": "x"})"}),
            "dir/tokenizer_config.json: extra_special_tokens: expected a list or an object of "
            "tokens");
  EXPECT_EQ(refusal({.config = R"({"extra_special_tokens": [3]})"}),
            "dir/tokenizer_config.json: extra_special_tokens: holds 3, expected a token");
  EXPECT_EQ(refusal({.map = "[]"}), "dir/special_tokens_map.json: is array, expected an object");
  EXPECT_EQ(refusal({.added = "[]"}), "dir/added_tokens.json: is array, expected an object");
  EXPECT_EQ(refusal({.added = R"({"a": -1})"}),
            "dir/added_tokens.json: \"a\" has id -1, expected a whole number up to 4194303");
}

}  // namespace special_tokens_test
