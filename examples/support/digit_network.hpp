// The network that reads digits: its accuracy and its file.
#pragma once

#include "digit_set.hpp"

#include <lora/io/safetensors/safetensors.hpp>
#include <lora/lora.hpp>

#include <filesystem>

namespace examples {

using Network = lora::MLP<float>;

/// Returns the layer sizes, such as "784-256-128-10".
inline std::string shape_words(const Network& network) {
  std::string words = std::to_string(network.in_features());
  for (const auto& layer : network.layers()) words += "-" + std::to_string(layer.out_features());
  return words;
}

/// The number of weights and biases, trained or not.
inline Index network_size(const Network& network) {
  Index size = 0;
  for (const auto& layer : network.layers()) size += layer.weight().size() + layer.bias().size();
  return size;
}

/// Computes the percentage of images whose largest logit is that of their label.
inline double accuracy(const Network& network, const DigitSet& set) {
  constexpr Index batch = 500;
  Network::Tape tape;
  lora::Matrix<float> logits;
  Index right = 0;
  for (Index first = 0; first < set.size(); first += batch) {
    const Index count = std::min(batch, set.size() - first);
    logits.resize(count, network.out_features());
    network.forward(set.images.middleRows(first, count), logits, &tape);
    for (Index n = 0; n < count; ++n) {
      Index digit = 0;
      logits.row(n).maxCoeff(&digit);
      right += digit == set.labels[static_cast<std::size_t>(first + n)] ? 1 : 0;
    }
  }
  return 100.0 * static_cast<double>(right) / static_cast<double>(std::max<Index>(set.size(), 1));
}

/// What a network's file records besides the weights.
struct NetworkOrigin {
  std::string digits;  ///< what it was trained on
  std::string seed;
};

/// Writes "layers.N.weight" and "layers.N.bias" atomically, as they act without adapters: the
/// trained copies, else the frozen values.
/// Throws: lora::IoError.
inline void save_network(const Network& network, const std::filesystem::path& path,
                         const NetworkOrigin& origin) {
  lora::SafetensorsWriter writer;
  writer.set_metadata("format", "pt");
  writer.set_metadata("digits", origin.digits);
  writer.set_metadata("seed", origin.seed);
  for (std::size_t i = 0; i < network.layers().size(); ++i) {
    const auto& layer = network.layers()[i];
    const auto* trained = layer.trained_copies().acting();
    const std::string name = "layers." + std::to_string(i);
    const lora::Matrix<float>& bias = trained != nullptr ? trained->bias.value : layer.bias().value;
    writer.add(name + ".weight",
               trained != nullptr ? trained->weight.value : layer.weight().stored(),
               lora::DType::F32);
    writer.add(name + ".bias", bias, lora::DType::F32, {bias.size()});
  }
  writer.write(path);
}

/// Reads a network that save_network() wrote, for images of `pixels` values.
/// Throws: lora::IoError; lora::FormatError if the file contains anything else or the network is
///   for images of another size.
inline Network load_network(const std::filesystem::path& path, Index pixels,
                            NetworkOrigin& origin) {
  const lora::SafetensorsFile file = lora::SafetensorsFile::open(path);
  const auto refuse = [&path](const std::string& what) {
    throw lora::FormatError(path.string() + ": " + what);
  };
  std::vector<lora::LoRALinear<float>> layers;
  Index inputs = pixels;
  for (std::size_t i = 0; 2 * i < file.names().size(); ++i) {
    const std::string name = "layers." + std::to_string(i);
    for (const std::string& part : {name + ".weight", name + ".bias"}) {
      if (!file.contains(part))
        refuse("has no " + part + ", so it is not a network of this program");
    }
    const std::vector<Index> shape = file.info(name + ".weight").shape;
    if (shape.size() != 2 || shape[0] < 1 || shape[1] != inputs) {
      refuse(name + ".weight is " + lora::shape_text(shape) + ", expected [O, " +
             std::to_string(inputs) + "]" + (i == 0 ? " for these images" : ""));
    }
    if (file.info(name + ".bias").shape != std::vector<Index>{shape[0]}) {
      refuse(name + ".bias is " + lora::shape_text(file.info(name + ".bias").shape) +
             ", expected [" + std::to_string(shape[0]) + "]");
    }
    layers.emplace_back(file.matrix<float>(name + ".weight"), file.matrix<float>(name + ".bias"));
    const auto& layer = layers.back();
    if (!layer.weight().all_finite() || !layer.bias().value.allFinite()) {
      refuse(name + " has values that are not finite");
    }
    inputs = shape[0];
  }
  if (layers.empty() || inputs != 10)
    refuse("ends in " + std::to_string(inputs) + " outputs, expected 10");
  const auto word = [&file](const char* key) {
    const auto found = file.metadata().find(key);
    return found == file.metadata().end() ? std::string() : found->second;
  };
  origin = {word("digits"), word("seed")};
  return Network(std::move(layers));
}

}  // namespace examples
