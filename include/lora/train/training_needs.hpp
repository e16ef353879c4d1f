// Computes what a training run needs before it starts.
#pragma once

#include <lora/adapters/lora_model.hpp>
#include <lora/core/error.hpp>
#include <lora/core/printable.hpp>
#include <lora/train/gradient_tree.hpp>
#include <lora/train/run_plan.hpp>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <locale>
#include <optional>
#include <string>
#include <vector>

namespace lora {

/// Returns the bytes of memory that the program can still take: what Linux reports as available, or
/// less if a control group limits it. Returns nullopt if the system does not say.
inline std::optional<std::uint64_t> available_memory() {
  std::optional<std::uint64_t> free;
  std::ifstream memory("/proc/meminfo");
  for (std::string line; std::getline(memory, line);) {
    if (line.starts_with("MemAvailable:")) free = std::stoull(line.substr(13)) * 1024;
  }
  const auto number = [](const char* path) -> std::optional<std::uint64_t> {
    std::uint64_t value = 0;
    std::ifstream file(path);
    file.imbue(std::locale::classic());
    if (file >> value) return value;
    return std::nullopt;  // also for "max"
  };
  constexpr const char* groups[][2] = {
      {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"},
      {"/sys/fs/cgroup/memory/memory.limit_in_bytes",
       "/sys/fs/cgroup/memory/memory.usage_in_bytes"}};
  for (const auto& [limit_path, used_path] : groups) {
    const auto limit = number(limit_path), used = number(used_path);
    if (!limit || !used || !free) continue;
    free = std::min(*free, *limit - std::min(*limit, *used));
  }
  return free;
}

/// Formats bytes as "812 kB" or "1.20 GB", with a base of 1000.
inline std::string bytes_text(std::uint64_t bytes) {
  const auto n = static_cast<double>(bytes);
  if (n >= 1e9) return fixed_text(n / 1e9, 2) + " GB";
  if (n >= 1e6) return fixed_text(n / 1e6, 1) + " MB";
  return fixed_text(n / 1e3, 0) + " kB";
}

/// The needs of a run, with memory in bytes. Weights, trained values and gradients without the
/// buffers exist when training starts.
struct TrainingNeeds {
  Index parameters = 0, trainable = 0;  ///< elements
  std::uint64_t weights = 0;            ///< frozen weights
  std::uint64_t trained = 0;            ///< trained values
  std::uint64_t gradients = 0;          ///< with the buffers of GradientTree
  std::uint64_t optimizer = 0;
  /// The largest batch, trained or evaluated, if the task knows.
  std::optional<std::uint64_t> activations;
  std::optional<std::uint64_t> available;  ///< available at the time of the call
  Index examples = 0, tokens_per_epoch = 0, steps_per_epoch = 0, max_steps = 0;

  std::uint64_t total() const {
    return weights + trained + gradients + optimizer + activations.value_or(0);
  }
  /// Returns the memory still to be allocated.
  std::uint64_t missing() const {
    const std::uint64_t buffers = gradients - std::min(gradients, trained);
    return optimizer + buffers + activations.value_or(0);
  }

  /// Returns a few lines of readable text.
  std::string text() const {
    const double share =
        parameters > 0 ? 100.0 * static_cast<double>(trainable) / static_cast<double>(parameters)
                       : 0;
    std::string out("parameters   ");
    out += std::to_string(parameters) + ", " + std::to_string(trainable) + " of them trained (" +
           fixed_text(share, 4) + " %)\n";
    out += "memory       weights " + bytes_text(weights) + ", trained values " +
           bytes_text(trained) + ", gradients " + bytes_text(gradients) + ", optimiser " +
           bytes_text(optimizer) + ", activations " +
           (activations ? bytes_text(*activations) : "not known") + "; together " +
           bytes_text(total()) + (available ? ", free now " + bytes_text(*available) : "") + "\n";
    out += "data         " + std::to_string(examples) + " examples, " +
           std::to_string(tokens_per_epoch) + " tokens and " + std::to_string(steps_per_epoch) +
           " steps an epoch, " + std::to_string(max_steps) + " steps in all\n";
    return out;
  }

  /// Throws: ConfigError if nothing is trained, and as check_memory().
  void check() const {
    if (trainable == 0)
      throw ConfigError(
          "Trainer: no tensor of the model is trainable, so there is nothing to train");
    check_memory();
  }
  /// Throws: ConfigError with advice if more is missing than available.
  void check_memory() const {
    if (!available || missing() <= *available) return;
    throw ConfigError(
        "Trainer: the run needs " + bytes_text(missing()) + " more than is in use (optimiser " +
        bytes_text(optimizer) + ", activations " +
        (activations ? bytes_text(*activations) : "not known") + "), and only " +
        bytes_text(*available) +
        " are free. What helps: a smaller per_device_train_batch_size with more "
        "gradient_accumulation_steps, a smaller per_device_eval_batch_size, shorter "
        "sequences, gradient checkpointing, weights in bfloat16, a lower rank or fewer "
        "target_modules");
  }
};

/// Returns what training `model` by `plan` needs. The optimiser holds two moments per trained
/// tensor. O(number of tensors).
template <class Model>
TrainingNeeds training_needs(Model& model, const RunPlan& plan, Index examples) {
  using S = typename Model::Scalar;
  TrainingNeeds needs;
  constexpr std::uint64_t size = sizeof(S);
  model.for_each_parameter("", [&](const NamePath&, Parameter<S>& p) {
    needs.parameters += p.size();
    (p.trainable ? needs.trained : needs.weights) += static_cast<std::uint64_t>(p.size()) * size;
    if (p.trainable) needs.trainable += p.size();
  });
  const auto buffers = static_cast<std::uint64_t>(gradient_buffers(plan.most_micro_batches()));
  needs.gradients = needs.trained * (1 + buffers);
  needs.optimizer = 2 * needs.trained;
  std::vector<FrozenWeight<S>> seen;
  const auto add_weights = [&](auto& base) {
    for_each_adapter_layer(base, [&](const NamePath&, auto& layer) {
      const FrozenWeight<S>& weight = layer.weight();
      const auto same = [&](const auto& w) { return w.shares_storage_with(weight); };
      if (layer.frozen_size() == 0 || std::any_of(seen.begin(), seen.end(), same)) return;
      seen.push_back(weight);
      needs.parameters += weight.size();
      needs.weights += static_cast<std::uint64_t>(weight.bytes());
    });
  };
  if constexpr (requires { model.base(); }) {
    add_weights(model.base());
  } else if constexpr (Adaptable<Model>) {
    add_weights(model);
  }
  needs.available = available_memory();
  needs.examples = examples;
  needs.tokens_per_epoch = plan.tokens_per_epoch();
  needs.steps_per_epoch = plan.steps_per_epoch();
  needs.max_steps = plan.max_steps();
  return needs;
}

}  // namespace lora
