// The command line of lora_tool.
#pragma once

#include "tool_combine.hpp"
#include "tool_extract.hpp"

#include <lora/io/gguf/gguf_adapter.hpp>

#include <CLI/CLI.hpp>

#include <functional>
#include <map>
#include <optional>

namespace examples {

/// One run: the command and what it was given.
struct ToolOptions {
  std::string command;
  std::filesystem::path path, second, base, adapter, gguf, output;
  std::optional<DType> dtype;
  CombineRequest combine;
  ExtractRequest extract;
  bool quiet = false;

  ProgressMode progress() const { return quiet ? ProgressMode::quiet : ProgressMode::automatic; }
};

namespace detail {

inline const std::map<std::string, DType> tool_dtypes{
    {"f32", DType::F32}, {"f16", DType::F16}, {"bf16", DType::BF16}};

/// Defines the commands of the tool.
class ToolCommands {
 public:
  ToolCommands(CLI::App& app, ToolOptions& options) : app_(app), options_(options) {
    app.require_subcommand(1);
    app.get_formatter()->column_width(34);
    add_info();
    add_merge();
    add_combine();
    add_extract();
    add_gguf();
    add_convert();
    add_diff();
  }

  /// What CLI11 has left as text, once all is parsed.
  void finish() {
    if (!type_.empty()) options_.combine.options.type = lora::combination_type(type_);
    if (sign_ == "total") options_.combine.options.majority_sign_method = lora::MajoritySign::total;
    if (sign_ == "frequency")
      options_.combine.options.majority_sign_method = lora::MajoritySign::frequency;
    if (!dtype_.empty()) options_.dtype = tool_dtypes.at(dtype_);
  }

 private:
  CLI::App* command(const char* name, const char* words, const char* footer) {
    CLI::App* sub = app_.add_subcommand(name, words);
    sub->callback([this, name] { options_.command = name; });
    sub->footer(footer);
    return sub;
  }
  template <class Value>
  CLI::Option* option(CLI::App* sub, const char* name, const char* given, Value& value,
                      const char* words) {
    return sub->add_option(name, value, words)->option_text(given)->type_name("");
  }
  template <class Value>
  CLI::Option* need(CLI::App* sub, const char* name, const char* given, Value& value,
                    const char* words) {
    return option(sub, name, given, value, words)->required();
  }
  CLI::Option* dtype(CLI::App* sub, const char* words) {
    return option(sub, "--dtype", "f32|bf16|f16", dtype_, words)
        ->check(CLI::IsMember({"f32", "bf16", "f16"}));
  }
  void quiet(CLI::App* sub) { sub->add_flag("--quiet", options_.quiet, "no progress"); }

