// The named adapters of one layer: which exist, which are active or merged, and at what scale.
#pragma once

#include <lora/core/printable.hpp>
#include <lora/core/scalar.hpp>
#include <lora/layers/adapter.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

namespace lora {

/// The adapters of one layer, by name. A value. Names keep the order in which they were added or
/// activated. A function that throws has changed nothing. prepare_x() defers what x() does to the
/// commit of a Transaction.
/// Threads: several threads may read; changes need exclusive access.
template <class S>
class AdapterSet {
 public:
  bool contains(const std::string& name) const { return find(name) != nullptr; }
  bool empty() const { return adapters_.empty(); }
  /// The adapters in the order in which they were added.
  std::vector<Adapter<S>>& all() { return adapters_; }
  const std::vector<Adapter<S>>& all() const { return adapters_; }
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const Adapter<S>& adapter : adapters_) names.push_back(adapter.name);
    return names;
  }

  /// The adapter called `name`, or null. Adding or removing an adapter invalidates all pointers and
  /// references to adapters.
  const Adapter<S>* find(const std::string& name) const {
    for (const Adapter<S>& adapter : adapters_) {
      if (adapter.name == name) return &adapter;
    }
    return nullptr;
  }
  Adapter<S>* find(const std::string& name) {
    return const_cast<Adapter<S>*>(std::as_const(*this).find(name));
  }
  /// The adapter called `name`.
  /// Throws: ConfigError that lists the known names.
  Adapter<S>& get(const std::string& name) {
    Adapter<S>* adapter = find(name);
    if (adapter == nullptr) throw ConfigError("no adapter is called \"" + name + "\"" + known());
    return *adapter;
  }
  const Adapter<S>& get(const std::string& name) const {
    return const_cast<AdapterSet*>(this)->get(name);
  }
  /// The adapter that a tape was made with.
  /// Throws: Error if it has been deleted since.
  const Adapter<S>& by_id(std::uint64_t id) const {
    for (const Adapter<S>& adapter : adapters_) {
      if (adapter.id == id) return adapter;
    }
    throw Error("backward: an adapter that forward used has been deleted since" + known());
  }
  Adapter<S>& by_id(std::uint64_t id) {
    return const_cast<Adapter<S>&>(std::as_const(*this).by_id(id));
  }

  /// Adds an adapter, neither active nor trainable.
  /// Throws: ConfigError if the name is taken.
  void add(Adapter<S> adapter) {
    change_at_once([&](Transaction& change) { prepare_add(std::move(adapter), change); });
  }
  void prepare_add(Adapter<S> adapter, Transaction& change) {
    if (contains(adapter.name))
      throw ConfigError("an adapter called \"" + adapter.name + "\" is already there");
    adapter.id = last_id_ + 1;
    change.set(last_id_, adapter.id);
    change.append(adapters_, std::move(adapter));
  }
  /// Removes an adapter.
  /// Throws: ConfigError if there is none of that name; Error while it is merged.
  void remove(std::string name) {
    change_at_once([&](Transaction& change) { prepare_remove(std::move(name), change); });
  }
  void prepare_remove(std::string name, Transaction& change) {
    get(name);
    if (is_merged(name))
      throw Error("adapter \"" + name + "\" is merged; unmerge it before it is deleted");
    change.then([this, name = std::move(name)]() mutable noexcept { discard(std::move(name)); });
  }
  /// Removes the adapter of that name, if there is one, in any state.
  void discard(std::string name) noexcept {
    std::erase(active_, name);
    std::erase_if(adapters_, [&](const Adapter<S>& adapter) { return adapter.name == name; });
  }

  /// Renames an adapter; the caller has checked that the new name is free and valid. The id stays,
  /// so tapes remain usable.
  void rename(std::string name, std::string new_name) {
    change_at_once([&](Transaction& change) { prepare_rename(name, new_name, change); });
  }
  void prepare_rename(const std::string& name, const std::string& new_name, Transaction& change) {
    change.set(get(name).name, new_name);
    for (std::vector<std::string>* names : {&active_, &merged_}) {
      for (std::string& one : *names) {
        if (one == name) change.set(one, new_name);
      }
    }
  }

  /// Removes all adapters, merged ones too, and enables the set. Their ids are not reused, so older
  /// tapes are still refused.
  void clear() noexcept {
    adapters_.clear();
    active_.clear();
    merged_.clear();
    enabled_ = true;
  }

  /// Makes exactly these adapters active, in this order, and trainable if `train`. Freezes all
  /// others.
  /// Throws: ConfigError for an unknown or repeated name.
  void set_active(std::vector<std::string> names, bool train = true) {
    change_at_once([&](Transaction& change) {
      for (Adapter<S>& adapter : adapters_) {
        const bool active = std::count(names.begin(), names.end(), adapter.name) != 0;
        adapter.prepare_trainable(train && active, change);
      }
      prepare_active(std::move(names), change);
    });
  }
  /// Activates adapters without changing what is trainable.
  void prepare_active(std::vector<std::string> names, Transaction& change) {
    for (const std::string& name : names) {
      get(name);
      if (std::count(names.begin(), names.end(), name) != 1) {
        throw ConfigError("adapter \"" + name + "\" is named twice");
      }
    }
    change.set(active_, std::move(names));
  }
  /// The active adapters, in the order in which their terms are added.
  const std::vector<std::string>& active() const { return active_; }
  bool is_active(const std::string& name) const {
    return std::count(active_.begin(), active_.end(), name) != 0;
  }

  /// Sets s = factor · initial scaling of one adapter.
  /// Throws: ConfigError for an unknown name, and if the factor or s is not finite in S; Error
  ///   while the adapter is merged.
  void set_scale(std::string name, double factor) {
    change_at_once([&](Transaction& change) { prepare_scale(name, factor, change); });
  }
  void prepare_scale(const std::string& name, double factor, Transaction& change) {
    Adapter<S>& adapter = get(name);
    check_factor(factor);
    check_not_merged(name);
    change.set(adapter.scaling, checked_scale(adapter, factor * adapter.initial_scaling));
  }
  /// Multiplies s of the active adapters by `factor`.
  /// Throws: ConfigError if the factor or an s is not finite in S; Error while one of them is
  ///   merged.
  void scale_layer(double factor) {
    check_factor(factor);
    rescale([factor](const Adapter<S>& adapter) { return adapter.scaling * factor; });
  }
  /// Divides s of the active adapters by `factor`; without a factor, restores the initial scaling.
  /// Throws: as scale_layer(); ConfigError for 0.
  void unscale_layer(std::optional<double> factor = std::nullopt) {
    if (factor) check_factor(*factor);
    if (factor && *factor == 0.0) throw ConfigError("unscale_layer: factor is 0");
    rescale([factor](const Adapter<S>& adapter) {
      return factor ? adapter.scaling / *factor : adapter.initial_scaling;
    });
  }

  /// Whether the adapters act at all. While disabled, the layer acts as its base, merged or not.
  bool enabled() const { return enabled_; }
  void set_enabled(bool on) noexcept { enabled_ = on; }
  void prepare_enabled(bool on, Transaction& change) { change.set(enabled_, on); }

  /// The merged adapters, in the order of merging.
  const std::vector<std::string>& merged() const { return merged_; }
  bool is_merged(const std::string& name) const {
    return std::count(merged_.begin(), merged_.end(), name) != 0;
  }
  /// Records the names only; the layer does the merging.
  void set_merged(std::vector<std::string> names) noexcept { merged_ = std::move(names); }

 private:
  std::string known() const {
    std::string text = "; there are:";
    for (const Adapter<S>& adapter : adapters_) text += " " + adapter.name;
    return adapters_.empty() ? "; the layer has no adapters" : text;
  }
  static void check_factor(double factor) {
    if (!std::isfinite(factor)) throw ConfigError("the scale of an adapter must be finite");
  }
  /// Returns `scaling` if it is finite in the scalar type of the products.
  static double checked_scale(const Adapter<S>& adapter, double scaling) {
    if (std::abs(scaling) <= static_cast<double>(std::numeric_limits<RealOf<S>>::max()))
      return scaling;
    throw ConfigError("the scale of adapter \"" + adapter.name + "\" would be " +
                      number_text(scaling) + ", expected a number that is finite in the layer's " +
                      "type");
  }
  /// Sets the scale of every active adapter to scale_of(adapter).
  template <class Fn>
  void rescale(Fn&& scale_of) {
    change_at_once([&](Transaction& change) {
      for (const std::string& name : active_) {
        Adapter<S>& adapter = get(name);
        check_not_merged(name);
        change.set(adapter.scaling, checked_scale(adapter, scale_of(std::as_const(adapter))));
      }
    });
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

}  // namespace lora
