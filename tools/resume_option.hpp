// Which checkpoint a run goes on from.
#pragma once

#include <lora/core/error.hpp>

#include <filesystem>
#include <string>

namespace tools {

/// What --resume-from-checkpoint stands for; empty: a run from the beginning. "last" and "true" are
/// the folder's `last` checkpoint. Throws ConfigError when there is none, as transformers' Trainer
/// does: a run that begins anew unasked would go unnoticed.
inline std::filesystem::path checkpoint_to_resume(const std::string& option,
                                                  const std::filesystem::path& last,
                                                  const std::string& folder) {
  if (option != "last" && option != "true") return option;
  if (!last.empty()) return last;
  throw lora::ConfigError("--resume-from-checkpoint " + option + ": there is no checkpoint in " +
                          folder + "; leave the option out to begin a new run");
}

}  // namespace tools
