// A temporary folder for a benchmark, and a PEFT adapter written into one.
#pragma once

#include <lora/io/peft/pretrained.hpp>

#include <chrono>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

namespace bench {

inline double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Removed with its content by the destructor.
class Folder {
 public:
  Folder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "lora_bench_XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
    path = pattern;
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  std::filesystem::path path;
};

/// The module of layer i in this header and its users.
inline std::string module_name(lora::Index i) { return "layers." + std::to_string(i) + ".q_proj"; }

/// Random A and B of rank r for `layers` layers of (width, width).
inline void write_adapter(const std::filesystem::path& folder, lora::Index layers,
                          lora::Index width, lora::Index r, lora::DType dtype) {
  using Matrix = lora::Matrix<float>;
  lora::SafetensorsWriter tensors;
  for (lora::Index i = 0; i < layers; ++i) {
    const std::string key = "base_model.model." + module_name(i) + ".lora_";
    tensors.add(key + "A.weight", Matrix::Random(r, width), dtype);
    tensors.add(key + "B.weight", Matrix::Random(width, r), dtype);
  }
  lora::LoRAConfig config;
  config.r = r;
  config.target_modules = std::vector<std::string>{"q_proj"};
  lora::write_peft_adapter(folder, lora::peft_config_fields(config), tensors);
}

}  // namespace bench
