// Manages adapters by name over all layers of a model.
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

/// Puts adapters on the layers of a Base that a LoRAConfig selects, and manages them by name. A
/// value: a copy has its own adapters and shares the frozen weights. The base runs as before,
/// through base(). Names, rules and texts are PEFT's.
///
///   LoRAConfig config;
///   config.target_modules = std::vector<std::string>{"q_proj", "v_proj"};
///   LoRAModel<CausalLM<float>> model(load_model<CausalLM<float>>("base"), config);
///   // … train model.base() over model's parameters, then:
///   model.print_trainable_parameters(std::cout);
///   CausalLM<float> merged = model.merge_and_unload();
///
/// Throws: a function that throws has changed nothing, whether this library, an allocation or the
///   base's for_each_module threw. So it allocates all new gradients before it frees the old ones.
/// Threads: only base()'s forward may run on several threads at once.
/// Source: PEFT's LoraModel and PeftModel.
template <Adaptable Base>
class LoRAModel {
 public:
  using Scalar = typename Base::Scalar;
  using Config = OnUse<LoRAConfig, Base>;

  /// Wraps `base`, freezes all of it, and adds and activates an adapter. Draws each tensor of the
  /// adapter from its own random stream, keyed by `seed` and the tensor's name.
  /// Throws: ConfigError.
  LoRAModel(Base base, const Config& config, const std::string& adapter_name = "default",
            std::uint64_t seed = 0)
      : LoRAModel(std::move(base)) {
    add_adapter(adapter_name, config, seed);
  }
  /// Wraps `base` and freezes all of it, without an adapter yet. Full fine-tuning (train_base)
  /// ends, and its values become the frozen ones.
  /// Throws: ConfigError if a layer already has adapters.
  explicit LoRAModel(Base base) : base_(std::move(base)) {
    for_each_layer([](const NamePath& path, auto& layer) {
      if (layer.base_trained()) layer.freeze_base();
      if (layer.adapters().empty() && layer.trained_copies().empty()) return;
      throw ConfigError("LoRAModel: layer \"" + path.str() +
                        "\" of the base already has adapters; unload() gives a base without them");
    });
    freeze();
  }

  Base& base() { return base_; }
  const Base& base() const { return base_; }

  /// Adds an adapter to the layers that `config` selects, next to those already there. It becomes
  /// active if none is, otherwise it is frozen. A layer's first adapter renames its bias, see
  /// LoRALinear::add_adapter. Returns the matched modules, with warnings for names without a match.
  /// `fill`, if given, sets the new A and B, which are uninitialised until then; biases start as
  /// zero, trained copies as copies. It may take the report, and finds the tensors on the layers,
  /// while the model does not know the name yet. If it throws, the tensors are removed; it must
  /// undo its other changes itself.
  /// Throws: ConfigError for an invalid config, a taken name, no match, a module that cannot take
  ///   an adapter, a second adapter with biases, and what a layer refuses; Error for a layer in
  ///   full fine-tuning.
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
        prepare_training(base_, name, false, known);  // a trained copy starts as trainable
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
  /// The configuration that an adapter was added with. Throws ConfigError for an unknown name.
  const Config& config(const std::string& name = "default") const {
    check_known({name}, "config");
    return *find(name);
  }

  /// Makes these adapters active, with their terms added in this order, and trainable unless their
  /// config sets inference_mode. Freezes all others, and all base biases that no active adapter's
  /// `bias` trains. Of several copies of a layer (modules_to_save), the first acts. Unmerges first.
  /// With an empty list only the base acts.
  /// Throws: ConfigError for an unknown or repeated name.
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

  /// Renames an adapter in any state. An optimiser keeps its state by name, so it starts afresh.
  /// Throws: ConfigError for an unknown name, and for a new name that is taken or invalid.
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

  /// Trains or freezes these adapters and their trained copies, without activating them, until the
  /// next set_adapter(). Throws ConfigError for an unknown name.
  void set_requires_grad(const std::vector<std::string>& names, bool train = true) {
    check_known(names, "set_requires_grad");
    change_at_once([&](Transaction& change) {
      for (const std::string& name : names) prepare_training(base_, name, train, change);
    });
  }

  /// Sets s = factor · alpha / r, or the variant's formula, on every layer that has the adapter.
  /// Throws: ConfigError for an unknown name and a non-finite s; Error while the adapter is merged.
  void set_scale(std::string name, double factor) {
    check_known({name}, "set_scale");
    check_not_merged({name}, "set_scale");
    change_at_once([&](Transaction& change) {
      for_each_layer([&](const NamePath&, auto& layer) {
        if (layer.adapters().contains(name)) layer.adapters().prepare_scale(name, factor, change);
      });
    });
  }

