// The sets of golden numbers for the tests: the repository's own, always, and the set of
// $LORA_SHARED_DIR if that variable names a folder when the tests run.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <exception>
#include <filesystem>
#include <string>
#include <vector>

#include "support/shared.hpp"

namespace lora_test {

/// A folder with layers/, models/ and text/, as tests/golden/README.md describes. Data that golden
/// numbers refer to, but that are none themselves, are in data/ beside it.
struct GoldenSet {
  std::filesystem::path folder;
  std::filesystem::path data() const { return folder.parent_path() / "data"; }
};

inline std::vector<GoldenSet> golden_sets() {
  std::vector<GoldenSet> sets{{std::filesystem::path(LORA_SOURCE_DIR) / "tests" / "golden"}};
  if (std::filesystem::is_directory(shared_dir())) sets.push_back({shared_dir() / "golden"});
  return sets;
}

/// Runs check(), traced with `what`. An exception is a failure that does not hide the other cases.
template <class Check>
void check_golden_part(const std::string& what, Check check) {
  SCOPED_TRACE(what);
  try {
    check();
  } catch (const std::exception& error) {
    ADD_FAILURE() << error.what();
  }
}

/// Calls check(set) for every set.
template <class Check>
void for_each_golden_set(Check check) {
  for (const GoldenSet& set : golden_sets())
    check_golden_part(set.folder.string(), [&] { check(set); });
}

/// A folder of models/ with an adapter. A model without its own base uses stories260K.
struct GoldenModel {
  std::string name;
  std::filesystem::path folder, base, adapter;
};

/// Returns the models of a set by name. A set without any is a failure.
inline std::vector<GoldenModel> golden_models(const GoldenSet& set) {
  std::vector<GoldenModel> found;
  std::error_code none;
  std::vector<std::filesystem::path> folders;
  for (const auto& entry : std::filesystem::directory_iterator(set.folder / "models", none))
    folders.push_back(entry.path());
  // Adds the variants whose adapters this library reads, over bases that it reads.
  folders.push_back(set.folder / "models_variants" / "llama_dora");
  for (const auto& folder : folders) {
    if (!std::filesystem::exists(folder / "adapter")) continue;
    const bool own = std::filesystem::exists(folder / "base");
    found.push_back({folder.filename().string(), folder,
                     own ? folder / "base" : set.data() / "stories260K-hf", folder / "adapter"});
  }
  std::sort(found.begin(), found.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  if (found.empty()) ADD_FAILURE() << set.folder << " has no models";
  return found;
}

/// Calls check(model) for every model of every set.
template <class Check>
void for_each_golden_model(Check check) {
  for_each_golden_set([&](const GoldenSet& set) {
    for (const GoldenModel& model : golden_models(set))
      check_golden_part(model.name, [&] { check(model); });
  });
}

}  // namespace lora_test
