// The commands of lora_tool.
#pragma once

#include "tool_diff.hpp"
#include "tool_info.hpp"
#include "tool_options.hpp"

#include <lora/io/checkpoint_merge.hpp>
#include <lora/io/gguf_import.hpp>

#include <iostream>

namespace examples {

namespace detail {

inline void merge_command(const ToolOptions& options) {
  const auto base = lora::CheckpointFiles::open(options.base);
  const auto adapter = lora::PeftAdapter::open(options.adapter);
  lora::CheckpointMergeOptions how{.dtype = options.dtype};
  std::optional<Progress> bar;
  how.progress = [&](std::uint64_t done, std::uint64_t total) {
    constexpr std::uint64_t megabyte = 1000 * 1000;
    if (!bar)
      bar.emplace("merge (MB)", static_cast<Index>(total / megabyte),
                  ProgressOptions{.mode = options.progress()});
    bar->update(static_cast<Index>(done / megabyte));
  };
  const auto report = lora::merge_checkpoint(base, adapter, options.output, how);
  if (bar) bar->finish();
  std::cout << "merged " << report.changed << " tensors, replaced " << report.replaced << ", left "
            << report.untouched << " as they were; " << thousands(report.bytes) << " bytes\nwrote "
            << options.output.string() << "\n";
}

inline void to_gguf_command(const ToolOptions& options) {
  lora::export_gguf(lora::PeftAdapter::open(options.adapter), lora::read_gguf_base(options.base),
                    options.output, {.dtype = options.dtype.value_or(DType::F32)});
  std::cout << "wrote " << options.output.string() << "\n";
}

inline void from_gguf_command(const ToolOptions& options) {
  check_adapter_output(options.output);
  lora::GgufImport adapter =
      lora::adapter_of_gguf(lora::GgufFile::open(options.gguf), lora::read_gguf_base(options.base));
  adapter.config.base_model_name_or_path = options.base.string();
  write_adapter(options.output, adapter.config, lora::peft_config_fields(adapter.config),
                adapter.tensors);
}

inline void convert_command(const ToolOptions& options) {
  check_adapter_output(options.output);
  const auto adapter = lora::PeftAdapter::open(options.adapter);
  lora::SafetensorsWriter tensors;
  for (const auto& [key, value] : adapter.tensors().metadata()) tensors.set_metadata(key, value);
  for (const std::string& name : adapter.tensors().names())
    add_converted(tensors, adapter.tensors(), name, *options.dtype);
  write_adapter(options.output, adapter.config(), adapter.fields(), tensors);
}

}  // namespace detail

/// Does what the command line asked for; returns the exit code.
inline int run_command(const ToolOptions& options) {
  const std::string& command = options.command;
  if (command == "info") print_info(options.path);
  if (command == "merge") detail::merge_command(options);
  if (command == "combine") combine_adapters(options.combine);
  if (command == "extract") extract_adapter(options.extract);
  if (command == "to-gguf") detail::to_gguf_command(options);
  if (command == "from-gguf") detail::from_gguf_command(options);
  if (command == "convert") detail::convert_command(options);
  if (command == "diff") return print_diff(options.path, options.second) ? 0 : 1;
  return 0;
}

/// The program: parses, runs, and says errors on standard error. Returns the exit code.
inline int run_tool(int argc, char** argv) {
  ToolOptions options;
  try {
    if (const std::optional<int> code = parse_tool_options(argc, argv, options)) return *code;
    return run_command(options);
  } catch (const std::exception& error) {
    std::cerr << "lora_tool: " << error.what() << "\n";
    return 2;
  }
}

}  // namespace examples
