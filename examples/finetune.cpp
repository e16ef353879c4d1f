// Fine-tuning a language model with LoRA: a folder as transformers has it and a file of instructions
// in, an adapter as PEFT has it out.
//   finetune --model DIR --data FILE --output DIR
#include <lora/io/hf_checkpoint.hpp>
#include <lora/io/pretrained.hpp>
#include <lora/io/save_model.hpp>
#include <lora/lora.hpp>
#include <lora/models/causal_lm.hpp>
#include <lora/text/tokenizer_files.hpp>
#include <lora/train/language_model_task.hpp>
#include <lora/train/layer_report.hpp>
#include <lora/train/live_line.hpp>
#include <lora/train/trainer.hpp>

#include "support/finetune_data.hpp"
#include "support/finetune_report.hpp"

#include <unistd.h>

#include <csignal>
#include <iostream>

namespace {

using namespace examples;
using LM = lora::CausalLM<float>;
using Model = lora::LoRAModel<LM>;
using Trainer = lora::Trainer<Model, lora::PackedRow>;

std::atomic<bool> stop_asked{false};
static_assert(std::atomic<bool>::is_always_lock_free, "a signal's handler sets it");
extern "C" void ask_to_stop(int) { stop_asked = true; }

std::string option_text(const Json& json) {
  return json.is_string() ? json.get<std::string>() : json.dump();
}

class Finetune {
 public:
  explicit Finetune(FinetuneOptions options) : options_(std::move(options)) {}

  int run() {
    open();
    say(data_.text);
    make_trainer();
    print_settings();
    if (options_.training.eval_strategy != lora::IntervalStrategy::no)
      before_ = trainer_->evaluate();
    for (Sample& sample : samples_) first_answers_.push_back(answer_to(sample));
    const lora::TrainOutput result = train();
    if (!data_.eval.empty()) after_ = trainer_->evaluate();
    save();
    report(result);
    return result.reason == lora::StopReason::non_finite ? 2 : 0;
  }

 private:
  void say(const std::string& text) const { std::cout << text << std::flush; }

  void open() {
    lora::WeightOptions weights;
    if (options_.dtype == WeightType::bfloat16) weights.dtype = lora::Precision::bfloat16;
    LM base = lora::load_model<LM>(options_.model, weights);
    const Index vocabulary = base.vocab_size();
    const std::string type = base.model_type();
    if (!options_.ids.empty()) {
      data_ = read_finetune_ids(options_.ids, vocabulary,
                                options_.training.per_device_train_batch_size);
      options_.training.train_sampling_strategy = lora::TrainSampling::sequential;
    } else {
      tokenizer_.emplace(lora::Tokenizer::open(options_.model));
      data_ = read_finetune_data(options_, *tokenizer_, vocabulary, chat_);
      samples_ = samples_of(data_.questions, static_cast<std::size_t>(options_.samples));
    }
    if (data_.train.empty())
      throw lora::ConfigError("there is nothing to learn: no example is left");
    lora::LoadOptions load;
    load.is_trainable = true;
    load.seed = options_.training.seed;
    if (!options_.init_adapter.empty()) {
      auto [model, found] = lora::from_pretrained(std::move(base), options_.init_adapter, load);
      model_.emplace(std::move(model));
      for (const std::string& warning : found.warnings)
        std::cerr << "finetune: " << warning << "\n";
    } else {
      if (!options_.adapter.contains("task_type")) options_.adapter["task_type"] = "CAUSAL_LM";
      if (type == "gpt2" && !options_.adapter.contains("fan_in_fan_out"))
        options_.adapter["fan_in_fan_out"] = true;
      options_.adapter["peft_type"] = "LORA";
      const lora::PeftConfig config = lora::parse_peft_config(options_.adapter.dump(), "finetune");
      if (!config.unknown_fields.empty())
        throw lora::ConfigError(lora::in_quotes(config.unknown_fields[0]) +
                                " is no field of LoraConfig");
      model_.emplace(std::move(base), config.config);
    }
  }

  void make_trainer() {
    lora::TrainingArguments& arguments = options_.training;
    arguments.output_dir = (output() / "checkpoints").string();
    if (!data_.eval.empty() && arguments.eval_strategy == lora::IntervalStrategy::no)
      arguments.eval_strategy = lora::IntervalStrategy::epoch;
    lora::TrainerOptions<Model> trainer;
    trainer.stop = &stop_asked;
    trainer_.emplace(
        *model_, arguments,
        lora::language_model_task<Model, lora::PackedRow>({options_.gradient_checkpointing}),
        data_.train, data_.eval, trainer);
    trainer_->add_callback(std::make_shared<lora::JsonLinesLog>(log_path()));
    if (options_.layer_metrics) {
      trainer_->add_callback(std::make_shared<lora::LayerReport<LM>>(
          *model_, output() / "layers.jsonl", arguments.logging_steps));
    }
    if (options_.early_stopping_patience)
      trainer_->add_callback(
          std::make_shared<lora::EarlyStoppingCallback>(*options_.early_stopping_patience));
    if (!options_.quiet) {
      trainer_->add_callback(std::make_shared<lora::LiveLine>(
          std::cerr,
          isatty(STDERR_FILENO) != 0 ? lora::LineMode::rewrite : lora::LineMode::append));
    }
  }

