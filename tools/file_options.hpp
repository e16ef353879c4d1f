// Parses the command lines of the file commands: merge, combine, extract, to-gguf and the others.
#pragma once

#include "combine.hpp"
#include "extract.hpp"
#include "support/command_line.hpp"

#include <lora/io/gguf/gguf_adapter.hpp>

#include <map>
#include <optional>

namespace tools {

/// The options of one command.
struct FileOptions {
  std::filesystem::path path, second, base, adapter, gguf, output;
  std::optional<DType> dtype;
  CombineRequest combine;
  ExtractRequest extract;
  bool quiet = false;

  ProgressMode progress() const { return quiet ? ProgressMode::quiet : ProgressMode::automatic; }
};

namespace detail {

inline const std::map<std::string, DType> file_dtypes{
    {"f32", DType::F32}, {"f16", DType::F16}, {"bf16", DType::BF16}};

/// Defines the options of one command.
class FileCommandLine {
 public:
  FileCommandLine(CLI::App& app, FileOptions& options) : app_(app), options_(options) {
    app.get_formatter()->column_width(34);
  }

  /// Converts the options that CLI11 leaves as text.
  void finish() {
    if (!type_.empty()) options_.combine.options.type = lora::combination_type(type_);
    if (sign_ == "total") options_.combine.options.majority_sign_method = lora::MajoritySign::total;
    if (sign_ == "frequency")
      options_.combine.options.majority_sign_method = lora::MajoritySign::frequency;
    if (!dtype_.empty()) options_.dtype = file_dtypes.at(dtype_);
  }

  void add_info() {
    about("Shows what is in an adapter, a base model or a file", exit_codes);
    need("path", "PATH", options_.path,
         "folder of an adapter or a base, .safetensors or .gguf file");
  }
  void add_merge() {
    about("Merges an adapter into its base, as one checkpoint",
          "Computes W + s B A in float32 and rounds once; the base determines the layout of W.\n"
          "The output must be a new or an empty folder; it appears complete or not at all. A tied\n"
          "embedding and head become two tensors if the adapter changes one of them.\n"
          "Exit status: 0 done, 2 an error; then nothing was written.\n");
    need("--base", "DIR", options_.base, "base model: model.safetensors or shards");
    need("--adapter", "DIR", options_.adapter, "adapter as PEFT saves it");
    need("--output", "DIR", options_.output, "new folder");
    dtype("of all tensors [each keeps its own]");
    quiet();
  }
  void add_combine() {
    about("Combines several adapters of one base into one", adapter_output);
    CombineRequest& request = options_.combine;
    need("--adapter", "DIR", request.adapters, "an adapter; once for each");
    need("--weight", "W", request.weights, "its weight, may be negative; in the same order");
    need("--combination-type", "TYPE", type_,
         "linear, cat, svd, ties, ties_svd, dare_linear, dare_linear_svd, dare_ties, "
         "dare_ties_svd, magnitude_prune, magnitude_prune_svd");
    need("--output", "DIR", request.output, "folder of the new adapter");
    option("--svd-rank", "R", request.options.svd_rank,
           "rank of svd and *_svd [the largest of the sources]");
    option("--svd-clamp", "Q", request.options.svd_clamp,
           "svd and *_svd: clamp A and B at the quantile Q of their values, 0 to 1 [no]");
    option("--density", "X", request.options.density,
           "share of elements kept by ties*, dare_* and magnitude_prune*, 0 to 1");
    option("--majority-sign-method", "total|frequency", sign_, "how ties elects signs [total]")
        ->check(CLI::IsMember({"total", "frequency"}));
    option("--seed", "N", request.options.seed, "of what dare_* drops [0]");
    quiet();
  }
  void add_extract() {
    about("Extracts the adapter nearest to a fine-tuned model",
          "Approximates each difference of two weights by the nearest B A of rank R. Takes\n"
          "seconds for a weight of 2048 x 2048, minutes beyond 4096.\n"
          "The output may be a new or an empty folder, or that of an adapter, which is replaced.\n"
          "Exit status: 0 done, 2 an error; then nothing was written.\n");
    ExtractRequest& request = options_.extract;
    need("--base", "DIR", request.base, "base model");
    need("--tuned", "DIR", request.tuned, "the same after fine-tuning");
    need("--rank", "R", request.rank, "of the adapter, at least 1");
    need("--output", "DIR", request.output, "folder of the new adapter");
    option("--target-modules", "NAME...", request.targets,
           "layers by the ends of their names [all linear layers that differ]");
    quiet();
  }
  void add_to_gguf() {
    about("Converts an adapter for llama.cpp",
          "Replaces an existing GGUF file, but no other file. Refuses and names what GGUF cannot\n"
          "express.\n"
          "The base weight that PEFT saves with an adapted embedding or head must equal that of\n"
          "the base, if its folder has weights.\n"
          "Exit status: 0 done, 2 an error; then nothing was written.\n");
    need("--base", "DIR", options_.base, "base model; its config.json is enough");
    need("--adapter", "DIR", options_.adapter, "adapter as PEFT saves it");
    need("--output", "FILE", options_.output, "the GGUF file");
    dtype("of its tensors [f32]");
  }
  void add_from_gguf() {
    about("Converts an adapter of llama.cpp for PEFT", adapter_output);
    need("--base", "DIR", options_.base, "base model, for its config.json");
    need("--gguf", "FILE", options_.gguf, "the GGUF file");
    need("--output", "DIR", options_.output, "folder of the new adapter");
  }
  void add_convert() {
    about("Converts an adapter to another number type", adapter_output);
    need("--adapter", "DIR", options_.adapter, "adapter as PEFT saves it");
    dtype("of its tensors, rounded to nearest even")->required();
    need("--output", "DIR", options_.output, "folder of the new adapter");
  }
  void add_diff() {
    about("Shows how two adapters differ",
          "Prints configuration fields, tensors, and for each layer\n"
          "|s1 B1 A1 - s2 B2 A2| / |s1 B1 A1|.\n"
          "Exit status: 0 they are equal, 1 they differ, 2 an error.\n");
    need("first", "DIR", options_.path, "an adapter");
    need("second", "DIR", options_.second, "another");
  }

