// Generates texts from prompts with a language model.
#pragma once

#include <lora/adapters/lora_model.hpp>
#include <lora/models/causal_lm.hpp>
#include <lora/serve/sampling.hpp>
#include <lora/serve/stop_strings.hpp>
#include <lora/text/tokenizer/streaming_decoder.hpp>

#include <algorithm>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora {

/// The beginning of a text.
struct Prompt {
  std::vector<std::int64_t> ids;  ///< at least one
  /// The adapter to apply, "__base__" for none; prompts of one call may have different ones. Empty
  /// on all prompts: the model's active adapters.
  std::string adapter_name = {};
  std::uint64_t seed = 0;  ///< seed of the random draws
};

/// Why a text ended.
enum class FinishReason {
  length,     ///< max_new_tokens or max_length
  positions,  ///< the model has no further positions
  end_token,
  stop_string,
  callback,
};

struct Generated {
  std::vector<std::int64_t> ids;  ///< the new tokens, with the end token
  /// With a tokenizer: the continuation of the prompt's text, without special tokens, up to a stop
  /// string. It includes a leading space that a tokenizer would drop at the beginning of a text.
  std::string text;
  FinishReason reason = FinishReason::length;
};

/// One new token of one of the prompts.
struct NewToken {
  std::size_t prompt;  ///< index of the prompt
  std::int64_t id;
  std::string_view text;  ///< text that can be shown now, in whole characters; may be empty
};
enum class Streaming { go_on, stop };

/// The keys and values of a text that can be continued: tokens that the next prompt shares with
/// `ids` are not computed again. A cache belongs to one model with its weights and active adapters:
/// start a new one when another adapter is made active.
template <class S>
struct GenerationCache {
  KVCache<S> keys;
  std::vector<std::int64_t> ids = {};  ///< the tokens in `keys`
  std::string adapter_name = {};
};

template <class S>
struct GenerateOptions {
  const Tokenizer* tokenizer = nullptr;  ///< decodes the texts; stop strings need it
  std::function<Streaming(const NewToken&)> on_token = {};
  std::span<GenerationCache<S>> caches = {};  ///< none, or one per prompt
};

/// Returns how many tokens a sequence may have: n_positions for GPT-2; otherwise
/// max_position_embeddings, times the factor with dynamic rotary scaling, and with yarn at least
/// the stretched number of positions in pretraining.
inline Index position_limit(const CausalLMConfig& config) {
  if (const auto* gpt2 = std::get_if<GPT2Config>(&config)) return gpt2->n_positions;
  const LlamaConfig& llama = std::get<LlamaConfig>(config);
  const RopeScaling& scaling = llama.rope_scaling;
  const Index most = llama.max_position_embeddings;
  const auto stretched = [&](Index positions) {
    return static_cast<Index>(static_cast<double>(positions) * scaling.factor);
  };
  if (scaling.type == RopeScaling::Type::dynamic) return stretched(most);
  if (scaling.type == RopeScaling::Type::yarn)
    return std::max(most, stretched(scaling.original_max_position_embeddings));
  return most;
}

namespace detail {

/// One call of generate(): runs all prompts as one batch, which finished prompts leave.
template <class S>
class Generation {
 public:
  Generation(const CausalLM<S>& model, std::span<const Prompt> prompts,
             const GenerationConfig& config, const GenerateOptions<S>& options)
      : model_(model), prompts_(prompts), config_(config), options_(options), sampler_(config) {
    check();
    results_.resize(prompts.size());
    if (options.caches.empty()) own_.resize(prompts.size());
    const auto caches = options.caches.empty() ? std::span(own_) : options.caches;
    for (std::size_t i = 0; i < prompts.size(); ++i) rows_.push_back(row_of(i, caches[i]));
  }

  std::vector<Generated> run() {
    std::erase_if(rows_, [](const Row& row) { return row.most == 0; });
    read_prompts();
    while (!rows_.empty()) {
      for (Row& row : rows_) add_piece(row, 1);
      step();
      std::erase_if(rows_, [](const Row& row) { return row.over; });
    }
    return std::move(results_);
  }

 private:
  /// Prompt tokens that are read at a time: enough for efficient products while memory stays small.
  static constexpr Index most_at_once = 512;

  struct Row {
    std::size_t prompt;
    Index most;                     // most new tokens
    FinishReason at_most;           // reason to end there
    GenerationCache<S>* cache;      // its ids begin `ids`
    std::vector<std::int64_t> ids;  // prompt and new tokens
    RandomStream random;
    std::optional<StreamingDecoder> decoder;
    StopStrings stops;
    bool over = false;

    Index unread() const { return static_cast<Index>(ids.size() - cache->ids.size()); }
  };

