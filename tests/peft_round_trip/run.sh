#!/usr/bin/env bash
# Adapters of every kind between PEFT and this library, both ways: PEFT writes, we read, compute and
# write again; PEFT reads that strictly and computes the same; and PEFT reads what we wrote afresh.
#
#   tests/peft_round_trip/run.sh [VENV]
#
# VENV is a Python virtual environment, made when it is not there; without it a temporary one is
# made and removed (a download of about 300 MB). Not part of ctest.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
venv=${1:-$work/venv}

if [ ! -x "$venv/bin/python" ]; then
  python3 -m venv "$venv"
fi
if ! "$venv/bin/python" -c "import torch, transformers, peft, safetensors" 2>/dev/null; then
  "$venv/bin/pip" install --quiet torch
  "$venv/bin/pip" install --quiet transformers peft safetensors
fi
eigen=$(pkg-config --cflags-only-I eigen3 2>/dev/null || echo -I/usr/include/eigen3)
"${CXX:-c++}" -std=c++20 -O1 -Wall -Wextra -I "$here/../../include" ${eigen/-I/-isystem } \
  "$here/round_trip.cpp" -pthread -o "$work/round_trip"
"$venv/bin/python" "$here/round_trip.py" "$work/round_trip" "$work"
