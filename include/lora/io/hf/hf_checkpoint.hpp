// Loads a language model from a Hugging Face folder.
#pragma once

#include <lora/io/hf/checkpoint_weights.hpp>
#include <lora/io/hf/hf_config.hpp>
#include <lora/models/causal_lm.hpp>

#include <filesystem>
#include <string>
#include <variant>

namespace lora {

namespace detail {

/// Returns the checkpoint's name of the table that a tied head shares.
inline std::string embedding_name(const CausalLMConfig& config) {
  return std::holds_alternative<GPT2Config>(config) ? "transformer.wte.weight"
                                                    : "model.embed_tokens.weight";
}

}  // namespace detail

/// Loads a model from config.json and the weights beside it: model.safetensors or the shards of its
/// index, in F32, BF16, F16 or F64. Builds `Model` twice from a configuration and a source of
/// weights: first to learn what it reads, then with CheckpointWeights. GPT-2 may have its names
/// with or without "transformer." in front, and a model saved without its head may lack "model.".
///
///   const auto base = load_model<CausalLM<float>>("checkpoint", {.dtype = Precision::bfloat16});
///   LoRAConfig config;
///   config.r = 8;
///   config.target_modules = {"q_proj", "v_proj"};
///   CausalLM<float> copy = base;  // shares the frozen weights
///   LoRAModel model(copy, config);
///
/// Throws: IoError; FormatError and ConfigError as read_hf_config and CheckpointFiles::open;
///   FormatError that lists every tensor that is missing, unexpected or misshapen.
/// Allocates: nothing for weights before all of that is checked; then at most a few panels of a
///   matrix and one vector in addition to the weights themselves.
/// Source: AutoModelForCausalLM.from_pretrained of transformers, which only warns of missing and
///   unexpected names.
template <class Model>
Model load_model(const std::filesystem::path& directory, const WeightOptions& options = {}) {
  using S = typename Model::Scalar;
  const CheckpointFiles files = CheckpointFiles::open(directory);
  const HFConfig config = read_hf_config(directory);
  {
    CheckpointCheck<S> check(files);
    const Model asked(config.model, check);
    check.finish(detail::embedding_name(config.model));
  }
  CheckpointWeights<S> source(files, options);
  return Model(config.model, source);
}

/// Loads the language model of config.json's architecture with load_model().
template <class S = float>
CausalLM<S> load_causal_lm(const std::filesystem::path& directory,
                           const WeightOptions& options = {}) {
  return load_model<CausalLM<S>>(directory, options);
}

}  // namespace lora
