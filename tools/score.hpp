// lora score: computes the loss and the logits of a model on given ids.
#pragma once

#include "support/command_line.hpp"
#include "support/ids_file.hpp"
#include "support/model_folder.hpp"
#include "support/output_path.hpp"
#include "support/program.hpp"

#include <lora/io/hf/hf_checkpoint.hpp>
#include <lora/io/peft/pretrained.hpp>
#include <lora/models/causal_lm.hpp>

#include <cmath>
#include <filesystem>
#include <iostream>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace tools {

struct ScoreOptions {
  std::filesystem::path model, adapter, ids, logits;
  std::string dtype = "float32";
};

/// Formats x with nine digits, including trailing zeros.
inline std::string nine_digits(double x) {
  const std::string text = lora::scientific_text(x, 8);
  const std::size_t e = text.find('e');
  if (!std::isfinite(x) || e == text.npos) return text;
  const int exponent = std::stoi(text.substr(e + 1));
  return exponent < -4 || exponent >= 9 ? text : lora::fixed_text(x, 8 - exponent);
}

/// Prints the loss, and writes the logits if asked to.
inline void score(const ScoreOptions& options) {
  using Model = lora::CausalLM<float>;
  if (!options.logits.empty())
    check_file_output(options.logits, logits_kind, {options.model, options.adapter, options.ids});
  expect_model_folder(options.model, "--adapter");
  const ScoredBatch batch = read_scored_batch(options.ids);
  lora::WeightOptions weights;
  if (options.dtype == "bfloat16") weights.dtype = lora::Precision::bfloat16;
  lora::LoRAModel<Model> model(lora::load_model<Model>(options.model, weights));
  for (const std::string& warning : lora::read_hf_config(options.model).warnings)
    std::cerr << "lora score: " << warning << "\n";
  if (!options.adapter.empty()) {
    for (const std::string& warning : lora::load_adapter(model, options.adapter).warnings)
      std::cerr << "lora score: " << options.adapter.string() << ": " << warning << "\n";
  }
  const std::vector<Index> lengths(static_cast<std::size_t>(batch.rows), batch.tokens);
  const lora::TokenBatch tokens{batch.ids, lengths};
  Model::Tape tape;
  const auto result = model.base().loss(tokens, batch.labels, tape, {.gradient = false});
  if (!options.logits.empty()) {
    lora::SafetensorsWriter writer;
    writer.add("logits", model.base().logits(tokens), lora::DType::F32,
               {batch.rows, batch.tokens, model.base().vocab_size()});
    writer.write(options.logits);
  }
  std::cout << "loss " << nine_digits(static_cast<double>(result.loss)) << "\n";
}

/// Parses the command line. Returns an exit code if the program should end.
inline std::optional<int> parse_score_options(int argc, const char* const* argv,
                                              ScoreOptions& options) {
  CLI::App app("Computes the loss and the logits of a language model on given ids.", "lora score");
  const auto add = [&](const char* name, const char* given, auto& value, const char* words) {
    return app.add_option(name, value, words)->option_text(given)->type_name("");
  };
  add("--model", "DIR", options.model, "the model, as transformers saves it")->required();
  add("--adapter", "DIR", options.adapter, "an adapter for it, as PEFT saves it");
  add("--ids", "FILE", options.ids,
      "safetensors file with input_ids and labels, I64, (rows, T) or (micro-batches, rows, T); "
      "only the first micro-batch is scored, and labels of -100 do not count")
      ->required();
  add("--logits", "FILE", options.logits, "safetensors file for the logits, F32 (rows, T, V)");
  add("--dtype", "float32|bfloat16", options.dtype, "of the weights in memory [float32]")
      ->check(CLI::IsMember({"float32", "bfloat16"}));
  app.footer(
      "Prints \"loss \" and the mean over all labels that count, in nine digits.\n"
      "Exit status: 0 done, 2 an error, with its reason on standard error.\n");
  return parse_command_line(app, argc, argv);
}

/// Runs the command and reports errors on standard error. Returns the exit code.
inline int score_command(int argc, const char* const* argv) {
  ScoreOptions options;
  return run_program({"lora score", "--dtype bfloat16, fewer or shorter rows of ids"}, [&] {
    if (const std::optional<int> code = parse_score_options(argc, argv, options)) return *code;
    score(options);
    return 0;
  });
}

}  // namespace tools
