// The main function of a benchmark program: measures the machine's peaks before and after in the
// same process, as context for the figures and to check that they are reliable.
#pragma once

#include <lora/core/isa.hpp>
#include <lora/core/number_text.hpp>
#include <lora/core/parallel.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <fstream>
#include <iostream>
#include <string>
#include <string_view>

#include "support/peak.hpp"

namespace bench {

/// The peaks to which figures are relative, on all threads: multiply-adds in float32, products of
/// bfloat16 pairs, and memory read.
struct Peaks {
  double flops = 0;       ///< per second
  double bf16_flops = 0;  ///< products of bfloat16 pairs; 0 if there are none
  double bytes_read = 0;  ///< per second, from memory; 0 unless requested
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

/// Removes "--peaks=FILE" from the command line and returns FILE, or "".
inline std::string take_peaks_option(int& argc, char** argv) {
  constexpr std::string_view option = "--peaks=";
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (!word.starts_with(option)) continue;
    std::copy(argv + i + 1, argv + argc, argv + i);
    --argc;
    return std::string(word.substr(option.size()));
  }
  return "";
}

/// Runs what `register_all` registers. The exit code is 2 if a peak changed by more than 10 %
/// meanwhile: another process shared the cores, and the figures are unreliable. Both peaks of
/// multiply-adds go to the file of --peaks=FILE, for rank_chart.
template <class Register>
int run(int argc, char** argv, Register register_all, bool memory = false) {
  const bool lists = std::any_of(argv, argv + argc, [](const char* text) {
    return std::string(text).rfind("--benchmark_list_tests", 0) == 0;
  });
  const std::string peaks_file = take_peaks_option(argc, argv);
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
  benchmark::AddCustomContext("peak_gflops", lora::fixed_text(peaks().flops * 1e-9, 3));
  benchmark::AddCustomContext("peak_bf16_gflops", lora::fixed_text(peaks().bf16_flops * 1e-9, 3));
  if (memory)
    benchmark::AddCustomContext("read_gbytes", lora::fixed_text(peaks().bytes_read * 1e-9, 3));
  benchmark::RunSpecifiedBenchmarks();
  bool steady = true;
  const auto compare = [&](const char* what, double before, double after, const char* unit) {
    std::cerr << what << " before and after: " << lora::fixed_text(before * 1e-9, 1) << " and "
              << lora::fixed_text(after * 1e-9, 1) << " " << unit << " on " << threads
              << " threads\n";
    steady = steady && after >= 0.9 * before && after <= 1.1 * before;
  };
  const double flops_after = measure_peak_flops(threads);
  if (!peaks_file.empty()) {
    std::ofstream file(peaks_file);
    file << "{\"before\": " << lora::fixed_text(peaks().flops * 1e-9, 3)
         << ", \"after\": " << lora::fixed_text(flops_after * 1e-9, 3) << "}\n";
    if (!file.flush()) {
      std::cerr << peaks_file << ": cannot be written\n";
      return 1;
    }
  }
  compare("peak", peaks().flops, flops_after, "GF/s");
  if (memory) compare("memory read", peaks().bytes_read, measure_read_bandwidth(threads), "GB/s");
  if (steady) return 0;
  std::cerr << "they differ by more than 10 %: these figures are not to be believed\n";
  return 2;
}

}  // namespace bench
