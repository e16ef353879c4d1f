// A causal language model: an architecture with a head over the vocabulary, its loss, and decoding
// with a cache.
#pragma once

#include <lora/models/causal_lm_config.hpp>
#include <lora/models/gpt2.hpp>
#include <lora/models/language_model_head.hpp>
#include <lora/models/llama.hpp>

#include <algorithm>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace lora {

/// The architectures. To add one, write a header like models/llama.hpp, a line here and a line in
/// CausalLMConfig.
template <class S>
using CausalLMArchitecture = std::variant<Llama<S>, GPT2<S>>;

/// A language model: logits = lm_head(model(tokens)). Its modules have the names of transformers,
/// so LoRAModel<CausalLM<float>> reads PEFT's configurations and adapters. With
/// tie_word_embeddings, head and embedding share one frozen weight; an adapter on either acts on it
/// alone. A value type: copies share the frozen weights.
///
///   auto base = load_causal_lm("checkpoint");  // needs <lora/io/hf/hf_checkpoint.hpp>
///   const std::vector<std::int64_t> ids{1, 15043, 3186};
///   const Matrix<float> logits = base.logits({ids});  // (3, V)
///   CausalLM<float>::Tape tape;
///   const auto result = base.loss({ids}, ids, tape);  // adds the gradients of trained tensors
///   std::printf("loss %f over %td tokens\n", result.loss, result.counted);
///
/// Threads: logits() may run on several threads; so may decode(), with caches and a tape per
///   thread.
template <class S>
class CausalLM {
 public:
  using Scalar = S;
  using Config = CausalLMConfig;
  using LossResult = LanguageModelLoss<S>;

  /// The memory of a step, reused from step to step.
  struct Tape {
    std::variant<typename Llama<S>::Tape, typename GPT2<S>::Tape> model;
    LossTape<S> head;
    std::vector<Index> lengths;
    Matrix<S> hidden, dhidden, last;
    std::vector<std::string> last_names;
  };

  struct LossOptions {
    Index num_items = 0;  ///< divisor of the sum; 0: the counted tokens
    bool gradient = true;
    bool checkpointing = false;  ///< keep only each block's input; backward reruns the block
    Pass pass = {};
  };

  CausalLM() = default;
  /// Reads every tensor of the config's architecture from `source`.
  /// Throws: ConfigError for an invalid config; what the source throws.
  template <WeightSource<S> Source>
  explicit CausalLM(const Config& config, Source&& source)
      : model_(std::visit(
            [&](const auto& one) -> CausalLMArchitecture<S> { return make(one, source); }, config)),
        config_(config) {
    const bool tied = std::visit([](const auto& one) { return one.tie_word_embeddings; }, config);
    lm_head_ = tied ? LoRALinear<S>(embedding().weight())
                    : linear_from<S>(source, "lm_head", vocab_size(), hidden_size());
  }

  const Config& config() const { return config_; }
  Index vocab_size() const {
    return std::visit([](const auto& one) { return one.vocab_size; }, config_);
  }
  Index hidden_size() const {
    return std::visit([](const auto& model) { return model.hidden_size(); }, model_);
  }
  std::string model_type() const {
    return std::visit([](const auto& model) { return model.model_type(); }, model_);
  }
  /// The name of the layer that "all-linear" excludes.
  std::string output_module() const { return "lm_head"; }
  LoRALinear<S>& lm_head() { return lm_head_; }
  const LoRALinear<S>& lm_head() const { return lm_head_; }
  /// The model below the head, which computes the hidden states.
  const CausalLMArchitecture<S>& architecture() const { return model_; }
  const LoRAEmbedding<S>& embedding() const {
    return std::visit(
        [](const auto& model) -> const auto& { return model.embedding(); }, model_);
  }

  /// Returns the logits of every token, (T, V), for small T and V. loss() and decode() never
  /// compute all of them.
  /// Throws: as Llama::forward; ConfigError for a name in pass.adapter_names that no layer knows.
  Matrix<S> logits(const TokenBatch& batch, const Pass& pass = {}) const {
    Tape tape;
    run(batch, tape, pass, Keep::nothing, {});
    Matrix<S> y(batch.rows(), vocab_size());
    lm_head_.forward(tape.hidden, y, nullptr, pass);
    return y;
  }

  /// Computes the loss of predicting each token from those before it. With options.gradient, adds
  /// the gradients of all trained tensors. labels (T) are not shifted: labels[t] belongs to ids[t]
  /// and scores the prediction made at the token before it in the same sequence; −100 is skipped.
  /// If nothing counts, the loss is 0. Checkpointing gives the same bits.
  /// Throws: ShapeError (lengths, labels, an id outside the table); Error (a label outside the
  ///   vocabulary, adapter_names); ConfigError (num_items). All before any gradient changes.
  /// Allocates: when T changes.
  /// Source: ForCausalLMLoss of transformers.
  LossResult loss(const TokenBatch& batch, std::span<const std::int64_t> labels, Tape& tape,
                  const LossOptions& options = {}) {
    if (!options.pass.adapter_names.empty())
      throw Error("CausalLM::loss: adapter_names is for inference, not for a loss");
    if (options.num_items < 0) {
      throw ConfigError("CausalLM::loss: num_items is " + std::to_string(options.num_items) +
                        ", expected 0 or more");
    }
    list_lengths("CausalLM::loss", batch, tape.lengths);
    list_counted("CausalLM::loss", batch, tape.lengths, labels, vocab_size(), tape.head);
    const bool head_trained = is_trained(lm_head_);
    const bool model_trained = options.gradient && is_model_trained();
    const bool train = options.gradient && (head_trained || model_trained);
    run(batch, tape, options.pass,
        !model_trained          ? Keep::nothing
        : options.checkpointing ? Keep::inputs
                                : Keep::everything,
        {});
    const Index counted = static_cast<Index>(tape.head.rows.size());
    const Index divisor = options.num_items > 0 ? options.num_items : counted;
    const LossResult result = head_loss<S>(lm_head_, tape.hidden, divisor, options.pass, train,
                                           model_trained ? &tape.dhidden : nullptr, tape.head);
    if (model_trained && counted > 0) {
      std::visit([&](auto& model) { model.backward(batch, tape.dhidden, tape_of(model, tape)); },
                 model_);
    }
    return result;
  }

