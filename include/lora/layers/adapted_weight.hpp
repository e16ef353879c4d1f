// What every adapted layer is made of: a frozen weight, a bias, named adapters, trained copies, and the merged state.
#pragma once

#include <lora/layers/adapter_set.hpp>
#include <lora/layers/merging.hpp>
#include <lora/layers/trained_copy.hpp>
#include <lora/weights/frozen_weight.hpp>

#include <optional>

namespace LORA_NAMESPACE {

/// The state that linear, embedding and convolution layers share, and what can be done with it by an adapter's name.
/// A value: copying it copies the adapters and shares the frozen weight. Not for use by itself.
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

  /// Removes the adapter and the trained copy of that name. Throws ConfigError when there is neither, Error while merged.
  void delete_adapter(const std::string& name) {
    if (adapters_.contains(name) || copies_.find(name) == nullptr) adapters_.remove(name);
    copies_.remove(name);
  }

  /// Trains a dense copy of weight and bias under `name`, an adapter's (modules_to_save) or "__base__" (full fine-tuning).
  /// Throws ConfigError when the name is taken.
  void add_trained_copy(const std::string& name) {
    copies_.add(name, weight_.stored(), weight_shape_, bias_.value);
  }
  /// Full fine-tuning: weight and bias are trained from here on, until freeze_base(). Throws ConfigError when they are already.
  void train_base() { add_trained_copy(base_adapter_name); }
  /// Ends full fine-tuning: the trained values become the frozen ones. Throws Error when the base is not being trained or
  /// adapters are merged into what it was.
  void freeze_base() {
    if (copies_.find(base_adapter_name) == nullptr)
      throw Error("freeze_base: the base is not being trained");
    if (merged_) throw Error("freeze_base: adapters are merged; unmerge first");
    adopt(base_adapter_name);
    copies_.remove(base_adapter_name);
  }

  /// W + Σ s B A and b + Σ s bias over the named adapters that the layer has (none named: the active ones), together with
  /// those merged already. Nothing is changed. Throws Error when an adapter is merged already or, with SafeMerge::yes, when
  /// the result is not finite; ConfigError when an adapter has a bias and the layer has none, or cannot be merged.
  MergedWeight<S> prepare_merge(const std::vector<std::string>& asked = {},
                                SafeMerge safe = SafeMerge::no) const {
    MergedWeight<S> merged{names_to_merge(adapters_, asked), weight_, bias_.value};
    std::vector<LowRankDelta<S>> deltas;
    for (const std::string& name : merged.names) {
      if (not_mergeable_ != nullptr) throw ConfigError(std::string("merge: ") + not_mergeable_);
      const Adapter<S>& adapter = adapters_.get(name);
      deltas.push_back(delta(adapter));
      if (adapter.bias.empty()) continue;
      if (bias_.empty()) {
        throw ConfigError("merge: adapter \"" + name +
                          "\" has a lora_bias, but the layer has no bias to merge it into");
      }
      merged.bias += adapter.scale() * adapter.bias.value;
    }
    if (!deltas.empty()) merged.weight = weight_.plus(deltas);
    check_merge(merged, safe);
    return merged;
  }
  /// Lets a prepared merge act.
  void commit_merge(MergedWeight<S> merged) {
    adapters_.set_merged(merged.names);
    if (merged.names.empty()) {
      merged_.reset();
    } else {
      merged_ = std::move(merged);
    }
  }
  void merge(const std::vector<std::string>& names = {}, SafeMerge safe = SafeMerge::no) {
    commit_merge(prepare_merge(names, safe));
  }
  /// Back to the base weight, bit for bit: its handle was kept. Throws Error when nothing is merged.
  void unmerge() {
    if (!merged_) throw Error("unmerge: no adapter is merged");
    merged_.reset();
    adapters_.set_merged({});
  }
  /// Drops every adapter. What is merged, and the trained copy called `keep_copy`, become the base.
  void unload(const std::string& keep_copy = {}) {
    if (merged_) {
      weight_ = merged_->weight;
      if (!bias_.empty()) bias_.value = merged_->bias;
    }
    adopt(keep_copy);
    merged_.reset();
    adapters_.clear();
    copies_ = {};
    if (!bias_.empty()) bias_.set_trainable(false);
  }

