// An adapter's tensors as one safetensors file under PEFT's keys.
#pragma once

#include <lora/adapters/lora_model.hpp>
#include <lora/io/safetensors.hpp>

#include <set>
#include <string>
#include <utility>
#include <vector>

namespace LORA_NAMESPACE {

namespace detail {

/// What PEFT's file calls a tensor of `adapter`, from its name within its layer:
/// "lora_A.default.weight" is "lora_A.weight", "modules_to_save.default.weight" is "weight". Empty
/// for a tensor that does not belong to the adapter.
inline std::string adapter_file_name(const std::string& name, const std::string& adapter) {
  for (const char* part :
       {"lora_A.", "lora_B.", "lora_embedding_A.", "lora_embedding_B.", "modules_to_save."}) {
    const std::string head = part + adapter;  // an adapter's name has no dot
    if (!name.starts_with(head) || (name.size() > head.size() && name[head.size()] != '.'))
      continue;
    const std::string rest = name.substr(head.size());  // ".weight", ".bias" or nothing
    if (head.starts_with("modules_to_save.")) return rest.substr(1);
    return std::string(part).substr(0, std::string(part).size() - 1) + rest;
  }
  return {};
}

}  // namespace detail

/// (key in the file, Parameter*) of everything that belongs to an adapter: A and B, lora_bias,
/// modules_to_save, and the base's biases as the config's `bias` says, but for those that a copy of
/// modules_to_save replaces. The keys depend on this adapter alone: the bias of a layer that only
/// other adapters are on is called as if they were not there. The pointers stay good until an
/// adapter is added or deleted. Only tensors of layers are looked at by their names, so a module
/// may be called as it likes. Throws ConfigError for an unknown adapter. Source: PEFT's
/// get_peft_model_state_dict, which forgets the biases of "lora_only" in some versions.
template <class Base>
std::vector<std::pair<std::string, Parameter<typename Base::Scalar>*>> adapter_tensors(
    LoRAModel<Base>& model, const std::string& adapter = "default") {
  using S = typename Base::Scalar;
  const std::string mode = model.config(adapter).bias;
  const std::string prefix = "base_model.model.";
  std::vector<std::pair<std::string, Parameter<S>*>> tensors;
  std::set<const void*> of_layers;
  model.for_each_layer([&](const NamePath& path, auto& layer) {
    const bool bias =
        layer.trained_copies().find(adapter) == nullptr &&
        (mode == "all" || (mode == "lora_only" && layer.adapters().contains(adapter)));
    layer.for_each_parameter("", [&](const NamePath& own, Parameter<S>& parameter) {
      of_layers.insert(&parameter);
      std::string name = detail::adapter_file_name(own.str(), adapter);
      if (bias && &parameter == &layer.bias())
        name = layer.adapters().contains(adapter) ? "base_layer.bias" : "bias";
      if (!name.empty()) tensors.emplace_back(prefix + NamePath(path, name).str(), &parameter);
    });
  });
  if (mode != "all") return tensors;
  model.for_each_parameter("", [&](const NamePath& path, Parameter<S>& parameter) {
    const std::string name = path.str();
    if (of_layers.count(&parameter) == 0 && is_bias_name(name))
      tensors.emplace_back(prefix + name, &parameter);
  });
  return tensors;
}

/// Writes an adapter's tensors to one file, all or nothing; `dtype` is F32, F64, BF16 or F16,
/// rounded to nearest even. PEFT reads it as adapter_model.safetensors. Throws ConfigError for an
/// unknown adapter, IoError.
template <class Base>
void save_adapter_file(LoRAModel<Base>& model, const std::filesystem::path& path,
                       const std::string& adapter = "default", DType dtype = DType::F32) {
  SafetensorsWriter writer;
  writer.set_metadata("format", "pt");
  for (const auto& [key, parameter] : adapter_tensors(model, adapter)) {
    writer.add(key, parameter->value, dtype, parameter->shape);
  }
  writer.write(path);
}

/// Reads the tensors of an adapter that is there already. Keys that are missing, unexpected or of
/// another shape are all named in one FormatError, and nothing is changed. Biases of the base act
/// at once, also while another adapter is merged. Throws ConfigError for an unknown adapter, Error
/// while it is merged, IoError.
template <class Base>
void load_adapter_file(LoRAModel<Base>& model, const std::filesystem::path& path,
                       const std::string& adapter = "default") {
  using S = typename Base::Scalar;
  const auto tensors = adapter_tensors(model, adapter);
  for (const std::string& merged : model.merged_adapters()) {
    if (merged != adapter) continue;
    throw Error("load_adapter_file: adapter \"" + adapter + "\" is merged; unmerge it first");
  }
  const SafetensorsFile file = SafetensorsFile::open(path);
  std::string problems;
  std::set<std::string> expected;
  for (const auto& [key, parameter] : tensors) {
    expected.insert(key);
    if (!file.contains(key)) {
      problems += "\n  missing: " + key;
    } else if (file.info(key).shape != parameter->shape) {
      problems += "\n  " + key + ": shape is " + shape_text(file.info(key).shape) + ", expected " +
                  shape_text(parameter->shape);
    } else if (!is_matrix_dtype(file.info(key).dtype)) {
      problems += "\n  " + key + ": dtype is " + std::string(dtype_name(file.info(key).dtype)) +
                  ", expected F32, F64, F16 or BF16";
    }
  }
  for (const std::string& name : file.names()) {
    if (expected.count(name) == 0) problems += "\n  unexpected: " + printable(name);
  }
  if (!problems.empty()) {
    throw FormatError(path.string() + ": does not hold adapter \"" + adapter +
                      "\" of this model:" + problems);
  }
  std::vector<Matrix<S>> values;
  for (const auto& [key, parameter] : tensors) values.push_back(file.template matrix<S>(key));
  for (std::size_t i = 0; i < tensors.size(); ++i) tensors[i].second->value = std::move(values[i]);
}

}  // namespace LORA_NAMESPACE
