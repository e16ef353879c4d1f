#!/usr/bin/env bash
# Wide instructions stand only in the kernels that are chosen at run time: anywhere else in a program
# that is built for every processor they would stop it on one that lacks them.
#   wide_instructions_test.sh OBJDUMP PROGRAM...
set -euo pipefail
objdump=$1
shift
for program; do
  "$objdump" -d --no-show-raw-insn -C "$program" | awk -v program="$program" '
    /^[0-9a-f]+ <.*>:$/ { name = $0; kernel = name ~ /<([a-z]+ )?lora::[a-z_:]*kernels::/ }
    /%[yz]mm/ { if (kernel) inside++; else if (!(name in outside)) { outside[name]; print program ": " name } }
    END {
      for (name in outside) exit 1
      if (inside == 0) { print program ": no wide instruction at all; nothing was looked at"; exit 1 }
      print program ": " inside " wide instructions, all in kernels"
    }'
done
