// A frozen linear layer with any number of named low-rank adapters.
#pragma once

#include <lora/core/overlap.hpp>
#include <lora/layers/adapted_weight.hpp>
#include <lora/layers/output_scaling.hpp>

namespace lora {

/// Computes y = x Wᵀ + b + Σ s_a · (drop_a(x) A_aᵀ B_aᵀ + bias_a) over the active adapters a, with
/// x (T, D) and y (T, O). W (O, D) is frozen; A (R, D) and B (O, R) are trained. A DoRA adapter
/// also scales y. A layer is a value: a copy has its own adapters and shares W.
///
///   LoRALinear<float> layer(FrozenWeight<float>::pack(W), b);
///   layer.add_adapter("default", {.r = 8, .lora_alpha = 16});
///   layer.adapters().set_active({"default"});
///   LoRALinear<float>::Tape tape;
///   layer.forward(x, y, &tape);        // y (T, O)
///   layer.backward(x, dy, tape, &dx);  // adds to A.grad and B.grad, sets dx (T, D)
///
/// Threads: several threads may call forward(), each with its own tape. Other calls need exclusive
///   access.
/// Source: Hu et al., "LoRA", 2021; PEFT's lora.Linear, but unmerging is exact, a merged adapter
///   cannot be rescaled or deleted, and a merged layer stays merged when it is disabled and enabled
///   again.
template <class S>
class LoRALinear : public AdaptedWeight<S> {
  using Base = AdaptedWeight<S>;

 public:
  /// What backward needs from one forward of T rows. It does not copy x: backward takes x again.
  struct Tape : LayerTape<S> {
    std::vector<LowRank<S>> terms;
    Pass pass;
    bool per_row = false;  ///< the last forward chose an adapter for each row
  };

  LoRALinear() = default;
  /// Creates a layer without adapters from W (O, D) and bias (1, O) or empty.
  /// Throws: ShapeError.
  explicit LoRALinear(FrozenWeight<S> weight, Matrix<S> bias = {})
      : Base(LayerKind::linear, weight, shape_of(weight), check_bias(weight, std::move(bias))) {}
  /// Creates a layer from W (O, D), stored as it is.
  explicit LoRALinear(Matrix<S> weight, Matrix<S> bias = {})
      : LoRALinear(FrozenWeight<S>(std::move(weight)), std::move(bias)) {}

  Index in_features() const { return this->weight().cols(); }
  Index out_features() const { return this->weight().rows(); }
  const char* module_type() const {
    return this->weight().layout() == Layout::in_out ? "Conv1D" : "Linear";
  }

  /// Adds an adapter, neither active nor trainable. As in PEFT, the first adapter renames the
  /// layer's bias from "bias" to "base_layer.bias". To an optimiser that is a new tensor; prune()
  /// drops the state of the old name.
  /// Throws: ConfigError; Error during full fine-tuning. Changes nothing if it throws.
  void add_adapter(std::string name, const AdapterOptions& options = {}) {
    this->adapters().add(new_adapter(name, options));
  }
  /// Creates the adapter that add_adapter() would add, without adding it.
  /// Throws: as add_adapter(), except for a name that is taken.
  Adapter<S> new_adapter(const std::string& name, const AdapterOptions& options = {}) const {
    this->expect_frozen_base("LoRALinear::add_adapter");
    Adapter<S> adapter = make_adapter<S>(name, options);
    adapter.A = Parameter<S>(Matrix<S>(options.r, in_features()));
    adapter.B = Parameter<S>(Matrix<S>(out_features(), options.r));
    if (options.lora_bias) adapter.bias = Parameter<S>::vector(Matrix<S>::Zero(1, out_features()));
    initialize_linear_adapter(adapter, options, in_features());
    begin_variant(adapter, options, this->base_map());
    return adapter;
  }

  /// Computes y (T, O) from x (T, D) and keeps in `tape` what backward needs; nullptr: inference.
  /// While adapters are merged, only those act, as in PEFT: y = x (W + Σ s B A)ᵀ + b. y must not
  /// overlap x. With pass.adapter_names, each row has its own adapter or trained copy (see Pass);
  /// without copies, W is still read only once for all rows.
  /// Throws: ShapeError; Error for overlapping matrices, and for adapter_names in training, while
  ///   adapters are merged.
  /// Allocates: when T changes; without a tape, the workspace.
  void forward(In<S> x, Out<S> y, Tape* tape = nullptr, const Pass& pass = {}) const {
    if (tape != nullptr) tape->rows = -1;  // an error leaves a tape that backward refuses
    expect_shape("LoRALinear::forward", "x", x, -1, in_features());
    expect_shape("LoRALinear::forward", "y", y, x.rows(), out_features());
    expect_apart<S>("LoRALinear::forward", "y", y, "x", x);
    if (tape != nullptr) return forward(x, y, *tape, pass, true);
    Tape scratch;
    forward(x, y, scratch, pass, false);
  }

