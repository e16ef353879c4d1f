// Counter-based random numbers: value i of a stream depends only on (seed, name, i), not on the
// order of calls or the number of threads. Words and uniform numbers are equal on every platform.
// Normal numbers use its log1p and cos, whose last bits may differ.
#pragma once

#include <lora/core/types.hpp>

#include <array>
#include <cmath>
#include <cstdint>
#include <string_view>

namespace lora {

/// Computes Philox 4x32 with 10 rounds: four random 32-bit words for a 128-bit counter and a 64-bit
/// key. A pure function that passes the paper's known-answer tests.
/// Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011.
inline std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> c, std::uint64_t key) {
  std::uint32_t k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c[0],
                        p1 = std::uint64_t{0xCD9E8D57u} * c[2];
    c = {static_cast<std::uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<std::uint32_t>(p1),
         static_cast<std::uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<std::uint32_t>(p0)};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

/// Mixes 64 bits so that each input bit flips each output bit with probability one half (the
/// finaliser of splitmix64).
constexpr std::uint64_t mix64(std::uint64_t z) {
  z += 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

/// Returns the 64-bit key of the stream `name` under `seed`: FNV-1a of the name, mixed with the
/// seed.
constexpr std::uint64_t stream_key(std::uint64_t seed, std::string_view name) {
  std::uint64_t h = 0xCBF29CE484222325u;
  for (const char ch : name) h = (h ^ static_cast<unsigned char>(ch)) * 0x100000001B3u;
  return mix64(h ^ mix64(seed));
}

/// The random numbers of one tensor, by position. A value type; several threads may share one.
class RandomStream {
 public:
  explicit RandomStream(std::uint64_t key) : key_(key) {}
  RandomStream(std::uint64_t seed, std::string_view name) : key_(stream_key(seed, name)) {}

  std::uint64_t key() const { return key_; }

  /// Returns words 4·block … 4·block+3.
  std::array<std::uint32_t, 4> block(std::uint64_t block) const {
    return philox4x32(
        {static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32), 0, 0}, key_);
  }
  /// Returns word i.
  std::uint32_t word(std::uint64_t i) const {
    return block(i / 4)[static_cast<std::size_t>(i % 4)];
  }

  /// Returns number i, uniform in [0, 1): 53 bits of words 2i and 2i+1.
  double uniform(std::uint64_t i) const {
    const auto w = block(i / 2);
    const std::size_t first = 2 * static_cast<std::size_t>(i % 2);
    const std::uint64_t bits = (std::uint64_t{w[first]} << 32) | w[first + 1];
    return static_cast<double>(bits >> 11) * 0x1.0p-53;
  }
  /// Returns number i, standard normal (the Box-Muller transform of one block).
  double normal(std::uint64_t i) const {
    const double u1 = uniform(2 * i), u2 = uniform(2 * i + 1);
    return std::sqrt(-2.0 * std::log1p(-u1)) * std::cos(6.283185307179586 * u2);
  }
  /// Returns number i, an integer uniform in [0, n) for n ≥ 1. The bias is below n / 2^53.
  Index below(std::uint64_t i, Index n) const {
    return static_cast<Index>(uniform(i) * static_cast<double>(n));
  }

 private:
  std::uint64_t key_;
};

/// Fills m with numbers uniform in [low, high), rounded to S, so high itself can occur. Element (i,
/// j) is number i·cols + j of the stream.
template <class S>
void fill_uniform(Matrix<S>& m, const RandomStream& stream, double low, double high) {
  for (Index i = 0; i < m.size(); ++i) {
    m.data()[i] =
        static_cast<S>(low + (high - low) * stream.uniform(static_cast<std::uint64_t>(i)));
  }
}

/// Fills m with normal numbers of mean 0. Element (i, j) is number i·cols + j of the stream.
template <class S>
void fill_normal(Matrix<S>& m, const RandomStream& stream, double standard_deviation) {
  for (Index i = 0; i < m.size(); ++i) {
    m.data()[i] = static_cast<S>(standard_deviation * stream.normal(static_cast<std::uint64_t>(i)));
  }
}

}  // namespace lora
