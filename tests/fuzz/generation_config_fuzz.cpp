// generation_config.json and, behind a zero byte, config.json for the ends of text that it does not
// name: what is read is a GenerationConfig that is checked, drawing with it from rows of logits of
// every kind gives probabilities and an id that has one, its stop strings stop.
#include <lora/io/hf/hf_generation_config.hpp>
#include <lora/serve/sampling.hpp>
#include <lora/serve/stop_strings.hpp>

#include <limits>

#include "fuzz.hpp"
#include "json_mutator.hpp"

namespace {
using namespace lora;
using lora_fuzz::expect;

void draw(const GenerationConfig& config, const std::vector<float>& logits) {
  Sampler<float> sampler(config);
  const auto size = static_cast<std::int64_t>(logits.size());
  const std::vector<std::int64_t> ids{0, size - 1, size / 2, 0};
  std::vector<double> p(logits.size());
  sampler.probabilities(logits, ids, p);
  double sum = 0;
  for (const double one : p) {
    expect(one >= 0 && one <= 1, "a probability out of its range");
    sum += one;
  }
  expect(sum > 1 - 1e-9 && sum < 1 + 1e-9, "the probabilities do not add up");
  for (const double uniform : {0.0, 0.5, 1 - 1e-16}) {
    const std::int64_t id = sampler.next(logits, ids, uniform);
    expect(id >= 0 && id < size, "an id out of the row");
    expect(p[static_cast<std::size_t>(id)] > 0, "an id of probability 0");
  }
}

void draw_all(const GenerationConfig& config) {
  constexpr float inf = std::numeric_limits<float>::infinity();
  static const std::vector<std::vector<float>> rows = {
      {0},
      {1, 1},
      {-3, 2.5f, 0, 1e-3f, 2.5f, -7},
      {1e30f, -1e30f, 3e38f},
      {-inf, 0, -inf, 1},
      {1e-40f, 0, -1e-40f},
      [] {
        std::vector<float> row(61);
        for (std::size_t i = 0; i < row.size(); ++i)
          row[i] = static_cast<float>(i * 37 % 61) / 7 - 3;
        return row;
      }()};
  for (const std::vector<float>& row : rows) lora_fuzz::try_input([&] { draw(config, row); });
}

// What passes does not depend on how the text is cut, and holds no stop string.
void stop(const std::vector<std::string>& stops, std::string_view text) {
  StopStrings whole(stops), parts(stops);
  std::string at_once = whole.push(text), bit_by_bit;
  for (std::size_t at = 0; at < text.size(); at += 3) bit_by_bit += parts.push(text.substr(at, 3));
  if (!whole.found()) at_once += whole.finish();
  if (!parts.found()) bit_by_bit += parts.finish();
  expect(at_once == bit_by_bit && whole.found() == parts.found(), "stops elsewhere in pieces");
  expect(text.substr(0, at_once.size()) == at_once, "another text");
  expect(whole.found() || at_once.size() == text.size(),
         "a text that is cut without a stop string");
  for (const std::string& one : stops)
    expect(at_once.find(one) == at_once.npos, "a stop string passed");
}

void read(std::string_view text, std::string_view config) {
  HFGenerationConfig read = parse_generation_config(parse_json(text, "fuzz"), "fuzz");
  check_config(read.generation);
  for (const std::string& warning : read.warnings) lora_fuzz::expect_text(warning);
  if (read.generation.eos_token_id.empty()) {
    const Json json = parse_json(config, "config.json");
    read.generation.eos_token_id =
        detail::read_token_ids(JsonFields(json, "config.json"), "eos_token_id");
    check_config(read.generation);
  }
  draw_all(read.generation);
  if (!read.generation.stop_strings.empty()) stop(read.generation.stop_strings, text);
}

}  // namespace

std::span<const std::string_view> lora_fuzz::words() {
  static constexpr std::string_view all[] = {"max_new_tokens",
                                             "max_length",
                                             "do_sample",
                                             "temperature",
                                             "top_k",
                                             "top_p",
                                             "min_p",
                                             "repetition_penalty",
                                             "eos_token_id",
                                             "stop_strings",
                                             "num_beams",
                                             "num_beam_groups",
                                             "penalty_alpha",
                                             "typical_p",
                                             "top_h",
                                             "epsilon_cutoff",
                                             "eta_cutoff",
                                             "diversity_penalty",
                                             "no_repeat_ngram_size",
                                             "min_length",
                                             "min_new_tokens",
                                             "max_time",
                                             "guidance_scale",
                                             "bad_words_ids",
                                             "suppress_tokens",
                                             "forced_bos_token_id",
                                             "forced_eos_token_id",
                                             "sequence_bias",
                                             "watermarking_config",
                                             "remove_invalid_values",
                                             "bos_token_id",
                                             "pad_token_id",
                                             "transformers_version",
                                             "_from_model_config"};
  return all;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::vector<std::byte> bytes = lora_fuzz::bytes_of(data, size);
  lora_fuzz::Parts parts(as_text(bytes));
  const std::string_view text = parts.next(), config = parts.next();
  lora_fuzz::try_input([&] { read(text, config); });
  return 0;
}
