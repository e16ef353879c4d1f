// The state every adapted layer shares: a frozen weight, a bias, named adapters, trained copies and
// the merged weight.
#pragma once

#include <lora/core/printable.hpp>
#include <lora/layers/adapter_set.hpp>
#include <lora/layers/base_map.hpp>
#include <lora/layers/merging.hpp>
#include <lora/layers/trained_copy.hpp>
#include <lora/weights/frozen_weight.hpp>

#include <bit>
#include <memory>
#include <optional>

namespace lora {

/// Base class of the linear, embedding and convolution layers: the state they share, and the
/// operations on it by adapter name. A value: a copy has its own adapters and shares the frozen
/// weight. A moved-from layer throws Error where its weight is needed. A function that throws has
/// changed nothing. prepare_x() defers what x() does to the commit of a Transaction.
template <class S>
class AdaptedWeight {
 public:
  using Scalar = S;

  const FrozenWeight<S>& weight() const { return weight_; }
  Parameter<S>& bias() { return bias_; }
  const Parameter<S>& bias() const { return bias_; }
  AdapterSet<S>& adapters() { return adapters_; }
  const AdapterSet<S>& adapters() const { return adapters_; }
  TrainedCopies<S>& trained_copies() { return copies_; }
  const TrainedCopies<S>& trained_copies() const { return copies_; }

  /// The frozen weight as adapter variants see it. Valid until the weight is replaced.
  BaseMap<S> base_map() const { return {weight_, kind_}; }

  /// Adds an adapter that the layer's new_adapter() made and the caller may have changed. `weight`
  /// replaces the frozen weight, for initialisations that move a part of W into B A, such as PiSSA. A
  /// DoRA adapter then begins anew with the norms of that weight and its own A and B.
  /// Throws: as add_adapter() and set_weight().
  void prepare_add_adapter(Adapter<S> adapter, Transaction& change,
                           std::optional<FrozenWeight<S>> weight = std::nullopt) {
    if (weight) {
      prepare_set_weight(*weight, change);
      begin_variant(adapter, {}, BaseMap<S>{*weight, kind_});
    }
    adapters_.prepare_add(std::move(adapter), change);
  }

  /// Whether an adapter or a trained copy has this name.
  bool knows(const std::string& name) const {
    return adapters_.contains(name) || copies_.find(name) != nullptr;
  }
  /// Replaces the frozen weight by one of the same shape. Adapters and trained copies stay.
  /// Throws: ShapeError; Error while an adapter is merged or the base is being trained.
  void set_weight(FrozenWeight<S> weight) {
    change_at_once([&](Transaction& change) { prepare_set_weight(std::move(weight), change); });
  }
  void prepare_set_weight(FrozenWeight<S> weight, Transaction& change) {
    if (weight.rows() != weight_.rows() || weight.cols() != weight_.cols()) {
      throw ShapeError("set_weight: W is (" + std::to_string(weight.rows()) + ", " +
                       std::to_string(weight.cols()) + "), expected (" +
                       std::to_string(weight_.rows()) + ", " + std::to_string(weight_.cols()) +
                       ")");
    }
    if (merged_ || base_trained())
      throw Error("set_weight: the weight is merged into or trained; unmerge or freeze it first");
    prepare_weight(std::move(weight), change);
  }
  /// Removes the adapter and the trained copy of that name. An optimiser keeps its state by name:
  /// prune() it before reusing the name, or the new adapter inherits the old one's moments.
  /// Throws: ConfigError if there is neither, and for "__base__"; Error while it is merged.
  void delete_adapter(std::string name) {
    change_at_once([&](Transaction& change) { prepare_delete_adapter(name, change); });
  }
  void prepare_delete_adapter(const std::string& name, Transaction& change) {
    if (name == base_adapter_name)
      throw ConfigError(
          "delete_adapter: \"__base__\" is not an adapter; freeze_base() or unload() ends "
          "full fine-tuning");
    if (adapters_.contains(name) || copies_.find(name) == nullptr)
      adapters_.prepare_remove(name, change);
    copies_.prepare_remove(name, change);
  }
  /// Removes whatever is called `name`, if anything, in any state. Used to undo an addition.
  void discard(std::string name) noexcept {
    copies_.discard(name);
    adapters_.discard(std::move(name));
  }

