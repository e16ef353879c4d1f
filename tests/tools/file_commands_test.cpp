// The commands on files through its command line: what it writes, prints and refuses, and its exit
// codes.
#include "../../tools/adapter_output.hpp"
#include "../../tools/update_difference.hpp"
#include "io/peft_folder.hpp"
#include "support/messages.hpp"
#include "tools/ran.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>

namespace file_commands_test {

namespace fs = std::filesystem;
using lora_test::numbered;
using lora_test::PeftFolder;
using lora_test::TemporaryFolder;
using tools::Index;

using lora_test::Ran;

Ran tool(const std::vector<std::string>& words) {
  return lora_test::run_command(tools::run_lora, words);
}
void expect_refused(const std::vector<std::string>& words, const std::string& reason) {
  const Ran run = tool(words);
  EXPECT_EQ(run.code, 2) << run.out;
  const std::string name = words.empty() ? "" : " " + words[0];
  EXPECT_TRUE(run.err.starts_with("lora" + name + ": ") || run.err.starts_with("lora: "))
      << run.err;
  EXPECT_HAS(run.err, reason);
}
void expect_done(const std::vector<std::string>& words) {
  const Ran run = tool(words);
  EXPECT_EQ(run.code, 0) << run.err;
  EXPECT_EQ(run.err, "");
}

std::vector<std::byte> content(const fs::path& path) { return lora::read_file(path, 1 << 30); }

/// A folder for outputs, a base of two layers, and an adapter over them.
struct Work {
  TemporaryFolder folder;
  PeftFolder adapter{R"({"target_modules": ["q_proj", "v_proj"]})"};
  Work() {
    lora::SafetensorsWriter base;
    for (const char* name : {"q_proj", "v_proj"})
      base.add("model.layers.0.self_attn." + std::string(name) + ".weight",
               lora::Matrix<float>::Random(8, 8), lora::DType::F32);
    base.add("model.layers.0.mlp.up_proj.weight", lora::Matrix<float>::Random(6, 8),
             lora::DType::F32);
    base.add("model.embed_tokens.weight", lora::Matrix<float>::Random(9, 8), lora::DType::F32);
    base.add("model.norm.weight", lora::Matrix<float>::Random(1, 8), lora::DType::F32, {8});
    fs::create_directory(folder.path / "base");
    base.write(folder.path / "base" / "model.safetensors");
    lora::atomic_write(folder.path / "base" / "config.json",
                       R"({"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1,
                           "num_attention_heads": 2, "num_key_value_heads": 2,
                           "intermediate_size": 6, "vocab_size": 9})");
    adapter.pair("model.layers.0.self_attn.q_proj", 2, 8, 8)
        .pair("model.layers.0.self_attn.v_proj", 2, 8, 8);
    adapter.open();
  }
  std::string base() const { return (folder.path / "base").string(); }
  std::string own() const { return adapter.path().string(); }
  std::string out(const std::string& name) const { return (folder.path / name).string(); }
  bool nothing_but_base() const {
    return std::distance(fs::directory_iterator(folder.path), fs::directory_iterator()) == 1;
  }
};

TEST(FileCommands, HelpOfEachCommandSaysItsExitCodes) {
  EXPECT_EQ(tool({"--help"}).code, 0);
  for (const char* command :
       {"info", "merge", "combine", "extract", "to-gguf", "from-gguf", "convert", "diff"}) {
    const Ran run = tool({command, "--help"});
    EXPECT_EQ(run.code, 0);
    EXPECT_HAS(run.out, "Exit status: 0 ");
    EXPECT_HAS(tool({"--help"}).out, command);
  }
}

TEST(FileCommands, RefusesCommandLinesThatDoNotFit) {
  expect_refused({"merge", "--base", "x"}, "--adapter is required");
  expect_refused({"convert", "--adapter", "x", "--output", "y", "--dtype", "int8"},
                 "--dtype: int8");
  expect_refused({"merge", "--base", "x", "--adapter", "x", "--output", "x", "--dtypo"}, "--dtypo");
  expect_refused(
      {"combine", "--adapter", "a", "--weight", "1", "--combination-type", "mean", "--output", "o"},
      "combination_type \"mean\" is not known");
}

TEST(FileCommands, InfoShowsRanksAndNorms) {
  const Work work;
  const Ran run = tool({"info", work.own()});
  EXPECT_EQ(run.code, 0) << run.err;
  const lora::Matrix<double> B = numbered(8, 2, 100).cast<double>(),
                             A = numbered(2, 8).cast<double>();
  for (const double norm : {A.norm(), B.norm(), (2 * B * A).norm()})
    EXPECT_HAS(run.out, tools::short_number(norm));
  EXPECT_HAS(run.out, "2 adapted layers");
  EXPECT_HAS(run.out, "parameters: 64");
  EXPECT_HAS(run.out, "bytes:      256");
  EXPECT_HAS(tool({"info", work.base()}).out, "base model ");
  const Ran file = tool({"info", work.own() + "/adapter_model.safetensors"});
  EXPECT_HAS(file.out, tools::short_number((B * A).norm()));
  expect_refused({"info", "/nowhere"}, "/nowhere: cannot open: No such file or directory");
  expect_refused({"info", work.own() + "/adapter_config.json"}, "expected a folder, a .safetens");
}

