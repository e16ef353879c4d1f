// Trains an adapter on given batches and prints a line of JSON for each step: ours in loss_curve.sh.
//   loss_curve BASE ADAPTER BATCHES.safetensors TRAINING.json
// BATCHES holds input_ids and labels of shape (micro-batches, rows, tokens), padded at the end, in
// the order of training. TRAINING holds the names of TrainingArguments.
#include <lora/io/hf/hf_checkpoint.hpp>
#include <lora/io/peft/pretrained.hpp>
#include <lora/models/causal_lm.hpp>
#include <lora/train/language_model_task.hpp>
#include <lora/train/trainer.hpp>

#include <cstdio>

namespace {

using Model = lora::LoRAModel<lora::CausalLM<float>>;

struct Example {
  std::vector<std::int64_t> ids, labels;
};

struct Batches {
  std::vector<Example> rows;  // of all micro-batches
  lora::Index size = 0;       // rows in a micro-batch
};

Batches read_batches(const char* path) {
  const lora::SafetensorsFile file = lora::SafetensorsFile::open(path);
  const std::vector<lora::Index> shape = file.info("input_ids").shape;
  if (shape.size() != 3 || file.info("labels").shape != shape)
    throw lora::FormatError(std::string(path) + ": expected input_ids and labels of one shape " +
                            "(micro-batches, rows, tokens)");
  const auto ids = file.integers("input_ids"), labels = file.integers("labels");
  Batches batches{{}, shape[1]};
  const auto tokens = static_cast<std::ptrdiff_t>(shape[2]);
  for (auto i = ids.begin(), l = labels.begin(); i != ids.end(); i += tokens, l += tokens) {
    Example row{{i, i + tokens}, {l, l + tokens}};
    while (!row.labels.empty() && row.labels.back() == -100) {  // what follows the answer
      row.ids.pop_back();
      row.labels.pop_back();
    }
    batches.rows.push_back(std::move(row));
  }
  return batches;
}

lora::TrainingArguments read_arguments(const char* path, lora::Index batch) {
  const std::vector<std::byte> bytes = lora::read_file(path, std::uint64_t{1} << 20);
  lora::TrainingArguments arguments;
  lora::set_from_json(arguments, lora::parse_json(lora::as_text(bytes), path), path);
  arguments.per_device_train_batch_size = batch;
  arguments.train_sampling_strategy = lora::TrainSampling::sequential;
  arguments.logging_steps = 1;
  arguments.save_strategy = lora::IntervalStrategy::no;
  return arguments;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 5) {
    std::fprintf(stderr, "usage: loss_curve BASE ADAPTER BATCHES.safetensors TRAINING.json\n");
    return 2;
  }
  const Batches batches = read_batches(argv[3]);
  auto [model, report] = lora::from_pretrained(lora::load_model<lora::CausalLM<float>>(argv[1]),
                                               argv[2], {.is_trainable = true});
  lora::TrainerOptions<Model> options;  // decays DoRA's magnitudes too, as torch.optim.AdamW does
  options.groups = {{"all", [](const auto&, const auto&) { return true; }, {}, {}}};
  lora::Trainer<Model, Example> trainer(model, read_arguments(argv[4], batches.size),
                                        lora::language_model_task<Model, Example>(), batches.rows,
                                        {}, options);
  const lora::TrainOutput output = trainer.train();
  for (std::size_t i = 0; i < static_cast<std::size_t>(output.global_step); ++i) {
    const lora::Json& entry = trainer.state().log_history[i];
    const lora::Json line = {{"step", entry.at("step")},
                             {"loss", entry.at("loss")},
                             {"grad_norm", entry.at("grad_norm")}};
    std::printf("%s\n", line.dump().c_str());
  }
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return 0;
  std::fprintf(stderr, "loss_curve: standard output: could not be written to the end\n");
  return 1;
} catch (const std::exception& error) {
  std::fprintf(stderr, "loss_curve: %s\n", error.what());
  return 1;
}
