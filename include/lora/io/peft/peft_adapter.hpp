// Opens an adapter in PEFT's directory without a model.
#pragma once

#include <lora/adapters/matching.hpp>
#include <lora/io/peft/peft_config.hpp>
#include <lora/io/peft/peft_directory.hpp>
#include <lora/io/peft/peft_keys.hpp>
#include <lora/io/peft/peft_tensors.hpp>
#include <lora/io/safetensors/safetensors.hpp>

#include <algorithm>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora {

/// An adapter in PEFT's directory, without a model: a valid configuration, every field as read, and
/// the memory-mapped tensors. A and B fit each other and the configuration; whether they fit a
/// model is checked when the adapter is loaded into it. Move-only.
///
/// The files may be replaced while this is open, since every save of this library renames, but they
/// must not be truncated in place; see MappedFile.
/// Threads: several threads may call const functions.
class PeftAdapter {
 public:
  /// Reads adapter_config.json and adapter_model.safetensors of `directory`. Keys may lack
  /// "base_model.model." and may contain the adapter's name, as in a state_dict. If a save of this
  /// library was killed between its two renames (replace_peft_files), reads the new adapter. During
  /// a save, reads the old or the new one.
  /// Throws: FormatError that names all faults of the tensors (A without B, shapes that do not fit,
  ///   ranks that differ from r and rank_pattern, types that are not numeric); ConfigError for a
  ///   field that is not valid or not supported; IoError.
  static PeftAdapter open(const std::filesystem::path& directory);

  const LoRAConfig& config() const { return config_.config; }
  /// adapter_config.json as read, including unknown fields.
  const Json& fields() const { return config_.fields; }
  const std::vector<std::string>& unknown_fields() const { return config_.unknown_fields; }
  /// One sentence for each thing that is ignored or unusual: unknown fields, and keys with the name
  /// of an adapter other than "default".
  const std::vector<std::string>& warnings() const { return warnings_; }
  /// The tensors, under the keys of PEFT's files even if this file's keys contain the adapter's
  /// name.
  const SafetensorsFile& tensors() const { return tensors_; }
  /// The adapted modules, in the order of the file.
  const std::vector<PeftModule>& modules() const { return modules_; }
  /// The keys outside the pairs of A and B: saved modules, base biases, lora_bias, and anything
  /// else.
  const std::vector<std::string>& other_tensors() const { return others_; }

 private:
  PeftAdapter(PeftConfig config, const std::string& config_where, SafetensorsFile tensors)
      : config_(std::move(config)), tensors_(std::move(tensors)) {
    for (const std::string& field : config_.unknown_fields) {
      warnings_.push_back(printable(peft_config_file) + ": " + in_quotes(field) + " is " +
                          printable(config_.fields.at(field).dump(), 60) +
                          ", which is not known here and is ignored");
    }
    const std::string own = detail::use_file_keys(tensors_);
    if (!own.empty() && own != "default") {
      warnings_.push_back("the keys hold the name of the adapter, " + in_quotes(own) +
                          ", which is removed; PEFT would load it under that name only");
    }
    auto found = detail::check_peft_tensors(
        tensors_.where(), config_where, config_.config, tensors_.names(),
        [&](const std::string& name) -> const TensorInfo& { return tensors_.info(name); });
    modules_ = std::move(found.modules);
    others_ = std::move(found.others);
  }

  PeftConfig config_;
  SafetensorsFile tensors_;
  std::vector<PeftModule> modules_;
  std::vector<std::string> others_, warnings_;
};

