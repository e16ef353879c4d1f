// Portable matrix product on raw pointers: C (+)= A B, A and B of any strides, C row-major.
//
// Every element of C is summed in one fixed order: k ascending in blocks of gemm_depth, block sums added in order.
// It does not depend on how C is cut into tiles, on its neighbours or on the number of threads.
#pragma once

#include <lora/core/namespace.hpp>

#include <cstddef>
#include <cstring>
#include <memory>
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
/// Columns of C that one call of gemm_tile may cover.
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

/// Copies B's (depth, cols) block into panels of one tile's width, the last one filled up with zeros.
template <class S>
void gemm_pack(Size depth, Size cols, const S* b, Size brs, Size bcs, S* packed) {
  constexpr Size width = GemmTile<S>::cols;
  for (Size n = 0; n < cols; n += width) {
    const Size used = cols - n < width ? cols - n : width;
    for (Size j = 0; j < width; ++j) {
      const S* from = b + (n + j) * bcs;
      for (Size k = 0; k < depth; ++k) packed[k * width + j] = j < used ? from[k * brs] : S(0);
    }
    packed += depth * width;
  }
}

/// The calling thread's scratch for one packed block; made at the first use, kept for the thread's life.
template <class S>
S* gemm_scratch() {
  thread_local std::unique_ptr<S[]> memory(
      new S[static_cast<std::size_t>(gemm_depth * gemm_columns)]);
  return memory.get();
}

/// C (rows, cols ≤ gemm_columns) (+)= A (rows, depth) B (depth, cols), of any depth. The caller's thread alone.
template <class S>
void gemm_tile(Size rows, Size cols, Size depth, const S* a, Size ars, Size acs, const S* b,
               Size brs, Size bcs, S* c, Size crs, bool add) {
  constexpr Size width = GemmTile<S>::cols;
  S edge[GemmTile<S>::rows * width];
  for (Size k0 = 0; k0 < depth; k0 += gemm_depth, add = true) {
    const Size kc = depth - k0 < gemm_depth ? depth - k0 : gemm_depth;
    const S* ak = a + k0 * acs;
    const S* bk = b + k0 * brs;
    const bool direct = bcs == 1;  // B's rows are contiguous: whole tiles are read where they stand
    S* packed = gemm_scratch<S>();
    if (!direct) gemm_pack(kc, cols, bk, brs, bcs, packed);
    for (Size n = 0; n < cols; n += width) {
      const Size used = cols - n < width ? cols - n : width;
      const S* panel = direct ? bk + n : packed + n * kc;
      Size panel_stride = direct ? brs : width;
      if (used == width) {
        gemm_column_tile(rows, kc, ak, ars, acs, panel, panel_stride, c + n, crs, add);
        continue;
      }
      if (direct) {
        gemm_pack(kc, used, bk + n, brs, Size{1}, packed);
        panel = packed;
        panel_stride = width;
      }
      for (Size m = 0; m < rows; m += 4) {  // the last columns go through a whole tile beside C
        const Size count = rows - m < 4 ? rows - m : 4;
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
