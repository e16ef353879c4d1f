#!/usr/bin/env bash
# Runs whole language models here and under PyTorch + PEFT, in turn on the same machine: least time of each,
# and the largest memory of each process. Creates a virtual environment in .venv-bench (torch, peft,
# transformers: about 1 GB) unless VENV names one.
#   bash bench/compare_models.sh                          every case below
#   CASES="step/llama_134M/f32/512" TURNS=5 bash bench/compare_models.sh
# A case is WHAT/MODEL/STORAGE/TOKENS as in language_model_bench: step, step_checkpointing, step_full,
# prompt, decode, decode_adapter; llama_134M, gpt2_124M, qwen_494M; f32, bf16.
set -euo pipefail
cd "$(dirname "$0")/.."
threads=${THREADS:-2} turns=${TURNS:-2}
cases=${CASES:-step/llama_134M/f32/512 step/llama_134M/bf16/512 step/llama_134M/f32/32
  step_checkpointing/llama_134M/f32/512 step_full/llama_134M/f32/512
  step/gpt2_124M/f32/128 step/gpt2_124M/f32/512 step/qwen_494M/f32/512 step/qwen_494M/bf16/512
  prompt/llama_134M/bf16/512 decode/llama_134M/bf16/1 decode_adapter/llama_134M/bf16/1
  decode/qwen_494M/bf16/1 decode_adapter/qwen_494M/bf16/1}

. bench/compare_setup.sh
set_up language_model_bench torch peft transformers

# Both print "milliseconds megabytes", ours the benchmark's exit code too (2: the machine's peak changed meanwhile).
ours() {  # ours WHAT MODEL STORAGE TOKENS
  local json code=0
  json=$(LORA_NUM_THREADS=$threads ./build-bench/bench/language_model_bench --benchmark_format=json \
    --benchmark_min_time=0.01 --benchmark_repetitions="$([ "${1%%_*}" = step ] && echo 4 || echo 40)" \
    --benchmark_filter="^language_model/$1/$2/$3/tokens:$4/real_time$" 2> /dev/null) || code=$?
  awk -F'[ ,]+' -v code="$code" '
    /"run_type": "iteration"/ { counts = 1 } /"run_type": "aggregate"/ { counts = 0 }
    counts && /"real_time"/ && (least == "" || $3 + 0 < least) { least = $3 + 0 }
    counts && /"peak_resident_mb"/ { memory = $3 + 0 }
    END { print least, memory, code }' <<< "$json"
}
theirs() {
  local dtype=float32
  [ "$3" = bf16 ] && dtype=bfloat16
  peer bench/torch_language_model.py "$1" "$2" "$dtype" "$4" "$threads"
}

echo "$threads thread(s), least of $turns turns"
printf '%-36s %11s %13s %7s %10s %12s %7s\n' case "ours, ms" "PyTorch, ms" ratio "ours, MB" "PyTorch, MB" share
for case in $cases; do
  IFS=/ read -r what model storage tokens <<< "$case"
  a=inf b=inf disturbed=0
  for ((turn = 0; turn < turns; turn++)); do
    read -r time_a memory_a code <<< "$(ours "$what" "$model" "$storage" "$tokens")"
    case $code in
      0) ;;
      2) disturbed=$((disturbed + 1)) ;;
      *) echo "$case: language_model_bench failed, or has no such benchmark" >&2; exit 1 ;;
    esac
    result=$(theirs "$what" "$model" "$storage" "$tokens")
    read -r time_b memory_b <<< "$result"
    expect_numbers "$case, ours" "$time_a" "$memory_a"
    expect_numbers "$case, PyTorch" "$time_b" "$memory_b"
    a=$(least "$a" "$time_a") b=$(least "$b" "$time_b")
  done
  awk -v c="$case" -v a="$a" -v b="$b" -v m="$memory_a" -v n="$memory_b" -v d="$disturbed" \
    -v all="$turns" 'BEGIN {
    printf "%-36s %11.2f %13.2f %7.2f %10.0f %12.0f %7.2f", c, a, b, b / a, m, n, m / n
    if (d > 0) printf "   the peak changed in %d of %d turns", d, all
    print "" }'
done
