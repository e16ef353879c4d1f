#include <lora/text/tokenizer/tokenizer_files.hpp>

#include <gtest/gtest.h>

#include <fstream>

#include "support/golden.hpp"
#include "text/small_tokenizer.hpp"

namespace tokenizer_files_test {

using lora::SpecialTokens;
using lora::Tokenizer;
using lora_test::shared_dir;

/// The folder of a golden tokenizer: in the set itself, or in the data beside it.
std::filesystem::path golden_tokenizer(const lora_test::GoldenSet& set, const std::string& name) {
  const auto data = set.data();
  for (const auto& folder : {set.folder / "text" / "tokenizers" / name, data / "tokenizers" / name,
                             data / (name + "-hf")}) {
    if (std::filesystem::exists(folder)) return folder;
  }
  throw std::runtime_error("unknown tokenizer: " + name);
}

/// check(folder, texts, rows) for every tokenizer of every set; rows have the ids of each text.
template <class Check>
void for_each_golden_tokenizer(Check check) {
  lora_test::for_each_golden_set([&](const lora_test::GoldenSet& set) {
    const auto golden = lora_test::read_golden_json(set.folder / "text" / "tokenizers.json");
    const auto texts = golden.at("texts").get<std::vector<std::string>>();
    ASSERT_FALSE(golden.at("tokenizers").empty());
    for (const auto& [name, rows] : golden.at("tokenizers").items()) {
      lora_test::check_golden_part(name, [&, &name = name, &rows = rows] {
        ASSERT_FALSE(texts.empty());
        ASSERT_EQ(rows.size(), texts.size());
        check(golden_tokenizer(set, name), texts, rows);
      });
    }
  });
}

TEST(TokenizerFiles, EqualsTheGoldenIds) {
  for_each_golden_tokenizer([](const auto& folder, const auto& texts, const lora::Json& rows) {
    const Tokenizer tokenizer = Tokenizer::open(folder);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const auto ids = rows[i].at("ids").template get<std::vector<std::int64_t>>();
      EXPECT_EQ(tokenizer.encode(texts[i], SpecialTokens::none), ids) << texts[i];
      EXPECT_EQ(tokenizer.encode(texts[i]),
                rows[i].at("ids_with_special").template get<std::vector<std::int64_t>>())
          << texts[i];
      EXPECT_EQ(tokenizer.decode(ids), rows[i].at("decoded").template get<std::string>())
          << texts[i];
    }
  });
}

// llama.cpp's files: texts between marker lines, and a line of ids for each.
void expect_llama_cpp(const std::string& name, const std::filesystem::path& directory) {
  const auto golden = shared_dir() / "data/tokenizers/golden" / ("ggml-vocab-" + name + ".gguf");
  const auto bytes = lora::read_file(golden.string() + ".inp", 1 << 20);
  const auto out = lora::read_file(golden.string() + ".out", 1 << 20);
  const Tokenizer tokenizer = Tokenizer::open(directory);
  std::string_view rest = lora::as_text(bytes);
  std::istringstream lines{std::string(lora::as_text(out))};
  constexpr std::string_view mark = "\n__ggml_vocab_test__\n";
  int texts = 0;
  for (std::string line; std::getline(lines, line); ++texts) {
    std::istringstream numbers(line);
    const std::vector<std::int64_t> ids{std::istream_iterator<std::int64_t>(numbers), {}};
    const std::string_view text = rest.substr(0, rest.find(mark));
    EXPECT_EQ(tokenizer.encode(text, SpecialTokens::none), ids) << text;
    rest.remove_prefix(std::min(text.size() + mark.size(), rest.size()));
  }
  EXPECT_EQ(texts, 46);
}

TEST(TokenizerFiles, EqualsLlamaCppsIds) {
  LORA_NEEDS_SHARED("data/tokenizers/golden");
  expect_llama_cpp("gpt-2", shared_dir() / "data/tokenizers/gpt2");
  expect_llama_cpp("qwen2", shared_dir() / "data/tokenizers/qwen2");
  expect_llama_cpp("llama-spm", shared_dir() / "data/tokenizers/llama2");
}

