#!/usr/bin/env bash
# Builds and runs the main job: a language model is fine-tuned with LoRA on a file of instructions, and answers before and
# after. Without arguments it is the small bilingual Llama of examples/data on our own records; with
#   bash examples/run.sh --model DIR --data FILE [options of finetune, see --help]
# it is yours. `bash examples/run.sh digits [options]` runs the other example, handwritten digits.
set -euo pipefail
cd "$(dirname "$0")/.."

. cmake/install_packages.sh
install_packages g++ cmake make libeigen3-dev nlohmann-json3-dev libcli11-dev zlib1g-dev

job=finetune
if [ "${1:-}" = digits ]; then job=adapt_digits; shift; fi
echo "Building (the first time takes a minute or two) ..."
build=build  # where the tests were built, the program is there already
if [ ! -x "$build/examples/$job" ]; then
  build=build-examples
  cmake --preset default -DLORA_BUILD_TESTS=OFF -DLORA_BUILD_BENCH=OFF -B "$build" >/dev/null
fi
cmake --build "$build" -j "$(nproc)" --target "$job" >/dev/null
if [ "$job" = finetune ]; then
  short=
  case " $* " in *" --short "*) short=1 ;; esac
  if [ $# -eq 0 ] || [ -n "$short" ]; then
    set -- --config examples/data/finetune.json --overwrite-output-dir ${short:+--num-train-epochs 2}
  fi
fi
exec "./$build/examples/$job" "$@"
