// Writes and reads the checkpoint of a training run: all that an exact continuation needs, in a
// folder that appears complete or not at all.
#pragma once

#include <lora/io/peft/pretrained.hpp>
#include <lora/io/staged_directory.hpp>
#include <lora/optim/adamw.hpp>
#include <lora/train/checkpoint_folders.hpp>
#include <lora/train/trainer_state.hpp>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora {

inline constexpr const char* training_tensors_file = "training_state.safetensors";

namespace detail {

template <class Model>
concept HasAdapters = requires(Model& model) {
  { model.adapter_names() } -> std::convertible_to<std::vector<std::string>>;
  model.base();
};

}  // namespace detail

/// The content of a checkpoint. Trained values and optimiser state are stored by the names of the
/// parameters.
template <class S>
struct TrainingCheckpoint {
  TrainerState state;
  Json arguments;  ///< the arguments of the run, as given
  OptimizerState<S> optimizer;
  std::map<std::string, Matrix<S>> values;
};

namespace detail {

template <class S>
std::span<const std::byte> bytes_of(const Matrix<S>& m) {
  return std::as_bytes(std::span(m.data(), static_cast<std::size_t>(m.size())));
}

/// Collects "value.<name>", "exp_avg.<name>", … and "step.<name>", the number of the tensor's
/// updates.
template <class Model, class S>
SafetensorsWriter training_tensors(Model& model, const OptimizerState<S>& optimizer) {
  SafetensorsWriter writer;
  const auto count = [&](const std::string& name, Index n) {
    std::vector<std::byte> bytes(sizeof(std::int64_t));
    const auto value = static_cast<std::int64_t>(n);
    std::memcpy(bytes.data(), &value, sizeof value);
    writer.add(name, DType::I64, {}, std::move(bytes));
  };
  model.for_each_parameter("", [&](const NamePath& path, Parameter<S>& p) {
    if (p.trainable) writer.add("value." + path.str(), own_dtype<S>, p.shape, bytes_of(p.value));
  });
  count("step", optimizer.step);
  for (const auto& [name, tensor] : optimizer.tensors) {
    count("step." + name, tensor.step);
    for (const auto& [kind, moment] : tensor.moments)
      writer.add(kind + "." + name, own_dtype<S>, {moment.rows(), moment.cols()}, bytes_of(moment));
  }
  return writer;
}

}  // namespace detail

/// Writes `path`, a folder checkpoint-<step>, atomically: for a LoRAModel the adapters as PEFT
/// directories; training_state.safetensors with every trained tensor and its optimiser state;
/// trainer_state.json with the state and the arguments. Replaces an existing checkpoint once the
/// new one is complete.
/// Throws: IoError, and as save_pretrained. What existed before stays then.
template <class Model, class S>
void write_training_checkpoint(const std::filesystem::path& path, Model& model,
                               const OptimizerState<S>& optimizer, const TrainerState& state,
                               const Json& arguments) {
  const std::filesystem::path parent = path.parent_path();
  // Writes to a free name; the folder is renamed at the very end.
  const std::filesystem::path free = parent / (path.filename().string() + ".next");
  StagedDirectory staged(detail::file_exists(path) ? free : path);
  if constexpr (detail::HasAdapters<Model>) {
    if (!model.adapter_names().empty()) {
      SavePretrainedOptions options;
      options.model_card = Write::no;
      save_pretrained(model, staged.path(), options);
    }
  }
  detail::training_tensors(model, optimizer).write(staged.path() / training_tensors_file);
  Json json = state_json(state);
  json["arguments"] = arguments;
  atomic_write(staged.path() / trainer_state_file, python_json(json, trainer_state_file) + "\n");
  if (!detail::file_exists(path)) return staged.commit();
  staged.commit();
  detail::remove_checkpoint(path);
  if (detail::file_calls().rename(free.c_str(), path.c_str()) != 0)
    throw_io_error(path, "put the new checkpoint in place", errno);
}

