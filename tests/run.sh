#!/usr/bin/env bash
# Builds and runs every test; installs what is missing. Arguments go to ctest: bash tests/run.sh -R linear
# PRESET=asan-ubsan or PRESET=clang chooses another build.
set -euo pipefail
cd "$(dirname "$0")/.."
preset=${PRESET:-default}

. cmake/install_packages.sh
packages=(g++ cmake make libeigen3-dev nlohmann-json3-dev libgtest-dev libbenchmark-dev libcli11-dev zlib1g-dev)
[ "$preset" = clang ] && packages+=(clang)
install_packages "${packages[@]}"

# Benchmarks take minutes to build; LORA_BUILD_BENCH=ON builds and tries them too.
cmake --preset "$preset" -DLORA_BUILD_BENCH="${LORA_BUILD_BENCH:-OFF}" >/dev/null
cmake --build --preset "$preset" -j "$(nproc)"
ctest --preset "$preset" -j "$(nproc)" "$@"
