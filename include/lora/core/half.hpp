// bfloat16 and IEEE half as storage formats: widening is exact, narrowing rounds to nearest even.
// No sum is made in them.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace lora {

/// Whether x is neither NaN nor, as a float32, infinite.
inline bool fits_float32(double x) {
  return std::abs(x) <= static_cast<double>(std::numeric_limits<float>::max());
}

/// The format of a 16-bit float.
enum class HalfFormat {
  bfloat16,  ///< the upper half of a float
  float16,   ///< IEEE 754 binary16
};

/// Converts a bfloat16 to float exactly.
inline float bf16_to_float(std::uint16_t h) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(h) << 16);
}

/// Rounds a float to the nearest bfloat16, ties to even. Overflow gives infinity; a NaN stays a
/// (quiet) NaN.
inline std::uint16_t float_to_bf16(float f) {
  const std::uint32_t u = std::bit_cast<std::uint32_t>(f);
  if ((u & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<std::uint16_t>((u >> 16) | 0x40u);
  return static_cast<std::uint16_t>((u + 0x7FFFu + ((u >> 16) & 1u)) >> 16);
}

/// Converts an IEEE half to float exactly, subnormals included.
inline float f16_to_float(std::uint16_t h) {
  const std::uint32_t sign = static_cast<std::uint32_t>(h & 0x8000u) << 16;
  const std::uint32_t exponent = (h >> 10) & 0x1Fu, fraction = h & 0x3FFu;
  if (exponent == 0x1F) return std::bit_cast<float>(sign | 0x7F800000u | (fraction << 13));
  if (exponent != 0)
    return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (fraction << 13));
  const float magnitude = static_cast<float>(fraction) * 0x1.0p-24f;
  return sign != 0 ? -magnitude : magnitude;
}

/// Rounds a float to the nearest IEEE half, ties to even. Overflow gives infinity; a NaN stays a
/// (quiet) NaN.
inline std::uint16_t float_to_f16(float f) {
  const std::uint32_t u = std::bit_cast<std::uint32_t>(f);
  const std::uint16_t sign = static_cast<std::uint16_t>((u >> 16) & 0x8000u);
  const std::uint32_t a = u & 0x7FFFFFFFu;
  if (a > 0x7F800000u) return static_cast<std::uint16_t>(sign | 0x7E00u | ((a >> 13) & 0x3FFu));
  if (a >= 0x477FF000u) return static_cast<std::uint16_t>(sign | 0x7C00u);  // rounds past 65504
  if (a < 0x38800000u) {
    // Below 2^-14 halves are multiples of 2^-24; this addition rounds to the nearest, ties to even.
    const float shifted = std::bit_cast<float>(a) + 0.5f;
    return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) & 0x7FFu));
  }
  const std::uint32_t rounded = a + 0xFFFu + ((a >> 13) & 1u);
  return static_cast<std::uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

}  // namespace lora
