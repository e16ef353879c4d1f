// The micro-kernels: C (+)= A B for a block of B in the first-level cache, and the packing that
// brings B there. For registers of any width, on raw pointers. Allocates nothing and uses no other
// thread.
//
// Each element of C is one chain: C's value, or zero, plus the terms k = 0, 1, 2 … in that order.
// So its bits do not depend on how C or k is blocked, on its neighbours or on the number of
// threads. They depend on whether the instruction set has fused multiply-adds.
#pragma once

#include <lora/kernels/vector.hpp>

namespace lora::kernels {

/// Columns of B that a slab, a packed block of B, holds contiguously: three registers of 16 floats.
inline constexpr Size slab_columns = 48;
/// Kernels read the columns of a slab in groups of this many.
inline constexpr Size slab_group = 16;
/// Rows of a slab. Its 72 KiB are far less than a second-level cache, and deep enough to amortise
/// loading and storing a tile of C. Measured against 96, 192, 480 and 576.
template <class S>
inline constexpr Size slab_depth = 384 * 4 / static_cast<Size>(sizeof(S));

/// The terms k = 0 … depth - 1 of the chains: A(m, k) is a[m·a_row + k·a_col], B(k, n) is
/// b[k·b_row + n]. Rows of B must be readable up to the next multiple of slab_group columns. B is
/// stored as S or bfloat16. If both are pairs of bfloat16, k counts pairs, and each pair of A
/// occupies the place of a float.
template <class S, class B = S>
struct Terms {
  Size depth = 0;
  const S* a = nullptr;
  Size a_row = 0, a_col = 0;
  const B* b = nullptr;
  Size b_row = 0;

  /// The terms for rows m … and columns n … of C.
  LORA_ALWAYS_INLINE Terms from(Size m, Size n) const {
    return {depth, a + m * a_row, a_row, a_col, b + n, b_row};
  }
  /// `count` terms from k on.
  LORA_ALWAYS_INLINE Terms some(Size k, Size count) const {
    return {count, a + k * a_col, a_row, a_col, b + k * b_row, b_row};
  }
};

/// Memory to prefetch: `runs` ranges of `lines` cache lines, which begin `stride` bytes apart.
struct Ahead {
  const char* at = nullptr;
  Size lines = 0, runs = 0, stride = 0;
};

/// Computes C (rows, cols) = or += `terms`, then `more`; C(m, n) is c[m·c_row + n]. With more than
/// few_rows rows it prefetches `ahead` meanwhile: from the second tile on B is in a cache, and the
/// memory would idle until the first tile of the next block.
template <class S, class B = S>
struct BlockProduct {
  Size rows, cols;
  Terms<S, B> terms;
  S* c;
  Size c_row;
  bool add;
  Terms<S> more = {};
  Ahead ahead = {};
};

/// Up to this many rows of C, the product takes no longer than reading B from memory.
inline constexpr Size few_rows = 8;
/// How many rows ahead of its use B is prefetched: measured against 8 and 32.
inline constexpr Size rows_ahead = 16;

/// Prefetches memory a few lines at a time, so that it does not delay the tiles' own reads.
struct Asking {
  /// Terms of a tile between two prefetches.
  static constexpr Size terms = 4;

  /// Spreads the prefetches evenly over `times` calls of some().
  LORA_ALWAYS_INLINE Asking(const Ahead& ahead, Size times)
      : at_(reinterpret_cast<std::uintptr_t>(ahead.at)),
        run_(ahead.lines),
        left_(ahead.lines),
        all_(ahead.lines * ahead.runs),
        jump_(ahead.stride - 64 * ahead.lines),
        each_(times > 0 ? (all_ + times - 1) / times : 0) {}

  LORA_ALWAYS_INLINE void some() {
    for (Size i = 0; i < each_ && all_ > 0; ++i, --all_) {
      __builtin_prefetch(reinterpret_cast<const void*>(at_), 0, 2);
      at_ += 64;
      if (--left_ > 0) continue;
      at_ += static_cast<std::uintptr_t>(jump_);
      left_ = run_;
    }
  }

 private:
  std::uintptr_t at_;  ///< an integer, not a pointer: the last line may reach past the array
  Size run_, left_, all_, jump_, each_;
};

/// A tile of C in Rows x Vecs registers. Vecs further registers hold B.
template <class S, int Bytes, int Rows, int Vecs>
struct Tile {
  using Reg = Register<S, Bytes>;
  using V = typename Reg::type;
  static constexpr int lanes = Reg::lanes;
  V sum[Rows][Vecs];