TEST(FileCommands, OfDoRAInfoShowsAndDiffComparesTheMagnitudes) {
  const std::string q = "model.layers.0.self_attn.q_proj";
  PeftFolder one(R"({"use_dora": true})"), two(R"({"use_dora": true})");
  one.pair(q, 2, 8, 8).add_vector(q + ".lora_magnitude_vector", numbered(1, 8));
  two.pair(q, 2, 8, 8).add_vector(q + ".lora_magnitude_vector", numbered(1, 8, 2));
  one.open();
  two.open();
  const Ran info = tool({"info", one.path().string()});
  EXPECT_EQ(info.code, 0) << info.err;
  EXPECT_HAS(info.out, "|m|");
  EXPECT_HAS(info.out, tools::short_number(numbered(1, 8).cast<double>().norm()));
  const Ran diff = tool({"diff", one.path().string(), two.path().string()});
  EXPECT_NE(diff.code, 0);
  EXPECT_HAS(diff.out, q + ".lora_magnitude_vector: values differ by at most");
}

TEST(FileCommands, MergesAndExtractsWhatWasMerged) {
  const Work work;
  const std::string merged = work.out("merged"), again = work.out("again");
  expect_done(
      {"merge", "--base", work.base(), "--adapter", work.own(), "--output", merged, "--quiet"});
  const Ran run = tool({"extract", "--base", work.base(), "--tuned", merged, "--rank", "2",
                        "--output", again, "--quiet"});
  EXPECT_EQ(run.code, 0) << run.err;
  EXPECT_HAS(run.out, "100.0000 %");
  EXPECT_HAS(run.out, "embeddings and norms are left out");
  const auto one = lora::PeftAdapter::open(work.own()), two = lora::PeftAdapter::open(again);
  ASSERT_EQ(two.modules().size(), 2u);
  EXPECT_EQ(two.config().base_model_name_or_path, work.base());
  for (std::size_t i = 0; i < 2; ++i) {
    const auto a = tools::read_factors<double>(one, one.modules()[i]),
               b = tools::read_factors<double>(two, two.modules()[i]);
    const auto difference = tools::update_difference(a, b);
    EXPECT_GT(difference.first, 1);
    // W + sBA was rounded once, and the factors of the difference once each.
    EXPECT_LE(difference.difference, 8 * 0x1p-24 * difference.first);
  }
  expect_refused({"merge", "--base", work.base(), "--adapter", work.own(), "--output", merged},
                 "is not empty");
}

TEST(FileCommands, ExtractNamesWhatItLeavesOut) {
  const Work work;
  fs::create_directory(work.out("tuned"));
  const auto base = lora::CheckpointFiles::open(work.base());
  lora::SafetensorsWriter tuned;
  for (const std::string& name : base.files()[0].tensors.names()) {
    const lora::Matrix<float> values = base.files()[0].tensors.matrix<float>(name);
    tuned.add(name, lora::Matrix<float>(2 * values), lora::DType::F32, base.info(name).shape);
  }
  tuned.write(work.out("tuned/model.safetensors"));
  const Ran run = tool({"extract", "--base", work.base(), "--tuned", work.out("tuned"), "--rank",
                        "7", "--target-modules", "v_proj", "up_proj", "--output", work.out("x")});
  EXPECT_EQ(run.code, 0) << run.err;
  EXPECT_HAS(run.out, "not extracted: model.embed_tokens.weight (an embedding)");
  EXPECT_HAS(run.out, "not extracted: model.norm.weight (a norm)");
  EXPECT_HAS(run.out, "self_attn.q_proj.weight (not among --target-modules)");
  const auto adapter = lora::PeftAdapter::open(work.out("x"));
  ASSERT_EQ(adapter.modules().size(), 2u);
  EXPECT_EQ(adapter.modules()[0].r + adapter.modules()[1].r, 7 + 6);
  EXPECT_EQ(adapter.modules()[0].scaling, 1);
  EXPECT_EQ(adapter.modules()[1].scaling, 1);
}

TEST(FileCommands, ExtractRefuses) {
  const Work work;
  const auto words = [&](const std::string& tuned, const std::string& rank) {
    return std::vector<std::string>{"extract", "--base", work.base(), "--tuned",    tuned,
                                    "--rank",  rank,     "--output",  work.out("x")};
  };
  expect_refused(words(work.base(), "0"), "--rank is 0, expected at least 1");
  expect_refused(words(work.base(), "2"), "there is nothing to extract");
  expect_refused(words(work.out("none"), "2"), "No such file or directory");
  auto targets = words(work.base(), "2");
  targets.insert(targets.end(), {"--target-modules", "z_proj"});
  expect_refused(targets, "\"z_proj\" names no linear layer of the base");
  const TemporaryFolder other;
  lora::SafetensorsWriter writer;
  writer.add("model.norm.weight", numbered(2, 2), lora::DType::F32);
  writer.add("more", numbered(2, 2), lora::DType::F32);
  writer.write(other.path / "model.safetensors");
  const std::string text = tool(words(other.path.string(), "2")).err;
  EXPECT_HAS(text, "model.norm.weight: shape is [2, 2], in the base [8]");
  EXPECT_HAS(text, "model.embed_tokens.weight: only in the base");
  EXPECT_HAS(text, "more: only in the tuned model");
  EXPECT_TRUE(work.nothing_but_base());
}

