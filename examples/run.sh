#!/usr/bin/env bash
# Builds and runs the main job: a network learns handwritten digits, is frozen, and is adapted with LoRA to a shifted task.
# Without arguments it draws its own digits; arguments go to the program (bash examples/run.sh --help lists them).
set -euo pipefail
cd "$(dirname "$0")/.."

. cmake/install_packages.sh
install_packages g++ cmake make libeigen3-dev nlohmann-json3-dev libcli11-dev zlib1g-dev

echo "Building (the first time takes about a minute) ..."
cmake --preset default -DLORA_BUILD_TESTS=OFF -DLORA_BUILD_BENCH=OFF -B build-examples >/dev/null
cmake --build build-examples -j "$(nproc)" --target adapt_digits >/dev/null
./build-examples/examples/adapt_digits "$@"
