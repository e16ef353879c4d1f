// How many steps a run takes and which examples each of them sees.
#pragma once

#include <lora/train/epoch_order.hpp>

#include <algorithm>
#include <cmath>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace lora {

/// The steps of a run over n examples: an epoch has ⌈n / batch size⌉ micro-batches (⌊ ⌋ with
/// dataloader_drop_last), of which gradient_accumulation_steps make a step; those that are left at
/// the end of an epoch make one too. Any step's examples follow from its number alone. Source:
/// transformers' Trainer.set_initial_training_values.
class RunPlan {
 public:
  /// `lengths`: of every example. Throws ConfigError when there is no example, no whole batch, or
  /// no step to take.
  RunPlan(const TrainingArguments& arguments, std::vector<Index> lengths)
      : lengths_(std::move(lengths)),
        batch_(arguments.per_device_train_batch_size),
        accumulation_(arguments.gradient_accumulation_steps),
        order_{arguments.train_sampling_strategy, arguments.data_seed.value_or(arguments.seed),
               batch_ * accumulation_} {
    const auto n = static_cast<Index>(lengths_.size());
    if (n == 0) throw ConfigError("Trainer: there are no examples to train on");
    micro_batches_ = arguments.dataloader_drop_last ? n / batch_ : (n - 1) / batch_ + 1;
    if (micro_batches_ == 0) {
      throw ConfigError("Trainer: " + std::to_string(n) +
                        " examples make no whole batch of per_device_train_batch_size " +
                        std::to_string(batch_) + ", and dataloader_drop_last is set");
    }
    steps_per_epoch_ = (micro_batches_ - 1) / accumulation_ + 1;
    max_steps_ = arguments.max_steps > 0
                     ? arguments.max_steps
                     : static_cast<Index>(std::ceil(arguments.num_train_epochs *
                                                    static_cast<double>(steps_per_epoch_)));
    if (max_steps_ == 0) throw ConfigError("Trainer: num_train_epochs is 0, so there is no step");
  }

  Index max_steps() const { return max_steps_; }
  Index steps_per_epoch() const { return steps_per_epoch_; }
  /// Micro-batches of the largest step.
  Index most_micro_batches() const { return std::min(accumulation_, micro_batches_); }
  /// Of the warm-up, of all steps.
  Index warmup_steps(const TrainingArguments& arguments) const {
    if (arguments.warmup_steps > 0) return arguments.warmup_steps;
    return static_cast<Index>(std::ceil(arguments.warmup_ratio * static_cast<double>(max_steps_)));
  }
  /// Passes over the data after so many steps.
  double epoch(Index steps) const {
    return static_cast<double>(steps) / static_cast<double>(steps_per_epoch_);
  }
  bool ends_epoch(Index steps) const { return steps % steps_per_epoch_ == 0; }

  /// The micro-batches of step number `step` (from 0), each a list of examples. The spans are good
  /// until the next call for another epoch.
  std::vector<std::span<const Index>> micro_batches(Index step) {
    const Index epoch = step / steps_per_epoch_;
    if (epoch != ordered_) {
      examples_ = epoch_order(order_, lengths_, epoch);
      ordered_ = epoch;
    }
    const Index first = step % steps_per_epoch_ * accumulation_;
    const auto n = static_cast<Index>(examples_.size());
    std::vector<std::span<const Index>> batches;
    for (Index i = first; i < std::min(first + accumulation_, micro_batches_); ++i) {
      const Index begin = i * batch_, end = std::min(begin + batch_, n);
      batches.push_back(std::span<const Index>(examples_).subspan(
          static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin)));
    }
    return batches;
  }

  /// Of one pass, without what dataloader_drop_last leaves out.
  Index tokens_per_epoch() const {
    Index tokens = 0;
    for (const Index length : lengths_) tokens += length;
    return tokens;
  }
  /// At most so many tokens are in one micro-batch.
  Index most_tokens() const {
    std::vector<Index> longest = lengths_;
    const auto count = static_cast<std::ptrdiff_t>(
        std::min<std::size_t>(longest.size(), static_cast<std::size_t>(batch_)));
    std::partial_sort(longest.begin(), longest.begin() + count, longest.end(), std::greater<>());
    Index tokens = 0;
    for (auto at = longest.begin(); at != longest.begin() + count; ++at) tokens += *at;
    return tokens;
  }
  /// Tells data from others, by the number and the lengths of the examples.
  std::uint64_t fingerprint() const {
    std::uint64_t hash = mix64(lengths_.size());
    for (const Index length : lengths_) hash = mix64(hash ^ static_cast<std::uint64_t>(length));
    return hash;
  }

 private:
  std::vector<Index> lengths_;
  Index batch_, accumulation_;
  EpochOrder order_;
  Index micro_batches_ = 0, steps_per_epoch_ = 0, max_steps_ = 0;
  Index ordered_ = -1;
  std::vector<Index> examples_;
};

}  // namespace lora