TEST(FileCommands, CombinesWithWeights) {
  const Work work;
  const auto combine = [&](const std::string& type, const std::string& output,
                           std::vector<std::string> more = {}) {
    std::vector<std::string> words{
        "combine",   "--adapter", work.own(), "--weight", "0.5",
        "--adapter", work.own(),  "--weight", "-0.25",    "--combination-type",
        type,        "--output",  output,     "--quiet"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  };
  const auto one = lora::PeftAdapter::open(work.own());
  for (const auto& [type, more] :
       std::map<std::string, std::vector<std::string>>{{"cat", {}}, {"svd", {"--svd-rank", "2"}}}) {
    expect_done(combine(type, work.out("sum"), more));  // the second overwrites the first
    const auto sum = lora::PeftAdapter::open(work.out("sum"));
    for (std::size_t i = 0; i < 2; ++i) {
      EXPECT_EQ(sum.modules()[i].r, type == "cat" ? 4 : 2);
      const auto a = tools::read_factors<double>(one, one.modules()[i]);
      auto b = tools::read_factors<double>(sum, sum.modules()[i]);
      b.scaling *= 4;
      const auto difference = tools::update_difference(a, b);
      EXPECT_LE(difference.difference, 8 * 0x1p-24 * difference.first) << type;
    }
  }
  expect_done(combine("dare_ties", work.out("dare"),
                      {"--density", "0.5", "--seed", "3", "--majority-sign-method", "frequency"}));
  expect_done(combine("svd", work.out("clamped"), {"--svd-rank", "2", "--svd-clamp", "0.5"}));
  const auto largest = [&](const std::string& name) {
    const auto adapter = lora::PeftAdapter::open(work.out(name));
    return tools::read_factors<double>(adapter, adapter.modules()[0]).A.cwiseAbs().maxCoeff();
  };
  EXPECT_LT(largest("clamped"), largest("sum"));
  expect_refused(combine("cat", work.out("x"), {"--svd-clamp", "0.5"}), "svd_clamp = 0.5");
  expect_refused(combine("ties", work.out("x")), "density = none");
  auto words = combine("cat", work.out("x"));
  words.insert(words.end(), {"--weight", "1"});
  expect_refused(words, "there are 3 weights, expected 2, one --weight for each --adapter");
  expect_refused(combine("cat", work.base()), "is not empty and holds no adapter");
  expect_refused(combine("cat", work.base() + "/config.json"), "is a file, expected a folder");
}

TEST(FileCommands, CombineRefusesWhatBelongsToOneAdapter) {
  const Work work;
  const auto refusal = [&](const PeftFolder& other) {
    other.open();
    return tool({"combine", "--adapter", work.own(), other.path().string(), "--weight", "1", "1",
                 "--combination-type", "cat", "--output", work.out("x")})
        .err;
  };
  const std::string q = "model.layers.0.self_attn.q_proj";
  PeftFolder biased(R"({"lora_bias": true})"), trained(R"({"bias": "all"})"),
      saved(R"({"modules_to_save": ["q_proj"], "target_modules": ["v_proj"]})"), table,
      dora(R"({"use_dora": true})");
  biased.pair(q, 2, 8, 8);
  dora.pair(q, 2, 8, 8).add_vector(q + ".lora_magnitude_vector", numbered(1, 8));
  trained.pair(q, 2, 8, 8);
  saved.pair("model.layers.0.self_attn.v_proj", 2, 8, 8).add(q + ".weight", numbered(8, 8));
  table.embedding(q, 2, 8, 8);
  EXPECT_HAS(refusal(biased), "has lora_bias, which no combination keeps");
  EXPECT_HAS(refusal(dora), "is a DoRA adapter, whose lora_magnitude_vector no combination keeps");
  EXPECT_HAS(refusal(trained), "holds biases of the base (bias = \"all\")");
  EXPECT_HAS(refusal(saved), "is saved as a whole here");
  EXPECT_HAS(refusal(table), "is an embedding in one adapter but not in another");
  PeftFolder head(R"({"modules_to_save": ["score"]})"), second(R"({"modules_to_save": ["score"]})");
  for (PeftFolder* one : {&head, &second}) {
    one->pair(q, 2, 8, 8).add("score.weight", numbered(3, 8));
    one->open();
  }
  EXPECT_EQ(refusal(head), "");
  const auto kept = lora::PeftAdapter::open(work.out("x"));
  EXPECT_EQ(kept.tensors().matrix<float>("base_model.model.score.weight"), numbered(3, 8));
  EXPECT_EQ(kept.config().effective_modules_to_save(), (std::vector<std::string>{"score"}));
  EXPECT_HAS(tool({"combine", "--adapter", head.path().string(), second.path().string(), "--weight",
                   "1", "1", "--combination-type", "cat", "--output", work.out("y")})
                 .err,
             "such modules cannot be combined");
}

// Keys as PEFT's save_embedding_layers writes them.
TEST(FileCommands, CombineKeepsTheBasesWeightsBesideEmbeddingsOnce) {
  const Work work;
  const std::string q = "model.layers.0.self_attn.q_proj", table = "model.embed_tokens",
                    prefix = "base_model.model.";
  const auto combine = [&](const PeftFolder& one, const PeftFolder& two) {
    one.open(), two.open();
    return tool({"combine", "--adapter", one.path().string(), two.path().string(), "--weight", "1",
                 "1", "--combination-type", "cat", "--output", work.out("x")})
        .err;
  };
  const auto kept = [&] { return lora::PeftAdapter::open(work.out("x")); };
  PeftFolder on_table(R"({"target_modules": ["embed_tokens"]})"), on_query;
  on_table.embedding(table, 2, 9, 8).add(table + ".base_layer.weight", numbered(9, 8));
  on_table.add("lm_head.weight", numbered(9, 8, 5));
  on_query.pair(q, 2, 8, 8).add(table + ".weight", numbered(9, 8));
  on_query.add("lm_head.weight", numbered(9, 8, 5));
  for (const auto& [one, two] : {std::pair(&on_table, &on_query), {&on_query, &on_table}}) {
    EXPECT_EQ(combine(*one, *two), "");
    EXPECT_EQ(kept().other_tensors().size(), 2u);
    EXPECT_EQ(kept().tensors().matrix<float>(prefix + table + ".base_layer.weight"),
              numbered(9, 8));
    EXPECT_EQ(kept().tensors().matrix<float>(prefix + "lm_head.weight"), numbered(9, 8, 5));
    EXPECT_TRUE(kept().config().effective_modules_to_save().empty());
  }
  EXPECT_EQ(combine(on_query, on_query), "");
  EXPECT_EQ(kept().tensors().matrix<float>(prefix + table + ".weight"), numbered(9, 8));
  PeftFolder head(R"({"modules_to_save": ["lm_head"]})");
  head.pair(q, 2, 8, 8).add("lm_head.weight", numbered(9, 8, 70));
  for (const auto& [one, two] : {std::pair(&head, &on_query), {&on_query, &head}}) {
    EXPECT_EQ(combine(*one, *two), "");
    EXPECT_EQ(kept().tensors().matrix<float>(prefix + "lm_head.weight"), numbered(9, 8, 70));
    EXPECT_EQ(kept().config().effective_modules_to_save(), (std::vector<std::string>{"lm_head"}));
  }
  PeftFolder values, type, shape;
  for (PeftFolder* one : {&values, &type, &shape}) one->pair(q, 2, 8, 8);
  values.add(table + ".weight", numbered(9, 8, 2));
  type.add(table + ".weight", numbered(9, 8), tools::DType::BF16);
  shape.add(table + ".weight", numbered(8, 9));
  const auto before = content(work.out("x/adapter_model.safetensors"));
  for (const PeftFolder* other : {&values, &type, &shape}) {
    const std::string text = combine(on_table, *other);
    EXPECT_HAS(text, "layer \"model.embed_tokens\": the base's weight is not the same in ");
    EXPECT_HAS(text, on_table.path().string());
    EXPECT_HAS(text, other->path().string());
    EXPECT_EQ(content(work.out("x/adapter_model.safetensors")), before);
  }
}

TEST(FileCommands, AFailingWriteLeavesNoModelCard) {
  const Work work;
  fs::create_directories(work.out("x/adapter_config.json"));  // a folder where a file should be
  expect_refused({"convert", "--adapter", work.own(), "--dtype", "f16", "--output", work.out("x")},
                 "adapter_config.json: ");
  EXPECT_FALSE(fs::exists(work.out("x/README.md")));
  EXPECT_FALSE(fs::exists(work.out("x/adapter_model.safetensors")));
}

TEST(FileCommands, LostOutputIsAnError) {
  const Work work;
  const Ran run = lora_test::run_onto_full(tools::run_lora, {"info", work.own()});
  EXPECT_EQ(run.code, 2);
  EXPECT_EQ(run.err,
            "lora info: standard output: could not be written completely (no space left?)\n");
}

TEST(FileCommands, ConvertsAndComparesAdapters) {
  const Work work;
  const std::string half = work.out("half"), back = work.out("back");
  EXPECT_EQ(tool({"diff", work.own(), work.own()}).code, 0);
  expect_done({"convert", "--adapter", work.own(), "--dtype", "f16", "--output", half});
  expect_done({"convert", "--adapter", half, "--dtype", "f32", "--output", back});
  // numbered() is exact in float16, so that only the types have changed on the way.
  EXPECT_EQ(tool({"diff", work.own(), back}).code, 0);
  EXPECT_EQ(tool({"diff", work.own(), half}).code, 1);
  EXPECT_HAS(tool({"diff", work.own(), half}).out, "types F32 and F16");
  expect_refused({"diff", work.own(), work.base()}, "has no adapter_config.json");
  PeftFolder large;
  large.add("m.q_proj.lora_A.weight", lora::Matrix<float>::Constant(2, 3, 1e6f));
  large.add("m.q_proj.lora_B.weight", lora::Matrix<float>::Constant(5, 2, 1));
  large.open();
  expect_refused(
      {"convert", "--adapter", large.path().string(), "--dtype", "f16", "--output", work.out("x")},
      "m.q_proj.lora_A.weight\": element 0 is 1000000, too large for F16");
  EXPECT_FALSE(fs::exists(work.out("x")));
}

TEST(FileCommands, DiffNamesFieldsTensorsAndUpdates) {
  const Work work;
  PeftFolder other(R"({"lora_alpha": 8, "new_field": 1, "target_modules": ["q_proj", "k_proj"]})");
  other.pair("model.layers.0.self_attn.q_proj", 2, 8, 8)
      .pair("model.layers.0.self_attn.k_proj", 2, 8, 8);
  other.open();
  const Ran run = tool({"diff", work.own(), other.path().string()});
  EXPECT_EQ(run.code, 1);
  EXPECT_HAS(run.out, "configuration: lora_alpha: 4 and 8");
  EXPECT_HAS(run.out, "configuration: new_field: absent and 1");
  EXPECT_HAS(run.out, "self_attn.k_proj.lora_A.weight: only in the second");
  EXPECT_HAS(run.out, "self_attn.v_proj.lora_B.weight: only in the first");
  EXPECT_HAS(run.out, "relative 1\n");  // s is twice as large
}

TEST(FileCommands, GgufAndBackGivesTheSameTensors) {
  const Work work;
  const std::string file = work.out("a.gguf"), back = work.out("back");
  expect_done({"to-gguf", "--base", work.base(), "--adapter", work.own(), "--output", file});
  expect_done({"from-gguf", "--base", work.base(), "--gguf", file, "--output", back});
  const auto one = lora::PeftAdapter::open(work.own()), two = lora::PeftAdapter::open(back);
  for (const std::string& name : one.tensors().names()) {
    const auto a = one.tensors().bytes(name), b = two.tensors().bytes(name);
    EXPECT_TRUE(std::equal(a.begin(), a.end(), b.begin(), b.end())) << name;
  }
  EXPECT_HAS(tool({"info", file}).out, "adapter.lora.alpha = 4");
  expect_done({"to-gguf", "--base", work.base(), "--adapter", work.own(), "--output", file,
               "--dtype", "bf16"});
  EXPECT_HAS(tool({"info", file}).out, "4 BF16");
  PeftFolder head;
  head.pair("model.layers.0.self_attn.q_proj", 2, 8, 8).add("score.weight", numbered(3, 8));
  head.open();
  expect_refused({"to-gguf", "--base", work.base(), "--adapter", head.path().string(), "--output",
                  work.out("x.gguf")},
                 "GGUF cannot hold this adapter");
  EXPECT_FALSE(fs::exists(work.out("x.gguf")));
}

TEST(FileCommands, ToGgufComparesTheBasesWeightBesideAnEmbedding) {
  const Work work;
  const lora::Matrix<float> table = lora::CheckpointFiles::open(work.base())
                                        .files()[0]
                                        .tensors.matrix<float>("model.embed_tokens.weight");
  const auto words = [&](const lora::Matrix<float>& copy, tools::DType dtype) {
    PeftFolder adapter(R"({"target_modules": ["embed_tokens"]})");
    adapter.embedding("model.embed_tokens", 2, copy.rows(), 8);
    adapter.add("model.embed_tokens.base_layer.weight", copy, dtype).open();
    fs::copy(adapter.path(), work.out("a"),
             fs::copy_options::overwrite_existing | fs::copy_options::recursive);
    return std::vector<std::string>{"to-gguf",     "--base",   work.base(),       "--adapter",
                                    work.out("a"), "--output", work.out("a.gguf")};
  };
  for (const auto dtype : {tools::DType::F32, tools::DType::BF16, tools::DType::F16}) {
    expect_done(words(table, dtype));
    fs::remove(work.out("a.gguf"));
  }
  lora::Matrix<float> other = table;
  other(8, 7) += 0.01f;
  const std::string reason =
      "tensor \"base_model.model.model.embed_tokens.base_layer.weight\" is a base weight that "
      "differs from \"model.embed_tokens.weight\" of ";
  for (const auto dtype : {tools::DType::F32, tools::DType::BF16})
    expect_refused(words(other, dtype), reason);
  expect_refused(words(table.topRows(8), tools::DType::F32),
                 "embed_tokens.lora_embedding_A: shape is [2, 8], expected [2, 9] for this base");
  EXPECT_FALSE(fs::exists(work.out("a.gguf")));
  fs::remove(work.base() + "/model.safetensors");  // only config.json: nothing to compare with
  const Ran run = tool(words(other, tools::DType::F32));
  EXPECT_EQ(run.code, 0) << run.err;
  EXPECT_HAS(run.err, "has no weights, so the base weights in the adapter's file");
}

TEST(FileCommands, EveryGoldenAdapterThatGgufCanHoldComesBackBitForBit) {
  lora_test::for_each_golden_set([](const lora_test::GoldenSet& set) {
    std::size_t same = 0;
    for (const auto& golden : lora_test::golden_models(set)) {
      SCOPED_TRACE(golden.name);
      const TemporaryFolder folder;
      const std::string file = (folder.path / "a.gguf").string(),
                        back = (folder.path / "back").string();
      if (tool({"to-gguf", "--base", golden.base.string(), "--adapter", golden.adapter.string(),
                "--output", file})
              .code != 0)
        continue;
      expect_done({"from-gguf", "--base", golden.base.string(), "--gguf", file, "--output", back});
      const auto config = lora::PeftAdapter::open(golden.adapter).config();
      if (!config.alpha_pattern.empty() || !config.rank_pattern.empty()) continue;  // s is in B
      EXPECT_EQ(content(golden.adapter / "adapter_model.safetensors"),
                content(fs::path(back) / "adapter_model.safetensors"));
      ++same;
    }
    EXPECT_GE(same, 1u);
  });
}

TEST(FileCommands, MergeRefusesAndWritesNothing) {
  const Work work;
  const auto words = [&](const std::string& base, const std::string& adapter) {
    return std::vector<std::string>{"merge", "--base",   base,          "--adapter",
                                    adapter, "--output", work.out("x"), "--quiet"};
  };
  expect_refused(words(work.out("none"), work.own()), "cannot open this folder: No such file");
  expect_refused(words(work.base(), work.out("none")), "No such file or directory");
  PeftFolder other;
  other.pair("transformer.h.0.q_proj", 2, 8, 8);
  other.open();
  expect_refused(words(work.base(), other.path().string()),
                 "the base has no tensor \"transformer.h.0.q_proj.weight\"");
  fs::resize_file(work.base() + "/model.safetensors", 1000);
  expect_refused(words(work.base(), work.own()), "model.safetensors: ");
  EXPECT_TRUE(work.nothing_but_base());
}

// ---- nothing is written onto what is read ----

// What a refused command must leave as it was: every file below, with its bytes.
std::map<std::string, std::vector<std::byte>> files_below(const fs::path& folder) {
  std::map<std::string, std::vector<std::byte>> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) files[entry.path().string()] = content(entry.path());
  }
  return files;
}

