// A checkpoint's config.json: reading it, and the type of the weights in it.
#pragma once

#include <lora/io/dtype.hpp>
#include <lora/io/file.hpp>
#include <lora/io/json_fields.hpp>

#include <cstdint>
#include <filesystem>
#include <string>

namespace lora {

/// The file of a checkpoint's folder that says which model it is.
inline constexpr const char* hf_config_file = "config.json";

/// The content of config.json, or of another small JSON file, in a checkpoint's folder. Throws
/// IoError when it cannot be read, FormatError when it is larger than 4 MiB or is not JSON.
inline Json read_config_json(const std::filesystem::path& directory,
                             const char* file = hf_config_file) {
  const std::filesystem::path path = directory / file;
  const auto bytes = read_file(path, std::uint64_t{1} << 22);
  return parse_json(as_text(bytes), path.string());
}

/// torch's name of F32, F64, BF16 or F16, as config.json has it. Throws ConfigError for others.
inline std::string torch_dtype_name(DType dtype) {
  switch (dtype) {
    case DType::F32:
      return "float32";
    case DType::F64:
      return "float64";
    case DType::BF16:
      return "bfloat16";
    case DType::F16:
      return "float16";
    default:
      throw ConfigError("torch_dtype_name: " + std::string(dtype_name(dtype)) +
                        ", expected F32, F64, BF16 or F16");
  }
}

/// Names the weights' type in a config.json's object: under `torch_dtype` and `dtype`, whichever it
/// has; `torch_dtype`, which every transformers reads, when it has neither. Throws as
/// torch_dtype_name, before anything is changed.
inline void set_config_dtype(Json& fields, DType dtype) {
  const std::string name = torch_dtype_name(dtype);
  if (!fields.contains("dtype") || fields.contains("torch_dtype")) fields["torch_dtype"] = name;
  if (fields.contains("dtype")) fields["dtype"] = name;
}

namespace detail {

// Large enough for every model there is, small enough that no product of two overflows.
inline constexpr Index most_width = Index{1} << 24, most_layers = Index{1} << 12,
                       most_positions = Index{1} << 30;

}  // namespace detail

}  // namespace lora
