// The weights of a base model in a Hugging Face folder: one safetensors file, or shards and their
// index.
#pragma once

#include <lora/adapters/near_names.hpp>
#include <lora/io/safetensors/safetensors_reader.hpp>

#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora {

inline constexpr const char* checkpoint_file = "model.safetensors";
inline constexpr const char* checkpoint_index_file = "model.safetensors.index.json";

/// All tensors of a checkpoint, mapped: nothing is read before it is used. Each tensor is in one
/// file. Move-only; several threads may call const functions.
class CheckpointFiles {
 public:
  struct File {
    std::string name;  ///< within the folder
    SafetensorsFile tensors;
  };

  /// Opens model.safetensors, or, if it does not exist, the shards that
  /// model.safetensors.index.json lists. A shard must be a file in this folder itself, and index
  /// and shards must agree on every tensor.
  /// Throws: IoError; FormatError that names all disagreements.
  static CheckpointFiles open(const std::filesystem::path& directory);

  const std::filesystem::path& directory() const { return directory_; }
  /// In the order of their names.
  const std::vector<File>& files() const { return files_; }
  /// model.safetensors.index.json, null without shards.
  const Json& index() const { return index_; }
  /// The names of all tensors, sorted, with the index of their file.
  const std::map<std::string, std::size_t>& names() const { return file_of_; }
  bool contains(const std::string& name) const { return file_of_.count(name) != 0; }

  /// Returns the file that holds a tensor.
  /// Throws: FormatError, with similar names, if none does.
  const SafetensorsFile& file_of(const std::string& name) const {
    const auto found = file_of_.find(name);
    if (found != file_of_.end()) return files_[found->second].tensors;
    const std::string near = near_to(name);
    throw FormatError(directory_.string() + ": has no tensor " + in_quotes(name) +
                      (near.empty() ? "" : "; similar: " + near));
  }
  const TensorInfo& info(const std::string& name) const { return file_of(name).info(name); }

  /// Returns up to three names similar to `name`, for a message.
  std::string near_to(const std::string& name) const {
    std::vector<std::string_view> all;
    for (const auto& [known, file] : file_of_) all.push_back(known);
    return printable(detail::near_names(name, all));
  }

 private:
  explicit CheckpointFiles(std::filesystem::path directory) : directory_(std::move(directory)) {}

  bool has(const char* name) const {
    std::error_code ignored;
    return std::filesystem::exists(std::filesystem::symlink_status(directory_ / name, ignored));
  }
  void add(const std::string& name) {
    const std::size_t place = files_.size();
    files_.push_back(
        {name, SafetensorsFile::open(directory_ / name, {.storage = FileStorage::mapped})});
    for (const std::string& tensor : files_.back().tensors.names()) {
      const auto [other, fresh] = file_of_.emplace(tensor, place);
      if (fresh) continue;
      throw FormatError(directory_.string() + ": tensor " + in_quotes(tensor) + " is in " +
                        in_quotes(files_[other->second].name) + " and in " + in_quotes(name));
    }
  }
  void open_shards();
  [[noreturn]] void throw_no_checkpoint() const;

  std::filesystem::path directory_;
  std::vector<File> files_;
  Json index_;
  std::map<std::string, std::size_t> file_of_;  // tensor -> index in files_
};

inline void CheckpointFiles::throw_no_checkpoint() const {
  std::error_code ignored;
  const auto status = std::filesystem::status(directory_, ignored);
  if (!std::filesystem::exists(status)) throw_io_error(directory_, "open this folder", ENOENT);
  if (!std::filesystem::is_directory(status)) {
    throw FormatError(directory_.string() +
                      ": is a file, expected the folder of a base model with model.safetensors");
  }
  const bool pickle = has("pytorch_model.bin") || has("pytorch_model.bin.index.json");
  throw FormatError(directory_.string() + ": has neither " + checkpoint_file + " nor " +
                    checkpoint_index_file +
                    (pickle ? "; " + pickle_note("pytorch_model.bin", "transformers") : ""));
}

inline void CheckpointFiles::open_shards() {
  constexpr std::uint64_t most_bytes = 100'000'000;
  const std::filesystem::path path = directory_ / checkpoint_index_file;
  index_ = parse_json(as_text(read_file(path, most_bytes)), path.string());
  const auto map = index_.is_object() ? index_.find("weight_map") : index_.end();
  if (!index_.is_object() || map == index_.end() || !map->is_object() || map->empty()) {
    throw FormatError(path.string() +
                      ": weight_map is missing or empty, expected an object that gives each "
                      "tensor its file");
  }
  std::map<std::string, std::string> wanted;
  std::set<std::string> shards;
  for (const auto& [tensor, shard] : map->items()) {
    const std::string name = shard.is_string() ? shard.get<std::string>() : "";
    if (name.size() < 13 || !name.ends_with(".safetensors") || name[0] == '.' ||
        name.find_first_of("/\\") != name.npos || printable(name) != name) {
      throw FormatError(path.string() + ": weight_map: the file of " + in_quotes(tensor) + " is " +
                        printable(shard.dump(), 80) +
                        ", expected the name of a .safetensors file in this folder");
    }
    wanted[tensor] = name;
    shards.insert(name);
  }
  for (const std::string& shard : shards) add(shard);
  std::string problems;
  for (const auto& [tensor, shard] : wanted) {
    const auto found = file_of_.find(tensor);
    if (found == file_of_.end() || files_[found->second].name != shard)
      problems += "\n  " + printable(tensor) + ": is not in " + printable(shard);
  }
  for (const auto& [tensor, place] : file_of_) {
    if (wanted.count(tensor) == 0)
      problems +=
          "\n  " + printable(tensor) + ": is in " + files_[place].name + ", but not in weight_map";
  }
  if (!problems.empty())
    throw FormatError(path.string() + ": does not fit the files that it lists:" + problems);
}

inline CheckpointFiles CheckpointFiles::open(const std::filesystem::path& directory) {
  CheckpointFiles checkpoint(directory);
  if (checkpoint.has(checkpoint_file)) {
    checkpoint.add(checkpoint_file);
  } else if (checkpoint.has(checkpoint_index_file)) {
    checkpoint.open_shards();
  } else {
    checkpoint.throw_no_checkpoint();
  }
  return checkpoint;
}

}  // namespace lora
