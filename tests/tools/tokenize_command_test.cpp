// lora tokenize: ids, pieces and bytes of a text, and back.
#include <lora/io/atomic_file.hpp>
#include <lora/io/json.hpp>
#include <lora/text/tokenizer/tokenizer_files.hpp>

#include "../../tools/support/utf8.hpp"
#include "support/messages.hpp"
#include "support/shared.hpp"
#include "tools/ran.hpp"

namespace tokenize_command_test {
using namespace lora_test;
using lora::Json;

const std::string base = LORA_SOURCE_DIR "/examples/data/base";

Ran tokenize(std::vector<std::string> words, const std::string& input = "") {
  words.insert(words.begin(), {"--model", base});
  return run_command(tools::run_tokenize, words, input);
}

TEST(TokenizeCommand, ALineForEachToken) {
  const std::string text = "A farmer, 天空";
  const lora::Tokenizer tokenizer = lora::Tokenizer::open(base);
  const lora::Encoding encoding = tokenizer.encode_with_ends(text);
  ASSERT_GT(encoding.ids.size(), 3u);
  const Ran run = tokenize({text});
  EXPECT_EQ(run.code, 0) << run.err;
  std::istringstream lines(run.out);
  std::size_t i = 0, begin = 0;
  for (std::string line; std::getline(lines, line); ++i) {
    std::istringstream words(line);
    std::string id, span;
    words >> id >> span;
    EXPECT_EQ(id, std::to_string(encoding.ids.at(i)));
    EXPECT_EQ(span, std::to_string(begin) + "-" + std::to_string(encoding.ends[i]));
    EXPECT_TRUE(line.ends_with("  \"" + text.substr(begin, encoding.ends[i] - begin) + "\""))
        << line;
    begin = encoding.ends[i];
  }
  EXPECT_EQ(i, encoding.ids.size());
  EXPECT_EQ(run.err, "[" + std::to_string(i) + " tokens, 16 bytes]\n");
}

TEST(TokenizeCommand, TextsFromAFileStandardInputAndSeveralWords) {
  const TemporaryFolder folder;
  lora::atomic_write(folder.path / "t", std::string("a b"));
  const std::string one = tokenize({"a b"}).out;
  EXPECT_EQ(tokenize({"--file", (folder.path / "t").string()}).out, one);
  EXPECT_EQ(tokenize({}, "a b\n").out, one);
  EXPECT_EQ(tokenize({"a b", "a b"}).out, "== a b\n" + one + "== a b\n" + one);
  EXPECT_EQ(tokenize({"x", "--file", "t"}).code, 2);
}

TEST(TokenizeCommand, JsonHoldsHalvesOfCharactersToo) {
  const Ran run = tokenize({"--json", "farm é\xff"});
  EXPECT_EQ(run.code, 0) << run.err;
  EXPECT_EQ(run.err, "");
  const Json json = Json::parse(run.out);
  EXPECT_EQ(json["ids"].size(), json["pieces"].size());
  EXPECT_EQ(json["ends"].back(), 8);
  EXPECT_EQ(json["pieces"].back(), "\xEF\xBF\xBD");
}

TEST(TokenizeCommand, DecodesWhatItEncoded) {
  const std::string text = "Where does a farmer work?\n<|im_end|> 天空";
  const Json json = Json::parse(tokenize({"--json", text}).out);
  EXPECT_EQ(tokenize({"--decode", json["ids"].dump()}).out, text + "\n");
  EXPECT_EQ(tokenize({"--decode"}, json["ids"].dump()).out, text + "\n");
  std::vector<std::string> words{"--decode", "--json"};
  for (const Json& id : json["ids"]) words.push_back(id.dump());
  EXPECT_EQ(Json::parse(tokenize(words).out), text);
  words.push_back("--skip-special-tokens");
  EXPECT_EQ(Json::parse(tokenize(words).out), "Where does a farmer work?\n 天空");
}

TEST(TokenizeCommand, RefusesWhatIsNoId) {
  for (const char* word : {"x", "3.5", "2048", "99999999999999999999", "1x"}) {
    const Ran run = tokenize({"--decode", "1", word});
    EXPECT_EQ(run.code, 2);
    EXPECT_EQ(run.err, "lora tokenize: --decode: \"" + std::string(word) +
                           "\" is not an id of this tokenizer, expected 0 to 2047\n");
  }
  const TemporaryFolder folder;
  EXPECT_HAS(run_command(tools::run_tokenize, {"--model", folder.path.string(), "x"}).err,
             "no tokenizer.json");
}

TEST(TokenizeCommand, SpecialTokensAroundATextOrNot) {
  LORA_NEEDS_SHARED("data/stories260K-hf");
  const std::string stories = (shared_dir() / "data" / "stories260K-hf").string();
  const auto ids = [&](std::vector<std::string> words) {
    words.insert(words.end(), {"--model", stories, "--json", "Once upon a time"});
    return Json::parse(run_command(tools::run_tokenize, words).out)["ids"];
  };
  const Json with = ids({}), without = ids({"--no-add-special-tokens"});
  ASSERT_EQ(with.size(), without.size() + 1);
  EXPECT_EQ(with[0], 1);
  EXPECT_EQ(with[1], without[0]);
  EXPECT_EQ(ids({"--add_special_tokens"}), with);
}

TEST(Utf8, IsAllOfAText) {
  EXPECT_TRUE(tools::is_utf8("天空"));
  EXPECT_FALSE(tools::is_utf8("caf\xe9"));
}

}  // namespace tokenize_command_test