  void add_info() {
    CLI::App* sub = command("info", "What is in an adapter, a base model or a file", exit_codes);
    need(sub, "path", "PATH", options_.path,
         "folder of an adapter or a base, .safetensors or .gguf file");
  }
  void add_merge() {
    CLI::App* sub = command(
        "merge", "Base and adapter as one checkpoint",
        "W + s B A is computed in float32 and rounded once; the base says which way round W lies.\n"
        "The output must be a new or an empty folder and appears whole or not at all. Embedding\n"
        "and head that are one tensor become two when the adapter changes one of them.\n"
        "Exit status: 0 done, 2 an error; then nothing was written.\n");
    need(sub, "--base", "DIR", options_.base, "base model: model.safetensors or shards");
    need(sub, "--adapter", "DIR", options_.adapter, "adapter as PEFT saves it");
    need(sub, "--output", "DIR", options_.output, "new folder");
    dtype(sub, "of all tensors [each keeps its own]");
    quiet(sub);
  }
  void add_combine() {
    CLI::App* sub = command("combine", "Several adapters of one base as one", adapter_output);
    CombineRequest& request = options_.combine;
    need(sub, "--adapter", "DIR", request.adapters, "an adapter; once for each");
    need(sub, "--weight", "W", request.weights, "its weight, may be negative; in the same order");
    need(sub, "--combination-type", "TYPE", type_,
         "linear, cat, svd, ties, ties_svd, dare_linear, dare_linear_svd, dare_ties, "
         "dare_ties_svd, magnitude_prune, magnitude_prune_svd");
    need(sub, "--output", "DIR", request.output, "folder of the new adapter");
    option(sub, "--svd-rank", "R", request.options.svd_rank,
           "rank of svd and *_svd [the largest of the sources]");
    option(sub, "--svd-clamp", "Q", request.options.svd_clamp,
           "svd and *_svd: A and B are cut off at the quantile Q of their values, 0 to 1 [no]");
    option(sub, "--density", "X", request.options.density,
           "share of elements kept by ties*, dare_* and magnitude_prune*, 0 to 1");
    option(sub, "--majority-sign-method", "total|frequency", sign_, "how ties elects signs [total]")
        ->check(CLI::IsMember({"total", "frequency"}));
    option(sub, "--seed", "N", request.options.seed, "of what dare_* drops [0]");
    quiet(sub);
  }
  void add_extract() {
    CLI::App* sub = command(
        "extract", "The adapter nearest to a fine-tuned model",
        "Each difference of two weights becomes the B A of rank R that is nearest to it. Takes\n"
        "seconds for a weight of 2048 x 2048, minutes beyond 4096.\n"
        "The output may be a new or an empty folder, or an adapter's, which is overwritten.\n"
        "Exit status: 0 done, 2 an error; then nothing was written.\n");
    ExtractRequest& request = options_.extract;
    need(sub, "--base", "DIR", request.base, "base model");
    need(sub, "--tuned", "DIR", request.tuned, "the same after fine-tuning");
    need(sub, "--rank", "R", request.rank, "of the adapter, at least 1");
    need(sub, "--output", "DIR", request.output, "folder of the new adapter");
    option(sub, "--target-modules", "NAME...", request.targets,
           "layers by the ends of their names [all linear layers that differ]");
    quiet(sub);
  }
  void add_gguf() {
    CLI::App* to = command(
        "to-gguf", "An adapter for llama.cpp",
        "An existing GGUF file is replaced, another file is not. What GGUF cannot express is\n"
        "named and refused.\n"
        "The base's weight that PEFT leaves beside an adapted embedding or head must be that\n"
        "of the base, where its folder has weights.\n"
        "Exit status: 0 done, 2 an error; then nothing was written.\n");
    need(to, "--base", "DIR", options_.base, "base model; its config.json is enough");
    need(to, "--adapter", "DIR", options_.adapter, "adapter as PEFT saves it");
    need(to, "--output", "FILE", options_.output, "the GGUF file");
    dtype(to, "of its tensors [f32]");
    CLI::App* from = command("from-gguf", "An adapter of llama.cpp's for PEFT", adapter_output);
    need(from, "--base", "DIR", options_.base, "base model, for its config.json");
    need(from, "--gguf", "FILE", options_.gguf, "the GGUF file");
    need(from, "--output", "DIR", options_.output, "folder of the new adapter");
  }
  void add_convert() {
    CLI::App* sub = command("convert", "An adapter in another type of numbers", adapter_output);
    need(sub, "--adapter", "DIR", options_.adapter, "adapter as PEFT saves it");
    dtype(sub, "of its tensors, rounded to nearest even")->required();
    need(sub, "--output", "DIR", options_.output, "folder of the new adapter");
  }
  void add_diff() {
    CLI::App* sub = command("diff", "In what two adapters differ",
                            "Prints configuration fields, tensors, and for each layer\n"
                            "|s1 B1 A1 - s2 B2 A2| / |s1 B1 A1|.\n"
                            "Exit status: 0 they are equal, 1 they differ, 2 an error.\n");
    need(sub, "first", "DIR", options_.path, "an adapter");
    need(sub, "second", "DIR", options_.second, "another");
  }

  static constexpr const char* exit_codes = "Exit status: 0 done, 2 an error.\n";
  static constexpr const char* adapter_output =
      "The output may be a new or an empty folder, or an adapter's that is not read, which is\n"
      "overwritten.\n"
      "Exit status: 0 done, 2 an error; then nothing was written.\n";

  CLI::App& app_;
  ToolOptions& options_;
  std::string type_, sign_, dtype_;
};

}  // namespace detail

/// Reads the command line. Returns the exit code when the program is to end now: 0 after --help, 2
/// after one line on standard error about what does not fit. Throws lora::ConfigError for a
/// combination type that is not known.
inline std::optional<int> parse_tool_options(int argc, char** argv, ToolOptions& options) {
  CLI::App app(
      "Looks at LoRA adapters and turns them into others. Each command has its own --help.",
      "lora_tool");
  detail::ToolCommands commands(app, options);
  app.footer(
      "Exit status: 0 done, 2 an error, with its reason on standard error; diff: 0 equal, 1 "
      "different, 2 an error.\n");
  app.failure_message([](const CLI::App*, const CLI::Error& error) {
    return std::string("lora_tool: ") + error.what() + " (see --help)\n";
  });
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  commands.finish();
  options.combine.progress = options.extract.progress = options.progress();
  return std::nullopt;
}

}  // namespace examples
