// The two files of an adapter's directory, replaced so that whoever reads them finds the old pair
// or the new one.
#pragma once

#include <lora/core/random.hpp>
#include <lora/io/atomic_file.hpp>
#include <lora/io/folder.hpp>
#include <lora/io/peft/peft_config.hpp>
#include <lora/io/safetensors/safetensors_writer.hpp>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace lora {

inline constexpr const char* peft_config_file = "adapter_config.json";
inline constexpr const char* peft_weights_file = "adapter_model.safetensors";

namespace detail {

inline constexpr std::string_view peft_staged_prefix = ".lora-next-";

/// The two files of one adapter.
struct PeftPaths {
  std::filesystem::path config, weights;
};

inline PeftPaths peft_paths(const std::filesystem::path& directory) {
  return {directory / peft_config_file, directory / peft_weights_file};
}
/// Tells weights from others by their size and up to 256 blocks of 1 KiB spread over them: adapters
/// that differ do so nearly everywhere, and a copy is the same. read(at, to) appends a block.
template <class Read>
std::uint64_t weights_identity(std::int64_t size, Read&& read) {
  constexpr std::int64_t block = 1024, most = 256;
  const std::int64_t count = std::clamp<std::int64_t>(size / block, 1, most);
  std::string sample = std::to_string(size) + ":";
  for (std::int64_t i = 0; i < count; ++i)
    read(count == 1 ? 0 : (size - block) / (count - 1) * i, std::min(block, size), sample);
  return stream_key(0, sample);
}
/// Of a file; 0: there is none. A pipe would wait for its writer, so only a regular file is opened.
inline std::uint64_t weights_identity(const std::filesystem::path& path) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) return 0;
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) return 0;
  const auto size = static_cast<std::int64_t>(file.tellg());
  return weights_identity(size, [&](std::int64_t at, std::int64_t count, std::string& to) {
    char bytes[1024];
    file.clear();
    file.seekg(at);
    file.read(bytes, count);
    to.append(bytes, static_cast<std::size_t>(file.gcount()));
  });
}
/// Of a file's bytes.
inline std::uint64_t weights_identity(std::span<const std::byte> bytes) {
  const std::string_view all = as_text(bytes);
  return weights_identity(static_cast<std::int64_t>(all.size()),
                          [&](std::int64_t at, std::int64_t count, std::string& to) {
                            to += all.substr(static_cast<std::size_t>(at),
                                             static_cast<std::size_t>(count));
                          });
}

/// The names of the pair that waits to replace a pair: they say which configuration and which
/// weights it replaces, and that of the configuration also which weights belong to it. A pair that
/// waits for others, because they were replaced meanwhile, is not looked at.
struct StagedNames {
  std::uint64_t old_config, old_weights;

  std::filesystem::path weights(const std::filesystem::path& directory) const {
    return directory / (name({old_config, old_weights}) + ".safetensors");
  }
  std::filesystem::path config(const std::filesystem::path& directory,
                               std::uint64_t new_weights) const {
    return directory / (name({old_config, old_weights, new_weights}) + ".json");
  }

 private:
  static std::string name(std::initializer_list<std::uint64_t> numbers) {
    std::string text(peft_staged_prefix);
    for (const std::uint64_t number : numbers) {
      char digits[20];
      std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(number));
      text += digits;
    }
    return text;
  }
};

/// What stands for the adapter in this directory, and the bytes of its configuration.
struct LocatedPeftFiles {
  PeftPaths paths;
  std::vector<std::byte> config;
  std::uint64_t weights = 0;  ///< weights_identity of those

  bool operator==(const LocatedPeftFiles& other) const {
    return paths.config == other.paths.config && paths.weights == other.paths.weights &&
           config == other.config && weights == other.weights;
  }
};

/// The configuration that waits for the weights that are there now, while the old one is still in
/// place: its name ends with their identity. Empty when there is none.
inline std::filesystem::path waiting_peft_config(const std::filesystem::path& directory,
                                                 std::uint64_t old_config, std::uint64_t weights) {
  const std::string begin =
      StagedNames{old_config, 0}.weights("").string().substr(0, peft_staged_prefix.size() + 16);
  const std::string end =
      StagedNames{0, 0}.config("", weights).string().substr(peft_staged_prefix.size() + 32);
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(directory, ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(begin) && name.ends_with(end)) return entry.path();
  }
  return {};
}

/// The pair that is waiting when it is complete, else the two files under their own names; throws
/// as read_file. `config`: the bytes of the configuration under its own name.
inline LocatedPeftFiles locate_peft_files_beside(const std::filesystem::path& directory,
                                                 const std::vector<std::byte>& config) {
  LocatedPeftFiles found{peft_paths(directory), config};
  found.weights = weights_identity(found.paths.weights);
  const std::uint64_t old_config = stream_key(0, as_text(config));
  const StagedNames names{old_config, found.weights};
  const std::filesystem::path weights = names.weights(directory);
  const std::uint64_t identity = weights_identity(weights);
  // The configuration is put there last, and removed first.
  std::filesystem::path waiting = names.config(directory, identity);
  if (identity != 0 && file_exists(waiting)) {
    found.paths = {waiting, weights};
    found.weights = identity;
  } else {
    waiting = waiting_peft_config(directory, old_config, found.weights);
    if (waiting.empty()) return found;
    found.paths.config = waiting;
  }
  found.config = read_file(found.paths.config, peft_config_max_bytes);
  return found;
}

