#!/usr/bin/env bash
# Ids and decoded texts of this library against HuggingFace's tokenizers, on random texts of all
# scripts, for the pipelines of published language models. Needs a Python with `tokenizers` (PYTHON)
# and a compiler; no part of the default tests, which read 500 texts a family from
# tests/text/golden/tokenizers.json.
#   bash tests/tokenizers_check/run.sh [COUNT [NAME...]]     (COUNT 100000)
#   bash tests/tokenizers_check/run.sh --golden              writes tests/text/golden/tokenizers.json
set -euo pipefail
cd "$(dirname "$0")"
python=${PYTHON:-python3}
if [ "${1:-}" = --golden ]; then exec "$python" check.py --golden ../text/golden/tokenizers.json; fi
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
"${CXX:-g++}" -std=c++20 -O1 -DNDEBUG -I ../../include -isystem /usr/include/eigen3 encode.cpp \
  -o "$build/encode" -pthread
"$python" check.py "$build/encode" "${1:-100000}" "${@:2}"
