// A training checkpoint: trainer_state.json, then the header of training_state.safetensors, then
// letters that choose its numbers, a zero byte between them. What is read is written again as the
// same, and a run that goes on from it does its steps or says why not.
#include <lora/train/trainer.hpp>

#include <bit>
#include <limits>

#include "folder.hpp"
#include "fuzz.hpp"
#include "json_mutator.hpp"

namespace {
using namespace lora;
using lora_fuzz::expect;

/// A model of two trained tensors and a frozen one; the loss is the sum of the trained ones.
struct Toy {
  using Scalar = float;
  Parameter<float> w, b, base;

  Toy() {
    const auto set = [](Parameter<float>& p, Index rows, Index cols, bool trainable) {
      p.value = Matrix<float>::Ones(rows, cols);
      p.shape = {rows, cols};
      p.set_trainable(trainable);
    };
    set(w, 2, 3, true);
    set(b, 1, 2, true);
    set(base, 2, 2, false);
  }
  template <class Fn>
  void for_each_parameter(const NamePath& path, Fn&& fn) {
    fn(NamePath(path, "w"), w);
    fn(NamePath(path, "b"), b);
    fn(NamePath(path, "base"), base);
  }
};

TrainingTask<Toy, int> task() {
  TrainingTask<Toy, int> task;
  task.loss = [](Toy& model, std::span<const int* const>, const BatchRequest& request) {
    if (request.gradient) {
      model.w.grad.setOnes();
      model.b.grad.setOnes();
    }
    return BatchLoss{static_cast<double>(model.w.value.sum() + model.b.value.sum()), 1};
  };
  return task;
}

// The file that this header begins, if it is small enough; each letter is one word of its data.
std::string tensors(std::string_view header, std::string_view letters) {
  std::uint64_t end = 0;
  const Json json = Json::parse(header, nullptr, false);
  if (json.is_object()) {
    for (const Json& one : json) {
      if (!one.is_object() || !one.contains("data_offsets")) continue;
      for (const Json& offset : one["data_offsets"])
        if (offset.is_number_unsigned()) end = std::max(end, offset.get<std::uint64_t>());
    }
  }
  const auto floats = [](float a, float b) {
    return std::uint64_t{std::bit_cast<std::uint32_t>(a)} |
           std::uint64_t{std::bit_cast<std::uint32_t>(b)} << 32;
  };
  constexpr float inf = std::numeric_limits<float>::infinity();
  const std::uint64_t numbers[] = {1,
                                   2,
                                   0,
                                   ~std::uint64_t{0},
                                   ~std::uint64_t{0} >> 1,
                                   std::uint64_t{1} << 53,
                                   floats(1, 0.5f),
                                   floats(-1, 1e-30f),
                                   floats(inf, -inf),
                                   floats(1e38f, 3)};
  std::string file;
  const auto put = [&](std::uint64_t x) {
    for (int i = 0; i < 8; ++i) file += static_cast<char>(x >> 8 * i);
  };
  put(header.size());
  file += header;
  if (end > 4096) end = 8;
  for (std::uint64_t at = 0; at < end; at += 8)
    put(numbers[letters.empty() ? 0
                                : static_cast<unsigned char>(letters[at / 8 % letters.size()]) %
                                      std::size(numbers)]);
  file.resize(8 + header.size() + end);
  return file;
}

void read_again(const TrainingCheckpoint<float>& checkpoint) {
  const std::string text = python_json(state_json(checkpoint.state), "again");
  expect(state_from_json(parse_json(text, "again"), "again") == checkpoint.state,
         "another state when written again");
}

void go_on(const std::filesystem::path& path) {
  TrainingArguments arguments;
  arguments.max_steps = 5;
  arguments.logging_steps = 2;
  arguments.eval_strategy = IntervalStrategy::steps;
  arguments.eval_steps = 2;
  arguments.lr_scheduler_type = "constant";
  Toy model;
  Trainer<Toy, int> trainer(model, arguments, task(), {1, 2, 3}, {4});
  trainer.add_callback(std::make_shared<EarlyStoppingCallback>(2));
  const TrainOutput output = trainer.train(path);
  for (const std::string& warning : output.warnings) lora_fuzz::expect_text(warning);
  expect(output.global_step >= 0, "a step below 0");
  python_json(state_json(trainer.state()), "after");
}

void read(std::string_view all) {
  static const lora_fuzz::TemporaryFolder folder;
  lora_fuzz::Parts parts(all);
  const std::string_view state = parts.next(), header = parts.next();
  folder.write(folder.path / trainer_state_file, state);
  folder.write(folder.path / training_tensors_file, tensors(header, parts.rest()));
  read_again(read_training_checkpoint<float>(folder.path));
  go_on(folder.path);
}

}  // namespace

std::span<const std::string_view> lora_fuzz::words() {
  static constexpr std::string_view all[] = {"global_step",
                                             "max_steps",
                                             "epoch",
                                             "num_input_tokens_seen",
                                             "non_finite_steps",
                                             "non_finite_in_row",
                                             "loss_sum",
                                             "loss_steps",
                                             "unlogged_loss_sum",
                                             "unlogged_loss_steps",
                                             "best_metric",
                                             "best_global_step",
                                             "log_history",
                                             "callbacks",
                                             "EarlyStoppingCallback",
                                             "waited",
                                             "best",
                                             "arguments",
                                             "data",
                                             "facts",
                                             "seed",
                                             "learning_rate",
                                             "per_device_train_batch_size",
                                             "value.w",
                                             "value.b",
                                             "value.base",
                                             "exp_avg.w",
                                             "exp_avg.b",
                                             "exp_avg_sq.w",
                                             "exp_avg_sq.b",
                                             "step.w",
                                             "step.b",
                                             "step",
                                             "step.",
                                             "value",
                                             "dtype",
                                             "shape",
                                             "data_offsets",
                                             "F32",
                                             "I64",
                                             "I32",
                                             "F64",
                                             "__metadata__"};
  return all;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::vector<std::byte> bytes = lora_fuzz::bytes_of(data, size);
  lora_fuzz::try_input([&] { read(as_text(bytes)); });
  return 0;
}
