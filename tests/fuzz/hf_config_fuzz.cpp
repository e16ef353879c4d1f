// config.json: what is read can be said again, and then means the same model.
#include <lora/io/hf_config_fields.hpp>

#include "fuzz.hpp"

namespace {
using namespace lora;
using lora_fuzz::expect;

void read_and_write(std::string_view text) {
  const HFConfig read = parse_hf_config(parse_json(text, "fuzz"), "fuzz");
  // hf_config_fields reads its own fields and throws unless they mean this model.
  const Json kept = hf_config_fields(read.model, read.dtype.value_or(DType::F32), read.fields);
  expect(parse_hf_config(kept, "again").dtype == read.dtype.value_or(DType::F32),
         "another dtype when written again");
  const Json fresh = hf_config_fields(read.model, DType::BF16);
  expect(parse_hf_config(fresh, "fresh").model == read.model, "another model in fresh fields");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::vector<std::byte> bytes = lora_fuzz::bytes_of(data, size);
  lora_fuzz::try_input([&] { read_and_write(as_text(bytes)); });
  return 0;
}