  /// Renames the adapter and the trained copy `name`, which stay merged or active. Does nothing if
  /// there is neither.
  /// Throws: ConfigError if the new name is taken or not valid.
  void rename_adapter(std::string name, std::string new_name) {
    change_at_once([&](Transaction& change) { prepare_rename_adapter(name, new_name, change); });
  }
  void prepare_rename_adapter(const std::string& name, const std::string& new_name,
                              Transaction& change) {
    if (!knows(name) || name == new_name) return;
    if (name == base_adapter_name || knows(new_name)) {
      throw ConfigError("rename_adapter: " + in_quotes(name) + " cannot be called " +
                        in_quotes(new_name) + ": " +
                        (knows(new_name) ? "the name is taken" : "it is not an adapter"));
    }
    make_adapter<S>(new_name, {});  // checks the name
    if (adapters_.contains(name)) adapters_.prepare_rename(name, new_name, change);
    copies_.prepare_rename(name, new_name, change);
  }

  /// Adds a trainable dense copy of weight and bias under `name`: an adapter's name
  /// (modules_to_save) or "__base__" (full fine-tuning).
  /// Throws: ConfigError if the name is taken; Error if full fine-tuning would meet adapters.
  void add_trained_copy(std::string name) {
    change_at_once([&](Transaction& change) { prepare_add_trained_copy(std::move(name), change); });
  }
  void prepare_add_trained_copy(std::string name, Transaction& change) {
    if (name != base_adapter_name) {
      expect_frozen_base("add_trained_copy");
    } else if (!adapters_.empty() || (!copies_.empty() && !base_trained())) {
      throw Error(
          "train_base: the layer has adapters or trained copies, which would not act on a base "
          "that is trained as a whole; delete them or unload() first");
    }
    copies_.prepare_add(std::move(name), weight_.stored(), weight_shape_, bias_.value, change);
  }
  /// Starts full fine-tuning: weight and bias are trained until freeze_base(). Such a layer has no
  /// adapters.
  /// Throws: ConfigError if the base is already trained; Error if there are adapters or copies.
  void train_base() { add_trained_copy(base_adapter_name); }
  bool base_trained() const { return copies_.find(base_adapter_name) != nullptr; }
  /// Ends full fine-tuning: the trained values become the frozen ones.
  /// Throws: Error if the base is not being trained.
  void freeze_base() {
    change_at_once([&](Transaction& change) { prepare_freeze_base(change); });
  }

  /// Computes W + Σ s B A and Σ s bias over the merged adapters and then the named ones (none
  /// named: the active ones). Order matters: a DoRA adapter scales the sum so far. Changes nothing.
  /// Throws: Error if an adapter is already merged or, with SafeMerge::yes, the result is not
  ///   finite; ConfigError for an unknown name, for a lora_bias on a layer without bias, and for a
  ///   layer that cannot merge.
  /// Allocates: the result and two matrices of W's size.
  MergedWeight<S> prepare_merge(const std::vector<std::string>& asked = {},
                                SafeMerge safe = SafeMerge::no) const {
    MergedWeight<S> merged{names_to_merge(adapters_, asked), weight_, {}};
    MergeSum<S> sum;
    for (const std::string& name : merged.names) {
      if (not_mergeable_ != nullptr) throw ConfigError(std::string("merge: ") + not_mergeable_);
      const Adapter<S>& adapter = adapters_.get(name);
      if (!adapter.bias.empty() && bias_.empty()) {
        throw ConfigError("merge: adapter \"" + name +
                          "\" has a lora_bias, but the layer has no bias to merge it into");
      }
      sum.add(adapter, base_map());
    }
    if (!merged.names.empty()) merged.weight = sum.applied_to(base_map());
    merged.bias = sum.take_bias();
    check_merge(merged, bias_.value, safe);
    return merged;
  }
  /// Puts a prepared merge into effect.
  void commit_merge(MergedWeight<S> merged) noexcept {
    end_merge();
    if (merged.names.empty()) return;
    adapters_.set_merged(std::move(merged.names));
    merged_.emplace(std::move(merged));
  }
  void prepare_merge(const std::vector<std::string>& names, SafeMerge safe, Transaction& change) {
    change.then([this, merged = prepare_merge(names, safe)]() mutable noexcept {
      commit_merge(std::move(merged));
    });
  }
  /// Merges: from here on y = x (W + Σ s B A)ᵀ + b + Σ s bias, with the current b, so a bias can be
  /// trained or loaded meanwhile. W is kept.
  /// Throws: as prepare_merge().
  void merge(std::vector<std::string> names = {}, SafeMerge safe = SafeMerge::no) {
    commit_merge(prepare_merge(names, safe));
  }
  /// Restores the base weight bit for bit, from the handle that merge() kept.
  /// Throws: Error if nothing is merged.
  void unmerge() {
    if (!merged_) throw Error("unmerge: no adapter is merged");
    end_merge();
  }
  void prepare_unmerge(Transaction& change) {
    if (!merged_) throw Error("unmerge: no adapter is merged");
    change.then([this]() noexcept { end_merge(); });
  }
  /// Drops every adapter. The trained copy `keep_copy`, else the merged weight, becomes the base.
  void unload(std::string keep_copy = {}) {
    change_at_once([&](Transaction& change) { prepare_unload(keep_copy, change); });
  }

