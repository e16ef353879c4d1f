// A frozen linear layer with any number of named low-rank adapters.
#pragma once

#include <lora/layers/adapter_set.hpp>
#include <lora/layers/merging.hpp>
#include <lora/layers/trained_copy.hpp>
#include <lora/weights/frozen_weight.hpp>

#include <optional>

namespace LORA_NAMESPACE {

/// y = x Wᵀ + b + Σ s_a · (drop_a(x) A_aᵀ B_aᵀ + bias_a) over the active adapters a; x (T, D), y (T, O).
///
/// W is frozen, A (R, D) and B (O, R) are trained. A layer is a value: copying it copies the adapters and shares W.
/// forward() is const and may run on several threads at once, each with a tape of its own; everything else may not.
/// Source: Hu et al., "LoRA", 2021; PEFT's lora.Linear, with these differences: unmerging is exact, an adapter cannot be
/// rescaled while it is merged, and merging while disabled takes effect when enabled again.
template <class S>
class LoRALinear {
 public:
  using Scalar = S;

  /// What backward needs of one forward. Owned by the caller and reused from step to step; x itself is handed to backward
  /// again instead of being copied.
  struct Tape {
    std::vector<AdapterTape<S>> adapters;
    std::vector<LowRank<S>> terms;
    std::size_t used = 0;  ///< how many of `adapters` the last forward used
    Index rows = -1;       ///< T of the last forward, -1 before it
    Pass pass;
    bool per_row = false;  ///< the last forward chose an adapter for each row
  };

  LoRALinear() = default;
  /// A layer without adapters. W (O, D); bias (1, O) or empty. Throws ShapeError.
  explicit LoRALinear(FrozenWeight<S> weight, Matrix<S> bias = {}) : weight_(std::move(weight)) {
    if (bias.size() == 0) return;
    expect_shape("LoRALinear", "bias", bias, 1, weight_.rows());
    bias_ = Parameter<S>::vector(std::move(bias));
  }
  /// The same from W (O, D) as it is.
  explicit LoRALinear(Matrix<S> weight, Matrix<S> bias = {})
      : LoRALinear(FrozenWeight<S>(std::move(weight)), std::move(bias)) {}

  Index in_features() const { return weight_.cols(); }
  Index out_features() const { return weight_.rows(); }
  const char* module_type() const {
    return weight_.layout() == Layout::in_out ? "Conv1D" : "Linear";
  }
  const FrozenWeight<S>& weight() const { return weight_; }
  Parameter<S>& bias() { return bias_; }
  const Parameter<S>& bias() const { return bias_; }
  AdapterSet<S>& adapters() { return adapters_; }
  const AdapterSet<S>& adapters() const { return adapters_; }

  /// Adds an adapter, neither active nor trainable. Throws ConfigError with nothing changed.
  void add_adapter(const std::string& name, const AdapterOptions& options = {}) {
    Adapter<S> adapter = make_adapter<S>(name, options);
    adapter.A = Parameter<S>(Matrix<S>(options.r, in_features()));
    adapter.B = Parameter<S>(Matrix<S>(out_features(), options.r));
    if (options.lora_bias) adapter.bias = Parameter<S>::vector(Matrix<S>::Zero(1, out_features()));
    const RandomStream a(options.seed, options.path + ".lora_A." + name + ".weight");
    const RandomStream b(options.seed, options.path + ".lora_B." + name + ".weight");
    std::visit(
        [&](const auto& variant) {
          variant.initialize(adapter, options.init, in_features(), a, b);
        },
        adapter.variant);
    adapters_.add(std::move(adapter));
  }
  void delete_adapter(const std::string& name) {
    if (adapters_.contains(name) || copies_.find(name) == nullptr) adapters_.remove(name);
    copies_.remove(name);
  }

