#include <lora/io/file.hpp>
#include <lora/text/tokenizer/tokenizer_json.hpp>

#include <gtest/gtest.h>

#include <random>

namespace tokenizer_json_test {

using lora::Json;
using lora::TextStep;
using lora::TokenizerSpec;
using lora::WordSplit;

TokenizerSpec parse(const Json& json) {
  return lora::parse_tokenizer_json(json.dump(), "tokenizer.json");
}

// A byte-level file in the spelling of the tokenizers library, with one merge.
Json byte_level() {
  Json json = Json::parse(R"({
    "version": "1.0", "truncation": {"max_length": 5}, "padding": null,
    "added_tokens": [{"id": 257, "content": "<|end|>", "single_word": false, "lstrip": false,
                      "rstrip": true, "normalized": false, "special": true}],
    "normalizer": {"type": "NFC"},
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
      {"type": "Split", "pattern": {"Regex": ""}, "behavior": "Isolated", "invert": false},
      {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]},
    "post_processor": {"type": "Sequence", "processors": [
      {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true},
      {"type": "TemplateProcessing",
       "single": [{"SpecialToken": {"id": "<b>", "type_id": 0}},
                  {"Sequence": {"id": "A", "type_id": 0}},
                  {"SpecialToken": {"id": "<e>", "type_id": 0}}],
       "pair": [],
       "special_tokens": {"<b>": {"id": "<b>", "ids": [257], "tokens": ["<b>"]},
                          "<e>": {"id": "<e>", "ids": [257, 3], "tokens": ["x", "y"]}}}]},
    "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
                "use_regex": true},
    "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
              "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false,
              "ignore_merges": true, "vocab": {}, "merges": ["a b"]}})");
  json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = lora::regex_of(WordSplit::llama3);
  for (int byte = 0; byte < 256; ++byte) {
    json["model"]["vocab"]
        [lora::ByteSpelling::instance().spelling(static_cast<std::uint8_t>(byte))] = byte;
  }
  json["model"]["vocab"]["ab"] = 256;
  return json;
}

