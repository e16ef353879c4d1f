#!/usr/bin/env bash
# Benchmarks one adapted layer over rank, prints tokens per second as a table and draws them:
# results/lora_linear.json, results/rank.svg. Both show how much the machine's speed drifted meanwhile.
#   bash bench/run.sh            the rank sweep at 2048 x 2048, at 16, 64 and 512 tokens
#   bash bench/run.sh --all      every width, number of tokens and rank (about an hour)
# LORA_NUM_THREADS sets the number of threads. Further arguments go to lora_linear_bench.
set -euo pipefail
cd "$(dirname "$0")/.."

. cmake/install_packages.sh
install_packages g++ cmake make libeigen3-dev nlohmann-json3-dev libbenchmark-dev

echo "Building (the first time takes a minute or two) ..."
cmake --preset bench >/dev/null
cmake --build --preset bench -j "$(nproc)" --target lora_linear_bench rank_chart >/dev/null
mkdir -p results
filter='lora_linear/(forward_backward|naive|frozen)/width:2048/tokens:(16|64|512)/'
[ "${1:-}" = --all ] && { filter='.*'; shift; }
echo "Measuring (some minutes; --all about an hour) ..."
# The program prints its numbers for other programs; the table below is made from them. Exit status 2 says that the
# machine's speed changed, as the table and the chart do.
code=0
./build-bench/bench/lora_linear_bench --benchmark_filter="$filter" \
  --benchmark_repetitions=3 --benchmark_enable_random_interleaving=true --benchmark_min_time=0.05 \
  --benchmark_out=results/lora_linear.json --benchmark_out_format=json --peaks=results/peaks.json "$@" \
  >/dev/null 2>results/lora_linear.log || code=$?
case $code in
  0 | 2) ;;
  *) cat results/lora_linear.log >&2; echo "lora_linear_bench failed (exit status $code)" >&2; exit 1 ;;
esac
./build-bench/bench/rank_chart results/lora_linear.json results/rank.svg results/peaks.json
