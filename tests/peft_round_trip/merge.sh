#!/usr/bin/env bash
# Merges adapters that PEFT made over small models of every architecture, and compares what
# transformers and this library compute from the result with PEFT's adapted model; see merge.py.
#
#   tests/peft_round_trip/merge.sh LORA [PYTHON]
#
# LORA is the program (build/tools/lora). PYTHON has torch, transformers, peft and safetensors. Not
# part of ctest.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${2:-python3}" "$here/merge.py" "$1" "$work"
