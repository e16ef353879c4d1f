// lora finetune: trains an adapter on instruction files. Reads a model folder of transformers, and
// writes an adapter folder of PEFT.
#pragma once

#include "finetune_data.hpp"
#include "finetune_report.hpp"
#include "resume_option.hpp"
#include "support/model_folder.hpp"
#include "support/output_path.hpp"
#include "support/program.hpp"
#include "support/stop_signals.hpp"

#include <lora/io/hf/checkpoint_merge.hpp>
#include <lora/io/hf/hf_checkpoint.hpp>
#include <lora/io/peft/pretrained.hpp>
#include <lora/lora.hpp>
#include <lora/models/causal_lm.hpp>
#include <lora/text/tokenizer/tokenizer_files.hpp>
#include <lora/train/language_model_task.hpp>
#include <lora/train/layer_report.hpp>
#include <lora/train/live_line.hpp>
#include <lora/train/trainer.hpp>

#include <unistd.h>

#include <csignal>
#include <iostream>

namespace tools {

namespace detail {

inline std::atomic<bool> stop_asked{false};
inline std::atomic<int> stop_signal{0};
static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<int>::is_always_lock_free,
              "a signal handler sets them");
extern "C" inline void ask_to_stop(int signal) {
  stop_signal = signal;
  stop_asked = true;
}

inline std::string option_text(const Json& json) {
  return json.is_string() ? json.get<std::string>() : json.dump();
}

}  // namespace detail

/// One run of the command.
class Finetune {
 public:
  explicit Finetune(FinetuneOptions options) : options_(std::move(options)) {}

  int run() {
    open();
    say(data_.text);
    warn(data_.warnings);
    make_trainer();
    print_settings();
    hold_output();
    if (options_.training.eval_strategy != lora::IntervalStrategy::no)
      before_ = trainer_->evaluate();
    for (Sample& sample : samples_) first_answers_.push_back(answer_to(sample));
    const lora::TrainOutput result = train();
    if (!data_.eval.empty()) after_ = trainer_->evaluate();
    // A stopped run can be resumed: its merged model would be half trained, and in the way.
    merges_ = options_.merge && result.reason != lora::StopReason::requested;
    save();
    report(result);
    if (result.reason == lora::StopReason::non_finite || every_step_skipped()) return 2;
    return result.reason == lora::StopReason::requested ? 128 + detail::stop_signal : 0;
  }

 private:
  using LM = lora::CausalLM<float>;
  using Model = lora::LoRAModel<LM>;
  using Trainer = lora::Trainer<Model, lora::PackedRow>;

  void say(const std::string& text) const { std::cout << text << std::flush; }
  bool every_step_skipped() const {
    const lora::TrainerState& state = trainer_->state();
    return state.global_step > 0 && state.non_finite_steps == state.global_step;
  }
  static void warn(const std::vector<std::string>& warnings) {
    for (const std::string& warning : warnings) std::cerr << "lora finetune: " << warning << "\n";
  }

