// The training task of a causal language model on tokenized examples.
#pragma once

#include <lora/models/causal_lm.hpp>
#include <lora/train/activation_memory.hpp>
#include <lora/train/training_task.hpp>

#include <cstdint>
#include <memory>
#include <vector>

namespace lora {

/// The options of training a language model.
struct LanguageModelTaskOptions {
  bool gradient_checkpointing = false;  ///< recompute each block in backward, see CausalLM::loss
};

namespace detail {

/// Returns the lengths of an example's sequences: its `lengths` if it has some, otherwise that of
/// one sequence.
template <class Example>
std::vector<Index> sequence_lengths(const Example& example) {
  if constexpr (requires { example.lengths; }) {
    if (!example.lengths.empty()) return {example.lengths.begin(), example.lengths.end()};
  }
  return {static_cast<Index>(example.ids.size())};
}

}  // namespace detail

/// Returns the task of next-token prediction for `Model`, a LoRAModel of CausalLM or CausalLM
/// itself. An Example has `ids` and `labels`, two vectors of std::int64_t of equal length, with
/// −100 where a label does not count. Labels are not shifted; the first of a sequence never counts.
/// If several sequences share an example (PackedRow), it also has their `lengths`. A batch
/// concatenates its examples without padding.
/// Threads: copies of the task share one tape, so only one Trainer may use them at a time.
template <class Model, class Example>
TrainingTask<Model, Example> language_model_task(const LanguageModelTaskOptions& options = {}) {
  const auto lm = [](Model & model) -> auto& {
    if constexpr (requires { model.base(); }) {
      return model.base();
    } else {
      return model;
    }
  };
  using LM = std::remove_reference_t<decltype(lm(std::declval<Model&>()))>;
  struct Memory {
    typename LM::Tape tape;
    std::vector<std::int64_t> ids, labels;
    std::vector<Index> lengths;
  };
  const auto memory = std::make_shared<Memory>();
  TrainingTask<Model, Example> task;
  task.loss = [=](Model& model, std::span<const Example* const> batch,
                  const BatchRequest& request) {
    memory->ids.clear();
    memory->labels.clear();
    memory->lengths.clear();
    for (const Example* example : batch) {
      memory->ids.insert(memory->ids.end(), example->ids.begin(), example->ids.end());
      memory->labels.insert(memory->labels.end(), example->labels.begin(), example->labels.end());
      for (const Index length : detail::sequence_lengths(*example))
        memory->lengths.push_back(length);
    }
    typename LM::LossOptions loss;
    loss.num_items = request.num_items;
    loss.gradient = request.gradient;
    loss.checkpointing = options.gradient_checkpointing;
    loss.pass = request.pass;
    const auto found =
        lm(model).loss({memory->ids, memory->lengths}, memory->labels, memory->tape, loss);
    return BatchLoss{static_cast<double>(found.loss), found.counted};
  };
  task.counted = [](const Example& example) {
    Index n = 0;
    std::size_t first = 0;
    for (const Index length : detail::sequence_lengths(example)) {
      const std::size_t end = first + static_cast<std::size_t>(length);
      for (std::size_t i = first + 1; i < end; ++i)
        n += i < example.labels.size() && example.labels[i] != ignored_label;
      first = end;
    }
    return n;
  };
  task.length = [](const Example& example) { return static_cast<Index>(example.ids.size()); };
  task.activation_bytes = [=](Model& model, Index rows, bool gradient) {
    return activation_bytes(lm(model), rows,
                            !gradient                        ? Keep::nothing
                            : options.gradient_checkpointing ? Keep::inputs
                                                             : Keep::everything);
  };
  task.release = [=] { *memory = {}; };
  return task;
}

}  // namespace lora
