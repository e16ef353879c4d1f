// Saves a whole model, merged or trained, as a folder that transformers loads.
#pragma once

#include <lora/io/hf/checkpoint_files.hpp>
#include <lora/io/hf/hf_config_fields.hpp>
#include <lora/io/hf/other_files.hpp>
#include <lora/io/peft/adapter_file.hpp>
#include <lora/io/staged_directory.hpp>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace lora {

/// The options of save_pretrained for a model.
struct SaveModelOptions {
  std::optional<DType> dtype = {};  ///< F32, F64, BF16 or F16; unset: the model's own type
  std::uint64_t max_shard_size = 5'000'000'000;  ///< bytes of tensors in one file
  /// The folder that the model comes from: keeps the other fields of its config.json and copies its
  /// tokenizer and the other files of is_other_file. Empty: none.
  std::filesystem::path base_directory = {};
};

namespace detail {

/// A tensor to write; its values are produced row by row, `rows` of `cols`.
template <class S>
struct SavedTensor {
  std::string name;
  std::vector<Index> shape;
  Index rows, cols;
  std::function<void(Index row, S* to)> copy_row;
};

template <class S>
SavedTensor<S> saved_weight(std::string name, const FrozenWeight<S>& weight,
                            std::vector<Index> shape) {
  if (weight.layout() == Layout::out_in) {
    return {std::move(name), std::move(shape), weight.rows(), weight.cols(),
            [weight](Index row, S* to) { weight.copy_row(row, to); }};
  }
  // A row of Wᵀ is spread over all of W: the dense form is made when needed and kept until the last
  // row.
  auto dense = std::make_shared<Matrix<S>>();
  const Index rows = weight.cols(), cols = weight.rows();
  return {std::move(name), std::move(shape), rows, cols, [weight, dense, rows](Index row, S* to) {
            if (row == 0) *dense = weight.stored();
            std::copy_n(dense->data() + row * dense->cols(), dense->cols(), to);
            if (row + 1 == rows) dense->resize(0, 0);
          }};
}

/// The tensors of a model without adapters; `tied` if its head is omitted because it is the
/// embedding.
template <class S>
struct SavedTensors {
  std::vector<SavedTensor<S>> list;
  bool tied = false;
};

template <class Model>
SavedTensors<typename Model::Scalar> saved_tensors(Model& model) {
  using S = typename Model::Scalar;
  SavedTensors<S> saved;
  const std::string head_name = model.output_module();
  FrozenWeight<S> head;
  for_each_adapter_layer(model, [&](const NamePath& path, auto& layer) {
    const bool copies = !layer.trained_copies().empty() && !layer.base_trained();
    if (copies || !layer.adapters().empty()) {
      throw Error("save_pretrained: layer " + in_quotes(path.str()) +
                  " has adapters; merge_and_unload() or unload() gives a model without them, and "
                  "save_pretrained of a LoRAModel saves the adapters themselves");
    }
    if (path.str() == head_name && !layer.base_trained()) head = layer.weight();
  });
  for_each_adapter_layer(model, [&](const NamePath& path, auto& layer) {
    const std::string name = path.str();
    if (layer.base_trained()) return;
    if (name != head_name && head.size() > 0 && layer.weight().shares_storage_with(head))
      saved.tied = true;
    saved.list.push_back(saved_weight(name + ".weight", layer.weight(), layer.weight_shape()));
  });
  if (saved.tied)
    std::erase_if(saved.list, [&](const auto& one) { return one.name == head_name + ".weight"; });
  model.for_each_parameter("", [&](const NamePath& path, Parameter<S>& p) {
    const Index cols = p.value.cols();
    saved.list.push_back({path.str(), p.shape, p.value.rows(), cols, [&p, cols](Index row, S* to) {
                            std::copy_n(p.value.data() + row * cols, cols, to);
                          }});
  });
  return saved;
}

/// Adds a tensor to a file with only a few rows in memory at a time.
template <class S>
void add_saved(SafetensorsWriter& writer, const SavedTensor<S>& tensor, DType dtype) {
  writer.add_computed(
      tensor.name, dtype, tensor.shape, [&tensor, dtype](const SafetensorsWriter::ByteSink& sink) {
        const Index together =
            std::max<Index>(1, (Index{1} << 18) / std::max<Index>(1, tensor.cols));
        std::vector<std::byte> bytes;
        for (Index first = 0; first < tensor.rows; first += together) {
          Matrix<S> values(std::min(together, tensor.rows - first), tensor.cols);
          for (Index i = 0; i < values.rows(); ++i)
            tensor.copy_row(first + i, values.data() + i * values.cols());
          check_fits(tensor.name, values, dtype);
          const auto count = static_cast<std::size_t>(values.size());
          bytes.resize(count * (dtype_bits(dtype) / 8));
          encode_elements(dtype, std::span<const S>(values.data(), count), bytes.data());
          sink(bytes);
        }
      });
}

inline std::string shard_name(std::size_t number, std::size_t of) {
  if (of == 1) return checkpoint_file;
  char text[64];
  std::snprintf(text, sizeof text, "model-%05zu-of-%05zu.safetensors", number, of);
  return text;
}

/// Distributes the tensors to files, in order, starting a new file where one would grow too large.
template <class S>
std::vector<std::vector<const SavedTensor<S>*>> shards_of(const std::vector<SavedTensor<S>>& all,
                                                          DType dtype, std::uint64_t most) {
  std::vector<std::vector<const SavedTensor<S>*>> shards(1);
  std::uint64_t filled = 0;
  for (const SavedTensor<S>& tensor : all) {
    const std::uint64_t size = tensor_byte_count<ShapeError>(dtype, tensor.shape, tensor.name);
    if (!shards.back().empty() && filled + size > most) {
      shards.emplace_back();
      filled = 0;
    }
    shards.back().push_back(&tensor);
    filled += size;
  }
  return shards;
}

template <class S>
void write_shards(const std::filesystem::path& folder, const std::vector<SavedTensor<S>>& all,
                  DType dtype, const SaveModelOptions& options) {
  const auto shards = shards_of(all, dtype, options.max_shard_size);
  std::map<std::string, std::string> weight_map;
  std::uint64_t total = 0;
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const std::string name = shard_name(i + 1, shards.size());
    SafetensorsWriter writer;
    writer.set_metadata("format", "pt");
    for (const SavedTensor<S>* tensor : shards[i]) {
      add_saved(writer, *tensor, dtype);
      weight_map[tensor->name] = name;
      total += tensor_byte_count<ShapeError>(dtype, tensor->shape, tensor->name);
    }
    writer.write(folder / name);
  }
  if (shards.size() == 1) return;
  Json index;
  index["metadata"]["total_size"] = total;
  for (const auto& [tensor, file] : weight_map) index["weight_map"][tensor] = file;
  atomic_write(folder / checkpoint_index_file, python_json(index, checkpoint_index_file) + "\n");
}

}  // namespace detail

