// Reports how much each layer's adapter learns: its gradient, and how far it moves the weight.
#pragma once

#include <lora/adapters/lora_model.hpp>
#include <lora/adapters/low_rank_factors.hpp>
#include <lora/optim/clip_grad.hpp>
#include <lora/train/metrics_log.hpp>

#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace lora {

/// The change of one adapter on one layer.
struct LayerChange {
  std::string layer, adapter;
  double grad_norm = 0;        ///< norm over all its tensors
  double relative_change = 0;  ///< ‖merged W − W‖ / ‖W‖ (Frobenius); 0 if W is 0
};

namespace detail {

template <class S>
double frobenius_norm(const FrozenWeight<S>& weight) {
  Matrix<S> row(1, weight.cols());
  double sum = 0;
  for (Index o = 0; o < weight.rows(); ++o) {
    weight.copy_row(o, row.data());
    sum += row.template cast<double>().squaredNorm();
  }
  return std::sqrt(sum);
}

}  // namespace detail

/// Returns the change of every active adapter of every layer, in the order of the layers.
/// `weight_norms` caches ‖W‖, which is computed once per layer.
/// Allocates: a row and a few (R, R) matrices.
template <class Base>
std::vector<LayerChange> layer_changes(LoRAModel<Base>& model,
                                       std::map<std::string, double>& weight_norms) {
  std::vector<LayerChange> changes;
  model.for_each_layer([&](const NamePath& path, auto& layer) {
    const std::string name = path.str();
    for (const std::string& adapter : model.active_adapters()) {
      const auto* one = layer.adapters().find(adapter);
      if (one == nullptr) continue;
      const auto [norm, fresh] = weight_norms.emplace(name, 0.0);
      if (fresh) norm->second = detail::frobenius_norm(layer.weight());
      LayerChange change{name, adapter};
      one->for_each_tensor([&](const auto& tensor) {
        change.grad_norm = std::hypot(change.grad_norm, static_cast<double>(tensor.grad.norm()));
      });
      double moved =
          std::abs(static_cast<double>(one->scale())) * product_norm(one->A.value, one->B.value);
      one->if_scales_output(
          [&](const auto& variant) { moved = variant.change_norm(*one, layer.base_map()); });
      if (norm->second > 0) change.relative_change = moved / norm->second;
      changes.push_back(std::move(change));
    }
  });
  return changes;
}

/// Writes layer_changes with unclipped gradients every `every` steps to a file of JSON Lines:
/// {"step": 10, "layers": {"<name>": {"grad_norm": 0.1, "relative_change": 0.002}}}. With several
/// active adapters the names are "<name>|<adapter>". Keeps a reference to the model.
template <class Base>
class LayerReport : public TrainerCallback {
 public:
  /// Throws: ConfigError unless every ≥ 1.
  LayerReport(LoRAModel<Base>& model, std::filesystem::path path, Index every = 1)
      : model_(model), lines_(std::move(path)), every_(every) {
    if (every < 1)
      throw ConfigError("LayerReport: every is " + std::to_string(every) + ", expected at least 1");
  }

  void on_train_begin(const TrainerEvent& event) override { lines_.begin(event.state.global_step); }
  void on_pre_optimizer_step(const TrainerEvent& event) override {
    const Index step = event.state.global_step + 1;
    if (step % every_ != 0) return;
    Json line;
    line["step"] = step;
    line["layers"] = Json::object();
    const auto number = [](double x) { return std::isfinite(x) ? Json(x) : Json(); };
    for (const LayerChange& change : layer_changes(model_, weight_norms_)) {
      const bool several = model_.active_adapters().size() > 1;
      Json& entry = line["layers"][several ? change.layer + "|" + change.adapter : change.layer];
      entry["grad_norm"] = number(change.grad_norm);
      entry["relative_change"] = number(change.relative_change);
    }
    lines_.write(line);
  }

 private:
  LoRAModel<Base>& model_;
  JsonLines lines_;
  Index every_;
  std::map<std::string, double> weight_norms_;
};

}  // namespace lora
