// Registers on GCC's vector extension: one spelling for every width, without intrinsics.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#define LORA_ALWAYS_INLINE inline __attribute__((always_inline))
// Unrolls a loop over registers; otherwise gcc keeps the registers in memory.
#if defined(__clang__)
#define LORA_UNROLL _Pragma("clang loop unroll(full)")
#else
#define LORA_UNROLL _Pragma("GCC unroll 16")
#endif

namespace lora::kernels {

using Size = std::ptrdiff_t;

/// A stored bfloat16: the upper half of a float. No sum is made in it.
struct BF16 {
  std::uint16_t bits;
};

/// Two consecutive terms of a sum, both bfloat16, the first in the lower half. Kernels pass a pair
/// as the bits of a float.
struct BF16Pair {
  std::uint32_t bits;
};

/// Vectors of as many bfloat16 values (Half) and float bits (Whole) as a register of `Bytes` bytes
/// has floats. They are specialisations because gcc drops a vector_size that depends on a template
/// parameter from a function's typedef.
template <int Bytes>
struct BF16Lanes;
template <>
struct BF16Lanes<16> {
  typedef std::uint16_t Half __attribute__((vector_size(8), aligned(2), may_alias));
  typedef std::uint32_t Whole __attribute__((vector_size(16)));
};
template <>
struct BF16Lanes<32> {
  typedef std::uint16_t Half __attribute__((vector_size(16), aligned(2), may_alias));
  typedef std::uint32_t Whole __attribute__((vector_size(32)));
};
template <>
struct BF16Lanes<64> {
  typedef std::uint16_t Half __attribute__((vector_size(32), aligned(2), may_alias));
  typedef std::uint32_t Whole __attribute__((vector_size(64)));
};

/// Loads bfloat16 as integers of twice the width. gcc converts two halves and joins them with four
/// needless shuffles, which take longer than the product. An instruction set that widens while
/// loading specialises this in its own header.
template <int Bytes>
struct Widening {
  using Half = typename BF16Lanes<Bytes>::Half;
  using Whole = typename BF16Lanes<Bytes>::Whole;
  static LORA_ALWAYS_INLINE void load(Whole& v, const BF16* p) {
    v = __builtin_convertvector(*reinterpret_cast<const Half*>(p), Whole);
  }
};

/// A register of `Bytes` bytes of S, or a single S for a type without registers (complex). Values
/// are passed by reference: by value, a wide register would have another ABI in each build.
template <class S, int Bytes, bool = std::is_floating_point_v<S>>
struct Register {
  typedef S type __attribute__((vector_size(Bytes)));
  typedef S unaligned __attribute__((vector_size(Bytes), aligned(alignof(S)), may_alias));
  static constexpr int lanes = Bytes / static_cast<int>(sizeof(S));

