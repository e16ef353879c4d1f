// Registers as GCC's vector extension has them: one spelling for every width, no intrinsics.
#pragma once

#include <lora/core/namespace.hpp>

#include <cstddef>
#include <cstdint>
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

/// A bfloat16 as it is stored: the upper half of a float. Sums are never made in it.
struct BF16 {
  std::uint16_t bits;
};

/// Vectors of as many bfloat16, and of their floats' bits, as a register of `Bytes` bytes has
/// floats. gcc loses a vector_size that depends on a template parameter in a function's typedef.
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

/// A register of `Bytes` bytes of S; for a type that has no registers of its own (complex) a single
/// S. Values go by reference: by value, a wide register would be another ABI in each build.
template <class S, int Bytes, bool = std::is_floating_point_v<S>>
struct Register {
  typedef S type __attribute__((vector_size(Bytes)));
  typedef S unaligned __attribute__((vector_size(Bytes), aligned(alignof(S)), may_alias));
  static constexpr int lanes = Bytes / static_cast<int>(sizeof(S));

  static LORA_ALWAYS_INLINE void load(type& v, const S* p) {
    v = *reinterpret_cast<const unaligned*>(p);
  }
  /// `lanes` stored bfloat16 as floats.
  static LORA_ALWAYS_INLINE void load(type& v, const BF16* p) {
    using Half = typename BF16Lanes<Bytes>::Half;
    using Whole = typename BF16Lanes<Bytes>::Whole;
    const Whole bits = __builtin_convertvector(*reinterpret_cast<const Half*>(p), Whole) << 16;
    v = reinterpret_cast<type>(bits);
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

/// What the element stands for.
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

/// Exchanges the lanes of a that have bit Distance with those of b that have not.
template <int Distance, class V, int... I>
LORA_ALWAYS_INLINE void exchange(V& a, V& b, Lanes<I...>) {
  constexpr int n = sizeof...(I);
  const V low = __builtin_shufflevector(a, b, ((I & Distance) ? n + I - Distance : I)...);
  b = __builtin_shufflevector(a, b, ((I & Distance) ? n + I : I + Distance)...);
  a = low;
}

/// v[i][j] and v[j][i] change places, for a square of Count registers of Count lanes.
template <int Count, int Distance = 1, class V>
LORA_ALWAYS_INLINE void transpose_square(V* v) {
  if constexpr (Distance < Count) {
    LORA_UNROLL
    for (int i = 0; i < Count; ++i) {
      if ((i & Distance) == 0)
        exchange<Distance>(v[i], v[i + Distance], typename LanesUpTo<Count>::type{});
    }
    transpose_square<Count, 2 * Distance>(v);
  }
}

}  // namespace LORA_NAMESPACE::kernels
