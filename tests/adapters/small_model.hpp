// A small model that has a layer of every kind that adapters can be put on, and some that they
// cannot.
#pragma once

#include <lora/adapters/lora_model.hpp>
#include <lora/layers/lora_conv2d.hpp>
#include <lora/layers/lora_embedding.hpp>
#include <lora/layers/lora_linear.hpp>

#include <cstdint>
#include <string>
#include <vector>

#include "layers/layer_tools.hpp"

namespace lora_test {

/// y ∘ weight + bias: a module with tensors of its own that is no layer for adapters.
template <class S>
struct Norm {
  lora::Parameter<S> weight, bias;
  const char* module_type() const { return "LayerNorm"; }
};
/// A module without tensors and without a type.
struct Rotary {};

/// embed → block.0.q + block.0.v → block.0.c → norm → head, and beside it conv and grouped over an
/// image. Sizes are odd and unequal. "lora_A.default" is a module whose name looks like an
/// adapter's tensor.
template <class S>
struct SmallModel {
  using Scalar = S;
  static constexpr lora::Index vocabulary = 11, width = 6, classes = 5;
  static constexpr lora::ImageSize image = {4, 5};

  lora::LoRAEmbedding<S> embed;
  lora::LoRALinear<S> q, v, c, odd, head;
  Norm<S> norm;
  Rotary rotary;
  lora::LoRAConv2d<S> conv, grouped;

  SmallModel() {
    const auto m = [](lora::Index rows, lora::Index cols, const char* name) {
      return random_matrix<S>(rows, cols, name, 0.4);
    };
    embed = lora::LoRAEmbedding<S>(m(vocabulary, width, "embed"));
    q = lora::LoRALinear<S>(m(width, width, "q"), m(1, width, "q bias"));
    v = lora::LoRALinear<S>(m(width, width, "v"));
    c = lora::LoRALinear<S>(lora::FrozenWeight<S>(m(width, 7, "c"), lora::Layout::in_out),
                            m(1, 7, "c bias"));
    odd = lora::LoRALinear<S>(m(7, 7, "odd"));
    head = lora::LoRALinear<S>(m(classes, 7, "head"), m(1, classes, "head bias"));
    norm = {lora::Parameter<S>::vector(m(1, 7, "norm")),
            lora::Parameter<S>::vector(m(1, 7, "norm bias"))};
    lora::Conv2dOptions options;
    options.kernel = {3, 2};
    options.padding = {1, 0};
    conv = lora::LoRAConv2d<S>(m(3, 2 * 3 * 2, "conv"), options, m(1, 3, "conv bias"));
    options.groups = 2;
    grouped = lora::LoRAConv2d<S>(m(4, 3 * 2, "grouped"), options);
  }

  std::string output_module() const { return "head"; }

  template <class Fn>
  void for_each_module(const lora::NamePath& prefix, Fn&& fn) {
    const lora::NamePath block(prefix, "block", 0);
    fn(lora::NamePath(prefix, "embed"), embed);
    fn(lora::NamePath(prefix, "rotary"), rotary);
    fn(lora::NamePath(block, "q"), q);
    fn(lora::NamePath(block, "v"), v);
    fn(lora::NamePath(block, "c"), c);
    fn(lora::NamePath(lora::NamePath(prefix, "lora_A"), "default"), odd);
    fn(lora::NamePath(prefix, "norm"), norm);
    fn(lora::NamePath(prefix, "conv"), conv);
    fn(lora::NamePath(prefix, "grouped"), grouped);
    fn(lora::NamePath(prefix, "head"), head);
  }
  template <class Fn>
  void for_each_parameter(const lora::NamePath& prefix, Fn&& fn) {
    for_each_module(prefix, [&](const lora::NamePath& name, auto& layer) {
      using Layer = std::remove_reference_t<decltype(layer)>;
      if constexpr (std::is_same_v<Layer, Norm<S>>) {
        fn(lora::NamePath(name, "weight"), layer.weight);
        fn(lora::NamePath(name, "bias"), layer.bias);
      } else if constexpr (!std::is_same_v<Layer, Rotary>) {
        layer.for_each_parameter(name, fn);
      }
    });
  }

