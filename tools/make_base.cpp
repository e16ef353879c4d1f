// Trains a small Llama from scratch: learns a vocabulary from text files, trains every weight on
// them, and writes a folder that transformers reads. Run in examples/data to make data/base:
//   make_base --text corpus_en.txt corpus_zh.txt --output base
#include <lora/io/hf/hf_config.hpp>
#include <lora/io/hf/save_model.hpp>
#include <lora/lora.hpp>
#include <lora/models/causal_lm.hpp>
#include <lora/text/tokenizer/tokenizer.hpp>
#include <lora/text/tokenizer/tokenizer_files.hpp>
#include <lora/train/language_model_task.hpp>
#include <lora/train/trainer.hpp>

#include "bpe_trainer.hpp"
#include "support/output_path.hpp"
#include "support/program.hpp"
#include "support/progress.hpp"

#include <CLI/CLI.hpp>

#include <fstream>
#include <iostream>
#include <random>

namespace {

using lora::Index;
using LM = lora::CausalLM<float>;

struct Options {
  std::vector<std::string> text;
  std::string output;
  std::size_t vocabulary = 2048;
  Index hidden = 128, layers = 4, heads = 4, key_value_heads = 2, feed_forward = 352, block = 128;
  double epochs = 30, learning_rate = 3e-3;
  std::uint64_t seed = 1;
};

struct Example {
  std::vector<std::int64_t> ids, labels;
};

constexpr const char* kBegin = "<|im_start|>";
constexpr const char* kEnd = "<|im_end|>";

/// Reads the non-empty lines of a file, each a document.
std::vector<std::string> documents(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw lora::IoError(path + ": cannot be opened");
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) {
    if (!line.empty()) lines.push_back(line);
  }
  return lines;
}

void write_json(const std::filesystem::path& path, const lora::Json& json) {
  lora::atomic_write(path, lora::python_json(json, path.string()) + "\n");
}

/// Joins the documents and cuts them into blocks of one length, so that every step needs the same
/// memory.
std::vector<Example> blocks_of(const std::vector<std::string>& texts,
                               const lora::Tokenizer& tokenizer, const Options& options) {
  std::vector<std::int64_t> all;
  for (const std::string& text : texts) {
    const auto ids = tokenizer.encode(kBegin + text + kEnd, lora::SpecialTokens::none);
    all.insert(all.end(), ids.begin(), ids.end());
  }
  std::vector<Example> blocks;
  const auto size = static_cast<std::size_t>(options.block);
  for (std::size_t at = 0; at + size / 4 < all.size(); at += size) {
    const auto end = std::min(at + size, all.size());
    Example one;
    one.ids.assign(all.begin() + static_cast<std::ptrdiff_t>(at),
                   all.begin() + static_cast<std::ptrdiff_t>(end));
    one.labels = one.ids;
    blocks.push_back(std::move(one));
  }
  return blocks;
}

class ShowProgress : public lora::TrainerCallback {
 public:
  explicit ShowProgress(Index steps) : progress_("training", steps) {}
  void on_log(const lora::TrainerEvent& event, const lora::Json& entry) override {
    const lora::Json loss = entry.value("loss", lora::Json());
    progress_.update(event.state.global_step, "loss " + loss.dump());
  }

 private:
  tools::Progress progress_;
};

lora::LlamaConfig config_of(const Options& options, Index vocabulary) {
  lora::LlamaConfig config;
  config.vocab_size = vocabulary;
  config.hidden_size = options.hidden;
  config.intermediate_size = options.feed_forward;
  config.num_hidden_layers = options.layers;
  config.num_attention_heads = options.heads;
  config.num_key_value_heads = options.key_value_heads;
  config.head_dim = options.hidden / options.heads;
  config.max_position_embeddings = 512;
  config.tie_word_embeddings = true;
  return config;
}

