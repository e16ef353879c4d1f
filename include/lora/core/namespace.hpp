// The namespace every header opens: `namespace LORA_NAMESPACE { ... }`, seen by users as `lora`.
#pragma once

// A switch that changes function bodies is part of an inline namespace's name, so that two
// translation units built differently (one with -fopenmp, one without) do not share inline
// functions by accident.
#if defined(_OPENMP)
#define LORA_NAMESPACE lora::inline with_openmp
#else
#define LORA_NAMESPACE lora::inline with_threads
#endif

#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error \
    "lora: -ffast-math (or -ffinite-math-only) breaks the checks for NaN and infinity; build without it"
#endif
