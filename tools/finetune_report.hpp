// The report of a finetune run: curves, and answers before and after.
#pragma once

#include "support/answer_end.hpp"
#include "training_chart.hpp"

#include <lora/io/atomic_file.hpp>
#include <lora/serve/generate.hpp>
#include <lora/text/data/tokenized_example.hpp>

#include <filesystem>
#include <string>
#include <vector>

namespace tools {

/// Draws the log of a run.
inline void write_curves(const std::filesystem::path& path, const lora::Json& log,
                         const std::string& title) {
  lora::atomic_write(path, to_svg(training_chart(log, title)));
}

/// A question and the expected answer.
struct Sample {
  lora::Conversation question;
  std::string prompt, expected;
};

/// Returns the first `count` conversations that end with an answer, with the answer removed.
inline std::vector<Sample> samples_of(const std::vector<lora::Conversation>& conversations,
                                      std::size_t count) {
  std::vector<Sample> samples;
  for (const lora::Conversation& one : conversations) {
    if (samples.size() == count) break;
    if (one.messages.size() < 2 || one.messages.back().role != "assistant") continue;
    Sample sample{one, {}, one.messages.back().content};
    sample.question.messages.pop_back();
    const lora::Message& asked = sample.question.messages.back();
    sample.prompt = asked.content + (asked.input.empty() ? "" : " / " + asked.input);
    samples.push_back(std::move(sample));
  }
  return samples;
}

/// Returns the model's greedy answer, or a note in parentheses if the question is too long.
inline std::string answer(const lora::CausalLM<float>& model, const lora::Tokenizer& tokenizer,
                          const lora::ChatTemplate& chat, const lora::Conversation& question,
                          lora::Index max_new_tokens) {
  lora::RenderOptions render = lora::render_options(tokenizer);
  render.generation_prompt = lora::GenerationPrompt::yes;
  lora::Prompt prompt;
  prompt.ids = lora::tokenize(chat.render(question, render), tokenizer).ids;
  const lora::Index room = lora::position_limit(model.config());
  if (prompt.ids.empty() || static_cast<lora::Index>(prompt.ids.size()) >= room)
    return "(the question has more tokens than the model has positions)";
  lora::GenerationConfig config;
  config.max_new_tokens = max_new_tokens;
  if (tokenizer.eos_id()) config.eos_token_id = {*tokenizer.eos_id()};
  add_answer_end(chat, tokenizer, config);
  lora::GenerateOptions<float> options;
  options.tokenizer = &tokenizer;
  return lora::generate<float>(model, std::span(&prompt, 1), config, options).front().text;
}

}  // namespace tools
