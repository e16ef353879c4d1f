// Whole training runs of language models against PyTorch and PEFT.
#include <lora/io/hf/hf_checkpoint.hpp>
#include <lora/models/causal_lm.hpp>
#include <lora/train/language_model_task.hpp>
#include <lora/train/trainer.hpp>

#include <gtest/gtest.h>

#include "support/golden.hpp"
#include "support/shared.hpp"
#include "support/threads.hpp"

namespace language_model_task_test {
using namespace lora;
namespace fs = std::filesystem;

struct Example {
  std::vector<std::int64_t> ids, labels;
};
using Model = LoRAModel<CausalLM<float>>;

/// The rows of all micro-batches, one after the other, and how many make one.
struct Data {
  std::vector<Example> rows;
  Index batch = 0;
  explicit Data(const fs::path& path) {
    const SafetensorsFile file = SafetensorsFile::open(path);
    const auto ids = file.integers("input_ids"), labels = file.integers("labels");
    const std::vector<Index> shape = file.info("input_ids").shape;
    batch = shape[1];
    const auto length = static_cast<std::ptrdiff_t>(shape[2]);
    for (auto i = ids.begin(), l = labels.begin(); i != ids.end(); i += length, l += length)
      rows.push_back({{i, i + length}, {l, l + length}});
  }
};

/// The adapter of a golden case before its training.
Model before_training(const lora_test::GoldenModel& golden) {
  LoRAConfig config = PeftAdapter::open(golden.adapter).config();
  config.inference_mode = false;
  Model model(load_model<CausalLM<float>>(golden.base), config);
  load_adapter_file(model, golden.folder / "adapter_init.safetensors");
  return model;
}

TrainingArguments arguments_of(const Json& training, Index batch) {
  TrainingArguments a;
  a.per_device_train_batch_size = batch;
  a.gradient_accumulation_steps = training.at("gradient_accumulation_steps").get<Index>();
  a.max_steps = training.at("steps").get<Index>();
  a.learning_rate = training.at("learning_rate").get<double>();
  a.adam_beta1 = training.at("betas").at(0).get<double>();
  a.adam_beta2 = training.at("betas").at(1).get<double>();
  a.adam_epsilon = training.at("eps").get<double>();
  a.weight_decay = training.at("weight_decay").get<double>();
  a.lr_scheduler_type = training.at("lr_scheduler_type").get<std::string>();
  a.warmup_steps = training.at("warmup_steps").get<Index>();
  a.max_grad_norm = training.at("max_grad_norm").get<double>();
  a.train_sampling_strategy = TrainSampling::sequential;
  a.logging_steps = 1;
  a.save_strategy = IntervalStrategy::no;
  return a;
}

TrainerOptions<Model> decay_of_everything() {
  TrainerOptions<Model> options;
  options.groups = {{"all", [](const auto&, const auto&) { return true; }, {}, {}}};
  return options;
}

// Loss, norm and rate agree to 1e-4 in each step. AdamW's first steps go by the sign of a gradient, also
// of one that is nearly zero, so single elements of the adapter may be off by more: a tenth of a
// percent of its largest.
void check_training(const lora_test::GoldenModel& golden) {
  const Json training = lora_test::read_golden_json(golden.folder / "golden.json").at("training");
  const Data data(golden.folder / "batches.safetensors");
  Model model = before_training(golden);
  Trainer<Model, Example> trainer(model, arguments_of(training, data.batch),
                                  language_model_task<Model, Example>(), data.rows, {},
                                  decay_of_everything());
  const TrainOutput output = trainer.train();
  const Json& trajectory = training.at("trajectory");
  ASSERT_EQ(static_cast<std::size_t>(output.global_step), trajectory.size());
  for (std::size_t i = 0; i < trajectory.size(); ++i) {
    const Json& entry = trainer.state().log_history[i];
    const auto check = [&](const char* field) {
      const double want = trajectory[i].at(field).get<double>(),
                   got = entry.at(field).get<double>();
      EXPECT_LE(std::abs(got - want), 1e-4 * std::abs(want)) << field << " of step " << i + 1;
    };
    for (const char* field : {"loss", "grad_norm", "learning_rate"}) check(field);
  }
  const SafetensorsFile after = SafetensorsFile::open(golden.adapter / peft_weights_file);
  EXPECT_EQ(adapter_tensors(model).size(), after.names().size());
  for (const auto& [key, parameter] : adapter_tensors(model))
    lora_test::expect_close(parameter->value, after.matrix<float>(key), 1e-3, key);
}

TEST(GoldenTraining, IsThatOfPEFT) { lora_test::for_each_golden_model(check_training); }

/// A small model of our own, for what no golden file says.
CausalLMConfig small_config() {
  LlamaConfig c;
  c.vocab_size = 37;
  c.hidden_size = 12;
  c.intermediate_size = 20;
  c.num_hidden_layers = 2;
  c.num_attention_heads = 3;
  c.num_key_value_heads = 1;
  c.head_dim = 4;
  c.max_position_embeddings = 64;
  return c;
}
Model small_model() {
  LoRAConfig config;
  config.target_modules = std::string("all-linear");
  config.lora_dropout = 0.1;
  return Model(CausalLM<float>(small_config(), RandomWeights<float>{2}), config);
}
std::vector<Example> small_data() {
  std::vector<Example> data;
  const RandomStream random(4, "ids");
  std::uint64_t drawn = 0;
  for (Index i = 0; i < 20; ++i) {
    Example one;
    for (Index t = 0; t < 2 + i % 7; ++t) {
      one.ids.push_back(random.below(drawn++, 37));
      one.labels.push_back(t % 4 == 2 ? -100 : one.ids.back());
    }
    data.push_back(one);
  }
  return data;
}
TrainingArguments small_arguments() {
  TrainingArguments a;
  a.per_device_train_batch_size = 4;
  a.num_train_epochs = 2;
  a.learning_rate = 1e-2;
  a.save_steps = 3;
  a.logging_steps = 1;
  return a;
}
std::vector<float> values_of(Model& model) {
  std::vector<float> all;
  model.for_each_parameter("", [&](const NamePath&, Parameter<float>& p) {
    if (p.trainable) all.insert(all.end(), p.value.data(), p.value.data() + p.value.size());
  });
  return all;
}

TEST(LanguageModelTask, CountsTheLabelsThatTheLossCounts) {
  Model model = small_model();
  const auto task = language_model_task<Model, Example>();
  Index counted = 0;
  std::vector<const Example*> all;
  const std::vector<Example> data = small_data();
  for (const Example& one : data) {
    all.push_back(&one);
    counted += task.counted(one);
    EXPECT_EQ(task.length(one), static_cast<Index>(one.ids.size()));
  }
  EXPECT_EQ(task.loss(model, all, {.gradient = false}).counted, counted);
}

// A row with several sequences is the sequences by themselves.
TEST(LanguageModelTask, TakesPackedRows) {
  struct Packed {
    std::vector<std::int64_t> ids, labels;
    std::vector<Index> lengths;
  };
  const std::vector<Example> data = small_data();
  Packed row;
  std::vector<const Example*> all;
  for (const Example& one : data) {
    all.push_back(&one);
    row.ids.insert(row.ids.end(), one.ids.begin(), one.ids.end());
    row.labels.insert(row.labels.end(), one.labels.begin(), one.labels.end());
    row.lengths.push_back(static_cast<Index>(one.ids.size()));
  }
  Model model = small_model();
  const auto task = language_model_task<Model, Packed>();
  const Packed* one = &row;
  const BatchLoss packed = task.loss(model, std::span(&one, 1), {.gradient = false});
  const BatchLoss apart =
      language_model_task<Model, Example>().loss(model, all, {.gradient = false});
  EXPECT_EQ(packed.loss, apart.loss);
  EXPECT_EQ(packed.counted, task.counted(row));
}

TEST(LanguageModelTask, GivesTheSameBytesForThreadsCheckpointingAndResuming) {
  const lora_test::TemporaryFolder folder;
  std::vector<std::vector<float>> results;
  for (const int threads : {1, 3}) {
    const lora_test::Threads limit(threads);
    for (const bool checkpointing : {false, true}) {
      Model model = small_model();
      TrainingArguments a = small_arguments();
      a.output_dir =
          (folder.path / (std::to_string(threads) + std::to_string(checkpointing))).string();
      const auto task =
          language_model_task<Model, Example>({.gradient_checkpointing = checkpointing});
      Trainer<Model, Example>(model, a, task, small_data()).train();
      results.push_back(values_of(model));
      Model resumed = small_model();
      Trainer<Model, Example>(resumed, a, task, small_data())
          .train(checkpoint_path(a.output_dir, 6));
      results.push_back(values_of(resumed));
    }
  }
  for (const auto& result : results) EXPECT_EQ(result, results[0]);
}

TEST(LanguageModelTask, TrainsAWholeModel) {
  CausalLM<float> model(small_config(), RandomWeights<float>{2});
  model.for_each_parameter("", [](const NamePath&, Parameter<float>& p) { p.set_trainable(true); });
  for_each_adapter_layer(model, [](const NamePath&, auto& layer) { layer.train_base(); });
  TrainingArguments a = small_arguments();
  a.save_strategy = IntervalStrategy::no;
  a.num_train_epochs = 40;
  Trainer<CausalLM<float>, Example> trainer(
      model, a, language_model_task<CausalLM<float>, Example>(), small_data(), small_data());
  const double before = trainer.evaluate()["eval_loss"].get<double>();
  const TrainingNeeds needs = trainer.needs();
  EXPECT_EQ(needs.trainable, needs.parameters);
  EXPECT_GT(needs.activations.value(), 10000u);
  trainer.train();
  EXPECT_LT(trainer.evaluate()["eval_loss"].get<double>(), 0.3 * before);
}

TEST(LanguageModelTask, SaysWhatIsWrongWithAnExample) {
  Model model = small_model();
  const auto fault = [&](const Example& bad) {
    try {
      TrainingArguments a = small_arguments();
      a.save_strategy = IntervalStrategy::no;
      Trainer<Model, Example>(model, a, language_model_task<Model, Example>(), {bad}).train();
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("nothing was thrown");
  };
  const auto has = [](const std::string& text, const char* part) {
    EXPECT_NE(text.find(part), std::string::npos) << text;
  };
  has(fault({{1, 37, 2}, {1, 2, 2}}), "37");
  has(fault({{1, 3, 2}, {1, 2, 99}}), "99");
  has(fault({{1, 3, 2}, {1, 2}}), "2 labels, expected one for each of 3 ids");
}

}  // namespace language_model_task_test