  /// All outputs in one row.
  lora::Matrix<S> run() const {
    const std::vector<std::int64_t> ids = {3, 0, 10, 3, 7};
    const lora::Index T = static_cast<lora::Index>(ids.size());
    lora::Matrix<S> h(T, width), a(T, width), b(T, width), d(T, 7), e(T, 7), y(T, classes);
    embed.forward(ids, h);
    q.forward(h, a);
    v.forward(h, b);
    c.forward(a + b, d);
    odd.forward(d, e);
    for (lora::Index t = 0; t < T; ++t) {
      e.row(t) = e.row(t).cwiseProduct(norm.weight.value.row(0)) + norm.bias.value.row(0);
    }
    head.forward(e, y);
    const lora::Matrix<S> x = random_matrix<S>(2, 2 * image.pixels(), "image");
    const lora::Index pixels = lora::conv2d_output(conv.options(), image).pixels();
    lora::Matrix<S> z(2, 3 * pixels), g(2, 4 * pixels);
    conv.forward(x, image, z);
    grouped.forward(x, image, g);
    lora::Matrix<S> all(1, y.size() + z.size() + g.size());
    all << y.reshaped(1, y.size()), z.reshaped(1, z.size()), g.reshaped(1, g.size());
    return all;
  }
};

/// A config for some layers with an s that is not 1.
inline lora::LoRAConfig config_for(std::vector<std::string> targets, lora::Index r = 2,
                                   double alpha = 3) {
  lora::LoRAConfig config;
  config.r = r;
  config.lora_alpha = alpha;
  config.target_modules = std::move(targets);
  return config;
}
/// All layers that can be merged.
inline lora::LoRAConfig everything(lora::Index r = 2, double alpha = 3) {
  return config_for({"embed", "q", "v", "c", "default", "conv", "head"}, r, alpha);
}

/// Fills A, B, bias and the trained copies of an adapter with numbers that depend on its name, the
/// layer and `salt`.
template <class Model>
void fill_adapter(Model& model, const std::string& name, const std::string& salt = "") {
  using S = typename Model::Scalar;
  model.for_each_layer([&](const lora::NamePath& path, auto& layer) {
    const auto fill = [&](lora::Parameter<S>& p, const char* what) {
      if (p.empty()) return;
      p.value =
          random_matrix<S>(p.value.rows(), p.value.cols(), path.str() + what + name + salt, 0.3);
    };
    if (auto* adapter = layer.adapters().find(name)) {
      fill(adapter->A, ".A.");
      fill(adapter->B, ".B.");
      fill(adapter->bias, ".bias.");
    }
    if (auto* copy = layer.trained_copies().find(name)) {
      fill(copy->weight, ".copy.");
      fill(copy->bias, ".copy bias.");
    }
  });
}

template <class S>
void append_bytes(std::string& text, const lora::Matrix<S>& m) {
  text.append(reinterpret_cast<const char*>(m.data()),
              static_cast<std::size_t>(m.size()) * sizeof(S));
}

/// The state of everything that a call could change, so that "nothing changed" is one comparison:
/// each tensor with its name, bytes and training; each layer's weight, adapters and what is active
/// and merged.
template <class Model>
std::vector<std::string> snapshot(Model& model) {
  std::vector<std::string> state;
  model.for_each_parameter("", [&](const lora::NamePath& name, auto& p) {
    state.push_back(name.str() + (p.trainable ? " trained " : " frozen ") +
                    std::to_string(p.grad.size()) + " ");
    append_bytes(state.back(), p.value);
  });
  model.for_each_layer([&](const lora::NamePath& path, auto& layer) {
    std::string text = path.str() + (layer.adapters().enabled() ? " on" : " off");
    for (const auto& adapter : layer.adapters().all())
      text += " " + adapter.name + " " + std::to_string(adapter.scaling);
    text += " active:";
    for (const std::string& name : layer.adapters().active()) text += " " + name;
    text += " merged:";
    for (const std::string& name : layer.adapters().merged()) text += " " + name;
    append_bytes(text, layer.weight().stored());
    state.push_back(text);
  });
  for (const std::string& name : model.adapter_names()) state.push_back("adapter " + name);
  for (const std::string& name : model.active_adapters()) state.push_back("active " + name);
  return state;
}

/// The names of the tensors that are trained.
template <class Model>
std::vector<std::string> trained_names(Model& model) {
  std::vector<std::string> names;
  model.for_each_parameter("", [&](const lora::NamePath& name, auto& p) {
    if (p.trainable) names.push_back(name.str());
  });
  return names;
}
template <class Model>
std::vector<std::string> parameter_names(Model& model) {
  std::vector<std::string> names;
  model.for_each_parameter("",
                           [&](const lora::NamePath& name, auto&) { names.push_back(name.str()); });
  return names;
}

}  // namespace lora_test
