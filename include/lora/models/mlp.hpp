// A multilayer perceptron, the smallest model that takes adapters.
#pragma once

#include <lora/core/overlap.hpp>
#include <lora/layers/lora_linear.hpp>
#include <lora/nn/activations.hpp>

#include <algorithm>
#include <vector>

namespace lora {

/// A multilayer perceptron: x → layers.0 → f → layers.1 → f → … → layers.n-1, with an activation f
/// between the layers and none after the last. A value type: copies share the frozen weights.
///
///   MLP<float> network({LoRALinear<float>(w0), LoRALinear<float>(w1)}, Activation::silu);
///   MLP<float>::Tape tape;
///   Matrix<float> y(x.rows(), network.out_features()), dy(y.rows(), y.cols());
///   network.forward(x, y, &tape, {.training = true});
///   mse_loss<float>(y, target, dy);
///   network.backward(x, dy, tape);  // adds the gradients of trained tensors
///
/// Threads: forward() may run on several threads, each with its own tape.
template <class S>
class MLP {
 public:
  using Scalar = S;

  /// What backward needs from one forward, reused from step to step.
  struct Tape {
    std::vector<typename LoRALinear<S>::Tape> layers;
    std::vector<Matrix<S>> before;     ///< output of layer i, before f
    std::vector<Matrix<S>> after;      ///< f(before), the input of layer i + 1
    std::vector<Matrix<S>> gradients;  ///< dL/dbefore of layer i; their widths differ
  };

  MLP() = default;
  /// Joins given layers, each of which takes the width that the one before it returns.
  /// Throws: ShapeError.
  explicit MLP(std::vector<LoRALinear<S>> layers, Activation activation = Activation::relu)
      : layers_(std::move(layers)), activation_(activation) {
    for (std::size_t i = 1; i < layers_.size(); ++i) {
      const LoRALinear<S>& layer = layers_[i];
      check_shape(layer.in_features() == layers_[i - 1].out_features(), "MLP", "weight of a layer",
                  layer.out_features(), layer.in_features(),
                  "(O, " + std::to_string(layers_[i - 1].out_features()) + ")");
    }
  }
  /// Creates layers of widths sizes[0] → sizes[1] → …, with weights and biases uniform in ±1/√(fan
  /// in) as in PyTorch's nn.Linear.
  /// Throws: ConfigError for fewer than two sizes or a size below 1.
  explicit MLP(const std::vector<Index>& sizes, Activation activation = Activation::relu,
               std::uint64_t seed = 0)
      : activation_(activation) {
    if (sizes.size() < 2)
      throw ConfigError("MLP: expected at least two sizes, the input's and the output's");
    for (const Index size : sizes) {
      if (size < 1)
        throw ConfigError("MLP: a size is " + std::to_string(size) + ", expected at least 1");
    }
    for (std::size_t i = 0; i + 1 < sizes.size(); ++i) {
      const std::string name = "layers." + std::to_string(i);
      const double bound = 1.0 / std::sqrt(static_cast<double>(sizes[i]));
      Matrix<S> weight(sizes[i + 1], sizes[i]), bias(1, sizes[i + 1]);
      fill_uniform(weight, RandomStream(seed, name + ".weight"), -bound, bound);
      fill_uniform(bias, RandomStream(seed, name + ".bias"), -bound, bound);
      layers_.emplace_back(std::move(weight), std::move(bias));
    }
  }

  Index in_features() const { return layers_.empty() ? 0 : layers_.front().in_features(); }
  Index out_features() const { return layers_.empty() ? 0 : layers_.back().out_features(); }
  std::vector<LoRALinear<S>>& layers() { return layers_; }
  const std::vector<LoRALinear<S>>& layers() const { return layers_; }

  /// Computes y (T, O) from x (T, D); they must not overlap. For inference, tape = nullptr.
  /// Throws: ShapeError; ConfigError for a name in pass.adapter_names that no layer knows; Error if
  ///   there are no layers or y overlaps x.
  /// Allocates: when T changes.
  void forward(In<S> x, Out<S> y, Tape* tape = nullptr, const Pass& pass = {}) const {
    if (tape == nullptr) {
      Tape scratch;
      return forward(x, y, &scratch, pass);
    }
    for (auto& own : tape->layers) own.rows = -1;  // after an error, backward rejects the tape
    const std::size_t n = layers_.size();
    if (n == 0) throw Error("MLP::forward: there are no layers");
    expect_shape("MLP::forward", "x", x, -1, in_features());
    expect_shape("MLP::forward", "y", y, x.rows(), out_features());
    expect_apart<S>("MLP::forward", "y", y, "x", x);
    check_adapter_names(pass);
    tape->layers.resize(n);
    tape->before.resize(n - 1);
    tape->after.resize(n - 1);
    tape->gradients.resize(n - 1);
    for (std::size_t i = 0; i + 1 < n; ++i) {
      set_size(tape->before[i], x.rows(), layers_[i].out_features());
      set_size(tape->after[i], x.rows(), layers_[i].out_features());
      if (i == 0) {
        layers_[i].forward(x, tape->before[i], &tape->layers[i], pass);
      } else {
        layers_[i].forward(tape->after[i - 1], tape->before[i], &tape->layers[i], pass);
      }
      activation_forward<S>(activation_, tape->before[i], tape->after[i]);
    }
    if (n == 1) {
      layers_[0].forward(x, y, &tape->layers[0], pass);
    } else {
      layers_[n - 1].forward(tape->after[n - 2], y, &tape->layers[n - 1], pass);
    }
  }

