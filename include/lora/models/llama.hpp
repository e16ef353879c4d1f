// The Llama architecture, with its relatives Mistral, Qwen2 and Qwen3.
#pragma once

#include <lora/models/llama_block.hpp>

#include <string>
#include <utility>

namespace lora {

/// Llama: an embedding, blocks and a norm, from T tokens to (T, D). A head sits on top (see
/// CausalLM). Every linear layer and the embedding take adapters; the norms' weights are
/// Parameters, frozen at first. A value type: copies share the frozen weights.
/// Threads: forward() may run on several threads, each with its own tape.
/// Source: Touvron et al., 2023; LlamaModel, MistralModel, Qwen2Model and Qwen3Model of
///   transformers.
template <class S>
class Llama {
  using Stack = DecoderStack<LlamaBlock<S>, RMSNorm<S>>;

 public:
  using Scalar = S;
  using Config = LlamaConfig;
  static constexpr const char* prefix = "model";  ///< begins its names in a checkpoint

  /// What backward needs from one forward, reused from step to step.
  struct Tape {
    typename Stack::Tape stack;
    typename LoRAEmbedding<S>::Tape embedding;
  };

  Llama() = default;
  /// Reads the weights from `source`.
  /// Throws: ConfigError for an invalid config; what the source throws.
  template <WeightSource<S> Source>
  Llama(LlamaConfig config, Source& source) : config_(std::move(config)) {
    check_config(config_);
    const std::string model = prefix;
    embed_tokens_ =
        embedding_from<S>(source, model + ".embed_tokens", config_.vocab_size, config_.hidden_size);
    for (Index i = 0; i < config_.num_hidden_layers; ++i)
      stack_.blocks.emplace_back(config_, i, model + ".layers." + std::to_string(i), source);
    stack_.norm = rms_norm_from<S>(source, model + ".norm", config_.hidden_size,
                                   config_.rms_norm_eps, rms_norm_type(config_.model_type));
  }

  const LlamaConfig& config() const { return config_; }
  Index hidden_size() const { return config_.hidden_size; }
  std::string model_type() const { return config_.model_type; }
  LoRAEmbedding<S>& embedding() { return embed_tokens_; }
  const LoRAEmbedding<S>& embedding() const { return embed_tokens_; }

  /// Computes hidden (T, D), the output of the last norm. With caches, one per sequence, the tokens
  /// follow those that the caches hold and are appended to them; backward is then not possible.
  /// Throws: ShapeError for invalid lengths and for an id outside the table, with the caches
  ///   unchanged.
  /// Allocates: when T changes.
  void forward(const TokenBatch& batch, Out<S> hidden, Tape& tape, const Pass& pass = {},
               Keep keep = Keep::everything, std::span<KVCache<S>* const> caches = {}) const {
    expect_shape("Llama::forward", "hidden", hidden, batch.rows(), hidden_size());
    Matrix<S>& x = stack_.start("Llama::forward", tape.stack, batch, keep, caches);
    BatchContext<S>& context = tape.stack.context;
    context.rotation.prepare(config_.rope(), context.lengths, context.past);
    embed_tokens_.forward(batch.ids, x, &tape.embedding, embedding_pass(embed_tokens_, pass));
    stack_.forward(hidden, tape.stack, pass);
  }

  /// Adds the gradients of the trained tensors, given the batch of forward and
  /// dhidden = dL/dhidden. Computes nothing below the lowest trained layer.
  /// Throws: Error if the tape does not belong to the model, before anything changes.
  void backward(const TokenBatch& batch, In<S> dhidden, Tape& tape) {
    expect_shape("Llama::backward", "dhidden", dhidden, batch.rows(), hidden_size());
    stack_.check_tape("Llama::backward", tape.stack, dhidden.rows());
    const bool below = is_trained(embed_tokens_);
    if (Matrix<S>* dx = stack_.backward(dhidden, tape.stack, below))
      embed_tokens_.backward(batch.ids, *dx, tape.embedding);
  }

  /// Calls fn(name, module) for the table, the layers and norms of each block, and the last norm.
  template <class Fn>
  void for_each_module(const NamePath& path, Fn&& fn) {
    fn(NamePath(path, "embed_tokens"), embed_tokens_);
    for (std::size_t i = 0; i < stack_.blocks.size(); ++i)
      stack_.blocks[i].for_each_module(NamePath(path, "layers", static_cast<Index>(i)), fn);
    fn(NamePath(path, "norm"), stack_.norm);
  }

 private:
  LlamaConfig config_;
  LoRAEmbedding<S> embed_tokens_;
  Stack stack_;
};

}  // namespace lora