void run(const Options& options) {
  const std::filesystem::path output = options.output;
  tools::refuse_input_as_output({output / "tokenizer.json", output / "tokenizer_config.json",
                                 output / lora::hf_config_file, output / lora::checkpoint_file},
                                {options.text.begin(), options.text.end()});
  std::filesystem::create_directories(output);
  std::vector<std::string> texts;
  tools::BpeTrainer bpe;
  for (const std::string& path : options.text) {
    for (const std::string& text : documents(path)) {
      bpe.add(text);
      texts.push_back(text);
    }
  }
  // "user" and "assistant" come before every turn of a conversation.
  for (int i = 0; i < 50; ++i) bpe.add("system\n user\n assistant\n");
  write_json(output / "tokenizer.json", bpe.tokenizer_json(options.vocabulary, {kBegin, kEnd}));
  write_json(output / "tokenizer_config.json",
             {{"tokenizer_class", "PreTrainedTokenizerFast"},
              {"add_bos_token", false},
              {"bos_token", nullptr},
              {"eos_token", kEnd},
              {"pad_token", kEnd},
              {"model_max_length", 512},
              {"chat_template",
               "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + "
               "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt "
               "%}{{ '<|im_start|>assistant\n' }}{% endif %}"}});
  const lora::Tokenizer tokenizer = lora::Tokenizer::open(output);
  std::shuffle(texts.begin(), texts.end(), std::mt19937_64(options.seed));
  const std::vector<Example> blocks = blocks_of(texts, tokenizer, options);

  const lora::LlamaConfig config = config_of(options, tokenizer.vocab_size());
  LM model(config, lora::RandomWeights<float>{options.seed, 0.05, {}});
  lora::for_each_adapter_layer(model,
                               [](const lora::NamePath&, auto& layer) { layer.train_base(); });
  model.for_each_parameter("", [](const lora::NamePath&, auto& p) { p.set_trainable(true); });

  lora::TrainingArguments arguments;
  arguments.per_device_train_batch_size = 8;
  arguments.num_train_epochs = options.epochs;
  arguments.learning_rate = options.learning_rate;
  arguments.lr_scheduler_type = "cosine";
  arguments.warmup_ratio = 0.03;
  arguments.weight_decay = 0.05;
  arguments.logging_steps = 10;
  arguments.seed = options.seed;
  lora::Trainer<LM, Example> trainer(model, arguments, lora::language_model_task<LM, Example>(),
                                     blocks);
  std::cout << trainer.needs().text() << std::flush;
  trainer.add_callback(std::make_shared<ShowProgress>(trainer.plan().max_steps()));
  const lora::TrainOutput result = trainer.train();
  std::cout << "mean loss of training " << lora::fixed_text(result.training_loss, 4) << "\n";

  lora::for_each_adapter_layer(model,
                               [](const lora::NamePath&, auto& layer) { layer.freeze_base(); });
  const std::filesystem::path saved = output / "model";
  lora::SaveModelOptions save;
  save.dtype = lora::DType::BF16;
  save_pretrained(model, saved, save);
  for (const auto& entry : std::filesystem::directory_iterator(saved))
    std::filesystem::rename(entry.path(), output / entry.path().filename());
  std::filesystem::remove(saved);
  std::cout << "wrote " << options.output << "\n";
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Trains a small Llama from scratch.");
  app.add_option("--text", options.text, "text files; a line is a document")->required();
  app.add_option("--output", options.output, "folder of the model")->required();
  app.add_option("--vocabulary", options.vocabulary, "tokens")->capture_default_str();
  app.add_option("--hidden", options.hidden)->capture_default_str();
  app.add_option("--layers", options.layers)->capture_default_str();
  app.add_option("--epochs", options.epochs)->capture_default_str();
  app.add_option("--learning-rate", options.learning_rate)->capture_default_str();
  app.add_option("--seed", options.seed)->capture_default_str();
  return tools::run_program({"make_base", "a smaller --hidden or --vocabulary"}, [&] {
    try {
      app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
      return app.exit(error) == 0 ? 0 : 2;
    }
    run(options);
    return 0;
  });
}
