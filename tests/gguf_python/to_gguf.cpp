// to_gguf BASE ADAPTER FILE [f32|f16|bf16]: writes a GGUF adapter, for the scripts beside this.
#include <lora/io/gguf/gguf_import.hpp>

#include <cstdio>

int main(int count, char** words) {
  if (count < 4 || count > 5) {
    std::fprintf(stderr, "usage: to_gguf BASE ADAPTER FILE [f32|f16|bf16]\n");
    return 2;
  }
  const std::string type = count == 5 ? words[4] : "f32";
  try {
    lora::GgufOptions options;
    options.dtype = type == "f16"    ? lora::DType::F16
                    : type == "bf16" ? lora::DType::BF16
                                     : lora::DType::F32;
    lora::export_gguf(lora::PeftAdapter::open(words[2]), lora::read_gguf_base(words[1]), words[3],
                      options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
