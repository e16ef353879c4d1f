// What a training loop asks of a model and its data.
#pragma once

#include <lora/adapters/lora_model.hpp>
#include <lora/core/types.hpp>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

namespace lora {

/// What is asked of a loss.
struct BatchRequest {
  Index num_items = 0;   ///< the divisor of the sum over the labels that count; 0: their number
  bool gradient = true;  ///< add the gradients of the trained tensors to what they hold
  Pass pass = {};        ///< to be handed to every layer
};
struct BatchLoss {
  double loss = 0;    ///< the sum over the labels that count, divided by the divisor
  Index counted = 0;  ///< those of this batch
};

/// How a model learns from examples. The three functions must be pure but for the gradients.
template <class Model, class Example>
struct TrainingTask {
  using Batch = std::span<const Example* const>;
  std::function<BatchLoss(Model&, Batch, const BatchRequest&)> loss;
  /// Labels of an example that count. Empty: 1.
  std::function<Index(const Example&)> counted = {};
  /// Rows that an example has in the model's activations, its tokens. Empty: 1.
  std::function<Index(const Example&)> length = {};
  /// Bytes of activations for a batch of so many rows, with or without gradients. Empty: not known.
  std::function<std::uint64_t(Model&, Index rows, bool gradient)> activation_bytes = {};
  /// Frees what is kept from batch to batch. Empty: nothing is.
  std::function<void()> release = {};

  Index counted_in(const Example& example) const { return counted ? counted(example) : 1; }
  Index length_of(const Example& example) const { return length ? length(example) : 1; }
  void release_memory() const {
    if (release) release();
  }
};

/// Rows of the largest batch of an evaluation, see evaluate_task().
template <class Model, class Example>
Index most_evaluated_rows(const TrainingTask<Model, Example>& task,
                          std::span<const Example> examples, Index batch_size) {
  Index most = 0, rows = 0;
  for (std::size_t i = 0; i < examples.size(); ++i) {
    if (i % static_cast<std::size_t>(batch_size) == 0) rows = 0;
    rows += task.length_of(examples[i]);
    most = std::max(most, rows);
  }
  return most;
}

/// Bytes of activations of the larger of two batches of so many rows, one trained and one evaluated;
/// none when the task does not know.
template <class Model, class Example>
std::optional<std::uint64_t> most_activations(Model& model,
                                              const TrainingTask<Model, Example>& task,
                                              Index trained, Index evaluated) {
  if (!task.activation_bytes) return std::nullopt;
  const std::uint64_t training = task.activation_bytes(model, trained, true);
  return evaluated == 0 ? training
                        : std::max(training, task.activation_bytes(model, evaluated, false));
}

/// What an evaluation finds.
struct Evaluation {
  double loss = 0;  ///< the mean over the labels that count; 0 without any
  Index counted = 0, tokens = 0;
};

/// The loss of all examples, `batch_size` at a time and in their order; `progress` is told how many
/// of how many batches are done. No gradient is touched, and nothing is dropped out.
template <class Model, class Example, class Progress>
Evaluation evaluate_task(Model& model, const TrainingTask<Model, Example>& task,
                         std::span<const Example> examples, Index batch_size, Progress&& progress) {
  const auto batch = static_cast<std::size_t>(batch_size);
  const std::size_t batches = (examples.size() + batch - 1) / batch;
  Evaluation found;
  double sum = 0;
  std::vector<const Example*> some;
  BatchRequest request;
  request.gradient = false;
  for (std::size_t i = 0; i < batches; ++i) {
    some.clear();
    for (std::size_t k = i * batch; k < std::min((i + 1) * batch, examples.size()); ++k) {
      some.push_back(&examples[k]);
      found.tokens += task.length_of(examples[k]);
    }
    const BatchLoss part = task.loss(model, some, request);
    sum += part.loss * static_cast<double>(part.counted);
    found.counted += part.counted;
    progress(static_cast<Index>(i + 1), static_cast<Index>(batches));
  }
  if (found.counted > 0) found.loss = sum / static_cast<double>(found.counted);
  return found;
}

}  // namespace lora
