// A model small enough to be trained in a test, and data for it.
#pragma once

#include <lora/adapters/lora_model.hpp>
#include <lora/models/mlp.hpp>
#include <lora/nn/losses.hpp>
#include <lora/train/trainer.hpp>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "support/messages.hpp"

namespace lora_test {
using namespace lora;

/// Rows of inputs, and the class of each; -100 does not count.
struct Rows {
  Matrix<float> x;
  std::vector<std::int64_t> labels;
};

using Toy = LoRAModel<MLP<float>>;

inline Toy toy_model(double dropout = 0) {
  LoRAConfig config;
  config.r = 3;
  config.lora_alpha = 6;
  config.lora_dropout = dropout;
  config.target_modules = std::vector<std::string>{"layers.0", "layers.1"};
  return Toy(MLP<float>({5, 7, 4}, Activation::tanh, 1), config);
}

/// n examples of 1 to 3 rows, some of which do not count.
inline std::vector<Rows> toy_data(Index n, std::uint64_t seed = 5) {
  std::vector<Rows> data;
  const RandomStream random(seed, "rows");
  for (Index i = 0; i < n; ++i) {
    Rows rows;
    rows.x.resize(1 + i % 3, 5);
    fill_normal(rows.x, RandomStream(seed, "x" + std::to_string(i)), 1.0);
    for (Index t = 0; t < rows.x.rows(); ++t) {
      const bool counts = (i + t) % 5 != 4;
      rows.labels.push_back(counts ? (rows.x(t, 0) > 0) + 2 * (rows.x(t, 1) > 0) : -100);
    }
    data.push_back(std::move(rows));
  }
  return data;
}

/// Cross entropy of the network's outputs.
inline TrainingTask<Toy, Rows> toy_task() {
  TrainingTask<Toy, Rows> task;
  const auto tape = std::make_shared<MLP<float>::Tape>();
  task.loss = [tape](Toy& model, std::span<const Rows* const> batch, const BatchRequest& request) {
    Index rows = 0;
    std::vector<std::int64_t> labels;
    for (const Rows* one : batch) rows += one->x.rows();
    Matrix<float> x(rows, 5), y(rows, 4);
    rows = 0;
    for (const Rows* one : batch) {
      x.middleRows(rows, one->x.rows()) = one->x;
      rows += one->x.rows();
      labels.insert(labels.end(), one->labels.begin(), one->labels.end());
    }
    model.base().forward(x, y, tape.get(), request.pass);
    CrossEntropyOptions options;
    options.num_items = request.num_items;
    const auto found = cross_entropy<float>(y, labels, y, options);
    if (request.gradient) model.base().backward(x, y, *tape);
    return BatchLoss{found.loss, found.counted};
  };
  task.counted = [](const Rows& one) {
    return static_cast<Index>(std::count_if(one.labels.begin(), one.labels.end(),
                                            [](std::int64_t label) { return label != -100; }));
  };
  task.length = [](const Rows& one) { return one.x.rows(); };
  return task;
}

/// A short run: 26 examples, batches of 3, two a step, so 5 steps a pass; the last has one batch.
inline TrainingArguments toy_arguments(const std::filesystem::path& output = {}) {
  TrainingArguments a;
  a.output_dir = output.string();
  a.per_device_train_batch_size = 3;
  a.gradient_accumulation_steps = 2;
  a.num_train_epochs = 3;
  a.learning_rate = 1e-2;
  a.warmup_steps = 2;
  a.logging_steps = 1;
  a.save_steps = 4;
  if (output.empty()) a.save_strategy = IntervalStrategy::no;
  return a;
}
inline std::vector<Rows> toy_examples() { return toy_data(26); }
using ToyTrainer = Trainer<Toy, Rows>;

/// Every trained number of a model.
inline std::vector<float> trained(Toy& model) {
  std::vector<float> all;
  model.for_each_parameter("", [&](const NamePath&, Parameter<float>& p) {
    if (p.trainable) all.insert(all.end(), p.value.data(), p.value.data() + p.value.size());
  });
  return all;
}

inline std::string content(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace lora_test
