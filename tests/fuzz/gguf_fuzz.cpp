// GgufFile: what opens is read to the last element and is, written again, the same bytes; what is
// an adapter for a small base becomes one of PEFT.
#include <lora/io/gguf/gguf_import.hpp>

#include <algorithm>

#include "fuzz.hpp"

namespace {
using namespace lora;
using lora_fuzz::Bytes;
using lora_fuzz::expect;

const GgufBase& small_base() {
  static const GgufBase base =
      gguf_base(parse_json(R"({"model_type": "llama", "hidden_size": 4, "intermediate_size": 3,
                     "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
                     "vocab_size": 3})",
                           "base"),
                "base");
  return base;
}

void write_again(const GgufFile& file, const Bytes& bytes) {
  GgufWriter writer;
  for (const std::string& key : file.keys()) writer.set(key, *file.find(key));
  for (const std::string& name : file.names()) {
    const GgufTensor& tensor = file.info(name);
    const auto of_tensor = file.bytes(name);
    if (!tensor.type.dtype) return;  // the writer knows three types
    expect(static_cast<std::size_t>(file.matrix<float>(name).size()) *
                   dtype_bits(*tensor.type.dtype) ==
               8 * of_tensor.size(),
           "a matrix of another size");
    writer.add(name, *tensor.type.dtype, tensor.shape, {of_tensor.begin(), of_tensor.end()});
  }
  Bytes again = writer.to_bytes();
  if (file.names().empty()) again.resize(bytes.size());  // padding that others leave out
  expect(again == bytes, "other bytes when written again");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const Bytes bytes = lora_fuzz::bytes_of(data, size);
  lora_fuzz::try_input([&] {
    const GgufFile file = GgufFile::from_bytes(bytes, "fuzz");
    try {
      write_again(file, bytes);
    } catch (const ConfigError& error) {  // another alignment, a string that is not UTF-8
      lora_fuzz::expect_message(error);
    }
    const GgufImport adapter = adapter_of_gguf(file, small_base());
    SafetensorsFile::from_bytes(adapter.tensors.to_bytes(), "adapter");
  });
  return 0;
}
