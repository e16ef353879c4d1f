#!/usr/bin/env bash
# Builds and runs the main job: a language model is fine-tuned with LoRA on a file of instructions, and answers before and
# after.
#   bash examples/run.sh [--short]         the small bilingual Llama of examples/data on our own records, into results/demo;
#                                          --short: two epochs in place of five
#   bash examples/run.sh --model DIR --data FILE --output OUT [options of finetune, see --help]       yours
#   bash examples/run.sh generate|score|lora_tool OPTIONS   another program, see --help
#   bash examples/run.sh digits [OPTIONS]                   handwritten digits
# Paths are relative to the current folder.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

. "$root/cmake/install_packages.sh"
install_packages g++ cmake make libeigen3-dev nlohmann-json3-dev libcli11-dev zlib1g-dev

job=finetune
case "${1:-}" in
  digits) job=adapt_digits; shift ;;
  generate | score | lora_tool) job=$1; shift ;;
esac
if [ "$job" = finetune ] && { [ $# -eq 0 ] || [ "$*" = --short ]; }; then
  cd "$root"
  set -- --config examples/data/finetune.json --overwrite-output-dir ${1:+--num-train-epochs 2}
fi
for argument in "$@"; do
  [ "$argument" != --short ] || { echo "run.sh: --short goes with no other argument" >&2; exit 2; }
done

build=$root/build  # where the tests were built, the program is there already
if [ ! -x "$build/examples/$job" ]; then
  build=$root/build-examples
  [ -x "$build/examples/$job" ] || echo "Building $job (a minute or two) ..." >&2
  cmake -S "$root" --preset default -DLORA_BUILD_TESTS=OFF -DLORA_BUILD_BENCH=OFF -B "$build" >/dev/null
fi
cmake --build "$build" -j "$(nproc)" --target "$job" >/dev/null
exec "$build/examples/$job" "$@"
