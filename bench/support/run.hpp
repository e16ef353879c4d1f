// The main of a benchmark program: the machine's peaks measured before and after in the same
// process, as context for the figures and as the condition for believing them.
#pragma once

#include <lora/core/isa.hpp>
#include <lora/core/parallel.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <string>

#include "support/peak.hpp"

namespace bench {

/// What the figures are shares of, by all threads: multiply-adds in float32, products of bfloat16
/// pairs, and memory read.
struct Peaks {
  double flops = 0;       ///< a second
  double bf16_flops = 0;  ///< of products of bfloat16 pairs; 0 where there are none
  double bytes_read = 0;  ///< a second, from memory; 0 unless it was asked for
};
inline Peaks& peaks() {
  static Peaks measured;
  return measured;
}

inline std::string processor_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "unknown processor";
}

/// Runs what `register_all` registers. The exit code is 2 when a peak changed by more than 10 %
/// meanwhile: another process shared the cores, and the figures are not to be believed.
template <class Register>
int run(int argc, char** argv, Register register_all, bool memory = false) {
  const bool lists = std::any_of(argv, argv + argc, [](const char* text) {
    return std::string(text).rfind("--benchmark_list_tests", 0) == 0;
  });
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  register_all();
  if (lists) {
    benchmark::RunSpecifiedBenchmarks();
    return 0;
  }
  const int threads = lora::num_threads();
  peaks().flops = measure_peak_flops(threads);
  peaks().bf16_flops = measure_peak_bf16_flops(threads);
  if (memory) peaks().bytes_read = measure_read_bandwidth(threads);
  benchmark::AddCustomContext("processor", processor_name());
  benchmark::AddCustomContext("isa", lora::isa_name(lora::isa()));
  benchmark::AddCustomContext("threads", std::to_string(threads));
  benchmark::AddCustomContext("peak_gflops", std::to_string(peaks().flops * 1e-9));
  benchmark::AddCustomContext("peak_bf16_gflops", std::to_string(peaks().bf16_flops * 1e-9));
  if (memory) benchmark::AddCustomContext("read_gbytes", std::to_string(peaks().bytes_read * 1e-9));
  benchmark::RunSpecifiedBenchmarks();
  bool steady = true;
  const auto compare = [&](const char* what, double before, double after, const char* unit) {
    std::fprintf(stderr, "%s before and after: %.1f and %.1f %s on %d threads\n", what,
                 before * 1e-9, after * 1e-9, unit, threads);
    steady = steady && after >= 0.9 * before && after <= 1.1 * before;
  };
  compare("peak", peaks().flops, measure_peak_flops(threads), "GF/s");
  if (memory) compare("memory read", peaks().bytes_read, measure_read_bandwidth(threads), "GB/s");
  if (steady) return 0;
  std::fprintf(stderr, "they differ by more than 10 %%: these figures are not to be believed\n");
  return 2;
}

}  // namespace bench
