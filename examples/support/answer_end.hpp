// The tokens behind which a chat template's answer is over.
#pragma once

#include <lora/text/tokenized_example.hpp>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace examples {

/// The tokens that end an answer in this template: what follows a word that the assistant says.
inline void add_answer_end(const lora::ChatTemplate& chat, const lora::Tokenizer& tokenizer,
                           std::vector<std::int64_t>& ends) {
  lora::Conversation sample;
  sample.messages = {{"user", "x", "", {}}, {"assistant", "y", "", {}}};
  const auto rendered = chat.render(sample, lora::render_options(tokenizer));
  for (const std::int64_t label : lora::tokenize(rendered, tokenizer).labels) {
    if (label == lora::ignored_label || !tokenizer.decoder().piece(label).special) continue;
    if (std::count(ends.begin(), ends.end(), label) == 0) ends.push_back(label);
    return;
  }
}

}  // namespace examples