  void open() {
    expect_model_folder(options_.model, "--init-adapter");
    lora::WeightOptions weights;
    weights.dtype = options_.dtype;
    weights.orientations = options_.orientations;
    LM base = lora::load_model<LM>(options_.model, weights);
    const lora::HFConfig read = lora::read_hf_config(options_.model);
    warn(read.warnings);
    warn(read.training_warnings);
    const Index vocabulary = base.vocab_size(), positions = lora::position_limit(base.config());
    const std::string type = base.model_type();
    check_output();
    if (!options_.ids.empty()) {
      data_ = read_finetune_ids(options_.ids, vocabulary, positions,
                                options_.training.per_device_train_batch_size);
      options_.training.train_sampling_strategy = lora::TrainSampling::sequential;
    } else {
      tokenizer_.emplace(lora::Tokenizer::open(options_.model));
      data_ = read_finetune_data(options_, *tokenizer_, vocabulary, positions);
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
      warn(found.warnings);
      if (!found.replaced.empty())
        throw lora::ConfigError(options_.init_adapter + ": has a weight of " +
                                lora::in_quotes(found.replaced[0]) +
                                " that differs from the base's and that the trained adapter would "
                                "lack; expected the base that it was trained on");
    } else {
      if (!options_.adapter.contains("task_type")) options_.adapter["task_type"] = "CAUSAL_LM";
      if (type == "gpt2" && !options_.adapter.contains("fan_in_fan_out"))
        options_.adapter["fan_in_fan_out"] = true;
      options_.adapter["peft_type"] = "LORA";
      const lora::PeftConfig config = lora::parse_peft_config(options_.adapter.dump(), "adapter");
      if (!config.unknown_fields.empty())
        throw lora::ConfigError(lora::in_quotes(config.unknown_fields[0]) +
                                " is not a field of LoraConfig");
      model_.emplace(std::move(base));
      warn(model_->add_adapter("default", config.config).warnings);
    }
    if (options_.merge)  // fail now rather than after training
      warn(lora::plan_merge(lora::CheckpointFiles::open(options_.model), *model_).warnings);
  }

  /// Checks, before any computation, that the output would overwrite nothing it must not.
  void check_output() const {
    std::error_code ignored;
    if (std::filesystem::exists(output(), ignored) && !std::filesystem::is_directory(output()))
      throw lora::IoError(output().string() + ": is not a folder");
    refuse_own_input();
    if (!options_.merge) return;
    if (std::filesystem::exists(merged_next(), ignored))
      throw lora::ConfigError(merged_next().string() +
                              ": exists, perhaps from a run that ended while it merged; remove "
                              "it, or choose another --output");
    if (!std::filesystem::exists(merged(), ignored)) return;
    if (!options_.training.overwrite_output_dir)
      throw lora::ConfigError(merged().string() +
                              ": exists from an earlier run; choose another --output, or give "
                              "--overwrite-output-dir to replace it");
  }

  void refuse_own_input() const {
    InputPaths inputs{options_.model, options_.init_adapter, options_.ids};
    inputs.insert(inputs.end(), options_.data.begin(), options_.data.end());
    inputs.insert(inputs.end(), options_.eval_data.begin(), options_.eval_data.end());
    refuse_input_as_output(
        {output(), output() / lora::peft_weights_file, output() / lora::peft_config_file,
         output() / "curves.svg", output() / "layers.jsonl"},
        inputs);
    refuse_input_below(output() / "checkpoints", inputs);
    if (options_.merge) {
      refuse_input_below(merged(), inputs);
      refuse_input_below(merged_next(), inputs);
    }
    check_file_output(log_path(), json_lines_kind, inputs);
  }

  /// The facts that identify a run, for its checkpoints.
  Json facts() const {
    Json facts;
    facts["adapter"] = std::to_string(
        lora::stream_key(0, lora::peft_config_text(lora::peft_config_fields(model_->config()))));
    const auto config =
        lora::read_file(std::filesystem::path(options_.model) / lora::hf_config_file, 1 << 24);
    facts["config.json"] = std::to_string(lora::stream_key(0, lora::as_text(config)));
    facts["dtype"] = names_of(options_.dtype)[static_cast<std::size_t>(options_.dtype)];
    std::uint64_t data = 0;
    for (const lora::PackedRow& row : data_.train) {
      for (const auto* list : {&row.ids, &row.labels}) {
        for (const std::int64_t id : *list)
          data = lora::mix64(data ^ static_cast<std::uint64_t>(id));
      }
    }
    facts["examples"] = std::to_string(data);
    return facts;
  }

