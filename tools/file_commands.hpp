// The commands that convert or show files.
#pragma once

#include "diff.hpp"
#include "file_options.hpp"
#include "info.hpp"

#include <lora/io/gguf/gguf_import.hpp>
#include <lora/io/hf/checkpoint_merge.hpp>
#include <lora/io/hf/checkpoint_weights.hpp>

#include <iostream>

namespace tools {

namespace detail {

inline int merge_command(const FileOptions& options) {
  refuse_input_as_output({options.output}, {options.base, options.adapter});
  const auto base = lora::CheckpointFiles::open(options.base);
  const auto adapter = open_adapter(options.adapter);
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
  for (const std::string& warning : report.warnings) std::cerr << "lora: " << warning << "\n";
  std::cout << "merged " << report.changed << " tensors, replaced " << report.replaced << ", left "
            << report.untouched << " as they were; " << lora::grouped_text(report.bytes)
            << " bytes\nwrote " << options.output.string() << "\n";
  return 0;
}

/// Throws unless the base weights that PEFT saves with an adapted embedding or head equal those of
/// the base, if its folder has weights.
inline void check_base_copies(const lora::PeftAdapter& adapter, const std::filesystem::path& base) {
  std::optional<lora::CheckpointFiles> files;
  for (const std::string& key : adapter.other_tensors()) {
    const std::string module = lora::copied_module(adapter.config(), key);
    if (module.empty()) continue;
    if (!files && !has_checkpoint(base)) {
      std::cerr << "lora: " << base.string() << ": has no weights, so the base weights "
                << "in the adapter's file (" << lora::printable(key)
                << " and others) are left out without being compared\n";
      return;
    }
    if (!files) files.emplace(lora::CheckpointFiles::open(base));
    const lora::CheckpointStructure structure(*files);
    if (const std::string other = structure.head_problem(); !other.empty())
      throw lora::FormatError(base.string() + ": lm_head.weight " + other);
    const bool tied_head = structure.known() && structure.tied() && module == structure.head();
    const std::string name = (tied_head ? structure.embedding() : module) + ".weight";
    const std::string found = structure.find(name);
    const lora::SafetensorsFile& file = files->file_of(found.empty() ? name : found);
    if (lora::same_tensors(adapter.tensors(), key, file, found)) continue;
    throw lora::FormatError(adapter.tensors().where() + ": tensor " + lora::in_quotes(key) +
                            " is a base weight that differs from " + lora::in_quotes(found) +
                            " of " + file.where() +
                            ", and GGUF has no place for it: merge the adapter, or give the "
                            "base that it was trained on");
  }
}

inline int to_gguf_command(const FileOptions& options) {
  check_file_output(options.output, gguf_kind, {options.base, options.adapter});
  const auto adapter = open_adapter(options.adapter);
  const lora::GgufBase base = lora::read_gguf_base(options.base);
  const lora::GgufWriter file =
      lora::gguf_of_adapter(adapter, base, {.dtype = options.dtype.value_or(DType::F32)});
  check_base_copies(adapter, options.base);
  file.write(options.output);
  std::cout << "wrote " << options.output.string() << "\n";
  return 0;
}

inline int from_gguf_command(const FileOptions& options) {
  expect_utf8_base(options.base);
  check_adapter_output(options.output, {options.base, options.gguf});
  lora::GgufImport adapter =
      lora::adapter_of_gguf(lora::GgufFile::open(options.gguf), lora::read_gguf_base(options.base));
  adapter.config.base_model_name_or_path = options.base.string();
  write_adapter(options.output, adapter.config, lora::peft_config_fields(adapter.config),
                adapter.tensors);
  return 0;
}

inline int convert_command(const FileOptions& options) {
  check_adapter_output(options.output, {options.adapter});
  const auto adapter = open_adapter(options.adapter);
  lora::SafetensorsWriter tensors;
  for (const auto& [key, value] : adapter.tensors().metadata()) tensors.set_metadata(key, value);
  for (const std::string& name : adapter.tensors().names())
    add_converted(tensors, adapter.tensors(), name, *options.dtype);
  write_adapter(options.output, adapter.config(), adapter.fields(), tensors);
  return 0;
}

inline int info_command(const FileOptions& options) {
  print_info(options.path);
  return 0;
}
inline int combine_command(const FileOptions& options) {
  combine_adapters(options.combine);
  return 0;
}
inline int extract_command(const FileOptions& options) {
  extract_adapter(options.extract);
  return 0;
}
inline int diff_command(const FileOptions& options) {
  return print_diff(options.path, options.second) ? 0 : 1;
}

}  // namespace detail

/// Runs one of these commands and reports errors on standard error. Returns the exit code: 2 also
/// if standard output could not be written completely.
inline int run_file_command(const std::string& name, void (detail::FileCommandLine::*define)(),
                            int (*act)(const FileOptions&), int argc, const char* const* argv) {
  FileOptions options;
  return run_program({name}, [&] {
    const std::optional<int> parsed = parse_file_options(name, define, argc, argv, options);
    return parsed ? *parsed : act(options);
  });
}

}  // namespace tools