  /// Trains a dense copy of W and b under `name`, an adapter's (modules_to_save) or "__base__" (full fine-tuning).
  void add_trained_copy(const std::string& name) {
    const Matrix<S> values = weight_.stored();
    copies_.add(name, values, {values.rows(), values.cols()}, bias_.value);
  }
  TrainedCopies<S>& trained_copies() { return copies_; }
  const TrainedCopies<S>& trained_copies() const { return copies_; }
  /// Full fine-tuning: W and b are trained from here on, until freeze_base().
  void train_base() { add_trained_copy(base_adapter_name); }
  /// Ends full fine-tuning: the trained values become the frozen W and b. Throws Error when there are none.
  void freeze_base() {
    TrainedCopy<S>* copy = copies_.find(base_adapter_name);
    if (copy == nullptr) throw Error("LoRALinear::freeze_base: the base is not being trained");
    weight_ = FrozenWeight<S>(std::move(copy->weight.value), weight_.layout());
    if (!copy->bias.empty()) bias_.value = std::move(copy->bias.value);
    copies_.remove(base_adapter_name);
  }

  /// Computes y as above; what backward needs goes to `tape` (nullptr: inference, the scratch is allocated in the call).
  /// While merged y = x (W + Σ s B A)ᵀ + b with the merged adapters alone, as in PEFT. y must not overlap x.
  /// With pass.adapter_names each row has its own adapter. Throws ShapeError, ConfigError. Allocates when T grows.
  void forward(In<S> x, Out<S> y, Tape* tape = nullptr, const Pass& pass = {}) const {
    expect_shape("LoRALinear::forward", "x", x, -1, in_features());
    expect_shape("LoRALinear::forward", "y", y, x.rows(), out_features());
    if (tape == nullptr) {
      Tape scratch;
      return forward(x, y, &scratch, pass);
    }
    tape->rows = -1;  // an error below leaves a tape that backward refuses
    tape->used = 0;
    tape->terms.clear();
    tape->pass = pass;
    tape->pass.adapter_names = {};
    tape->per_row = !pass.adapter_names.empty();
    const TrainedCopy<S>* copy = acting_copy();
    if (tape->per_row) {
      add_row_terms(x, pass, *tape);
    } else if (copy == nullptr && adapters_.enabled() && adapters_.merged().empty()) {
      for (const std::string& name : adapters_.active()) {
        if (const Adapter<S>* adapter = adapters_.find(name)) add_term(*adapter, x, 0, pass, *tape);
      }
    }
    if (copy != nullptr) {
      product<S>(x, copied_weight(copy->weight.value).transposed(), MutableView<S>(y));
    } else {
      acting_weight().multiply(x, y, tape->terms);
    }
    add_biases(y, copy, *tape);
    tape->rows = x.rows();
  }

  /// Adds the gradients of the trainable tensors to their grad, and with dx ≠ nullptr computes dL/dx (T, D), added to what dx
  /// holds with Accumulate::yes (dx then must have that shape). x is what forward was given, dy = dL/dy (T, O).
  /// With h_a = s_a drop_a(x) A_aᵀ and dh_a = s_a dy B_a:  dB = dyᵀ h,  dA = dhᵀ drop(x),  db = Σ dy,
  /// dx = dy W + Σ mask_a ∘ (dh_a A_a). W gets no gradient and W + sBA is not formed. Throws ShapeError, and Error when tape
  /// and layer do not belong together. Allocates when T grows.
  void backward(In<S> x, In<S> dy, Tape& tape, Matrix<S>* dx,
                Accumulate accumulate = Accumulate::no) {
    check_backward(x, dy, tape, dx, accumulate);
    if (dx != nullptr && accumulate == Accumulate::no) dx->resize(x.rows(), in_features());
    tape.terms.clear();
    for (std::size_t i = 0; i < tape.used; ++i) {
      AdapterTape<S>& own = tape.adapters[i];
      Adapter<S>& adapter = adapters_.by_id(own.id);
      std::visit(
          [&](const auto& variant) {
            const auto term =
                variant.template backward<S>(adapter, x, dy, adapter.dropout_of(tape.pass),
                                             tape.pass.first_row, own, dx != nullptr);
            if (term) tape.terms.push_back(*term);
          },
          adapter.variant);
    }
    TrainedCopy<S>* copy = adapters_.enabled() ? copies_.acting(adapters_.active()) : nullptr;
    Parameter<S>& bias = copy != nullptr ? copy->bias : bias_;
    if (bias.trainable) bias.grad += dy.colwise().sum();
    if (copy != nullptr && copy->weight.trainable) {
      const View<S> g(dy);
      if (weight_.layout() == Layout::out_in) {
        product<S>(g.transposed(), x, copy->weight.grad, Accumulate::yes);
      } else {
        product<S>(View<S>(x).transposed(), g, copy->weight.grad, Accumulate::yes);
      }
    }
    if (dx != nullptr) input_gradient(dy, tape, copy, *dx, accumulate);
  }

