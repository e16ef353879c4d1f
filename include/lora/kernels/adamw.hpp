// One AdamW update of a tensor on raw pointers: a portable loop and one of eight floats at a time.
#pragma once

#include <cmath>
#include <cstddef>
#include <type_traits>

// Vector types lack only the square root as an operator. Including <immintrin.h> for it would cost
// every user more compile time than all of optim/.
#if defined(__x86_64__) && defined(__GNUC__)
#if !defined(__clang__) || __has_builtin(__builtin_ia32_sqrtps256)
#define LORA_ADAMW_SQRT(x) __builtin_ia32_sqrtps256(x)
#elif __has_builtin(__builtin_elementwise_sqrt)
#define LORA_ADAMW_SQRT(x) __builtin_elementwise_sqrt(x)
#endif
#endif

namespace lora::kernels {

/// The coefficients of one AdamW update of one tensor, each rounded once from double to S.
template <class S>
struct AdamWCoefficients {
  S decay;  ///< 1 − lr · weight_decay
  S sign;   ///< −1 to maximize, else 1
  S one_minus_beta1;
  S beta2;
  S one_minus_beta2;
  S root_correction2;  ///< √(1 − beta2^t)
  S eps;
  S step_size;  ///< lr / (1 − beta1^t)
};

/// Updates n elements in S, in the order of operations of torch.optim.AdamW (one tensor at a time):
///   d = sign g,  m += (1−β1)(d − m),  v = β2 v + (1−β2) d²,
///   w = v, or with amsgrad the largest v so far,
///   p = decay p − step_size m / (√w / root_correction2 + eps).
/// `v_max` holds the largest v and is null without amsgrad. The arrays must not overlap.
/// Allocates: nothing.
template <class S>
void adamw_portable(std::ptrdiff_t n, const AdamWCoefficients<S>& c, const S* __restrict g,
                    S* __restrict p, S* __restrict m, S* __restrict v, S* __restrict v_max) {
  // m + w (d − m) loses digits when w is large, so PyTorch's lerp then starts from d.
  const bool near = c.one_minus_beta1 < S(0.5);
  const S weight = near ? c.one_minus_beta1 : c.one_minus_beta1 - S(1);
  for (std::ptrdiff_t i = 0; i < n; ++i) {
    const S d = c.sign * g[i];
    const S mean = (near ? m[i] : d) + weight * (d - m[i]);
    S square = c.beta2 * v[i] + c.one_minus_beta2 * d * d;
    m[i] = mean;
    v[i] = square;
    if (v_max != nullptr) {
      square = square < v_max[i] ? v_max[i] : square;  // a NaN in v stays, as in torch.maximum
      v_max[i] = square;
    }
    const S denominator = std::sqrt(square) / c.root_correction2 + c.eps;
    p[i] = p[i] * c.decay - c.step_size * mean / denominator;
  }
}

#if defined(LORA_ADAMW_SQRT)
/// Runs adamw_portable without amsgrad on the first n / 8 · 8 elements and returns their number. It
/// does the same operations in the same order, so the bits are equal wherever the compiler does not
/// contract a multiplication and an addition.
__attribute__((target("avx"))) inline std::ptrdiff_t adamw_avx(
    std::ptrdiff_t n, const AdamWCoefficients<float>& c, const float* __restrict g,
    float* __restrict p, float* __restrict m, float* __restrict v) {
  typedef float Eight __attribute__((vector_size(32)));
  typedef float Stored __attribute__((vector_size(32), aligned(alignof(float)), may_alias));
  const bool near = c.one_minus_beta1 < 0.5f;
  const float weight = near ? c.one_minus_beta1 : c.one_minus_beta1 - 1;
  std::ptrdiff_t i = 0;
  for (; i + 8 <= n; i += 8) {
    Stored &p8 = *reinterpret_cast<Stored*>(p + i), &m8 = *reinterpret_cast<Stored*>(m + i);
    Stored& v8 = *reinterpret_cast<Stored*>(v + i);
    const Eight d = c.sign * *reinterpret_cast<const Stored*>(g + i), old = m8;
    const Eight mean = (near ? old : d) + weight * (d - old);
    const Eight square = c.beta2 * v8 + c.one_minus_beta2 * d * d;
    m8 = mean;
    v8 = square;
    const Eight denominator = LORA_ADAMW_SQRT(square) / c.root_correction2 + c.eps;
    p8 = p8 * c.decay - c.step_size * mean / denominator;
  }
  return i;
}
#endif

/// Runs adamw_portable, eight floats at a time if `Vectors` says that AVX may be used.
template <class S, bool Vectors>
void adamw_update(std::ptrdiff_t n, const AdamWCoefficients<S>& c, const S* g, S* p, S* m, S* v,
                  S* v_max) {
  std::ptrdiff_t i = 0;
#if defined(LORA_ADAMW_SQRT)
  // Compilers cannot vectorise the portable loop because std::sqrt may set errno.
  if constexpr (Vectors && std::is_same_v<S, float>) {
    if (v_max == nullptr) i = adamw_avx(n, c, g, p, m, v);
  }
#endif
  adamw_portable(n - i, c, g + i, p + i, m + i, v + i, v_max == nullptr ? nullptr : v_max + i);
}

/// The AdamW update of one instruction set.
template <class S>
using AdamWKernel = void (*)(std::ptrdiff_t n, const AdamWCoefficients<S>& c, const S* g, S* p,
                             S* m, S* v, S* v_max);

}  // namespace lora::kernels

#undef LORA_ADAMW_SQRT