TEST(FileCommands, NoCommandWritesOntoWhatItReads) {
  const Work work;
  const fs::path base = work.base(), own = work.own(), links = work.folder.path / "links";
  const std::string gguf = work.out("a.gguf"), other = work.out("other");
  expect_done({"to-gguf", "--base", base, "--adapter", own, "--output", gguf});
  expect_done({"convert", "--adapter", own, "--dtype", "f16", "--output", other});
  fs::create_directory(links);
  fs::create_symlink(base / "model.safetensors", links / "soft");
  fs::create_hard_link(base / "config.json", links / "hard");
  fs::create_directory_symlink(own, links / "own");
  fs::create_directory(links / "adapter");  // an adapter of hard links
  for (const char* file : {"adapter_config.json", "adapter_model.safetensors"})
    fs::create_hard_link(fs::path(other) / file, links / "adapter" / file);
  const auto before = files_below(work.folder.path), adapter = files_below(own);
  const char* reason = "which is an input; inputs are never overwritten";
  for (const fs::path& output :
       {base / "model.safetensors", base / "config.json", own / "adapter_model.safetensors",
        base / ".." / "base" / "model.safetensors", links / "soft", links / "hard",
        links / "own" / "adapter_config.json"}) {
    SCOPED_TRACE(output);
    expect_refused({"to-gguf", "--base", base, "--adapter", own, "--output", output}, reason);
  }
  for (const fs::path& output : {own, own / ".", links / "own"}) {
    SCOPED_TRACE(output);
    expect_refused({"convert", "--adapter", own, "--dtype", "bf16", "--output", output}, reason);
    expect_refused({"combine", "--adapter", other, "--weight", "1", "--adapter", own, "--weight",
                    "1", "--combination-type", "linear", "--output", output},
                   reason);
    expect_refused({"merge", "--base", base, "--adapter", own, "--output", output}, reason);
  }
  expect_refused({"convert", "--adapter", other, "--dtype", "f32", "--output", links / "adapter"},
                 reason);
  expect_refused({"extract", "--base", base, "--tuned", base, "--rank", "1", "--output", base},
                 reason);
  expect_refused({"from-gguf", "--base", base, "--gguf", gguf, "--output", base}, reason);
  expect_refused({"merge", "--base", base, "--adapter", own, "--output", base}, reason);
  EXPECT_EQ(files_below(work.folder.path), before);
  EXPECT_EQ(files_below(own), adapter);
}

