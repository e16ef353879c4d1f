// Adapters managed by name over all layers of a model.
#pragma once

#include <lora/adapters/activation.hpp>
#include <lora/adapters/name_checks.hpp>
#include <lora/adapters/selection.hpp>
#include <lora/adapters/status.hpp>
#include <lora/core/on_use.hpp>
#include <lora/layers/merging.hpp>

#include <algorithm>
#include <initializer_list>
#include <tuple>
#include <type_traits>
#include <utility>

namespace lora {

/// Puts adapters on the layers of a Base that a LoRAConfig selects, and manages them by name. A value:
/// copying it copies the adapters and shares the frozen weights. The base runs as before, through
/// base(). Names, rules and texts are PEFT's.
///
///   LoRAConfig config;
///   config.target_modules = std::vector<std::string>{"q_proj", "v_proj"};
///   LoRAModel<CausalLM<float>> model(load_model<CausalLM<float>>("base"), config);
///   // … train model.base() over model's parameters, then:
///   model.print_trainable_parameters(std::cout);
///   CausalLM<float> merged = model.merge_and_unload();
///
/// Throws: every function does all that it says, or throws and changes nothing, whatever throws: this
///   library, an allocation, or the base's own for_each_module. So the new gradients of all layers
///   are allocated before the old ones are freed.
/// Threads: not safe to share, except for base()'s forward.
/// Source: PEFT's LoraModel and PeftModel.
template <Adaptable Base>
class LoRAModel {
 public:
  using Scalar = typename Base::Scalar;
  using Config = OnUse<LoRAConfig, Base>;

  /// Wraps `base`, freezes all of it, and adds and activates an adapter. Each tensor of the adapter
  /// is drawn from a stream of its own, named after it, under `seed`. Throws ConfigError.
  LoRAModel(Base base, const Config& config, const std::string& adapter_name = "default",
            std::uint64_t seed = 0)
      : LoRAModel(std::move(base)) {
    add_adapter(adapter_name, config, seed);
  }
  /// Wraps `base` and freezes all of it, without an adapter yet; what full fine-tuning
  /// (train_base) has trained is frozen with the values it has. Throws ConfigError when a layer has
  /// adapters already.
  explicit LoRAModel(Base base) : base_(std::move(base)) {
    for_each_layer([](const NamePath& path, auto& layer) {
      if (layer.base_trained()) layer.freeze_base();
      if (layer.adapters().empty() && layer.trained_copies().empty()) return;
      throw ConfigError("LoRAModel: layer \"" + path.str() +
                        "\" of the base has adapters already; unload() gives a base without them");
    });
    freeze();
  }

  Base& base() { return base_; }
  const Base& base() const { return base_; }

  /// Adds an adapter to the layers that `config` selects; a second adapter stands beside the first
  /// and never nests. It becomes active when none is; otherwise it is frozen and nothing else
  /// changes. Returns what was matched, with warnings for names that matched nothing. Throws
  /// ConfigError: an invalid config, a name that is taken, nothing matched, a module that is no
  /// layer for adapters, a second adapter with biases, what a layer refuses; Error for a layer
  /// whose base is being trained. With a layer's first adapter its bias changes its name, see
  /// LoRALinear::add_adapter. `fill` is called to set the new A and B, which hold anything until
  /// then; biases begin as zero and trained copies as what they are copies of. It finds the tensors
  /// on the layers, while this model does not know the name yet, and may take the report. When it
  /// throws, they are taken off again; what else it changed is its own to take back.
  template <class Fill = KeepValues>
  MatchReport add_adapter(std::string name, const Config& config, std::uint64_t seed = 0,
                          Fill&& fill = {}) {
    config.validate();
    detail::expect_new_name(*this, name, "add_adapter");
    if (config.bias != "none") detail::expect_no_other_bias(adapters_, name);
    MatchReport report = select_modules(base_, config);
    const bool filled = !std::is_same_v<std::remove_cvref_t<Fill>, KeepValues>;
    const AdapterInit init = filled ? AdapterInit::none : adapter_init(config);
    Transaction added, taken_back;
    for_each_layer([&](const NamePath& path, auto& layer) {
      prepare_add_to_layer(path, layer, name, config, report, seed, init, added);
      taken_back.then([&layer, own = name]() mutable noexcept { layer.discard(std::move(own)); });
    });
    added.commit();
    try {
      Transaction known;
      if (active_.empty()) {
        known.set(active_, {name});
        prepare_activation(base_, {{name, config.inference_mode, config.bias}}, known);
      } else {
        prepare_training(base_, name, false, known);  // a trained copy begins trainable
      }
      known.append(adapters_, {std::move(name), config});
      if constexpr (std::is_invocable_v<Fill&, const MatchReport&>) {
        fill(std::as_const(report));
      } else {
        fill();
      }
      known.commit();
    } catch (...) {
      taken_back.commit();
      throw;
    }
    return report;
  }
  bool has_adapter(const std::string& name) const { return find(name) != nullptr; }
  std::vector<std::string> adapter_names() const {
    std::vector<std::string> names;
    for (const auto& [name, config] : adapters_) names.push_back(name);
    return names;
  }
  /// The configuration an adapter was added with. Throws ConfigError for an unknown name.
  const Config& config(const std::string& name = "default") const {
    check_known({name}, "config");
    return *find(name);
  }