  /// fn(name, Parameter&) for the bias, each adapter's A, B and bias, and each trained copy, under PEFT's names.
  template <class Fn>
  void for_each_parameter(const NamePath& prefix, Fn&& fn) {
    if (!bias_.empty() && copies_.find(base_adapter_name) == nullptr) {
      fn(NamePath(NamePath(prefix, adapters_.empty() ? "" : "base_layer"), "bias"), bias_);
    }
    const bool embedding = kind_ == Kind::embedding;
    const NamePath a(prefix, embedding ? "lora_embedding_A" : "lora_A"),
        b(prefix, embedding ? "lora_embedding_B" : "lora_B");
    const std::string_view last = embedding ? "" : "weight";
    for (Adapter<S>& adapter : adapters_.all()) {
      fn(NamePath(NamePath(a, adapter.name), last), adapter.A);
      fn(NamePath(NamePath(b, adapter.name), last), adapter.B);
      if (!adapter.bias.empty()) fn(NamePath(NamePath(b, adapter.name), "bias"), adapter.bias);
    }
    for (TrainedCopy<S>& copy : copies_.all()) {
      const bool base = copy.name == base_adapter_name;
      const NamePath saved(prefix, base ? "" : "modules_to_save");
      const NamePath owner(saved, base ? std::string_view() : std::string_view(copy.name));
      fn(NamePath(owner, "weight"), copy.weight);
      if (!copy.bias.empty()) fn(NamePath(owner, "bias"), copy.bias);
    }
  }
  /// Elements of the frozen weight, which for_each_parameter does not list.
  Index frozen_size() const {
    return copies_.find(base_adapter_name) == nullptr ? weight_.size() : 0;
  }
  /// PyTorch's shape of the weight.
  const std::vector<Index>& weight_shape() const { return weight_shape_; }

 protected:
  /// An embedding's A and B stand the other way round: its weight (V, D) changes by s (B A)ᵀ.
  enum class Kind { linear, embedding };

  AdaptedWeight() = default;
  AdaptedWeight(Kind kind, FrozenWeight<S> weight, std::vector<Index> weight_shape, Matrix<S> bias)
      : weight_(std::move(weight)), weight_shape_(std::move(weight_shape)), kind_(kind) {
    if (bias.size() != 0) bias_ = Parameter<S>::vector(std::move(bias));
  }
  ~AdaptedWeight() = default;
  AdaptedWeight(const AdaptedWeight&) = default;
  AdaptedWeight(AdaptedWeight&&) noexcept = default;
  AdaptedWeight& operator=(const AdaptedWeight&) = default;
  AdaptedWeight& operator=(AdaptedWeight&&) noexcept = default;

  /// The reason, when merging is not possible for this layer.
  void refuse_merging(const char* reason) { not_mergeable_ = reason; }

  bool merged_acts() const { return merged_.has_value() && adapters_.enabled(); }
  const FrozenWeight<S>& acting_weight() const { return merged_acts() ? merged_->weight : weight_; }
  const TrainedCopy<S>* acting_copy() const {
    return adapters_.enabled() ? copies_.acting() : copies_.find(base_adapter_name);
  }
  TrainedCopy<S>* acting_copy() {
    return const_cast<TrainedCopy<S>*>(std::as_const(*this).acting_copy());
  }
  /// The adapters act on this pass one by one, not merged and not replaced by a trained copy.
  bool adapters_act() const {
    return adapters_.enabled() && adapters_.merged().empty() && acting_copy() == nullptr;
  }
  /// Throws Error unless `used` tapes of `rows` rows are those of this layer's adapters as they act now: not of adapters that
  /// were deleted, merged or disabled since, nor of another layer.
  void check_tapes(const char* where, const std::vector<AdapterTape<S>>& tapes, std::size_t used,
                   Index rows) const {
    for (std::size_t i = 0; i < used; ++i) {
      const Adapter<S>& adapter = adapters_.by_id(tapes[i].id);
      if (tapes[i].h.rows() == rows && tapes[i].h.cols() == adapter.r) continue;
      throw Error(std::string(where) + ": the tape was made by another layer");
    }
    if (used == 0 || adapters_act()) return;
    throw Error(std::string(where) +
                ": the adapters were merged, disabled or replaced by a trained copy since forward");
  }
  const Matrix<S>& acting_bias() const {
    if (const TrainedCopy<S>* copy = acting_copy()) return copy->bias.value;
    return merged_acts() ? merged_->bias : bias_.value;
  }

 private:
  LowRankDelta<S> delta(const Adapter<S>& adapter) const {
    if (kind_ == Kind::embedding) {
      return {adapter.scale(), View<S>(adapter.A.value).transposed(),
              View<S>(adapter.B.value).transposed()};
    }
    return std::visit([&](const auto& variant) { return variant.delta(adapter); }, adapter.variant);
  }
  void adopt(const std::string& copy_name) {
    const TrainedCopy<S>* copy = copies_.find(copy_name);
    if (copy == nullptr) return;
    weight_ = FrozenWeight<S>(copy->weight.value, weight_.layout());
    if (!bias_.empty()) bias_.value = copy->bias.value;
  }

  FrozenWeight<S> weight_;
  std::vector<Index> weight_shape_;
  Parameter<S> bias_;
  AdapterSet<S> adapters_;
  TrainedCopies<S> copies_;
  std::optional<MergedWeight<S>> merged_;
  Kind kind_ = Kind::linear;
  const char* not_mergeable_ = nullptr;
};

}  // namespace LORA_NAMESPACE