// A directory with the given files.
struct Directory {
  lora_test::TemporaryFolder folder;
  Directory& with(const std::string& name, const std::string& text) {
    std::ofstream(folder.path / name, std::ios::binary) << text;
    return *this;
  }
  /// The files of another directory that a vocabulary without tokenizer.json needs.
  Directory& with_vocabulary(const std::filesystem::path& from) {
    for (const char* name : {"vocab.json", "merges.txt", "tokenizer_config.json"}) {
      if (std::filesystem::exists(from / name))
        std::filesystem::copy_file(from / name, folder.path / name);
    }
    return *this;
  }
  std::string path(const char* name) const { return (folder.path / name).string(); }
  Tokenizer open() const { return Tokenizer::open(folder.path); }
  std::string refusal() const {
    try {
      open();
    } catch (const lora::Error& error) {
      return error.what();
    }
    return "accepted";
  }
};

// The vocabulary of all bytes and a few tokens as vocab.json.
std::string small_vocab() {
  lora::Json vocab = lora::Json::object();
  for (const auto& [token, id] : lora_test::byte_level_spec().model.vocab) vocab[token] = id;
  vocab["<|endoftext|>"] = 258;
  return vocab.dump();
}
const char* const small_merges = "#version: 0.2\r\na b\r\n\r\n\u0120 a\r\n";

TEST(TokenizerFiles, VocabularyAndMergesGiveTheGoldenIds) {
  int seen = 0;
  for_each_golden_tokenizer([&](const auto& folder, const auto& texts, const lora::Json& rows) {
    if (!std::filesystem::exists(folder / "vocab.json")) return;
    Directory directory;
    const Tokenizer tokenizer = directory.with_vocabulary(folder).open();
    for (std::size_t i = 0; i < rows.size(); ++i) {
      ASSERT_EQ(tokenizer.encode(texts[i]),
                rows[i].at("ids").template get<std::vector<std::int64_t>>())
          << texts[i];
    }
    ++seen;
  });
  EXPECT_GE(seen, 2) << "GPT-2's class and Qwen2's";
}

TEST(TokenizerFiles, SpecialTokensOfGpt2sVocabularyAndMerges) {
  LORA_NEEDS_SHARED("data/tokenizers/gpt2");
  Directory directory;
  const Tokenizer tokenizer =
      directory.with_vocabulary(shared_dir() / "data/tokenizers/gpt2").open();
  EXPECT_EQ(tokenizer.eos_id(), 50256);
  EXPECT_EQ(tokenizer.encode("a<|endoftext|>"), (std::vector<std::int64_t>{64, 50256}));
  EXPECT_EQ(tokenizer.vocab_size(), 50257);
}

TEST(TokenizerFiles, SpecialTokensOfQwen2sVocabularyAndMerges) {
  LORA_NEEDS_SHARED("data/tokenizers/qwen2");
  Directory directory;
  const Tokenizer tokenizer =
      directory.with_vocabulary(shared_dir() / "data/tokenizers/qwen2").open();
  EXPECT_EQ(tokenizer.eos_token(), "<|im_end|>");
  EXPECT_EQ(tokenizer.eos_id(), 151645);
  EXPECT_EQ(tokenizer.pad_id(), 151643);
  EXPECT_EQ(tokenizer.bos_id(), std::nullopt);
  EXPECT_EQ(tokenizer.vocab_size(), 151646);
  EXPECT_EQ(tokenizer.chat_template().substr(0, 24), "{% set system_message = ");
}

TEST(TokenizerFiles, SmallVocabularyAndMerges) {
  Directory directory;
  directory.with("vocab.json", small_vocab()).with("merges.txt", small_merges);
  EXPECT_EQ(directory.open().encode("ab a1"), (std::vector<std::int64_t>{256, 257, '1'}));
  EXPECT_EQ(directory.open().eos_token(), "<|endoftext|>");
  directory.with("tokenizer_config.json", R"({"tokenizer_class": "Qwen2Tokenizer",
    "added_tokens_decoder": {"259": {"content": "<x>", "lstrip": true, "special": true}},
    "bos_token": {"content": "<x>", "lstrip": true}, "eos_token": null, "pad_token": "b",
    "add_bos_token": true, "add_eos_token": false,
    "chat_template": [{"name": "tool_use", "template": "A"},
                      {"name": "default", "template": "B"}]})");
  directory.with("special_tokens_map.json", R"({"bos_token": "<y>"})");
  const Tokenizer tokenizer = directory.open();
  EXPECT_EQ(tokenizer.encode("a <x>"), (std::vector<std::int64_t>{259, 'a', 259}));
  EXPECT_EQ(tokenizer.bos_token(), "<x>");
  EXPECT_EQ(tokenizer.eos_token(), std::nullopt);
  EXPECT_EQ(tokenizer.pad_id(), 'b');
  EXPECT_EQ(tokenizer.chat_template(), "B");
  directory.with("chat_template.jinja", "C");
  EXPECT_EQ(directory.open().chat_template(), "C");
}

