#!/usr/bin/env bash
# run.sh [SECONDS=60] [TARGET...]: fuzzes the readers of untrusted files with clang's libFuzzer under the address and
# undefined-behaviour sanitizers, every target for that long, as many at once as there are processors. Fails on a crash, a
# leak, an input that takes longer than 10 s or memory past 1 GB, and leaves the input in WORK.
# RUNS=10000000 sets a number of executions in place of the time; WORK (default: build-fuzz) keeps programs and corpora.
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${1:-60}
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(safetensors adapter_config gguf hf_config tokenizer instruction_data \
  generation_config checkpoint_index trainer_state)
work=${WORK:-build-fuzz}

. cmake/install_packages.sh
install_packages clang libeigen3-dev nlohmann-json3-dev
if ! compgen -G "$(clang++ -print-resource-dir)/lib/linux/libclang_rt.fuzzer-*" >/dev/null; then
  install_packages "libclang-rt-$(clang++ -dumpversion | cut -d. -f1)-dev"
fi

mkdir -p "$work"
build() {  # build NAME FLAGS: compiled when a header or the source is newer
  if [ -n "$(find include tests/fuzz -newer "$work/$1" -name '*.?pp' -print -quit 2>/dev/null || echo all)" ]; then
    echo "building $1"
    clang++ -std=c++20 -O2 -g1 -fno-omit-frame-pointer -fno-sanitize-recover=all $2 -I include -isystem /usr/include/eigen3 \
      "tests/fuzz/$1.cpp" -o "$work/$1" -pthread
  fi
}
build make_seeds -fsanitize=address,undefined
"$work/make_seeds" "$work/seeds"
# Targets whose inputs are changed as JSON know the words of their format: tracing comparisons would find none, and weighing
# inputs by rare features takes longer than most executions.
changes_json() { grep -q json_mutator.hpp "tests/fuzz/$1_fuzz.cpp"; }
for target in "${targets[@]}"; do
  flags=-fsanitize=fuzzer,address,undefined
  changes_json "$target" && flags+=" -fno-sanitize-coverage=trace-cmp"
  build "${target}_fuzz" "$flags" &
done
for job in $(jobs -p); do wait "$job"; done

# Most of an execution would go into recording where memory came from.
export ASAN_OPTIONS=malloc_context_size=2:quarantine_size_mb=8${ASAN_OPTIONS:+:$ASAN_OPTIONS}
limit=-max_total_time=$seconds
[ -z "${RUNS:-}" ] || limit=-runs=$RUNS
fuzz() {
  local longest=2048
  [ "$1" = tokenizer ] && longest=8192  # all bytes are in a vocabulary
  local search=()
  changes_json "$1" && search=(-entropic=0 -mutate_depth=2)
  mkdir -p "$work/corpus/$1"
  "$work/$1_fuzz" "$limit" "${search[@]}" -max_len=$longest -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 \
    -artifact_prefix="$work/$1-" "$work/corpus/$1" "$work/seeds/$1" >"$work/$1.log" 2>&1 ||
    { echo "$1: FAILED, see $work/$1.log"; tail -n 40 "$work/$1.log"; return 1; }
  echo "$1: $(sed -n 's/^stat::number_of_executed_units: *//p' "$work/$1.log") executions, nothing found;" \
    "$(grep -o 'cov: [0-9]* ft: [0-9]* corp: [0-9]*' "$work/$1.log" | tail -n 1)"
}
failed=0 running=()
for target in "${targets[@]}"; do
  if [ ${#running[@]} -ge "$(nproc)" ]; then wait "${running[0]}" || failed=1; running=("${running[@]:1}"); fi
  fuzz "$target" & running+=($!)
done
for job in "${running[@]}"; do wait "$job" || failed=1; done
exit $failed
