// Reads and writes an adapter's tensors as one safetensors file under PEFT's keys.
#pragma once

#include <lora/adapters/lora_model.hpp>
#include <lora/core/parallel.hpp>
#include <lora/io/peft/peft_keys.hpp>
#include <lora/io/safetensors/safetensors.hpp>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace lora {

namespace detail {

/// Converts the name of a tensor of `adapter` within its layer to its name in PEFT's file:
/// "lora_A.default.weight" becomes "lora_A.weight", "modules_to_save.default.weight" becomes
/// "weight". Returns an empty string for a tensor that does not belong to the adapter.
inline std::string adapter_file_name(const std::string& name, const std::string& adapter) {
  for (const char* part : {"lora_A.", "lora_B.", "lora_embedding_A.", "lora_embedding_B.",
                           "lora_magnitude_vector.", "modules_to_save."}) {
    const std::string head = part + adapter;  // adapter names have no dot
    if (!name.starts_with(head) || (name.size() > head.size() && name[head.size()] != '.'))
      continue;
    const std::string rest = name.substr(head.size());  // ".weight", ".bias" or nothing
    if (head.starts_with("modules_to_save.")) return rest.substr(1);
    // The only tensor with ".weight" in memory but not in files.
    if (head.starts_with("lora_magnitude_vector.")) return "lora_magnitude_vector";
    return std::string(part).substr(0, std::string(part).size() - 1) + rest;
  }
  return {};
}

}  // namespace detail

/// A tensor of an adapter and its key in the file.
template <class S>
using KeyedTensor = std::pair<std::string, Parameter<S>*>;

namespace detail {

/// Does adapter_tensors() for an adapter that is on the layers but not yet known to the model.
template <class Base>
std::vector<KeyedTensor<typename Base::Scalar>> tensors_on_layers(LoRAModel<Base>& model,
                                                                  const std::string& adapter,
                                                                  const std::string& bias_mode) {
  using S = typename Base::Scalar;
  const std::string prefix(peft_prefix);
  std::vector<KeyedTensor<S>> tensors;
  std::set<const void*> of_layers;
  model.for_each_layer([&](const NamePath& path, auto& layer) {
    const bool bias =
        layer.trained_copies().find(adapter) == nullptr &&
        (bias_mode == "all" || (bias_mode == "lora_only" && layer.adapters().contains(adapter)));
    layer.for_each_parameter("", [&](const NamePath& own, Parameter<S>& parameter) {
      of_layers.insert(&parameter);
      std::string name = adapter_file_name(own.str(), adapter);
      if (bias && &parameter == &layer.bias())
        name = layer.adapters().contains(adapter) ? "base_layer.bias" : "bias";
      if (!name.empty()) tensors.emplace_back(prefix + NamePath(path, name).str(), &parameter);
    });
  });
  if (bias_mode != "all") return tensors;
  model.for_each_parameter("", [&](const NamePath& path, Parameter<S>& parameter) {
    const std::string name = path.str();
    if (of_layers.count(&parameter) == 0 && is_bias_name(name))
      tensors.emplace_back(prefix + name, &parameter);
  });
  return tensors;
}

/// Whether to accept keys without "base_model.model." as if they had it.
enum class BareKeys { refuse, accept };

/// A frozen weight of a model. PEFT writes those of embeddings and heads to an adapter's file
/// unless save_embedding_layers is off.
template <class S>
struct BaseWeight {
  FrozenWeight<S> weight;
  std::vector<Index> shape;

