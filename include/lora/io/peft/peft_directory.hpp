// Replaces the two files of an adapter's directory so that readers find the old pair or the new
// one.
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
/// Hashes the size of weights and up to 256 blocks of 1 KiB spread over them. Different adapters
/// differ nearly everywhere, so samples suffice; a copy has the same hash. read(at, count, to)
/// appends a block.
template <class Read>
std::uint64_t weights_identity(std::int64_t size, Read&& read) {
  constexpr std::int64_t block = 1024, most = 256;
  const std::int64_t count = std::clamp<std::int64_t>(size / block, 1, most);
  std::string sample = std::to_string(size) + ":";
  for (std::int64_t i = 0; i < count; ++i)
    read(count == 1 ? 0 : (size - block) / (count - 1) * i, std::min(block, size), sample);
  return stream_key(0, sample);
}
/// Hashes a file; 0: there is none. Opens regular files only, because a pipe would wait for a
/// writer.
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
/// Hashes the bytes of a file.
inline std::uint64_t weights_identity(std::span<const std::byte> bytes) {
  const std::string_view all = as_text(bytes);
  return weights_identity(static_cast<std::int64_t>(all.size()),
                          [&](std::int64_t at, std::int64_t count, std::string& to) {
                            to += all.substr(static_cast<std::size_t>(at),
                                             static_cast<std::size_t>(count));
                          });
}

/// The names of a staged pair. They encode the configuration and weights to be replaced; that of
/// the configuration also encodes the new weights. A staged pair whose old files are no longer
/// there is ignored.
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

/// The files that hold the adapter of a directory, and the bytes of its configuration.
struct LocatedPeftFiles {
  PeftPaths paths;
  std::vector<std::byte> config;
  std::uint64_t weights = 0;  ///< weights_identity of paths.weights

  bool operator==(const LocatedPeftFiles& other) const {
    return paths.config == other.paths.config && paths.weights == other.paths.weights &&
           config == other.config && weights == other.weights;
  }
};

/// Finds the staged configuration of the current weights while the old configuration is still in
/// place. Its name ends with the identity of the weights. Empty if there is none.
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

/// Returns the staged pair if it is complete, else the two files under their final names. `config`
/// holds the bytes of the configuration under its final name.
/// Throws: as read_file().
inline LocatedPeftFiles locate_peft_files_beside(const std::filesystem::path& directory,
                                                 const std::vector<std::byte>& config) {
  LocatedPeftFiles found{peft_paths(directory), config};
  found.weights = weights_identity(found.paths.weights);
  const std::uint64_t old_config = stream_key(0, as_text(config));
  const StagedNames names{old_config, found.weights};
  const std::filesystem::path weights = names.weights(directory);
  const std::uint64_t identity = weights_identity(weights);
  // The configuration is staged last and removed first.
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

/// Does the same, and retries if the configuration was replaced meanwhile: the configuration may
/// have been read before a rename and the weights after it.
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

/// Replaces the pair of a directory that has one.
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
    // The configuration first: as long as it exists, the pair is valid.
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
    // The configuration must not reach the disk before its weights.
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
  /// Puts a complete staged pair of a killed process in place, and removes the remains of others.
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

/// Writes weights and configuration into `directory` as a unit; creates the directory if it is
/// missing. A process killed at any point leaves the old adapter or the new one for
/// PeftAdapter::open. An error leaves the old one and no hidden files. Allows one writer at a time.
///
/// If there is no configuration yet, or an equal one, writes each file atomically, weights first.
/// Otherwise stages both under hidden names, ".lora-next-" and digits that encode the files they
/// replace, the configuration last, and then renames them, weights first. Readers of this library
/// use a staged pair once it is complete, as long as the files that it replaces are still there.
/// Other readers, such as PEFT, see the new weights with the old configuration between the two
/// renames and, if the process is killed there, until the next save by this library.
/// Throws: IoError. If the second rename or the last sync of the folder fails, the message says
///   that the new adapter is in place.
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
