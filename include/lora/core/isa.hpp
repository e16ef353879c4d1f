// Selects the instruction set of the kernels: the fastest that the processor and the operating
// system support, or the one that was asked for.
#pragma once

#include <lora/core/error.hpp>

#include <array>
#include <atomic>
#include <cstdlib>
#include <string>
#include <string_view>

namespace lora {

/// The instruction sets that have kernels. Each includes the ones before it.
enum class Isa {
  portable,  ///< what the compiler's own flags allow: SSE2 on x86-64, NEON on AArch64
  avx2,      ///< AVX2 and FMA
  avx512,    ///< AVX-512 F, BW, DQ and VL
  /// AVX512-BF16 multiplies weights stored as bfloat16. It rounds the other operand to bfloat16
  /// (relative error up to 2⁻⁸), takes denormals as zero and sums in float32.
  avx512bf16,
};

/// All instruction sets, from the smallest to the largest.
inline constexpr std::array all_isas{Isa::portable, Isa::avx2, Isa::avx512, Isa::avx512bf16};

/// Returns "portable", "avx2", "avx512" or "avx512bf16", as LORA_ISA spells them.
inline const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx512bf16:
      return "avx512bf16";
    case Isa::avx512:
      return "avx512";
    case Isa::avx2:
      return "avx2";
    default:
      return "portable";
  }
}

/// Whether this processor and operating system support `isa`. Thread-safe.
inline bool isa_supported([[maybe_unused]] Isa isa) {
#if defined(__x86_64__) && defined(__GNUC__)
  if (isa == Isa::avx512bf16)
    return isa_supported(Isa::avx512) && __builtin_cpu_supports("avx512bf16");
  if (isa == Isa::avx512) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  }
  if (isa == Isa::avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  return isa == Isa::portable;
}

namespace detail {

inline bool is_amd() {
#if defined(__x86_64__) && defined(__GNUC__)
  return __builtin_cpu_is("amd");
#else
  return false;
#endif
}

/// Returns the fastest instruction set. AMD's processors do twice as many bfloat16 products per
/// cycle as float ones; Intel's Sapphire Rapids was measured to do half as many.
inline Isa best_isa() {
  Isa best = Isa::portable;
  for (const Isa isa : all_isas) {
    if (isa_supported(isa) && (isa != Isa::avx512bf16 || is_amd())) best = isa;
  }
  return best;
}

inline Isa checked_isa(Isa isa, const char* who) {
  if (!isa_supported(isa)) {
    throw ConfigError(std::string(who) + ": " + isa_name(isa) +
                      " is not supported by this processor; its default is " +
                      isa_name(best_isa()));
  }
  return isa;
}

/// Returns LORA_ISA if it is set, else best_isa().
/// Throws: ConfigError if LORA_ISA is unknown or not supported by the processor.
inline Isa default_isa() {
  const char* text = std::getenv("LORA_ISA");
  if (text == nullptr || *text == '\0') return best_isa();
  for (const Isa isa : all_isas) {
    if (std::string_view(text) == isa_name(isa)) return checked_isa(isa, "LORA_ISA");
  }
  throw ConfigError("LORA_ISA is \"" + std::string(text) +
                    "\", expected portable, avx2, avx512 or avx512bf16");
}

/// The choice of set_isa(), or -1 before it is called.
inline std::atomic<int>& pinned_isa() {
  static std::atomic<int> isa{-1};
  return isa;
}

}  // namespace detail

/// Returns the instruction set that products use: that of set_isa(), else LORA_ISA, else the
/// fastest of this processor.
/// Throws: ConfigError if LORA_ISA is unknown or not supported.
/// Threads: safe.
inline Isa isa() {
  const int pinned = detail::pinned_isa().load(std::memory_order_relaxed);
  if (pinned >= 0) return static_cast<Isa>(pinned);
  static const Isa at_start = detail::default_isa();
  return at_start;
}

/// Sets isa() for the whole process, so that a test or a report can pin it. Results of different
/// instruction sets differ by rounding.
/// Throws: ConfigError if `isa` is not supported.
/// Threads: safe.
inline void set_isa(Isa isa) {
  detail::pinned_isa().store(static_cast<int>(detail::checked_isa(isa, "set_isa")));
}

}  // namespace lora
