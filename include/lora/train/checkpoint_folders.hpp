// Lists the checkpoint folders of a run and removes the old ones.
#pragma once

#include <lora/core/random.hpp>
#include <lora/io/folder.hpp>
#include <lora/train/training_arguments.hpp>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

namespace lora {

inline constexpr const char* trainer_state_file = "trainer_state.json";
inline constexpr std::string_view checkpoint_prefix = "checkpoint-";

/// Returns the sorted steps of the checkpoints in a folder: those of checkpoint-<step> with a
/// trainer_state.json. Returns none if the folder does not exist.
inline std::vector<Index> checkpoint_steps(const std::filesystem::path& directory) {
  std::vector<Index> steps;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(directory, ignored)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(checkpoint_prefix)) continue;
    const char *first = name.data() + checkpoint_prefix.size(), *last = name.data() + name.size();
    Index step = 0;
    const auto [end, error] = std::from_chars(first, last, step);
    if (error == std::errc() && end == last && step >= 0 &&
        detail::file_exists(entry.path() / trainer_state_file))
      steps.push_back(step);
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}
inline std::filesystem::path checkpoint_path(const std::filesystem::path& directory, Index step) {
  return directory / (std::string(checkpoint_prefix) + std::to_string(step));
}

namespace detail {

/// Removes the folders that a killed process left: those of StagedDirectory and remove_checkpoint,
/// and a checkpoint about to replace another.
inline void remove_leftovers(const std::filesystem::path& directory) {
  std::vector<std::filesystem::path> left;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(directory, ignored)) {
    const std::string name = entry.path().filename().string();
    const bool hidden = name.starts_with(".lora-") && name.ends_with(".tmp") && name.size() == 26;
    if (hidden || (name.starts_with(checkpoint_prefix) && name.ends_with(".next")))
      left.push_back(entry.path());
  }
  for (const auto& path : left) std::filesystem::remove_all(path, ignored);
}

/// Removes a checkpoint under a hidden name, because half a folder must not look like a checkpoint.
inline void remove_checkpoint(const std::filesystem::path& path) {
  char name[32];
  const auto step = static_cast<unsigned long long>(stream_key(0, path.filename().string()));
  std::snprintf(name, sizeof name, ".lora-%016llx.tmp", step);
  const std::filesystem::path hidden = path.parent_path() / name;
  std::error_code ignored;
  std::filesystem::remove_all(hidden, ignored);
  if (detail::file_calls().rename(path.c_str(), hidden.c_str()) != 0)
    throw_io_error(path, "remove this checkpoint", errno);
  std::filesystem::remove_all(hidden, ignored);
}

/// Whether a run that writes to `directory` continues from a checkpoint there.
inline bool resumes_in(const std::filesystem::path& directory,
                       const std::filesystem::path& resume) {
  std::error_code ignored;
  return !resume.empty() &&
         std::filesystem::equivalent(std::filesystem::absolute(resume).parent_path(), directory,
                                     ignored);
}

/// Checks output_dir.
/// Throws: ConfigError if it has checkpoints that the run neither continues from nor may remove.
inline void check_checkpoint_folder(const TrainingArguments& arguments,
                                    const std::filesystem::path& resume) {
  const std::vector<Index> there = checkpoint_steps(arguments.output_dir);
  if (there.empty() || arguments.overwrite_output_dir || resumes_in(arguments.output_dir, resume))
    return;
  throw ConfigError("Trainer: " + arguments.output_dir + " has checkpoint-" +
                    std::to_string(there.back()) +
                    " of an earlier run: continue it (resume_from_checkpoint), choose another "
                    "output_dir, or set overwrite_output_dir to lose it");
}

/// Removes the checkpoints of `directory` after `step` and what killed processes left.
inline void remove_later_checkpoints(const std::filesystem::path& directory, Index step) {
  remove_leftovers(directory);
  for (const Index one : checkpoint_steps(directory)) {
    if (one > step) remove_checkpoint(checkpoint_path(directory, one));
  }
}

}  // namespace detail

/// Removes the oldest checkpoints until `limit` are left, but never the one of step `keep`.
/// Throws: IoError.
inline void limit_checkpoints(const std::filesystem::path& directory, Index limit, Index keep) {
  std::vector<Index> steps = checkpoint_steps(directory);
  auto excess = static_cast<Index>(steps.size()) - limit;
  for (const Index step : steps) {
    if (excess <= 0) break;
    // Keeps the newest too: a run would resume from it.
    if (step == keep || step == steps.back()) continue;
    detail::remove_checkpoint(checkpoint_path(directory, step));
    --excess;
  }
}

}  // namespace lora
