// What a training loop needs from a model and its data.
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

/// The request for a loss.
struct BatchRequest {
  Index num_items = 0;   ///< divisor of the sum over the counted labels; 0: their number
  bool gradient = true;  ///< add the gradients of the trained tensors
  Pass pass = {};        ///< passed to every layer
};
struct BatchLoss {
  double loss = 0;    ///< sum over the counted labels, divided by the divisor
  Index counted = 0;  ///< counted labels of this batch
};

/// How a model learns from examples. Apart from the gradients, the functions must be pure.
template <class Model, class Example>
struct TrainingTask {
  using Batch = std::span<const Example* const>;
  std::function<BatchLoss(Model&, Batch, const BatchRequest&)> loss;
  /// Returns the number of counted labels of an example. Empty: 1.
  std::function<Index(const Example&)> counted = {};
  /// Returns the rows of an example in the model's activations, its tokens. Empty: 1.
  std::function<Index(const Example&)> length = {};
  /// Returns the bytes of activations for a batch of `rows` rows, with or without gradients. Empty:
  /// unknown.
  std::function<std::uint64_t(Model&, Index rows, bool gradient)> activation_bytes = {};
  /// Frees what is kept between batches. Empty: nothing is kept.
  std::function<void()> release = {};

  Index counted_in(const Example& example) const { return counted ? counted(example) : 1; }
  Index length_of(const Example& example) const { return length ? length(example) : 1; }
  void release_memory() const {
    if (release) release();
  }
};

/// Returns the rows of the largest batch of an evaluation; see evaluate_task().
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

/// Returns the larger of the activation bytes of a training batch and of an evaluation batch with
/// these rows, or nullopt if the task does not know.
template <class Model, class Example>
std::optional<std::uint64_t> most_activations(Model& model,
                                              const TrainingTask<Model, Example>& task,
                                              Index trained, Index evaluated) {
  if (!task.activation_bytes) return std::nullopt;
  const std::uint64_t training = task.activation_bytes(model, trained, true);
  return evaluated == 0 ? training
                        : std::max(training, task.activation_bytes(model, evaluated, false));
}

/// The result of an evaluation.
struct Evaluation {
  double loss = 0;  ///< mean over the counted labels; 0 without any
  Index counted = 0, tokens = 0;
};

/// Evaluates the loss of all examples in order, `batch_size` at a time. Calls progress(done, total)
/// after each batch. Changes no gradient and applies no dropout.
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
