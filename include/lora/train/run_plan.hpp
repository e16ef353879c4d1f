// Plans how many steps a run takes and which examples each step sees.
#pragma once

#include <lora/train/epoch_order.hpp>

#include <algorithm>
#include <cmath>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace lora {

/// The steps of a run over n examples. An epoch has ⌈n / batch size⌉ micro-batches (⌊ ⌋ with
/// dataloader_drop_last); gradient_accumulation_steps of them make a step, and so do those left at
/// the end of an epoch. The examples of a step depend only on its number.
/// Source: Trainer.set_initial_training_values of transformers.
class RunPlan {
 public:
  /// Plans a run over examples of these lengths.
  /// Throws: ConfigError if there is no example, no whole batch, or no step to take.
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
                        " examples do not fill a batch of per_device_train_batch_size " +
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
  /// Returns the number of micro-batches of the largest step.
  Index most_micro_batches() const { return std::min(accumulation_, micro_batches_); }
  /// Returns the number of warm-up steps.
  Index warmup_steps(const TrainingArguments& arguments) const {
    if (arguments.warmup_steps > 0) return arguments.warmup_steps;
    return static_cast<Index>(std::ceil(arguments.warmup_ratio * static_cast<double>(max_steps_)));
  }
  /// Returns the passes over the data after `steps` steps.
  double epoch(Index steps) const {
    return static_cast<double>(steps) / static_cast<double>(steps_per_epoch_);
  }
  bool ends_epoch(Index steps) const { return steps % steps_per_epoch_ == 0; }

  /// Returns the micro-batches of step number `step` (from 0), each a list of examples. The spans
  /// are valid until the next call for another epoch.
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

  /// Returns the tokens of one pass, with those that dataloader_drop_last drops.
  Index tokens_per_epoch() const {
    Index tokens = 0;
    for (const Index length : lengths_) tokens += length;
    return tokens;
  }
  /// Returns an upper bound of the tokens in one micro-batch.
  Index most_tokens() const {
    std::vector<Index> longest = lengths_;
    const auto count = static_cast<std::ptrdiff_t>(
        std::min<std::size_t>(longest.size(), static_cast<std::size_t>(batch_)));
    std::partial_sort(longest.begin(), longest.begin() + count, longest.end(), std::greater<>());
    Index tokens = 0;
    for (auto at = longest.begin(); at != longest.begin() + count; ++at) tokens += *at;
    return tokens;
  }
  /// Returns a hash of the number and the lengths of the examples.
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
