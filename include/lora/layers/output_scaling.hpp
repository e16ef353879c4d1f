// Runs adapters whose variant scales the layer's output (DoRA).
#pragma once

#include <lora/layers/adapter_set.hpp>
#include <lora/layers/base_map.hpp>
#include <lora/layers/layer_tape.hpp>

#include <algorithm>

namespace lora {

/// Lets the adapter scale y (T, O), the output of a linear map of x (T, D) with the adapter's term
/// already added. With dropout, computes u = W drop(x) + term here. `keep`: a backward will read
/// the tape. Does nothing for other variants.
/// Allocates: when T changes.
template <class S>
void scale_output(const Adapter<S>& adapter, const BaseMap<S>& base, In<S> x, const Pass& pass,
                  bool keep, AdapterTape<S>& tape, Out<S> y) {
  constexpr Index piece_rows = PlainLoRA::piece_rows;
  const Dropout dropout = adapter.dropout_of(pass);
  const bool dropped = dropout.active();
  adapter.if_scales_output([&](const auto& variant) {
    variant.start(adapter, base, x.rows(), pass.training, keep || dropped, tape.output);
    for (Index first = 0; dropped && first < x.rows(); first += piece_rows) {
      const Index rows = std::min(piece_rows, x.rows() - first);
      variant.dropped(View<S>(x).middle_rows(first, rows), dropout, pass.first_row + first, tape);
      const LowRank<S> term{View<S>(tape.h).middle_rows(first, rows),
                            View<S>(adapter.B.value).transposed(), 0};
      base.weight.multiply(tape.dropped.topRows(rows), tape.output.u.middleRows(first, rows),
                           {&term, 1});
    }
    variant.finish(tape.output, 0, dropped, keep, MutableView<S>(y));
  });
}

/// Propagates g, the gradient of the rows of y from `first` on, back through the adapters of a
/// layer's tape, last to first. Stores in each AdapterTape the gradient of its term: g, or c ∘ g if
/// the variant scales the output, which spends the tape. Returns the gradient of the base's output.
/// With Pass{} there is no dropout, whatever the adapters' options.
/// Allocates: nothing.
template <class S>
View<S> scaled_gradients(AdapterSet<S>& adapters, LayerTape<S>& tape, Index first, View<S> g,
                         const Pass& pass) {
  for (std::size_t i = tape.used; i-- > 0;) {
    AdapterTape<S>& own = tape.adapters[i];
    own.dy = own.g = g;
    Adapter<S>& adapter = adapters.by_id(own.id);
    adapter.if_scales_output([&](const auto& variant) {
      tape.spent = true;
      own.g = variant.output_gradient(adapter, own.output, first, g);
      if (!adapter.dropout_of(pass).active()) g = own.g;
    });
  }
  return g;
}

/// Computes dx += mask / (1 - p) ∘ (((c - 1) ∘ g) W + dh A), the input gradient (T, D) through the
/// active dropout of an adapter that scales the output.
/// Allocates: nothing; uses the workspace of PlainLoRA::prepare_backward().
template <class S>
void add_dropped_gradient(const Adapter<S>& adapter, const FrozenWeight<S>& weight,
                          const Pass& pass, AdapterTape<S>& tape, Matrix<S>& dx) {
  constexpr Index piece_rows = PlainLoRA::piece_rows;
  const Dropout dropout = adapter.dropout_of(pass);
  adapter.if_scales_output(
      [&](const auto& variant) { variant.dropped_gradient(tape.output, 0, tape.dy); });
  for (Index first = 0; first < dx.rows(); first += piece_rows) {
    const Index rows = std::min(piece_rows, dx.rows() - first);
    auto part = tape.dropped.topRows(rows);
    const LowRank<S> term{View<S>(tape.dh).middle_rows(first, rows), adapter.A.value, 0};
    weight.multiply_transposed(tape.output.u.middleRows(first, rows), part, Accumulate::no,
                               {&term, 1});
    dropout.rows(pass.first_row + first, View<S>(tape.dropped).middle_rows(0, rows),
                 MutableView<S>(dx).middle_rows(first, rows), Accumulate::yes);
  }
}

}  // namespace lora
