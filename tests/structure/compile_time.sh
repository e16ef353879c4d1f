#!/usr/bin/env bash
# What the umbrella header costs a program that includes it and uses nothing: seconds of the
# compiler's own time (user), least of several runs taken in turn, beside <Eigen/Core> alone. Not a
# test: a time on a busy machine proves nothing. compile_memory_test holds the compiler's memory.
#   CXX=clang++ RUNS=5 bash tests/structure/compile_time.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
compiler=${CXX:-g++}
eigen=${EIGEN3_INCLUDE_DIR:-/usr/include/eigen3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

seconds() {  # seconds HEADER
  echo "#include <$1>" > "$work/one.cpp"
  TIMEFORMAT=%U
  { time "$compiler" -std=c++20 -O2 -c -Iinclude -isystem "$eigen" "$work/one.cpp" \
      -o "$work/one.o"; } 2>&1
}
for ((run = 0; run < ${RUNS:-8}; run++)); do
  seconds Eigen/Core >> "$work/eigen"
  seconds lora/lora.hpp >> "$work/lora"
done
sort -n "$work/eigen" | head -1 > "$work/least"
sort -n "$work/lora" | head -1 >> "$work/least"
awk -v compiler="$("$compiler" --version | head -1)" '
  NR == 1 { eigen = $1 }
  NR == 2 { printf "%s\nEigen/Core     %.2f s\nlora/lora.hpp  %.2f s\nratio          %.2f\n",
            compiler, eigen, $1, $1 / eigen }' "$work/least"