  Index size() const { return weight.size(); }
  /// Whether the file's tensor holds these values, after rounding both to the narrower of the
  /// file's type and the model's. The model's type is bfloat16 if that represents all values, else
  /// S.
  bool equals(const SafetensorsFile& file, const std::string& name) const {
    const TensorInfo& info = file.info(name);
    if (info.shape != shape || !is_matrix_dtype(info.dtype)) return false;
    const Matrix<S> own = weight.stored();
    const std::span<const S> all(own.data(), static_cast<std::size_t>(own.size()));
    const bool halves = std::is_same_v<S, float> && std::all_of(all.begin(), all.end(), [](S x) {
                          const auto f = static_cast<float>(x);
                          return bf16_to_float(float_to_bf16(f)) == f;
                        });
    const DType own_type = halves                     ? DType::BF16
                           : std::is_same_v<S, float> ? DType::F32
                                                      : DType::F64;
    const std::byte* bytes = file.bytes(name).data();
    for (const S x : all) {
      double value = 0;
      decode_elements(info.dtype, bytes, std::span<double>(&value, 1));
      if (!same_when_rounded(static_cast<double>(x), own_type, value, info.dtype)) return false;
      bytes += dtype_bits(info.dtype) / 8;
    }
    return true;
  }
};

/// The copies of the base's frozen weights in a file, next to an adapter's own tensors.
template <class S>
struct BaseCopies {
  std::set<std::string> keys;  ///< keys in the file that name a module of the model
  std::string problems;        ///< one line each, starting with "\n  "
  std::vector<std::string> warnings;
  struct Change {
    FrozenWeight<S> before, after;
  };
  std::vector<Change> changes;       ///< one per weight in memory, which tied layers share
  std::vector<std::string> modules;  ///< modules whose copy differs from the base
};

/// Compares the copies of base weights in an adapter's file with the model's. add() takes a copy's
/// key and its module (copied_module).
/// Allocates: the weights that differ.
template <class Base>
class BaseCopyReader {
 public:
  using S = typename Base::Scalar;
  BaseCopyReader(LoRAModel<Base>& model, const std::string& adapter, const SafetensorsFile& file)
      : file_(file) {
    model.for_each_layer([&](const NamePath& path, auto& layer) {
      layers_[path.str()] = {{layer.weight(), layer.weight_shape()},
                             layer.adapters().contains(adapter),
                             !layer.adapters().merged().empty() || layer.base_trained()};
    });
  }

  void add(const std::string& key, const std::string& module) {
    const auto found = layers_.find(module);
    if (found == layers_.end()) return;  // not in this model: an unexpected key
    Layer& layer = found->second;
    copies_.keys.insert(key);
    if (layer.own.equals(file_, key)) return;
    const TensorInfo& info = file_.info(key);
    if (info.shape != layer.own.shape) {
      return problem(key, "shape is " + shape_text(info.shape) + ", expected " +
                              shape_text(layer.own.shape) + ", as in the base's weight");
    }
    if (!is_matrix_dtype(info.dtype))
      return problem(key, "dtype is " + matrix_dtype_fault(info.dtype));
    if (const auto large = first_overflow_of_read<S>(info.dtype, file_.bytes(key).data(),
                                                     static_cast<std::size_t>(layer.own.size())))
      return problem(key, overflow_text(*large));
    if (!is_where_peft_looks(key, layer.adapted))
      return problem(key, misplaced_copy(layer.adapted));
    if (layer.held) {
      return problem(key,
                     "is not the base's weight, which cannot be replaced while an adapter is "
                     "merged into it; unmerge first");
    }
    copies_.modules.push_back(module);
    for (const auto& change : copies_.changes) {
      if (!change.before.shares_storage_with(layer.own.weight)) continue;
      if (BaseWeight<S>{change.after, layer.own.shape}.equals(file_, key)) return;
      return problem(key,
                     "differs from the tensor of the embedding or head that it is tied to in "
                     "the model");
    }
    copies_.changes.push_back(
        {layer.own.weight, FrozenWeight<S>(file_.matrix<S>(key), layer.own.weight.layout())});
    copies_.warnings.push_back(other_copy(key, module));
  }
  BaseCopies<S> take() { return std::move(copies_); }

 private:
  struct Layer {
    BaseWeight<S> own;
    bool adapted = false, held = false;
  };
  void problem(const std::string& key, const std::string& what) {
    copies_.problems += "\n  " + printable(key) + ": " + what;
  }