TEST(TokenizerFiles, TokensThatStandOnlyInOtherFiles) {
  Directory directory;
  directory.with("vocab.json", small_vocab()).with("merges.txt", small_merges);
  directory.with("added_tokens.json", R"({"<PAD>": 259, "<|user|>": 260})");
  EXPECT_EQ(directory.open().encode("<|user|>a<PAD>"), (std::vector<std::int64_t>{260, 'a', 259}));
  EXPECT_EQ(directory.open().decode(std::vector<std::int64_t>{259, 'a'}, lora::SkipSpecial::yes),
            "<PAD>a");
  directory.with("special_tokens_map.json", R"({"pad_token": "<PAD>",
                                                "additional_special_tokens": ["<|x|>"]})");
  EXPECT_EQ(directory.open().decode(std::vector<std::int64_t>{259, 'a'}, lora::SkipSpecial::yes),
            "a");
  EXPECT_EQ(directory.open().encode("<|x|>"), std::vector<std::int64_t>{261});
}

TEST(TokenizerFiles, AddBosTokenCountsOnlyWithoutTokenizerJson) {
  LORA_NEEDS_SHARED("data/stories260K-hf/tokenizer.json");
  Directory directory;
  std::filesystem::copy_file(shared_dir() / "data/stories260K-hf/tokenizer.json",
                             directory.folder.path / "tokenizer.json");
  EXPECT_EQ(directory.open().encode("a").front(), 1);
  EXPECT_TRUE(directory.open().notices().empty());
  directory.with("tokenizer_config.json",
                 R"({"bos_token":"<s>","eos_token":"</s>","add_bos_token":false,
                     "add_eos_token":false})");
  EXPECT_EQ(directory.open().encode("a").front(), 1);
  EXPECT_EQ(directory.open().notices(),
            std::vector<std::string>{directory.path("tokenizer_config.json") +
                                     ": add_bos_token: is false, but the post_processor of "
                                     "tokenizer.json says otherwise and decides, as in "
                                     "transformers 5"});
}

// What transformers 5 makes of the same files.
TEST(TokenizerFiles, AddPrefixSpaceAndSplitSpecialTokens) {
  Directory directory;
  directory.with("vocab.json", small_vocab()).with("merges.txt", small_merges);
  const auto ids = [&](const std::string& config) {
    directory.with("tokenizer_config.json", config);
    EXPECT_TRUE(directory.open().notices().empty());
    return directory.open().encode("a<|endoftext|>a");
  };
  using Ids = std::vector<std::int64_t>;
  for (const std::string name : {"GPT2Tokenizer", "GPT2TokenizerFast", "Qwen2Tokenizer"}) {
    const std::string begin = R"({"eos_token": "<|endoftext|>", "tokenizer_class": ")" + name;
    EXPECT_EQ(ids(begin + R"("})"), (Ids{'a', 258, 'a'}));
    EXPECT_EQ(ids(begin + R"(", "add_prefix_space": false})"), (Ids{'a', 258, 'a'}));
    EXPECT_EQ(ids(begin + R"(", "add_prefix_space": true})"), (Ids{257, 258, 257}));
    EXPECT_EQ(ids(begin + R"(", "split_special_tokens": true})").size(), 15u);
  }
  EXPECT_EQ(directory.open().decode(Ids{'a', 258}, lora::SkipSpecial::yes), "a");
  const auto with_prefix = [&](const std::string& name) {
    directory.with("tokenizer_config.json",
                   R"({"add_prefix_space": true, "tokenizer_class": ")" + name + R"("})");
    return directory.open().encode("a1a");
  };
  EXPECT_EQ(with_prefix("GPT2Tokenizer"), (Ids{257, '1', 'a'}));
  EXPECT_EQ(with_prefix("Qwen2Tokenizer"), (Ids{257, ' ', '1', 257}));  // behind a Split
}