  /// Adds the gradients of the trainable tensors to their grad. If dx is not null, computes
  /// dx = dL/dx (T, D) or, with Accumulate::yes, adds to dx, which must have that shape. x is the
  /// input of forward and dy is dL/dy (T, O); dx must overlap neither. With
  /// h_a = s_a drop_a(x) A_aᵀ and dh_a = s_a dy B_a:
  ///   dB = dyᵀ h,  dA = dhᵀ drop(x),  db = Σ dy,  dx = dy W + Σ mask_a ∘ (dh_a A_a).
  /// Computes no gradient of W and never forms W + s B A. A tape with a DoRA adapter serves one
  /// backward.
  /// Throws: ShapeError; Error for overlapping matrices, and if tape and layer do not match: the
  ///   tape is from another layer (a copy of the layer is allowed), or what acts has changed since
  ///   forward.
  /// Allocates: when T changes.
  void backward(In<S> x, In<S> dy, Tape& tape, Matrix<S>* dx,
                Accumulate accumulate = Accumulate::no) {
    check_backward(x, dy, tape, dx, accumulate);
    if (dx != nullptr && accumulate == Accumulate::no) set_size(*dx, x.rows(), in_features());
    prepare_backward(tape, dx != nullptr);
    tape.terms.clear();
    const View<S> base_gradient = scaled_gradients<S>(this->adapters(), tape, 0, dy, tape.pass);
    for (std::size_t i = 0; i < tape.used; ++i)
      adapter_backward(x, dx != nullptr, tape.adapters[i], tape);
    TrainedCopy<S>* copy = this->acting_copy();
    Parameter<S>& bias = copy != nullptr ? copy->bias : this->bias();
    if (bias.trainable && dy.rows() > 0) bias.grad += dy.colwise().sum();
    if (copy != nullptr && copy->weight.trainable) add_weight_gradient(x, dy, copy->weight);
    if (dx != nullptr) input_gradient(base_gradient, tape, *dx, accumulate);
  }

  /// Throws the Error that backward() would throw for this tape. A model checks all its layers
  /// before it runs the first.
  void check_tape(const Tape& tape) const {
    tape.expect_forward("LoRALinear::backward");
    if (tape.per_row)
      throw Error("LoRALinear::backward: a forward with adapter_names has no backward");
    tape.expect_current("LoRALinear::backward", this->acting_state());
  }

  /// Allocates what backward() needs except dx, so that backward() cannot run out of memory between
  /// two gradients. A model prepares all its layers before it runs the first. The tape must be one
  /// that check_tape() accepts.
  void prepare_backward(Tape& tape, bool need_dx) {
    tape.terms.reserve(tape.used);
    for (std::size_t i = 0; i < tape.used; ++i) {
      AdapterTape<S>& own = tape.adapters[i];
      const Adapter<S>& adapter = this->adapters().by_id(own.id);
      std::visit(
          [&](const auto& variant) {
            variant.template prepare_backward<S>(adapter, tape.rows, out_features(), in_features(),
                                                 adapter.dropout_of(tape.pass), own, need_dx);
          },
          adapter.variant);
    }
    if (need_dx && this->acting_copy() == nullptr)
      this->acting_weight().prepare_multiply_transposed(tape.rows);
  }

 private:
  static std::vector<Index> shape_of(const FrozenWeight<S>& weight) {
    if (weight.layout() == Layout::in_out) return {weight.cols(), weight.rows()};
    return {weight.rows(), weight.cols()};
  }
  static Matrix<S> check_bias(const FrozenWeight<S>& weight, Matrix<S> bias) {
    if (bias.size() != 0) expect_shape("LoRALinear", "bias", bias, 1, weight.rows());
    return bias;
  }
  /// A trained copy's weight as (O, D).
  View<S> copied_weight(const TrainedCopy<S>& copy) const {
    const View<S> values(copy.weight.value);
    return this->weight().layout() == Layout::out_in ? values : values.transposed();
  }

  /// Runs forward; `keep`: a backward will read the tape.
  void forward(In<S> x, Out<S> y, Tape& tape, const Pass& pass, bool keep) const {
    start(tape, pass);
    if (tape.per_row) {
      forward_rows(x, y, pass, tape);
    } else {
      bool based = false;
      if (this->adapters_act()) {
        for (const std::string& name : this->adapters().active()) {
          const Adapter<S>& adapter = this->adapters().get(name);
          AdapterTape<S>& own = tape.next(adapter);
          tape.terms.push_back(term_of(adapter, x, 0, pass, own));
          if (!adapter.scales_output()) continue;
          add_terms(x, y, nullptr, based, tape);
          based = true;
          scale_output<S>(adapter, this->base_map(), x, pass, keep, own, y);
        }
      }
      apply(x, y, this->acting_copy(), based, tape);
    }
    tape.rows = x.rows();
  }

