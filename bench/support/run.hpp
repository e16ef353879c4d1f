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

/// What the figures are shares of: multiply-adds in float32 and memory read, by all threads.
struct Peaks {
  double flops = 0;       ///< a second
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

/// Runs what `register_all` registers. The exit code is 2 when the peak changed by more than 10 %
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
  if (memory) peaks().bytes_read = measure_read_bandwidth(threads);
  benchmark::AddCustomContext("processor", processor_name());
  benchmark::AddCustomContext("isa", lora::isa_name(lora::isa()));
  benchmark::AddCustomContext("threads", std::to_string(threads));
  benchmark::AddCustomContext("peak_gflops", std::to_string(peaks().flops * 1e-9));
  if (memory) benchmark::AddCustomContext("read_gbytes", std::to_string(peaks().bytes_read * 1e-9));
  benchmark::RunSpecifiedBenchmarks();
  const double after = measure_peak_flops(threads);
  std::fprintf(stderr, "peak before and after: %.1f and %.1f GF/s on %d threads\n",
               peaks().flops * 1e-9, after * 1e-9, threads);
  if (memory) std::fprintf(stderr, "memory read: %.1f GB/s\n", peaks().bytes_read * 1e-9);
  if (after < 0.9 * peaks().flops || after > 1.1 * peaks().flops) {
    std::fprintf(stderr,
                 "the two differ by more than 10 %%: these figures are not to be believed\n");
    return 2;
  }
  return 0;
}

}  // namespace bench
