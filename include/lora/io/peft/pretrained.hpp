// Saves the adapters of a model as PEFT directories, and loads one into a model.
#pragma once

#include <lora/adapters/target_names.hpp>
#include <lora/io/peft/adapter_file.hpp>
#include <lora/io/peft/model_card.hpp>
#include <lora/io/peft/peft_adapter.hpp>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace lora {

enum class Write { no, yes };

/// Options of save_pretrained().
struct SavePretrainedOptions {
  std::vector<std::string> selected_adapters = {};  ///< empty: all
  std::optional<DType> dtype = {};  ///< F32, F64, BF16 or F16; unset: the model's own type
  std::optional<std::string> base_model_name_or_path = {};  ///< unset: the configuration's
  Write model_card = Write::yes;                            ///< README.md, if there is none
  /// LoadReport::fields of loaded adapters, by name. Writes again what was read, including unknown
  /// fields; see peft_config_fields().
  std::map<std::string, Json> fields = {};
};

/// Options of load_adapter().
struct LoadOptions {
  bool is_trainable = false;  ///< false: frozen even when active (inference_mode), as in PEFT
  std::string base_model_name_or_path = {};  ///< the base's name, compared with the file's
  std::uint64_t seed = 0;                    ///< of the dropout masks
};

/// What load_adapter() found besides the adapter.
struct LoadReport {
  Json fields;                              ///< of adapter_config.json, for saving it again
  std::vector<std::string> unknown_fields;  ///< fields that this library does not know
  MatchReport matched;                      ///< the layers that have the adapter
  /// Modules whose base weight was replaced by a different one from the adapter's file.
  /// save_pretrained() does not write that weight again.
  std::vector<std::string> replaced;
  /// One sentence each: PeftAdapter's warnings, names in the configuration without effect, replaced
  /// base weights, a different base model, a scale below 0.25, an adapter that changes nothing.
  std::vector<std::string> warnings;
};

namespace detail {

/// Throws ConfigError for an adapter name that cannot be a folder name.
inline void check_adapter_folder(const std::string& name) {
  if (!name.empty() && name != "." && name != ".." && name.find('/') == name.npos &&
      name.find('\0') == name.npos)
    return;
  throw ConfigError("save_pretrained: the adapter's name " + in_quotes(name) +
                    " cannot be the name of its folder; it must not be empty, \".\" or \"..\" nor "
                    "hold \"/\" or NUL");
}

/// Replaces "all-linear" and the defaults of a model type, which depend on the model, by the names
/// they stand for, as PEFT does.
template <class Base>
NameSelection concrete_targets(LoRAModel<Base>& model, const std::string& adapter) {
  const LoRAConfig& config = model.config(adapter);
  const std::string* text = config.target_modules.pattern();
  const auto is_all_linear = [](std::string lower) {
    for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    return lower == "all-linear";
  };
  if (!config.target_modules.is_null() && (text == nullptr || !is_all_linear(*text)))
    return config.target_modules;
  std::vector<std::string> adapted, all;
  model.for_each_layer([&](const NamePath& path, auto& layer) {
    if (layer.adapters().contains(adapter)) adapted.push_back(path.str());
  });
  for (const ModuleInfo& module : module_infos(model.base())) all.push_back(module.name);
  return target_names(adapted, all);
}

template <class Base>
void warn_of_loaded(LoRAModel<Base>& model, const std::string& name, const PeftAdapter& adapter,
                    const LoadOptions& options, LoadReport& report) {
  const auto& base = adapter.config().base_model_name_or_path;
  if (base && !options.base_model_name_or_path.empty() &&
      *base != options.base_model_name_or_path) {
    report.warnings.push_back("base_model_name_or_path is " + in_quotes(*base) + ", the model is " +
                              in_quotes(options.base_model_name_or_path));
  }
  const auto low = [](const PeftModule& m) { return std::abs(m.scaling) < 0.25; };
  const auto& modules = adapter.modules();
  const auto first = std::find_if(modules.begin(), modules.end(), low);
  if (first != modules.end()) {
    report.warnings.push_back(
        "the scale of " + in_quotes(first->name) +
        (std::count_if(modules.begin(), modules.end(), low) > 1 ? " and others" : "") + " is " +
        number_text(first->scaling) + " (alpha " + number_text(first->alpha) + ", r " +
        std::to_string(first->r) + "): was lora_alpha left at its default?");
  }
  bool acts = false;
  model.for_each_layer([&](const NamePath&, auto& layer) {
    const auto* one = layer.adapters().find(name);
    if (one == nullptr || acts) return;
    acts = !one->A.value.isZero(0) && (!one->B.value.isZero(0) || !one->bias.value.isZero(0));
    one->if_scales_output([&](const auto& variant) {
      acts = acts || variant.change_norm(*one, layer.base_map()) != 0;
    });
  });
  if (!acts)
    report.warnings.push_back(
        "every B (of an embedding: A) is zero, so the adapter changes nothing");
}

/// Throws FormatError if a large rank in the configuration differs from the file's, before anything
/// of that size is allocated.
template <class Base>
void check_ranks(LoRAModel<Base>& model, const std::string& name, const LoRAConfig& config,
                 const PeftAdapter& adapter) {
  constexpr Index much = 1 << 12;  // smaller ranks are reported later with all other faults
  const auto is_much = [](const auto& entry) { return entry.second > much; };
  if (config.r <= much &&
      std::none_of(config.rank_pattern.begin(), config.rank_pattern.end(), is_much))
    return;
  std::map<std::string, Index> in_file;
  for (const PeftModule& module : adapter.modules()) in_file[module.name] = module.r;
  std::string problems;
  Index largest = 0;
  for (const MatchedModule& target : select_modules(model.base(), config).targets) {
    const auto found = in_file.find(target.name);
    if (found != in_file.end() && found->second == target.r) continue;
    largest = std::max(largest, target.r);
    if (found == in_file.end()) {
      problems += "\n  missing: A and B of " + printable(target.name);
    } else {
      problems += "\n  " + printable(target.name) + ": r is " + std::to_string(found->second) +
                  ", expected " + std::to_string(target.r);
    }
  }
  if (largest <= much) return;
  throw FormatError(adapter.tensors().where() + ": does not hold adapter " + in_quotes(name) +
                    " of this model:" + problems);
}

}  // namespace detail