  /// Calls fn(name, Parameter&) for the bias, each adapter's tensors and each trained copy, under
  /// PEFT's names. The bias is "base_layer.bias" while the layer has an adapter, otherwise "bias".
  template <class Fn>
  void for_each_parameter(const NamePath& prefix, Fn&& fn) {
    if (!bias_.empty() && !base_trained()) {
      fn(NamePath(NamePath(prefix, adapters_.empty() ? "" : "base_layer"), "bias"), bias_);
    }
    const bool embedding = kind_ == LayerKind::embedding;
    const NamePath a(prefix, embedding ? "lora_embedding_A" : "lora_A"),
        b(prefix, embedding ? "lora_embedding_B" : "lora_B");
    const std::string_view last = embedding ? "" : "weight";
    for (Adapter<S>& adapter : adapters_.all()) {
      fn(NamePath(NamePath(a, adapter.name), last), adapter.A);
      fn(NamePath(NamePath(b, adapter.name), last), adapter.B);
      if (!adapter.bias.empty()) fn(NamePath(NamePath(b, adapter.name), "bias"), adapter.bias);
      for (OwnTensor<S>& own : adapter.own) {
        const NamePath kind(prefix, own.name), named(kind, adapter.name);
        fn(NamePath(named, "weight"), own.parameter);
      }
    }
    for (TrainedCopy<S>& copy : copies_.all()) {
      const bool base = copy.name == base_adapter_name;
      const NamePath saved(prefix, base ? "" : "modules_to_save");
      const NamePath owner(saved, base ? std::string_view() : std::string_view(copy.name));
      fn(NamePath(owner, "weight"), copy.weight);
      if (!copy.bias.empty()) fn(NamePath(owner, "bias"), copy.bias);
    }
  }
  /// Elements of the frozen weight, which for_each_parameter() does not list.
  Index frozen_size() const { return base_trained() ? 0 : weight_.size(); }
  /// The weight's shape in PyTorch.
  const std::vector<Index>& weight_shape() const { return weight_shape_; }

 protected:
  AdaptedWeight() = default;
  /// `groups`: cuts the rows of W (O, D) into that many separate maps, for a grouped convolution.
  AdaptedWeight(LayerKind kind, FrozenWeight<S> weight, std::vector<Index> weight_shape,
                Matrix<S> bias, Index groups = 1)
      : weight_(std::move(weight)),
        groups_(cut_into_groups(weight_, groups)),
        weight_shape_(std::move(weight_shape)),
        kind_(kind) {
    if (bias.size() != 0) bias_ = Parameter<S>::vector(std::move(bias));
  }
  ~AdaptedWeight() = default;
  AdaptedWeight(const AdaptedWeight&) = default;
  AdaptedWeight(AdaptedWeight&&) noexcept = default;
  AdaptedWeight& operator=(const AdaptedWeight&) = default;
  AdaptedWeight& operator=(AdaptedWeight&&) noexcept = default;

  void prepare_freeze_base(Transaction& change) {
    if (!base_trained()) throw Error("freeze_base: the base is not being trained");
    copies_.prepare_remove(base_adapter_name, change);
    prepare_base(nullptr, copies_.find(base_adapter_name), change);
  }
  void prepare_unload(const std::string& keep_copy, Transaction& change) {
    if (!bias_.empty()) bias_.prepare_trainable(false, change);
    change.then([this]() noexcept {
      end_merge();
      adapters_.clear();
      copies_.clear();
    });
    prepare_base(merged_ ? &*merged_ : nullptr, copies_.find(keep_copy), change);
  }

  /// Makes merging fail with this reason.
  void refuse_merging(const char* reason) { not_mergeable_ = reason; }
  /// Throws Error during full fine-tuning: an adapter added now would neither act nor be trained.
  void expect_frozen_base(const char* where) const {
    if (!base_trained()) return;
    throw Error(
        std::string(where) +
        ": the base of this layer is being trained (train_base), and adapters do not act on "
        "it; call freeze_base() first");
  }

