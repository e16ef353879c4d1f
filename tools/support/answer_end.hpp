// Makes generation stop at the end of an answer in a chat template.
#pragma once

#include <lora/models/generation_config.hpp>
#include <lora/text/data/template_fit.hpp>

#include <algorithm>

namespace tools {

/// Adds the template's end of an answer to what ends a text: its id, or its characters if the
/// tokenizer has no such token.
inline void add_answer_end(const lora::ChatTemplate& chat, const lora::Tokenizer& tokenizer,
                           lora::GenerationConfig& config) {
  const lora::AnswerEnd end = lora::answer_end(chat, tokenizer);
  const auto add = [](auto& list, const auto& value) {
    if (std::count(list.begin(), list.end(), value) == 0) list.push_back(value);
  };
  if (end.id) {
    add(config.eos_token_id, *end.id);
  } else {
    add(config.stop_strings, end.text);
  }
}

}  // namespace tools
