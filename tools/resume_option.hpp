// Finds the checkpoint from which to resume a run.
#pragma once

#include <lora/core/error.hpp>

#include <filesystem>
#include <string>

namespace tools {

/// Returns the checkpoint that --resume-from-checkpoint names; empty: start a new run. "last" and
/// "true" mean the folder's `last` checkpoint.
/// Throws: ConfigError if there is none, as transformers' Trainer does. Starting a new run instead
///   could go unnoticed.
inline std::filesystem::path checkpoint_to_resume(const std::string& option,
                                                  const std::filesystem::path& last,
                                                  const std::string& folder) {
  if (option != "last" && option != "true") return option;
  if (!last.empty()) return last;
  throw lora::ConfigError("--resume-from-checkpoint " + option + ": there is no checkpoint in " +
                          folder + "; omit the option to start a new run");
}

}  // namespace tools
