// Checks where a program may write: never over its inputs, and over an existing file only if it is
// of the same kind.
#pragma once

#include <lora/core/error.hpp>
#include <lora/io/file.hpp>
#include <lora/io/json.hpp>
#include <lora/io/safetensors/safetensors_reader.hpp>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <string>
#include <system_error>
#include <vector>

namespace tools {

/// The inputs of a program: files, and folders with the files in them. Empty and missing paths are
/// ignored.
using InputPaths = std::vector<std::filesystem::path>;

namespace detail {

/// Resolves a path as if its missing folders existed: "new/../adapter" becomes "adapter".
inline std::filesystem::path resolved(const std::filesystem::path& path) {
  std::filesystem::path way = std::filesystem::absolute(path);
  for (int i = 0; i < 2; ++i) {  // twice, because the first pass may remove "new/.."
    std::error_code failure;
    std::filesystem::path next = std::filesystem::weakly_canonical(way, failure);
    way = failure ? way.lexically_normal() : std::move(next);
  }
  return way.has_filename() ? way : way.parent_path();
}

inline std::vector<std::filesystem::path> files_read(const InputPaths& inputs) {
  std::vector<std::filesystem::path> files;
  std::error_code failure;
  for (const std::filesystem::path& input : inputs) {
    if (input.empty()) continue;
    files.push_back(input);
    if (!std::filesystem::is_directory(input, failure)) continue;
    for (const auto& entry : std::filesystem::directory_iterator(input, failure)) {
      if (std::filesystem::is_regular_file(entry.path(), failure)) files.push_back(entry.path());
    }
  }
  return files;
}

}  // namespace detail

/// Throws lora::ConfigError if one of `outputs` is an input or a file in an input folder, by the
/// same path, another path, a symbolic link or a hard link.
inline void refuse_input_as_output(const InputPaths& outputs, const InputPaths& inputs) {
  const std::vector<std::filesystem::path> read = detail::files_read(inputs);
  for (const std::filesystem::path& output : outputs) {
    const std::filesystem::path place = detail::resolved(output);
    for (const std::filesystem::path& input : read) {
      std::error_code failure;  // a missing path is not an input
      if (!std::filesystem::equivalent(place, input, failure) || failure) continue;
      throw lora::ConfigError(output.string() + ": is " + input.string() +
                              ", which is an input; inputs are never overwritten, choose "
                              "another output");
    }
  }
}

/// Throws lora::ConfigError if an input, or a file in an input folder, is inside `folder`, whose
/// content the program replaces or removes.
inline void refuse_input_below(const std::filesystem::path& folder, const InputPaths& inputs) {
  const std::filesystem::path top = detail::resolved(folder);
  for (const std::filesystem::path& input : detail::files_read(inputs)) {
    // Check both a link and its target.
    for (const std::filesystem::path& place :
         {detail::resolved(input), std::filesystem::absolute(input).lexically_normal()}) {
      if (std::mismatch(top.begin(), top.end(), place.begin(), place.end()).first != top.end())
        continue;
      throw lora::ConfigError(input.string() + ": is an input inside " + folder.string() +
                              ", which this run replaces; choose another output");
    }
  }
}

/// A kind of file: its name, and a test whether an existing file is one.
struct FileKind {
  const char* name;
  bool (*is)(const std::filesystem::path&);
};

namespace detail {

inline bool begins_with(const std::filesystem::path& path, const std::string& text) {
  std::string begin(text.size(), '\0');
  std::ifstream file(path, std::ios::binary);
  return file.read(begin.data(), static_cast<std::streamsize>(begin.size())) && begin == text;
}
inline bool holds_only_logits(const std::filesystem::path& path) {
  try {
    return lora::SafetensorsFile::open(path).names() == std::vector<std::string>{"logits"};
  } catch (const lora::Error&) {
    return false;
  }
}
/// Whether the first line is an object with a step, as JsonLinesLog writes it.
inline bool begins_with_step(const std::filesystem::path& path) {
  std::string line(std::size_t{1} << 16, '\0');
  std::ifstream file(path, std::ios::binary);
  file.read(line.data(), static_cast<std::streamsize>(line.size()));
  line.resize(std::min(static_cast<std::size_t>(file.gcount()), line.find('\n')));
  const lora::Json json = lora::Json::parse(line, nullptr, false);
  return json.is_object() && json.contains("step");
}

}  // namespace detail

inline constexpr FileKind gguf_kind{"GGUF file", [](const std::filesystem::path& path) {
                                      return detail::begins_with(path, "GGUF");
                                    }};
inline constexpr FileKind logits_kind{"safetensors file with only logits",
                                      detail::holds_only_logits};
inline constexpr FileKind json_lines_kind{"log of JSON lines", detail::begins_with_step};

/// Runs refuse_input_as_output(), and throws lora::ConfigError for an existing file unless it is
/// empty or of this kind. Leaves anything but regular files to the writer.
inline void check_file_output(const std::filesystem::path& output, const FileKind& kind,
                              const InputPaths& inputs) {
  refuse_input_as_output({output}, inputs);
  std::error_code failure;
  if (!std::filesystem::is_regular_file(output, failure)) return;
  if (std::filesystem::file_size(output, failure) == 0 || kind.is(output)) return;
  throw lora::ConfigError(output.string() + ": exists and is not a " + kind.name +
                          "; only such a file is replaced, choose another output or remove it");
}

}  // namespace tools
