// Whether the elements of a file's tensor are finite, without decoding them.
#pragma once

#include <lora/core/parallel.hpp>
#include <lora/core/types.hpp>
#include <lora/io/dtype.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace lora::detail {

/// Whether no element is infinite or NaN. The exponents of these are all ones.
template <class Bits>
bool all_finite_bits(std::span<const std::byte> bytes, Bits exponent) {
  std::atomic<bool> bad{false};
  // A constant number of elements lets gcc -O2 vectorise the loop.
  constexpr std::size_t block = 256;
  constexpr Index grain = (1 << 18) / (block * sizeof(Bits));
  // Adding the lowest bit of the exponent carries into the sign exactly when all its bits are 1.
  const Bits lowest = exponent & static_cast<Bits>(-exponent);
  const Bits sign = static_cast<Bits>(exponent + lowest);
  const auto any_bad = [&](const std::byte* from, std::size_t count) {
    Bits some[block] = {}, found = 0;
    if (count != 0) std::memcpy(some, from, count * sizeof(Bits));  // of nothing, from is null
    for (std::size_t i = 0; i < block; ++i)
      found = static_cast<Bits>(found | ((some[i] & exponent) + lowest));
    return (found & sign) != 0;
  };
  const std::size_t count = bytes.size() / sizeof(Bits), whole = count / block;
  parallel_for(static_cast<Index>(whole), grain, [&](Index begin, Index end) {
    for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i) {
      if (any_bad(bytes.data() + i * block * sizeof(Bits), block)) bad = true;
    }
  });
  return !bad && !any_bad(bytes.data() + whole * block * sizeof(Bits), count % block);
}
/// The same for elements of F16, BF16, F32 or F64.
inline bool all_finite(DType dtype, std::span<const std::byte> bytes) {
  switch (dtype) {
    case DType::F16:
      return all_finite_bits<std::uint16_t>(bytes, 0x7C00);
    case DType::BF16:
      return all_finite_bits<std::uint16_t>(bytes, 0x7F80);
    case DType::F32:
      return all_finite_bits<std::uint32_t>(bytes, 0x7F800000);
    default:
      return all_finite_bits<std::uint64_t>(bytes, 0x7FF0000000000000);
  }
}

}  // namespace lora::detail