TEST(FileCommands, ReplacesFilesOfTheKindThatItWritesAlone) {
  const Work work;
  const auto words = [&](const std::string& output) {
    return std::vector<std::string>{"to-gguf",  "--base",   work.base(), "--adapter",
                                    work.own(), "--output", output};
  };
  const std::string notes = work.out("notes.txt"), gguf = work.out("a.gguf");
  lora::atomic_write(notes, "do not lose this");
  expect_refused(words(notes),
                 "notes.txt: exists and is not a GGUF file; only such a file is replaced");
  EXPECT_EQ(lora::as_text(content(notes)), "do not lose this");
  lora::atomic_write(gguf, "");
  expect_done(words(gguf));  // an empty file holds nothing to lose
  expect_done(words(gguf));
  fs::copy(work.base(), work.out("another"));
  expect_refused(words(work.out("another") + "/model.safetensors"), "is not a GGUF file");
}

TEST(OutputPath, KnowsLogsAndLogits) {
  const TemporaryFolder folder;
  const fs::path log = folder.path / "log.jsonl", logits = folder.path / "l.safetensors";
  EXPECT_NO_THROW(tools::check_file_output(log, tools::json_lines_kind, {"", folder.path}));
  lora::atomic_write(log, "{\"loss\": 1, \"step\": 2}\n{\"half");
  EXPECT_NO_THROW(tools::check_file_output(log, tools::json_lines_kind, {}));
  EXPECT_THROW(tools::check_file_output(log, tools::json_lines_kind, {folder.path}),
               lora::ConfigError);
  EXPECT_THROW(tools::check_file_output(log, tools::logits_kind, {}), lora::ConfigError);
  for (const char* name : {"logits", "weight"}) {
    lora::SafetensorsWriter writer;
    writer.add(name, numbered(2, 3), tools::DType::F32);
    writer.write(logits);
    const auto check = [&] { tools::check_file_output(logits, tools::logits_kind, {}); };
    if (name == std::string("logits")) {
      EXPECT_NO_THROW(check());
    } else {
      EXPECT_THROW(check(), lora::ConfigError);
    }
  }
}

