// Portable matrix product on raw pointers: C (+)= A B, A and B of any strides, C row-major.
//
// Every element of C is summed in one fixed order: k ascending in blocks of gemm_depth, block sums added in order.
// It does not depend on how C is cut into tiles, on its neighbours or on the number of threads.
#pragma once

#include <lora/core/namespace.hpp>

#include <cstddef>
#include <type_traits>

#define LORA_ALWAYS_INLINE inline __attribute__((always_inline))
// A loop over registers: unless it is unrolled, gcc keeps the registers in memory.
#if defined(__clang__)
#define LORA_UNROLL _Pragma("clang loop unroll(full)")
#else
#define LORA_UNROLL _Pragma("GCC unroll 16")
#endif

namespace LORA_NAMESPACE::kernels {

using Size = std::ptrdiff_t;

/// Rows of A's and B's shared dimension that are summed before the sum is added to C.
inline constexpr Size gemm_depth = 256;
/// Columns of C that are one piece of work for a thread.
inline constexpr Size gemm_columns = 128;

/// A register of `Bytes` bytes of S; for a type that has no registers of its own (complex) a single S.
template <class S, int Bytes, bool = std::is_floating_point_v<S>>
struct Register {
  typedef S type __attribute__((vector_size(Bytes)));
  typedef S unaligned __attribute__((vector_size(Bytes), aligned(alignof(S)), may_alias));
  static constexpr int lanes = Bytes / static_cast<int>(sizeof(S));
  static LORA_ALWAYS_INLINE type load(const S* p) { return *reinterpret_cast<const unaligned*>(p); }
  static LORA_ALWAYS_INLINE void store(S* p, type v) { *reinterpret_cast<unaligned*>(p) = v; }
};
template <class S, int Bytes>
struct Register<S, Bytes, false> {
  using type = S;
  static constexpr int lanes = 1;
  static LORA_ALWAYS_INLINE type load(const S* p) { return *p; }
  static LORA_ALWAYS_INLINE void store(S* p, type v) { *p = v; }
};

/// The tile of C that stays in registers.
template <class S>
struct GemmTile {
  using Reg = Register<S, 16>;
  static constexpr int rows = 4;
  static constexpr int cols = 2 * Reg::lanes;
};

/// C (Rows, tile columns) (+)= A (Rows, depth) B (depth, tile columns); A(m, k) at a[m·ars + k·acs], B's row k at b + k·brs.
template <class S, int Rows>
LORA_ALWAYS_INLINE void gemm_registers(Size depth, const S* a, Size ars, Size acs, const S* b,
                                       Size brs, S* c, Size crs, bool add) {
  using Reg = typename GemmTile<S>::Reg;
  using V = typename Reg::type;
  constexpr int lanes = Reg::lanes;
  V low[Rows] = {}, high[Rows] = {};
  for (Size k = 0; k < depth; ++k) {
    const V b0 = Reg::load(b), b1 = Reg::load(b + lanes);
    LORA_UNROLL
    for (int m = 0; m < Rows; ++m) {
      const S x = a[m * ars];
      low[m] += x * b0;
      high[m] += x * b1;
    }
    a += acs;
    b += brs;
  }
  LORA_UNROLL
  for (int m = 0; m < Rows; ++m, c += crs) {
    Reg::store(c, add ? Reg::load(c) + low[m] : low[m]);
    Reg::store(c + lanes, add ? Reg::load(c + lanes) + high[m] : high[m]);
  }
}

/// All rows of one column tile.
template <class S>
void gemm_column_tile(Size rows, Size depth, const S* a, Size ars, Size acs, const S* b, Size brs,
                      S* c, Size crs, bool add) {
  Size m = 0;
  for (; m + 4 <= rows; m += 4)
    gemm_registers<S, 4>(depth, a + m * ars, ars, acs, b, brs, c + m * crs, crs, add);
  switch (rows - m) {
    case 3:
      gemm_registers<S, 3>(depth, a + m * ars, ars, acs, b, brs, c + m * crs, crs, add);
      break;
    case 2:
      gemm_registers<S, 2>(depth, a + m * ars, ars, acs, b, brs, c + m * crs, crs, add);
      break;
    case 1:
      gemm_registers<S, 1>(depth, a + m * ars, ars, acs, b, brs, c + m * crs, crs, add);
      break;
    default:
      break;
  }
}

/// Copies B's (depth, used ≤ tile columns) block into a panel of one tile's width, filled up with zeros.
template <class S>
void gemm_pack(Size depth, Size used, const S* b, Size brs, Size bcs, S* packed) {
  constexpr Size width = GemmTile<S>::cols;
  for (Size j = 0; j < used; ++j) {
    for (Size k = 0; k < depth; ++k) packed[k * width + j] = b[k * brs + j * bcs];
  }
  for (Size j = used; j < width; ++j) {
    for (Size k = 0; k < depth; ++k) packed[k * width + j] = S(0);
  }
}

/// C (rows, cols) (+)= A (rows, depth) B (depth, cols), of any size. The caller's thread alone; allocates nothing. B's
/// rows are read where they stand if they are contiguous; otherwise, and for the last columns, one panel of 8 KiB at a time
/// is packed on the stack.
template <class S>
void gemm_tile(Size rows, Size cols, Size depth, const S* a, Size ars, Size acs, const S* b,
               Size brs, Size bcs, S* c, Size crs, bool add) {
  constexpr Size width = GemmTile<S>::cols, tall = GemmTile<S>::rows;
  S packed[gemm_depth * width], edge[tall * width];
  for (Size k0 = 0; k0 < depth; k0 += gemm_depth, add = true) {
    const Size kc = depth - k0 < gemm_depth ? depth - k0 : gemm_depth;
    const S* ak = a + k0 * acs;
    for (Size n = 0; n < cols; n += width) {
      const Size used = cols - n < width ? cols - n : width;
      const bool direct = bcs == 1 && used == width;
      const S* bk = b + k0 * brs + n * bcs;
      if (!direct) gemm_pack(kc, used, bk, brs, bcs, packed);
      const S* panel = direct ? bk : packed;
      const Size panel_stride = direct ? brs : width;
      if (used == width) {
        gemm_column_tile(rows, kc, ak, ars, acs, panel, panel_stride, c + n, crs, add);
        continue;
      }
      for (Size m = 0; m < rows; m += tall) {  // the last columns go through a whole tile beside C
        const Size count = rows - m < tall ? rows - m : tall;
        gemm_column_tile(count, kc, ak + m * ars, ars, acs, panel, panel_stride, edge, width,
                         false);
        for (Size i = 0; i < count; ++i) {
          for (Size j = 0; j < used; ++j) {
            S& out = c[(m + i) * crs + n + j];
            out = add ? out + edge[i * width + j] : edge[i * width + j];
          }
        }
      }
    }
  }
}

}  // namespace LORA_NAMESPACE::kernels