/// Saves adapters as PEFT does: "default" into `directory`, any other into `directory`/<its name>,
/// each as adapter_model.safetensors and adapter_config.json, and one README.md into `directory`.
/// Creates folders. Keys and shapes are those of adapter_tensors(). The configuration is the one
/// that the adapter was added with (see peft_config_fields), except that "all-linear" and a null
/// target_modules become the names they stand for.
///
///   save_pretrained(model, "my_adapter");   // or {.dtype = DType::BF16}
///   LoRAModel<Base> other(base);            // the same base, without adapters
///   const LoadReport report = load_adapter(other, "my_adapter");
///   for (const std::string& warning : report.warnings) std::cerr << warning << '\n';
///
/// Checks all adapters before it writes the first, and writes README.md before them. If writing an
/// adapter fails, those before it stay saved, and a new README.md is removed again.
/// replace_peft_files() says what a killed process or an error leaves of one adapter.
/// Throws: ConfigError for an unknown adapter, a name that cannot be a folder name, an unsupported
///   dtype, and a value out of the dtype's range; IoError.
/// Allocates: the tensors' bytes, if dtype is not the model's own.
/// Source: PEFT's PeftModel.save_pretrained, save_embedding_layers=False.
template <class Base>
void save_pretrained(LoRAModel<Base>& model, const std::filesystem::path& directory,
                     const SavePretrainedOptions& options = {}) {
  using S = typename Base::Scalar;
  struct Prepared {
    std::filesystem::path directory;
    LoRAConfig config;
    Json fields;
    SafetensorsWriter tensors;
  };
  std::vector<Prepared> prepared;
  const std::vector<std::string> names =
      options.selected_adapters.empty() ? model.adapter_names() : options.selected_adapters;
  if (names.empty()) throw ConfigError("save_pretrained: the model has no adapter");
  for (const auto& [name, fields] : options.fields) {
    if (!model.has_adapter(name))
      throw ConfigError("save_pretrained: there are fields for " + in_quotes(name) +
                        ", which is not an adapter of the model");
  }
  for (const std::string& name : names) {
    detail::check_adapter_folder(name);
    const auto read = options.fields.find(name);
    const Json as_read = read == options.fields.end() ? Json::object() : read->second;
    Prepared& one = prepared.emplace_back();
    one.directory = name == "default" ? directory : directory / name;
    one.config = model.config(name);
    if (as_read.empty()) one.config.target_modules = detail::concrete_targets(model, name);
    if (options.base_model_name_or_path)
      one.config.base_model_name_or_path = options.base_model_name_or_path;
    one.fields = peft_config_fields(one.config, as_read);
    one.tensors.set_metadata("format", "pt");
    detail::add_tensors(one.tensors, adapter_tensors(model, name),
                        options.dtype.value_or(detail::own_dtype<S>));
    check_peft_files(one.directory, one.fields, one.tensors);
  }
  const auto write = [&] {
    for (const Prepared& one : prepared) write_peft_adapter(one.directory, one.fields, one.tensors);
  };
  if (options.model_card == Write::no) return write();
  write_with_model_card(directory, prepared.front().config, write);
}