  /// Adds the gradients of one adapter's tensors, and appends its term of dx to the tape unless the
  /// term goes through dropout.
  void adapter_backward(In<S> x, bool need_dx, AdapterTape<S>& own, Tape& tape) {
    Adapter<S>& adapter = this->adapters().by_id(own.id);
    const Dropout dropout = adapter.dropout_of(tape.pass);
    const auto term = std::visit(
        [&](const auto& variant) {
          return variant.template backward<S>(adapter, x, own.g, dropout, tape.pass.first_row, own,
                                              need_dx);
        },
        adapter.variant);
    if (term) tape.terms.push_back(*term);
  }

  void start(Tape& tape, const Pass& pass) const {
    tape.begin(this->acting_state());
    tape.terms.clear();
    tape.pass = pass;
    tape.pass.adapter_names = {};  // the caller's names may be gone by backward
    tape.per_row = !pass.adapter_names.empty();
  }

  /// The adapter's term for x, whose first row is row `first_row` of forward's input.
  static LowRank<S> term_of(const Adapter<S>& adapter, View<S> x, Index first_row, const Pass& pass,
                            AdapterTape<S>& own) {
    return std::visit(
        [&](const auto& variant) {
          return variant.template forward<S>(adapter, x, adapter.dropout_of(pass),
                                             pass.first_row + first_row, own);
        },
        adapter.variant);
  }

  /// Computes y = x Wᵀ + b + the tape's terms and their biases. W and b are those of `copy` unless
  /// it is null. `based`: y already holds x Wᵀ and earlier terms.
  void apply(In<S> x, Out<S> y, const TrainedCopy<S>* copy, bool based, Tape& tape) const {
    add_products(x, y, copy, based, tape);
    if (tape.per_row) scale_rows(y, tape);
    this->add_bias(y, copy);
    add_adapter_biases(y, tape);
  }
  /// Lets each term's adapter scale the rows of y that have the term.
  void scale_rows(Out<S> y, Tape& tape) const {
    const std::size_t first = tape.used - tape.terms.size();
    for (std::size_t i = 0; i < tape.terms.size(); ++i) {
      AdapterTape<S>& own = tape.adapters[first + i];
      const LowRank<S>& term = tape.terms[i];
      const Adapter<S>& adapter = this->adapters().by_id(own.id);
      adapter.if_scales_output([&](const auto& variant) {
        variant.start(adapter, this->base_map(), 0, false, false, own.output);
        variant.finish(own.output, 0, false, false,
                       MutableView<S>(y).middle_rows(term.first_row, term.left.rows));
      });
    }
  }
  /// Does the same without b, then clears the tape's terms.
  void add_terms(In<S> x, Out<S> y, const TrainedCopy<S>* copy, bool based, Tape& tape) const {
    add_products(x, y, copy, based, tape);
    add_adapter_biases(y, tape);
    tape.terms.clear();
  }
  void add_products(In<S> x, Out<S> y, const TrainedCopy<S>* copy, bool based,
                    const Tape& tape) const {
    if (based) {
      for (const LowRank<S>& term : tape.terms)
        product<S>(term.left, term.right, MutableView<S>(y), Accumulate::yes);
    } else if (copy != nullptr) {
      product<S>(x, copied_weight(*copy).transposed(), MutableView<S>(y));
    } else {
      this->acting_weight().multiply(x, y, tape.terms);
    }
  }
  void add_adapter_biases(Out<S> y, const Tape& tape) const {
    const std::size_t first = tape.used - tape.terms.size();
    for (std::size_t i = 0; i < tape.terms.size(); ++i) {
      const Adapter<S>& adapter = this->adapters().by_id(tape.adapters[first + i].id);
      if (adapter.bias.empty()) continue;
      const LowRank<S>& term = tape.terms[i];
      for (Index t = 0; t < term.left.rows; ++t)
        y.row(term.first_row + t) += adapter.scale() * adapter.bias.value;
    }
  }

  /// Multiplies runs of rows with the same weight together; without trained copies, that is one
  /// run.
  void forward_rows(In<S> x, Out<S> y, const Pass& pass, Tape& tape) const {
    check_rows(x.rows(), pass);
    const auto copy_of = [&](Index t) {
      return this->copy_of_row(pass.adapter_names[static_cast<std::size_t>(t)]);
    };
    for (Index begin = 0, end; begin < x.rows(); begin = end) {
      const TrainedCopy<S>* copy = copy_of(begin);
      for (end = begin + 1; end < x.rows() && copy_of(end) == copy;) ++end;
      tape.terms.clear();
      if (copy == nullptr && this->adapters().enabled()) add_row_terms(x, begin, end, pass, tape);
      apply(x.middleRows(begin, end - begin), y.middleRows(begin, end - begin), copy, false, tape);
    }
  }