  void make_trainer() {
    lora::TrainingArguments& arguments = options_.training;
    arguments.output_dir = (output() / "checkpoints").string();
    if (!data_.eval.empty() && arguments.eval_strategy == lora::IntervalStrategy::no)
      arguments.eval_strategy = lora::IntervalStrategy::epoch;
    lora::TrainerOptions<Model> trainer;
    trainer.stop = &detail::stop_asked;
    trainer.facts = facts();
    const auto task =
        lora::language_model_task<Model, lora::PackedRow>({options_.gradient_checkpointing});
    Index counted = 0;
    for (const lora::PackedRow& row : data_.train) counted += task.counted(row);
    if (counted == 0)
      throw lora::ConfigError("there is nothing to learn: no label counts in any example");
    trainer_.emplace(*model_, arguments, task, data_.train, data_.eval, trainer);
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
        text += std::string(one) + " " + detail::option_text(all.at(one)) + ", ";
      text.resize(text.size() - 2);
      say(text + "\n");
    };
    line("adapter      ", lora_fields,
         {"r", "lora_alpha", "lora_dropout", "target_modules", "bias"});
    line("training     ", training,
         {"learning_rate", "lr_scheduler_type", "warmup_ratio", "num_train_epochs", "max_steps",
          "per_device_train_batch_size", "gradient_accumulation_steps", "max_grad_norm",
          "weight_decay", "seed"});
    if (!data_.templates.empty()) say("template     " + data_.templates + "\n");
    const lora::TrainingNeeds needs = trainer_->needs();
    say(needs.text());
    needs.check();
  }

  /// Locks the output folder for this run.
  void hold_output() {
    lock_.emplace(output());
    check_output();  // again, since another run may have ended meanwhile
    const std::filesystem::path last = trainer_->last_checkpoint();
    if (options_.resume_from_checkpoint.empty() && !last.empty() &&
        !options_.training.overwrite_output_dir)
      throw lora::ConfigError(last.string() +
                              ": exists from an earlier run; resume it with "
                              "--resume-from-checkpoint last, choose another --output, or give "
                              "--overwrite-output-dir to replace it");
    resume_ =
        checkpoint_to_resume(options_.resume_from_checkpoint, last, options_.training.output_dir);
  }

  lora::TrainOutput train() {
    std::signal(SIGXFSZ, SIG_IGN);  // exceeding a file size limit is then a write error
    const lora::TrainOutput result = [&] {
      const StopSignals stop({SIGINT, SIGTERM, SIGHUP}, detail::ask_to_stop);
      return trainer_->train(resume_);
    }();
    warn(result.warnings);
    return result;
  }

  void save() {
    lora::SavePretrainedOptions adapter;
    adapter.base_model_name_or_path = options_.model;
    save_pretrained(*model_, output(), adapter);
    write_curves(output() / "curves.svg", trainer_->state().log_history,
                 "Fine-tuning " + std::filesystem::path(options_.model).filename().string());
    if (merges_) merge();
  }

  /// Merges into the checkpoint's own values, whatever type training kept them in. Writes a folder
  /// next to the final one, which it then replaces.
  void merge() {
    lora::merge_checkpoint(lora::CheckpointFiles::open(options_.model),
                           lora::PeftAdapter::open(output()), merged_next());
    std::filesystem::remove_all(merged());
    std::filesystem::rename(merged_next(), merged());
  }

  void report(const lora::TrainOutput& result) {
    for (std::size_t i = 0; i < samples_.size(); ++i) {
      const auto shown = [](const std::string& text) { return lora::printable(text, 4000); };
      say("\nquestion  " + shown(samples_[i].prompt) + "\n  before  " + shown(first_answers_[i]) +
          "\n  after   " + shown(answer_to(samples_[i])) + "\n  data    " +
          shown(samples_[i].expected) + "\n");
    }
    using lora::fixed_text;
    say("\nsteps " + std::to_string(result.global_step) + ", mean loss of training " +
        fixed_text(result.training_loss, 4) + "\n");
    const auto metric = [](const Json& metrics, const char* name) {
      return metrics.contains(name) && metrics[name].is_number() ? metrics[name].get<double>()
                                                                 : std::nan("");
    };
    if (before_.is_object() && after_.is_object()) {
      say("evaluation loss " + fixed_text(metric(before_, "eval_loss"), 4) + " before, " +
          fixed_text(metric(after_, "eval_loss"), 4) + " after (perplexity " +
          fixed_text(metric(before_, "eval_perplexity"), 2) + ", " +
          fixed_text(metric(after_, "eval_perplexity"), 2) + ")\n");
    }
    if (result.reason == lora::StopReason::requested)
      say("stopped by signal " + std::to_string(detail::stop_signal) + " after step " +
          std::to_string(result.global_step) + " of " +
          std::to_string(trainer_->plan().max_steps()) +
          "; resume with --resume-from-checkpoint last\n");
    if (result.reason == lora::StopReason::non_finite)
      std::cerr << "lora finetune: loss or gradient was not finite too many times in a row; the "
                   "last good state is saved\n";
    else if (every_step_skipped())
      std::cerr << "lora finetune: nothing was learned: loss or gradient was not finite in every "
                   "step; the adapter is as it was before\n";
    say("adapter    " + output().string() + "\n" +
        (merges_ ? "merged     " + merged().string() + "\n" : "") + "log        " +
        log_path().string() + "\ncurves     " + (output() / "curves.svg").string() + "\n");
  }

  /// Returns the model's answer, or the error in parentheses: the model may be unable to answer.
  std::string answer_to(const Sample& sample) const {
    std::string text;
    try {
      text = answer(model_->base(), *tokenizer_, data_.record_templates->of(sample.question),
                    sample.question, options_.max_new_tokens);
    } catch (const lora::Error& error) {
      text = std::string("(none: ") + error.what() + ")";
    }
    std::replace(text.begin(), text.end(), '\n', ' ');
    return text;
  }
  std::filesystem::path output() const { return options_.output; }
  std::filesystem::path merged() const { return output() / "merged"; }
  std::filesystem::path merged_next() const { return output() / "merged.next"; }
  std::filesystem::path log_path() const {
    return options_.log.empty() ? output() / "log.jsonl" : std::filesystem::path(options_.log);
  }

  FinetuneOptions options_;
  bool merges_ = false;
  std::optional<lora::FolderLock> lock_;
  std::filesystem::path resume_;
  std::optional<lora::Tokenizer> tokenizer_;
  FinetuneData data_;
  std::optional<Model> model_;
  std::optional<Trainer> trainer_;
  std::vector<Sample> samples_;
  std::vector<std::string> first_answers_;
  Json before_, after_;
};