  bool merged_acts() const { return merged_.has_value() && adapters_.enabled(); }
  const FrozenWeight<S>& acting_weight() const { return merged_acts() ? merged_->weight : weight_; }
  /// Group g of the weight; with one group, the acting weight.
  const FrozenWeight<S>& group_weight(Index g) const {
    return groups_.empty() ? acting_weight() : groups_[static_cast<std::size_t>(g)];
  }
  const TrainedCopy<S>* acting_copy() const {
    return adapters_.enabled() ? copies_.acting() : copies_.find(base_adapter_name);
  }
  TrainedCopy<S>* acting_copy() {
    return const_cast<TrainedCopy<S>*>(std::as_const(*this).acting_copy());
  }
  /// Whether the adapters act one by one: not merged and not replaced by a trained copy.
  bool adapters_act() const {
    return adapters_.enabled() && adapters_.merged().empty() && acting_copy() == nullptr;
  }
  /// The copy that acts on a row with the adapter `name`; null: the frozen weight acts.
  const TrainedCopy<S>* copy_of_row(const std::string& name) const {
    const TrainedCopy<S>* own = adapters_.enabled() ? copies_.find(name) : nullptr;
    return own != nullptr ? own : copies_.find(base_adapter_name);
  }
  /// Adds to each row of y the bias of `copy` or, if that is null, the layer's bias and the merged
  /// biases.
  void add_bias(Out<S> y, const TrainedCopy<S>* copy) const {
    const Matrix<S>& own = copy != nullptr ? copy->bias.value : bias_.value;
    if (own.size() == 0) return;
    if (copy != nullptr || !merged_acts() || merged_->bias.size() == 0) {
      y.rowwise() += own.row(0);
      return;
    }
    // unload() sums these two first as well.
    for (Index t = 0; t < y.rows(); ++t) y.row(t) += own.row(0) + merged_->bias.row(0);
  }

  /// A hash of the layer's identity and of what acts in it: a copy, merged adapters, or adapters
  /// one by one at their scales. It ignores values, so an optimiser step keeps it. A copy of the
  /// layer starts with the same hash.
  std::uint64_t acting_state() const {
    std::uint64_t state = mix64(reinterpret_cast<std::uintptr_t>(identity_.get()));
    const auto add = [&state](std::uint64_t part) { state = mix64(state ^ part); };
    add(weights_before_);
    if (const TrainedCopy<S>* copy = acting_copy()) {
      add(1);
      add(copy->id);
    } else if (merged_acts()) {
      add(2);
      for (const std::string& name : adapters_.merged()) add(adapters_.get(name).id);
    } else if (adapters_act()) {
      for (const std::string& name : adapters_.active()) {
        const Adapter<S>& adapter = adapters_.get(name);
        add(3);
        add(adapter.id);
        add(adapter.dropout_stream);
        add(std::bit_cast<std::uint64_t>(adapter.scaling));
      }
    }
    return state;
  }

 private:
  void end_merge() noexcept {
    adapters_.set_merged({});
    merged_.reset();
  }
  /// Prepares to replace weight and bias by those of `copy`, else by `merged`, else keeps them.
  void prepare_base(const MergedWeight<S>* merged, const TrainedCopy<S>* copy,
                    Transaction& change) {
    if (merged == nullptr && copy == nullptr) return;
    prepare_weight(
        copy != nullptr ? FrozenWeight<S>(copy->weight.value, weight_.layout()) : merged->weight,
        change);
    if (copy != nullptr && !bias_.empty()) {
      change.set(bias_.value, copy->bias.value);
    } else if (copy == nullptr && merged->bias.size() != 0) {
      change.set(bias_.value, bias_.value + merged->bias);
    }
  }

  void prepare_weight(FrozenWeight<S> weight, Transaction& change) {
    for (Adapter<S>& adapter : adapters_.all()) {
      adapter.if_scales_output([&](const auto& one) {
        change.set(adapter.of_weight, one.remember(BaseMap<S>{weight, kind_}));
      });
    }
    if (!groups_.empty())
      change.set(groups_, cut_into_groups(weight, static_cast<Index>(groups_.size())));
    change.set(weight_, std::move(weight));
    change.set(weights_before_, weights_before_ + 1);
  }

  FrozenWeight<S> weight_;
  std::vector<FrozenWeight<S>> groups_;  ///< empty for one group
  std::vector<Index> weight_shape_;
  Parameter<S> bias_;
  AdapterSet<S> adapters_;
  TrainedCopies<S> copies_;
  std::optional<MergedWeight<S>> merged_;
  std::shared_ptr<const char> identity_ = std::make_shared<const char>();  ///< shared by copies
  std::uint64_t weights_before_ = 0;  ///< how often the frozen weight was replaced
  LayerKind kind_ = LayerKind::linear;
  const char* not_mergeable_ = nullptr;
};

}  // namespace lora