  /// Makes these adapters active, their terms added in this order, and trainable unless their
  /// config says inference_mode; all others are frozen, and the base's biases but for those that an
  /// active adapter's `bias` trains. Of several with a copy of one layer (modules_to_save) the
  /// first acts. Merged adapters are unmerged first. An empty list leaves the base alone. Throws
  /// ConfigError for an unknown or repeated name.
  void set_adapter(std::vector<std::string> names) {
    check_known(names, "set_adapter");
    detail::expect_named_once(names, "set_adapter");
    change_at_once([&](Transaction& change) {
      prepare_unmerge(change);
      prepare_active(std::move(names), change);
    });
  }
  void set_adapter(std::initializer_list<std::string> names) {
    set_adapter(std::vector<std::string>(names));
  }
  void set_adapter(std::string name) { set_adapter(std::vector<std::string>{std::move(name)}); }
  void set_adapter(const char* name) { set_adapter(std::string(name)); }
  const std::vector<std::string>& active_adapters() const { return active_; }

  /// Calls an adapter by another name, whatever its state; an optimiser, which keeps its state by
  /// name, begins anew with it. Throws ConfigError for an unknown name and for one that is taken or
  /// invalid, with nothing changed.
  void rename_adapter(std::string name, std::string new_name) {
    check_known({name}, "rename_adapter");
    if (name == new_name) return;
    detail::expect_new_name(*this, new_name, "rename_adapter");
    change_at_once([&](Transaction& change) {
      for_each_layer([&](const NamePath&, auto& layer) {
        layer.prepare_rename_adapter(name, new_name, change);
      });
      for (auto& entry : adapters_) {
        if (entry.name == name) change.set(entry.name, new_name);
      }
      for (std::string& active : active_) {
        if (active == name) change.set(active, new_name);
      }
    });
  }

  /// Turns the training of these adapters and their trained copies on or off without activating
  /// them, until the next set_adapter. Throws ConfigError for an unknown name.
  void set_requires_grad(const std::vector<std::string>& names, bool train = true) {
    check_known(names, "set_requires_grad");
    change_at_once([&](Transaction& change) {
      for (const std::string& name : names) prepare_training(base_, name, train, change);
    });
  }

  /// s = factor · alpha / r (or what the variant makes of them) on every layer that has the
  /// adapter. Throws ConfigError for an unknown name and when an s is not finite, Error while the
  /// adapter is merged.
  void set_scale(std::string name, double factor) {
    check_known({name}, "set_scale");
    check_not_merged({name}, "set_scale");
    change_at_once([&](Transaction& change) {
      for_each_layer([&](const NamePath&, auto& layer) {
        if (layer.adapters().contains(name)) layer.adapters().prepare_scale(name, factor, change);
      });
    });
  }

