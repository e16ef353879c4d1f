#!/usr/bin/env bash
# Benchmarks one adapted layer over rank and draws rank against throughput: results/lora_linear.json, results/rank.svg.
#   bash bench/run.sh            the rank sweep at 2048 x 2048, and the adapter's cost at 512 tokens
#   bash bench/run.sh --all      every width, number of tokens and rank (about an hour)
# LORA_NUM_THREADS sets the number of threads.
set -euo pipefail
cd "$(dirname "$0")/.."

. cmake/install_packages.sh
install_packages g++ cmake make libeigen3-dev nlohmann-json3-dev libbenchmark-dev

cmake --preset bench >/dev/null
cmake --build --preset bench -j "$(nproc)" >/dev/null
mkdir -p results
filter='lora_linear/(forward_backward|naive|frozen)/width:2048/tokens:(16|64|512)/'
[ "${1:-}" = --all ] && { filter='.*'; shift; }
./build-bench/bench/lora_linear_bench --benchmark_filter="$filter" \
  --benchmark_repetitions=3 --benchmark_enable_random_interleaving=true --benchmark_min_time=0.05 \
  --benchmark_out=results/lora_linear.json --benchmark_out_format=json --benchmark_display_aggregates_only=true "$@"
./build-bench/bench/rank_chart results/lora_linear.json results/rank.svg
