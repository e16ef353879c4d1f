// An adapter in PEFT's directory, without a model.
#pragma once

#include <lora/adapters/matching.hpp>
#include <lora/io/peft/peft_config.hpp>
#include <lora/io/peft/peft_directory.hpp>
#include <lora/io/peft/peft_keys.hpp>
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

/// One adapted layer of an adapter's file.
struct PeftModule {
  std::string name;          ///< "model.layers.0.self_attn.q_proj": without "base_model.model."
  bool embedding = false;    ///< A and B are lora_embedding_A and lora_embedding_B
  std::string a_key, b_key;  ///< keys of the two tensors in the file
  Index r = 0;               ///< rows of A, which r or rank_pattern agree with
  double alpha = 0, scaling = 0;  ///< lora_alpha or alpha_pattern's; alpha / r or alpha / √r
};

namespace detail {

/// The two halves of a file's A/B pairs, by module, and what is in no pair.
class PeftPairs {
 public:
  struct Entry {
    std::string name;
    std::string a_key, b_key;
    bool embedding = false;
  };
  explicit PeftPairs(const std::vector<std::string>& keys, std::string& problems) {
    for (const std::string& key : keys) add(key, problems);
    for (const Entry& entry : entries) {
      if (!entry.a_key.empty() && !entry.b_key.empty()) continue;
      const bool has_a = !entry.a_key.empty();
      problems += "\n  " + printable(has_a ? entry.a_key : entry.b_key) + ": has no " +
                  (entry.embedding ? "lora_embedding_" : "lora_") + (has_a ? "B" : "A") +
                  " beside it";
    }
  }

  std::vector<Entry> entries;  // in the order of their first key
  std::vector<std::string> others;

 private:
  void add(const std::string& key, std::string& problems) {
    std::string_view name = without_peft_prefix(key);
    struct Ending {
      std::string_view text;
      bool a, embedding;
    };
    for (const Ending& ending : {Ending{".lora_A.weight", true, false},
                                 {".lora_B.weight", false, false},
                                 {".lora_embedding_A", true, true},
                                 {".lora_embedding_B", false, true}}) {
      if (!name.ends_with(ending.text) || name.size() == ending.text.size()) continue;
      name.remove_suffix(ending.text.size());
      const auto [at, fresh] = index_.emplace(std::string(name), entries.size());
      if (fresh) entries.push_back({std::string(name), {}, {}, ending.embedding});
      Entry& entry = entries[at->second];
      std::string& place = ending.a ? entry.a_key : entry.b_key;
      if (entry.embedding != ending.embedding) {
        problems += "\n  " + printable(key) + ": the module has tensors of an embedding and of " +
                    "another layer";
      } else if (!place.empty()) {
        problems += "\n  " + printable(key) + ": stands for the same as " + printable(place);
      } else {
        place = key;
      }
      return;
    }
    others.push_back(key);
  }