/// Reads a checkpoint. restore_training() checks whether it fits a model.
/// Throws: IoError, FormatError.
template <class S>
TrainingCheckpoint<S> read_training_checkpoint(const std::filesystem::path& path) {
  TrainingCheckpoint<S> checkpoint;
  const std::filesystem::path json_path = path / trainer_state_file;
  const auto bytes = read_file(json_path, std::uint64_t{1} << 30);
  const Json json = parse_json(as_text(bytes), json_path.string());
  // As transformers' Trainer writes it, possibly over a checkpoint of this library.
  const bool theirs = json.is_object() && json.contains("log_history") &&
                      json.contains("global_step") && !json.contains("non_finite_steps");
  const bool tensors = detail::file_exists(path / training_tensors_file);
  if (theirs && tensors) {
    throw FormatError(json_path.string() +
                      ": seems to come from transformers' Trainer, expected the one that this "
                      "library wrote with " +
                      training_tensors_file +
                      "; a new run can start from the folder's adapter (--init-adapter)");
  }
  if (json.is_object() && !json.contains("arguments") && !tensors) {
    throw FormatError(path.string() + ": is not a checkpoint of this library's Trainer" +
                      (theirs ? " but seems to be one of transformers, which keeps the optimiser's "
                                "state in files of torch"
                              : "") +
                      ": there is no " + training_tensors_file +
                      "; a new run can start from its adapter (--init-adapter)");
  }
  checkpoint.state = state_from_json(json, json_path.string());
  checkpoint.arguments = JsonFields(json, json_path.string()).object("arguments").json();
  const SafetensorsFile file = SafetensorsFile::open(path / training_tensors_file);
  for (const std::string& key : file.names()) {
    const std::size_t dot = key.find('.');
    const std::string kind = key.substr(0, dot), name = dot == key.npos ? "" : key.substr(dot + 1);
    if (kind == "step") {
      const std::vector<std::int64_t> number = file.integers(key);
      if (number.size() != 1)
        throw FormatError(file.where() + ": " + in_quotes(key) + " is not one number");
      (name.empty() ? checkpoint.optimizer.step : checkpoint.optimizer.tensors[name].step) =
          static_cast<Index>(number[0]);
      continue;
    }
    if (file.info(key).dtype != detail::own_dtype<S>) {
      throw FormatError(file.where() + ": " + in_quotes(key) + " is " +
                        std::string(dtype_name(file.info(key).dtype)) + ", expected " +
                        std::string(dtype_name(detail::own_dtype<S>)) + ", the model's own type");
    }
    Matrix<S> values = file.matrix<S>(key);
    if (kind == "value") {
      checkpoint.values[name] = std::move(values);
    } else {
      checkpoint.optimizer.tensors[name].moments[kind] = std::move(values);
    }
  }
  return checkpoint;
}

/// Compares a checkpoint's arguments with those of `now`. Returns a sentence for each difference
/// that changes what is trained.
/// Throws: ConfigError if the order of the data or the facts (TrainerOptions::facts) differ.
inline std::vector<std::string> check_same_run(const Json& before, const Json& now,
                                               const std::string& where) {
  std::vector<std::string> warnings;
  for (const auto& [name, value] : now.items()) {
    const Json old = before.contains(name) ? before[name] : Json();
    if (old == value) continue;
    const std::string change =
        name + " was " + printable(old.dump(), 60) + " and is " + printable(value.dump(), 60);
    for (const char* fixed :
         {"data", "per_device_train_batch_size", "gradient_accumulation_steps",
          "dataloader_drop_last", "train_sampling_strategy", "seed", "data_seed"}) {
      if (name != fixed) continue;
      throw ConfigError(
          where + ": is a checkpoint of another run: " +
          (name == "data" ? "the number or the lengths of the examples differ" : change));
    }
    if (name == "facts") {
      for (const auto& [fact, is] : value.items()) {
        const Json was = old.is_object() && old.contains(fact) ? old[fact] : Json();
        if (was != is) {
          throw ConfigError(where + ": is a checkpoint of another run: " + fact + " was " +
                            printable(was.dump(), 60) + " and is " + printable(is.dump(), 60));
        }
      }
      continue;
    }
    const std::string kind = name.substr(0, name.find('_'));
    if (kind == "output" || kind == "overwrite" || kind == "logging" || kind == "save") continue;
    warnings.push_back(change + ": the run will differ from the interrupted one");
  }
  return warnings;
}

/// Sets every trained tensor of `model` to its value in the checkpoint, and restores the state of
/// `optimizer` unless it is null.
/// Throws: ConfigError that lists what does not fit. Nothing changes then.
template <class Model, class S>
void restore_training(const TrainingCheckpoint<S>& checkpoint, Model& model, AdamW<S>* optimizer,
                      const std::string& where) {
  std::string faults;
  std::size_t known = 0;
  model.for_each_parameter("", [&](const NamePath& path, Parameter<S>& p) {
    if (!p.trainable) return;
    const auto found = checkpoint.values.find(path.str());
    if (found == checkpoint.values.end()) {
      faults += "\n  missing: " + path.str();
      return;
    }
    ++known;
    const Matrix<S>& value = found->second;
    if (value.rows() != p.value.rows() || value.cols() != p.value.cols()) {
      faults += "\n  " + path.str() + " is " + shape_text(value.rows(), value.cols()) +
                ", expected " + shape_text(p.value.rows(), p.value.cols());
    }
  });
  if (known != checkpoint.values.size()) {
    std::map<std::string, bool> trained;
    model.for_each_parameter("", [&](const NamePath& path, Parameter<S>& p) {
      if (p.trainable) trained[path.str()] = true;
    });
    for (const auto& [name, value] : checkpoint.values) {
      if (trained.count(name) == 0) faults += "\n  unexpected: " + printable(name);
    }
  }
  if (!faults.empty())
    throw ConfigError(where + ": is not a checkpoint of what this model trains:" + faults);
  if (optimizer != nullptr) {
    try {
      optimizer->load_state(checkpoint.optimizer, model);
    } catch (const ConfigError& error) {
      throw ConfigError(where + ": " + error.what());
    }
  }
  model.for_each_parameter("", [&](const NamePath& path, Parameter<S>& p) {
    if (p.trainable) p.value = checkpoint.values.at(path.str());
  });
}

}  // namespace lora