  LORA_ALWAYS_INLINE void begin(const S* c, Size c_row, bool add) {
    LORA_UNROLL
    for (int m = 0; m < Rows; ++m) {
      LORA_UNROLL
      for (int n = 0; n < Vecs; ++n) {
        if (add) {
          Reg::load(sum[m][n], c + m * c_row + n * lanes);
        } else {
          sum[m][n] = V{};
        }
      }
    }
  }
  /// Adds the terms. With Fetch, prefetches B: the hardware prefetcher alone does not let one
  /// thread read at the speed of the memory.
  template <bool Fetch = false, class B>
  LORA_ALWAYS_INLINE void add(Terms<S, B> t) {
    for (Size k = 0; k < t.depth; ++k, t.a += t.a_col, t.b += t.b_row) {
      V w[Vecs];
      if constexpr (Fetch) {
        LORA_UNROLL
        for (int n = 0; n < Vecs; ++n) __builtin_prefetch(t.b + rows_ahead * t.b_row + n * lanes);
      }
      LORA_UNROLL
      for (int n = 0; n < Vecs; ++n) Reg::load(w[n], t.b + n * lanes);
      LORA_UNROLL
      for (int m = 0; m < Rows; ++m) {
        const S x = t.a[m * t.a_row];
        LORA_UNROLL
        for (int n = 0; n < Vecs; ++n) sum[m][n] += x * w[n];
      }
    }
  }
  /// Adds the terms and prefetches other memory meanwhile.
  template <class B>
  LORA_ALWAYS_INLINE void add(Terms<S, B> t, Asking& asking) {
    Size k = 0;
    for (; k + Asking::terms <= t.depth; k += Asking::terms) {
      asking.some();
      add(t.some(k, Asking::terms));
    }
    add(t.some(k, t.depth - k));
  }
  LORA_ALWAYS_INLINE void end(S* c, Size c_row) const {
    LORA_UNROLL
    for (int m = 0; m < Rows; ++m) {
      LORA_UNROLL
      for (int n = 0; n < Vecs; ++n) Reg::store(c + m * c_row + n * lanes, sum[m][n]);
    }
  }
};

/// Computes the tile of C at (m, n), which is stored at c. With Fetch it prefetches B, otherwise
/// the memory of `asking`. An instruction set that multiplies pairs overloads this function.
template <class S, int Bytes, int Rows, int Vecs, bool Fetch, class B>
LORA_ALWAYS_INLINE void tile(const BlockProduct<S, B>& p, Size m, Size n, S* c, Size c_row,
                             Asking& asking) {
  Tile<S, Bytes, Rows, Vecs> t;
  t.begin(c, c_row, p.add);
  if constexpr (Fetch) {
    t.template add<true>(p.terms.from(m, n));
  } else {
    t.add(p.terms.from(m, n), asking);
  }
  if (p.more.depth > 0) t.add(p.more.from(m, n));
  t.end(c, c_row);
}

/// Computes Vecs registers of columns from n on and rows m to m + rows of C, which are stored at c.
/// Most is the largest number of rows of a tile. With few rows, B streams from memory and is used
/// as fast as it arrives.
template <class S, int Bytes, int Most, int Vecs, class B>
LORA_ALWAYS_INLINE void columns(const BlockProduct<S, B>& p, Size m, Size rows, Size n, S* c,
                                Size c_row, Asking& asking) {
  for (; rows >= Most; rows -= Most, m += Most, c += Most * c_row) {
    if (p.rows <= few_rows) {
      tile<S, Bytes, Most, Vecs, true>(p, m, n, c, c_row, asking);
    } else {
      tile<S, Bytes, Most, Vecs, false>(p, m, n, c, c_row, asking);
    }
  }
  if constexpr (Most == 8) {
    if (rows >= 4) {
      tile<S, Bytes, 4, Vecs, true>(p, m, n, c, c_row, asking);
      rows -= 4, m += 4, c += 4 * c_row;
    }
  }
  if (rows >= 2) {
    tile<S, Bytes, 2, Vecs, true>(p, m, n, c, c_row, asking);
    rows -= 2, m += 2, c += 2 * c_row;
  }
  if (rows == 1) tile<S, Bytes, 1, Vecs, true>(p, m, n, c, c_row, asking);
}

/// Computes the last columns of C, fewer than the lanes of a register, through a copy that is one
/// register wide.
template <class S, int Bytes, int Most, class B>
LORA_ALWAYS_INLINE void last_columns(const BlockProduct<S, B>& p, Size n, Asking& asking) {
  constexpr Size lanes = Register<S, Bytes>::lanes;
  S wide[Most * lanes] = {};
  for (Size m = 0; m < p.rows; m += Most) {
    const Size count = p.rows - m < Most ? p.rows - m : Most;
    S* c = p.c + m * p.c_row + n;
    for (Size i = 0; i < count && p.add; ++i) {
      for (Size j = 0; j < p.cols - n; ++j) wide[i * lanes + j] = c[i * p.c_row + j];
    }
    columns<S, Bytes, Most, 1>(p, m, count, n, wide, lanes, asking);
    for (Size i = 0; i < count; ++i) {
      for (Size j = 0; j < p.cols - n; ++j) c[i * p.c_row + j] = wide[i * lanes + j];
    }
  }
}

template <class S, int Bytes, int Most, class B>
LORA_ALWAYS_INLINE void multiply_block(const BlockProduct<S, B>& p) {
  constexpr Size lanes = Register<S, Bytes>::lanes;
  const Size wide = p.cols / (3 * lanes), tiles = p.rows / Most * (wide > 0 ? wide : 1);
  Asking asking(p.ahead, tiles * (p.terms.depth / Asking::terms));
  Size n = 0;
  for (; n + 3 * lanes <= p.cols; n += 3 * lanes)
    columns<S, Bytes, Most, 3>(p, 0, p.rows, n, p.c + n, p.c_row, asking);
  for (; n + lanes <= p.cols; n += lanes)
    columns<S, Bytes, Most, 1>(p, 0, p.rows, n, p.c + n, p.c_row, asking);
  if (n < p.cols) last_columns<S, Bytes, Most>(p, n, asking);
}

/// Rows k … k + depth - 1 and columns j … j + cols - 1 of a matrix.
struct MatrixPart {
  Size k, depth, j, cols;
};

/// Computes to[k·to_row + j] = b[j·b_row + k] in the part and writes nothing else. Transposes
/// squares as large as a register has lanes, then smaller ones at the right and bottom edges, and
/// at last single elements.
template <class S, int Bytes>
LORA_ALWAYS_INLINE void transpose_part(const MatrixPart& part, const S* b, Size b_row, S* to,
                                       Size to_row) {
  using Reg = Register<S, Bytes>;
  constexpr Size lanes = Reg::lanes;
  const Size depth = part.depth / lanes * lanes, cols = part.cols / lanes * lanes;
  for (Size j = part.j; j < part.j + cols; j += lanes) {
    for (Size k = part.k; k < part.k + depth; k += lanes) {
      typename Reg::type v[lanes];
      load_transposed<S, Bytes>(v, b + j * b_row + k, b_row);
      LORA_UNROLL
      for (int i = 0; i < lanes; ++i) Reg::store(to + (k + i) * to_row + j, v[i]);
    }
  }
  const MatrixPart rest[] = {{part.k, part.depth, part.j + cols, part.cols - cols},
                             {part.k + depth, part.depth - depth, part.j, cols}};
  for (const MatrixPart& one : rest) {
    if (one.depth == 0 || one.cols == 0) continue;
    if constexpr (has_half<S, Bytes>) {
      transpose_part<S, Bytes / 2>(one, b, b_row, to, to_row);
    } else {
      for (Size k = one.k; k < one.k + one.depth; ++k) {
        for (Size j = one.j; j < one.j + one.cols; ++j) to[k * to_row + j] = b[j * b_row + k];
      }
    }
  }
}

/// Computes slab[k·slab_columns + j] = b[j·b_row + k] for k < depth and j < cols, and zeroes the
/// columns from cols to the next multiple of slab_group.
template <class S, int Bytes>
LORA_ALWAYS_INLINE void transpose_block(Size depth, Size cols, const S* b, Size b_row, S* slab) {
  transpose_part<S, Bytes>({0, depth, 0, cols}, b, b_row, slab, slab_columns);
  const Size whole = (cols + slab_group - 1) / slab_group * slab_group;
  for (Size k = 0; k < depth && cols < whole; ++k) {
    for (Size j = cols; j < whole; ++j) slab[k * slab_columns + j] = S{};
  }
}

/// Computes C (rows, cols) = or += A (rows, depth) B (cols, depth)ᵀ for at most few_rows rows; B(n,
/// k) is b[n·b_row + k]. depth is a multiple of slab_group, cols of few_columns<S>. With so few
/// rows, storing and reloading a slab would not pay: squares of B are transposed in registers and
/// used there.
template <class S, class B = S>
struct FewRows {
  Size rows, cols, depth;
  const S* a;
  Size a_row;
  const B* b;
  Size b_row;
  S* c;
  Size c_row;
  bool add;
};
/// Lanes of the narrowest register.
template <class S>
inline constexpr Size few_columns = Register<S, 16>::lanes;

template <class S, int Bytes, int Rows, class B>
LORA_ALWAYS_INLINE void squares(const FewRows<S, B>& f, Size m, Size n = 0) {
  using Reg = Register<S, Bytes>;
  using V = typename Reg::type;
  constexpr Size lanes = Reg::lanes;
  const S* a = f.a + m * f.a_row;
  for (; n + lanes <= f.cols; n += lanes) {
    S* c = f.c + m * f.c_row + n;
    V sum[Rows];
    LORA_UNROLL
    for (int i = 0; i < Rows; ++i) {
      if (f.add) {
        Reg::load(sum[i], c + i * f.c_row);
      } else {
        sum[i] = V{};
      }
    }
    for (Size k = 0; k < f.depth; k += lanes) {
      V v[lanes];
      load_transposed<S, Bytes>(v, f.b + n * f.b_row + k, f.b_row);
      LORA_UNROLL
      for (int j = 0; j < lanes; ++j) {
        LORA_UNROLL
        for (int i = 0; i < Rows; ++i) sum[i] += a[i * f.a_row + k + j] * v[j];
      }
    }
    LORA_UNROLL
    for (int i = 0; i < Rows; ++i) Reg::store(c + i * f.c_row, sum[i]);
  }
  if constexpr (has_half<S, Bytes>) {
    if (n < f.cols) squares<S, Bytes / 2, Rows>(f, m, n);
  }
}

template <class S, int Bytes, int Most, class B>
LORA_ALWAYS_INLINE void multiply_few(const FewRows<S, B>& f) {
  Size m = 0;
  if constexpr (Most == 8) {
    for (; m + 8 <= f.rows; m += 8) squares<S, Bytes, 8>(f, m);
  }
  for (; m + 4 <= f.rows; m += 4) squares<S, Bytes, 4>(f, m);
  for (; m + 2 <= f.rows; m += 2) squares<S, Bytes, 2>(f, m);
  if (m < f.rows) squares<S, Bytes, 1>(f, m);
}

/// Computes slab[k·slab_columns + j] = b[k·b_row + j], with the columns of transpose_block.
template <class S, int Bytes>
LORA_ALWAYS_INLINE void copy_block(Size depth, Size cols, const S* b, Size b_row, S* slab) {
  using Reg = Register<S, Bytes>;
  using Quarter = Register<S, 16>;
  const Size whole = (cols + slab_group - 1) / slab_group * slab_group;
  for (Size k = 0; k < depth; ++k, b += b_row, slab += slab_columns) {
    Size j = 0;
    for (; j + Reg::lanes <= cols; j += Reg::lanes) {
      typename Reg::type v;
      Reg::load(v, b + j);
      Reg::store(slab + j, v);
    }
    for (; j + Quarter::lanes <= cols; j += Quarter::lanes) {
      typename Quarter::type v;
      Quarter::load(v, b + j);
      Quarter::store(slab + j, v);
    }
    for (; j < cols; ++j) slab[j] = b[j];
    for (; j < whole; ++j) slab[j] = S{};
  }
}

/// Computes floats[i] = stored[i] for i < n; n is a multiple of slab_group.
template <int Bytes>
LORA_ALWAYS_INLINE void widen_block(Size n, const BF16* stored, float* floats) {
  using Reg = Register<float, Bytes>;
  for (Size i = 0; i < n; i += Reg::lanes) {
    typename Reg::type v;
    Reg::load(v, stored + i);
    Reg::store(floats + i, v);
  }
}

}  // namespace lora::kernels
