#!/usr/bin/env bash
# Runs a LoRA step (zero gradients, forward, backward, AdamW) here and under PyTorch + PEFT, in turn on the
# same machine, least time of each. Creates a virtual environment in .venv-bench (torch, peft,
# transformers: about 1 GB) unless VENV names one.
#   bash bench/compare_torch.sh                     width 2048, rank 16, 1 thread, float32
#   THREADS=2 DTYPE=bfloat16 TOKENS="16 512" bash bench/compare_torch.sh
#   VARIANT=dora TOKENS=512 bash bench/compare_torch.sh
set -euo pipefail
cd "$(dirname "$0")/.."
width=${WIDTH:-2048} rank=${RANK:-16} threads=${THREADS:-1} dtype=${DTYPE:-float32}
turns=${TURNS:-3}

. bench/compare_setup.sh
set_up lora_linear_bench torch peft transformers

case=step
variant=${VARIANT:-}
case=step${variant:+_$variant}
[ "$dtype" = bfloat16 ] && case+=_bf16
ours() {  # ours TOKENS: milliseconds, and the benchmark's exit code (2: the machine's peak changed meanwhile)
  local csv code=0
  csv=$(LORA_NUM_THREADS=$threads ./build-bench/bench/lora_linear_bench --benchmark_format=csv \
    --benchmark_filter="lora_linear/$case/width:$width/tokens:$1/rank:$rank/" 2> /dev/null) || code=$?
  echo "$(awk -F, '/^"lora_linear/ { print $3 }' <<< "$csv") $code"
}
theirs() {  # theirs TOKENS
  peer bench/torch_lora_linear.py "$width" "$rank" "$threads" "$dtype" "$1" ${variant:+"$variant"}
}
echo "$width x $width, rank $rank${variant:+, $variant}, $dtype, $threads thread(s), least of $turns turns"
printf '%8s %12s %12s %8s\n' tokens "ours, ms" "PyTorch, ms" ratio
for tokens in ${TOKENS:-1 2 4 8 16 64 128 512}; do
  least_ours=inf least_theirs=inf disturbed=0
  for ((turn = 0; turn < turns; turn++)); do
    read -r time code <<< "$(ours "$tokens")"
    case $code in
      0) ;;
      2) disturbed=$((disturbed + 1)) ;;
      *) echo "lora_linear_bench ended with exit code $code" >&2; exit 1 ;;
    esac
    other=$(theirs "$tokens")
    expect_numbers "$tokens tokens, ours" "$time"
    expect_numbers "$tokens tokens, PyTorch" "$other"
    least_ours=$(least "$least_ours" "$time")
    least_theirs=$(least "$least_theirs" "$other")
  done
  awk -v t="$tokens" -v a="$least_ours" -v b="$least_theirs" -v d="$disturbed" -v n="$turns" 'BEGIN {
    printf "%8d %12.3f %12.3f %8.2f", t, a, b, b / a
    if (d > 0) printf "   the peak changed in %d of %d turns", d, n
    print "" }'
done
