// The GPT-2 architecture.
#pragma once

#include <lora/models/gpt2_block.hpp>

#include <string>
#include <utility>

namespace lora {

/// GPT-2: embeddings of tokens and positions, blocks and a norm, from T tokens to (T, D). A head
/// sits on top (see CausalLM). Every layer and both tables take adapters; the norms' tensors are
/// Parameters, frozen at first. A value type: copies share the frozen weights. Applies no dropout
/// of the base model.
/// Threads: forward() may run on several threads, each with its own tape.
/// Source: Radford et al., 2019; GPT2Model of transformers.
template <class S>
class GPT2 {
  using Stack = DecoderStack<GPT2Block<S>, LayerNorm<S>>;

 public:
  using Scalar = S;
  using Config = GPT2Config;
  static constexpr const char* prefix = "transformer";  ///< begins its names in a checkpoint

  /// What backward needs from one forward, reused from step to step.
  struct Tape {
    typename Stack::Tape stack;
    typename LoRAEmbedding<S>::Tape embedding, position;
    std::vector<std::int64_t> positions;
    Matrix<S> of_position;
  };

  GPT2() = default;
  /// Reads the weights from `source`.
  /// Throws: ConfigError for an invalid config; what the source throws.
  template <WeightSource<S> Source>
  GPT2(GPT2Config config, Source& source) : config_(config) {
    check_config(config_);
    const std::string model = prefix;
    wte_ = embedding_from<S>(source, model + ".wte", config_.vocab_size, config_.n_embd);
    wpe_ = embedding_from<S>(source, model + ".wpe", config_.n_positions, config_.n_embd);
    for (Index i = 0; i < config_.n_layer; ++i)
      stack_.blocks.emplace_back(config_, i, model + ".h." + std::to_string(i), source);
    stack_.norm =
        layer_norm_from<S>(source, model + ".ln_f", config_.n_embd, config_.layer_norm_epsilon);
  }

  const GPT2Config& config() const { return config_; }
  Index hidden_size() const { return config_.n_embd; }
  std::string model_type() const { return "gpt2"; }
  LoRAEmbedding<S>& embedding() { return wte_; }
  const LoRAEmbedding<S>& embedding() const { return wte_; }

  /// Computes the hidden states as Llama::forward does.
  /// Throws: also ShapeError for a sequence with more than n_positions tokens.
  void forward(const TokenBatch& batch, Out<S> hidden, Tape& tape, const Pass& pass = {},
               Keep keep = Keep::everything, std::span<KVCache<S>* const> caches = {}) const {
    expect_shape("GPT2::forward", "hidden", hidden, batch.rows(), hidden_size());
    Matrix<S>& x = stack_.start("GPT2::forward", tape.stack, batch, keep, caches);
    list_positions(tape);
    wte_.forward(batch.ids, x, &tape.embedding, embedding_pass(wte_, pass));
    set_size(tape.of_position, x.rows(), x.cols());
    wpe_.forward(tape.positions, tape.of_position, &tape.position, embedding_pass(wpe_, pass));
    add_rows<S>(tape.of_position, x);
    stack_.forward(hidden, tape.stack, pass);
  }

  /// Adds gradients as Llama::backward does.
  void backward(const TokenBatch& batch, In<S> dhidden, Tape& tape) {
    expect_shape("GPT2::backward", "dhidden", dhidden, batch.rows(), hidden_size());
    stack_.check_tape("GPT2::backward", tape.stack, dhidden.rows());
    const bool below = is_trained(wte_) || is_trained(wpe_);
    Matrix<S>* dx = stack_.backward(dhidden, tape.stack, below);
    if (dx == nullptr) return;
    wte_.backward(batch.ids, *dx, tape.embedding);
    wpe_.backward(tape.positions, *dx, tape.position);
  }

  /// Calls fn(name, module) for both tables, the layers and norms of each block, and the last norm.
  template <class Fn>
  void for_each_module(const NamePath& path, Fn&& fn) {
    fn(NamePath(path, "wte"), wte_);
    fn(NamePath(path, "wpe"), wpe_);
    for (std::size_t i = 0; i < stack_.blocks.size(); ++i)
      stack_.blocks[i].for_each_module(NamePath(path, "h", static_cast<Index>(i)), fn);
    fn(NamePath(path, "ln_f"), stack_.norm);
  }

 private:
  void list_positions(Tape& tape) const {
    const BatchContext<S>& context = tape.stack.context;
    tape.positions.clear();
    for (std::size_t n = 0; n < context.lengths.size(); ++n) {
      const Index end = context.end_of(n);
      if (end > config_.n_positions) {
        throw ShapeError("GPT2::forward: sequence " + std::to_string(n) + " has " +
                         std::to_string(end) + " tokens, expected at most n_positions, " +
                         std::to_string(config_.n_positions));
      }
      for (Index at = end - context.lengths[n]; at < end; ++at) tape.positions.push_back(at);
    }
  }

  GPT2Config config_;
  LoRAEmbedding<S> wte_, wpe_;
  Stack stack_;
};

}  // namespace lora