  static LORA_ALWAYS_INLINE void load(type& v, const S* p) {
    v = *reinterpret_cast<const unaligned*>(p);
  }
  /// Loads `lanes` stored bfloat16 values as floats.
  static LORA_ALWAYS_INLINE void load(type& v, const BF16* p) {
    typename BF16Lanes<Bytes>::Whole bits;
    Widening<Bytes>::load(bits, p);
    bits <<= 16;
    v = reinterpret_cast<type>(bits);
  }
  static LORA_ALWAYS_INLINE void load(type& v, const BF16Pair* p) {
    v = *reinterpret_cast<const unaligned*>(p);
  }
  static LORA_ALWAYS_INLINE void store(S* p, const type& v) {
    *reinterpret_cast<unaligned*>(p) = v;
  }
};
template <class S, int Bytes>
struct Register<S, Bytes, false> {
  using type = S;
  static constexpr int lanes = 1;
  static LORA_ALWAYS_INLINE void load(type& v, const S* p) { v = *p; }
  static LORA_ALWAYS_INLINE void store(S* p, const type& v) { *p = v; }
};

/// Whether a register of half the width exists.
template <class S, int Bytes>
inline constexpr bool has_half = Bytes > 16 && Register<S, Bytes>::lanes > 1;

/// Returns the value of a stored element.
template <class S>
LORA_ALWAYS_INLINE S to_scalar(const S& x) {
  return x;
}
template <class S>
LORA_ALWAYS_INLINE S to_scalar(const BF16& x) {
  return __builtin_bit_cast(float, static_cast<std::uint32_t>(x.bits) << 16);
}

// ---- transposing a square of registers ----

template <int... I>
struct Lanes {};
template <int N, int... I>
struct LanesUpTo : LanesUpTo<N - 1, N - 1, I...> {};
template <int... I>
struct LanesUpTo<0, I...> {
  using type = Lanes<I...>;
};

/// Loads a register from quarters of 16 bytes: quarter q, 16 / sizeof(S) elements stored as B, is
/// at p + q·distance. An instruction set that inserts quarters straight from memory specialises
/// this in its own header.
template <class S, int Bytes, class B>
struct Quarters {
  using V = typename Register<S, Bytes>::type;
  static LORA_ALWAYS_INLINE void load(V& v, const B* p, Size distance) {
    if constexpr (Bytes == 16 || Register<S, Bytes>::lanes == 1) {
      Register<S, Bytes>::load(v, p);
    } else {
      typename Register<S, Bytes / 2>::type low, high;
      Quarters<S, Bytes / 2, B>::load(low, p, distance);
      Quarters<S, Bytes / 2, B>::load(high, p + Bytes / 32 * distance, distance);
      join(v, low, high, typename LanesUpTo<Register<S, Bytes>::lanes>::type{});
    }
  }

 private:
  template <class Half, int... I>
  static LORA_ALWAYS_INLINE void join(V& v, const Half& low, const Half& high, Lanes<I...>) {
    v = __builtin_shufflevector(low, high, I...);
  }
};

/// In each quarter of Wide lanes, interleaves groups of Group lanes of a and b: those of the lower
/// halves into a, those of the upper halves into b.
template <int Wide, int Group, class V, int... I>
LORA_ALWAYS_INLINE void interleave(V& a, V& b, Lanes<I...>) {
  constexpr int n = sizeof...(I);
  const V low = __builtin_shufflevector(
      a, b,
      (I / Wide * Wide + I % Wide / (2 * Group) * Group + I % Group + (I / Group % 2) * n)...);
  b = __builtin_shufflevector(a, b,
                              (I / Wide * Wide + Wide / 2 + I % Wide / (2 * Group) * Group +
                               I % Group + (I / Group % 2) * n)...);
  a = low;
}

/// Swaps v[i][j] and v[j][i] in each quarter of Wide registers.
template <int Wide, int Count, class V>
LORA_ALWAYS_INLINE void transpose_quarters(V* v) {
  using All = typename LanesUpTo<Count>::type;
  if constexpr (Wide == 2) {
    interleave<2, 1>(v[0], v[1], All{});
  } else if constexpr (Wide == 4) {
    interleave<4, 1>(v[0], v[1], All{});
    interleave<4, 1>(v[2], v[3], All{});
    interleave<4, 2>(v[0], v[2], All{});
    interleave<4, 2>(v[1], v[3], All{});
    const V second = v[2];
    v[2] = v[1];
    v[1] = second;
  }
}

/// Loads v[k][j] = b[j·b_row + k] for a square of as many registers as one has lanes. Loads put the
/// quarters in their places, because shuffles across quarters are slow; two shuffles per register
/// remain.
template <class S, int Bytes, class B>
LORA_ALWAYS_INLINE void load_transposed(typename Register<S, Bytes>::type* v, const B* b,
                                        Size b_row) {
  constexpr int lanes = Register<S, Bytes>::lanes;
  constexpr int wide = lanes == 1 ? 1 : 16 / static_cast<int>(sizeof(S));
  LORA_UNROLL
  for (int k = 0; k < lanes; k += wide) {
    LORA_UNROLL
    for (int j = 0; j < wide; ++j)
      Quarters<S, Bytes, B>::load(v[k + j], b + j * b_row + k, wide * b_row);
    transpose_quarters<wide, lanes>(v + k);
  }
}

}  // namespace lora::kernels