  std::map<std::string, std::size_t> index_;
};

/// What a file's names and shapes say of an adapter.
struct PeftTensors {
  std::vector<PeftModule> modules;
  std::vector<std::string> others;
};

/// The rank, alpha and scale that the configuration gives each module: its targets are what the
/// file holds, so that only rank_pattern and alpha_pattern are left to match.
inline std::vector<MatchedModule> match_peft_modules(const std::string& where,
                                                     const LoRAConfig& config,
                                                     const std::vector<PeftModule>& modules) {
  LoRAConfig given;
  given.r = config.r;
  given.lora_alpha = config.lora_alpha;
  given.use_rslora = config.use_rslora;
  given.rank_pattern = config.rank_pattern;
  given.alpha_pattern = config.alpha_pattern;
  std::vector<std::string> names;
  std::vector<ModuleInfo> infos;
  for (const PeftModule& module : modules) {
    names.push_back(module.name);
    infos.push_back({module.name, module.embedding ? "Embedding" : "Linear"});
  }
  given.target_modules = names;
  try {
    return match_modules(infos, given).targets;
  } catch (const ConfigError& error) {
    throw ConfigError(where + ": " + error.what());
  }
}

/// What is wrong with the shapes of A and B, or nothing.
inline std::string peft_pair_fault(const PeftModule& module, const TensorInfo& a,
                                   const TensorInfo& b) {
  for (const auto* one : {&a, &b}) {
    if (is_matrix_dtype(one->dtype)) continue;
    return printable(one == &a ? module.a_key : module.b_key) + ": dtype is " +
           std::string(dtype_name(one->dtype)) + ", expected F32, F64, F16 or BF16";
  }
  const std::string shapes = printable(module.a_key) + " is " + shape_text(a.shape) + " and " +
                             printable(module.b_key) + " is " + shape_text(b.shape) + ", expected ";
  const std::size_t dims = a.shape.size();
  if (dims < 2 || b.shape.size() != dims || (module.embedding && dims != 2))
    return shapes + "(r, in) and (out, r), or with a kernel (r, in, ...) and (out, r, ...)";
  const Index r = a.shape[0], columns = b.shape[1];
  // With groups B of a convolution has r / groups columns.
  const bool fits = dims == 2 ? columns == r : columns > 0 && r % columns == 0;
  return r >= 1 && fits ? "" : shapes + "the same rank in both";
}

/// Pairs what `names` lists; `info(name)` gives type and shape. Throws FormatError, beginning with
/// `where`, that names everything that is wrong; ConfigError, beginning with `config_where`, for a
/// pattern that is refused.
template <class Info>
PeftTensors check_peft_tensors(const std::string& where, const std::string& config_where,
                               const LoRAConfig& config, const std::vector<std::string>& names,
                               Info&& info) {
  if (names.empty()) {
    throw FormatError(where +
                      ": holds no tensors, so there is nothing to load; the program that saved it "
                      "found no adapter (a model saved after merging, or under another name?)");
  }
  std::string problems;
  PeftPairs pairs(names, problems);
  PeftTensors found;
  for (const PeftPairs::Entry& entry : pairs.entries) {
    if (entry.a_key.empty() || entry.b_key.empty()) continue;
    PeftModule module{entry.name, entry.embedding, entry.a_key, entry.b_key};
    const TensorInfo a = info(module.a_key), b = info(module.b_key);
    const std::string fault = peft_pair_fault(module, a, b);
    if (!fault.empty()) {
      problems += "\n  " + fault;
      continue;
    }
    module.r = a.shape[0];
    found.modules.push_back(std::move(module));
  }
  if (pairs.entries.empty()) problems += "\n  no lora_A and lora_B of any layer";
  if (!found.modules.empty()) {
    const std::vector<MatchedModule> matched =
        match_peft_modules(config_where, config, found.modules);
    for (std::size_t i = 0; i < matched.size(); ++i) {
      PeftModule& module = found.modules[i];
      module.alpha = matched[i].alpha;
      module.scaling = matched[i].scaling;
      if (module.r == matched[i].r) continue;
      problems += "\n  " + printable(module.a_key) + ": has rank " + std::to_string(module.r) +
                  ", expected " + std::to_string(matched[i].r) +
                  (matched[i].r == config.r ? " (r)" : " (rank_pattern)");
    }
  }
  if (!problems.empty())
    throw FormatError(where + ": does not hold the adapter of its configuration:" + problems);
  found.others = std::move(pairs.others);
  return found;
}

/// Takes the adapter's name out of the keys of a state_dict and returns it; empty where there is
/// none. Throws FormatError for several names, and for keys with and without one that mean the
/// same.
inline std::string use_file_keys(SafetensorsFile& file) {
  std::map<std::string, std::string> renamed;
  std::set<std::string> adapters;
  for (const std::string& key : file.names()) {
    if (auto named = named_peft_key(key)) {
      adapters.insert(named->adapter);
      renamed.emplace(key, std::move(named->key));
    }
  }
  if (adapters.empty()) return "";
  if (adapters.size() > 1) {
    throw FormatError(file.where() + ": the keys hold the names of several adapters, " +
                      in_quotes(*adapters.begin()) + " and " + in_quotes(*adapters.rbegin()) +
                      ", expected one; write the keys of each into a folder of its own");
  }
  file.rename(renamed);
  return *adapters.begin();
}

}  // namespace detail