/// The same, looked at again while the configuration is replaced meanwhile: weights that were read
/// after a rename may not be those of a configuration that was read before it.
inline LocatedPeftFiles locate_peft_files(const std::filesystem::path& directory) {
  const std::filesystem::path path = peft_paths(directory).config;
  std::vector<std::byte> config = read_file(path, peft_config_max_bytes);
  for (int attempt = 1;; ++attempt) {
    LocatedPeftFiles found = locate_peft_files_beside(directory, config);
    std::vector<std::byte> now = read_file(path, peft_config_max_bytes);
    if (now == config || attempt == 100) return found;
    config = std::move(now);
  }
}

/// Replaces the pair in a directory that has one.
class PeftReplacement {
 public:
  PeftReplacement(const std::filesystem::path& directory)
      : directory_(directory), paths_(peft_paths(directory)) {}

  void run(const SafetensorsWriter& tensors, std::string_view config) {
    finish_interrupted();
    const std::vector<std::byte> old = read_file(paths_.config, peft_config_max_bytes);
    if (as_text(old) == config) return tensors.write(paths_.weights);
    const StagedNames names{stream_key(0, as_text(old)), weights_identity(paths_.weights)};
    PeftPaths staged{{}, names.weights(directory_)};
    try {
      tensors.write(staged.weights);
      keep_permissions(paths_.weights, staged.weights);
      staged.config = names.config(directory_, weights_identity(staged.weights));
      atomic_write(staged.config, config);
      move_weights(staged);
    } catch (const IoError& error) {
      discard(staged);
      throw IoError(std::string(error.what()) + "; the adapter that was there stays");
    } catch (...) {
      discard(staged);
      throw;
    }
    move_config(staged);
  }

 private:
  void discard(const PeftPaths& staged) {
    // First: while it is there the pair counts.
    if (!staged.config.empty()) file_calls().unlink(staged.config.c_str());
    file_calls().unlink(staged.weights.c_str());
  }
  static void keep_permissions(const std::filesystem::path& from, const std::filesystem::path& to) {
    std::error_code ignored;
    const auto status = std::filesystem::status(from, ignored);
    if (std::filesystem::is_regular_file(status))
      std::filesystem::permissions(to, status.permissions(), ignored);
  }
  void move_weights(const PeftPaths& staged) {
    if (file_calls().rename(staged.weights.c_str(), paths_.weights.c_str()) != 0)
      throw_io_error(paths_.weights, "put the new file in place", errno);
  }
  void move_config(const PeftPaths& staged) {
    // The configuration must not reach the disk before the weights that it is for.
    const int first = sync_folder(directory_);
    keep_permissions(paths_.config, staged.config);
    if (file_calls().rename(staged.config.c_str(), paths_.config.c_str()) != 0) {
      const std::string what =
          "put the new file in place (the adapter is the new one; its "
          "configuration waits as " +
          staged.config.filename().string() + " for the next save)";
      throw_io_error(paths_.config, what.c_str(), errno);
    }
    const int last = sync_folder(directory_);
    if (first != 0 || last != 0) {
      throw_io_error(directory_,
                     "sync the folder (the new adapter is in place, a loss of power could undo it)",
                     last != 0 ? last : first);
    }
  }
  /// Puts a complete pair that an earlier process left waiting in place, and removes what is left
  /// of others.
  void finish_interrupted() {
    const LocatedPeftFiles found = locate_peft_files(directory_);
    if (found.paths.config != paths_.config) {
      if (found.paths.weights != paths_.weights) move_weights(found.paths);
      move_config(found.paths);
    }
    std::vector<std::filesystem::path> left;
    std::error_code ignored;
    for (const auto& entry : std::filesystem::directory_iterator(directory_, ignored)) {
      if (entry.path().filename().string().starts_with(peft_staged_prefix))
        left.push_back(entry.path());
    }
    for (const std::filesystem::path& path : left) file_calls().unlink(path.c_str());
  }

  const std::filesystem::path& directory_;
  PeftPaths paths_;
};

}  // namespace detail

/// Puts weights and configuration into `directory`, which is created when missing, as one: a
/// process that is killed at any point leaves the old adapter or the new one for PeftAdapter::open,
/// and an error leaves the old one and no hidden file.
///
/// Where there is no configuration yet, or the same one, each file is written atomically, the
/// weights first. Else both are written under hidden names (".lora-next-" and digits that say which
/// files they replace), the configuration last, and then renamed, weights first; from the moment
/// that both are there under their hidden names, readers of this library take them. A pair that a
/// killed process left waiting counts only while the files that it replaces are still there.
/// Another reader, PEFT say, sees new weights with the old configuration between the two renames,
/// and after a process was killed just there until the next save here. One writer at a time. Throws
/// IoError; two of its messages say that the new adapter is there nonetheless: the second rename
/// failed, or the last sync of the folder.
inline void replace_peft_files(const std::filesystem::path& directory,
                               const SafetensorsWriter& tensors, std::string_view config) {
  std::error_code failure;
  std::filesystem::create_directories(directory, failure);
  if (failure) throw_io_error(directory, "create this folder", failure.value());
  const detail::PeftPaths paths = detail::peft_paths(directory);
  detail::refuse_special_target(paths.weights);
  if (detail::file_exists(paths.config)) {
    detail::PeftReplacement(directory).run(tensors, config);
  } else {
    const bool had_weights = detail::file_exists(paths.weights);
    tensors.write(paths.weights);
    try {
      atomic_write(paths.config, config);
    } catch (...) {
      if (!had_weights && !detail::file_exists(paths.config))
        detail::file_calls().unlink(paths.weights.c_str());
      throw;
    }
  }
}

}  // namespace lora
