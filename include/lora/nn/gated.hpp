// The gated product of a feed-forward layer: SwiGLU and its relatives.
#pragma once

#include <lora/nn/activations.hpp>
#include <lora/nn/rows.hpp>

namespace lora {

/// Computes h = f(gate) ⊙ up, all (T, F); SwiGLU with silu. h may be gate or up itself.
/// Throws: ShapeError; ConfigError for a value outside the enum; Error when h overlaps a part of
///   gate or up.
/// Allocates: nothing.
/// Threads: shares rows between the workers.
/// Source: Shazeer, "GLU Variants Improve Transformer", 2020; LlamaMLP of transformers.
template <class S>
void gated_forward(Activation kind, In<S> gate, In<S> up, Out<S> h) {
  expect_shape("gated_forward", "up", up, gate.rows(), gate.cols());
  expect_shape("gated_forward", "h", h, gate.rows(), gate.cols());
  expect_same_or_apart<S>("gated_forward", "h", h, "gate", gate);
  expect_same_or_apart<S>("gated_forward", "h", h, "up", up);
  activations::visit(kind, "gated_forward", [&](auto f) {
    for_row_shares(gate.rows(), gate.cols(), [&](Index begin, Index end) {
      constexpr Index piece = 512;  // stays in the first-level cache
      S value[piece];
      for (Index t = begin; t < end; ++t) {
        for (Index j = 0; j < gate.cols(); j += piece) {
          const Index n = std::min(piece, gate.cols() - j);
          const S* u = up.data() + t * up.outerStride() + j;
          S* to = h.data() + t * h.outerStride() + j;
          activations::map<S>(f, n, gate.data() + t * gate.outerStride() + j, nullptr, value);
          map_row(n, to, [&value, u](Index i) { return value[i] * u[i]; });
        }
      }
    });
  });
}

/// Computes dgate = dh ⊙ up ⊙ f'(gate) and replaces dh by dup = dh ⊙ f(gate); all (T, F).
/// Throws: as gated_forward; Error when dgate overlaps another argument, or dh a part of gate or
///   up.
/// Allocates: nothing.
template <class S>
void gated_backward(Activation kind, In<S> gate, In<S> up, Out<S> dh, Out<S> dgate) {
  expect_shape("gated_backward", "up", up, gate.rows(), gate.cols());
  expect_shape("gated_backward", "dh", dh, gate.rows(), gate.cols());
  expect_shape("gated_backward", "dgate", dgate, gate.rows(), gate.cols());
  expect_apart<S>("gated_backward", "dgate", dgate, "gate", gate);
  expect_apart<S>("gated_backward", "dgate", dgate, "up", up);
  expect_apart<S>("gated_backward", "dgate", dgate, "dh", dh);
  expect_same_or_apart<S>("gated_backward", "dh", dh, "gate", gate);
  expect_same_or_apart<S>("gated_backward", "dh", dh, "up", up);
  activations::visit(kind, "gated_backward", [&](auto f) {
    for_row_shares(gate.rows(), gate.cols(), [&](Index begin, Index end) {
      constexpr Index piece = 512;
      S value[piece];
      for (Index t = begin; t < end; ++t) {
        for (Index j = 0; j < gate.cols(); j += piece) {
          const Index n = std::min(piece, gate.cols() - j);
          const S* g = gate.data() + t * gate.outerStride() + j;
          const S* u = up.data() + t * up.outerStride() + j;
          S* d = dh.data() + t * dh.outerStride() + j;
          S* dg = dgate.data() + t * dgate.outerStride() + j;
          map_row(n, dg, [=](Index i) { return d[i] * u[i]; });
          activations::map<S>(f, n, g, dg, dg);
          activations::map<S>(f, n, g, nullptr, value);
          map_row(n, d, [&value, d](Index i) { return d[i] * value[i]; });
        }
      }
    });
  });
}

}  // namespace lora
