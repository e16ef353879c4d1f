#include <lora/train/activation_memory.hpp>

#include <lora/adapters/lora_model.hpp>

#include <gtest/gtest.h>

#include "support/allocations.hpp"
#include "support/threads.hpp"

namespace activation_memory_test {
using namespace lora;

LlamaConfig llama(const char* type) {
  LlamaConfig c;
  c.model_type = type;
  c.vocab_size = 300;
  c.hidden_size = 64;
  c.intermediate_size = 176;
  c.num_hidden_layers = 6;
  c.num_attention_heads = 4;
  c.num_key_value_heads = 2;
  c.head_dim = 16;
  c.max_position_embeddings = 1024;
  c.qk_norm = c.model_type == "qwen3";
  return c;
}

TEST(ActivationMemory, IsWhatAStepAllocates) {
  LORA_NEEDS_ALLOCATION_COUNTS();
  const lora_test::Threads one(1);
  const Index T = 600;
  std::vector<std::int64_t> ids;
  for (Index t = 0; t < T; ++t) ids.push_back(t * 7 % 300);
  for (const CausalLMConfig& config :
       {CausalLMConfig(llama("llama")), CausalLMConfig(llama("qwen3")),
        CausalLMConfig(GPT2Config{300, 1024, 64, 6, 4, 256})}) {
    for (const auto& [keep, dora] : {std::pair{Keep::everything, false},
                                     {Keep::inputs, false},
                                     {Keep::nothing, false},
                                     {Keep::everything, true},
                                     {Keep::inputs, true},
                                     {Keep::nothing, true}}) {
      LoRAConfig lora;
      lora.r = 8;
      lora.use_dora = dora;
      lora.target_modules = std::string("all-linear");
      LoRAModel<CausalLM<float>> model(CausalLM<float>(config, RandomWeights<float>{1}), lora);
      CausalLM<float>::Tape tape;
      CausalLM<float>::LossOptions options;
      options.checkpointing = keep == Keep::inputs;
      options.gradient = keep != Keep::nothing;
      options.pass.training = options.gradient;
      lora_test::AllocationCounter counter;
      model.base().loss({ids}, ids, tape, options);
      const lora_test::Allocations made = counter.stop();
      const auto said = static_cast<double>(activation_bytes(model.base(), T, keep));
      const double ratio = static_cast<double>(made.bytes) / said;
      EXPECT_NEAR(ratio, 1, 0.05) << config.index() << static_cast<int>(keep) << dora << " "
                                  << made.bytes;
    }
  }
}

TEST(ActivationMemory, AModelWithoutBlocksHasSome) {
  CausalLM<float> model(CausalLMConfig(GPT2Config{30, 16, 8, 0, 2}), RandomWeights<float>{1});
  EXPECT_GT(activation_bytes(model, 10), 0u);
  EXPECT_GT(activation_bytes(model, 10, Keep::inputs), 0u);
}

}  // namespace activation_memory_test
