#!/usr/bin/env bash
# run.sh [BASE ADAPTER ...]: Python's gguf package (pip install gguf) reads the adapters that we write; see read_back.py.
# PYTHON=python3, CXX=c++. Exit 77: skipped, because the package or a header is missing.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
"$python" -c 'import gguf' 2>/dev/null || { echo "skipped: $python has no module gguf; pip install gguf"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
eigen=$(pkg-config --cflags-only-I eigen3 2>/dev/null || echo -I/usr/include/eigen3)
${CXX:-c++} -std=c++20 -O1 -I "$here/../../include" $eigen "$here/to_gguf.cpp" -o "$work/to_gguf" -pthread
"$python" "$here/read_back.py" "$work/to_gguf" "$@"
