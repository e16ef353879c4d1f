// adapter_config.json: what is read is, written again, read as the same configuration and then
// written as the same bytes.
#include <lora/io/peft/peft_config.hpp>

#include "fuzz.hpp"

#include <set>

namespace {
using namespace lora;
using lora_fuzz::expect;

// A runtime_config is reported, but of another process and so not written again.
std::set<std::string> kept_fields(const PeftConfig& config) {
  std::set<std::string> fields(config.unknown_fields.begin(), config.unknown_fields.end());
  fields.erase("runtime_config");
  return fields;
}

void read_and_write(std::string_view text) {
  const PeftConfig read = parse_peft_config(text, "fuzz");
  std::string written;
  try {
    written = peft_config_text(peft_config_fields(read.config, read.fields));
  } catch (const Error& error) {  // JSON that Python could not have written
    lora_fuzz::expect_message(error);
    return;
  }
  const PeftConfig again = parse_peft_config(written, "again");
  expect(kept_fields(again) == kept_fields(read), "unknown fields were lost");
  expect(again.config.r == read.config.r && again.config.lora_alpha == read.config.lora_alpha &&
             again.config.rank_pattern == read.config.rank_pattern &&
             again.config.alpha_pattern == read.config.alpha_pattern &&
             again.config.target_modules == read.config.target_modules,
         "another configuration when written again");
  expect(peft_config_text(peft_config_fields(again.config, again.fields)) == written,
         "other bytes when written twice");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::vector<std::byte> bytes = lora_fuzz::bytes_of(data, size);
  lora_fuzz::try_input([&] { read_and_write(as_text(bytes)); });
  return 0;
}