  /// Continues sequences. batch holds the new tokens of each, at least one; caches hold what the
  /// model saw of each before and receive the new tokens; y (N, V) receives the logits of the last
  /// token of each. pass.adapter_names, one per new token, gives sequences adapters of their own.
  /// Throws: as Llama::forward and logits(), with the caches unchanged.
  /// Allocates: when a cache is full or T changes.
  void decode(const TokenBatch& batch, std::span<KVCache<S>* const> caches, Out<S> y, Tape& tape,
              const Pass& pass = {}) const {
    list_lengths("CausalLM::decode", batch, tape.lengths);
    const Index n = static_cast<Index>(tape.lengths.size());
    if (caches.size() != tape.lengths.size()) {
      throw ShapeError("CausalLM::decode: there are " + std::to_string(caches.size()) +
                       " caches, expected one for each of " + std::to_string(n) +
                       " sequences, each of at least one token");
    }
    expect_shape("CausalLM::decode", "y", y, n, vocab_size());
    if (n == 0) return;
    run(batch, tape, pass, Keep::nothing, caches);
    set_size(tape.last, n, hidden_size());
    tape.last_names.clear();
    Index end = 0;
    for (Index i = 0; i < n; ++i) {
      end += tape.lengths[static_cast<std::size_t>(i)];
      tape.last.row(i) = tape.hidden.row(end - 1);
      if (!pass.adapter_names.empty())
        tape.last_names.push_back(pass.adapter_names[static_cast<std::size_t>(end) - 1]);
    }
    Pass last = pass;
    last.adapter_names = tape.last_names;
    lm_head_.forward(tape.last, y, &tape.head.last.head, last);
  }

  /// Calls fn(name, module) for every layer and norm, with the names of transformers.
  template <class Fn>
  void for_each_module(const NamePath& path, Fn&& fn) {
    for_each_module_of_model(path, fn);
    fn(NamePath(path, "lm_head"), lm_head_);
  }
  template <class Fn>
  void for_each_parameter(const NamePath& path, Fn&& fn) {
    for_each_module(
        path, [&fn](const NamePath& name, auto& module) { module.for_each_parameter(name, fn); });
  }

 private:
  template <class Source>
  static Llama<S> make(const LlamaConfig& config, Source& source) {
    return Llama<S>(config, source);
  }
  template <class Source>
  static GPT2<S> make(const GPT2Config& config, Source& source) {
    return GPT2<S>(config, source);
  }
  /// Returns the architecture's part of the tape, and creates it if the tape belonged to another
  /// architecture.
  template <class Model>
  static typename Model::Tape& tape_of(const Model&, Tape& tape) {
    if (auto* own = std::get_if<typename Model::Tape>(&tape.model)) return *own;
    return tape.model.template emplace<typename Model::Tape>();
  }
  template <class Fn>
  void for_each_module_of_model(const NamePath& path, Fn&& fn) {
    std::visit([&](auto& model) { model.for_each_module(NamePath(path, model.prefix), fn); },
               model_);
  }
  bool is_model_trained() {
    bool trained = false;
    for_each_module_of_model(
        "", [&](const NamePath&, auto& module) { trained = trained || is_trained(module); });
    return trained;
  }

  /// Computes tape.hidden (T, D).
  void run(const TokenBatch& batch, Tape& tape, const Pass& pass, Keep keep,
           std::span<KVCache<S>* const> caches) const {
    check_adapter_names(pass);
    set_size(tape.hidden, batch.rows(), hidden_size());
    std::visit(
        [&](const auto& model) {
          model.forward(batch, tape.hidden, tape_of(model, tape), pass, keep, caches);
        },
        model_);
  }

  /// Rejects a name that no layer knows: its rows would silently use the base model.
  void check_adapter_names(const Pass& pass) const {
    for (std::size_t t = 0; t < pass.adapter_names.size(); ++t) {
      const std::string& name = pass.adapter_names[t];
      if (name == base_adapter_name || (t > 0 && name == pass.adapter_names[t - 1])) continue;
      bool known = false;
      const_cast<CausalLM*>(this)->for_each_module("", [&](const NamePath&, auto& module) {
        if constexpr (requires { module.knows(name); }) known = known || module.knows(name);
      });
      if (known) continue;
      throw ConfigError("CausalLM: adapter_names[" + std::to_string(t) + "] is " + in_quotes(name) +
                        ", expected \"__base__\" or an adapter of one of the layers");
    }
  }

  CausalLMArchitecture<S> model_;
  LoRALinear<S> lm_head_;
  Config config_;
};

}  // namespace lora