/// Runs the command and reports errors on standard error. Returns the exit code.
inline int finetune_command(int argc, const char* const* argv) {
  CLI::App app("Fine-tunes a language model with LoRA.", "lora finetune");
  app.footer(
      "Defaults in brackets are those of --task chat; other tasks have others. An option without\n"
      "a value is true.\n"
      "Exit status: 0 done; 2 an error, with its reason on standard error, or a loss that was not\n"
      "finite too often; 128 + N when signal N (interrupt 2, hang-up 1, terminate 15) ended the\n"
      "training: it finishes the step, and saves a checkpoint and the adapter so far. A signal\n"
      "that was ignored when the program started (nohup) stays ignored.\n");
  std::optional<Finetune> program;  // outside the lambda: see end_without_memory
  const ProgramWords words{
      "lora finetune",
      "a smaller per_device_train_batch_size with more gradient_accumulation_steps, a smaller "
      "max_length, --gradient-checkpointing, --dtype bfloat16, a lower rank or fewer "
      "target_modules"};
  return run_program(words, [&] {
    FinetuneSettings settings(app);
    if (const std::optional<int> code = parse_command_line(app, argc, argv)) return *code;
    FinetuneOptions options = settings.finetune_options();
    if (options.threads > 0) lora::set_num_threads(static_cast<int>(options.threads));
    program.emplace(std::move(options));
    return program->run();
  });
}

}  // namespace tools