  /// Adds the gradients of the trainable tensors, given x as in forward and dy = dL/dy. Sets dx, if
  /// given, to dL/dx; it must not overlap x or dy. Without dx, computes nothing below the lowest
  /// trained layer.
  /// Throws: ShapeError; Error if the tape does not belong to the model. All before anything
  ///   changes.
  /// Allocates: when T changes.
  void backward(In<S> x, In<S> dy, Tape& tape, Matrix<S>* dx = nullptr) {
    check_backward(x, dy, tape, dx);
    const std::size_t lowest = dx != nullptr ? 0 : lowest_trained();
    for (std::size_t i = lowest; i < layers_.size(); ++i) {  // before any gradient changes
      Matrix<S>* below = i > lowest ? &tape.gradients[i - 1] : i == 0 ? dx : nullptr;
      if (below != nullptr) set_size(*below, x.rows(), layers_[i].in_features());
      layers_[i].prepare_backward(tape.layers[i], below != nullptr);
    }
    for (std::size_t i = layers_.size(); i-- > lowest;) {
      using MatrixRef = Eigen::Ref<const Matrix<S>>;
      const MatrixRef input = i == 0 ? MatrixRef(x) : MatrixRef(tape.after[i - 1]);
      const MatrixRef g = i + 1 == layers_.size() ? MatrixRef(dy) : MatrixRef(tape.gradients[i]);
      if (i == lowest) {
        layers_[i].backward(input, g, tape.layers[i], i == 0 ? dx : nullptr);
        break;
      }
      Matrix<S>& below = tape.gradients[i - 1];
      layers_[i].backward(input, g, tape.layers[i], &below);
      activation_backward<S>(activation_, tape.before[i - 1], below, below);
    }
  }

  /// Calls fn(name, layer) for each layer, "layers.0" first.
  template <class Fn>
  void for_each_module(const NamePath& prefix, Fn&& fn) {
    for (std::size_t i = 0; i < layers_.size(); ++i)
      fn(NamePath(prefix, "layers", static_cast<Index>(i)), layers_[i]);
  }
  template <class Fn>
  void for_each_parameter(const NamePath& prefix, Fn&& fn) {
    for_each_module(
        prefix, [&fn](const NamePath& name, auto& layer) { layer.for_each_parameter(name, fn); });
  }

 private:
  /// Rejects a name that no layer knows: its rows would silently use the base model.
  void check_adapter_names(const Pass& pass) const {
    for (std::size_t t = 0; t < pass.adapter_names.size(); ++t) {
      const std::string& name = pass.adapter_names[t];
      if (name == base_adapter_name || (t > 0 && name == pass.adapter_names[t - 1])) continue;
      const auto knows = [&name](const LoRALinear<S>& layer) { return layer.knows(name); };
      if (std::any_of(layers_.begin(), layers_.end(), knows)) continue;
      throw ConfigError("MLP::forward: adapter_names[" + std::to_string(t) + "] is " +
                        in_quotes(name) +
                        ", expected \"__base__\" or an adapter of one of the layers");
    }
  }

  void check_backward(In<S> x, In<S> dy, const Tape& tape, const Matrix<S>* dx) const {
    if (layers_.empty() || tape.layers.size() != layers_.size()) {
      throw Error("MLP::backward: the tape has seen no forward of this model");
    }
    for (std::size_t i = 0; i < layers_.size(); ++i) layers_[i].check_tape(tape.layers[i]);
    expect_shape("MLP::backward", "x", x, tape.layers[0].rows, in_features());
    expect_shape("MLP::backward", "dy", dy, x.rows(), out_features());
    if (dx == nullptr) return;
    expect_apart<S>("MLP::backward", "dx", *dx, "x", x);
    expect_apart<S>("MLP::backward", "dx", *dx, "dy", dy);
  }

  std::size_t lowest_trained() {
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      if (count_parameters(layers_[i]).trainable > 0) return i;
    }
    return layers_.size();
  }

  std::vector<LoRALinear<S>> layers_;
  Activation activation_ = Activation::relu;
};

}  // namespace lora
