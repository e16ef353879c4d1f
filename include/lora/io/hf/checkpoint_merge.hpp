// Merges an adapter into the checkpoint of its base, file by file, without a model.
#pragma once

#include <lora/core/parallel.hpp>
#include <lora/io/hf/config_json.hpp>
#include <lora/io/hf/merge_plan.hpp>
#include <lora/io/hf/other_files.hpp>
#include <lora/io/hf/tensor_merge.hpp>
#include <lora/io/staged_directory.hpp>

#include <array>
#include <atomic>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace lora {

/// The options of merge_checkpoint.
struct CheckpointMergeOptions {
  /// The type of all floating-point tensors: F32, F64, BF16 or F16; unset: each keeps its own.
  std::optional<DType> dtype = {};
  /// Called now and then with the number of bytes written and in total.
  std::function<void(std::uint64_t done, std::uint64_t total)> progress = {};
};

struct CheckpointMergeReport {
  std::size_t changed = 0, replaced = 0, untouched = 0;  ///< tensors
  std::uint64_t bytes = 0;                               ///< size of all tensors written
  std::vector<std::string> warnings;                     ///< those of MergePlan
};

namespace detail {

/// One call of merge_checkpoint.
class CheckpointMerger {
 public:
  CheckpointMerger(const CheckpointFiles& base, const PeftAdapter& adapter,
                   const CheckpointMergeOptions& options)
      : base_(base), adapter_(adapter), options_(options), plan_(plan_merge(base, adapter)) {
    if (options.dtype && !is_matrix_dtype(*options.dtype)) {
      throw ConfigError("merge_checkpoint: dtype is " + std::string(dtype_name(*options.dtype)) +
                        ", expected F32, F64, BF16 or F16");
    }
    report_.warnings = plan_.warnings;
    for (const auto& [name, file] : base.names()) count(name);
    for (const auto& [name, tensor] : plan_.tensors) {
      if (!base.contains(name)) count(name);
    }
  }

  CheckpointMergeReport run(const std::filesystem::path& output) {
    StagedDirectory staged(output);
    for (const CheckpointFiles::File& file : base_.files()) {
      SafetensorsWriter writer;
      for (const auto& [key, value] : file.tensors.metadata()) writer.set_metadata(key, value);
      const auto add = [&](const std::string& name) {
        writer.add_computed(name, dtype_of(name), base_.info(in_base(name)).shape,
                            [this, name](const auto& sink) { produce(name, sink); });
      };
      for (const std::string& name : file.tensors.names()) {
        add(name);
        for (const std::string& beside : added_beside(name)) add(beside);
      }
      writer.write(staged.path() / file.name);
    }
    write_index(staged.path());
    copy_others(staged.path());
    staged.commit();
    return report_;
  }

 private:
  /// Returns the base's tensor from which a tensor of the merged checkpoint is made.
  const std::string& in_base(const std::string& name) const {
    const auto planned = plan_.tensors.find(name);
    const bool other = planned != plan_.tensors.end() && !planned->second.base_key.empty();
    return other ? planned->second.base_key : name;
  }
  /// Returns the tensors that the base does not have and that go into the file of the tensor they
  /// are made from.
  std::vector<std::string> added_beside(const std::string& name) const {
    std::vector<std::string> added;
    for (const auto& [other, tensor] : plan_.tensors) {
      if (tensor.base_key == name && !base_.contains(other)) added.push_back(other);
    }
    return added;
  }
  void count(const std::string& name) {
    report_.bytes +=
        tensor_byte_count<FormatError>(dtype_of(name), base_.info(in_base(name)).shape, name);
    const auto planned = plan_.tensors.find(name);
    if (planned == plan_.tensors.end()) {
      ++report_.untouched;
    } else {
      ++(planned->second.b_key.empty() ? report_.replaced : report_.changed);
    }
  }
  DType dtype_of(const std::string& name) const {
    const DType own = base_.info(in_base(name)).dtype;
    return is_matrix_dtype(own) ? options_.dtype.value_or(own) : own;
  }

