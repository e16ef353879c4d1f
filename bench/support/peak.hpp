// Measures the peak of this processor, in the process whose figures are compared with it.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <thread>
#include <vector>

namespace bench {

inline double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

template <int Bytes>
struct FloatVector {
  typedef float type __attribute__((vector_size(Bytes)));
};

/// Runs multiply-adds on registers only: `Accumulators` vectors of `Bytes` bytes, `rounds` times.
/// Returns a value that depends on all of them, so that none is optimised away.
template <int Bytes, int Accumulators>
inline __attribute__((always_inline)) float multiply_add_loop(std::int64_t rounds, float a,
                                                              float b) {
  using Vector = typename FloatVector<Bytes>::type;
  Vector sum[Accumulators];
  const Vector va = Vector{} + a, vb = Vector{} + b;
#pragma GCC unroll 32
  for (int i = 0; i < Accumulators; ++i) sum[i] = Vector{} + static_cast<float>(i);
  for (std::int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 32
    for (int i = 0; i < Accumulators; ++i) sum[i] = sum[i] * va + vb;
  }
  // An index that is not a constant would keep the registers in memory and store them each round.
#pragma GCC unroll 32
  for (int i = 1; i < Accumulators; ++i) sum[0] += sum[i];
  Vector all = sum[0];
  float total = 0;
  for (std::size_t k = 0; k < Bytes / sizeof(float); ++k) total += all[k];
  return total;
}

#if defined(__x86_64__)
__attribute__((target("avx512f"))) inline float multiply_add_512(std::int64_t n, float a, float b) {
  return multiply_add_loop<64, 24>(n, a, b);
}
__attribute__((target("avx2,fma"))) inline float multiply_add_256(std::int64_t n, float a,
                                                                  float b) {
  return multiply_add_loop<32, 12>(n, a, b);
}
/// Runs products of pairs of bfloat16 numbers, summed in float32.
__attribute__((target("avx512f,avx512bf16"))) inline float bf16_pairs_512(std::int64_t rounds,
                                                                          float a, float b) {
  constexpr int accumulators = 24;
  __m512 sum[accumulators];
  const __m512bh va = _mm512_cvtne2ps_pbh(_mm512_set1_ps(a), _mm512_set1_ps(a)),
                 vb = _mm512_cvtne2ps_pbh(_mm512_set1_ps(b), _mm512_set1_ps(b));
#pragma GCC unroll 32
  for (int i = 0; i < accumulators; ++i) sum[i] = _mm512_set1_ps(static_cast<float>(i));
  for (std::int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 32
    for (int i = 0; i < accumulators; ++i) sum[i] = _mm512_dpbf16_ps(sum[i], va, vb);
  }
#pragma GCC unroll 32
  for (int i = 1; i < accumulators; ++i) sum[0] = _mm512_add_ps(sum[0], sum[i]);
  return _mm512_cvtss_f32(sum[0]);
}
#endif
inline float multiply_add_128(std::int64_t n, float a, float b) {
  return multiply_add_loop<16, 8>(n, a, b);
}

inline void keep_result(float value) { asm volatile("" : : "x"(value)); }

/// Returns the flop/s that `threads` threads reach together in a loop of so many flops per round:
/// the best of several runs.
inline double measure_rate(int threads, float (*loop)(std::int64_t, float, float),
                           double flops_a_round) {
  const std::int64_t rounds = 400000;
  double best = 0;
  for (int attempt = 0; attempt < 8; ++attempt) {
    std::vector<std::thread> others;
    const double begin = seconds_now();
    for (int t = 1; t < threads; ++t)
      others.emplace_back([&] { keep_result(loop(rounds, 0.999f, 0.001f)); });
    keep_result(loop(rounds, 0.999f, 0.001f));
    for (std::thread& other : others) other.join();
    best = std::max(
        best, threads * static_cast<double>(rounds) * flops_a_round / (seconds_now() - begin));
  }
  return best;
}

/// Measures float32 multiply-adds, two flops each.
inline double measure_peak_flops(int threads) {
  float (*loop)(std::int64_t, float, float) = multiply_add_128;
  double flops_a_round = 8.0 * 4 * 2;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) {
    loop = multiply_add_512;
    flops_a_round = 24.0 * 16 * 2;
  } else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    loop = multiply_add_256;
    flops_a_round = 12.0 * 8 * 2;
  }
#endif
  return measure_rate(threads, loop, flops_a_round);
}

/// Measures products of bfloat16 pairs, or returns 0 if the processor has no such instruction.
inline double measure_peak_bf16_flops(int threads) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512bf16"))
    return measure_rate(threads, bf16_pairs_512, 24.0 * 16 * 4);
#endif
  static_cast<void>(threads);
  return 0;
}

// Sums n numbers, n a multiple of 64: so little work that reading dominates the time.
template <class Vector>
__attribute__((always_inline)) inline std::uint64_t sum_of(const std::uint64_t* p, std::size_t n) {
  constexpr std::size_t lanes = sizeof(Vector) / sizeof(std::uint64_t);
  Vector a{}, b{}, c{}, d{};
  for (std::size_t i = 0; i < n; i += 4 * lanes) {
    const auto* v = reinterpret_cast<const Vector*>(p + i);
    a += v[0];
    b += v[1];
    c += v[2];
    d += v[3];
  }
  a += b + c + d;
  std::uint64_t sum = 0;
  for (std::size_t k = 0; k < lanes; ++k) sum += a[k];
  return sum;
}
typedef std::uint64_t Words128 __attribute__((vector_size(16), may_alias));
inline std::uint64_t sum_128(const std::uint64_t* p, std::size_t n) {
  return sum_of<Words128>(p, n);
}
#if defined(__x86_64__)
typedef std::uint64_t Words256 __attribute__((vector_size(32), may_alias));
__attribute__((target("avx2"))) inline std::uint64_t sum_256(const std::uint64_t* p,
                                                             std::size_t n) {
  return sum_of<Words256>(p, n);
}
#endif

/// Returns the bytes per second that `threads` threads read from memory, over a block larger than
/// any cache: the best of several runs.
inline double measure_read_bandwidth(int threads, std::size_t bytes = std::size_t{1} << 30) {
  const std::size_t n = bytes / sizeof(std::uint64_t);
  const std::size_t share = n / static_cast<std::size_t>(threads) / 64 * 64;
  std::uint64_t (*sum)(const std::uint64_t*, std::size_t) = sum_128;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) sum = sum_256;
#endif
  std::vector<std::uint64_t> memory(n, 1);
  std::vector<std::uint64_t> sums(static_cast<std::size_t>(threads));
  double best = 0;
  for (int attempt = 0; attempt < 4; ++attempt) {
    const auto read = [&](std::size_t t) { sums[t] = sum(memory.data() + t * share, share); };
    std::vector<std::thread> others;
    const double begin = seconds_now();
    for (std::size_t t = 1; t < static_cast<std::size_t>(threads); ++t)
      others.emplace_back([&read, t] { read(t); });
    read(0);
    for (std::thread& other : others) other.join();
    best = std::max(best, static_cast<double>(share) * threads * 8.0 / (seconds_now() - begin));
  }
  return std::accumulate(sums.begin(), sums.end(), std::uint64_t{0}) == 0 ? 0 : best;
}

}  // namespace bench