 private:
  void about(const char* words, const char* footer) {
    app_.description(words);
    app_.footer(footer);
  }
  template <class Value>
  CLI::Option* option(const char* name, const char* given, Value& value, const char* words) {
    return app_.add_option(name, value, words)->option_text(given)->type_name("");
  }
  template <class Value>
  CLI::Option* need(const char* name, const char* given, Value& value, const char* words) {
    return option(name, given, value, words)->required();
  }
  CLI::Option* dtype(const char* words) {
    return option("--dtype", "f32|bf16|f16", dtype_, words)
        ->check(CLI::IsMember({"f32", "bf16", "f16"}));
  }
  void quiet() { app_.add_flag("--quiet", options_.quiet, "no progress"); }

  static constexpr const char* exit_codes = "Exit status: 0 done, 2 an error.\n";
  static constexpr const char* adapter_output =
      "The output may be a new or an empty folder, or that of an adapter that is not an input,\n"
      "which is overwritten.\n"
      "Exit status: 0 done, 2 an error; then nothing was written.\n";

  CLI::App& app_;
  FileOptions& options_;
  std::string type_, sign_, dtype_;
};

}  // namespace detail

/// Parses the command line of a command that `define` describes. Returns an exit code if the
/// program should end: 0 after --help, 2 after a one-line message about an invalid option.
/// Throws: lora::ConfigError for an unknown combination type.
inline std::optional<int> parse_file_options(const std::string& name,
                                             void (detail::FileCommandLine::*define)(), int argc,
                                             const char* const* argv, FileOptions& options) {
  CLI::App app("", name);
  detail::FileCommandLine line(app, options);
  (line.*define)();
  if (const std::optional<int> code = parse_command_line(app, argc, argv)) return code;
  line.finish();
  options.combine.progress = options.extract.progress = options.progress();
  return std::nullopt;
}

}  // namespace tools
