// SafetensorsFile: what opens is read to the last element and is, written again, the same tensors.
#include <lora/io/safetensors/safetensors.hpp>

#include <algorithm>

#include "fuzz.hpp"

namespace {
using namespace lora;
using lora_fuzz::expect;

void read_all(const SafetensorsFile& file) {
  SafetensorsWriter writer;
  for (const auto& [key, value] : file.metadata()) writer.set_metadata(key, value);
  for (const std::string& name : file.names()) {
    const TensorInfo& info = file.info(name);
    const auto bytes = file.bytes(name);
    expect(bytes.size() == info.end - info.begin, "a tensor of another length");
    if (is_matrix_dtype(info.dtype)) {
      expect(static_cast<std::size_t>(file.matrix<float>(name).size()) * dtype_bits(info.dtype) ==
                 8 * bytes.size(),
             "a matrix of another size");
    } else {
      try {
        file.integers(name);
      } catch (const FormatError& error) {
        lora_fuzz::expect_message(error);
      }
    }
    writer.add(name, info.dtype, info.shape, bytes);
  }
  const SafetensorsFile again = SafetensorsFile::from_bytes(writer.to_bytes(), "again");
  expect(again.metadata() == file.metadata(), "other metadata when written again");
  expect(again.names().size() == file.names().size(), "other names when written again");
  for (const std::string& name : file.names()) {
    expect(again.info(name).shape == file.info(name).shape, "another shape when written again");
    expect(std::ranges::equal(again.bytes(name), file.bytes(name)), "other bytes");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  lora_fuzz::try_input(
      [&] { read_all(SafetensorsFile::from_bytes(lora_fuzz::bytes_of(data, size), "fuzz")); });
  return 0;
}
