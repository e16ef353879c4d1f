// A frozen embedding table with named low-rank adapters.
#pragma once

#include <lora/layers/adapted_weight.hpp>
#include <lora/layers/output_scaling.hpp>

namespace lora {

/// Computes y_t = W[id_t] + Σ s_a · B_a A_a[:, id_t] over the active adapters a, with ids (T),
/// W (V, D), A (R, V), B (D, R) and y (T, D). A DoRA adapter also scales each dimension of y.
///
/// Initially A = 0 and B is normal. There is no dropout. Otherwise as LoRALinear.
/// Source: PEFT's lora.Embedding.
template <class S>
class LoRAEmbedding : public AdaptedWeight<S> {
  using Base = AdaptedWeight<S>;

 public:
  /// What backward needs from one forward. It takes the ids again.
  using Tape = LayerTape<S>;

  LoRAEmbedding() = default;
  /// Creates a layer without adapters from W (V, D). As in PyTorch's nn.Embedding, the row
  /// `padding_idx` gets no gradient; -1: no such row.
  /// Throws: ConfigError for a padding_idx outside -1 … V-1, and for a table stored as (D, V).
  explicit LoRAEmbedding(FrozenWeight<S> weight, std::int64_t padding_idx = -1)
      : Base(LayerKind::embedding, weight, {weight.rows(), weight.cols()}, {}),
        padding_idx_(padding_idx) {
    if (weight.layout() == Layout::in_out)
      throw ConfigError("LoRAEmbedding: the table must be stored as (V, D)");
    if (padding_idx < -1 || padding_idx >= weight.rows()) {
      throw ConfigError("LoRAEmbedding: padding_idx is " + std::to_string(padding_idx) +
                        ", expected -1 to " + std::to_string(weight.rows() - 1));
    }
  }
  explicit LoRAEmbedding(Matrix<S> weight, std::int64_t padding_idx = -1)
      : LoRAEmbedding(FrozenWeight<S>(std::move(weight)), padding_idx) {}

  Index num_embeddings() const { return this->weight().rows(); }
  Index embedding_dim() const { return this->weight().cols(); }
  const char* module_type() const { return "Embedding"; }

  /// Adds an adapter, neither active nor trainable.
  /// Throws: as LoRALinear::add_adapter; ConfigError for lora_bias and for the orthogonal
  ///   initialisation.
  void add_adapter(std::string name, const AdapterOptions& options = {}) {
    this->adapters().add(new_adapter(name, options));
  }
  /// See LoRALinear::new_adapter.
  Adapter<S> new_adapter(const std::string& name, const AdapterOptions& options = {}) const {
    this->expect_frozen_base("LoRAEmbedding::add_adapter");
    if (options.lora_bias)
      throw ConfigError("adapter \"" + name + "\": lora_bias is not defined for an embedding");
    Adapter<S> adapter = make_adapter<S>(name, options);
    adapter.A = Parameter<S>(Matrix<S>(options.r, num_embeddings()));
    adapter.B = Parameter<S>(Matrix<S>(embedding_dim(), options.r));
    const RandomStream a(options.seed, options.path + ".lora_embedding_A." + name);
    const RandomStream b(options.seed, options.path + ".lora_embedding_B." + name);
    initialize_embedding_adapter(options.init, adapter.A.value, adapter.B.value, a, b);
    begin_variant(adapter, options, this->base_map());
    return adapter;
  }

  /// Computes y (T, D) and keeps in `tape` what backward needs; nullptr: inference.
  /// Throws: ShapeError, also for an id outside 0 … V-1, which it names; Error for
  ///   pass.adapter_names.
  /// Allocates: when T changes; without a tape, the workspace.
  void forward(std::span<const std::int64_t> ids, Out<S> y, Tape* tape = nullptr,
               const Pass& pass = {}) const {
    if (tape != nullptr) tape->rows = -1;  // an error leaves a tape that backward refuses
    const Index rows = static_cast<Index>(ids.size());
    expect_shape("LoRAEmbedding::forward", "y", y, rows, embedding_dim());
    check_ids(ids);
    if (!pass.adapter_names.empty())
      throw Error("LoRAEmbedding::forward: adapter_names is not supported");
    if (tape != nullptr) return forward(ids, y, *tape, pass.training, true);
    Tape scratch;
    forward(ids, y, scratch, pass.training, false);
  }

