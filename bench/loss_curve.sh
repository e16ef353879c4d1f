#!/usr/bin/env bash
# Trains the same adapters on the same batches here and under PyTorch + PEFT, prints the largest difference
# of their losses and draws docs/loss_curve.svg. Creates a virtual environment in .venv-bench (torch, peft,
# transformers: about 1 GB) unless VENV names one.
#   bash bench/loss_curve.sh
set -euo pipefail
cd "$(dirname "$0")/.."
threads=${THREADS:-1} folder=results/loss_curve

. bench/compare_setup.sh
set_up loss_curve torch peft transformers

echo "PyTorch + PEFT (LoRA and DoRA, twice each) ..."
peer bench/torch_loss_curve.py "$folder" "$threads"
for name in lora dora; do
  LORA_NUM_THREADS=$threads ./build-bench/bench/loss_curve examples/data/base "$folder/$name/adapter" \
    "$folder/batches.safetensors" "$folder/training.json" > "$folder/$name/ours.jsonl"
done
"$venv/bin/python" bench/draw_loss_curve.py "$folder"
