// An adapter's tensors as one safetensors file under PEFT's keys.
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

/// What PEFT's file calls a tensor of `adapter`, from its name within its layer:
/// "lora_A.default.weight" is "lora_A.weight", "modules_to_save.default.weight" is "weight". Empty
/// for a tensor that does not belong to the adapter.
inline std::string adapter_file_name(const std::string& name, const std::string& adapter) {
  for (const char* part : {"lora_A.", "lora_B.", "lora_embedding_A.", "lora_embedding_B.",
                           "lora_magnitude_vector.", "modules_to_save."}) {
    const std::string head = part + adapter;  // an adapter's name has no dot
    if (!name.starts_with(head) || (name.size() > head.size() && name[head.size()] != '.'))
      continue;
    const std::string rest = name.substr(head.size());  // ".weight", ".bias" or nothing
    if (head.starts_with("modules_to_save.")) return rest.substr(1);
    // The only one that is called ".weight" in memory and not in files.
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

/// adapter_tensors for an adapter that the layers have and the model does not know yet.
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

/// Whether keys without "base_model.model." are taken for those with it.
enum class BareKeys { refuse, accept };

/// A frozen weight of a model, which PEFT writes into an adapter's file for embeddings and heads
/// unless save_embedding_layers is off.
template <class S>
struct BaseWeight {
  FrozenWeight<S> weight;
  std::vector<Index> shape;

  Index size() const { return weight.size(); }
  /// Whether the file's tensor holds these values, once both are rounded to the narrower of the
  /// file's type and that of the model: bfloat16 when it holds all values, else S.
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

/// What a file holds beside an adapter's own tensors: copies of the base's frozen weights.
template <class S>
struct BaseCopies {
  std::set<std::string> keys;  ///< as they stand in the file: those that are in order
  std::string problems;        ///< one line each, begun with "\n  "
  std::vector<std::string> warnings;
  struct Change {
    FrozenWeight<S> before, after;
  };
  std::vector<Change> changes;       ///< by the weight in memory, which tied layers share
  std::vector<std::string> modules;  ///< whose copies are not the base's
};

/// Holds the copies of weights of the base in an adapter's file, keys and their modules
/// (copied_module), against the model's. Allocates the weights that differ.
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
    if (found == layers_.end()) return;  // not of this model: unexpected
    Layer& layer = found->second;
    copies_.keys.insert(key);
    if (layer.own.equals(file_, key)) return;
    const TensorInfo& info = file_.info(key);
    if (info.shape != layer.own.shape) {
      return problem(key, "shape is " + shape_text(info.shape) + ", expected " +
                              shape_text(layer.own.shape) + " as of the base's weight");
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
                     "is another tensor than that of the embedding or head that it is one "
                     "with in the model");
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

/// Prepares that what an adapter's file has takes the place of the model's frozen weights.
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

/// Lets the base's biases among `tensors` be read into `biases`, and take the place of the model's
/// at the commit of `read`.
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

/// Gives `tensors` the values that the file has under their keys. Keys of `copies` are left out, and
/// its problems are among those that are thrown. Throws FormatError that names all
/// keys that are missing, unexpected or of another shape or type, or hold a number that would
/// become an infinity; then nothing has changed. Nothing is allocated for values.
template <class S>
void read_tensors(const std::vector<KeyedTensor<S>>& tensors, const SafetensorsFile& file,
                  const std::string& adapter, BareKeys bare_keys,
                  const BaseCopies<S>& copies = {}) {
  const std::string prefix(peft_prefix);
  std::map<std::string, std::string> in_file;  // key with the prefix -> key as it stands
  std::string problems = copies.problems;
  for (const std::string& name : file.names()) {
    const bool bare = bare_keys == BareKeys::accept && !name.starts_with(peft_prefix);
    const auto [other, fresh] = in_file.emplace(bare ? prefix + name : name, name);
    if (!fresh)
      problems += "\n  " + printable(name) + ": stands for the same as " + printable(other->second);
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
  // Shared, since most of the time goes by while the system gives memory to new matrices.
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

/// Throws ConfigError when a finite value would be an infinity in a file of this type.
template <class S>
void check_fits(const std::string& key, const Matrix<S>& values, DType dtype) {
  const std::span all(values.data(), static_cast<std::size_t>(values.size()));
  const auto i = first_overflow<S>(dtype, all);
  if (!i) return;
  throw ConfigError("saving " + key + " as " + std::string(dtype_name(dtype)) + ": element " +
                    std::to_string(*i) + " is " + number_text(static_cast<double>(all[*i])) +
                    ", which would become an infinity; choose a wider type");
}

/// Adds the tensors to a file; as F32 or F64 of the same type their bytes stay where they are.
/// Throws as check_fits.
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

/// (key in the file, Parameter*) of everything that belongs to an adapter: A and B, lora_bias,
/// modules_to_save, and the base's biases as the config's `bias` says, but for those that a copy of
/// modules_to_save replaces. The keys depend on this adapter alone: the bias of a layer that only
/// other adapters are on is called as if they were not there. The pointers stay good until an
/// adapter is added or deleted. Only tensors of layers are looked at by their names, so a module
/// may be called as it likes. Throws ConfigError for an unknown adapter. Source: PEFT's
/// get_peft_model_state_dict, which forgets the biases of "lora_only" in some versions.
template <class Base>
std::vector<KeyedTensor<typename Base::Scalar>> adapter_tensors(
    LoRAModel<Base>& model, const std::string& adapter = "default") {
  return detail::tensors_on_layers(model, adapter, model.config(adapter).bias);
}

/// Writes an adapter's tensors to one file, all or nothing; `dtype` is F32, F64, BF16 or F16,
/// rounded to nearest even. PEFT reads it as adapter_model.safetensors. Throws ConfigError for an
/// unknown adapter and for a value that the type cannot hold, IoError.
template <class Base>
void save_adapter_file(LoRAModel<Base>& model, const std::filesystem::path& path,
                       const std::string& adapter = "default", DType dtype = DType::F32) {
  SafetensorsWriter writer;
  writer.set_metadata("format", "pt");
  detail::add_tensors(writer, adapter_tensors(model, adapter), dtype);
  writer.write(path);
}

/// Reads the tensors of an adapter that is there already. Keys that are missing, unexpected or of
/// another shape are all named in one FormatError, and nothing is changed. Biases of the base act
/// at once, also while another adapter is merged. Throws ConfigError for an unknown adapter, Error
/// while it is merged, IoError.
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