TEST(OutputPath, AnotherJsonFileIsNoLog) {
  const TemporaryFolder folder;
  const fs::path log = folder.path / "config.json";
  for (const char* text : {"{\n  \"step\": 1\n}\n", "{\"loss\": 1}\n", "[\"step\"]\n", "{"}) {
    lora::atomic_write(log, text);
    EXPECT_THROW(tools::check_file_output(log, tools::json_lines_kind, {}), lora::ConfigError)
        << text;
  }
}

TEST(OutputPath, ANewFolderAndBackIsTheFolder) {
  const TemporaryFolder folder;
  const fs::path adapter = folder.path / "adapter", notes = folder.path / "notes";
  fs::create_directories(adapter);
  fs::create_directories(notes);
  lora::atomic_write(adapter / lora::peft_config_file, "{}");
  lora::atomic_write(notes / "todo.txt", "x");
  for (const char* way : {"adapter", "adapter/", "new/../adapter", "a/b/../../adapter/."}) {
    EXPECT_THROW(tools::check_adapter_output(folder.path / way, {adapter}), lora::ConfigError)
        << way;
    EXPECT_THROW(
        tools::refuse_input_as_output({folder.path / way / lora::peft_config_file}, {adapter}),
        lora::ConfigError)
        << way;
    EXPECT_NO_THROW(tools::check_adapter_output(folder.path / way, {notes})) << way;
  }
  EXPECT_HAS(lora_test::message_of<lora::ConfigError>(
                 [&] { tools::check_adapter_output(folder.path / "x/../notes", {}); }),
             "is not empty and holds no adapter");
}