  /// W + Σ s B A and b + Σ s bias over the named adapters that the layer has (none named: the active ones), together with
  /// those merged already. Nothing is changed. Throws Error; ConfigError when an adapter has a bias and the layer has none.
  MergedWeight<S> prepare_merge(const std::vector<std::string>& asked = {},
                                SafeMerge safe = SafeMerge::no) const {
    MergedWeight<S> merged{names_to_merge(adapters_, asked), weight_, bias_.value};
    std::vector<LowRankDelta<S>> deltas;
    for (const std::string& name : merged.names) {
      const Adapter<S>& adapter = adapters_.get(name);
      deltas.push_back(
          std::visit([&](const auto& variant) { return variant.delta(adapter); }, adapter.variant));
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
  void commit_merge(MergedWeight<S> merged) {
    adapters_.set_merged(merged.names);
    merged_ = merged.names.empty() ? std::nullopt : std::optional(std::move(merged));
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
  /// The merged weight becomes the base, and every adapter is dropped; without a merge they are only dropped. Trained copies
  /// of `keep_copy` become the base too.
  void unload(const std::string& keep_copy = {}) {
    if (merged_) {
      weight_ = merged_->weight;
      if (!bias_.empty()) bias_.value = merged_->bias;
    }
    if (const TrainedCopy<S>* copy = copies_.find(keep_copy)) {
      weight_ = FrozenWeight<S>(copy->weight.value, weight_.layout());
      if (!bias_.empty()) bias_.value = copy->bias.value;
    }
    merged_.reset();
    adapters_ = {};
    copies_ = {};
    bias_.set_trainable(false);
  }

  /// fn(name, Parameter&) for b, each adapter's A, B and bias, and each trained copy, under PEFT's names.
  template <class Fn>
  void for_each_parameter(const NamePath& prefix, Fn&& fn) {
    const bool wrapped = !adapters_.empty();
    if (!bias_.empty() && copies_.find(base_adapter_name) == nullptr) {
      fn(NamePath(NamePath(prefix, wrapped ? "base_layer" : ""), "bias"), bias_);
    }
    for (Adapter<S>& adapter : adapters_.all()) {
      const NamePath a(prefix, "lora_A"), b(prefix, "lora_B");
      fn(NamePath(NamePath(a, adapter.name), "weight"), adapter.A);
      fn(NamePath(NamePath(b, adapter.name), "weight"), adapter.B);
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
  /// Elements of W, which for_each_parameter does not list.
  Index frozen_size() const { return weight_.size(); }

 private:
  const TrainedCopy<S>* acting_copy() const {
    if (!adapters_.enabled()) return nullptr;
    return copies_.acting(adapters_.active());
  }
  const FrozenWeight<S>& acting_weight() const {
    return merged_ && adapters_.enabled() ? merged_->weight : weight_;
  }
  View<S> copied_weight(const Matrix<S>& values) const {
    return weight_.layout() == Layout::out_in ? View<S>(values) : View<S>(values).transposed();
  }

  void add_term(const Adapter<S>& adapter, View<S> x, Index first_row, const Pass& pass,
                Tape& tape) const {
    if (tape.adapters.size() == tape.used) tape.adapters.emplace_back();
    AdapterTape<S>& own = tape.adapters[tape.used++];
    own.id = adapter.id;
    LowRank<S> term = std::visit(
        [&](const auto& variant) {
          return variant.template forward<S>(adapter, x, adapter.dropout_of(pass),
                                             pass.first_row + first_row, own);
        },
        adapter.variant);
    term.first_row = first_row;
    tape.terms.push_back(term);
  }

  /// One term for each run of rows with the same adapter.
  void add_row_terms(In<S> x, const Pass& pass, Tape& tape) const {
    const auto names = pass.adapter_names;
    if (static_cast<Index>(names.size()) != x.rows()) {
      throw ShapeError("LoRALinear::forward: adapter_names has " + std::to_string(names.size()) +
                       " names, expected one for each of " + std::to_string(x.rows()) + " rows");
    }
    if (pass.training)
      throw Error("LoRALinear::forward: adapter_names is for inference, not for training");
    if (!adapters_.merged().empty())
      throw Error("LoRALinear::forward: adapter_names needs unmerged adapters; unmerge first");
    for (std::size_t begin = 0, end; begin < names.size(); begin = end) {
      for (end = begin + 1; end < names.size() && names[end] == names[begin];) ++end;
      if (names[begin] == base_adapter_name) continue;
      const Index first = static_cast<Index>(begin), count = static_cast<Index>(end - begin);
      add_term(adapters_.get(names[begin]), View<S>(x).middle_rows(first, count), first, pass,
               tape);
    }
  }

  void add_biases(Out<S> y, const TrainedCopy<S>* copy, const Tape& tape) const {
    const Matrix<S>& own = copy != nullptr                  ? copy->bias.value
                           : merged_ && adapters_.enabled() ? merged_->bias
                                                            : bias_.value;
    if (own.size() != 0) y.rowwise() += own.row(0);
    for (std::size_t i = 0; i < tape.used; ++i) {
      for (const Adapter<S>& adapter : adapters_.all()) {
        if (adapter.id != tape.adapters[i].id || adapter.bias.empty()) continue;
        y.middleRows(tape.terms[i].first_row, tape.terms[i].left.rows).rowwise() +=
            (adapter.scale() * adapter.bias.value).row(0);
      }
    }
  }

  void check_backward(In<S> x, In<S> dy, const Tape& tape, const Matrix<S>* dx,
                      Accumulate accumulate) const {
    expect_shape("LoRALinear::backward", "x", x, tape.rows, in_features());
    expect_shape("LoRALinear::backward", "dy", dy, x.rows(), out_features());
    if (tape.rows < 0) throw Error("LoRALinear::backward: the tape has seen no forward");
    if (tape.per_row)
      throw Error("LoRALinear::backward: a forward with adapter_names has no backward");
    if (dx != nullptr && accumulate == Accumulate::yes)
      expect_shape("LoRALinear::backward", "dx", *dx, x.rows(), in_features());
    for (std::size_t i = 0; i < tape.used; ++i) adapters_.by_id(tape.adapters[i].id);
  }

  void input_gradient(In<S> dy, Tape& tape, const TrainedCopy<S>* copy, Matrix<S>& dx,
                      Accumulate accumulate) {
    if (copy != nullptr) {
      product<S>(dy, copied_weight(copy->weight.value), MutableView<S>(dx), accumulate);
    } else {
      acting_weight().multiply_transposed(dy, dx, accumulate, tape.terms);
    }
    for (std::size_t i = 0; i < tape.used; ++i) {
      Adapter<S>& adapter = adapters_.by_id(tape.adapters[i].id);
      const Dropout dropout = adapter.dropout_of(tape.pass);
      if (!dropout.active()) continue;
      std::visit(
          [&](const auto& variant) {
            variant.template add_input_gradient<S>(adapter, dropout, tape.pass.first_row,
                                                   tape.adapters[i], MutableView<S>(dx));
          },
          adapter.variant);
    }
  }

  FrozenWeight<S> weight_;
  Parameter<S> bias_;
  AdapterSet<S> adapters_;
  TrainedCopies<S> copies_;
  std::optional<MergedWeight<S>> merged_;
};

}  // namespace LORA_NAMESPACE
