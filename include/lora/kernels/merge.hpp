// Adds a change to a block of a stored weight, on registers of any width.
#pragma once

#include <lora/kernels/vector.hpp>

namespace lora::kernels {

/// A (rows, cols) block of a row-major matrix.
template <class T>
struct Block {
  Size rows, cols;
  T* data;
  Size row_stride;
};

/// Rounds floats to bfloat16, ties to even. A NaN stays a NaN.
template <int Bytes>
LORA_ALWAYS_INLINE void store_rounded(BF16* p, const typename Register<float, Bytes>::type& v) {
  using Half = typename BF16Lanes<Bytes>::Half;
  using Whole = typename BF16Lanes<Bytes>::Whole;
  const Whole bits = reinterpret_cast<Whole>(v);
  const Whole rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  const Whole quiet = (bits >> 16) | 0x40u;
  const Whole kept = (bits & 0x7FFFFFFFu) > 0x7F800000u ? quiet : rounded;
  *reinterpret_cast<Half*>(p) = __builtin_convertvector(kept, Half);
}
template <int Bytes, class S>
LORA_ALWAYS_INLINE void store_rounded(S* p, const typename Register<S, Bytes>::type& v) {
  Register<S, Bytes>::store(p, v);
}

/// Computes sum = scale · change for n elements, or adds it with `add`.
template <class S, int Bytes>
LORA_ALWAYS_INLINE void scale_elements(Size n, const S& scale, const S* change, S* sum, bool add) {
  using Reg = Register<S, Bytes>;
  Size i = 0;
  for (; i + Reg::lanes <= n; i += Reg::lanes) {
    typename Reg::type v, w{};
    Reg::load(v, change + i);
    if (add) {
      Reg::load(w, sum + i);
      Reg::store(sum + i, w + v * scale);
    } else {
      Reg::store(sum + i, v * scale);
    }
  }
  for (; i < n; ++i) sum[i] = add ? sum[i] + change[i] * scale : change[i] * scale;
}

/// Computes to = from + change, summed in S and rounded once to the stored type.
template <class S, int Bytes, class Stored>
LORA_ALWAYS_INLINE void add_change(const Block<const Stored>& from, const S* change,
                                   Size change_stride, Stored* to, Size to_stride) {
  using Reg = Register<S, Bytes>;
  for (Size i = 0; i < from.rows; ++i) {
    const Stored* a = from.data + i * from.row_stride;
    const S* b = change + i * change_stride;
    Stored* c = to + i * to_stride;
    Size j = 0;
    for (; j + Reg::lanes <= from.cols; j += Reg::lanes) {
      typename Reg::type v, w;
      Reg::load(v, a + j);
      Reg::load(w, b + j);
      store_rounded<Bytes>(c + j, typename Reg::type(v + w));
    }
    if (j == from.cols) continue;
    S part[Reg::lanes] = {};
    Stored rounded[Reg::lanes];
    for (Size k = j; k < from.cols; ++k) part[k - j] = to_scalar<S>(a[k]) + b[k];
    typename Reg::type v;
    Reg::load(v, part);
    store_rounded<Bytes>(rounded, v);
    for (Size k = j; k < from.cols; ++k) c[k] = rounded[k - j];
  }
}

/// One instruction set's kernels for merging: sums in S, values stored as Stored.
template <class S, class Stored>
struct MergeKernels {
  void (*scale)(Size n, const S& scale, const S* change, S* sum, bool add);
  void (*add)(const Block<const Stored>& from, const S* change, Size change_stride, Stored* to,
              Size to_stride);
};

}  // namespace lora::kernels
