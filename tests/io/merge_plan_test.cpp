#include <lora/io/merge_plan.hpp>

#include <gtest/gtest.h>

#include "io/peft_folder.hpp"
#include "support/messages.hpp"

namespace {
using namespace lora;
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
  ASSERT_EQ(plan.size(), 1u);
  const MergedTensor& merged = plan.at("model.a.q_proj.weight");
  EXPECT_EQ(merged.a_key, "base_model.model.model.a.q_proj.lora_A.weight");
  EXPECT_EQ(merged.b_key, "base_model.model.model.a.q_proj.lora_B.weight");
  EXPECT_EQ(merged.scale, 2);
  EXPECT_EQ(merged.layout, Layout::out_in);
  EXPECT_EQ(merged.saved_key, "");
}

TEST(MergePlan, TurnsConv1DAndEmbeddings) {
  PeftFolder adapter(R"({"fan_in_fan_out": true})");
  adapter.pair("h.c_attn", 2, 3, 5).embedding("h.words", 2, 7, 4);
  const Base base({{"h.c_attn.weight", {3, 5}}, {"h.words.weight", {7, 4}}});
  for (const auto& [name, merged] : base.plan(adapter))
    EXPECT_EQ(merged.layout, Layout::in_out) << name;
  EXPECT_HAS(Base({{"h.c_attn.weight", {5, 3}}, {"h.words.weight", {7, 4}}}).refusal(adapter),
             "h.c_attn.weight: shape in the base is [5, 3], expected [3, 5] for lora_A [2, 3], "
             "lora_B [5, 2] and fan_in_fan_out");
}

TEST(MergePlan, FindsABaseWithoutItsHead) {
  PeftFolder adapter;
  adapter.pair("transformer.h.0.q_proj", 2, 3, 5);
  EXPECT_EQ(Base({{"h.0.q_proj.weight", {5, 3}}}).plan(adapter).count("h.0.q_proj.weight"), 1u);
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
             "m.v_proj.lora_A.weight: the base has no tensor \"m.v_proj.weight\"; near it: "
             "m.");
  EXPECT_HAS(text, "m.norm.weight: the base has no tensor");
  EXPECT_HAS(text, "m.q_proj.lora_B.bias: the base has no tensor \"m.q_proj.bias\"");
  EXPECT_HAS(text, "m.k_proj.weight: shape in the base is [5, 3], expected [5, 4]");
  EXPECT_EQ(text.find("m.q_proj.lora_A"), text.npos) << text;
}

TEST(MergePlan, PutsSavedTensorsInTheirPlace) {
  PeftFolder adapter;
  adapter.pair("m.q_proj", 2, 3, 5);
  adapter.add("m.q_proj.base_layer.bias", numbered(1, 5)).add("m.score.weight", numbered(4, 3));
  SafetensorsWriter base;
  base.add("m.q_proj.weight", numbered(5, 3), DType::F32);
  base.add("m.q_proj.bias", numbered(1, 5), DType::F32);
  base.add("m.score.weight", numbered(4, 3), DType::F32);
  const TemporaryFolder folder;
  base.write(folder.path / checkpoint_file);
  const MergePlan plan = plan_merge(CheckpointFiles::open(folder.path), adapter.open());
  EXPECT_EQ(plan.at("m.q_proj.bias").saved_key, "base_model.model.m.q_proj.base_layer.bias");
  EXPECT_EQ(plan.at("m.q_proj.bias").b_key, "");
  EXPECT_EQ(plan.at("m.score.weight").saved_key, "base_model.model.m.score.weight");
  adapter.add("m.q_proj.bias", numbered(1, 5));
  try {
    plan_merge(CheckpointFiles::open(folder.path), adapter.open());
    FAIL();
  } catch (const FormatError& error) {
    EXPECT_HAS(std::string(error.what()), "stands for the same as ");
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
  EXPECT_HAS(base.refusal(adapter), "there is no lora_A and lora_B beside it");
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
    EXPECT_HAS(std::string(error.what()), "an adapter of a convolution with groups");
  }
}

TEST(MergePlan, RefusesToChangeHalfOfATiedPair) {
  PeftFolder adapter;
  adapter.embedding("m.embed_tokens", 2, 7, 4);
  const std::vector<std::pair<std::string, std::vector<Index>>> alone{
      {"m.embed_tokens.weight", {7, 4}}};
  auto both = alone;
  both.push_back({"lm_head.weight", {7, 4}});
  const char* reason = "embedding and head of the base are one tensor";
  EXPECT_HAS(Base(alone).refusal(adapter), reason);
  EXPECT_HAS(Base(both, R"({"tie_word_embeddings": true})").refusal(adapter), reason);
  EXPECT_EQ(Base(both).plan(adapter).size(), 1u);
  EXPECT_EQ(Base(alone, R"({"tie_word_embeddings": false})").plan(adapter).size(), 1u);
  PeftFolder head;
  head.pair("lm_head", 2, 4, 7);
  EXPECT_HAS(Base(both, R"({"tie_word_embeddings": true})").refusal(head), reason);
}

}  // namespace
