// Which instruction set the kernels use: the best that processor and operating system offer, or the
// one that was asked for.
#pragma once

#include <lora/core/error.hpp>

#include <array>
#include <atomic>
#include <cstdlib>
#include <string>
#include <string_view>

namespace lora {

/// The instruction sets that there are kernels for, each including the ones before it.
enum class Isa {
  portable,  ///< what the compiler's own flags allow: SSE2 on x86-64, NEON on AArch64
  avx2,      ///< AVX2 and FMA
  avx512,    ///< AVX-512 F, BW, DQ and VL
  /// AVX512-BF16: weights that are stored as bfloat16 are multiplied in it. The other operand is
  /// rounded to bfloat16 (relative error up to 2⁻⁸) and denormal numbers count as zero; sums are
  /// float32.
  avx512bf16,
};

/// All of them, the least first.
inline constexpr std::array all_isas{Isa::portable, Isa::avx2, Isa::avx512, Isa::avx512bf16};

/// "portable", "avx2", "avx512" or "avx512bf16", as in the environment's LORA_ISA.
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

/// Whether this processor and operating system can run it. Thread-safe.
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

/// The fastest one. AMD's processors make twice as many bfloat16 products in a cycle as float ones;
/// of Intel's, Sapphire Rapids was measured to make half as many.
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

/// LORA_ISA when it is set, else the best. Throws ConfigError for a name that is unknown or more
/// than the processor has.
inline Isa default_isa() {
  const char* text = std::getenv("LORA_ISA");
  if (text == nullptr || *text == '\0') return best_isa();
  for (const Isa isa : all_isas) {
    if (std::string_view(text) == isa_name(isa)) return checked_isa(isa, "LORA_ISA");
  }
  throw ConfigError("LORA_ISA is \"" + std::string(text) +
                    "\", expected portable, avx2, avx512 or avx512bf16");
}

/// What set_isa chose; -1: nothing yet.
inline std::atomic<int>& pinned_isa() {
  static std::atomic<int> isa{-1};
  return isa;
}

}  // namespace detail

/// The instruction set that products use. At the start: the environment's LORA_ISA, else the
/// fastest that this processor has. Throws ConfigError when LORA_ISA cannot be met. Thread-safe.
inline Isa isa() {
  const int pinned = detail::pinned_isa().load(std::memory_order_relaxed);
  if (pinned >= 0) return static_cast<Isa>(pinned);
  static const Isa at_start = detail::default_isa();
  return at_start;
}

/// Sets isa() for the whole process, so that a test or a report can pin it. Results differ between
/// instruction sets by rounding. Throws ConfigError unless it is supported. Thread-safe.
inline void set_isa(Isa isa) {
  detail::pinned_isa().store(static_cast<int>(detail::checked_isa(isa, "set_isa")));
}

}  // namespace lora