  void check() const {
    const auto refuse = [](std::size_t i, const std::string& what) {
      throw ConfigError("generate: prompts[" + std::to_string(i) + "]" + what);
    };
    const std::string limit = std::to_string(position_limit(model_.config()));
    for (std::size_t i = 0; i < prompts_.size(); ++i) {
      const std::vector<std::int64_t>& ids = prompts_[i].ids;
      if (ids.empty()) refuse(i, " is empty, expected at least one id");
      if (static_cast<Index>(ids.size()) > position_limit(model_.config()))
        refuse(i, " has " + std::to_string(ids.size()) + " tokens, the model has " + limit +
                      " positions");
      if (config_.max_length && !config_.max_new_tokens &&
          static_cast<Index>(ids.size()) >= *config_.max_length)
        refuse(i, " has " + std::to_string(ids.size()) +
                      " tokens, expected less than max_length, " +
                      std::to_string(*config_.max_length));
      for (std::size_t t = 0; t < ids.size(); ++t) {
        if (ids[t] < 0 || ids[t] >= model_.vocab_size())
          refuse(i, ".ids[" + std::to_string(t) + "] is " + std::to_string(ids[t]) +
                        ", expected 0 to " + std::to_string(model_.vocab_size() - 1));
      }
      const std::string& name = prompts_[i].adapter_name;
      if (name.empty() != prompts_[0].adapter_name.empty())
        refuse(i, name.empty() ? " names no adapter, but others do; use \"__base__\" for none"
                               : " names an adapter, but others do not");
      if (!name.empty() && name != base_adapter_name) check_adapter(i, name);
    }
    if (!config_.stop_strings.empty() && options_.tokenizer == nullptr)
      throw ConfigError("generate: stop_strings need a tokenizer");
    if (!options_.caches.empty() && options_.caches.size() != prompts_.size())
      throw ConfigError("generate: there are " + std::to_string(options_.caches.size()) +
                        " caches, expected one for each of " + std::to_string(prompts_.size()) +
                        " prompts");
  }

  void check_adapter(std::size_t i, const std::string& name) const {
    std::vector<std::string> known;
    bool found = false;
    const_cast<CausalLM<S>&>(model_).for_each_module("", [&](const NamePath&, auto& module) {
      if constexpr (requires { module.knows(name); }) {
        found = found || module.knows(name);
        for (const std::string& one : module.adapters().names()) {
          if (std::count(known.begin(), known.end(), one) == 0) known.push_back(one);
        }
      }
    });
    if (found) return;
    std::string names = "\"__base__\"";
    for (const std::string& one : known) names += ", " + in_quotes(one);
    throw ConfigError("generate: prompts[" + std::to_string(i) + "].adapter_name is " +
                      in_quotes(name) + ", expected one of " + names);
  }

  Row row_of(std::size_t i, GenerationCache<S>& cache) const {
    const Prompt& prompt = prompts_[i];
    const auto tokens = static_cast<Index>(prompt.ids.size());
    const Index asked = config_.max_new_tokens ? *config_.max_new_tokens
                                               : config_.max_length.value_or(tokens + 20) - tokens;
    const Index room = position_limit(model_.config()) - tokens + 1;  // the last token is not read
    Row row{i,
            std::min(asked, room),
            asked <= room ? FinishReason::length : FinishReason::positions,
            &cache,
            prompt.ids,
            RandomStream(prompt.seed, "generate"),
            std::nullopt,
            StopStrings(config_.stop_strings)};
    if (options_.tokenizer != nullptr) {
      row.decoder.emplace(*options_.tokenizer);
      for (const std::int64_t id : prompt.ids) row.decoder->push(id);  // its context
    }
    if (cache.adapter_name != prompt.adapter_name ||
        cache.keys.length() != static_cast<Index>(cache.ids.size()))
      cache.ids.clear();
    const auto same =
        std::mismatch(cache.ids.begin(), cache.ids.end(), prompt.ids.begin(), prompt.ids.end() - 1);
    cache.ids.erase(same.first, cache.ids.end());
    cache.keys.truncate(static_cast<Index>(cache.ids.size()));
    cache.adapter_name = prompt.adapter_name;
    return row;
  }

  /// Reads the prompts in parts and draws the first token of each.
  void read_prompts() {
    for (std::size_t first = 0; first < rows_.size();) {
      Index left = most_at_once;
      std::size_t last = first;
      for (; last < rows_.size() && left > 0; ++last) {
        const Index count = std::min(left, rows_[last].unread());
        add_piece(rows_[last], count);
        left -= count;
      }
      const bool part = rows_[last - 1].unread() > lengths_.back();
      step();
      first = part ? last - 1 : last;
    }
    std::erase_if(rows_, [](const Row& row) { return row.over; });
  }

  void add_piece(Row& row, Index count) {
    const auto begin = row.ids.begin() + static_cast<std::ptrdiff_t>(row.cache->ids.size());
    ids_.insert(ids_.end(), begin, begin + count);
    lengths_.push_back(count);
    caches_.push_back(&row.cache->keys);
    pieces_.push_back(&row);
    const std::string& name = prompts_[row.prompt].adapter_name;
    if (!name.empty()) names_.resize(names_.size() + static_cast<std::size_t>(count), name);
  }

