// The options of text generation.
#pragma once

#include <lora/core/check.hpp>
#include <lora/core/types.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace lora {

/// The options of generation, with the names and defaults of transformers. io reads them from
/// generation_config.json.
struct GenerationConfig {
  std::optional<Index> max_new_tokens;  ///< takes precedence over max_length; 20 if neither is set
  std::optional<Index> max_length;      ///< limit of the prompt and the new tokens together
  bool do_sample = false;               ///< false: always the most probable token
  double temperature = 1;               ///< logits are divided by it
  Index top_k = 50;                     ///< keep only the k most probable; 0: all
  double top_p = 1;                     ///< keep only the most probable that sum to p
  double min_p = 0;                     ///< keep only those with p times the highest probability
  double repetition_penalty = 1;  ///< makes earlier tokens less probable, also without sampling
  std::vector<std::int64_t> eos_token_id;  ///< tokens that end a text
  std::vector<std::string> stop_strings;   ///< texts that end a text and are cut off

  bool operator==(const GenerationConfig&) const = default;
};

/// Checks that every field is in range.
/// Throws: ConfigError that names the field.
inline void check_config(const GenerationConfig& c) {
  const detail::OptionCheck check{"GenerationConfig"};
  check.at_least("max_new_tokens", c.max_new_tokens.value_or(0), 0);
  check.at_least("max_length", c.max_length.value_or(0), 0);
  check.at_least("top_k", c.top_k, 0);
  if (!(c.temperature > 0 && c.temperature <= 1e30))
    check.refuse("temperature", number_text(c.temperature),
                 "a positive number; do_sample = false takes the most probable token");
  if (!(c.repetition_penalty > 0 && c.repetition_penalty <= 1e30))
    check.refuse("repetition_penalty", number_text(c.repetition_penalty), "a positive number");
  check.within("top_p", c.top_p, 0, 1);
  check.within("min_p", c.min_p, 0, 1);
  for (std::size_t i = 0; i < c.eos_token_id.size(); ++i)
    check.at_least("eos_token_id[" + std::to_string(i) + "]", c.eos_token_id[i], 0);
  for (std::size_t i = 0; i < c.stop_strings.size(); ++i) {
    if (c.stop_strings[i].empty())
      check.refuse("stop_strings[" + std::to_string(i) + "]", "empty", "a text");
  }
}

}  // namespace lora
