// The tensors of a DoRA adapter. Pairs of A and B and their faults are in peft_adapter_test, as
// files.
#include <lora/io/peft/peft_tensors.hpp>

#include <gtest/gtest.h>

#include "support/messages.hpp"

namespace peft_tensors_test {
using namespace lora;

using Shape = std::vector<Index>;
using Tensors = std::vector<std::pair<std::string, Shape>>;
const std::string p = "base_model.model.";

const Tensors dora = {
    {p + "q.lora_A.weight", {2, 6}},          {p + "q.lora_B.weight", {5, 2}},
    {p + "q.lora_magnitude_vector", {5}},     {p + "conv.lora_A.weight", {2, 2, 3, 2}},
    {p + "conv.lora_B.weight", {6, 2, 1, 1}}, {p + "conv.lora_magnitude_vector", {1, 6, 1, 1}},
    {p + "embed.lora_embedding_A", {2, 11}},  {p + "embed.lora_embedding_B", {7, 2}},
    {p + "embed.lora_magnitude_vector", {7}}};

lora::detail::PeftTensors check(const Tensors& tensors, bool use_dora) {
  LoRAConfig config;
  config.r = 2;
  config.use_dora = use_dora;
  std::vector<std::string> names;
  for (const auto& [name, shape] : tensors) names.push_back(name);
  return lora::detail::check_peft_tensors("file", "config", config, names,
                                          [&](const std::string& name) {
                                            for (const auto& [one, shape] : tensors) {
                                              if (one == name) return TensorInfo{DType::F32, shape};
                                            }
                                            throw Error("no " + name);
                                          });
}

TEST(PeftTensors, DoRAHasAMagnitudeForEveryPair) {
  const auto found = check(dora, true);
  EXPECT_TRUE(found.others.empty());
  ASSERT_EQ(found.modules.size(), 3u);
  for (const PeftModule& module : found.modules)
    EXPECT_EQ(module.m_key, p + module.name + ".lora_magnitude_vector");
  EXPECT_FALSE(found.modules[0].embedding || found.modules[1].embedding);
  EXPECT_TRUE(found.modules[2].embedding);
  // In the order of a sorted file the magnitude of an embedding comes after its factors, elsewhere
  // too.
  EXPECT_EQ(check(Tensors(dora.rbegin(), dora.rend()), true).modules.size(), 3u);
}

TEST(PeftTensors, TheKeysOfAStateDictSayWeight) {
  EXPECT_EQ(named_peft_key(p + "q.lora_magnitude_vector.mine.weight")->key,
            p + "q.lora_magnitude_vector");
  EXPECT_EQ(named_peft_key(p + "q.lora_magnitude_vector.mine.weight")->adapter, "mine");
  EXPECT_FALSE(named_peft_key(p + "q.lora_magnitude_vector"));
}

TEST(PeftTensors, FaultsOfMagnitudesAreNamed) {
  const auto refused = [](const Tensors& tensors, bool use_dora, const std::string& what) {
    const std::string said = lora_test::message_of<FormatError>([&] { check(tensors, use_dora); });
    EXPECT_NE(said.find("\n  " + p + what), std::string::npos) << said;
  };
  refused(dora, false,
          "q.lora_magnitude_vector: belongs to a DoRA adapter, but use_dora is not true");
  refused({dora[0], dora[1]}, true,
          "q.lora_B.weight: has no lora_magnitude_vector beside it, which use_dora = true needs");
  Tensors wrong = dora;
  wrong[2].second = wrong[5].second = {6};
  refused(wrong, true, "q.lora_magnitude_vector: shape is [6], expected [5]");
  refused(wrong, true, "conv.lora_magnitude_vector: shape is [6], expected [1, 6, 1, 1]");
  refused({dora.begin() + 2, dora.end()}, true,
          "q.lora_magnitude_vector: has no lora_A and lora_B beside it");
  refused({dora[0], dora[2], dora[2], dora[1]}, true,
          "q.lora_magnitude_vector: means the same tensor as");
}

}  // namespace peft_tensors_test
