// Elementwise functions, most of them with an exponential, on registers of any width: activations
// and the rows of a softmax. They work on raw pointers, allocate nothing and use no other thread.
#pragma once

#include <lora/kernels/vector.hpp>

namespace lora::kernels {

/// Vectors of floats and of their bits.
template <int Bytes>
struct Floats {
  using V = typename Register<float, Bytes>::type;
  using Bits = typename BF16Lanes<Bytes>::Whole;
};

/// Computes x = eˣ within 2 units in the last place, denormal results included. Below and above
/// that range the result is 0 or ∞; a NaN stays a NaN.
/// With n = round(x / ln 2) and r = x - n ln 2, the result is 2ⁿ times the Taylor polynomial of eʳ.
/// Its remainder is below 6e-9 for |r| ≤ ln 2 / 2.
template <int Bytes>
LORA_ALWAYS_INLINE void exponential(typename Floats<Bytes>::V& x) {
  using V = typename Floats<Bytes>::V;
  using Bits = typename Floats<Bytes>::Bits;
  const V lowest = V{} - 104.0f, highest = V{} + 89.0f;
  x = x < lowest ? lowest : x;  // a NaN compares false and stays
  x = x > highest ? highest : x;
  // Adding 1.5 · 2²³ rounds a number to an integer in the lowest bits.
  const V rounder = V{} + 12582912.0f;
  const V shifted = x * 1.44269504f + rounder, n = shifted - rounder;
  V r = x - n * 0.693359375f;  // ln 2 in two parts; the first has few digits
  r = r + n * 2.12194440e-4f;
  V p = V{} + 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  // 2ⁿ as two factors: one factor would be out of range for the largest and for denormal results.
  const Bits whole = reinterpret_cast<Bits>(shifted) - reinterpret_cast<Bits>(rounder) + 1024;
  const Bits half = whole >> 1;  // of n + 1024, which is positive
  x = p * reinterpret_cast<V>((half - 512 + 127) << 23) *
      reinterpret_cast<V>((whole - half - 512 + 127) << 23);
}

/// Computes x = σ(x) = 1 / (1 + e⁻ˣ).
template <int Bytes>
LORA_ALWAYS_INLINE void logistic(typename Floats<Bytes>::V& x) {
  x = -x;
  exponential<Bytes>(x);
  x = 1.0f / (1.0f + x);
}

/// Computes the standard normal distribution Φ(x) = ½ erfc(-x / √2) and the factor e^(-x²/2) of its
/// density.
/// With z = |x| / √2 and t = 1 / (1 + 0.4 z), erfc(z) = e^(-z²) t P(t). P is a fit of degree 9 with
/// a relative error below 9e-9 for z ≤ 10.3, where the exponential is 0.
template <int Bytes>
LORA_ALWAYS_INLINE void normal_distribution(typename Floats<Bytes>::V& x,
                                            typename Floats<Bytes>::V& exponent) {
  using V = typename Floats<Bytes>::V;
  const V z = (x < 0.0f ? -x : x) * 0.707106781f;
  exponent = x * x * -0.5f;
  exponential<Bytes>(exponent);
  const V t = 1.0f / (1.0f + 0.4f * z);
  V p = V{} - 0.0290147201f;
  p = p * t + 0.194866905f;
  p = p * t - 0.491417593f;
  p = p * t + 0.537582808f;
  p = p * t - 0.276180236f;
  p = p * t + 0.267677411f;
  p = p * t + 0.131194518f;
  p = p * t + 0.214595073f;
  p = p * t + 0.224990929f;
  p = p * t + 0.225704913f;
  const V tail = 0.5f * exponent * t * p;
  x = x < 0.0f ? tail : 1.0f - tail;
}

// One struct per function: out = f(x), or out = dy f'(x) in those named Backward. A NaN stays a
// NaN.
template <int Bytes>
struct SigmoidLanes {
  using V = typename Floats<Bytes>::V;
  static LORA_ALWAYS_INLINE void apply(V& out, const V& x, const V&) {
    out = x;
    logistic<Bytes>(out);
  }
};
template <int Bytes>
struct SigmoidBackwardLanes {
  using V = typename Floats<Bytes>::V;
  static LORA_ALWAYS_INLINE void apply(V& out, const V& x, const V& dy) {
    V s = x;
    logistic<Bytes>(s);
    out = dy * (1.0f - s) * s;
  }
};
template <int Bytes>
struct SiluLanes {
  using V = typename Floats<Bytes>::V;
  static LORA_ALWAYS_INLINE void apply(V& out, const V& x, const V&) {
    V e = -x;
    exponential<Bytes>(e);
    out = x / (1.0f + e);
  }
};
template <int Bytes>
struct SiluBackwardLanes {
  using V = typename Floats<Bytes>::V;
  static LORA_ALWAYS_INLINE void apply(V& out, const V& x, const V& dy) {
    V s = x;
    logistic<Bytes>(s);
    out = dy * s * (1.0f + x * (1.0f - s));
  }
};
// ½ (1 + tanh u) = σ(2u) does not cancel for negative u.
template <int Bytes>
struct GeluTanhLanes {
  using V = typename Floats<Bytes>::V;
  static LORA_ALWAYS_INLINE void apply(V& out, const V& x, const V&) {
    V s = 1.59576912f * (x + 0.044715f * (x * x * x));
    logistic<Bytes>(s);
    out = x * s;
  }
};
template <int Bytes>
struct GeluTanhBackwardLanes {
  using V = typename Floats<Bytes>::V;
  static LORA_ALWAYS_INLINE void apply(V& out, const V& x, const V& dy) {
    V s = 1.59576912f * (x + 0.044715f * (x * x * x));
    logistic<Bytes>(s);
    const V ds = s * (1.0f - s);
    // Where σ has saturated, x² may have overflowed, and 0 · ∞ would turn a finite x into a NaN.
    const V slope = ds == 0.0f ? V{} : ds * (1.59576912f + 0.214064837f * (x * x));
    out = dy * (s + x * slope);
  }
};
// "<= 0" rather than "> 0", so that a NaN passes through. A selection rather than a product, so
// that an infinite dy does not reach elements that are off.
template <int Bytes>
struct ReluLanes {
  using V = typename Floats<Bytes>::V;
  static LORA_ALWAYS_INLINE void apply(V& out, const V& x, const V&) { out = x <= 0.0f ? V{} : x; }
};
template <int Bytes>
struct ReluBackwardLanes {
  using V = typename Floats<Bytes>::V;
  static LORA_ALWAYS_INLINE void apply(V& out, const V& x, const V& dy) {
    out = x <= 0.0f ? V{} : dy;
  }
};
template <int Bytes>
struct GeluLanes {
  using V = typename Floats<Bytes>::V;
  static LORA_ALWAYS_INLINE void apply(V& out, const V& x, const V&) {
    V phi = x, density;
    normal_distribution<Bytes>(phi, density);
    out = x * phi;
  }
};
template <int Bytes>
struct GeluBackwardLanes {
  using V = typename Floats<Bytes>::V;
  static LORA_ALWAYS_INLINE void apply(V& out, const V& x, const V& dy) {
    V phi = x, density;
    normal_distribution<Bytes>(phi, density);
    out = dy * (phi + 0.398942280f * x * density);
  }
};

/// Computes out[i] = F(x[i], dy[i]); out may be x or dy.
template <template <int> class F, int Bytes>
LORA_ALWAYS_INLINE void map_elements(Size n, const float* x, const float* dy, float* out) {
  using Reg = Register<float, Bytes>;
  typename Reg::type a, b, y;
  Size i = 0;
  for (; i + Reg::lanes <= n; i += Reg::lanes) {
    Reg::load(a, x + i);
    Reg::load(b, dy + i);
    F<Bytes>::apply(y, a, b);
    Reg::store(out + i, y);
  }
  if (i == n) return;
  float last[3][Reg::lanes] = {};
  for (Size k = i; k < n; ++k) last[0][k - i] = x[k], last[1][k - i] = dy[k];
  Reg::load(a, last[0]);
  Reg::load(b, last[1]);
  F<Bytes>::apply(y, a, b);
  Reg::store(last[2], y);
  for (Size k = i; k < n; ++k) out[k] = last[2][k - i];
}

/// Computes e[i] = exp(x[i] - shift), stores it unless e is null, and returns the sum. The sum is
/// made in double, in an order that depends only on the register width. e may be x.
template <int Bytes>
LORA_ALWAYS_INLINE double exponentials(Size n, const float* x, float shift, float* e) {
  using Reg = Register<float, Bytes>;
  using Half = Register<float, Bytes / 2>;
  using Wide = typename Register<double, Bytes>::type;
  Wide low{}, high{};
  float part[Reg::lanes];
  Size i = 0;
  for (; i + Reg::lanes <= n; i += Reg::lanes) {
    typename Reg::type v;
    Reg::load(v, x + i);
    v = v - shift;
    exponential<Bytes>(v);
    if (e != nullptr) Reg::store(e + i, v);
    typename Half::type first, second;
    Reg::store(part, v);
    Half::load(first, part);
    Half::load(second, part + Half::lanes);
    low += __builtin_convertvector(first, Wide);
    high += __builtin_convertvector(second, Wide);
  }
  double sums[Half::lanes], sum = 0;
  Register<double, Bytes>::store(sums, low + high);
  for (const double lane : sums) sum += lane;
  if (i == n) return sum;
  for (Size k = 0; k < Reg::lanes; ++k) part[k] = i + k < n ? x[i + k] : shift;
  typename Reg::type v;
  Reg::load(v, part);
  v = v - shift;
  exponential<Bytes>(v);
  Reg::store(part, v);
  for (Size k = 0; i + k < n; ++k) {
    if (e != nullptr) e[i + k] = part[k];
    sum += static_cast<double>(part[k]);
  }
  return sum;
}

/// Returns the largest x[i]; n >= 1. A NaN counts only if it is the first.
template <int Bytes>
LORA_ALWAYS_INLINE float largest(Size n, const float* x) {
  using Reg = Register<float, Bytes>;
  typename Reg::type best = typename Reg::type{} + x[0], v;
  Size i = 0;
  for (; i + Reg::lanes <= n; i += Reg::lanes) {
    Reg::load(v, x + i);
    best = v > best ? v : best;
  }
  float lanes[Reg::lanes];
  Reg::store(lanes, best);
  float m = lanes[0];
  for (const float lane : lanes) m = lane > m ? lane : m;
  for (; i < n; ++i) m = x[i] > m ? x[i] : m;
  return m;
}

/// Computes x[i] = factor x[i] - subtrahend.
template <int Bytes>
LORA_ALWAYS_INLINE void scale_and_shift(Size n, float factor, float subtrahend, float* x) {
  using Reg = Register<float, Bytes>;
  Size i = 0;
  for (; i + Reg::lanes <= n; i += Reg::lanes) {
    typename Reg::type v;
    Reg::load(v, x + i);
    Reg::store(x + i, v * factor - subtrahend);
  }
  for (; i < n; ++i) x[i] = x[i] * factor - subtrahend;
}

/// One instruction set's kernel for map_elements, and its kernels for a row of a softmax.
using ElementKernel = void (*)(Size n, const float* x, const float* dy, float* out);
struct SoftmaxKernels {
  double (*exponentials)(Size n, const float* x, float shift, float* e);
  float (*largest)(Size n, const float* x);
  void (*scale_and_shift)(Size n, float factor, float subtrahend, float* x);
};

}  // namespace lora::kernels