  /// Adds the gradients. With h_t = s A[:, id_t] and dh = s dy B:
  ///   dB += dyᵀ h,  dA[:, id_t] += dh_tᵀ;  row id_t of a trained copy's gradient += dy_t.
  /// The gradients of one id are added in row order.
  /// Throws: ShapeError; Error if tape and layer do not match, as LoRALinear::backward.
  /// Allocates: when T changes.
  void backward(std::span<const std::int64_t> ids, In<S> dy, Tape& tape) {
    tape.expect_forward("LoRAEmbedding::backward");
    expect_shape("LoRAEmbedding::backward", "dy", dy, tape.rows, embedding_dim());
    if (static_cast<Index>(ids.size()) != tape.rows) {
      throw ShapeError("LoRAEmbedding::backward: there are " + std::to_string(ids.size()) +
                       " ids, expected " + std::to_string(tape.rows));
    }
    check_ids(ids);
    tape.expect_current("LoRAEmbedding::backward", this->acting_state());
    for (std::size_t i = 0; i < tape.used; ++i) prepare_gradient(tape.adapters[i], tape.rows);
    scaled_gradients<S>(this->adapters(), tape, 0, dy, Pass{});
    for (std::size_t i = 0; i < tape.used; ++i) {
      AdapterTape<S>& own = tape.adapters[i];
      adapter_gradient(this->adapters().by_id(own.id), ids, own.g, own);
    }
    TrainedCopy<S>* copy = this->acting_copy();
    if (copy == nullptr || !copy->weight.trainable) return;
    for (Index t = 0; t < tape.rows; ++t) {
      const std::int64_t id = ids[static_cast<std::size_t>(t)];
      if (id != padding_idx_) copy->weight.grad.row(id) += dy.row(t);
    }
  }

 private:
  void check_ids(std::span<const std::int64_t> ids) const {
    for (std::size_t t = 0; t < ids.size(); ++t) {
      if (ids[t] >= 0 && ids[t] < num_embeddings()) continue;
      throw ShapeError("LoRAEmbedding: ids[" + std::to_string(t) + "] is " +
                       std::to_string(ids[t]) + ", expected 0 to " +
                       std::to_string(num_embeddings() - 1));
    }
  }
  void look_up(std::span<const std::int64_t> ids, Out<S> y) const {
    const TrainedCopy<S>* copy = this->acting_copy();
    for (std::size_t t = 0; t < ids.size(); ++t) {
      S* row = y.data() + static_cast<Index>(t) * y.outerStride();
      if (copy != nullptr) {
        std::copy_n(copy->weight.value.data() + ids[t] * embedding_dim(), embedding_dim(), row);
      } else {
        this->acting_weight().copy_row(ids[t], row);
      }
    }
  }
  /// Runs forward; `keep`: a backward will read the tape.
  void forward(std::span<const std::int64_t> ids, Out<S> y, Tape& tape, bool training,
               bool keep) const {
    tape.begin(this->acting_state());
    look_up(ids, y);
    if (this->adapters_act()) {
      for (const std::string& name : this->adapters().active())
        add_adapter_term(this->adapters().get(name), ids, y, training, keep, tape);
    }
    tape.rows = y.rows();
  }
  void add_adapter_term(const Adapter<S>& adapter, std::span<const std::int64_t> ids, Out<S> y,
                        bool training, bool keep, Tape& tape) const {
    AdapterTape<S>& own = tape.next(adapter);
    set_size(own.h, static_cast<Index>(ids.size()), adapter.r);
    for (Index t = 0; t < own.h.rows(); ++t) {
      own.h.row(t) =
          adapter.scale() * adapter.A.value.col(ids[static_cast<std::size_t>(t)]).transpose();
    }
    product<S>(own.h, View<S>(adapter.B.value).transposed(), MutableView<S>(y), Accumulate::yes);
    adapter.if_scales_output([&](const auto& variant) {
      variant.start(adapter, this->base_map(), y.rows(), training, keep, own.output);
      variant.finish(own.output, 0, false, keep, MutableView<S>(y));
    });
  }
  /// Allocates what adapter_gradient() needs, before any gradient changes.
  void prepare_gradient(AdapterTape<S>& own, Index rows) const {
    const Adapter<S>& adapter = this->adapters().by_id(own.id);
    if (adapter.B.trainable) set_size(own.dB_t, adapter.r, embedding_dim());
    if (adapter.A.trainable) set_size(own.dh, rows, adapter.r);
  }
  void adapter_gradient(Adapter<S>& adapter, std::span<const std::int64_t> ids, const View<S>& dy,
                        AdapterTape<S>& own) const {
    if (adapter.B.trainable) {
      product<S>(View<S>(own.h).transposed(), dy, own.dB_t);
      adapter.B.grad += own.dB_t.transpose();
    }
    if (!adapter.A.trainable) return;
    product<S>(dy, adapter.B.value, own.dh);
    own.dh *= adapter.scale();
    for (Index t = 0; t < dy.rows; ++t) {
      const std::int64_t id = ids[static_cast<std::size_t>(t)];
      if (id != padding_idx_) adapter.A.grad.col(id) += own.dh.row(t).transpose();
    }
  }

  std::int64_t padding_idx_ = -1;
};

}  // namespace lora