  void print_settings() {
    const lora::LoRAConfig& config = model_->config();
    const Json lora_fields = lora::peft_config_fields(config),
               training = arguments_json(options_.training);
    const auto line = [&](const char* name, const Json& all,
                          std::initializer_list<const char*> names) {
      std::string text = name;
      for (const char* one : names)
        text += std::string(one) + " " + option_text(all.at(one)) + ", ";
      text.resize(text.size() - 2);
      say(text + "\n");
    };
    line("adapter      ", lora_fields,
         {"r", "lora_alpha", "lora_dropout", "target_modules", "bias"});
    line("training     ", training,
         {"learning_rate", "lr_scheduler_type", "warmup_ratio", "num_train_epochs", "max_steps",
          "per_device_train_batch_size", "gradient_accumulation_steps", "max_grad_norm",
          "weight_decay", "seed"});
    if (chat_) say("template     " + std::string(chat_->name()) + "\n");
    say(trainer_->needs().text());
  }

  lora::TrainOutput train() {
    std::signal(SIGINT, ask_to_stop);
    std::signal(SIGTERM, ask_to_stop);
    std::filesystem::path from = options_.resume_from_checkpoint;
    if (options_.resume_from_checkpoint == "last" || options_.resume_from_checkpoint == "true")
      from = trainer_->last_checkpoint();
    const lora::TrainOutput result = trainer_->train(from);
    std::signal(SIGINT, SIG_DFL);
    std::signal(SIGTERM, SIG_DFL);
    for (const std::string& warning : result.warnings) std::cerr << "finetune: " << warning << "\n";
    return result;
  }

  void save() {
    lora::SavePretrainedOptions adapter;
    adapter.base_model_name_or_path = options_.model;
    save_pretrained(*model_, output(), adapter);
    write_curves(output() / "curves.svg", trainer_->state().log_history,
                 "Fine-tuning " + std::filesystem::path(options_.model).filename().string());
    if (!options_.merge) return;
    Model merged = *model_;
    LM whole = merged.merge_and_unload();
    lora::SaveModelOptions model;
    model.base_directory = options_.model;
    const std::filesystem::path folder = output() / "merged";
    std::filesystem::remove_all(folder);
    save_pretrained(whole, folder, model);
  }

  void report(const lora::TrainOutput& result) {
    for (std::size_t i = 0; i < samples_.size(); ++i) {
      say("\nquestion  " + samples_[i].prompt + "\n  before  " + first_answers_[i] +
          "\n  after   " + answer_to(samples_[i]) + "\n  data    " + samples_[i].expected + "\n");
    }
    char line[160];
    std::snprintf(line, sizeof line, "\nsteps %td, mean loss of training %.4f\n",
                  result.global_step, result.training_loss);
    say(line);
    if (before_.is_object() && after_.is_object()) {
      std::snprintf(line, sizeof line,
                    "evaluation loss %.4f before, %.4f after (perplexity %.2f, %.2f)\n",
                    before_.value("eval_loss", 0.0), after_.value("eval_loss", 0.0),
                    before_.value("eval_perplexity", 0.0), after_.value("eval_perplexity", 0.0));
      say(line);
    }
    if (result.reason == lora::StopReason::requested)
      say("stopped as asked; --resume_from_checkpoint last goes on\n");
    if (result.reason == lora::StopReason::non_finite)
      std::cerr
          << "finetune: loss or gradient was not finite too many times in a row; the last good "
             "state is saved\n";
    say("adapter    " + output().string() + "\n" +
        (options_.merge ? "merged     " + (output() / "merged").string() + "\n" : "") +
        "log        " + log_path().string() + "\ncurves     " + (output() / "curves.svg").string() +
        "\n");
  }

  std::string answer_to(const Sample& sample) const {
    std::string text =
        answer(model_->base(), *tokenizer_, *chat_, sample.question, options_.max_new_tokens);
    std::replace(text.begin(), text.end(), '\n', ' ');
    return text;
  }
  std::filesystem::path output() const { return options_.output; }
  std::filesystem::path log_path() const {
    return options_.log.empty() ? output() / "log.jsonl" : std::filesystem::path(options_.log);
  }

  FinetuneOptions options_;
  std::optional<lora::Tokenizer> tokenizer_;
  std::optional<lora::ChatTemplate> chat_;
  FinetuneData data_;
  std::optional<Model> model_;
  std::optional<Trainer> trainer_;
  std::vector<Sample> samples_;
  std::vector<std::string> first_answers_;
  Json before_, after_;
};

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Fine-tunes a language model with LoRA.", "finetune");
  try {
    FinetuneOptions options = read_finetune_options(app, argc, argv);
    if (options.threads > 0) lora::set_num_threads(static_cast<int>(options.threads));
    return Finetune(std::move(options)).run();
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  } catch (const std::exception& error) {
    std::cerr << "finetune: " << error.what() << "\n";
    return 2;
  }
}
