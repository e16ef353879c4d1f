// Checks a folder that is given as a model.
#pragma once

#include <lora/io/file.hpp>
#include <lora/io/json.hpp>
#include <lora/io/peft/peft_directory.hpp>

#include <filesystem>
#include <string>

namespace tools {

/// Throws lora::ConfigError if `folder` is that of an adapter and not of a model. `option` is the
/// option that takes an adapter, such as "--adapter".
inline void expect_model_folder(const std::filesystem::path& folder, const std::string& option) {
  std::error_code ignored;
  const std::filesystem::path config = folder / lora::peft_config_file;
  if (!std::filesystem::exists(config, ignored) ||
      std::filesystem::exists(folder / "config.json", ignored))
    return;
  const auto bytes = lora::read_file(config, std::uint64_t{1} << 24);
  const lora::Json json = lora::Json::parse(lora::as_text(bytes), nullptr, false);
  std::string base;
  if (json.is_object() && json.contains("base_model_name_or_path") &&
      json["base_model_name_or_path"].is_string())
    base = json["base_model_name_or_path"].get<std::string>();
  throw lora::ConfigError("--model " + folder.string() +
                          ": is the folder of an adapter, expected that of a model; give this "
                          "folder with " +
                          option + ", and its base with --model" +
                          (base.empty() ? "" : ", which it calls " + lora::in_quotes(base)));
}

}  // namespace tools
