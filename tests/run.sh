#!/usr/bin/env bash
# Builds and runs every test; installs what is missing. Arguments go to ctest: bash tests/run.sh -R linear
# PRESET=asan-ubsan or PRESET=clang chooses another build. With CI=true a skipped test that may_skip.txt does not list is a
# failure.
set -euo pipefail
[ -z "${LORA_SHARED_DIR:-}" ] || LORA_SHARED_DIR=$(realpath -m "$LORA_SHARED_DIR")
cd "$(dirname "$0")/.."
preset=${PRESET:-default}

# A second set of golden numbers and other data, where they are.
if [ -z "${LORA_SHARED_DIR+set}" ] && [ -d ../shared ]; then LORA_SHARED_DIR=$(realpath ../shared); fi
export LORA_SHARED_DIR="${LORA_SHARED_DIR:-}"

. cmake/install_packages.sh
packages=(g++ cmake make libeigen3-dev nlohmann-json3-dev libgtest-dev libbenchmark-dev libcli11-dev zlib1g-dev)
[ "$preset" = clang ] && packages+=(clang)
install_packages "${packages[@]}"

# Benchmarks take minutes to build; LORA_BUILD_BENCH=ON builds and tries them too.
cmake --preset "$preset" -DLORA_BUILD_BENCH="${LORA_BUILD_BENCH:-OFF}" >/dev/null
cmake --build --preset "$preset" -j "$(nproc)"
if [ "${CI:-}" != true ]; then
  exec ctest --preset "$preset" -j "$(nproc)" "$@"
fi
results=$(mktemp)
trap 'rm -f "$results"' EXIT
failed=0
ctest --preset "$preset" -j "$(nproc)" --output-junit "$results" "$@" || failed=$?
bash tests/skipped.sh "$results" || failed=1
exit "$failed"
