#include <lora/adapters/matching.hpp>

#include <gtest/gtest.h>
#include <support/golden_sets.hpp>

#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <string>

namespace matching_test {

using lora::ConfigError;
using lora::Index;
using lora::LoRAConfig;
using lora::ModuleInfo;
using Json = nlohmann::ordered_json;  // the order of rank_pattern decides
using Names = std::vector<std::string>;

lora::NameSelection names_of(const Json& j) {
  if (j.is_string()) return j.get<std::string>();
  return j.get<Names>();
}

LoRAConfig config_of(const Json& j) {
  LoRAConfig c;
  c.lora_alpha = 16;  // what the table was made with, unless a row says otherwise
  for (const auto& [key, value] : j.items()) {
    if (key == "target_modules") {
      c.target_modules = names_of(value);
    } else if (key == "exclude_modules") {
      c.exclude_modules = names_of(value);
    } else if (key == "layers_pattern") {
      c.layers_pattern = names_of(value);
    } else if (key == "modules_to_save") {
      c.modules_to_save = value.get<Names>();
    } else if (key == "layers_to_transform" && value.is_array()) {
      c.layers_to_transform = value.get<std::vector<Index>>();
    } else if (key == "layers_to_transform") {
      c.layers_to_transform = value.get<Index>();
    } else if (key == "r") {
      c.r = value.get<Index>();
    } else if (key == "lora_alpha") {
      c.lora_alpha = value.get<double>();
    } else if (key == "use_rslora") {
      c.use_rslora = value.get<bool>();
    } else if (key == "rank_pattern") {
      for (const auto& [name, r] : value.items()) c.rank_pattern.emplace_back(name, r.get<Index>());
    } else if (key == "alpha_pattern") {
      for (const auto& [name, alpha] : value.items())
        c.alpha_pattern.emplace_back(name, alpha.get<double>());
    } else {
      ADD_FAILURE() << "unknown key " << key;
    }
  }
  return c;
}

std::vector<ModuleInfo> modules(const Names& names, const std::string& type = "Linear") {
  std::vector<ModuleInfo> all;
  for (const std::string& name : names) all.push_back({name, type, false});
  return all;
}

Names matched(const std::vector<ModuleInfo>& all, const LoRAConfig& c) {
  Names names;
  for (const auto& target : lora::match_modules(all, c).targets) names.push_back(target.name);
  return names;
}

std::string refusal(const std::vector<ModuleInfo>& all, const LoRAConfig& c,
                    const char* model_type = "") {
  try {
    lora::match_modules(all, c, model_type);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "accepted";
}

std::string warnings(const std::vector<ModuleInfo>& all, const LoRAConfig& c) {
  std::string text;
  for (const std::string& w : lora::match_modules(all, c).warnings) text += w + "\n";
  return text;
}

void expect_says(const std::string& said, const std::string& part) {
  EXPECT_NE(said.find(part), said.npos) << "said: " << said << "\nwanted: " << part;
}

std::vector<ModuleInfo> llama() {
  std::vector<ModuleInfo> all{{"model.embed_tokens", "Embedding"}};
  for (const char* layer : {"0", "1", "2"}) {
    const std::string at = std::string("model.layers.") + layer + ".";
    for (const char* name : {"q_proj", "k_proj", "v_proj", "o_proj"})
      all.push_back({at + "self_attn." + name, "Linear"});
    for (const char* name : {"gate_proj", "up_proj", "down_proj"})
      all.push_back({at + "mlp." + name, "Linear"});
    all.push_back({at + "input_layernorm", "LlamaRMSNorm"});
  }
  all.push_back({"model.norm", "LlamaRMSNorm"});
  all.push_back({"lm_head", "Linear", true});
  return all;
}

// For Mixtral, PEFT turns "all-linear" into target_parameters too and reaches the router and the
// joined experts, which are no layers of the list. Counts those.
std::size_t beside(const Json& matched, const std::vector<ModuleInfo>& tree) {
  std::size_t n = 0;
  for (const auto& [name, values] : matched.items()) {
    const std::string path = name;
    if (std::any_of(tree.begin(), tree.end(), [&](const ModuleInfo& m) { return m.name == path; }))
      continue;
    EXPECT_TRUE(path.find(".mlp.experts") != path.npos || path.ends_with(".mlp.gate")) << path;
    ++n;
  }
  return n;
}

/// Holds the matching against a table of PEFT's; counts the rows that match and those that fail.
void check_table(const std::filesystem::path& path, std::size_t& agreed, std::size_t& errors) {
  std::ifstream file(path);
  const Json rows = Json::parse(file);
  std::map<std::string, std::vector<ModuleInfo>> trees;
  for (const Json& row : rows) {
    const std::string tree = row["tree"];
    if (row.contains("modules")) {
      for (const auto& m : row["modules"]) {
        const std::string name = m["name"];
        trees[tree].push_back({name, m["type"], name == "lm_head"});
      }
      continue;
    }
    SCOPED_TRACE(tree + " " + row["config"].dump());
    const LoRAConfig config = config_of(row["config"]);
    if (row.contains("error")) {
      EXPECT_THROW(lora::match_modules(trees[tree], config), ConfigError);
      ++errors;
      continue;
    }
    const lora::MatchReport report = lora::match_modules(trees[tree], config);
    ASSERT_EQ(report.targets.size() + beside(row["matched"], trees[tree]), row["matched"].size());
    for (const auto& target : report.targets) {
      ASSERT_TRUE(row["matched"].contains(target.name)) << target.name;
      const auto& want = row["matched"][target.name];
      EXPECT_EQ(target.r, want["r"].get<Index>());
      EXPECT_EQ(target.alpha, want["alpha"].get<double>());
      EXPECT_EQ(target.scaling, want["scaling"].get<double>());
    }
    EXPECT_EQ(report.saved, row["saved"].get<Names>());
    ++agreed;
  }
}

TEST(Matching, AgreesWithPeftOnEveryGoldenTable) {
  lora_test::for_each_golden_set([](const lora_test::GoldenSet& set) {
    std::size_t agreed = 0, errors = 0;
    check_table(set.folder / "layers" / "matching.json", agreed, errors);
    EXPECT_GE(agreed, 1u);
    EXPECT_GE(errors, 1u);
  });
}

// One module and one list; the rules of PEFT's check_target_module_exists.
TEST(Matching, ComparesOneNameAsPeft) {
  struct Row {
    std::string name;
    lora::NameSelection targets;
    lora::LayerSelection layers;
    lora::NameSelection pattern;
    bool matches;
  };
  const std::string deep = "transformer.h.1.attn.attention.q_proj";
  const Row rows[] = {
      {"foo", {"foo"}, {}, {}, true},
      {"foo", {"bar"}, {}, {}, false},
      {"foo", {"foo", "bar"}, {}, {}, true},
      {"foo", "foo", {}, {}, true},
      {"foo", ".*oo", {}, {}, true},
      {"foo", "fo.*", {}, {}, true},
      {"foo", ".*bar.*", {}, {}, false},
      {"foobar", ".*oba.*", {}, {}, true},
      {"foobar", "foo", {}, {}, false},
      {"a.q_proj", {"q_proj"}, {}, {}, true},
      {"a.xq_proj", {"q_proj"}, {}, {}, false},  // the end begins at a dot
      {"q_projx", {"q_proj"}, {}, {}, false},
      {"a.q_proj.b", {"q_proj"}, {}, {}, false},
      {"a.b.q_proj", {"b.q_proj"}, {}, {}, true},
      {"a.bb.q_proj", {"b.q_proj"}, {}, {}, false},
      {"a.q_proj", {"q.proj"}, {}, {}, false},  // entries of a list are not regular expressions
      {"a.q_proj", {".*q_proj"}, {}, {}, false},
      {"a.q_proj", "q_proj", {}, {}, false},  // a string is matched whole
      {"foo.bar.1.baz", {"baz"}, {1}, {"bar"}, true},
      {"foo.bar.1.baz", {"baz"}, {0}, {"bar"}, false},
      {"foo.bar.1.baz", {"baz"}, {2}, {"bar"}, false},
      {"foo.bar.10.baz", {"baz"}, {0}, {"bar"}, false},
      {"foo.bar.10.baz", {"baz"}, {1}, {"bar"}, false},
      {"foo.bar.1.baz", {"baz", "spam"}, {0, 1, 2}, {"bar"}, true},
      {"foo.whatever.1.baz", {"baz"}, {1}, Names{}, true},
      {"foo.whatever.1.baz", {"baz"}, {0}, Names{}, false},
      {"foo.whatever.1.baz", {"baz"}, {1}, "", true},
      {"foo.whatever.1.baz", {"baz"}, 0, {}, false},
      {"foo.whatever.0.baz", {"baz"}, 0, "whatever", true},
      {deep + ".foo", {"q_proj"}, {}, Names{}, false},
      {deep, {"q_proj", "v_proj"}, {0, 1, 2}, {"h"}, true},
      {deep, {"q_proj"}, {2}, {"h"}, false},
      {"foo.bar.1.baz", {"baz"}, {1}, {"foo"}, false},  // something must stand before the pattern
      {"foo.bar.1.baz", {"baz"}, {1}, {"baz"}, false},
      {"bar.1.baz", {"baz"}, {1}, {"bar"}, false},
      {"bar.1.baz", {"baz"}, {1}, {}, false},
      {"foo.bar.001.baz", {"baz"}, {1}, {"bar"}, true},
      {"foo.bar.001.baz", {"baz"}, {1}, {}, true},
      {"foo.bar.99999999999999999999999.baz", {"baz"}, {1}, {}, false},
      {"foo.bar.1.spam.2.baz", {"baz"}, {1}, {"bar"}, true},
      {"foo.bar.2.spam.1.baz", {"baz"}, {1}, {"bar"}, false},
      {"model.layers.1.experts.3.w1", {"w1"}, {1}, {}, true},  // the first number, not the expert's
      {"model.layers.1.experts.3.w1", {"w1"}, {3}, {}, false},
      {"model.layers.1.experts.3.w1", {"w1"}, {3}, "experts", true},
      {"model.layers.1.experts.3.w1", {"w1"}, {1}, {"nothing", "layers", "experts"}, true},
      {"model.layers.1.w1",
       {"model.layers.1.w1"},
       {0},
       {},
       true},  // the whole name: layers do not count
      {"model.layers.1.w1", {"w1"}, std::vector<Index>{}, {}, true},
      {"a.block12.3.w", {"w"}, {3}, "block\\d+", true},
      {"a.h.3.w", {"w"}, {3}, "(?:layers|h)", true},
      {"mlp.blocks.1.weight", {"weight"}, {1}, {"blocks"}, true},
      {"blocks.1.weight", {"weight"}, {1}, {"blocks"}, false},
      {"mod\xc3\xa8le.layers.1.w", {"w"}, {1}, {}, true},
  };
  for (const Row& row : rows) {
    LoRAConfig c;
    c.target_modules = row.targets;
    c.layers_to_transform = row.layers;
    c.layers_pattern = row.pattern;
    const std::string said = refusal(modules({row.name}), c);
    EXPECT_EQ(said == "accepted", row.matches) << row.name << ": " << said;
  }
}

TEST(Matching, ExcludesBeforeItTargets) {
  LoRAConfig c;
  c.target_modules = {"a", "b"};
  c.exclude_modules = {"x.a"};
  EXPECT_EQ(matched(modules({"x.a", "y.a", "xx.a", "x.b"}), c), (Names{"y.a", "xx.a", "x.b"}));
  c.exclude_modules = "x.*";
  EXPECT_EQ(matched(modules({"x.a", "y.a", "xx.a", "x.b"}), c), Names{"y.a"});
  c.exclude_modules = "";  // nothing, as in Python where it is false
  EXPECT_EQ(matched(modules({"x.a"}), c), Names{"x.a"});
}

TEST(Matching, KeepsAdaptersOutOfSavedModules) {
  LoRAConfig c;
  c.target_modules = {"dense", "out"};
  c.modules_to_save = {"head"};
  const auto report =
      lora::match_modules(modules({"a.dense", "a.head.dense", "a.head.out", "a.heads.out"}), c);
  EXPECT_EQ(report.targets.size(), 2u);
  EXPECT_EQ(report.targets[1].name, "a.heads.out");
  EXPECT_EQ(report.saved, (Names{"a.head.dense", "a.head.out"}));  // what lies in the container
  EXPECT_TRUE(report.warnings.empty());
}

TEST(Matching, SavesByTheEndOfANameWithoutADot) {
  LoRAConfig c;
  c.target_modules = {"dense"};
  c.modules_to_save = {"head"};
  EXPECT_EQ(lora::match_modules(modules({"dense", "lm_head", "head_x"}), c).saved,
            Names{"lm_head"});
  c.target_modules = {"dense", "lm_head"};
  expect_says(refusal(modules({"dense", "lm_head"}), c),
              "LoRAConfig: modules_to_save selects \"lm_head\", which target_modules adapts");
}

TEST(Matching, SavesTheHeadOfATaskAndLeavesItOutOfAllLinear) {
  LoRAConfig c;
  c.target_modules = "All-Linear";
  c.task_type = "SEQ_CLS";
  const auto report = lora::match_modules(modules({"enc.a", "score"}), c);
  ASSERT_EQ(report.targets.size(), 1u);
  EXPECT_EQ(report.targets[0].name, "enc.a");
  EXPECT_EQ(report.saved, Names{"score"});
  EXPECT_TRUE(report.warnings.empty());  // there is no "classifier", and nobody asked for one
  c.modules_to_save = Names{"classifier", "score", "sco"};  // as PEFT writes it, and one more
  const auto read = lora::match_modules(modules({"enc.a", "score"}), c);
  ASSERT_EQ(read.warnings.size(), 1u) << "the heads of a task need not be there";
  EXPECT_NE(read.warnings[0].find("\"sco\" matches no module"), std::string::npos);
}

TEST(Matching, AllLinearTakesLinearAndConv1DButTheOutput) {
  LoRAConfig c;
  c.target_modules = "all-linear";
  EXPECT_EQ(matched({{"e", "Embedding"},
                     {"a", "Linear"},
                     {"b", "Conv1D"},
                     {"c", "Conv2d"},
                     {"n", "LayerNorm"},
                     {"out", "Linear", true}},
                    c),
            (Names{"a", "b"}));
  expect_says(refusal({{"e", "Embedding"}, {"out", "Linear", true}}, c),
              "target_modules = \"all-linear\" matches nothing: none of the 2 modules is a Linear "
              "or Conv1D");
}

TEST(Matching, TakesTheDefaultsOfTheModelType) {
  LoRAConfig c;
  EXPECT_EQ(lora::match_modules(llama(), c, "llama").targets.size(), 6u);
  expect_says(refusal(llama(), c, "vit"),
              "model type \"vit\" has no default targets; set target_modules (known types: ");
  expect_says(refusal(llama(), c), "model type \"\" has no default targets");
  expect_says(refusal(llama(), c, "gpt2"),
              "target_modules = [\"c_attn\"] matches none of the 27 modules");
}

TEST(Matching, TakesRankAndAlphaFromTheFirstKeyThatMatches) {
  struct Row {
    std::string key;
    std::string name;
    bool matches;
  };
  const Row rows[] = {
      {"foo", "foo", true},
      {"foo", "x.foo", true},
      {"foo", "x.xfoo", false},
      {"foo", "foo.x", false},
      {"bar.foo", "x.bar.foo", true},
      {"bar.foo", "x.foo", false},
      {"bar.foo", "x.barxfoo", true},  // a dot is any character
      {"^foo", "foo", true},
      {"^foo", "x.foo", false},
      {"^q_proj", "model.q_proj", false},
      {"a|foo", "x.foo", true},
      {".*\\.2\\..*", "x.2.foo", true},
      {"x.*", "x.2.foo", true},
      {"foo$", "x.foo", true},
      {"a+b", "a+b", true},  // the name itself, though not as a regular expression
      {"a-b.c", "z.a-b.c", true},
  };
  for (const Row& row : rows) {
    LoRAConfig c;
    c.target_modules = {row.name};
    c.rank_pattern = {{row.key, 3}};
    c.alpha_pattern = {{row.key, 5}};
    const auto target = lora::match_modules(modules({row.name}), c).targets.at(0);
    EXPECT_EQ(target.r, row.matches ? 3 : 8) << row.key << " on " << row.name;
    EXPECT_EQ(target.alpha, row.matches ? 5 : 8) << row.key << " on " << row.name;
    EXPECT_EQ(target.scaling, row.matches ? 5.0 / 3.0 : 1.0);
  }
  LoRAConfig c;
  c.target_modules = {"foo"};
  c.use_rslora = true;
  c.rank_pattern = {{"1.foo", 16}, {"foo", 4}, {"2.foo", 2}};
  const auto report = lora::match_modules(modules({"x.1.foo", "x.2.foo"}), c);
  EXPECT_EQ(report.targets[0].r, 16);
  EXPECT_EQ(report.targets[0].scaling, 2.0);
  EXPECT_EQ(report.targets[1].r, 4);
  ASSERT_EQ(report.warnings.size(), 1u);
  expect_says(report.warnings[0],
              "rank_pattern: \"2.foo\" is never used; earlier keys match every module");
}

// Keys that are plain names do not go through the regular expression; the answers must be its
// answers.
TEST(Matching, ShortWayEqualsTheRegularExpression) {
  std::mt19937 random(7);
  const auto pick = [&](const std::string& letters, std::size_t most) {
    std::string text;
    for (std::size_t n = 1 + random() % most; n > 0; --n)
      text += letters[random() % letters.size()];
    return text;
  };
  using KeyPattern = lora::detail::BasicKeyPattern<>;
  lora::detail::BasicPatternCompiler<> compile;
  lora::Pattern::Scratch scratch;
  std::size_t hits = 0;
  for (int i = 0; i < 20000; ++i) {
    const std::string letters = i % 3 == 0 ? "ab.\n" : "ab.";
    std::string key = pick("ab.", 4), name = pick(letters, 8);
    if (i % 5 == 0) name += "\xc3\xa9" + pick(letters, 2);  // a dot of the key takes all of it
    const lora::Pattern end("(.*\\.)?(" + key + ")$"), segments("(^|.*\\.)" + key + "($|\\..*)");
    EXPECT_EQ(KeyPattern(compile, "f", key, KeyPattern::Where::end).matches(name, scratch),
              end.match(name))
        << key << " on " << name;
    EXPECT_EQ(KeyPattern(compile, "f", key, KeyPattern::Where::segments).matches(name, scratch),
              segments.match(name))
        << key << " on " << name;
    hits += end.match(name) + segments.match(name);
  }
  EXPECT_GT(hits, 1000u);
  EXPECT_EQ(compile.work(), 0u);
}

TEST(Matching, SaysWhenFanInFanOutHasNoEffect) {
  LoRAConfig c;
  c.target_modules = {"q_proj"};
  EXPECT_EQ(warnings(llama(), c), "");
  c.fan_in_fan_out = true;
  EXPECT_EQ(
      warnings(llama(), c),
      "LoRAConfig: fan_in_fan_out = true has no effect on \"model.layers.0.self_attn.q_proj\", a "
      "Linear; the base says how its weight is stored\n");
  // One flag for layers of both kinds: PEFT leaves that of the last one, which is no fault.
  const std::vector<ModuleInfo> both{{"h.c_attn", "Conv1D"}, {"lm_head", "Linear"}};
  for (const bool flag : {false, true}) {
    c.fan_in_fan_out = flag;
    c.target_modules = {"c_attn", "lm_head"};
    EXPECT_EQ(warnings(both, c), "");
    c.target_modules = {"c_attn"};
    EXPECT_EQ(warnings(both, c),
              flag ? ""
                   : "LoRAConfig: fan_in_fan_out = false has no effect on \"h.c_attn\", a Conv1D; "
                     "the base says how its weight is stored\n");
  }
}

TEST(Matching, SaysWhatIsNearWhenNothingMatched) {
  LoRAConfig c;
  c.target_modules = {"q_prj", "proj"};
  const std::string said = refusal(llama(), c);
  expect_says(said,
              "LoRAConfig: target_modules = [\"q_prj\", \"proj\"] matches none of the 27 modules; "
              "near names of \"q_prj\": q_proj, ");
  expect_says(said, "near names of \"proj\": k_proj, o_proj, q_proj");
  c.target_modules = "q_proj";
  expect_says(refusal(llama(), c),
              "target_modules = \"q_proj\" matches none of the 27 modules; a string is a regular "
              "expression for "
              "the whole name, a list like {\"q_proj\"} has ends of names; near names: q_proj, ");
  c.target_modules = {"self_attn.q_prj"};
  expect_says(refusal(llama(), c), "near names of \"self_attn.q_prj\": self_attn.q_proj, ");
  c.target_modules = {"a", "b", "c", "d", "e"};
  expect_says(refusal(llama(), c), "[\"a\", \"b\", \"c\", \"d\", ...] matches none");
  expect_says(refusal({}, c), "matches none of the 0 modules");
}

TEST(Matching, SaysWhenAllThatMatchedIsTakenOut) {
  LoRAConfig c;
  c.target_modules = {"q_proj"};
  c.exclude_modules = {"q_proj"};
  expect_says(refusal(llama(), c),
              "exclude_modules, modules_to_save and layers_to_transform leave none of the modules");
  c.exclude_modules = {};
  c.layers_to_transform = 7;
  expect_says(refusal(llama(), c), "leave none of the modules");
}

TEST(Matching, WarnsOfEachNameThatDoesNothing) {
  LoRAConfig c;
  c.target_modules = {"q_proj", "v_prj", "v_prj", "lm_head"};
  c.exclude_modules = {"kproj"};
  c.modules_to_save = {"lm_head", "final_norm"};
  c.rank_pattern = {{"^q_proj", 2}, {"q_proj", 3}};
  c.alpha_pattern = {{"qq_proj", 2}};
  c.layers_to_transform = {1, 9};
  const auto report = lora::match_modules(llama(), c);
  ASSERT_EQ(report.targets.size(), 1u);
  const std::string said = warnings(llama(), c);
  expect_says(said,
              "LoRAConfig: target_modules: \"v_prj\" matches no module; near names: v_proj, ");
  expect_says(said,
              "target_modules: \"lm_head\" names only modules that exclude_modules, "
              "modules_to_save or layers_to_transform take out");
  expect_says(said, "exclude_modules: \"kproj\" matches no module; near names: k_proj, ");
  expect_says(said, "modules_to_save: \"final_norm\" matches no module; near names: ");
  expect_says(said, "rank_pattern: \"^q_proj\" matches no adapted module; near names: q_proj, ");
  expect_says(said, "alpha_pattern: \"qq_proj\" matches no adapted module; near names: q_proj, ");
  expect_says(said,
              "layers_to_transform: no module that target_modules names by its end is in layer 9");
  EXPECT_EQ(report.warnings.size(), 7u) << said;
  c = {};
  c.target_modules = ".*q_proj";
  c.exclude_modules = "k_proj";
  EXPECT_EQ(warnings(llama(), c),
            "LoRAConfig: exclude_modules: \"k_proj\" matches no module; near names: k_proj, "
            "o_proj, q_proj\n");
}

TEST(Matching, RefusesLayersThatCannotBeAdapted) {
  LoRAConfig c;
  c.target_modules = {"q_proj", "norm"};
  expect_says(refusal(llama(), c),
              "target_modules selects \"model.norm\", a LlamaRMSNorm, which cannot be adapted; "
              "only Linear, "
              "Conv1D, Embedding and Conv2d can");
  c.target_modules = {"embed_tokens"};
  EXPECT_EQ(matched(llama(), c), Names{"model.embed_tokens"});
  c.lora_bias = true;
  expect_says(refusal(llama(), c),
              "lora_bias = true is not supported for the Embedding \"model.embed_tokens\"");
}

TEST(Matching, NamesTheFieldOfABadPattern) {
  const auto changed = [](const std::function<void(LoRAConfig&)>& change) {
    LoRAConfig c;
    c.target_modules = {"q_proj"};
    change(c);
    return refusal(llama(), c);
  };
  expect_says(changed([](LoRAConfig& c) { c.target_modules = "(?s)q"; }),
              "LoRAConfig: target_modules: regular expression \"(?s)q\", position 0: inline flags");
  expect_says(
      changed([](LoRAConfig& c) { c.exclude_modules = "a**"; }),
      "LoRAConfig: exclude_modules: regular expression \"a**\", position 2: multiple repeat");
  expect_says(changed([](LoRAConfig& c) { c.modules_to_save = {"a)(b"}; }),
              "LoRAConfig: modules_to_save: regular expression \"a)(b\", position 1: unbalanced )");
  expect_says(changed([](LoRAConfig& c) {
                c.rank_pattern = {{"[a", 2}};
              }),
              "LoRAConfig: rank_pattern: regular expression \"[a\", position 0: [ without its ]");
  expect_says(changed([](LoRAConfig& c) {
                c.alpha_pattern = {{"a(?<=b)", 2}};
              }),
              "LoRAConfig: alpha_pattern: regular expression \"a(?<=b)\", position 1: look-behind");
  // As in Python, since PEFT puts text before the key.
  expect_says(changed([](LoRAConfig& c) {
                c.alpha_pattern = {{"(?i)q_proj", 2}};
              }),
              "flags for the whole pattern must stand at its start; write (?i:...)");
  const auto layered = [&](const char* pattern) {
    return changed([&](LoRAConfig& c) {
      c.layers_to_transform = {1};
      c.layers_pattern = pattern;
    });
  };
  expect_says(layered("(layers|h)"),
              "LoRAConfig: layers_pattern: regular expression \"(layers|h)\": PEFT would read the "
              "layer's index");
  expect_says(layered("layers|h"),
              "PEFT would read the layer's index from this group or branch; write (?:...)");
  expect_says(
      layered("(?:layers)+"),
      "layers_pattern: regular expression \"(?:layers)+\": a repeated group is not supported here");
  expect_says(
      layered("lay["),
      "LoRAConfig: layers_pattern: regular expression \"lay[\", position 3: [ without its ]");
}

TEST(Matching, RefusesAnInvalidConfigAndTwoModulesOfOneName) {
  LoRAConfig c;
  c.target_modules = {"a"};
  expect_says(refusal(modules({"a", "b", "a"}), c),
              "match_modules: two modules have the name \"a\"");
  c.r = 0;
  expect_says(refusal(modules({"a"}), c), "LoRAConfig: r = 0 is not valid");
}

TEST(Matching, SkipsTheModelItself) {
  LoRAConfig c;
  c.target_modules = ".*";
  EXPECT_EQ(matched(modules({"", "a"}), c), Names{"a"});
}

TEST(Matching, StopsWhenPatternsCostTooMuch) {
  LoRAConfig c;
  c.target_modules = {"w"};
  Names names;
  for (int i = 0; i < 40; ++i) names.push_back(std::string(400, 'a') + std::to_string(i) + ".w");
  std::string hard = "(?:a?){1000}";
  for (int i = 0; i < 50; ++i) c.rank_pattern.emplace_back(hard += "x", 4);
  expect_says(refusal(modules(names), c),
              "the names and regular expressions take more than 54000000 steps over 40 modules");
}

// What one pattern may take is small, but a file may hold any number of them.
TEST(Matching, BoundsWhatAllPatternsTakeTogether) {
  const auto filled = [](const std::function<void(LoRAConfig&, int)>& add) {
    LoRAConfig c;
    c.target_modules = {"w"};
    c.layers_to_transform = {1};
    for (int i = 0; i < 1000; ++i) add(c, i);
    return refusal(modules({"a.b.1.w"}), c);
  };
  const auto key = [](int i) { return "a{" + std::to_string(7000 - i) + "}"; };
  const std::string bound =
      "the regular expressions of the configuration take more than 5000000 steps to compile, "
      "reached at \"";
  expect_says(filled([&](LoRAConfig& c, int i) { c.rank_pattern.emplace_back(key(i), 2); }),
              "LoRAConfig: rank_pattern: " + bound);
  expect_says(filled([&](LoRAConfig& c, int i) { c.alpha_pattern.emplace_back(key(i), 2); }),
              "LoRAConfig: alpha_pattern: " + bound);
  Names names;
  for (int i = 0; i < 1000; ++i) names.push_back(key(i));
  const auto once = [&](const std::function<void(LoRAConfig&)>& change) {
    return filled([&](LoRAConfig& c, int i) {
      if (i == 0) change(c);
    });
  };
  expect_says(once([&](LoRAConfig& c) { c.modules_to_save = names; }),
              "LoRAConfig: modules_to_save: " + bound);
  expect_says(once([&](LoRAConfig& c) { c.layers_pattern = names; }),
              "LoRAConfig: layers_pattern: " + bound);
  // Together, each of them within the bound.
  expect_says(filled([&](LoRAConfig& c, int i) {
                if (i < 50) c.rank_pattern.emplace_back(key(i), 2);
                if (i < 50) c.alpha_pattern.emplace_back(key(i), 2);
              }),
              "LoRAConfig: alpha_pattern: " + bound);
  // What is thrown away again, or only looked at, counts as well.
  lora::detail::BasicPatternCompiler<> compile;
  EXPECT_EQ(compile("f", "(?:a{5000}){0}").size(), 1u);
  EXPECT_GE(compile.work(), 5000u);
  const std::size_t before = compile.work();
  compile("f", "[ab]{0}");
  EXPECT_GE(compile.work(), before + sizeof(lora::detail::CharSet<>) / 12);
}

// A thousand keys as people write them stay far below the bounds.
TEST(Matching, TakesManyOrdinaryKeys) {
  LoRAConfig c;
  c.target_modules = {"q_proj", "v_proj"};
  Names names;
  for (int i = 0; i < 500; ++i) {
    const std::string at = "model\\.layers\\." + std::to_string(i) + "\\.self_attn\\.";
    c.rank_pattern.emplace_back(at + "(q|k)_proj", 4);
    c.rank_pattern.emplace_back(at + "v_proj", 2);
    const std::string path = "model.layers." + std::to_string(i) + ".self_attn.";
    names.insert(names.end(), {path + "q_proj", path + "v_proj"});
  }
  lora::detail::BasicPatternCompiler<> compile;
  for (const auto& [key, r] : c.rank_pattern) {
    lora::detail::BasicKeyPattern<>(compile, "f", key, lora::detail::BasicKeyPattern<>::Where::end);
  }
  EXPECT_LT(compile.work(), compile.most / 10);
  const auto report = lora::match_modules(modules({names.begin(), names.begin() + 100}), c);
  ASSERT_EQ(report.targets.size(), 100u);
  EXPECT_EQ(report.targets[98].r, 4);
  EXPECT_EQ(report.targets[99].r, 2);
}

// Names that are no regular expressions count too: each looks along a path of 100 002 characters.
TEST(Matching, StopsWhenPlainNamesCostTooMuch) {
  LoRAConfig c;
  c.target_modules = {"w"};
  Names names;
  for (int i = 0; i < 600; ++i) names.push_back("n" + std::to_string(i));
  c.modules_to_save = names;
  expect_says(refusal(modules({std::string(100000, 'a') + ".w"}), c),
              "the names and regular expressions take more than 50100000 steps over 1 modules; use "
              "simpler");
}

// The first name keeps the adapter away at once; which ones are saved is asked for all of them.
TEST(Matching, StopsWhenFindingSavedModulesCostsTooMuch) {
  LoRAConfig c;
  c.target_modules = {"w"};
  Names names{"x"};
  for (int i = 0; i < 30000; ++i) names.push_back("n" + std::to_string(i));
  c.modules_to_save = names;
  std::string deep = "x";
  for (int i = 0; i < 2000; ++i) deep += ".x";
  expect_says(refusal(modules({"w", deep}), c),
              "the names and regular expressions take more than 50200000 steps over 2 modules");
}

TEST(Matching, ShowsNoControlCharactersOfAStranger) {
  LoRAConfig c;
  c.target_modules = {"q\x1b[31m"};
  expect_says(refusal(llama(), c), "target_modules = [\"q\\x1b[31m\"] matches none");
  c.target_modules = "q\n[";
  expect_says(refusal(llama(), c), "regular expression \"q\\x0a[\", position 2: [ without its ]");
  EXPECT_EQ(refusal(llama(), LoRAConfig(), "a\tb").find('\t'), std::string::npos);
}

// 10 000 modules: patterns are compiled once, so that the work stays below the bound on steps.
TEST(Matching, TakesLargeModels) {
  Names names;
  LoRAConfig c;
  for (int i = 0; i < 10000; ++i) {
    names.push_back("model.layers." + std::to_string(i / 7) + ".block." + std::to_string(i % 7) +
                    "_proj");
  }
  const auto all = modules(names);
  c.target_modules = ".*\\.layers\\.\\d+\\.block\\.(0|1|2|3|4|5|6)_proj";
  EXPECT_EQ(lora::match_modules(all, c).targets.size(), names.size());
  c.target_modules = names;
  EXPECT_EQ(lora::match_modules(all, c).targets.size(), names.size());
  c.target_modules = "all-linear";
  for (int i = 0; i < 100; ++i) c.rank_pattern.emplace_back(names[std::size_t(i)], 4);
  EXPECT_EQ(lora::match_modules(all, c).targets.size(), names.size());
}

}  // namespace matching_test
