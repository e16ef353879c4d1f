// A language model: one of the architectures with a head over the vocabulary, its loss, and
// decoding with a cache.
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

/// The architectures there are. One is a header like models/llama.hpp, a line here and one in
/// CausalLMConfig.
template <class S>
using CausalLMArchitecture = std::variant<Llama<S>, GPT2<S>>;

/// logits = lm_head(model(tokens)). The names of its modules are transformers', so that
/// LoRAModel<CausalLM<float>> takes PEFT's configurations and adapters. With tie_word_embeddings
/// head and table hold the same frozen weight; adapters on either act on it alone. A value: copying
/// shares the frozen weights. logits() may run on several threads; decode() too, each with caches
/// and a tape of its own.
template <class S>
class CausalLM {
 public:
  using Scalar = S;
  using Config = CausalLMConfig;
  using LossResult = LanguageModelLoss<S>;

  /// All memory of a step, reused from step to step.
  struct Tape {
    std::variant<typename Llama<S>::Tape, typename GPT2<S>::Tape> model;
    LossTape<S> head;
    std::vector<Index> lengths;
    Matrix<S> hidden, dhidden, last;
    std::vector<std::string> last_names;
  };

  struct LossOptions {
    Index num_items = 0;  ///< what the sum is divided by; 0: the tokens that count
    bool gradient = true;
    bool checkpointing = false;  ///< keep each block's input only, and run it again in backward
    Pass pass = {};
  };

  CausalLM() = default;
  /// Asks `source` for every tensor of the config's architecture. Throws ConfigError for a config
  /// that cannot be, and what the source throws.
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
  /// The layer that "all-linear" leaves out.
  std::string output_module() const { return "lm_head"; }
  LoRALinear<S>& lm_head() { return lm_head_; }
  const LoRALinear<S>& lm_head() const { return lm_head_; }
  /// What is below the head: for its hidden states.
  const CausalLMArchitecture<S>& architecture() const { return model_; }
  const LoRAEmbedding<S>& embedding() const {
    return std::visit(
        [](const auto& model) -> const auto& { return model.embedding(); }, model_);
  }

  /// The logits of every token, (T, V): for small T and V; loss() and decode() never make them all.
  /// Throws as Llama::forward; ConfigError for a name in pass.adapter_names that no layer knows.
  Matrix<S> logits(const TokenBatch& batch, const Pass& pass = {}) const {
    Tape tape;
    run(batch, tape, pass, Keep::nothing, {});
    Matrix<S> y(batch.rows(), vocab_size());
    lm_head_.forward(tape.hidden, y, nullptr, pass);
    return y;
  }

  /// The loss of predicting each token from those before it, and with options.gradient the
  /// gradients of all trained tensors, added to what they hold. labels (T) are not shifted:
  /// labels[t] belongs to ids[t] and scores the prediction that the token before it makes in the
  /// same sequence; −100 does not count. With nothing to count the loss is 0. The same bits with
  /// and without checkpointing. Throws ShapeError (lengths, labels, an id outside the table), Error
  /// (a label outside the vocabulary, adapter_names), before any gradient is touched. Allocates
  /// when T changes. Source: transformers' ForCausalLMLoss.
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

  /// Goes on with sequences: batch holds the new tokens of each, at least one, caches what was seen
  /// of each before, and y (N, V) becomes the logits of each one's last token. The caches then hold
  /// the new tokens too. With pass.adapter_names, one for each new token, sequences have adapters
  /// of their own. Throws as Llama::forward and logits(), with the caches as they were. Allocates
  /// when a cache is full or T changes.
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

  /// fn(name, module) for every layer and norm, by transformers' names.
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
  /// The architecture's own part of a tape, made when the tape was another's.
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

  /// tape.hidden (T, D).
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

  /// A name that no layer knows would leave its rows to the base in silence.
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