namespace detail {

/// Throws the reason why a folder without adapter_config.json has no adapter.
[[noreturn]] inline void throw_no_peft_adapter(const std::filesystem::path& directory) {
  std::error_code failure;
  const auto status = std::filesystem::status(directory, failure);
  if (!std::filesystem::exists(status)) throw_io_error(directory, "open this folder", ENOENT);
  if (!std::filesystem::is_directory(status)) {
    throw FormatError(directory.string() +
                      ": is a file, expected the folder with adapter_config.json and "
                      "adapter_model.safetensors");
  }
  std::set<std::string> below;
  for (const auto& entry : std::filesystem::directory_iterator(directory, failure)) {
    if (file_exists(entry.path() / peft_config_file) && below.size() < 8)
      below.insert(in_quotes(entry.path().filename().string()));
  }
  std::string text = directory.string() +
                     ": has no adapter_config.json, expected an adapter that "
                     "PEFT or this library saved";
  for (const std::string& name : below)
    text += (name == *below.begin() ? "; there are adapters in the folders " : ", ") + name;
  throw FormatError(text);
}

/// Opens the weights of a located pair. Its messages explain missing and empty files.
inline SafetensorsFile open_peft_weights(const std::filesystem::path& directory,
                                         const std::filesystem::path& path) {
  if (!file_exists(path)) {
    if (file_exists(directory / "adapters.safetensors")) {
      throw FormatError(
          path.string() +
          ": is missing, but adapters.safetensors exists: that is the format of mlx-lm, which "
          "is not read here; in PEFT's, lora_A.weight is the transpose of lora_a, "
          "lora_B.weight that of lora_b, and lora_alpha is scale times the rank");
    }
    const bool pickle = file_exists(directory / "adapter_model.bin");
    throw FormatError(path.string() + ": is missing" +
                      (pickle ? "; " + pickle_note("adapter_model.bin", "PEFT")
                              : ", though adapter_config.json exists: was a download cut short?"));
  }
  std::error_code failure;
  if (std::filesystem::file_size(path, failure) == 0 && !failure) {
    throw FormatError(path.string() + ": is empty: a download or a save was cut short");
  }
  return SafetensorsFile::open(path, {.storage = FileStorage::mapped});
}

}  // namespace detail

inline PeftAdapter PeftAdapter::open(const std::filesystem::path& directory) {
  if (!detail::file_exists(directory / peft_config_file)) detail::throw_no_peft_adapter(directory);
  // Another process may replace the pair meanwhile. Accept what was opened only if it is still
  // there.
  for (int attempt = 1;; ++attempt) {
    std::optional<SafetensorsFile> tensors;
    detail::LocatedPeftFiles found;
    const auto still_there = [&] {
      try {
        return detail::locate_peft_files(directory) == found;
      } catch (const Error&) {
        return false;
      }
    };
    try {
      found = detail::locate_peft_files(directory);
      tensors = detail::open_peft_weights(directory, found.paths.weights);
      // The file may have been replaced twice and look unchanged now.
      if (detail::weights_identity(tensors->file_bytes()) != found.weights || !still_there())
        tensors.reset();
    } catch (const Error&) {
      if (attempt == 100 || still_there()) throw;
    }
    if (tensors) {
      const std::string where = found.paths.config.string();
      PeftConfig config = parse_peft_config(as_text(found.config), where);
      return PeftAdapter(std::move(config), where, std::move(*tensors));
    }
    if (attempt == 100) {
      throw IoError(directory.string() +
                    ": the adapter was replaced again and again while it was read");
    }
  }
}

/// Checks fields and tensors as PeftAdapter::open would check their files, in
/// O(tensors · log tensors).
/// Throws: FormatError or ConfigError that starts with the name of the file they would be in.
inline void check_peft_files(const std::filesystem::path& directory, const Json& fields,
                             const SafetensorsWriter& tensors) {
  const auto paths = detail::peft_paths(directory);
  const PeftConfig config = parse_peft_config(peft_config_text(fields), paths.config.string());
  std::vector<std::string> names;
  std::map<std::string, TensorInfo> infos;
  tensors.for_each_tensor([&](const std::string& name, DType dtype, const auto& shape) {
    names.push_back(name);
    infos[name] = {dtype, shape};
  });
  detail::check_peft_tensors(
      paths.weights.string(), paths.config.string(), config.config, names,
      [&](const std::string& name) -> const TensorInfo& { return infos.at(name); });
}

/// Writes an adapter's weights and configuration by replace_peft_files(); creates the directory if
/// it is missing. Writes `fields` unchanged (see peft_config_fields).
/// Throws: as check_peft_files(), before it writes anything; IoError as replace_peft_files().
inline void write_peft_adapter(const std::filesystem::path& directory, const Json& fields,
                               const SafetensorsWriter& tensors) {
  check_peft_files(directory, fields, tensors);
  replace_peft_files(directory, tensors, peft_config_text(fields));
}

}  // namespace lora
