#!/usr/bin/env bash
# Tokenizes a text here and with HuggingFace's tokenizers, in turn on one thread, least time of each.
# Creates a virtual environment in .venv-bench (tokenizers) unless VENV names one.
#   bash bench/compare_tokenizers.sh TEXT DIRECTORY...      (each with a tokenizer.json)
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,4p' "$0"; exit 1; }
text=$(realpath "$1")
shift
directories=()
for directory in "$@"; do directories+=("$(realpath "$directory")"); done
cd "$(dirname "$0")/.."
turns=${TURNS:-3}

. bench/compare_setup.sh
set_up tokenizer_bench tokenizers

ours() {  # ours DIRECTORY: the milliseconds at once and line by line
  local csv code=0
  csv=$(LORA_NUM_THREADS=1 ./build-bench/bench/tokenizer_bench --tokenizer "$1" --text "$text" \
    --benchmark_filter=encode --benchmark_format=csv 2> /dev/null) || code=$?
  [ "$code" = 0 ] || [ "$code" = 2 ] || return 1  # 2: the machine's peak changed meanwhile
  awk -F, '/^"tokenizer/ { printf "%s ", $3 }' <<< "$csv"
}
printf '%-40s %10s %10s %8s %10s %10s %8s\n' "$(wc -c < "$text") bytes; ms" \
  whole HF ratio lines HF ratio
for directory in "${directories[@]}"; do
  our_whole=inf our_lines=inf hf_whole=inf hf_lines=inf
  for ((turn = 0; turn < turns; turn++)); do
    result=$(ours "$directory") || { echo "tokenizer_bench failed on $directory" >&2; exit 1; }
    read -r a b <<< "$result"
    result=$(peer bench/hf_tokenizer.py "$directory" "$text")
    read -r c d _ _ <<< "$result"
    expect_numbers "$directory, ours" "$a" "$b"
    expect_numbers "$directory, HuggingFace" "$c" "$d"
    our_whole=$(least "$our_whole" "$a") our_lines=$(least "$our_lines" "$b")
    hf_whole=$(least "$hf_whole" "$c") hf_lines=$(least "$hf_lines" "$d")
  done
  awk -v n="${directory##*/}" -v a="$our_whole" -v b="$our_lines" -v c="$hf_whole" -v d="$hf_lines" \
    'BEGIN { printf "%-40s %10.1f %10.1f %7.1fx %10.1f %10.1f %7.1fx\n", n, a, c, c / a, b, d, d / b }'
done
