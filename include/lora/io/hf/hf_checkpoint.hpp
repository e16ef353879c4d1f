// Loading a language model from a folder of Hugging Face's.
#pragma once

#include <lora/io/hf/checkpoint_weights.hpp>
#include <lora/io/hf/hf_config.hpp>
#include <lora/models/causal_lm.hpp>

#include <filesystem>
#include <string>
#include <variant>

namespace lora {

namespace detail {

/// What the checkpoint calls the table that a tied head is.
inline std::string embedding_name(const CausalLMConfig& config) {
  return std::holds_alternative<GPT2Config>(config) ? "transformer.wte.weight"
                                                    : "model.embed_tokens.weight";
}

}  // namespace detail

/// A model of config.json and the weights beside it: model.safetensors or the shards of its index,
/// in F32, BF16, F16 or F64. `Model` is built twice from a configuration and a source of weights:
/// first to hear what it asks for, then with what CheckpointWeights gives. GPT-2 is read with and
/// without "transformer." in front of its names, and every model without its head with and without
/// "model.".
///
/// Throws IoError; FormatError and ConfigError as read_hf_config and CheckpointFiles::open;
/// FormatError that lists every tensor that is missing, unexpected or misshapen. Nothing is
/// allocated for weights before all of that is checked; then at most a few panels of a matrix and
/// one vector beside the weights themselves. Source: transformers'
/// AutoModelForCausalLM.from_pretrained, which warns of missing and unexpected names.
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

/// load_model for the language model of config.json's architecture.
template <class S = float>
CausalLM<S> load_causal_lm(const std::filesystem::path& directory,
                           const WeightOptions& options = {}) {
  return load_model<CausalLM<S>>(directory, options);
}

}  // namespace lora
