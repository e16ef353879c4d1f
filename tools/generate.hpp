// lora generate: writes text to standard output, prompt by prompt or as a conversation.
#pragma once

#include "generate_options.hpp"
#include "support/answer_end.hpp"
#include "support/model_folder.hpp"
#include "support/program.hpp"

#include <lora/io/hf/hf_checkpoint.hpp>
#include <lora/io/peft/pretrained.hpp>
#include <lora/serve/generate.hpp>
#include <lora/text/data/tokenized_example.hpp>
#include <lora/text/tokenizer/tokenizer_files.hpp>

#include <chrono>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

namespace tools {

/// A model and the settings with which it generates.
struct Writer {
  using Model = lora::LoRAModel<lora::CausalLM<float>>;

  lora::Tokenizer tokenizer;
  Model model;
  lora::GenerationConfig config;
  std::optional<lora::ChatTemplate> chat_template;
  std::string system;
  std::uint64_t seed = 0;

  /// Returns the ids of the conversation with the prompt for an answer.
  std::vector<std::int64_t> ids_of(const lora::Conversation& conversation) const {
    lora::RenderOptions options = lora::render_options(tokenizer);
    options.generation_prompt = lora::GenerationPrompt::yes;
    return lora::tokenize(chat_template->render(conversation, options), tokenizer).ids;
  }
  lora::Conversation new_conversation() const {
    lora::Conversation conversation;
    if (!system.empty()) conversation.messages.push_back({"system", system, "", {}});
    return conversation;
  }
};

namespace detail {

inline void say_rate(std::size_t prompt_tokens, std::size_t tokens, std::size_t texts, double first,
                     double total) {
  std::string line("[prompt: ");
  line += std::to_string(prompt_tokens) + " tokens, " + lora::fixed_text(first, 2) +
          " s; text: " + std::to_string(tokens) + " tokens";
  if (tokens > texts && total > first)
    line += ", " + lora::fixed_text(static_cast<double>(tokens - texts) / (total - first), 1) +
            " tokens/s";
  std::cerr << line + "]\n";
}

/// Runs generate() and prints its speed. Streams a single text to standard output.
inline std::vector<lora::Generated> write(const Writer& writer,
                                          const std::vector<lora::Prompt>& prompts,
                                          std::span<lora::GenerationCache<float>> caches = {}) {
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  const auto seconds = [&] { return std::chrono::duration<double>(Clock::now() - begin).count(); };
  double first = 0;
  std::size_t prompt_tokens = 0, tokens = 0, begun = 0;
  for (const lora::Prompt& prompt : prompts) prompt_tokens += prompt.ids.size();
  std::vector<bool> seen(prompts.size());
  const auto on_token = [&](const lora::NewToken& token) {
    ++tokens;
    if (!seen[token.prompt] && ++begun == prompts.size()) first = seconds();
    seen[token.prompt] = true;
    if (prompts.size() == 1) std::cout << token.text << std::flush;
    return std::cout ? lora::Streaming::go_on : lora::Streaming::stop;  // the reader is gone
  };
  auto texts =
      lora::generate(writer.model, prompts, writer.config,
                     {.tokenizer = &writer.tokenizer, .on_token = on_token, .caches = caches});
  if (prompts.size() == 1) std::cout << std::endl;
  for (const lora::Generated& text : texts) {
    if (text.reason == lora::FinishReason::length)
      std::cerr << "[stopped after " << text.ids.size() << " tokens]\n";
    if (text.reason == lora::FinishReason::positions)
      std::cerr << "[stopped: the model has no more positions]\n";
  }
  say_rate(prompt_tokens, tokens, prompts.size(), first, seconds());
  return texts;
}

/// The text that ends an answer if the tokenizer has no token for it, else "".
inline std::string spelled_answer_end(const lora::ChatTemplate& chat,
                                      const lora::Tokenizer& tokenizer) {
  const lora::AnswerEnd end = lora::answer_end(chat, tokenizer);
  return end.id ? "" : end.text;
}

inline Writer open_writer(const GenerateRequest& request) {
  using Model = lora::CausalLM<float>;
  expect_model_folder(request.model, "--adapter");
  lora::HFGenerationConfig own = lora::read_generation_config(request.model);
  for (const std::string& warning : own.warnings) std::cerr << "lora generate: " << warning << "\n";
  lora::Tokenizer tokenizer = lora::Tokenizer::open(request.model);
  for (const std::string& warning : lora::read_hf_config(request.model).warnings)
    std::cerr << "lora generate: " << warning << "\n";
  auto& ends = own.generation.eos_token_id;
  if (ends.empty() && tokenizer.eos_id()) ends.push_back(*tokenizer.eos_id());
  std::optional<lora::ChatTemplate> chat;
  if (request.chat) {
    chat = request.chat_template.empty()
               ? lora::default_template(lora::RecordKind::messages, tokenizer)
               : lora::ChatTemplate::named(request.chat_template);
    add_answer_end(*chat, tokenizer, own.generation);
  }
  lora::GenerationConfig config = generation_config(request, own.generation);
  if (const std::string end = chat ? spelled_answer_end(*chat, tokenizer) : ""; !end.empty()) {
    add_answer_end(*chat, tokenizer, config);  // in addition to --stop-strings
    std::cerr << "lora generate: the tokenizer has no token for " << end
              << ", which ends an answer of the template " << chat->name()
              << ": generation stops before these characters\n";
  }
  lora::WeightOptions weights;
  if (request.dtype == "bfloat16") weights.dtype = lora::Precision::bfloat16;
  Writer writer{std::move(tokenizer),
                Writer::Model(lora::load_model<Model>(request.model, weights)),
                config,
                chat,
                request.system,
                request.seed};
  for (const std::string& notice :
       lora::tokenizer_notices(writer.tokenizer, writer.model.base().vocab_size()))
    std::cerr << "lora generate: " << notice << "\n";
  for (const std::string& text : request.adapters) {
    const auto [name, directory] = adapter_argument(text);
    if (writer.model.has_adapter(name)) {
      throw lora::ConfigError(
          "two adapters are called " + lora::in_quotes(name) +
          "; give this one another name: --adapter NAME=" + lora::printable(directory.string()));
    }
    for (const std::string& warning : lora::load_adapter(writer.model, directory, name).warnings)
      std::cerr << "lora generate: " << directory.string() << ": " << warning << "\n";
  }
  return writer;
}

/// Answers every prompt with every adapter.
inline void answer_prompts(const Writer& writer, const std::vector<std::string>& texts) {
  const std::vector<std::string> adapters = writer.model.adapter_names();
  std::vector<lora::Prompt> prompts;
  std::vector<std::string> heads;
  for (const std::string& text : texts) {
    std::vector<std::int64_t> ids;
    if (writer.chat_template) {
      lora::Conversation conversation = writer.new_conversation();
      conversation.messages.push_back({"user", text, "", {}});
      ids = writer.ids_of(conversation);
    } else {
      ids = lora::prompt_ids(text, writer.tokenizer);
    }
    for (std::size_t i = 0; i < std::max<std::size_t>(adapters.size(), 1); ++i) {
      const bool named = adapters.size() > 1;
      prompts.push_back({ids, named ? adapters[i] : "", writer.seed});
      heads.push_back(lora::printable(text, 60) +
                      (named ? " [" + lora::printable(adapters[i]) + "]" : ""));
    }
  }
  const auto answers = write(writer, prompts);
  if (answers.size() == 1) return;
  for (std::size_t i = 0; i < answers.size(); ++i)
    std::cout << "== " << heads[i] << "\n" << answers[i].text << "\n";
}

/// Runs a line that starts with /. Returns false if the conversation is over.
inline bool chat_command(Writer& writer, const std::string& line, lora::Conversation& conversation,
                         lora::GenerationCache<float>& cache) {
  if (line == "/quit") return false;
  constexpr std::string_view adapter = "/adapter ";
  if (line == "/reset") {
    conversation = writer.new_conversation();
  } else if (line.starts_with(adapter)) {
    const std::string name = line.substr(adapter.size());
    if (name == lora::base_adapter_name) {
      writer.model.set_adapter(std::vector<std::string>());
    } else {
      writer.model.set_adapter(name);
    }
    cache = {};
  } else {
    std::cerr << "/adapter NAME  answer with this adapter from now on, __base__: with none; there "
                 "are:";
    for (const std::string& name : writer.model.adapter_names())
      std::cerr << " " << lora::printable(name);
    std::cerr << "\n/reset         start again\n/quit          or the end of input\n";
  }
  return true;
}

/// Chats line by line until the end of input. An error in a line leaves the conversation unchanged.
inline void chat(Writer& writer) {
  lora::Conversation conversation = writer.new_conversation();
  std::vector<lora::GenerationCache<float>> cache(1);
  for (std::string line; std::cout && std::cerr << "> " && std::getline(std::cin, line);) {
    if (line.empty()) continue;
    const std::size_t before = conversation.messages.size();
    try {
      if (line.starts_with("/")) {
        if (!chat_command(writer, line, conversation, cache[0])) return;
        continue;
      }
      conversation.messages.push_back({"user", line, "", {}});
      const lora::Prompt prompt{writer.ids_of(conversation), "", writer.seed + before};
      const std::string answer = write(writer, {prompt}, cache)[0].text;
      conversation.messages.push_back({"assistant", answer, "", {}});
    } catch (const lora::Error& error) {
      std::cerr << "lora generate: " << reason_of("lora generate", error.what()) << "\n";
      conversation.messages.resize(before);
    }
  }
  std::cerr << "\n";
}

/// Reads all of standard input, without the final newline.
inline std::string input_text() {
  std::string text(std::istreambuf_iterator<char>(std::cin), {});
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

}  // namespace detail

/// Runs the command and reports errors on standard error. Returns the exit code.
inline int generate_command(int argc, const char* const* argv) {
  GenerateRequest request;
  std::optional<Writer> writer;  // outside the lambda: see end_without_memory
  const ProgramWords words{"lora generate",
                           "--dtype bfloat16, shorter or fewer prompts, a smaller "
                           "--max-new-tokens, fewer adapters"};
  return run_program(words, [&] {
    if (const std::optional<int> code = parse_generate_options(argc, argv, request)) return *code;
    if (request.threads > 0) lora::set_num_threads(request.threads);
    if (!request.chat && !(request.chat_template + request.system).empty())
      throw lora::ConfigError("--template and --system are for --chat");
    writer.emplace(detail::open_writer(request));
    if (request.chat && request.prompts.empty()) {
      detail::chat(*writer);
    } else {
      if (request.prompts.empty()) request.prompts.push_back(detail::input_text());
      detail::answer_prompts(*writer, request.prompts);
    }
    return 0;
  });
}

}  // namespace tools