/// An adapter as PEFT's directory holds it, without a model: a valid configuration, every field as
/// it was read, and the tensors, mapped. What opens is a LoRA adapter whose A and B fit each other
/// and the configuration; whether it fits a model is that model's matter.
///
/// Move-only; const calls are safe from several threads. The files may be replaced while this is
/// open (every save here renames), not be cut short in place; see MappedFile.
class PeftAdapter {
 public:
  /// Reads adapter_config.json and adapter_model.safetensors of `directory`, whose keys may lack
  /// "base_model.model." and may hold the adapter's name, as those of a state_dict do. Where a save of this library was killed between its two renames
  /// (replace_peft_files), the new adapter is read; while one saves, the old one or the new. All
  /// faults of the tensors are named in one
  /// FormatError: A without B, shapes that do not fit each other, ranks other than r and
  /// rank_pattern say, types that are no numbers. Throws FormatError, ConfigError (a field that is
  /// not valid or not supported), IoError.
  static PeftAdapter open(const std::filesystem::path& directory);

  const LoRAConfig& config() const { return config_.config; }
  /// adapter_config.json as read, unknown fields included.
  const Json& fields() const { return config_.fields; }
  const std::vector<std::string>& unknown_fields() const { return config_.unknown_fields; }
  /// What is ignored or odd, each a sentence: fields that are not known, keys with the name of an
  /// adapter that is not "default".
  const std::vector<std::string>& warnings() const { return warnings_; }
  /// Under the keys of PEFT's files, also where the file's own hold the adapter's name.
  const SafetensorsFile& tensors() const { return tensors_; }
  /// In the order in which the file names them.
  const std::vector<PeftModule>& modules() const { return modules_; }
  /// Keys in no pair of A and B: saved modules, biases of the base, lora_bias, and whatever else
  /// the file holds.
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
                          ", which is left out; PEFT would load it under that name only");
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

/// Why there is no adapter in a folder without adapter_config.json.
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

/// The weights of a located pair, with the reasons that a file of their name may have not to be
/// one.
inline SafetensorsFile open_peft_weights(const std::filesystem::path& directory,
                                         const std::filesystem::path& path) {
  if (!file_exists(path)) {
    if (file_exists(directory / "adapters.safetensors")) {
      throw FormatError(
          path.string() +
          ": is not there, but adapters.safetensors is: that is the format of mlx-lm, which is not "
          "read here; in PEFT's, lora_A.weight is the transpose of lora_a, lora_B.weight that of "
          "lora_b, and lora_alpha is scale times the rank");
    }
    const bool pickle = file_exists(directory / "adapter_model.bin");
    throw FormatError(
        path.string() + ": is not there" +
        (pickle ? ", but adapter_model.bin is: that is a Python pickle, which runs code of whoever "
                  "wrote it when it is read, and is not read here; load it in PEFT, if you trust "
                  "it, and call save_pretrained(..., safe_serialization=True)"
                : ", though adapter_config.json is: a download that was cut short?"));
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
  // Another process may replace the pair meanwhile: what was opened counts when it is still there.
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
      // The file may have been replaced twice, so that what lies there looks as before.
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

/// Throws what PeftAdapter::open would throw for these fields and tensors, FormatError or
/// ConfigError, beginning with the name of the file that they would be. O(tensors · log tensors).
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

/// Writes an adapter directory, created when missing: weights and configuration as
/// replace_peft_files does. `fields` are written as they stand (see peft_config_fields). Throws as
/// check_peft_files before anything is written, IoError as replace_peft_files.
inline void write_peft_adapter(const std::filesystem::path& directory, const Json& fields,
                               const SafetensorsWriter& tensors) {
  check_peft_files(directory, fields, tensors);
  replace_peft_files(directory, tensors, peft_config_text(fields));
}

}  // namespace lora
