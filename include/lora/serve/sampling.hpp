// Samples the next token from a row of logits.
#pragma once

#include <lora/core/error.hpp>
#include <lora/models/generation_config.hpp>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <span>
#include <string>

namespace lora {

/// Filters logits and draws a token. The filters are those of transformers' generate, in its order:
/// the repetition penalty, then, for sampling, temperature, top-k, top-p and min-p. With z the
/// logits of V tokens:
///   penalty r   z / r where z ≥ 0, z · r where z < 0, once for each id that occurred
///   temperature z / t
///   top-k       keeps z of at least the k-th largest; with ties these are more than k
///   top-p       keeps the most probable tokens, until those kept before sum to p
///   min-p       keeps probabilities of at least p times the highest
/// Probabilities are softmax(z) of what is left. Quotients and sums are in double, so a token at
/// the very edge of p may differ from transformers, and no temperature is too small.
/// Threads: one object per thread.
/// Source: RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper,
///   TopPLogitsWarper and MinPLogitsWarper of transformers.
template <class S>
class Sampler {
 public:
  /// Throws: ConfigError as check_config.
  explicit Sampler(GenerationConfig config) : config_(std::move(config)) { check_config(config_); }

  /// Returns the id that follows `ids`, given the logits (V) of its prediction: the first of the
  /// largest, or with do_sample the one at which the running sum of probabilities passes `uniform`,
  /// a number in [0, 1).
  /// Throws: Error if a logit is NaN or the largest is infinite; ShapeError without logits and for
  ///   an id outside of them.
  /// Allocates: on the first call.
  std::int64_t next(std::span<const S> logits, std::span<const std::int64_t> ids, double uniform) {
    prepare(logits, ids);
    if (!config_.do_sample) return static_cast<std::int64_t>(best_);
    select();
    double total = 0;
    for (const Candidate& one : candidates_) total += one.weight;
    double passed = 0;
    std::size_t chosen = best_;
    for (const Candidate& one : candidates_) {
      if (one.weight == 0) continue;
      chosen = one.token;  // also if rounding keeps the sum below the last step
      if ((passed += one.weight) > uniform * total) break;
    }
    return static_cast<std::int64_t>(chosen);
  }

  /// Computes p (V), the probabilities that next() draws from.
  /// Throws: as next(); ShapeError for another length of p.
  void probabilities(std::span<const S> logits, std::span<const std::int64_t> ids,
                     std::span<double> p) {
    if (p.size() != logits.size()) {
      throw ShapeError("Sampler::probabilities: p has " + std::to_string(p.size()) +
                       " elements, expected " + std::to_string(logits.size()));
    }
    prepare(logits, ids);
    std::fill(p.begin(), p.end(), 0.0);
    if (!config_.do_sample) {
      p[best_] = 1;
      return;
    }
    select();
    double total = 0;
    for (const Candidate& one : candidates_) total += one.weight;
    for (const Candidate& one : candidates_) p[one.token] = one.weight / total;
  }

 private:
  struct Candidate {
    double weight;  // exp((z − largest z) / temperature)
    std::size_t token;
    bool operator<(const Candidate& other) const {
      return weight != other.weight ? weight < other.weight : token > other.token;
    }
  };

  /// Computes scores_ and the index of the largest.
  void prepare(std::span<const S> logits, std::span<const std::int64_t> ids) {
    if (logits.empty()) throw ShapeError("Sampler: there are no logits");
    scores_.assign(logits.begin(), logits.end());
    if (config_.repetition_penalty != 1) penalise(ids);
    best_ = 0;
    bool good = true;
    for (std::size_t i = 0; i < scores_.size(); ++i) {
      good = good && scores_[i] == scores_[i];
      if (scores_[i] > scores_[best_]) best_ = i;
    }
    if (good && std::isfinite(scores_[best_])) return;
    throw Error(std::string("Sampler: ") +
                (good ? "the largest logit is infinite" : "a logit is NaN") + ", expected numbers");
  }

  void penalise(std::span<const std::int64_t> ids) {
    const S penalty = static_cast<S>(config_.repetition_penalty);
    seen_.assign(scores_.size(), 0);
    for (const std::int64_t id : ids) {
      if (id < 0 || id >= static_cast<std::int64_t>(scores_.size())) {
        throw ShapeError("Sampler: an id is " + std::to_string(id) + ", expected 0 to " +
                         std::to_string(scores_.size() - 1));
      }
      const auto i = static_cast<std::size_t>(id);
      if (seen_[i]++ == 0)
        scores_[i] = scores_[i] < 0 ? scores_[i] * penalty : scores_[i] / penalty;
    }
  }

  /// Computes candidates_, the tokens that the filters keep. Only top-p needs an order.
  void select() {
    const S least = kth_largest(), largest = scores_[best_];
    candidates_.clear();
    candidates_.reserve(scores_.size());
    double total = 0;
    for (std::size_t i = 0; i < scores_.size(); ++i) {
      if (scores_[i] < least) continue;
      // The quotients might overflow, or the temperature might be 0 in S.
      const double below = static_cast<double>(scores_[i]) - static_cast<double>(largest);
      const double weight = std::exp(below / config_.temperature);
      total += weight;
      if (weight >= config_.min_p) candidates_.push_back({weight, i});
    }
    if (config_.top_p >= 1) return;
    // min-p cuts the tail of the same order, so it may come first.
    std::make_heap(candidates_.begin(), candidates_.end());
    auto end = candidates_.end();
    double before = 0;
    do {
      std::pop_heap(candidates_.begin(), end);
      before += (--end)->weight;
    } while (end != candidates_.begin() && before < config_.top_p * total);
    candidates_.erase(candidates_.begin(), end);
    std::reverse(candidates_.begin(), candidates_.end());
  }

  /// Returns the k-th largest score. Compares most scores only with the least of the best k.
  S kth_largest() {
    const auto k = static_cast<std::size_t>(config_.top_k);
    if (k == 0 || k >= scores_.size()) return -std::numeric_limits<S>::infinity();
    const auto first = scores_.begin(), middle = first + static_cast<std::ptrdiff_t>(k);
    largest_.assign(first, middle);
    std::make_heap(largest_.begin(), largest_.end(), std::greater<>());
    for (auto score = middle; score != scores_.end(); ++score) {
      if (*score <= largest_.front()) continue;
      std::pop_heap(largest_.begin(), largest_.end(), std::greater<>());
      largest_.back() = *score;
      std::push_heap(largest_.begin(), largest_.end(), std::greater<>());
    }
    return largest_.front();
  }

  GenerationConfig config_;
  std::vector<S> scores_, largest_;
  std::vector<std::uint32_t> seen_;
  std::vector<Candidate> candidates_;
  std::size_t best_ = 0;
};

}  // namespace lora