  /// While the guard lives, the model is the base model, merged or not, but for biases of the base
  /// that were trained: { auto off = model.disable_adapters(); … }
  DisableGuard<LoRAModel> disable_adapters() { return DisableGuard<LoRAModel>(*this); }
  /// Lets adapters and their trained copies act or not, on every layer; which are active or merged
  /// stays as it is. See disable_adapters.
  void set_enabled(bool on) {
    change_at_once([&](Transaction& change) { prepare_enabled(on, change); });
  }
  /// The same at the commit of `change`.
  void prepare_enabled(bool on, Transaction& change) {
    change.set(enabled_, on);
    for_each_layer(
        [&](const NamePath&, auto& layer) { layer.adapters().prepare_enabled(on, change); });
  }
  bool enabled() const { return enabled_; }

  /// Removes an adapter everywhere. When it was active, the first of the remaining names, sorted,
  /// becomes active. An optimiser keeps its state by name: prune(model) it before another adapter
  /// gets this name. Throws ConfigError for an unknown name, Error while it is merged.
  void delete_adapter(std::string name) {
    check_known({name}, "delete_adapter");
    check_not_merged({name}, "delete_adapter");
    std::vector<std::string> active = active_, left = adapter_names();
    const bool was_active = std::erase(active, name) != 0;
    std::erase(left, name);
    if (active.empty() && !left.empty()) active = {*std::min_element(left.begin(), left.end())};
    change_at_once([&](Transaction& change) {
      if (was_active) prepare_active(std::move(active), change);
      for_each_layer([&](const NamePath&, auto& layer) {
        if (layer.knows(name)) layer.prepare_delete_adapter(name, change);
      });
      change.then([this, own = name]() noexcept {
        std::erase_if(adapters_, [&](const auto& entry) { return entry.name == own; });
      });
    });
  }

  /// Adds s B A of these adapters (none named: the active ones) to the weights of every layer,
  /// rounding once. With SafeMerge::yes nothing is merged when a result is not finite. Throws
  /// ConfigError for an unknown or repeated name and for a layer that cannot be merged into, Error
  /// when an adapter is merged already or there is nothing to merge. Holds a second copy of the
  /// weights of every adapted layer.
  void merge_adapter(const std::vector<std::string>& names = {},
                     SafeMerge safe_merge = SafeMerge::no) {
    check_known(names, "merge_adapter");
    const std::vector<std::string>& asked = names.empty() ? active_ : names;
    if (asked.empty())
      throw Error("LoRAModel::merge_adapter: no adapter is named and none is active");
    detail::expect_named_once(asked, "merge_adapter");
    check_not_merged(asked, "merge_adapter");
    change_at_once([&](Transaction& change) {
      for_each_layer([&](const NamePath& path, auto& layer) {
        prepare_merge_on_layer(path, layer, asked, safe_merge, change);
      });
    });
  }
  /// Gives every layer its original weight back, bit for bit. Throws Error when nothing is merged.
  void unmerge_adapter() {
    if (!any_merged()) throw Error("LoRAModel::unmerge_adapter: no adapter is merged");
    change_at_once([&](Transaction& change) { prepare_unmerge(change); });
  }
  /// The adapters that are merged on some layer.
  std::vector<std::string> merged_adapters() const {
    std::vector<std::string> names;
    const_cast<LoRAModel*>(this)->for_each_layer([&](const NamePath&, auto& layer) {
      for (const std::string& name : layer.adapters().merged()) {
        if (std::count(names.begin(), names.end(), name) == 0) names.push_back(name);
      }
    });
    return names;
  }

  /// A base model with exactly these adapters (none named: those merged already, or else the active
  /// ones) in its weights, and without adapters. Of the trained copies (modules_to_save) of each
  /// layer, that of the first of these adapters takes its place, that of the active ones when none
  /// are named. This model is not changed. Throws as merge_adapter.
  Base merge_and_unload(SafeMerge safe_merge = SafeMerge::no,
                        const std::vector<std::string>& names = {}) const {
    LoRAModel copy(*this);
    const std::vector<std::string> merged = copy.merged_adapters();
    if (merged.empty() || !names.empty() || safe_merge == SafeMerge::yes) {
      if (!merged.empty()) copy.unmerge_adapter();
      copy.merge_adapter(names.empty() ? merged : names, safe_merge);
    }
    return copy.strip(names.empty() ? active_ : names);
  }
  /// The base model without adapters; biases that were trained stay so. This model is not changed.
  Base unload() const {
    LoRAModel copy(*this);
    if (copy.any_merged()) copy.unmerge_adapter();
    return copy.strip({});
  }