  /// Reads the pieces, then draws the next token of each row that has been read completely.
  void step() {
    const auto n = static_cast<Index>(pieces_.size());
    if (logits_.rows() < n) set_size(logits_, n, model_.vocab_size());
    Pass pass;
    pass.adapter_names = names_;
    model_.decode({ids_, lengths_}, caches_, logits_.topRows(n), tape_, pass);
    auto read = ids_.begin();
    for (std::size_t i = 0; i < pieces_.size(); ++i) {
      std::vector<std::int64_t>& known = pieces_[i]->cache->ids;
      known.insert(known.end(), read, read + lengths_[i]);
      read += lengths_[i];
    }
    for (std::size_t i = 0; i < pieces_.size(); ++i) {
      if (pieces_[i]->unread() == 0) add_token(*pieces_[i], static_cast<Index>(i));
    }
    ids_.clear(), lengths_.clear(), caches_.clear(), pieces_.clear(), names_.clear();
  }

  void add_token(Row& row, Index i) {
    Generated& result = results_[row.prompt];
    const std::span<const S> logits(logits_.row(i).data(),
                                    static_cast<std::size_t>(logits_.cols()));
    const std::int64_t id = sampler_.next(logits, row.ids, row.random.uniform(result.ids.size()));
    row.ids.push_back(id);
    result.ids.push_back(id);
    const auto& ends = config_.eos_token_id;
    const auto finish = [&](FinishReason reason) {
      row.over = true;
      result.reason = reason;
    };
    if (std::find(ends.begin(), ends.end(), id) != ends.end()) {
      finish(FinishReason::end_token);
    } else if (static_cast<Index>(result.ids.size()) == row.most) {
      finish(row.at_most);
    }
    std::string text;
    if (row.decoder) {
      text = row.stops.push(row.decoder->push(id));
      if (row.over) text += end_text(row);
      if (row.stops.found()) finish(FinishReason::stop_string);
      result.text += text;
    }
    if (!options_.on_token || options_.on_token({row.prompt, id, text}) == Streaming::go_on) return;
    if (!row.over && row.decoder) result.text += end_text(row);
    if (!row.over) finish(FinishReason::callback);
  }

  static std::string end_text(Row& row) {
    std::string text = row.stops.push(row.decoder->finish());
    return text += row.stops.finish();
  }

  const CausalLM<S>& model_;
  std::span<const Prompt> prompts_;
  const GenerationConfig& config_;
  const GenerateOptions<S>& options_;
  Sampler<S> sampler_;
  typename CausalLM<S>::Tape tape_;
  std::vector<GenerationCache<S>> own_;
  std::vector<Row> rows_;
  std::vector<Generated> results_;
  Matrix<S> logits_;
  // The input of the next step.
  std::vector<std::int64_t> ids_;
  std::vector<Index> lengths_;
  std::vector<KVCache<S>*> caches_;
  std::vector<Row*> pieces_;
  std::vector<std::string> names_;
};

}  // namespace detail

/// Continues each prompt until its text ends, all in one batch that finished prompts leave. The
/// result of a prompt depends on its ids, adapter and seed, not on the other prompts or the number
/// of threads.
///
///   const Tokenizer tokenizer = Tokenizer::open("checkpoint");
///   const Prompt prompts[] = {{tokenizer.encode("Once upon a time")}};
///   GenerationConfig config;
///   config.max_new_tokens = 50;
///   const auto results = generate<float>(model, prompts, config, {.tokenizer = &tokenizer});
///   std::printf("%s\n", results[0].text.c_str());
///
/// Throws: ConfigError for an invalid prompt (empty, longer than the model's positions or
///   max_length, an id outside the vocabulary), an adapter that no layer knows or that only some
///   prompts name, stop strings without a tokenizer, a wrong number of caches, and what
///   check_config rejects; all before anything is computed, with the caches unchanged. Error if
///   adapters are named and one acts on an embedding, or if logits are not finite. What on_token
///   throws.
/// Allocates: the keys and values and a row of logits of every prompt.
/// Source: GenerationMixin.generate of transformers, without beams; unlike there, the text ends
///   before the stop string.
template <class S>
std::vector<Generated> generate(const CausalLM<S>& model, std::span<const Prompt> prompts,
                                const GenerationConfig& config,
                                const GenerateOptions<S>& options = {}) {
  return detail::Generation<S>(model, prompts, config, options).run();
}
/// Generates with the adapters of `model`.
template <class S>
std::vector<Generated> generate(const LoRAModel<CausalLM<S>>& model,
                                std::span<const Prompt> prompts, const GenerationConfig& config,
                                const GenerateOptions<S>& options = {}) {
  return generate<S>(model.base(), prompts, config, options);
}

}  // namespace lora
