// The named adapters of one layer: which there are, which are active, which are merged, and at what
// scale.
#pragma once

#include <lora/layers/adapter.hpp>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

namespace LORA_NAMESPACE {

/// What every adapted layer has the same. Names keep the order in which they were added or
/// activated. A value. Reading is safe from several threads; changing is not.
template <class S>
class AdapterSet {
 public:
  /// Whether there is an adapter of that name, and whether there is none at all.
  bool contains(const std::string& name) const { return find(name) != nullptr; }
  bool empty() const { return adapters_.empty(); }
  /// The adapters, or their names, in the order in which they were added.
  std::vector<Adapter<S>>& all() { return adapters_; }
  const std::vector<Adapter<S>>& all() const { return adapters_; }
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const Adapter<S>& adapter : adapters_) names.push_back(adapter.name);
    return names;
  }

  /// The adapter called `name`, or null. Good until one is added or removed, as all such pointers
  /// and references.
  const Adapter<S>* find(const std::string& name) const {
    for (const Adapter<S>& adapter : adapters_) {
      if (adapter.name == name) return &adapter;
    }
    return nullptr;
  }
  Adapter<S>* find(const std::string& name) {
    return const_cast<Adapter<S>*>(std::as_const(*this).find(name));
  }
  /// The adapter called `name`; throws ConfigError that lists the names there are.
  Adapter<S>& get(const std::string& name) {
    Adapter<S>* adapter = find(name);
    if (adapter == nullptr) throw ConfigError("no adapter is called \"" + name + "\"" + known());
    return *adapter;
  }
  const Adapter<S>& get(const std::string& name) const {
    return const_cast<AdapterSet*>(this)->get(name);
  }
  /// The adapter that a tape was made with; throws Error when it was deleted since.
  const Adapter<S>& by_id(std::uint64_t id) const {
    for (const Adapter<S>& adapter : adapters_) {
      if (adapter.id == id) return adapter;
    }
    throw Error("backward: an adapter that forward used was deleted since" + known());
  }
  Adapter<S>& by_id(std::uint64_t id) {
    return const_cast<Adapter<S>&>(std::as_const(*this).by_id(id));
  }

  /// Adds an adapter; it is neither active nor trainable. Throws ConfigError when the name is
  /// taken.
  void add(Adapter<S> adapter) {
    if (contains(adapter.name))
      throw ConfigError("an adapter called \"" + adapter.name + "\" is already there");
    adapter.id = ++last_id_;
    adapters_.push_back(std::move(adapter));
  }
  /// Removes an adapter. Throws ConfigError when there is none of that name, Error while it is
  /// merged.
  void remove(const std::string& name) {
    get(name);
    if (is_merged(name))
      throw Error("adapter \"" + name + "\" is merged; unmerge it before it is deleted");
    std::erase_if(adapters_, [&](const Adapter<S>& adapter) { return adapter.name == name; });
    std::erase(active_, name);
  }

  /// Calls an adapter by a name that is free and valid; it keeps its id, so tapes know it still.
  void rename(const std::string& name, const std::string& new_name) {
    get(name).name = new_name;
    std::replace(active_.begin(), active_.end(), name, new_name);
    std::replace(merged_.begin(), merged_.end(), name, new_name);
  }

  /// Removes all adapters, merged ones too, and enables the set. Their ids stay used up: a tape
  /// made before is refused still.
  void clear() {
    adapters_.clear();
    active_.clear();
    merged_.clear();
    enabled_ = true;
  }

  /// Makes exactly these adapters active, in this order, and with `train` trainable; all others are
  /// frozen. Throws ConfigError for an unknown or repeated name, with nothing changed.
  void set_active(const std::vector<std::string>& names, bool train = true) {
    for (std::size_t i = 0; i < names.size(); ++i) {
      get(names[i]);
      if (std::count(names.begin(), names.end(), names[i]) != 1) {
        throw ConfigError("adapter \"" + names[i] + "\" is named twice");
      }
    }
    active_ = names;
    for (Adapter<S>& adapter : adapters_) adapter.set_trainable(train && is_active(adapter.name));
  }
  /// In the order in which their terms are added.
  const std::vector<std::string>& active() const { return active_; }
  bool is_active(const std::string& name) const {
    return std::count(active_.begin(), active_.end(), name) != 0;
  }

  /// s = factor · initial scaling of one adapter. Throws ConfigError, or Error while it is merged.
  void set_scale(const std::string& name, double factor) {
    Adapter<S>& adapter = get(name);
    check_scale(factor);
    check_not_merged(name);
    adapter.scaling = factor * adapter.initial_scaling;
  }
  /// s *= factor for the active adapters. Throws ConfigError when it is not finite, Error while one
  /// of them is merged.
  void scale_layer(double factor) {
    check_scale(factor);
    for (const std::string& name : active_) check_not_merged(name);
    for (const std::string& name : active_) get(name).scaling *= factor;
  }
  /// s /= factor for the active adapters; without a factor s becomes the initial scaling again.
  /// Throws as scale_layer(), and ConfigError for 0.
  void unscale_layer(std::optional<double> factor = std::nullopt) {
    if (factor) check_scale(*factor);
    if (factor && *factor == 0.0) throw ConfigError("unscale_layer: factor is 0");
    for (const std::string& name : active_) check_not_merged(name);
    for (const std::string& name : active_) {
      Adapter<S>& adapter = get(name);
      adapter.scaling = factor ? adapter.scaling / *factor : adapter.initial_scaling;
    }
  }

  /// Whether the adapters act at all; while disabled the layer is the base layer, merged or not.
  bool enabled() const { return enabled_; }
  void set_enabled(bool on) { enabled_ = on; }

  /// The adapters that are merged, in the order of merging.
  const std::vector<std::string>& merged() const { return merged_; }
  bool is_merged(const std::string& name) const {
    return std::count(merged_.begin(), merged_.end(), name) != 0;
  }
  /// For the layer that has merged them: this sets their names alone.
  void set_merged(std::vector<std::string> names) { merged_ = std::move(names); }

 private:
  std::string known() const {
    std::string text = "; there are:";
    for (const Adapter<S>& adapter : adapters_) text += " " + adapter.name;
    return adapters_.empty() ? "; the layer has no adapters" : text;
  }
  static void check_scale(double factor) {
    if (!std::isfinite(factor)) throw ConfigError("the scale of an adapter must be finite");
  }
  void check_not_merged(const std::string& name) const {
    if (is_merged(name))
      throw Error("adapter \"" + name + "\" is merged; unmerge it before its scale is changed");
  }

  std::vector<Adapter<S>> adapters_;
  std::vector<std::string> active_, merged_;
  bool enabled_ = true;
  std::uint64_t last_id_ = 0;
};

}  // namespace LORA_NAMESPACE