  /// (trained, all) numbers of elements; adapters and trained copies belong to both kinds. A weight
  /// that several layers share counts once.
  std::pair<Index, Index> get_nb_trainable_parameters() const {
    return count_with_frozen(const_cast<LoRAModel*>(this)->base_);
  }
  /// The line that PEFT prints; see trainable_text.
  std::string trainable_parameters_text() const {
    return std::apply(trainable_text, get_nb_trainable_parameters());
  }
  /// Writes that line to a stream.
  template <class Stream>
  void print_trainable_parameters(Stream& out) const {
    out << trainable_parameters_text() << '\n';
  }

  /// fn(name, Parameter&) for every tensor that the base lists, adapters included.
  template <class Fn>
  void for_each_parameter(const NamePath& prefix, Fn&& fn) {
    base_.for_each_parameter(prefix, fn);
  }

  /// The layers that have an adapter.
  std::vector<LayerStatus> get_layer_status() const {
    std::vector<LayerStatus> layers;
    const_cast<LoRAModel*>(this)->for_each_layer([&](const NamePath& path, auto& layer) {
      if (!layer.adapters().empty()) layers.push_back(layer_status(path.str(), layer));
    });
    return layers;
  }
  /// What those layers have in common and where they differ, with the numbers of parameters.
  ModelStatus get_model_status() const {
    ModelStatus status = summarize(get_layer_status());
    std::tie(status.trainable_params, status.total_params) = get_nb_trainable_parameters();
    return status;
  }

  /// fn(name, layer) for every layer that adapters can be put on.
  template <class Fn>
  void for_each_layer(Fn&& fn) {
    for_each_adapter_layer(base_, fn);
  }

 private:
  const Config* find(const std::string& name) const {
    for (const auto& [known, config] : adapters_) {
      if (known == name) return &config;
    }
    return nullptr;
  }
  void check_known(const std::vector<std::string>& names, const char* where) const {
    detail::expect_known(names, adapter_names(), where);
  }
  void check_not_merged(const std::vector<std::string>& names, const char* where) const {
    detail::expect_not_merged(names, merged_adapters(), where);
  }
  bool any_merged() const { return !merged_adapters().empty(); }

  void freeze() {
    base_.for_each_parameter("", [](const auto&, auto& p) { p.set_trainable(false); });
  }
  /// Prepares that these adapters are the active ones.
  void prepare_active(std::vector<std::string> names, Transaction& change) {
    std::vector<ActiveAdapter> active;
    for (const std::string& name : names)
      active.push_back({name, find(name)->inference_mode, find(name)->bias});
    prepare_activation(base_, active, change);
    change.set(active_, std::move(names));
  }
  void prepare_unmerge(Transaction& change) {
    for_each_layer([&](const NamePath&, auto& layer) {
      if (!layer.adapters().merged().empty()) layer.prepare_unmerge(change);
    });
  }
  /// The base, all frozen, with the first trained copy of these names on each layer, else that of
  /// full fine-tuning, in its place.
  Base strip(const std::vector<std::string>& names) {
    for_each_layer([&](const NamePath&, auto& layer) {
      std::string keep = base_adapter_name;
      for (const std::string& name : names) {
        if (layer.trained_copies().find(name) == nullptr) continue;
        keep = name;
        break;
      }
      layer.unload(keep);
    });
    freeze();
    return std::move(base_);
  }

  Base base_;
  struct NamedConfig {
    std::string name;
    Config config;
  };
  std::vector<NamedConfig> adapters_;
  std::vector<std::string> active_;
  bool enabled_ = true;
};

}  // namespace lora
