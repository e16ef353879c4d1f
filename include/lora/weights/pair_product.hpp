// Products with a bfloat16 weight on instructions that multiply pairs of bfloat16.
#pragma once

#include <lora/kernels/dispatch.hpp>
#include <lora/weights/pieces.hpp>

namespace lora::detail {

/// A thread's workspace for products of pairs: rounded rows of a, a slab of W and a slab of a term.
struct PairMemory {
  static constexpr Index deep = 2 * kernels::pair_depth;
  static_assert(deep % kernels::slab_columns == 0, "a slab holds whole panels");

  alignas(64) kernels::BF16Pair a[piece_rows * kernels::pair_depth];
  alignas(64) kernels::BF16Pair w[kernels::pair_depth * kernels::slab_columns];
  SlabMemory<float, Pieces<float>::most_fused> term;
};
static_assert(sizeof(PairMemory) < 100 * 1024, "it lies on the stack of a thread");

/// Computes c (+)= a W' + Σ terms. a (T, K > 0) is rounded to bfloat16, and W' is read in pairs.
/// slab(k, depth, block, to) writes the rows from k on of a block of 48 columns of W' to `to` and
/// returns the stride of these rows. Each element is summed over k in order, so its bits depend
/// neither on its neighbours nor on the number of threads. Rows of a are rounded once for up to
/// eight blocks.
/// Allocates: nothing.
template <class Fn>
void multiply_pairs(const kernels::PairKernels& with, const View<float>& a,
                    const MutableView<float>& c, std::span<const LowRank<float>> terms, bool add,
                    Fn&& slab) {
  constexpr Index wide = kernels::slab_columns, tall = piece_rows, most = 8;
  const auto floats = kernels::product_kernels<float>();
  const Index blocks = (c.cols + wide - 1) / wide, row_pieces = (c.rows + tall - 1) / tall;
  parallel_for(blocks * row_pieces, 1, [&](Index begin, Index end) {
    PairMemory memory;
    for (Index piece = begin, count; piece < end; piece += count) {
      const Index i = piece / blocks * tall, rows = std::min(tall, c.rows - i);
      const Index first = piece % blocks;
      count = std::min({end - piece, blocks - first, most});
      const LowRank<float>* fused = Pieces<float>::fused_term(terms, i, rows);
      for (Index k = 0; k < a.cols; k += PairMemory::deep) {
        const Index depth = std::min(PairMemory::deep, a.cols - k);
        with.round(rows, depth, a.data + i * a.row_stride + k, a.row_stride, memory.a,
                   kernels::pair_depth);
        for (Index block = first; block < first + count; ++block) {
          const Index j = block * wide, cols = std::min(wide, c.cols - j);
          kernels::BlockProduct<float, kernels::BF16Pair> product = {};
          product.rows = rows;
          product.cols = cols;
          product.c = c.data + i * c.row_stride + j;
          product.c_row = c.row_stride;
          product.add = add || k > 0;
          const Index stride = slab(k, depth, block, memory.w);
          product.terms = {(depth + 1) / 2,
                           reinterpret_cast<const float*>(memory.a),
                           kernels::pair_depth,
                           1,
                           memory.w,
                           stride};
          if (fused != nullptr && k + depth == a.cols)
            product.more = Pieces<float>::terms_of(floats, *fused, i, rows, j, cols, memory.term);
          with.multiply(product);
        }
      }
    }
  });
  if (terms.empty()) return;
  if (terms.size() == 1 && Pieces<float>::fused_term(terms, 0, c.rows) != nullptr) return;
  Pieces<float>::for_each(c.cols, c.rows, [&](Index i, Index rows, Index block, auto& memory) {
    const Index j = block * wide;
    Pieces<float>::add_terms(floats, terms, Pieces<float>::fused_term(terms, i, rows), i, j,
                             c.middle_rows(i, rows).middle_cols(j, std::min(wide, c.cols - j)),
                             memory.slab);
  });
}

}  // namespace lora::detail