TEST(OutputPath, WhatLiesInAReplacedFolderIsNoInput) {
  const TemporaryFolder folder;
  const fs::path merged = folder.path / "out" / "merged", base = folder.path / "base";
  fs::create_directories(merged / "deep");
  fs::create_directories(base);
  lora::atomic_write(merged / "deep" / "data.json", "[]");
  lora::atomic_write(base / "model", "x");
  const auto check = [&](const fs::path& input) { tools::refuse_input_below(merged, {input}); };
  EXPECT_NO_THROW(check(base));
  EXPECT_NO_THROW(check(folder.path / "out"));
  EXPECT_NO_THROW(check(folder.path / "out" / "merged.json"));
  EXPECT_NO_THROW(check(""));
  EXPECT_HAS(
      lora_test::message_of<lora::ConfigError>([&] { check(merged / "deep" / "data.json"); }),
      "which this run replaces");
  EXPECT_THROW(check(merged), lora::ConfigError);
  EXPECT_THROW(check(base / ".." / "out" / "merged" / "deep"), lora::ConfigError);
  EXPECT_THROW(tools::refuse_input_below(folder.path / "new/../out/merged", {merged}),
               lora::ConfigError);
  fs::create_symlink(merged / "deep" / "data.json", base / "link.json");  // leads into it
  EXPECT_THROW(check(base), lora::ConfigError);
  fs::create_symlink(base / "model", merged / "model");  // lies in it
  EXPECT_THROW(check(merged / "model"), lora::ConfigError);
}

// ---- the base says how its weights lie, and whether its head is its embedding ----

// A GPT-2 of one layer whose config.json says whether the head is the embedding.
struct Gpt2 {
  TemporaryFolder folder;
  explicit Gpt2(bool tied) {
    lora::SafetensorsWriter base;
    const auto add = [&](const std::string& name, Index rows, Index cols) {
      base.add(name, lora::Matrix<float>(lora::Matrix<float>::Random(rows, cols)),
               lora::DType::F32);
    };
    add("transformer.h.0.attn.c_attn.weight", 8, 24);
    add("transformer.h.0.attn.c_proj.weight", 8, 8);
    add("transformer.wte.weight", 9, 8);
    if (!tied) add("lm_head.weight", 9, 8);
    fs::create_directory(path());
    base.write(path() / "model.safetensors");
    lora::atomic_write(path() / "config.json",
                       std::string(R"({"model_type": "gpt2", "n_embd": 8, "n_layer": 1,
                           "n_head": 2, "vocab_size": 9, "tie_word_embeddings": )") +
                           (tied ? "true}" : "false}"));
  }
  fs::path path() const { return folder.path / "base"; }
};

