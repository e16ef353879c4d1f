// Writes the model card (README.md) of an adapter's directory: metadata for model hubs and a few
// lines for people.
#pragma once

#include <lora/adapters/config.hpp>
#include <lora/io/atomic_file.hpp>
#include <lora/io/json.hpp>

#include <algorithm>
#include <filesystem>
#include <set>
#include <string>
#include <string_view>
#include <system_error>

namespace lora {

namespace detail {

/// Formats `text` as a YAML value: bare if that is safe, else in quotes.
inline std::string yaml_text(const std::string& text) {
  const auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '/' ||
           c == '_' || c == '-' || c == '.' || c == ':';
  };
  // YAML cannot take a name that starts with a letter and contains a slash for anything but text.
  const bool bare = !text.empty() && std::all_of(text.begin(), text.end(), plain) &&
                    ((text[0] >= 'a' && text[0] <= 'z') || (text[0] >= 'A' && text[0] <= 'Z')) &&
                    text.find('/') != text.npos && text.back() != ':';
  return bare ? text : json_string(text, "model card");
}

/// Formats `text` as inline code in Markdown, on one line.
inline std::string markdown_code(const std::string& text) {
  std::string line = printable(text);
  std::replace(line.begin(), line.end(), '`', '\'');
  return "`" + line + "`";
}

inline std::string targets_text(const NameSelection& targets) {
  if (targets.pattern() != nullptr) return markdown_code(*targets.pattern());
  if (targets.list() == nullptr) return "the defaults of the model's type";
  constexpr std::size_t shown = 16;
  std::string text;
  for (std::size_t i = 0; i < std::min(shown, targets.list()->size()); ++i)
    text += (i == 0 ? "" : ", ") + markdown_code((*targets.list())[i]);
  return targets.list()->size() > shown ? text + ", ..." : text;
}

}  // namespace detail

/// Returns the text of a model card: front matter with the keys that PEFT sets (base_model,
/// library_name, pipeline_tag for CAUSAL_LM, tags) and our own body.
/// Throws: ConfigError if the name of the base is not UTF-8.
/// Source: PEFT's create_or_update_model_card.
inline std::string model_card(const LoRAConfig& config) {
  const std::string base = config.base_model_name_or_path.value_or("");
  std::string text = "---\n";
  if (!base.empty()) text += "base_model: " + detail::yaml_text(base) + "\n";
  text += "library_name: peft\n";
  if (config.task_type == "CAUSAL_LM") text += "pipeline_tag: text-generation\n";
  text += "tags:\n";
  if (!base.empty()) text += "- " + detail::yaml_text("base_model:adapter:" + base) + "\n";
  text += "- lora\n---\n\n# LoRA adapter\n\n";
  text += "Low-rank matrices that are added to the frozen weights of " +
          (base.empty() ? std::string("a base model") : detail::markdown_code(base)) + ".\n\n";
  text += "- rank r = " + std::to_string(config.r) + ", alpha = " + number_text(config.lora_alpha) +
          ", scale " + number_text(scaling(config.lora_alpha, config.r, config.use_rslora)) +
          (config.use_rslora ? " (alpha / sqrt(r))" : " (alpha / r)") +
          (config.rank_pattern.empty() && config.alpha_pattern.empty()
               ? "\n"
               : "; other values for some layers in adapter_config.json\n");
  text += "- targets: " + detail::targets_text(config.target_modules) + "\n";
  if (config.modules_to_save) {
    text += "- fully trained modules: " + detail::targets_text(*config.modules_to_save) + "\n";
  }
  text +=
      "\n## How to load it\n\nIn Python, with the base model already loaded as `model`:\n\n"
      "```python\nfrom peft import PeftModel\nmodel = PeftModel.from_pretrained(model, "
      "\"path/of/this/folder\")\n```\n\nIn C++, with lora:\n\n"
      "```cpp\nauto [model, report] = lora::from_pretrained(base, \"path/of/this/folder\");\n"
      "```\n";
  return text;
}

/// Writes README.md into a directory that has none. Never replaces an existing one.
/// Throws: IoError; ConfigError as model_card().
inline void write_model_card(const std::filesystem::path& directory, const LoRAConfig& config) {
  const std::filesystem::path path = directory / "README.md";
  std::error_code ignored;
  if (std::filesystem::exists(std::filesystem::symlink_status(path, ignored))) return;
  atomic_write(path, model_card(config));
}

/// Writes README.md as write_model_card() does, creates the directory if it is missing, and then
/// calls write_adapters(). If that throws, removes the README.md that this call wrote. If the card
/// fails, does not call it.
/// Throws: as write_model_card() and write_adapters().
template <class WriteAdapters>
void write_with_model_card(const std::filesystem::path& directory, const LoRAConfig& config,
                           WriteAdapters&& write_adapters) {
  const std::filesystem::path path = directory / "README.md";
  std::error_code failure;
  if (std::filesystem::exists(std::filesystem::symlink_status(path, failure)))
    return write_adapters();
  model_card(config);  // throws before the folder is created
  std::filesystem::create_directories(directory, failure);
  if (failure) throw_io_error(directory, "create this folder", failure.value());
  try {
    write_model_card(directory, config);
    write_adapters();
  } catch (...) {
    detail::file_calls().unlink(path.c_str());
    throw;
  }
}

}  // namespace lora