  const SafetensorsFile& file_;
  std::map<std::string, Layer> layers_;
  BaseCopies<S> copies_;
};

/// Prepares to replace the model's frozen weights by the differing copies in an adapter's file.
template <class Base>
void prepare_base_weights(LoRAModel<Base>& model, const BaseCopies<typename Base::Scalar>& copies,
                          Transaction& replaced) {
  if (copies.changes.empty()) return;
  model.for_each_layer([&](const NamePath&, auto& layer) {
    for (const auto& change : copies.changes) {
      if (layer.weight().shares_storage_with(change.before)) {
        layer.prepare_set_weight(change.after, replaced);
        break;
      }
    }
  });
}

/// Redirects the base's biases among `tensors` to `biases`, and prepares to swap those into the
/// model at the commit of `read`.
template <class S>
void prepare_base_biases(std::vector<KeyedTensor<S>>& tensors, std::vector<Parameter<S>>& biases,
                         Transaction& read) {
  biases.reserve(tensors.size());
  for (auto& [key, parameter] : tensors) {
    if (!key.ends_with("bias") || key.find(".lora_") != key.npos) continue;
    Parameter<S>& fresh = biases.emplace_back(*parameter);
    read.then([&fresh, place = parameter]() noexcept { place->value.swap(fresh.value); });
    parameter = &fresh;
  }
}

/// Reads the values of `tensors` from the file, under their keys. Skips the keys of `copies`, and
/// reports their problems with its own. Changes nothing if it throws.
/// Throws: FormatError that names all keys that are missing, unexpected, have a wrong shape or
///   type, or hold a number that would become an infinity.
/// Allocates: nothing for values.
template <class S>
void read_tensors(const std::vector<KeyedTensor<S>>& tensors, const SafetensorsFile& file,
                  const std::string& adapter, BareKeys bare_keys,
                  const BaseCopies<S>& copies = {}) {
  const std::string prefix(peft_prefix);
  std::map<std::string, std::string> in_file;  // key with the prefix -> key in the file
  std::string problems = copies.problems;
  for (const std::string& name : file.names()) {
    const bool bare = bare_keys == BareKeys::accept && !name.starts_with(peft_prefix);
    const auto [other, fresh] = in_file.emplace(bare ? prefix + name : name, name);
    if (!fresh)
      problems +=
          "\n  " + printable(name) + ": means the same tensor as " + printable(other->second);
  }
  for (const auto& [key, parameter] : tensors) {
    const auto found = in_file.find(key);
    if (found == in_file.end()) {
      problems += "\n  missing: " + key;
      continue;
    }
    const TensorInfo& info = file.info(found->second);
    if (info.shape != parameter->shape) {
      problems += "\n  " + key + ": shape is " + shape_text(info.shape) + ", expected " +
                  shape_text(parameter->shape);
    } else if (!is_matrix_dtype(info.dtype)) {
      problems += "\n  " + key + ": dtype is " + matrix_dtype_fault(info.dtype);
    } else if (const auto large =
                   first_overflow_of_read<S>(info.dtype, file.bytes(found->second).data(),
                                             static_cast<std::size_t>(parameter->size()))) {
      problems += "\n  " + key + ": " + overflow_text(*large);
    }
  }
  std::set<std::string_view> expected;
  for (const auto& [key, parameter] : tensors) expected.insert(key);
  for (const std::string& name : file.names()) {
    const bool bare = bare_keys == BareKeys::accept && !name.starts_with(peft_prefix);
    const std::string key = bare ? prefix + name : name;
    if (expected.count(key) == 0 && copies.keys.count(name) == 0)
      problems += "\n  unexpected: " + printable(name);
  }
  if (!problems.empty()) {
    throw FormatError(file.where() + ": does not hold adapter " + in_quotes(adapter) +
                      " of this model:" + problems);
  }
  // In parallel, because most of the time is spent on page faults in the new matrices.
  parallel_for(static_cast<Index>(tensors.size()), 1, [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      const auto& [key, parameter] = tensors[static_cast<std::size_t>(i)];
      const std::string& name = in_file.at(key);
      Matrix<S>& value = parameter->value;
      decode_elements(file.info(name).dtype, file.bytes(name).data(),
                      std::span<S>(value.data(), static_cast<std::size_t>(value.size())));
    }
  });
}

