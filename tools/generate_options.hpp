// Parses the command line of generate.
#pragma once

#include "support/command_line.hpp"

#include <lora/io/hf/hf_generation_config.hpp>

#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace tools {

using lora::Index;

/// The options given to generate. Others have the model's values or transformers' defaults.
struct GenerateRequest {
  std::filesystem::path model;
  std::vector<std::string> adapters;  ///< DIR or NAME=DIR
  std::vector<std::string> prompts;   ///< none, and no chat: standard input
  bool chat = false;
  std::string system, chat_template, dtype = "float32";
  std::uint64_t seed = 0;
  int threads = 0;  ///< 0: the library's choice

  bool do_sample = false, greedy = false;
  std::optional<Index> max_new_tokens, max_length, top_k;
  std::optional<double> temperature, top_p, min_p, repetition_penalty;
  std::vector<std::int64_t> eos_token_id;
  std::vector<std::string> stop_strings;
};

/// Overrides the model's generation_config.json by the command line. A sampling option turns on
/// sampling; a temperature of 0 turns it off.
inline lora::GenerationConfig generation_config(const GenerateRequest& request,
                                                lora::GenerationConfig config) {
  constexpr Index usual_tokens = 256;
  const auto take = [](const auto& given, auto& field) {
    if (given) field = *given;
  };
  if (request.temperature && !(*request.temperature >= 0 && *request.temperature <= 1e30))
    throw lora::ConfigError("--temperature is " + lora::number_text(*request.temperature) +
                            ", expected 0, which takes the most probable token, or a positive "
                            "number up to 1e30");
  const bool cold = request.temperature && *request.temperature == 0;
  if (request.do_sample || request.temperature || request.top_k || request.top_p || request.min_p)
    config.do_sample = !cold;
  if (request.greedy) config.do_sample = false;
  if (!cold) take(request.temperature, config.temperature);
  take(request.top_k, config.top_k);
  take(request.top_p, config.top_p);
  take(request.min_p, config.min_p);
  take(request.repetition_penalty, config.repetition_penalty);
  if (request.max_length) {
    config.max_length = request.max_length;
    config.max_new_tokens = request.max_new_tokens;
  } else if (request.max_new_tokens) {
    config.max_new_tokens = request.max_new_tokens;
  } else if (!config.max_new_tokens && !config.max_length) {
    config.max_new_tokens = usual_tokens;
  }
  if (!request.eos_token_id.empty()) config.eos_token_id = request.eos_token_id;
  if (!request.stop_strings.empty()) config.stop_strings = request.stop_strings;
  check_config(config);
  return config;
}

/// Splits "NAME=DIR". For a plain DIR, derives the name from the folder.
inline std::pair<std::string, std::filesystem::path> adapter_argument(const std::string& text) {
  const std::size_t equal = text.find('=');
  if (equal != text.npos && equal > 0 && text.find('/') > equal)
    return {text.substr(0, equal), text.substr(equal + 1)};
  std::filesystem::path path = std::filesystem::path(text).lexically_normal();
  if (path.filename().empty()) path = path.parent_path();
  std::string name = path.filename().string();
  std::replace(name.begin(), name.end(), '.', '_');
  return {name, text};
}

/// Parses the command line. Returns an exit code if the program should end: 0 after --help, 2 after
/// a one-line message about an invalid option.
inline std::optional<int> parse_generate_options(int argc, const char* const* argv,
                                                 GenerateRequest& request) {
  CLI::App app("Writes text with a language model, with or without adapters.", "lora generate");
  app.get_formatter()->column_width(36);
  const auto add = [&](const char* name, const char* given, auto& value, const char* words) {
    return app.add_option(name, value, words)->option_text(given)->type_name("");
  };
  add("--model", "DIR", request.model, "the model and its tokenizer, as transformers saves them")
      ->required();
  add("--adapter", "[NAME=]DIR", request.adapters,
      "an adapter, as PEFT saves it; repeatable. With several adapters, every prompt is answered "
      "with each of them, all in one batch")
      ->allow_extra_args(false);
  add("--prompt", "TEXT", request.prompts, "the text to continue; repeatable [standard input]")
      ->allow_extra_args(false);
  app.add_flag("--chat", request.chat,
               "treat prompts as user messages in the model's chat template; without --prompt, "
               "chat line by line (/help for more)");
  add("--system", "TEXT", request.system, "system message of a chat");
  add("--template", "NAME", request.chat_template, "chat template [the tokenizer's own]");
  add("--dtype", "float32|bfloat16", request.dtype, "of the weights in memory [float32]")
      ->check(CLI::IsMember({"float32", "bfloat16"}));
  add("--threads", "N", request.threads, "number of threads; does not change the text")
      ->check(CLI::Range(1, 1024));
  add("--max-new-tokens", "N", request.max_new_tokens, "of each text [256]");
  add("--max-length", "N", request.max_length, "of prompt and text together, instead");
  auto* draw = app.add_flag("--do-sample", request.do_sample,
                            "draw tokens; so does each of the sampling options below");
  app.add_flag("--greedy", request.greedy, "take the most probable tokens, even with these options")
      ->excludes(draw);
  add("--temperature", "X", request.temperature, "logits are divided by it; 0: greedy [1]");
  add("--top-k", "K", request.top_k, "only the K most probable tokens; 0: all [50]");
  add("--top-p", "P", request.top_p, "only the most probable that make up P together [1]");
  add("--min-p", "P", request.min_p, "only those with P times the highest probability [0]");
  add("--repetition-penalty", "X", request.repetition_penalty, "above 1: repeat less [1]");
  add("--eos-token-id", "ID", request.eos_token_id,
      "tokens that end a text, instead of the model's");
  add("--stop-strings", "TEXT", request.stop_strings, "a string that ends a text; repeatable")
      ->allow_extra_args(false);
  add("--seed", "N", request.seed, "of sampling; the same seed gives the same text [0]");
  app.footer(
      "The model's generation_config.json overrides the defaults in brackets. Options may be\n"
      "written with - or _. Text goes to standard output, tokens per second to standard error.\n"
      "Exit status: 0 done, 2 an error, with its reason on standard error.\n");
  return parse_command_line(app, argc, argv);
}

}  // namespace tools
