// Prints throughput over rank from the JSON of lora_linear_bench as a table, and draws it.
//   rank_chart results/lora_linear.json results/rank.svg [results/peaks.json]
#include "support/rank_report.hpp"

#include <lora/io/atomic_file.hpp>

#include <cstdio>

#include "../tools/support/output_path.hpp"

namespace {

lora::Json read_json(const char* path) {
  const std::vector<std::byte> bytes = lora::read_file(path, std::uint64_t{1} << 28);
  return lora::parse_json(lora::as_text(bytes), path);
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 3 && argc != 4) {
    std::fprintf(stderr, "usage: rank_chart REPORT.json CHART.svg [PEAKS.json]\n");
    return 2;
  }
  tools::InputPaths inputs{argv[1]};
  if (argc == 4) inputs.emplace_back(argv[3]);
  tools::refuse_input_as_output({argv[2]}, inputs);
  const bench::RankReport report =
      bench::read_rank_report(read_json(argv[1]), argc == 4 ? read_json(argv[3]) : lora::Json());
  std::fputs(bench::rank_table(report).c_str(), stdout);
  lora::atomic_write(argv[2], tools::to_svg(bench::rank_chart(report)));
  std::printf("chart: %s\n", argv[2]);
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return 0;
  std::fprintf(stderr, "rank_chart: standard output: could not be written to the end\n");
  return 1;
} catch (const std::exception& error) {
  std::fprintf(stderr, "rank_chart: %s\n", error.what());
  return 1;
}
