// Copies the files of a model's folder that are neither weights nor configuration.
#pragma once

#include <lora/io/atomic_file.hpp>
#include <lora/io/hf/config_json.hpp>

#include <filesystem>
#include <string>
#include <system_error>

namespace lora {

/// Whether a file of a model's folder is copied when its weights are written again: tokenizer,
/// generation_config.json, licence and anything else, except weights in any format and their index,
/// config.json, adapter_config.json, README.md, hidden files and folders.
inline bool is_other_file(const std::filesystem::directory_entry& entry) {
  const std::string name = entry.path().filename().string();
  if (!entry.is_regular_file() || name.starts_with('.') || name.ends_with(".index.json"))
    return false;
  for (const char* other : {hf_config_file, "README.md", "adapter_config.json"}) {
    if (name == other) return false;
  }
  for (const char* weights : {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack",
                              ".ot", ".onnx", ".gguf"}) {
    if (name.ends_with(weights)) return false;
  }
  return true;
}

/// Copies those files from one folder to another, each atomically.
/// Throws: IoError.
inline void copy_other_files(const std::filesystem::path& from, const std::filesystem::path& to) {
  std::error_code failure;
  for (const auto& entry : std::filesystem::directory_iterator(from, failure)) {
    if (is_other_file(entry))
      atomic_write(to / entry.path().filename(), MappedFile(entry.path()).bytes());
  }
  if (failure) throw_io_error(from, "list this folder", failure.value());
}

}  // namespace lora