  /// Makes the model act as its base, merged or not, while the guard lives; trained base biases
  /// stay: { auto off = model.disable_adapters(); … }
  DisableGuard<LoRAModel> disable_adapters() { return DisableGuard<LoRAModel>(*this); }
  /// Enables or disables adapters and their trained copies on every layer, without changing which
  /// are active or merged. See disable_adapters().
  void set_enabled(bool on) {
    change_at_once([&](Transaction& change) { prepare_enabled(on, change); });
  }
  /// Does the same at the commit of `change`.
  void prepare_enabled(bool on, Transaction& change) {
    change.set(enabled_, on);
    for_each_layer(
        [&](const NamePath&, auto& layer) { layer.adapters().prepare_enabled(on, change); });
  }
  bool enabled() const { return enabled_; }

  /// Removes an adapter everywhere. If it was the only active one, the first of the remaining names
  /// in sorted order becomes active. An optimiser keeps its state by name: prune(model) it before
  /// reusing the name. Throws ConfigError for an unknown name, Error while the adapter is merged.
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

  /// Merges these adapters (none named: the active ones) into the weights of every layer, rounding
  /// once.
  /// Throws: ConfigError for an unknown or repeated name and a layer that cannot merge; Error if an
  ///   adapter is already merged, nothing is to be merged or, with SafeMerge::yes, a result is not
  ///   finite.
  /// Allocates: a second copy of the weights of every adapted layer.
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
  /// Restores every layer's original weight bit for bit. Throws Error if nothing is merged.
  void unmerge_adapter() {
    if (!any_merged()) throw Error("LoRAModel::unmerge_adapter: no adapter is merged");
    change_at_once([&](Transaction& change) { prepare_unmerge(change); });
  }
  /// The adapters that are merged on at least one layer.
  std::vector<std::string> merged_adapters() const {
    std::vector<std::string> names;
    const_cast<LoRAModel*>(this)->for_each_layer([&](const NamePath&, auto& layer) {
      for (const std::string& name : layer.adapters().merged()) {
        if (std::count(names.begin(), names.end(), name) == 0) names.push_back(name);
      }
    });
    return names;
  }

  /// Returns a base model without adapters, with exactly these adapters merged into its weights
  /// (none named: those already merged, else the active ones). On each layer, the trained copy of
  /// the first of the named (else active) adapters that has one replaces the weight. Does not
  /// change this model. Throws as merge_adapter().
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
  /// Returns the base model without adapters, with its trained biases. Does not change this model.
  Base unload() const {
    LoRAModel copy(*this);
    if (copy.any_merged()) copy.unmerge_adapter();
    return copy.strip({});
  }

  /// The numbers of (trainable, all) elements, including adapters and trained copies. A weight that
  /// several layers share counts once.
  std::pair<Index, Index> get_nb_trainable_parameters() const {
    return count_with_frozen(const_cast<LoRAModel*>(this)->base_);
  }
  /// The line that PEFT prints; see trainable_text.
  std::string trainable_parameters_text() const {
    return std::apply(trainable_text, get_nb_trainable_parameters());
  }
  /// Writes trainable_parameters_text() and a newline to a stream.
  template <class Stream>
  void print_trainable_parameters(Stream& out) const {
    out << trainable_parameters_text() << '\n';
  }

  /// Calls fn(name, Parameter&) for every tensor that the base lists, including adapters.
  template <class Fn>
  void for_each_parameter(const NamePath& prefix, Fn&& fn) {
    base_.for_each_parameter(prefix, fn);
  }

  /// The status of every layer that has an adapter.
  std::vector<LayerStatus> get_layer_status() const {
    std::vector<LayerStatus> layers;
    const_cast<LoRAModel*>(this)->for_each_layer([&](const NamePath& path, auto& layer) {
      if (!layer.adapters().empty()) layers.push_back(layer_status(path.str(), layer));
    });
    return layers;
  }
  /// The status that these layers share, and the numbers of parameters.
  ModelStatus get_model_status() const {
    ModelStatus status = summarize(get_layer_status());
    std::tie(status.trainable_params, status.total_params) = get_nb_trainable_parameters();
    return status;
  }

  /// Calls fn(name, layer) for every layer that can take adapters.
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
  /// Prepares to make exactly these adapters active.
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
  /// Moves out the base, all frozen. On each layer the first trained copy of these names, else the
  /// copy of full fine-tuning, replaces the weight.
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
