#include <lora/io/hf/merge_plan.hpp>

#include <gtest/gtest.h>

#include <memory>

#include "io/peft_folder.hpp"
#include "support/messages.hpp"

namespace merge_plan_test {
using namespace lora;
using lora_test::message_of;
using lora_test::numbered;
using lora_test::PeftFolder;
using lora_test::TemporaryFolder;

// A base of these shapes in F32, with this config.json.
struct Base {
  TemporaryFolder folder;
  explicit Base(const std::vector<std::pair<std::string, std::vector<Index>>>& tensors,
                const std::string& config = "") {
    SafetensorsWriter writer;
    for (const auto& [name, shape] : tensors) {
      Index size = 1;
      for (const Index n : shape) size *= n;
      writer.add(name, numbered(1, size), DType::F32, shape);
    }
    writer.write(folder.path / checkpoint_file);
    if (!config.empty()) atomic_write(folder.path / "config.json", config);
  }
  MergePlan plan(const PeftFolder& adapter) const {
    return plan_merge(CheckpointFiles::open(folder.path), adapter.open());
  }
  std::string refusal(const PeftFolder& adapter) const {
    try {
      plan(adapter);
      return "nothing was thrown";
    } catch (const FormatError& error) {
      return error.what();
    }
  }
};

TEST(MergePlan, FindsWeightAndScale) {
  PeftFolder adapter;
  adapter.pair("model.a.q_proj", 2, 3, 5);
  const MergePlan plan = Base({{"model.a.q_proj.weight", {5, 3}}, {"model.b", {2}}}).plan(adapter);
  ASSERT_EQ(plan.tensors.size(), 1u);
  const MergedTensor& merged = plan.tensors.at("model.a.q_proj.weight");
  EXPECT_EQ(merged.a_key, "base_model.model.model.a.q_proj.lora_A.weight");
  EXPECT_EQ(merged.b_key, "base_model.model.model.a.q_proj.lora_B.weight");
  EXPECT_EQ(merged.scale, 2);
  EXPECT_EQ(merged.layout, Layout::out_in);
  EXPECT_EQ(merged.saved_key, "");
}

const char* const gpt2 = R"({"model_type": "gpt2"})";
const char* const llama = R"({"model_type": "llama"})";
const char* const llama_tied = R"({"model_type": "llama", "tie_word_embeddings": true})";
using Warnings = std::vector<std::string>;

TEST(MergePlan, TheBaseSaysWhichWayAWeightLies) {
  const Base conv1d({{"transformer.h.0.attn.c_proj.weight", {4, 4}},
                     {"transformer.h.0.attn.c_attn.weight", {4, 12}},
                     {"transformer.wte.weight", {7, 4}},
                     {"lm_head.weight", {7, 4}}},
                    R"({"model_type": "gpt2", "tie_word_embeddings": false})");
  const Base linear({{"model.layers.0.self_attn.o_proj.weight", {4, 4}}}, llama);
  for (const char* flag : {"true", "false"}) {
    SCOPED_TRACE(flag);
    const std::string fields = std::string(R"({"fan_in_fan_out": )") + flag + "}";
    PeftFolder adapter(fields), other(fields);
    adapter.pair("transformer.h.0.attn.c_proj", 2, 4, 4);
    adapter.pair("transformer.h.0.attn.c_attn", 2, 4, 12).embedding("transformer.wte", 2, 7, 4);
    const bool wrong = flag == std::string("false");
    const MergePlan plan = conv1d.plan(adapter);
    for (const auto& [name, merged] : plan.tensors)
      EXPECT_EQ(merged.layout, Layout::in_out) << name;
    EXPECT_EQ(plan.warnings,
              wrong ? Warnings{"fan_in_fan_out = false has no effect on "
                               "\"transformer.h.0.attn.c_attn\", a Conv1D; the base says how its "
                               "weight is stored"}
                    : Warnings{});
    // PEFT leaves the flag of the last layer, here a Linear's.
    adapter.pair("lm_head", 2, 4, 7);
    const MergePlan mixed = conv1d.plan(adapter);
    EXPECT_EQ(mixed.tensors.at("lm_head.weight").layout, Layout::out_in);
    EXPECT_EQ(mixed.tensors.at("transformer.h.0.attn.c_proj.weight").layout, Layout::in_out);
    EXPECT_EQ(mixed.warnings, Warnings{});
    other.pair("model.layers.0.self_attn.o_proj", 2, 4, 4);
    const MergePlan straight = linear.plan(other);
    EXPECT_EQ(straight.tensors.begin()->second.layout, Layout::out_in);
    EXPECT_EQ(straight.warnings,
              wrong ? Warnings{}
                    : Warnings{"fan_in_fan_out = true has no effect on "
                               "\"model.layers.0.self_attn.o_proj\", a Linear; the base says how "
                               "its weight is stored"});
  }
}

TEST(MergePlan, ShapesOfABaseThatFitTheOtherWayAreRefusedWhereTheModelIsKnown) {
  PeftFolder adapter(R"({"fan_in_fan_out": true})");
  adapter.pair("transformer.h.0.attn.c_attn", 2, 3, 5);
  EXPECT_HAS(Base({{"transformer.h.0.attn.c_attn.weight", {5, 3}}}, gpt2).refusal(adapter),
             "c_attn.weight: shape in the base is [5, 3], expected [3, 5] for lora_A [2, 3], "
             "lora_B [5, 2] of a Conv1D");
  PeftFolder other(R"({"fan_in_fan_out": true})");
  other.pair("m.q_proj", 2, 3, 5);
  EXPECT_HAS(Base({{"m.q_proj.weight", {3, 5}}}, llama).refusal(other),
             "m.q_proj.weight: shape in the base is [3, 5], expected [5, 3]");
}

TEST(MergePlan, OfAnUnknownModelShapesDecide) {
  for (const char* flag : {"true", "false"}) {
    PeftFolder adapter(std::string(R"({"fan_in_fan_out": )") + flag + "}");
    adapter.pair("m.w", 2, 3, 5);
    const auto layout = [&](std::vector<Index> shape) {
      return Base({{"m.w.weight", std::move(shape)}}).plan(adapter).tensors.at("m.w.weight").layout;
    };
    EXPECT_EQ(layout({5, 3}), Layout::out_in);
    EXPECT_EQ(layout({3, 5}), Layout::in_out);
    PeftFolder square(std::string(R"({"fan_in_fan_out": )") + flag + "}");
    square.pair("h.0.c_proj", 2, 3, 3);
    const Base beside({{"h.0.c_proj.weight", {3, 3}},
                       {"h.0.c_proj.bias", {3}},
                       {"h.0.c_attn.weight", {3, 9}},
                       {"h.0.c_attn.bias", {9}}});
    EXPECT_EQ(beside.plan(square).tensors.at("h.0.c_proj.weight").layout, Layout::in_out);
    const Base alone({{"h.0.c_proj.weight", {3, 3}}});
    if (flag == std::string("true")) {
      EXPECT_HAS(alone.refusal(square), "the weight is square and fan_in_fan_out is true");
    } else {
      EXPECT_EQ(alone.plan(square).tensors.begin()->second.layout, Layout::out_in);
    }
  }
}

TEST(MergePlan, FindsABaseWithoutItsHead) {
  PeftFolder adapter;
  adapter.pair("transformer.h.0.q_proj", 2, 3, 5);
  EXPECT_EQ(Base({{"h.0.q_proj.weight", {5, 3}}}).plan(adapter).tensors.count("h.0.q_proj.weight"),
            1u);
  const Base other({{"h.0.q_proj.weight", {5, 3}}, {"transformer.x", {1}}});
  EXPECT_HAS(other.refusal(adapter), "the base has no tensor \"transformer.h.0.q_proj.weight\"");
}

TEST(MergePlan, NamesEveryKeyThatHasNoPlace) {
  PeftFolder adapter;
  adapter.pair("m.q_proj", 2, 3, 5).pair("m.v_proj", 2, 3, 5).pair("m.k_proj", 2, 4, 5);
  adapter.add("m.norm.weight", numbered(1, 3)).add("m.q_proj.lora_B.bias", numbered(1, 5));
  const std::string text =
      Base({{"m.q_proj.weight", {5, 3}}, {"m.k_proj.weight", {5, 3}}}).refusal(adapter);
  EXPECT_HAS(text, "does not fit the base");
  EXPECT_HAS(text,
             "m.v_proj.lora_A.weight: the base has no tensor \"m.v_proj.weight\"; similar: "
             "m.");
  EXPECT_HAS(text, "m.norm.weight: the base has no tensor");
  EXPECT_HAS(text, "m.q_proj.lora_B.bias: the base has no tensor \"m.q_proj.bias\"");
  EXPECT_HAS(text, "m.k_proj.weight: shape in the base is [5, 3], expected [5, 4]");
  EXPECT_EQ(text.find("m.q_proj.lora_A"), text.npos) << text;
}

TEST(MergePlan, PutsSavedTensorsInTheirPlace) {
  PeftFolder adapter(R"({"modules_to_save": ["score"]})");
  adapter.pair("m.q_proj", 2, 3, 5);
  adapter.add("m.q_proj.base_layer.bias", numbered(1, 5)).add("m.score.weight", numbered(4, 3));
  SafetensorsWriter base;
  base.add("m.q_proj.weight", numbered(5, 3), DType::F32);
  base.add("m.q_proj.bias", numbered(1, 5), DType::F32);
  base.add("m.score.weight", numbered(4, 3, 5), DType::F32);
  const TemporaryFolder folder;
  base.write(folder.path / checkpoint_file);
  const MergePlan plan = plan_merge(CheckpointFiles::open(folder.path), adapter.open());
  EXPECT_EQ(plan.tensors.at("m.q_proj.bias").saved_key,
            "base_model.model.m.q_proj.base_layer.bias");
  EXPECT_EQ(plan.tensors.at("m.q_proj.bias").b_key, "");
  EXPECT_EQ(plan.tensors.at("m.score.weight").saved_key, "base_model.model.m.score.weight");
  EXPECT_EQ(plan.warnings, Warnings{});
  adapter.add("m.q_proj.bias", numbered(1, 5));
  try {
    plan_merge(CheckpointFiles::open(folder.path), adapter.open());
    FAIL();
  } catch (const FormatError& error) {
    EXPECT_HAS(std::string(error.what()), "replaces the same tensor as ");
  }
}

TEST(MergePlan, RefusesSavedTensorsOfAnotherShape) {
  PeftFolder adapter;
  adapter.pair("m.q_proj", 2, 3, 5).add("m.score.weight", numbered(4, 3));
  const Base base({{"m.q_proj.weight", {5, 3}}, {"m.score.weight", {3, 4}}});
  EXPECT_HAS(base.refusal(adapter),
             "m.score.weight: shape is [4, 3], expected [3, 4] as of the base");
}

TEST(MergePlan, RefusesABaseThatIsNoNumbers) {
  PeftFolder adapter;
  adapter.pair("m.q_proj", 2, 2, 2);
  SafetensorsWriter base;
  const std::array<std::byte, 4> bytes{};
  base.add("m.q_proj.weight", DType::I8, {2, 2}, bytes);
  const TemporaryFolder folder;
  base.write(folder.path / checkpoint_file);
  try {
    plan_merge(CheckpointFiles::open(folder.path), adapter.open());
    FAIL();
  } catch (const FormatError& error) {
    EXPECT_HAS(std::string(error.what()), "m.q_proj.weight: dtype is I8, expected F32");
  }
}

TEST(MergePlan, ABiasOfBNeedsItsPair) {
  PeftFolder adapter(R"({"lora_bias": true})");
  adapter.pair("m.q_proj", 2, 3, 5).add("m.v_proj.lora_B.bias", numbered(1, 5));
  const Base base({{"m.q_proj.weight", {5, 3}}, {"m.v_proj.bias", {1, 5}}});
  EXPECT_HAS(base.refusal(adapter), "the module has no lora_A and lora_B");
}

TEST(MergePlan, RefusesConvolutionsWithGroups) {
  const TemporaryFolder folder;
  SafetensorsWriter tensors;
  const auto add = [&](const std::string& key, std::vector<Index> shape, Index size) {
    tensors.add("base_model.model.m.conv." + key, numbered(1, size), DType::F32, std::move(shape));
  };
  add("lora_A.weight", {4, 6, 3, 3}, 216);
  add("lora_B.weight", {8, 2, 1, 1}, 16);
  tensors.write(folder.path / "adapter_model.safetensors");
  atomic_write(folder.path / "adapter_config.json",
               R"({"peft_type":"LORA","r":4,"target_modules":["conv"]})");
  const Base base({{"m.conv.weight", {8, 3, 3, 3}}});
  try {
    plan_merge(CheckpointFiles::open(base.folder.path), PeftAdapter::open(folder.path));
    FAIL();
  } catch (const FormatError& error) {
    EXPECT_HAS(std::string(error.what()), "the adapter of a grouped convolution");
  }
}

using Shapes = std::vector<std::pair<std::string, std::vector<Index>>>;

TEST(MergePlan, RefusesToChangeHalfOfATiedPairOfAnUnknownModel) {
  PeftFolder adapter;
  adapter.embedding("m.embed_tokens", 2, 7, 4);
  const Shapes alone{{"m.embed_tokens.weight", {7, 4}}};
  Shapes both = alone;
  both.push_back({"lm_head.weight", {7, 4}});
  const char* reason = "embedding and head of the base are one tensor";
  const char* tied = R"({"tie_word_embeddings": true})";
  EXPECT_HAS(Base(alone).refusal(adapter), reason);
  EXPECT_HAS(Base(both, tied).refusal(adapter), reason);
  EXPECT_EQ(Base(both).plan(adapter).tensors.size(), 1u);
  EXPECT_EQ(Base(alone, R"({"tie_word_embeddings": false})").plan(adapter).tensors.size(), 1u);
  PeftFolder head;
  head.pair("lm_head", 2, 4, 7);
  for (const Shapes& shapes : {alone, both}) EXPECT_HAS(Base(shapes, tied).refusal(head), reason);
}

TEST(MergePlan, OfAnUnknownTiedModelWhatMayBeThePairIsRefused) {
  const char* reason = "embedding and head of the base are one tensor";
  const auto refusal = [](const char* config, const std::string& module, const auto& change) {
    PeftFolder adapter(R"({"modules_to_save": ["saved"]})");
    change(adapter);
    adapter.pair("m.q", 2, 4, 4);
    return Base({{module + ".weight", {7, 4}}, {"m.q.weight", {4, 4}}}, config).refusal(adapter);
  };
  const char* tied = R"({"model_type": "bloom", "tie_word_embeddings": true, "vocab_size": 7})";
  const char* silent = R"({"model_type": "bloom"})";
  for (const std::string name : {"transformer.word_embeddings", "gpt_neox.embed_in", "m.any"}) {
    for (const char* config : {tied, silent}) {
      EXPECT_HAS(refusal(config, name, [&](PeftFolder& a) { a.embedding(name, 2, 7, 4); }), reason);
    }
  }
  EXPECT_HAS(refusal(tied, "saved", [](PeftFolder& a) { a.add("saved.weight", numbered(7, 4)); }),
             reason);
  EXPECT_HAS(refusal(tied, "output", [](PeftFolder& a) { a.pair("output", 2, 4, 7); }), reason);
  // Positions and other layers are changed as ever.
  const Base base({{"m.wpe.weight", {9, 4}}, {"m.q.weight", {4, 4}}}, tied);
  PeftFolder others;
  EXPECT_EQ(base.plan(others.embedding("m.wpe", 2, 9, 4).pair("m.q", 2, 4, 4)).tensors.size(), 2u);
}

TEST(MergePlan, OfAnUnknownTiedModelACopyTakesThePlaceOfBoth) {
  const char* tied = R"({"model_type": "bloom", "tie_word_embeddings": true, "vocab_size": 7})";
  const auto adapter = [](float first) {
    auto folder = std::make_unique<PeftFolder>();
    folder->pair("m.q", 2, 4, 4).add("m.word_embeddings.weight", numbered(7, 4, first));
    return folder;
  };
  Shapes shapes{{"m.q.weight", {4, 4}}, {"m.word_embeddings.weight", {7, 4}}};
  const Base one(shapes, tied);
  EXPECT_EQ(one.plan(*adapter(1)).tensors.size(), 1u);
  EXPECT_EQ(one.plan(*adapter(2)).tensors.size(), 2u);
  // Beside a head that is stored too it would be one of two.
  shapes.push_back({"lm_head.weight", {7, 4}});
  const Base both(shapes, tied);
  EXPECT_EQ(both.plan(*adapter(1)).tensors.size(), 1u);
  EXPECT_HAS(both.refusal(*adapter(2)), "embedding and head of the base are one tensor");
}

TEST(MergePlan, RefusesAHeadThatIsNotTheTiedEmbedding) {
  PeftFolder on_table, on_head, saved(R"({"modules_to_save": ["lm_head"]})"), copy, linear;
  on_table.embedding("model.embed_tokens", 2, 7, 4);
  on_head.pair("lm_head", 2, 4, 7);
  saved.pair("model.q", 2, 4, 4).add("lm_head.weight", numbered(7, 4, 3));
  copy.pair("model.q", 2, 4, 4).add("lm_head.weight", numbered(7, 4, 3));
  linear.pair("model.q", 2, 4, 4);
  for (const auto& [config, differs] : {std::pair(llama_tied, true), std::pair(llama, false)}) {
    const TemporaryFolder folder;
    SafetensorsWriter writer;
    writer.add("model.embed_tokens.weight", numbered(7, 4), DType::F32);
    writer.add("lm_head.weight", numbered(7, 4, 2), DType::F32);
    writer.add("model.q.weight", numbered(4, 4), DType::F32);
    writer.write(folder.path / checkpoint_file);
    atomic_write(folder.path / "config.json", config);
    const auto base = CheckpointFiles::open(folder.path);
    for (const PeftFolder* adapter : {&on_table, &on_head, &saved, &copy}) {
      const auto plan = [&] { plan_merge(base, adapter->open()); };
      if (differs) {
        EXPECT_HAS(message_of<FormatError>(plan),
                   "lm_head.weight of the base is not model.embed_tokens.weight, though the "
                   "configuration says that they are one (tie_word_embeddings)");
      } else {
        EXPECT_NO_THROW(plan());
      }
    }
    EXPECT_EQ(plan_merge(base, linear.open()).tensors.size(), 1u) << "touches neither";
  }
}

TEST(MergePlan, TheEmbeddingOfABaseThatLacksItsHeadIsRefused) {
  const Shapes shapes{{"model.embed_tokens.weight", {7, 4}}, {"model.q.weight", {4, 4}}};
  PeftFolder on_table, linear;
  on_table.embedding("model.embed_tokens", 2, 7, 4);
  linear.pair("model.q", 2, 4, 4);
  EXPECT_HAS(Base(shapes, llama).refusal(on_table),
             "the base has no lm_head.weight (is it the embedding? then the configuration lacks "
             "tie_word_embeddings)");
  EXPECT_EQ(Base(shapes, llama).plan(linear).tensors.size(), 1u);
}

TEST(MergePlan, PartsATiedPairOfAKnownModel) {
  const Base base({{"model.embed_tokens.weight", {7, 4}}, {"model.norm.weight", {4}}}, llama_tied);
  const std::string warning =
      "embedding and head of the base are one tensor, and the adapter changes one of them: the "
      "merged model has two, and its config.json says tie_word_embeddings = false";
  const std::string table = "model.embed_tokens.weight", head = "lm_head.weight";
  PeftFolder on_head, on_table, saved_head(R"({"modules_to_save": ["lm_head"]})");
  on_head.pair("lm_head", 2, 4, 7);
  on_table.embedding("model.embed_tokens", 2, 7, 4);
  saved_head.pair("x", 2, 1, 1).add("lm_head.weight", numbered(7, 4, 3));
  for (const PeftFolder* adapter : {&on_head, &on_table}) {
    const MergePlan plan = base.plan(*adapter);
    EXPECT_TRUE(plan.untied);
    EXPECT_EQ(plan.warnings, Warnings{warning});
    EXPECT_EQ(plan.tensors.at(head).base_key, table);
    EXPECT_EQ(plan.tensors.count(table), adapter == &on_table ? 1u : 0u);
    EXPECT_EQ(plan.tensors.at(head).b_key.empty(), adapter == &on_table);
  }
  EXPECT_HAS(base.refusal(saved_head), "no tensor \"x.weight\"");
  EXPECT_EQ(base.refusal(saved_head).find("lm_head"), std::string::npos) << "it is no problem";
  // GPT-2 is tied when its config.json does not say so, whatever lies beside the embedding.
  const Base gpt({{"transformer.wte.weight", {7, 4}}, {"lm_head.weight", {7, 4}}}, gpt2);
  EXPECT_TRUE(gpt.plan(on_head).untied);
  EXPECT_EQ(gpt.plan(on_head).tensors.at(head).base_key, "transformer.wte.weight");
}

TEST(MergePlan, CopiesOfTheBaseAreNothingWhenEqualAndElseTakeItsPlace) {
  // numbered(1, 28) is what the base has; a copy in halves is the same once rounded.
  const Shapes shapes{{"model.embed_tokens.weight", {7, 4}}, {"model.q.weight", {4, 4}}};
  const std::string table = "model.embed_tokens.weight", head = "lm_head.weight";
  const std::string key = "base_model.model.model.embed_tokens.base_layer.weight";
  const auto adapter = [](const char* copy, float first) {
    auto folder = std::make_unique<PeftFolder>();
    folder->embedding("model.embed_tokens", 2, 7, 4);
    folder->add(copy, numbered(7, 4, first), DType::BF16);
    return folder;
  };
  Shapes with_head = shapes;
  with_head.push_back({"lm_head.weight", {7, 4}});
  const Base untied(with_head, R"({"model_type": "llama", "tie_word_embeddings": false})");
  const auto same = adapter("model.embed_tokens.base_layer.weight", 1),
             other = adapter("model.embed_tokens.base_layer.weight", 2);
  EXPECT_EQ(untied.plan(*same).tensors.at(table).saved_key, "");
  EXPECT_EQ(untied.plan(*same).warnings, Warnings{});
  EXPECT_EQ(untied.plan(*other).tensors.at(table).saved_key, key);
  EXPECT_EQ(untied.plan(*other).warnings,
            Warnings{key + " is not the base's weight of \"model.embed_tokens\": the adapter's "
                           "copy replaces it, as in PEFT"});
  // Under the name that PEFT ignores, equal or not.
  EXPECT_NO_THROW(untied.plan(*adapter("model.embed_tokens.weight", 1)));
  EXPECT_HAS(untied.refusal(*adapter("model.embed_tokens.weight", 2)),
             "under a name that PEFT ignores: the module is adapted, expected "
             "\".base_layer.weight\"");
  // One matrix: it is both, and stays one unless a half of it is changed.
  const Base tied(shapes, llama_tied);
  const MergePlan parted = tied.plan(*other);
  EXPECT_TRUE(parted.untied);
  EXPECT_EQ(parted.tensors.at(table).saved_key, key);
  EXPECT_EQ(parted.tensors.at(head).saved_key, key);
  PeftFolder beside;
  beside.pair("model.q", 2, 4, 4).add("lm_head.weight", numbered(7, 4, 2));
  const MergePlan together = tied.plan(beside);
  EXPECT_FALSE(together.untied);
  EXPECT_EQ(together.tensors.at(table).saved_key, "base_model.model.lm_head.weight");
  EXPECT_EQ(together.tensors.count(head), 0u);
  beside.add("model.embed_tokens.weight", numbered(7, 4, 2));
  EXPECT_NO_THROW(tied.plan(beside));
  PeftFolder two;
  two.pair("model.q", 2, 4, 4).add("lm_head.weight", numbered(7, 4, 2));
  two.add("model.embed_tokens.weight", numbered(7, 4, 3));
  EXPECT_HAS(tied.refusal(two), "replaces the same tensor as base_model.model.lm_head.weight");
}

}  // namespace merge_plan_test
