// LoRA as first published: s = alpha / r and the update s · B A.
#pragma once

#include <lora/layers/adapter_init.hpp>
#include <lora/layers/dropout.hpp>
#include <lora/weights/low_rank.hpp>
#include <lora/weights/product.hpp>

#include <algorithm>
#include <optional>

namespace lora {

template <class S>
struct Adapter;
template <class S>
struct AdapterTape;

/// The plain adapter variant over rows x (T, D) of a linear map: its initial values, the term it
/// adds to y = x Wᵀ, its gradients, and what merging adds to W. The tensors are in the Adapter.
/// Other variants have the same functions.
/// Source: Hu et al., "LoRA", 2021, equation 3; PEFT's lora.Linear.
struct PlainLoRA {
  /// Whether the variant changes the layer's output beyond adding s · B A x. DoRA does, and
  /// documents the functions such a variant needs. A variant that does not is fully described by A,
  /// B and s: it can be combined with others, written to formats without further tensors, and
  /// chosen per row.
  static constexpr bool scales_output = false;
  /// Rows per piece. A piece of x or dy that two products read stays in the second-level cache
  /// between them, and drop(x) needs no matrix of x's size.
  static constexpr Index piece_rows = 128;

  /// s = alpha / r.
  static double scaling(double alpha, Index r) { return alpha / static_cast<double>(r); }

  /// Fills A and B; see AdapterInit.
  template <class S>
  static void initialize(Adapter<S>& adapter, AdapterInit init, Index fan_in,
                         const RandomStream& a_stream, const RandomStream& b_stream) {
    initialize_adapter(init, fan_in, adapter.A.value, adapter.B.value, a_stream, b_stream);
  }

  /// Computes h = s · drop(x) Aᵀ into the tape and returns the term h Bᵀ, which the base product
  /// adds to y. x is (T, D), and starts at row `first_row` of the batch, which the dropout mask
  /// needs.
  /// Allocates: when T changes.
  template <class S>
  static LowRank<S> forward(const Adapter<S>& adapter, View<S> x, const Dropout& dropout,
                            Index first_row, AdapterTape<S>& tape) {
    set_size(tape.h, x.rows, adapter.r);
    for (Index first = 0; first < x.rows; first += piece_rows) {
      const Index rows = std::min(piece_rows, x.rows - first);
      product<S>(dropped(x.middle_rows(first, rows), dropout, first_row + first, tape),
                 View<S>(adapter.A.value).transposed(),
                 MutableView<S>(tape.h).middle_rows(first, rows));
    }
    tape.h *= adapter.scale();
    return {tape.h, View<S>(adapter.B.value).transposed(), 0};
  }

  /// Allocates what backward() and add_input_gradient() need for dy (T, O) and x (T, D), before any
  /// gradient changes.
  template <class S>
  static void prepare_backward(const Adapter<S>& adapter, Index T, Index O, Index D,
                               const Dropout& dropout, AdapterTape<S>& tape, bool need_dx) {
    if (adapter.B.trainable) set_size(tape.dB_t, adapter.r, O);
    if (adapter.A.trainable || need_dx) set_size(tape.dh, T, adapter.r);
    if (dropout.active()) set_size(tape.dropped, piece_rows, D);
  }

  /// Adds the gradients of the trainable tensors. With g = dL/dy (T, O), h from forward and
  /// dh = s · g B:
  ///   dB += gᵀ h,   dA += dhᵀ drop(x),   dbias += s · Σ g,
  ///   dx: the term dh A, through the dropout mask.
  /// Without dropout, returns the term for the base product to add. With dropout, leaves dh in the
  /// tape for add_input_gradient().
  /// Allocates: when T changes.
  template <class S>
  static std::optional<LowRank<S>> backward(Adapter<S>& adapter, View<S> x, View<S> dy,
                                            const Dropout& dropout, Index first_row,
                                            AdapterTape<S>& tape, bool need_dx) {
    const bool need_dh = adapter.A.trainable || need_dx;
    // hᵀ g runs along the rows of g; the inner loop of gᵀ h would be only R wide.
    if (adapter.B.trainable) set_zero(tape.dB_t, adapter.r, dy.cols);
    if (need_dh) set_size(tape.dh, dy.rows, adapter.r);
    for (Index first = 0; first < dy.rows; first += piece_rows) {
      const Index rows = std::min(piece_rows, dy.rows - first);
      const View<S> g = dy.middle_rows(first, rows);
      if (adapter.B.trainable) {
        product<S>(View<S>(tape.h).middle_rows(first, rows).transposed(), g, tape.dB_t,
                   Accumulate::yes);
      }
      if (!need_dh) continue;
      product<S>(g, adapter.B.value, MutableView<S>(tape.dh).middle_rows(first, rows));
      tape.dh.middleRows(first, rows) *= adapter.scale();
      if (!adapter.A.trainable) continue;
      product<S>(View<S>(tape.dh).middle_rows(first, rows).transposed(),
                 dropped(x.middle_rows(first, rows), dropout, first_row + first, tape),
                 adapter.A.grad, Accumulate::yes);
    }
    if (adapter.B.trainable) adapter.B.grad += tape.dB_t.transpose();
    if (adapter.bias.trainable) {
      for (Index t = 0; t < dy.rows; ++t) {
        adapter.bias.grad +=
            adapter.scale() * Eigen::Map<const Matrix<S>>(dy.data + t * dy.row_stride, 1, dy.cols);
      }
    }
    if (!need_dx || dropout.active()) return std::nullopt;
    return LowRank<S>{tape.dh, adapter.A.value, 0};
  }

  /// Computes dx += mask / (1 - p) ∘ (dh A), the input gradient through an active dropout.
  template <class S>
  static void add_input_gradient(const Adapter<S>& adapter, const Dropout& dropout, Index first_row,
                                 AdapterTape<S>& tape, MutableView<S> dx) {
    const View<S> dh(tape.dh);
    for (Index first = 0; first < dx.rows; first += piece_rows) {
      const Index count = std::min(piece_rows, dx.rows - first);
      set_size(tape.dropped, piece_rows, dx.cols);
      MutableView<S> part(tape.dropped.data(), count, dx.cols, dx.cols);
      product<S>(dh.middle_rows(first, count), adapter.A.value, part);
      dropout.rows(first_row + first, View<S>(part.data, count, dx.cols, dx.cols, 1),
                   dx.middle_rows(first, count), Accumulate::yes);
    }
  }

  /// The change s · B A (O, D) that merging adds to W.
  template <class S>
  static LowRankDelta<S> delta(const Adapter<S>& adapter) {
    return {adapter.scale(), adapter.B.value, adapter.A.value};
  }

  /// Returns drop(x) for x that starts at row `first_row` of the batch: x itself without dropout,
  /// otherwise rows of the tape that the next call overwrites.
  template <class S>
  static View<S> dropped(View<S> x, const Dropout& dropout, Index first_row, AdapterTape<S>& tape) {
    if (!dropout.active()) return x;
    set_size(tape.dropped, piece_rows, x.cols);
    dropout.rows(first_row, x, MutableView<S>(tape.dropped), Accumulate::no);
    return {tape.dropped.data(), x.rows, x.cols, x.cols, 1};
  }
};

}  // namespace lora
