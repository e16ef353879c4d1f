#!/usr/bin/env bash
# Builds and runs the main example: fine-tunes a language model with LoRA on an instruction file, and shows answers before and after.
#   bash examples/run.sh [--short]         the small bilingual Llama of examples/data on our own records, into results/demo;
#                                          --short: two epochs instead of five
#   bash examples/run.sh --model DIR --data FILE --output OUT [options of finetune, see --help]       your own model and data
#   bash examples/run.sh COMMAND OPTIONS   another command of the program lora: generate, data, merge ...; help lists them
#   bash examples/run.sh digits [OPTIONS]  handwritten digits
# Paths are relative to the current folder.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

. "$root/cmake/install_packages.sh"
install_packages g++ cmake make libeigen3-dev nlohmann-json3-dev libcli11-dev zlib1g-dev

job=(tools/lora finetune) target=lora_program
case "${1:-}" in
  digits) job=(examples/adapt_digits) target=adapt_digits; shift ;;
  [a-z]*) job=(tools/lora) ;;
  "" | --short)
    [ $# -le 1 ] || { echo "run.sh: --short goes with no other argument" >&2; exit 2; }
    cd "$root"
    set -- --config examples/data/finetune.json --overwrite-output-dir ${1:+--num-train-epochs 2} ;;
esac
for argument in "$@"; do
  [ "$argument" != --short ] || [ "$target" = adapt_digits ] ||
    { echo "run.sh: --short goes with no other argument" >&2; exit 2; }
done

build=$root/build  # the test build contains the program
if [ ! -x "$build/${job[0]}" ]; then
  build=$root/build-examples
  [ -x "$build/${job[0]}" ] || echo "Building $target (a minute or two) ..." >&2
  cmake -S "$root" --preset default -DLORA_BUILD_TESTS=OFF -DLORA_BUILD_BENCH=OFF -B "$build" >/dev/null
fi
cmake --build "$build" -j "$(nproc)" --target "$target" >/dev/null
exec "$build/${job[0]}" "${job[@]:1}" "$@"
