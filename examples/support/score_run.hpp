// score: the loss and the logits of a model on given ids.
#pragma once

#include "option_spelling.hpp"

#include <lora/io/hf_checkpoint.hpp>
#include <lora/io/pretrained.hpp>
#include <lora/models/causal_lm.hpp>

#include <CLI/CLI.hpp>

#include <cstdio>
#include <filesystem>
#include <iostream>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace examples {

using lora::Index;

struct ScoreOptions {
  std::filesystem::path model, adapter, ids, logits;
  std::string dtype = "float32";
};

/// The tokens to be scored: rows · T ids and labels.
struct ScoredBatch {
  std::vector<std::int64_t> ids, labels;
  Index rows = 0, tokens = 0;
};

/// input_ids and labels of a safetensors file, (rows, T), or (micro-batches, rows, T), of which the
/// first is taken. Throws lora::FormatError for anything else.
inline ScoredBatch read_scored_batch(const std::filesystem::path& path) {
  const auto file = lora::SafetensorsFile::open(path);
  const auto refuse = [&](const char* name, const std::string& what) {
    throw lora::FormatError(path.string() + ": " + name + what);
  };
  for (const char* name : {"input_ids", "labels"}) {
    if (!file.contains(name)) refuse(name, " is missing");
    const lora::TensorInfo& info = file.info(name);
    if (info.dtype != lora::DType::I64)
      refuse(name, " is " + std::string(lora::dtype_name(info.dtype)) + ", expected I64");
  }
  const std::vector<Index>& shape = file.info("input_ids").shape;
  if ((shape.size() != 2 && shape.size() != 3) || (shape.size() == 3 && shape[0] == 0)) {
    refuse("input_ids", " has shape " + lora::shape_text(shape) +
                            ", expected (rows, T) or (micro-batches, rows, T)");
  }
  if (file.info("labels").shape != shape) {
    refuse("labels", " has shape " + lora::shape_text(file.info("labels").shape) +
                         ", expected that of input_ids, " + lora::shape_text(shape));
  }
  ScoredBatch batch{file.integers("input_ids"), file.integers("labels"), shape[shape.size() - 2],
                    shape.back()};
  const auto count = static_cast<std::size_t>(batch.rows * batch.tokens);
  batch.ids.resize(count);
  batch.labels.resize(count);
  return batch;
}

/// Prints the loss and writes the logits when they are wanted.
inline void score(const ScoreOptions& options) {
  using Model = lora::CausalLM<float>;
  const ScoredBatch batch = read_scored_batch(options.ids);
  lora::WeightOptions weights;
  if (options.dtype == "bfloat16") weights.dtype = lora::Precision::bfloat16;
  lora::LoRAModel<Model> model(lora::load_model<Model>(options.model, weights));
  if (!options.adapter.empty()) {
    for (const std::string& warning : lora::load_adapter(model, options.adapter).warnings)
      std::cerr << "score: " << options.adapter.string() << ": " << warning << "\n";
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
  char text[40];
  std::snprintf(text, sizeof text, "loss %#.9g\n", static_cast<double>(result.loss));
  std::cout << text;
}

/// Reads the command line. Returns the exit code when the program is to end now.
inline std::optional<int> parse_score_options(int argc, char** argv, ScoreOptions& options) {
  CLI::App app("The loss and the logits of a language model on given ids.", "score");
  const auto add = [&](const char* name, const char* given, auto& value, const char* words) {
    return app.add_option(name, value, words)->option_text(given)->type_name("");
  };
  add("--model", "DIR", options.model, "the model, as transformers saves it")->required();
  add("--adapter", "DIR", options.adapter, "an adapter for it, as PEFT saves it");
  add("--ids", "FILE", options.ids,
      "safetensors file with input_ids and labels, I64, (rows, T) or (micro-batches, rows, T), of "
      "which the first is scored; labels of -100 do not count")
      ->required();
  add("--logits", "FILE", options.logits, "safetensors file for the logits, F32 (rows, T, V)");
  add("--dtype", "float32|bfloat16", options.dtype, "of the weights in memory [float32]")
      ->check(CLI::IsMember({"float32", "bfloat16"}));
  app.footer(
      "Prints \"loss \" and the mean over all labels that count, in nine digits.\n"
      "Exit status: 0 done, 2 an error, with its reason on standard error.\n");
  app.failure_message([](const CLI::App*, const CLI::Error& error) {
    return std::string("score: ") + error.what() + " (see --help)\n";
  });
  try {
    app.parse(dashed_options(argc, argv));
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  return std::nullopt;
}

/// The program: parses, runs, and says errors on standard error. Returns the exit code.
inline int run_score(int argc, char** argv) {
  ScoreOptions options;
  try {
    if (const std::optional<int> code = parse_score_options(argc, argv, options)) return *code;
    score(options);
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "score: " << error.what() << "\n";
    return 2;
  }
}

}  // namespace examples