// A file as Llama 2's, without its vocabulary.
Json sentencepiece() {
  return Json::parse(R"({
    "added_tokens": [],
    "normalizer": {"type": "Sequence", "normalizers": [
      {"type": "Prepend", "prepend": "▁"},
      {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
    "pre_tokenizer": null, "post_processor": null,
    "decoder": {"type": "Sequence", "decoders": [
      {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
      {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
    "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
              "vocab": {"<unk>": 0}, "merges": [["a", "b"]]}})");
}

TEST(TokenizerJson, ReadsAByteLevelFile) {
  const TokenizerSpec spec = parse(byte_level());
  EXPECT_TRUE(spec.model.byte_level);
  EXPECT_TRUE(spec.model.ignore_merges);
  EXPECT_EQ(spec.model.vocab.size(), 257u);
  EXPECT_EQ(spec.model.merges, (std::vector<std::pair<std::string, std::string>>{{"a", "b"}}));
  ASSERT_EQ(spec.normalizer.size(), 1u);
  EXPECT_EQ(spec.normalizer[0].kind, TextStep::Kind::nfc);
  EXPECT_TRUE(spec.pre_tokenizer.empty());
  EXPECT_EQ(spec.split, WordSplit::llama3);
  EXPECT_EQ(spec.before, std::vector<std::uint32_t>{257});
  EXPECT_EQ(spec.after, (std::vector<std::uint32_t>{257, 3}));
  EXPECT_TRUE(spec.decoder.byte_level);
  ASSERT_EQ(spec.added.size(), 1u);
  EXPECT_EQ(spec.added[0].id, 257u);
  EXPECT_TRUE(spec.added[0].rstrip);
  EXPECT_FALSE(spec.added[0].lstrip);
  EXPECT_TRUE(spec.added[0].special);
  EXPECT_EQ(lora::Tokenizer(spec).encode("ab<|end|> c"),
            (std::vector<std::int64_t>{257, 256, 257, 'c', 257, 3}));
}

TEST(TokenizerJson, ReadsASentencePieceFile) {
  const TokenizerSpec spec = parse(sentencepiece());
  EXPECT_FALSE(spec.model.byte_level);
  EXPECT_TRUE(spec.model.byte_fallback);
  EXPECT_TRUE(spec.model.fuse_unk);
  EXPECT_EQ(spec.model.unk_token, "<unk>");
  ASSERT_EQ(spec.normalizer.size(), 2u);
  EXPECT_EQ(spec.normalizer[0].kind, TextStep::Kind::prepend);
  EXPECT_EQ(spec.normalizer[0].to, "\u2581");
  EXPECT_EQ(spec.normalizer[1].kind, TextStep::Kind::replace);
  EXPECT_EQ(spec.normalizer[1].from, " ");
  EXPECT_EQ(spec.split, WordSplit::none);
  EXPECT_TRUE(spec.decoder.marks_to_spaces);
  EXPECT_TRUE(spec.decoder.byte_fallback);
  EXPECT_EQ(spec.decoder.strip_left, 1u);
}

TEST(TokenizerJson, ReadsEachFormOfMetaspace) {
  const auto steps_of = [](const char* metaspace) {
    Json json = sentencepiece();
    json["normalizer"] = nullptr;
    json["pre_tokenizer"] = Json::parse(metaspace);
    return parse(json);
  };
  const TokenizerSpec first =
      steps_of(R"({"type":"Metaspace","replacement":"▁","prepend_scheme":"first","split":false})");
  ASSERT_EQ(first.pre_tokenizer.size(), 2u);
  EXPECT_EQ(first.pre_tokenizer[0].kind, TextStep::Kind::replace);
  EXPECT_EQ(first.pre_tokenizer[1].kind, TextStep::Kind::prepend_first);
  EXPECT_EQ(first.split, WordSplit::none);
  const TokenizerSpec old =
      steps_of(R"({"type":"Metaspace","replacement":"▁","str_rep":"▁","add_prefix_space":true})");
  EXPECT_EQ(old.pre_tokenizer[1].kind, TextStep::Kind::prepend_unless_there);
  EXPECT_EQ(old.split, WordSplit::before_mark);
  EXPECT_EQ(steps_of(R"({"type":"Metaspace","replacement":"▁","prepend_scheme":"never"})")
                .pre_tokenizer.size(),
            1u);
  EXPECT_EQ(steps_of(R"({"type":"Metaspace","replacement":"▁","add_prefix_space":false})")
                .pre_tokenizer.size(),
            1u);
}

TEST(TokenizerJson, ReadsTheOldSpellings) {
  Json json = byte_level();
  json["model"].erase("type");
  json["model"]["merges"] = Json::parse(R"([["a","b"]])");
  json["pre_tokenizer"] = Json::parse(R"({"type":"ByteLevel"})");
  json["post_processor"] = Json::parse(R"({"type":"ByteLevel","trim_offsets":true})");
  json["added_tokens"] = nullptr;
  const TokenizerSpec spec = parse(json);
  EXPECT_EQ(spec.split, WordSplit::gpt2);
  ASSERT_EQ(spec.pre_tokenizer.size(), 1u);
  EXPECT_EQ(spec.pre_tokenizer[0].to, " ");
  EXPECT_TRUE(spec.before.empty());
  json = byte_level();
  json["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "Removed";
  json["pre_tokenizer"]["pretokenizers"][0]["invert"] = true;
  EXPECT_EQ(parse(json).split, WordSplit::llama3);
}

// The message behind "tokenizer.json: " for a file in which what stands at `pointer` is replaced.
std::string refusal(Json json, const char* pointer, const char* value) {
  json[Json::json_pointer(pointer)] = Json::parse(value);
  try {
    parse(json);
  } catch (const lora::FormatError& error) {
    const std::string message = error.what();
    EXPECT_EQ(message.substr(0, 16), "tokenizer.json: ");
    return message.substr(16);
  }
  return "accepted";
}

TEST(TokenizerJson, RefusesWhatItDoesNotKnowInAByteLevelFile) {
  const Json json = byte_level();
  const auto refused = [&](const char* pointer, const char* value) {
    return refusal(json, pointer, value);
  };
  EXPECT_EQ(refused("/extra", "1"), "extra: is not supported");
  EXPECT_EQ(refused("/model/extra", "1"), "model.extra: is not supported");
  EXPECT_EQ(refused("/model/type", "\"Unigram\""),
            "model.type: \"Unigram\" is not supported, only BPE");
  EXPECT_EQ(refused("/model/dropout", "0.5"), "model.dropout: 0.5 is not supported");
  EXPECT_EQ(refused("/model/dropout", "0.0"), "accepted");
  EXPECT_EQ(refused("/model/end_of_word_suffix", "\"</w>\""),
            "model.end_of_word_suffix: \"</w>\" is not supported");
  EXPECT_EQ(refused("/model/continuing_subword_prefix", "\"##\""),
            "model.continuing_subword_prefix: \"##\" is not supported");
  EXPECT_EQ(refused("/model/vocab", "[]"), "model.vocab is [], expected an object");
  EXPECT_EQ(refused("/model/vocab/ab", "-1"),
            "model.vocab: \"ab\" has id -1, expected a whole number up to 4194303");
  EXPECT_EQ(refused("/model/merges/0", "\"a  b\""),
            "model.merges[0]: is neither \"left right\" nor [\"left\", \"right\"]");
  EXPECT_EQ(refused("/model/merges/0", "[\"a\"]"),
            "model.merges[0]: is neither \"left right\" nor [\"left\", \"right\"]");
  EXPECT_EQ(refused("/model/fuse_unk", "1"), "model.fuse_unk is 1, expected true or false");
  EXPECT_EQ(refused("/normalizer/type", "\"NFKC\""),
            "normalizer.type: \"NFKC\" is not supported, only NFC, Prepend, Replace, Strip and "
            "Sequence");
  EXPECT_EQ(refused("/normalizer/strip", "true"), "normalizer.strip: is not supported");
  EXPECT_EQ(refused("/pre_tokenizer/pretokenizers/0/pattern/Regex", "\"(?>a)\""),
            "pre_tokenizer.pretokenizers[0].pattern.Regex: regular expression \"(?>a)\", position "
            "1: a group of this kind is not supported");
  EXPECT_EQ(refused("/pre_tokenizer/pretokenizers/0/behavior", "\"x\""),
            "pre_tokenizer.pretokenizers[0].behavior: \"x\" is not supported");
  EXPECT_EQ(refused("/pre_tokenizer/pretokenizers/0", "{\"type\":\"Bert\"}"),
            "pre_tokenizer.pretokenizers[0].type: \"Bert\" is not supported, only ByteLevel, "
            "Metaspace, Split, Digits, Punctuation, Whitespace, WhitespaceSplit and Sequence");
  EXPECT_EQ(refused("/pre_tokenizer/pretokenizers/2", "{\"type\":\"ByteLevel\"}"),
            "pre_tokenizer.pretokenizers[2].type: \"ByteLevel\" is not supported at this place");
  EXPECT_EQ(refused("/pre_tokenizer", "null"),
            "decoder: is ByteLevel, but the pre_tokenizer is not");
}

TEST(TokenizerJson, RefusesWhatItDoesNotKnowAroundAText) {
  const Json json = byte_level();
  const auto refused = [&](const char* pointer, const char* value) {
    return refusal(json, pointer, value);
  };
  EXPECT_EQ(refused("/post_processor/processors/1/type", "\"BertProcessing\""),
            "post_processor.processors[1].type: \"BertProcessing\" is not supported, only "
            "ByteLevel and one TemplateProcessing");
  EXPECT_EQ(refused("/post_processor/processors/1/single/1/Sequence/id", "\"B\""),
            "post_processor.processors[1].single[1].Sequence: is not the one text \"A\"");
  EXPECT_EQ(refused("/post_processor/processors/1/single/0", "{\"Sequence\":{\"id\":\"A\"}}"),
            "post_processor.processors[1].single[1].Sequence: is not the one text \"A\"");
  EXPECT_EQ(refused("/post_processor/processors/1/single", "[]"),
            "post_processor.processors[1].single: has no place for the text");
  EXPECT_EQ(refused("/post_processor/processors/1/single/0/SpecialToken/id", "\"<c>\""),
            "post_processor.processors[1].special_tokens.<c> is missing, expected an object");
  EXPECT_EQ(refused("/post_processor/processors/1/special_tokens/<b>/ids/0", "-3"),
            "post_processor.processors[1].special_tokens.<b>.ids: holds -3, expected an id");
  EXPECT_EQ(refused("/added_tokens/0/id", "\"x\""),
            "added_tokens[0].id is \"x\", expected a whole number from 0 to 2147483647");
  EXPECT_EQ(refused("/added_tokens/0/extra", "1"), "added_tokens[0].extra: is not supported");
  EXPECT_EQ(refused("/added_tokens", "{}"), "added_tokens is {}, expected an array");
}

TEST(TokenizerJson, RefusesWhatItDoesNotKnowInASentencePieceFile) {
  const Json json = sentencepiece();
  const auto refused = [&](const char* pointer, const char* value) {
    return refusal(json, pointer, value);
  };
  EXPECT_EQ(refused("/normalizer/normalizers/1/pattern/String", "\"\""),
            "normalizer.normalizers[1].pattern.String: is empty");
  EXPECT_EQ(refused("/pre_tokenizer", "{\"type\":\"Metaspace\",\"replacement\":\"_\"}"),
            "pre_tokenizer.replacement: \"_\", expected U+2581");
  EXPECT_EQ(
      refused("/pre_tokenizer",
              R"({"type":"Metaspace","replacement":"▁","prepend_scheme":"last"})"),
      "pre_tokenizer.prepend_scheme: \"last\" is not supported, only always, first and never");
  EXPECT_EQ(refused("/decoder/decoders/0/content", "\"_\""),
            "decoder.decoders[0].pattern: is not supported, only U+2581 to a space");
  EXPECT_EQ(refused("/decoder/decoders/3/content", "\"_\""),
            "decoder.decoders[3].content: is not supported, only a space");
  EXPECT_EQ(refused("/decoder/decoders/3/stop", "1"),
            "decoder.decoders[3].stop: is not supported, only 0");
  EXPECT_EQ(refused("/decoder/decoders/2", "{\"type\":\"WordPiece\"}"),
            "decoder.decoders[2].type: \"WordPiece\" is not supported, only ByteLevel, or Replace, "
            "ByteFallback, Fuse and Strip in this order");
  EXPECT_EQ(refused("/decoder/decoders/3", "{\"type\":\"ByteFallback\"}"),
            "decoder.decoders[3].type: \"ByteFallback\" is not supported at this place");
  EXPECT_EQ(refused("/decoder/decoders", "[{\"type\":\"ByteFallback\"}]"), "decoder: has no Fuse");
  EXPECT_EQ(refused("/decoder", "null"), "decoder is null, expected an object");
  EXPECT_EQ(refused("/pre_tokenizer", "{\"type\":\"ByteLevel\"}"),
            "decoder: is not ByteLevel, but the pre_tokenizer is");
}

TEST(TokenizerJson, EveryMutantIsATokenizerOrRefusedByOurError) {
  const std::string seeds[] = {byte_level().dump(), sentencepiece().dump()};
  std::mt19937 random(8);
  int accepted = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string text = seeds[round % 2];
    for (auto edits = 1 + random() % 3; edits > 0; --edits) {
      const std::size_t at = random() % text.size();
      switch (random() % 4) {
        case 0:
          text[at] = static_cast<char>(random());
          break;
        case 1:
          text.erase(at, 1 + random() % 3);
          break;
        case 2:
          text.insert(at, text.substr(random() % text.size(), random() % 20));
          break;
        default:
          text[at] = "{}[]\",:01-"[random() % 10];
      }
    }
    try {
      const lora::Tokenizer tokenizer(lora::parse_tokenizer_json(text, "tokenizer.json"));
      tokenizer.decode(tokenizer.encode("ab \xE4\xB8\xAD\xFF<|end|>1 \n"));
      ++accepted;
    } catch (const lora::Error&) {
    }
  }
  EXPECT_GT(accepted, 10);
}

// 500 texts for each pipeline, made by tests/tokenizers_check/run.sh --golden with the tokenizers
// library: text, ids, ids without special tokens, text again, text without special tokens.
TEST(TokenizerJson, EqualsTheGoldenIdsOfPublishedPipelines) {
  const std::string path = LORA_SOURCE_DIR "/tests/text/golden/tokenizers.json";
  const auto bytes = lora::read_file(path, std::uint64_t{1} << 24);
  const Json golden = lora::parse_json(lora::as_text(bytes), path);
  EXPECT_GE(golden.size(), 20u);
  using Ids = std::vector<std::int64_t>;
  for (const auto& [name, family] : golden.items()) {
    const lora::Tokenizer tokenizer(parse(family.at("tokenizer")));
    for (const Json& row : family.at("rows")) {
      const auto text = row[0].get<std::string>();
      const auto ids = row[1].get<Ids>();
      ASSERT_EQ(tokenizer.encode(text), ids) << name << ": " << text;
      ASSERT_EQ(tokenizer.encode(text, lora::SpecialTokens::none), row[2].get<Ids>()) << text;
      ASSERT_EQ(tokenizer.decode(ids), row[3].get<std::string>()) << name << ": " << text;
      ASSERT_EQ(tokenizer.decode(ids, lora::SkipSpecial::yes), row[4].get<std::string>()) << name;
      ASSERT_EQ(tokenizer.encode_with_ends(text).ids, ids);
    }
  }
}

TEST(TokenizerJson, AFileThatBlowsATextUpIsRefused) {
  Json json = byte_level();
  json["normalizer"] = Json::parse(R"({"type": "Sequence", "normalizers": []})");
  for (int i = 0; i < 8; ++i) {
    json["normalizer"]["normalizers"].push_back(
        Json::parse(R"({"type": "Replace", "pattern": {"String": "a"},
                        "content": "aaaaaaaaaaaaaaaa"})"));
  }
  const lora::Tokenizer tokenizer(parse(json));
  try {
    tokenizer.encode("aaaa the cat");
    ADD_FAILURE() << "accepted";
  } catch (const lora::FormatError& error) {
    EXPECT_STREQ(error.what(),
                 "tokenizer.json: encoding a text of 12 bytes takes more than 1000 steps per byte; "
                 "stopped at the normalizer and the pre-tokenizer");
  }
}

TEST(TokenizerJson, SmallPiecesAndManySplitsAreBoundedTogether) {
  Json json = byte_level();
  Json all = Json::array();
  std::string slow = "x";
  for (int i = 0; i < 300; ++i) slow = "a?" + slow;
  for (int i = 0; i < 98; ++i) {
    all.push_back(Json::parse(R"({"type": "Split", "behavior": "Isolated", "invert": false})"));
    all.back()["pattern"]["Regex"] = i == 0 ? "." : slow;
  }
  all.push_back(Json::parse(R"({"type": "ByteLevel", "add_prefix_space": false})"));
  json["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", all}};
  const lora::Tokenizer tokenizer(parse(json));
  EXPECT_THROW(tokenizer.encode(std::string(200, 'a')), lora::FormatError);
}

}  // namespace tokenizer_json_test