TEST(FileCommands, MergesConv1DWhateverTheFlagAndExtractsItBack) {
  const Gpt2 base(false);
  PeftFolder adapter(R"({"fan_in_fan_out": false})");
  adapter.pair("transformer.h.0.attn.c_proj", 2, 8, 8)
      .pair("transformer.h.0.attn.c_attn", 2, 8, 24)
      .pair("lm_head", 2, 8, 9);
  const auto one = adapter.open();
  const std::string merged = (base.folder.path / "merged").string(),
                    again = (base.folder.path / "again").string();
  expect_done(
      {"merge", "--base", base.path(), "--adapter", adapter.path(), "--output", merged, "--quiet"});
  const auto before = lora::CheckpointFiles::open(base.path()),
             after = lora::CheckpointFiles::open(merged);
  for (const lora::PeftModule& module : one.modules()) {
    const std::string name = module.name + ".weight";
    const auto factors = tools::read_factors<float>(one, module);
    lora::Matrix<float> change = factors.scaling * (factors.B * factors.A);
    if (module.name != "lm_head") change.transposeInPlace();
    const lora::Matrix<float> W = before.file_of(name).matrix<float>(name) + change;
    EXPECT_LE((after.file_of(name).matrix<float>(name) - W).cwiseAbs().maxCoeff(),
              1e-6f * W.cwiseAbs().maxCoeff())
        << name;
  }
  const Ran run = tool({"extract", "--base", base.path(), "--tuned", merged, "--rank", "2",
                        "--output", again, "--quiet"});
  EXPECT_EQ(run.code, 0) << run.err;
  const auto two = lora::PeftAdapter::open(again);
  ASSERT_EQ(two.modules().size(), 3u);
  EXPECT_TRUE(two.config().fan_in_fan_out);
  for (const lora::PeftModule& module : two.modules()) {
    const auto same = std::find_if(one.modules().begin(), one.modules().end(),
                                   [&](const auto& m) { return m.name == module.name; });
    const auto difference = tools::update_difference(tools::read_factors<double>(one, *same),
                                                     tools::read_factors<double>(two, module));
    EXPECT_LE(difference.difference, 1e-5 * difference.first) << module.name;
  }
  PeftFolder wrong(R"({"fan_in_fan_out": false})");
  wrong.pair("transformer.h.0.attn.c_proj", 2, 8, 8).open();
  const Ran warned = tool({"merge", "--base", base.path(), "--adapter", wrong.path(), "--output",
                           (base.folder.path / "w").string(), "--quiet"});
  EXPECT_EQ(warned.code, 0);
  EXPECT_HAS(warned.err, "lora: fan_in_fan_out = false has no effect on");
}

TEST(FileCommands, OfATiedHeadTheRealReasonIsGiven) {
  const Gpt2 base(true);
  const lora::Matrix<float> table = lora::CheckpointFiles::open(base.path())
                                        .files()[0]
                                        .tensors.matrix<float>("transformer.wte.weight");
  PeftFolder head;
  head.pair("lm_head", 2, 8, 9).add("lm_head.base_layer.weight", table).open();
  const std::string file = (base.folder.path / "a.gguf").string(),
                    merged = (base.folder.path / "merged").string();
  expect_refused({"to-gguf", "--base", base.path(), "--adapter", head.path(), "--output", file},
                 "lm_head: the head of this base is its embedding (as GGUF has every gpt2");
  const Ran run = tool(
      {"merge", "--base", base.path(), "--adapter", head.path(), "--output", merged, "--quiet"});
  EXPECT_EQ(run.code, 0) << run.err;
  EXPECT_HAS(run.err, "the merged model has two");
  EXPECT_HAS(std::string(lora::as_text(content(fs::path(merged) / "config.json"))),
             "\"tie_word_embeddings\": false");
  EXPECT_TRUE(lora::CheckpointFiles::open(merged).contains("lm_head.weight"));
  // A copy of the tied head that is the embedding's says nothing, also in GGUF.
  PeftFolder beside;
  beside.pair("transformer.h.0.attn.c_attn", 2, 8, 24).add("lm_head.weight", table).open();
  expect_done({"to-gguf", "--base", base.path(), "--adapter", beside.path(), "--output", file});
  // Beside another head than the embedding it is not known whose copy it is.
  const Gpt2 two(false);
  lora::atomic_write(two.path() / "config.json",
                     lora::as_text(content(base.path() / "config.json")));
  expect_refused({"to-gguf", "--base", two.path(), "--adapter", beside.path(), "--output", file},
                 "lm_head.weight is not transformer.wte.weight, though the configuration says");
}

}  // namespace file_commands_test