  void check_rows(Index rows, const Pass& pass) const {
    if (static_cast<Index>(pass.adapter_names.size()) != rows) {
      throw ShapeError("LoRALinear::forward: adapter_names has " +
                       std::to_string(pass.adapter_names.size()) +
                       " names, expected one for each of " + std::to_string(rows) + " rows");
    }
    if (pass.training)
      throw Error("LoRALinear::forward: adapter_names is for inference, not for training");
    if (this->adapters().enabled() && !this->adapters().merged().empty()) {
      throw Error(
          "LoRALinear::forward: adapter_names needs adapters that are not merged; unmerge first");
    }
  }

  /// Appends one term for each run of rows in [first, last) with the same adapter. Threads share
  /// short runs among them, because a short run has too little work to split.
  void add_row_terms(View<S> x, Index first, Index last, const Pass& pass, Tape& tape) const {
    const auto name_of = [&](Index t) -> const std::string& {
      return pass.adapter_names[static_cast<std::size_t>(t)];
    };
    const std::size_t used = tape.used;
    Index longest = 0;
    for (Index begin = first, end; begin < last; begin = end) {
      for (end = begin + 1; end < last && name_of(end) == name_of(begin);) ++end;
      const Adapter<S>* adapter = this->adapters().find(name_of(begin));
      if (adapter == nullptr) continue;
      tape.next(*adapter);
      LowRank<S>& term = tape.terms.emplace_back();
      term.first_row = begin - first;
      term.left.rows = end - begin;
      longest = std::max(longest, end - begin);
    }
    const Index count = static_cast<Index>(tape.terms.size());
    parallel_for(count, longest <= kernels::few_rows ? 1 : count, [&](Index from, Index to) {
      for (std::size_t i = static_cast<std::size_t>(from); i < static_cast<std::size_t>(to); ++i) {
        LowRank<S>& term = tape.terms[i];
        AdapterTape<S>& own = tape.adapters[used + i];
        const Index row = term.first_row;
        term = term_of(this->adapters().by_id(own.id), x.middle_rows(first + row, term.left.rows),
                       first + row, pass, own);
        term.first_row = row;
      }
    });
  }

  void check_backward(In<S> x, In<S> dy, const Tape& tape, const Matrix<S>* dx,
                      Accumulate accumulate) const {
    check_tape(tape);
    expect_shape("LoRALinear::backward", "x", x, tape.rows, in_features());
    expect_shape("LoRALinear::backward", "dy", dy, x.rows(), out_features());
    if (dx == nullptr) return;
    if (accumulate == Accumulate::yes)
      expect_shape("LoRALinear::backward", "dx", *dx, x.rows(), in_features());
    expect_apart<S>("LoRALinear::backward", "dx", *dx, "x", x);
    expect_apart<S>("LoRALinear::backward", "dx", *dx, "dy", dy);
  }

  /// Computes dW += dyᵀ x in the checkpoint's orientation.
  void add_weight_gradient(In<S> x, In<S> dy, Parameter<S>& weight) const {
    if (this->weight().layout() == Layout::out_in) {
      product<S>(View<S>(dy).transposed(), x, weight.grad, Accumulate::yes);
    } else {
      product<S>(View<S>(x).transposed(), dy, weight.grad, Accumulate::yes);
    }
  }

  void input_gradient(const View<S>& dy, Tape& tape, Matrix<S>& dx, Accumulate accumulate) {
    if (const TrainedCopy<S>* copy = this->acting_copy()) {
      product<S>(dy, copied_weight(*copy), MutableView<S>(dx), accumulate);
    } else {
      this->acting_weight().multiply_transposed(mapped(dy), dx, accumulate, tape.terms);
    }
    for (std::size_t i = 0; i < tape.used; ++i) {
      Adapter<S>& adapter = this->adapters().by_id(tape.adapters[i].id);
      const Dropout dropout = adapter.dropout_of(tape.pass);
      if (!dropout.active()) continue;
      if (adapter.scales_output()) {
        add_dropped_gradient(adapter, this->weight(), tape.pass, tape.adapters[i], dx);
        continue;
      }
      std::visit(
          [&](const auto& variant) {
            variant.template add_input_gradient<S>(adapter, dropout, tape.pass.first_row,
                                                   tape.adapters[i], MutableView<S>(dx));
          },
          adapter.variant);
    }
  }

  /// Maps a view with contiguous rows as an Eigen matrix.
  static Eigen::Map<const Matrix<S>, 0, Eigen::OuterStride<>> mapped(const View<S>& view) {
    return {view.data, view.rows, view.cols, Eigen::OuterStride<>(view.row_stride)};
  }
};

}  // namespace lora
