// The product that reads the panels of a packed weight along their other dimension, and the table
// of an instruction set's product kernels.
#pragma once

#include <lora/kernels/tiles.hpp>

namespace lora::kernels {

/// Computes C (rows, cols) = or += Σ W_q(m, k) B_q(k, n) over the panels q and k < slab_columns, in
/// that order and as one chain. W_q(m, k) is w[q·w_panel + m·slab_columns + k], the slab_columns
/// rows of B_q follow those of B_q-1, and C(m, n) is c[m·slab_columns + n]. Rows of B and C are
/// slab_columns long; cols is a multiple of slab_group.
/// Strides that the compiler knows take no registers: with the strides of BlockProduct, tiles two
/// registers wide are slower by a sixth. Prefetches `ahead` meanwhile.
template <class S>
struct PanelProduct {
  Size rows, cols, panels;
  const S* w;
  Size w_panel;
  const S* b;
  S* c;
  bool add;
  Ahead ahead = {};
};

/// Computes all whole tiles of Rows rows from m on and Vecs registers of columns from n on. Returns
/// the first row after them.
template <class S, int Bytes, int Rows, int Vecs>
LORA_ALWAYS_INLINE Size panel_tiles(const PanelProduct<S>& p, Size m, Size n, Asking& asking) {
  constexpr Size row = slab_columns, terms = Asking::terms;
  static_assert(row % terms == 0);
  for (; m + Rows <= p.rows; m += Rows) {
    Tile<S, Bytes, Rows, Vecs> t;
    t.begin(p.c + m * row + n, row, p.add);
    const S *w = p.w + m * row, *b = p.b + n;
    for (Size q = 0; q < p.panels; ++q, w += p.w_panel - row) {
      for (Size k = 0; k < row; k += terms, w += terms, b += terms * row) {
        asking.some();
        t.add(Terms<S>{terms, w, row, 1, b, row});
      }
    }
    t.end(p.c + m * row + n, row);
  }
  return m;
}

template <class S, int Bytes, int Most>
LORA_ALWAYS_INLINE void multiply_panels(const PanelProduct<S>& p) {
  constexpr Size lanes = Register<S, Bytes>::lanes;
  Asking asking(p.ahead, p.rows / Most * ((p.cols + 3 * lanes - 1) / (3 * lanes)) * p.panels *
                             (slab_columns / Asking::terms));
  Size n = 0;
  for (; n + 3 * lanes <= p.cols; n += 3 * lanes) {
    const Size m = panel_tiles<S, Bytes, Most, 3>(p, 0, n, asking);
    panel_tiles<S, Bytes, 1, 3>(p, m, n, asking);
  }
  if (n + 2 * lanes <= p.cols) {
    const Size m = panel_tiles<S, Bytes, Most, 2>(p, 0, n, asking);
    panel_tiles<S, Bytes, 1, 2>(p, m, n, asking);
    n += 2 * lanes;
  }
  if (n + lanes <= p.cols) {
    const Size m = panel_tiles<S, Bytes, 2 * Most, 1>(p, 0, n, asking);
    panel_tiles<S, Bytes, 1, 1>(p, m, n, asking);
  }
}

/// One instruction set's kernels for products in S.
template <class S>
struct ProductKernels {
  void (*multiply)(const BlockProduct<S>&);
  void (*panels)(const PanelProduct<S>&);
  /// See transpose_block: writes a slab and pads it with zeros.
  void (*transpose)(Size depth, Size cols, const S* b, Size b_row, S* slab);
  /// Computes to[k·to_row + j] = b[j·b_row + k] for k < depth and j < cols, and writes nothing
  /// else.
  void (*transpose_out)(Size depth, Size cols, const S* b, Size b_row, S* to, Size to_row);
  void (*copy)(Size depth, Size cols, const S* b, Size b_row, S* slab);
  void (*few)(const FewRows<S>&);
};

/// One instruction set's kernels for stored bfloat16.
template <class S = float>
struct BF16Kernels {
  void (*multiply)(const BlockProduct<S, BF16>&);
  void (*widen)(Size n, const BF16* stored, S* floats);
  void (*few)(const FewRows<S, BF16>&);
};

}  // namespace lora::kernels
