// Selects the layers of a model by a configuration, and the options of each layer's adapter.
#pragma once

#include <lora/adapters/adaptable.hpp>
#include <lora/adapters/matching.hpp>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

namespace lora {

/// Lists a model's modules for matching. The type of one without module_type() is "unknown".
template <Adaptable Base>
std::vector<ModuleInfo> module_infos(Base& base) {
  std::string output;
  if constexpr (requires(const Base& b) { b.output_module(); }) output = base.output_module();
  std::vector<ModuleInfo> list;
  base.for_each_module("", [&](const NamePath& path, auto& layer) {
    std::string type = "unknown";
    if constexpr (requires { layer.module_type(); }) type = layer.module_type();
    const std::string name = path.str();
    list.push_back({name, type, !output.empty() && name == output});
  });
  return list;
}

/// Runs match_modules() over a model.
/// Throws: as match_modules(); ConfigError if it matches a module that is not an AdapterLayer.
template <Adaptable Base, class Tag>
MatchReport select_modules(Base& base, const BasicLoRAConfig<Tag>& config) {
  std::string model_type;
  if constexpr (requires(const Base& b) { b.model_type(); }) model_type = base.model_type();
  MatchReport report = match_modules(module_infos(base), config, model_type);
  std::set<std::string> layers;
  for_each_adapter_layer(base, [&](const NamePath& path, auto&) { layers.insert(path.str()); });
  const auto check = [&](const std::string& module, const char* field) {
    if (layers.count(module) != 0) return;
    throw ConfigError("LoRAConfig: " + std::string(field) + " selects " + in_quotes(module) +
                      ", which can neither take an adapter nor be trained as a whole");
  };
  for (const MatchedModule& target : report.targets) check(target.name, "target_modules");
  for (const std::string& module : report.saved) check(module, "modules_to_save");
  return report;
}

/// The default `fill` of LoRAModel::add_adapter: keeps the configuration's initial values.
struct KeepValues {
  void operator()() const {}
};

/// Returns the initialisation that init_lora_weights of a valid config asks for.
template <class Tag>
AdapterInit adapter_init(const BasicLoRAConfig<Tag>& config) {
  if (const bool* standard = config.init_lora_weights.flag()) {
    return *standard ? AdapterInit::kaiming_uniform : AdapterInit::torch_default;
  }
  return *config.init_lora_weights.name() == "gaussian" ? AdapterInit::gaussian
                                                        : AdapterInit::orthogonal;
}

/// Returns the options of the adapter on one matched module. Random streams are named after the
/// module.
template <class Tag>
AdapterOptions adapter_options(const BasicLoRAConfig<Tag>& config, const MatchedModule& module,
                               std::uint64_t seed) {
  AdapterOptions options;
  options.r = module.r;
  options.lora_alpha = module.alpha;
  options.lora_dropout = config.lora_dropout;
  options.init = adapter_init(config);
  options.lora_bias = config.lora_bias;
  if (config.use_rslora) options.variant = RsLoRA{};
  if (config.use_dora) options.variant = DoRA{{}, config.use_rslora};
  options.seed = seed;
  options.path = module.name;
  return options;
}

/// Prepares to add the adapter or trained copy `name` to one layer of a model, if `report` lists
/// it.
template <class Layer, class Tag>
void prepare_add_to_layer(const NamePath& path, Layer& layer, const std::string& name,
                          const BasicLoRAConfig<Tag>& config, const MatchReport& report,
                          std::uint64_t seed, AdapterInit init, Transaction& change) {
  const std::string module = path.str();
  if (std::count(report.saved.begin(), report.saved.end(), module) != 0)
    layer.prepare_add_trained_copy(name, change);
  for (const MatchedModule& target : report.targets) {
    if (target.name != module) continue;
    AdapterOptions options = adapter_options(config, target, seed);
    options.init = init;
    layer.prepare_add_adapter(layer.new_adapter(name, options), change);
  }
}

}  // namespace lora
