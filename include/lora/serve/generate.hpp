// Generation: prompts to texts with a language model.
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

/// What a text begins with.
struct Prompt {
  std::vector<std::int64_t> ids;  ///< at least one
  /// Of the adapter that acts, "__base__" for none, the same or another than that of the prompts
  /// beside it; empty on all prompts: the model's active adapters.
  std::string adapter_name = {};
  std::uint64_t seed = 0;  ///< of what is drawn
};

/// Why a text is over.
enum class FinishReason {
  length,     ///< max_new_tokens or max_length
  positions,  ///< the model has no more of them
  end_token,
  stop_string,
  callback,
};

struct Generated {
  std::vector<std::int64_t> ids;  ///< the new ones, the end token among them
  /// With a tokenizer: what the prompt's text goes on with, without special tokens, up to a stop
  /// string. A space that a tokenizer leaves out at the beginning of a text is there.
  std::string text;
  FinishReason reason = FinishReason::length;
};

/// One more token of one of the prompts.
struct NewToken {
  std::size_t prompt;  ///< which
  std::int64_t id;
  std::string_view text;  ///< what can be shown now, whole characters; possibly none
};
enum class Streaming { go_on, stop };

/// Keys and values of a text that may be gone on with: what the next prompt has in common with
/// `ids` is not computed again. It belongs to one model with its weights and active adapters: when
/// another is made active, begin anew.
template <class S>
struct GenerationCache {
  KVCache<S> keys;
  std::vector<std::int64_t> ids = {};  ///< that keys holds
  std::string adapter_name = {};
};

template <class S>
struct GenerateOptions {
  const Tokenizer* tokenizer = nullptr;  ///< for texts; needed by stop strings
  std::function<Streaming(const NewToken&)> on_token = {};
  std::span<GenerationCache<S>> caches = {};  ///< none, or one a prompt
};

/// How many tokens a sequence may have: max_position_embeddings, as often as a dynamic scaling of
/// rotary positions says, or yarn's stretch of the positions of the first training where that is
/// more, or n_positions.
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

/// One call of generate(): all prompts side by side, those that are over leave.
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
  /// Tokens of prompts that are read at once: enough for the products, and memory stays small.
  static constexpr Index most_at_once = 512;

  struct Row {
    std::size_t prompt;
    Index most;                     // new tokens
    FinishReason at_most;           // why no more
    GenerationCache<S>* cache;      // its ids are the first of `ids`
    std::vector<std::int64_t> ids;  // prompt and new ones
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
        refuse(i, name.empty() ? " names no adapter, but others do; \"__base__\" stands for none"
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
    const Index room = position_limit(model_.config()) - tokens + 1;  // the last one is not read
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
      for (const std::int64_t id : prompt.ids) row.decoder->push(id);  // what the text goes on from
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

  /// The first token of each, a part of the prompts after the other.
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

  /// Reads the pieces; a row that has been read whole gets its next token.
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
  // What the next step reads.
  std::vector<std::int64_t> ids_;
  std::vector<Index> lengths_;
  std::vector<KVCache<S>*> caches_;
  std::vector<Row*> pieces_;
  std::vector<std::string> names_;
};

}  // namespace detail

/// Goes on with each prompt until its text is over, all side by side in one batch that those which
/// are over leave. What becomes of a prompt depends on its ids, its adapter and its seed, not on
/// the prompts beside it nor on the number of threads. model: CausalLM, or LoRAModel's base().
/// Throws ConfigError, before anything is computed and with the caches as they were, for a prompt
/// that is empty, longer than the model's positions or than max_length, an id that the model has
/// not, an adapter that no layer knows or that only some prompts name, stop strings without a
/// tokenizer, another number of caches, and what check_config refuses; Error when adapters are
/// named and one acts on an embedding, or logits are not numbers; what on_token throws. Memory:
/// keys and values of every prompt, and a row of logits each. Source: transformers'
/// GenerationMixin.generate, without beams; text and stop strings differ in that the text ends
/// before the stop string.
template <class S>
std::vector<Generated> generate(const CausalLM<S>& model, std::span<const Prompt> prompts,
                                const GenerationConfig& config,
                                const GenerateOptions<S>& options = {}) {
  return detail::Generation<S>(model, prompts, config, options).run();
}
/// The same with the model's adapters.
template <class S>
std::vector<Generated> generate(const LoRAModel<CausalLM<S>>& model,
                                std::span<const Prompt> prompts, const GenerationConfig& config,
                                const GenerateOptions<S>& options = {}) {
  return generate<S>(model.base(), prompts, config, options);
}

}  // namespace lora
