// The methods to fit a trained network to another task, all measured the same way.
#pragma once

#include <lora/io/peft/adapter_file.hpp>
#include <lora/lora.hpp>

#include "digit_tasks.hpp"
#include "digit_training.hpp"

#include <functional>
#include <optional>

namespace examples {

/// alpha = 2 r, so s = alpha / r is the same at every rank and known when an adapter is loaded.
inline constexpr double kScale = 2.0;

/// The state of a network during adaptation.
struct CurvePoint {
  StepState state;
  double accuracy_a = 0, accuracy_b = 0;  ///< % of some held-out images
  std::vector<double> moved;              ///< ‖ΔW‖/‖W‖ of each layer
};

/// One row of the results.
struct Outcome {
  std::string method;
  Index trainable = 0, all = 0;
  double accuracy_a = 0, accuracy_b = 0;           ///< % of the held-out images, at the end
  std::optional<double> a_without = std::nullopt;  ///< accuracy_a with the adapter disabled
  double milliseconds = 0;                         ///< per step
  std::filesystem::path file = {};                 ///< the saved file; empty: none
  std::uintmax_t bytes = 0;                        ///< size of that file
  std::vector<CurvePoint> curve = {};
};

/// Computes ‖ΔW‖/‖W‖ in the Frobenius norm, where ΔW is s B A or the change by full fine-tuning.
/// Never forms B A: ‖B A‖² = Σ (BᵀB) ∘ (A Aᵀ).
inline double moved(const lora::LoRALinear<float>& layer) {
  const lora::Matrix<float> weight = layer.weight().stored();
  double change = 0;
  if (const auto* copy = layer.trained_copies().acting()) {
    change = static_cast<double>((copy->weight.value - weight).norm());
  } else if (!layer.adapters().active().empty()) {
    const auto& adapter = layer.adapters().get(layer.adapters().active().front());
    const lora::Matrix<double> A = adapter.A.value.cast<double>(),
                               B = adapter.B.value.cast<double>();
    const lora::Matrix<double> left = B.transpose() * B, right = A * A.transpose();
    change = adapter.scaling * std::sqrt(std::max(0.0, left.cwiseProduct(right).sum()));
  }
  return change / static_cast<double>(weight.norm());
}

/// How all methods are trained and measured.
struct AdaptationPlan {
  TrainingPlan training;
  Index curve_images = 500;  ///< held-out images of each task per point of the curves
};

/// Trains on task B and records the curve. `model` contains `network`.
template <class Model>
Outcome adapt(const std::string& method, Model& model, Network& network, const Tasks& tasks,
              const AdaptationPlan& plan) {
  Outcome outcome{.method = method};
  outcome.trainable = lora::count_parameters(model).trainable;
  const DigitSet some_a = take(tasks.a.held_out, plan.curve_images);
  const DigitSet some_b = take(tasks.b.held_out, plan.curve_images);
  TrainingPlan training = plan.training;
  training.name = method;
  outcome.milliseconds = train(model, tasks.b.train, training, [&](const StepState& state) {
    CurvePoint point{state, accuracy(network, some_a), accuracy(network, some_b), {}};
    for (const auto& layer : network.layers()) point.moved.push_back(moved(layer));
    outcome.curve.push_back(std::move(point));
  });
  outcome.accuracy_a = accuracy(network, tasks.a.held_out);
  outcome.accuracy_b = accuracy(network, tasks.b.held_out);
  return outcome;
}

inline lora::LoRAConfig adapter_config(Index rank, double dropout) {
  lora::LoRAConfig config;
  config.r = rank;
  config.lora_alpha = kScale * static_cast<double>(rank);
  config.lora_dropout = dropout;
  config.target_modules = "all-linear";
  return config;
}

/// Trains an adapter of this rank on every layer of the frozen network, and saves it to `file`.
/// Calls `say` with the line of trainable parameters before training.
inline Outcome adapt_lora(const Network& base, Index rank, double dropout, const Tasks& tasks,
                          const AdaptationPlan& plan, const std::filesystem::path& file,
                          const std::function<void(const std::string&)>& say) {
  lora::LoRAModel model(base, adapter_config(rank, dropout), "default", plan.training.seed);
  const std::string method = "LoRA r = " + std::to_string(rank);
  say(method + ": " + model.trainable_parameters_text());
  Outcome outcome = adapt(method, model, model.base(), tasks, plan);
  outcome.all = model.get_nb_trainable_parameters().second;
  {
    const auto off = model.disable_adapters();
    outcome.a_without = accuracy(model.base(), tasks.a.held_out);
  }
  lora::save_adapter_file(model, file);
  outcome.file = file;
  outcome.bytes = std::filesystem::file_size(file);
  return outcome;
}

/// Trains all weights and biases of a copy of the network, and saves it to `file`.
inline Outcome adapt_fully(const Network& base, const Tasks& tasks, const AdaptationPlan& plan,
                           const std::filesystem::path& file, const NetworkOrigin& origin) {
  Network network = base;
  for (auto& layer : network.layers()) layer.train_base();
  Outcome outcome = adapt("full fine-tuning", network, network, tasks, plan);
  outcome.all = network_size(network);
  save_network(network, file, origin);
  outcome.file = file;
  outcome.bytes = std::filesystem::file_size(file);
  return outcome;
}

/// Measures the network as it is on both tasks.
inline Outcome leave_alone(const Network& base, const Tasks& tasks) {
  Outcome outcome{.method = "no tuning", .all = network_size(base)};
  outcome.accuracy_a = accuracy(base, tasks.a.held_out);
  outcome.accuracy_b = accuracy(base, tasks.b.held_out);
  return outcome;
}

/// Trains a new network on task A and freezes it. `sizes` goes from pixels to 10.
inline Network train_base_network(const std::vector<Index>& sizes, const Tasks& tasks,
                                  const TrainingPlan& plan) {
  Network network(sizes, lora::Activation::relu, plan.seed);
  for (auto& layer : network.layers()) layer.train_base();
  train(network, tasks.a.train, plan, [](const StepState&) {});
  for (auto& layer : network.layers()) layer.freeze_base();
  return network;
}

}  // namespace examples