/// Saves a language model without adapters to a new folder: config.json, and model.safetensors or,
/// above options.max_shard_size, shards and their index. Omits the head while it is the embedding's
/// own matrix, and config.json then says tie_word_embeddings; if a merge changed one of the two,
/// both are written and it says false. The folder appears complete or not at all; it must be absent
/// or empty.
/// Throws: Error if a layer has adapters; ConfigError for another dtype, a value that it cannot
///   hold, and as hf_config_fields and StagedDirectory; IoError.
/// Allocates: about a MiB of a tensor at a time, or all of a Conv1D.
/// Source: save_pretrained of transformers.
template <class Model>
void save_pretrained(Model& model, const std::filesystem::path& directory,
                     const SaveModelOptions& options = {}) requires requires {
  model.config().index();
}
{
  using S = typename Model::Scalar;
  const DType dtype = options.dtype.value_or(detail::own_dtype<S>);
  const auto saved = detail::saved_tensors(model);
  auto config = model.config();
  std::visit([&](auto& one) { one.tie_word_embeddings = saved.tied; }, config);
  Json as_read = Json::object();
  if (!options.base_directory.empty()) as_read = read_hf_config(options.base_directory).fields;
  const Json fields = hf_config_fields(config, dtype, as_read);
  StagedDirectory staged(directory);
  detail::write_shards(staged.path(), saved.list, dtype, options);
  if (!options.base_directory.empty()) copy_other_files(options.base_directory, staged.path());
  atomic_write(staged.path() / hf_config_file, python_json(fields, hf_config_file) + "\n");
  staged.commit();
}

}  // namespace lora