/// Loads the adapter of a directory into a model that has none of this name, on the layers that its
/// configuration selects. It becomes active if no adapter is. Changes nothing if it throws.
///
/// The file may contain copies of base weights, which PEFT writes for an adapted embedding or head
/// by default. An equal copy changes nothing. A different one replaces the model's frozen weight,
/// for tied embedding and head both, with a warning. Base biases change if the configuration's
/// `bias` makes them the adapter's. Nothing else in the base changes.
/// Throws: as PeftAdapter::open and LoRAModel::add_adapter; FormatError that names every key that
///   is missing, unexpected or of a wrong shape.
/// Source: PEFT's PeftModel.load_adapter, which ignores missing and unexpected keys, and so a copy
///   whose name lacks "base_layer" though its module is adapted.
template <class Base>
LoadReport load_adapter(LoRAModel<Base>& model, const std::filesystem::path& directory,
                        const std::string& name = "default", const LoadOptions& options = {}) {
  const PeftAdapter adapter = PeftAdapter::open(directory);
  LoRAConfig config = adapter.config();
  config.inference_mode = !options.is_trainable;
  detail::check_ranks(model, name, config, adapter);
  LoadReport report;
  report.fields = adapter.fields();
  report.unknown_fields = adapter.unknown_fields();
  detail::BaseCopies<typename Base::Scalar> copies;
  model.add_adapter(name, config, options.seed, [&](const MatchReport& matched) {
    detail::BaseCopyReader<Base> reader(model, name, adapter.tensors());
    for (const std::string& key : adapter.other_tensors()) {
      const std::string module = copied_module(config, key);
      if (!module.empty()) reader.add(key, module);
    }
    copies = reader.take();
    report.matched = matched;
    report.replaced = copies.modules;
    report.warnings = adapter.warnings();
    for (const auto& more : {matched.warnings, copies.warnings})
      report.warnings.insert(report.warnings.end(), more.begin(), more.end());
    auto tensors = detail::tensors_on_layers(model, name, config.bias);
    std::vector<Parameter<typename Base::Scalar>> biases;
    change_at_once([&](Transaction& change) {
      detail::prepare_base_weights(model, copies, change);
      detail::prepare_base_biases(tensors, biases, change);
      detail::read_tensors(tensors, adapter.tensors(), name, detail::BareKeys::accept, copies);
      detail::warn_of_loaded(model, name, adapter, options, report);
    });
  });
  return report;
}

/// A base with an adapter, and the report of load_adapter().
template <class Base>
struct Pretrained {
  LoRAModel<Base> model;
  LoadReport report;
};

/// Wraps `base`, freezes it and loads the adapter of a directory as "default":
///
///   auto [model, report] = from_pretrained(base, directory);
///
/// Throws: as load_adapter().
template <class Base>
Pretrained<Base> from_pretrained(Base base, const std::filesystem::path& directory,
                                 const LoadOptions& options = {}) {
  LoRAModel<Base> model(std::move(base));
  LoadReport report = load_adapter(model, directory, "default", options);
  return {std::move(model), std::move(report)};
}

}  // namespace lora