  void produce(const std::string& name, const SafetensorsWriter::ByteSink& sink) {
    const SafetensorsFile& file = base_.file_of(in_base(name));
    const auto counted = [&](std::span<const std::byte> part) {
      sink(part);
      done_ += part.size();
      if (options_.progress) options_.progress(done_, report_.bytes);
    };
    const auto planned = plan_.tensors.find(name);
    const MergedTensor plan = planned == plan_.tensors.end() ? MergedTensor() : planned->second;
    const bool saved = !plan.saved_key.empty();
    const DType own = file.info(in_base(name)).dtype, dtype = dtype_of(name);
    if (plan.b_key.empty() && !saved && own == dtype) {
      constexpr std::size_t part = std::size_t{8} << 20;
      for (auto left = file.bytes(in_base(name)); !left.empty();
           left = left.subspan(std::min(part, left.size())))
        counted(left.first(std::min(part, left.size())));
      return;
    }
    const SafetensorsFile& source = saved ? adapter_.tensors() : file;
    const std::string& key = saved ? plan.saved_key : in_base(name);
    if (source.info(key).dtype == DType::F64 || dtype == DType::F64) {
      TensorMerge<double>(name, source, key, adapter_.tensors(), plan, dtype).run(counted);
    } else {
      TensorMerge<float>(name, source, key, adapter_.tensors(), plan, dtype).run(counted);
    }
  }

  void copy(const std::filesystem::path& from, const std::filesystem::path& to) const {
    atomic_write(to, MappedFile(from).bytes());
  }
  void write_index(const std::filesystem::path& folder) const {
    if (base_.index().is_null()) return;
    if (!options_.dtype && !plan_.untied)
      return copy(base_.directory() / checkpoint_index_file, folder / checkpoint_index_file);
    Json index = base_.index();
    for (const auto& [name, tensor] : plan_.tensors) {
      if (!base_.contains(name)) index["weight_map"][name] = index["weight_map"][tensor.base_key];
    }
    Json& metadata = index["metadata"];
    if (!metadata.is_object()) metadata = Json::object();
    metadata["total_size"] = report_.bytes;
    atomic_write(folder / checkpoint_index_file, python_json(index, checkpoint_index_file) + "\n");
  }

  /// Writes config.json last: with it the folder is a model.
  void copy_others(const std::filesystem::path& folder) const {
    copy_other_files(base_.directory(), folder);
    const std::filesystem::path path = base_.directory() / hf_config_file;
    if (!file_exists(path)) return;
    if (!options_.dtype && !plan_.untied) return copy(path, folder / hf_config_file);
    Json config = read_config_json(base_.directory());
    expect_object(config, path.string());
    if (options_.dtype) set_config_dtype(config, *options_.dtype);
    if (plan_.untied) config["tie_word_embeddings"] = false;
    atomic_write(folder / hf_config_file, python_json(config, path.string()) + "\n");
  }

  const CheckpointFiles& base_;
  const PeftAdapter& adapter_;
  const CheckpointMergeOptions& options_;
  MergePlan plan_;
  CheckpointMergeReport report_;
  std::uint64_t done_ = 0;
};

}  // namespace detail

/// Writes W + s B A for every tensor of `base` that `adapter` changes, and the others unchanged, to
/// a new folder: the same files, tensors and types, or those of options.dtype, with the index,
/// config.json (with its dtype) and every other file of the base's folder except weights of other
/// formats, README.md, hidden files and folders. s B A is summed and added in float32 (float64 for
/// F64) and rounded once; plan_merge says what a merge does to which tensor. The folder appears
/// complete or not at all; it must be absent or empty.
/// Throws: as plan_merge and StagedDirectory; FormatError; IoError; Error that names tensor and
///   element, if a merged number, or one that was finite before a change of type, would not be
///   finite.
/// Allocates: a few MiB, and the A and B of one tensor at a time. Reads from the mapped files.
/// Source: PEFT's merge_and_unload(safe_merge=True), which rounds s B A to the base's type before
///   it adds.
inline CheckpointMergeReport merge_checkpoint(const CheckpointFiles& base,
                                              const PeftAdapter& adapter,
                                              const std::filesystem::path& output,
                                              const CheckpointMergeOptions& options = {}) {
  return detail::CheckpointMerger(base, adapter, options).run(output);
}

}  // namespace lora