template <class S>
inline constexpr DType own_dtype = std::is_same_v<S, float> ? DType::F32 : DType::F64;

/// Throws ConfigError if a finite value would become an infinity in a file of this type.
template <class S>
void check_fits(const std::string& key, const Matrix<S>& values, DType dtype) {
  const std::span all(values.data(), static_cast<std::size_t>(values.size()));
  const auto i = first_overflow<S>(dtype, all);
  if (!i) return;
  throw ConfigError("saving " + key + " as " + std::string(dtype_name(dtype)) + ": element " +
                    std::to_string(*i) + " is " + number_text(static_cast<double>(all[*i])) +
                    ", which would become an infinity; choose a wider type");
}

/// Adds the tensors to a file. If dtype is the tensors' own, refers to their bytes without a copy.
/// Throws: as check_fits().
template <class S>
void add_tensors(SafetensorsWriter& writer, const std::vector<KeyedTensor<S>>& tensors,
                 DType dtype) {
  for (const auto& [key, parameter] : tensors) {
    check_fits(key, parameter->value, dtype);
    const Matrix<S>& value = parameter->value;
    if (dtype == own_dtype<S>) {
      writer.add(key, dtype, parameter->shape,
                 std::as_bytes(std::span(value.data(), static_cast<std::size_t>(value.size()))));
    } else {
      writer.add(key, value, dtype, parameter->shape);
    }
  }
}

}  // namespace detail

/// Returns (key in the file, Parameter*) for everything that belongs to an adapter: A, B and the
/// variant's tensors, lora_bias, modules_to_save, and the base biases that the config's `bias`
/// selects, except those that a copy of modules_to_save replaces. The keys depend on this adapter
/// only: the bias of a layer with only other adapters is named as if it had none. The pointers are
/// valid until an adapter is added or deleted. Names are interpreted within layers only, so modules
/// may have any name.
/// Throws: ConfigError for an unknown adapter.
/// Source: PEFT's get_peft_model_state_dict; some versions omit the biases of "lora_only".
template <class Base>
std::vector<KeyedTensor<typename Base::Scalar>> adapter_tensors(
    LoRAModel<Base>& model, const std::string& adapter = "default") {
  return detail::tensors_on_layers(model, adapter, model.config(adapter).bias);
}

/// Writes an adapter's tensors atomically to one file, which PEFT reads as
/// adapter_model.safetensors. `dtype` is F32, F64, BF16 or F16; values are rounded to nearest even.
/// Throws: ConfigError for an unknown adapter and for a value out of the type's range; IoError.
template <class Base>
void save_adapter_file(LoRAModel<Base>& model, const std::filesystem::path& path,
                       const std::string& adapter = "default", DType dtype = DType::F32) {
  SafetensorsWriter writer;
  writer.set_metadata("format", "pt");
  detail::add_tensors(writer, adapter_tensors(model, adapter), dtype);
  writer.write(path);
}

/// Reads the tensors of an adapter that the model already has. Base biases act at once, even while
/// another adapter is merged. Changes nothing if it throws.
/// Throws: FormatError that names all keys that are missing, unexpected or have a wrong shape;
///   ConfigError for an unknown adapter; Error while it is merged; IoError.
template <class Base>
void load_adapter_file(LoRAModel<Base>& model, const std::filesystem::path& path,
                       const std::string& adapter = "default") {
  const auto tensors = adapter_tensors(model, adapter);
  for (const std::string& merged : model.merged_adapters()) {
    if (merged != adapter) continue;
    throw Error("load_adapter_file: adapter " + in_quotes(adapter) +
                " is merged; unmerge it first");
  }
  detail::read_tensors(tensors, SafetensorsFile::open(path), adapter, detail::BareKeys::refuse);
}

}  // namespace lora
