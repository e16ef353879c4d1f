// A base model made of the names and shapes of a checkpoint, without the computation.
#pragma once

#include <lora/io/safetensors/safetensors.hpp>
#include <lora/layers/lora_embedding.hpp>
#include <lora/layers/lora_linear.hpp>

#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace lora_test {
using namespace lora;

/// A checkpoint of Hugging Face as a list of layers by name, without the computation between them.
struct Checkpoint {
  using Scalar = float;
  struct Layer {
    std::string name;
    std::variant<LoRALinear<float>, LoRAEmbedding<float>> layer;
  };
  std::vector<Layer> layers;
  std::vector<std::pair<std::string, Parameter<float>>> others;

  std::string output_module() const { return "lm_head"; }
  template <class Fn>
  void for_each_module(const NamePath& prefix, Fn&& fn) {
    for (Layer& one : layers) {
      std::visit([&](auto& layer) { fn(NamePath(prefix, one.name), layer); }, one.layer);
    }
  }
  template <class Fn>
  void for_each_parameter(const NamePath& prefix, Fn&& fn) {
    for_each_module(prefix,
                    [&](const NamePath& name, auto& layer) { layer.for_each_parameter(name, fn); });
    for (auto& [name, parameter] : others) fn(NamePath(prefix, name), parameter);
  }

  explicit Checkpoint(const std::filesystem::path& folder) {
    std::map<std::string, Matrix<float>> tensors;
    std::map<std::string, std::vector<Index>> shapes;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      if (entry.path().extension() != ".safetensors") continue;
      const SafetensorsFile file = SafetensorsFile::open(entry.path());
      for (const std::string& name : file.names()) {
        tensors[name] = file.matrix<float>(name);
        shapes[name] = file.info(name).shape;
      }
    }
    std::set<std::string> used;
    std::optional<FrozenWeight<float>> embedding;
    for (const auto& [name, tensor] : tensors) {
      if (!name.ends_with(".weight")) continue;
      const std::string module = name.substr(0, name.size() - 7),
                        last = module.substr(module.rfind('.') + 1);
      if (last == "embed_tokens" || last == "wte" || last == "wpe") {
        const FrozenWeight<float> table(tensor);
        if (last != "wpe") embedding = table;
        layers.push_back({module, LoRAEmbedding<float>(table)});
      } else if (last == "lm_head" || last.ends_with("_proj") || last.starts_with("c_")) {
        const bool conv1d = module.find(".h.") != module.npos;
        const auto bias = tensors.find(module + ".bias");
        layers.push_back(
            {module, LoRALinear<float>(
                         FrozenWeight<float>(tensor, conv1d ? Layout::in_out : Layout::out_in),
                         bias == tensors.end() ? Matrix<float>() : bias->second)});
        used.insert(module + ".bias");
      } else {
        continue;
      }
      used.insert(name);
    }
    if (tensors.count("lm_head.weight") == 0)
      layers.push_back({"lm_head", LoRALinear<float>(embedding.value())});
    for (const auto& [name, tensor] : tensors) {
      if (used.count(name) == 0) others.emplace_back(name, Parameter<float>(tensor, shapes[name]));
    }
  }
};

}  // namespace lora_test