// Llama 2's pipeline over five tokens.
lora::Json small_pieces() {
  return lora::Json::parse(R"({
    "added_tokens": [{"id": 1, "content": "<s>", "special": true, "normalized": false}],
    "normalizer": {"type": "Sequence", "normalizers": [
      {"type": "Prepend", "prepend": "\u2581"},
      {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
    "pre_tokenizer": null,
    "decoder": {"type": "Sequence", "decoders": [
      {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
      {"type": "ByteFallback"}, {"type": "Fuse"},
      {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
    "model": {"type": "BPE", "vocab": {"<unk>": 0, "<s>": 1, "\u2581": 2, "a": 3, "\u2581a": 4},
              "merges": [["\u2581", "a"]], "unk_token": "<unk>", "fuse_unk": true}})");
}

TEST(TokenizerFiles, TheClassOfLlamaIsANoticeWhereTransformersBuildsAnotherTokenizer) {
  Directory directory;
  using Ids = std::vector<std::int64_t>;
  lora::Json json = small_pieces();
  directory.with("tokenizer.json", json.dump());
  EXPECT_EQ(directory.open().encode(" a"), (Ids{2, 4}));
  EXPECT_TRUE(directory.open().notices().empty());
  directory.with("tokenizer_config.json", R"({"tokenizer_class": "LlamaTokenizer"})");
  EXPECT_EQ(directory.open().encode(" a"), (Ids{2, 4}));
  EXPECT_EQ(directory.open().notices(),
            std::vector<std::string>{
                directory.path("tokenizer_config.json") +
                ": tokenizer_class: \"LlamaTokenizer\": ids are those that the tokenizers library "
                "gives for tokenizer.json; transformers 5 builds another tokenizer for this class, "
                "whose ids differ at the beginning of a text, after added tokens and in runs of "
                "spaces"});
  // Only the space before a text is left out, as in transformers 5.
  directory.with("tokenizer_config.json",
                 R"({"tokenizer_class": "LlamaTokenizerFast", "add_prefix_space": false})");
  EXPECT_EQ(directory.open().encode("a a"), (Ids{3, 4}));
  EXPECT_EQ(directory.open().decode(Ids{4, 4}), " a a");
  EXPECT_TRUE(directory.open().notices().empty());
  json["added_tokens"].push_back({{"id", 5}, {"content", "a b"}, {"normalized", true}});
  directory.with("tokenizer.json", json.dump());
  EXPECT_EQ(directory.open().notices().size(), 1u);  // such a token is found in the normalised text
  json["added_tokens"][1]["normalized"] = false;
  directory.with("tokenizer.json", json.dump());
  EXPECT_TRUE(directory.open().notices().empty());
  // The pipeline that transformers 5 builds.
  json["normalizer"] = nullptr;
  json["pre_tokenizer"] = lora::Json::parse(R"({"type": "Metaspace", "replacement": "\u2581",
                                                "prepend_scheme": "first", "split": false})");
  directory.with("tokenizer.json", json.dump());
  directory.with("tokenizer_config.json", R"({"tokenizer_class": "LlamaTokenizer"})");
  EXPECT_EQ(directory.open().encode(" a"), Ids{4});
  EXPECT_TRUE(directory.open().notices().empty());
}

TEST(TokenizerFiles, AddPrefixSpaceThatNoClassFollowsIsANotice) {
  Directory directory;
  directory.with("tokenizer.json", small_pieces().dump());
  directory.with("tokenizer_config.json",
                 R"({"tokenizer_class": "PreTrainedTokenizerFast", "add_prefix_space": false})");
  EXPECT_EQ(directory.open().encode("a"), std::vector<std::int64_t>{4});
  EXPECT_EQ(directory.open().notices(),
            std::vector<std::string>{directory.path("tokenizer_config.json") +
                                     ": add_prefix_space: is false, but tokenizer.json says "
                                     "otherwise and decides"});
}

TEST(TokenizerFiles, AddBosTokenWithoutABosTokenIsANotice) {
  Directory directory;
  directory.with("vocab.json", small_vocab()).with("merges.txt", small_merges);
  directory.with("tokenizer_config.json",
                 R"({"add_bos_token": true, "tokenizer_class": "Qwen2Tokenizer"})");
  EXPECT_EQ(directory.open().encode("a"), std::vector<std::int64_t>{'a'});
  EXPECT_EQ(directory.open().notices(),
            std::vector<std::string>{directory.path("tokenizer_config.json") +
                                     ": add_bos_token: is true, but no such token is named; "
                                     "ignored"});
}

TEST(TokenizerFiles, AnEndTokenThatOnlyTheModelsFilesName) {
  Directory directory;
  directory.with("vocab.json", small_vocab()).with("merges.txt", "a b\n");
  directory.with("tokenizer_config.json",
                 R"({"tokenizer_class": "Qwen2Tokenizer", "eos_token": "", "pad_token": ""})");
  directory.with("config.json", R"({"eos_token_id": 256})");
  EXPECT_EQ(directory.open().eos_id(), 256);
  directory.with("generation_config.json", R"({"eos_token_id": [97, 98]})");
  EXPECT_EQ(directory.open().eos_token(), "a");
  directory.with("generation_config.json", R"({"eos_token_id": 99999})");
  directory.with("config.json", "{}");
  EXPECT_EQ(directory.open().eos_token(), std::nullopt);
}

TEST(TokenizerFiles, RefusalsNameTheFile) {
  Directory directory;
  const std::string here = directory.folder.path.string();
  EXPECT_EQ(directory.refusal(), here + ": no tokenizer.json, nor vocab.json with merges.txt");
  directory.with("tokenizer.model", "x");
  EXPECT_EQ(directory.refusal(),
            here +
                ": no tokenizer.json, nor vocab.json with merges.txt; tokenizer.model alone is "
                "not supported: save the tokenizer once with transformers' "
                "AutoTokenizer(...).save_pretrained");
  directory.with("vocab.json", "[]").with("merges.txt", "a b c\n");
  EXPECT_EQ(directory.refusal(), directory.path("vocab.json") + ": is array, expected an object");
  directory.with("vocab.json", "{\"a\": 1.5}");
  EXPECT_EQ(directory.refusal(), directory.path("vocab.json") +
                                     ": \"a\" has id 1.5, expected a whole number up to 4194303");
  directory.with("vocab.json", small_vocab());
  EXPECT_EQ(directory.refusal(), directory.path("merges.txt") +
                                     ": line 1: is neither \"left right\" nor [\"left\", "
                                     "\"right\"]");
  directory.with("merges.txt", small_merges);
  EXPECT_EQ(directory.refusal(), "accepted");
  directory.with("tokenizer.json", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n");
  EXPECT_EQ(directory.refusal(),
            directory.path("tokenizer.json") +
                ": is a Git LFS pointer (three lines of text in place of the real file): run "
                "`git lfs pull` in the repository it came from, or download the file itself");
}

TEST(TokenizerFiles, RefusalsInTheConfiguration) {
  Directory directory;
  directory.with("vocab.json", small_vocab()).with("merges.txt", small_merges);
  const auto refusal = [&](const std::string& config) {
    directory.with("tokenizer_config.json", config);
    const std::string message = directory.refusal(), file = directory.path("tokenizer_config.json");
    EXPECT_EQ(message.substr(0, file.size()), file);
    return message.substr(std::min(message.size(), file.size()));
  };
  EXPECT_EQ(refusal("[]"), ": is array, expected an object");
  EXPECT_EQ(refusal(R"({"tokenizer_class": "T5Tokenizer"})"),
            ": tokenizer_class: \"T5Tokenizer\" without a tokenizer.json; only GPT2Tokenizer and "
            "Qwen2Tokenizer are known");
  EXPECT_EQ(refusal(R"({"added_tokens_decoder": []})"),
            ": added_tokens_decoder is [], expected an object");
  EXPECT_EQ(refusal(R"({"added_tokens_decoder": {"x": {"content": "y"}}})"),
            ": added_tokens_decoder: \"x\" is not an id");
  EXPECT_EQ(refusal(R"({"added_tokens_decoder": {"300": {"content": "y", "z": 1}}})"),
            ": added_tokens_decoder.300.z: is not supported");
  EXPECT_EQ(refusal(R"({"chat_template": [{"name": "a", "template": "b"}]})"),
            ": chat_template: is a list without a template called \"default\"");
  EXPECT_EQ(refusal(R"({"eos_token": 3})"), ": eos_token is 3, expected a string");
}

}  // namespace tokenizer_files_test
